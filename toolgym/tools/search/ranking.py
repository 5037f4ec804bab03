"""The exact best passages for a query, without adding up every posting.

Rare words are added up first. As soon as the words that are left cannot lift an unseen passage over
the k-th best one, only passages that were seen are looked up in their long lists (the idea of
MaxScore: Turtle and Flood 1995, "Query evaluation: strategies and optimizations"). What can still
be among the best is then scored in one fixed order and precision, so that the result is that of
adding up everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Found", "Postings", "Ranker"]

_SLACK = 1.0 - 1e-4  # far more than sums of float32 in different orders differ by
_LOOK_UP = 16  # postings that are added up in the time of looking up one passage
_PLAIN = 50_000  # postings that are added up sooner than anything is left out
_TINY = np.finfo(np.float32).tiny
_SCANNED = 4  # passages of the whole index that are compared in the time of one posting

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.intp]
Found = tuple[Numbers, Floats]
"""Passage numbers and their scores, best first: [hits] each."""


class Postings(NamedTuple):
    """The passages of one term of a query.

    Args:
        number: of the term.
        passages: that hold it, ascending: [postings] int32 or intp.
        gains: what it adds to their scores, for one occurrence in the query: [postings].
        times: its occurrences in the query.
        bound: at least the largest of ``gains * times``.
    """

    number: int
    passages: npt.NDArray[np.integer]
    gains: Floats
    times: int
    bound: float

    def once_more(self, same: Postings) -> Postings:
        """As it is when the term stands in the query once more."""
        return self._replace(times=self.times + 1, bound=self.bound + same.bound)

    def added(self) -> Floats:
        """What it adds to the scores of its passages: [postings]."""
        return self.gains if self.times == 1 else self.gains * self.gains.dtype.type(self.times)

    def added_to(self, passages: Numbers) -> Floats:
        """What it adds to the scores of some passages, 0 where it does not stand: [passages]."""
        where = self.passages.searchsorted(passages.astype(self.passages.dtype))
        found = self.passages.take(where, mode="clip") == passages
        gains = self.gains.take(where, mode="clip")
        gains *= found
        return gains if self.times == 1 else gains * gains.dtype.type(self.times)


class Ranker:
    """Ranks the passages of one index; for one thread at a time.

    Args:
        passages: how many there are.
        kind: of the scores: float32, or float64 where bm25s was told so.
    """

    def __init__(self, passages: int, kind: npt.DTypeLike = np.float32) -> None:
        # All zero between two queries: only what a query touched is set back.
        self._scores: Floats = np.zeros(passages, kind)

    def top(self, terms: Sequence[Postings], k: int) -> Found:
        """The k best passages with a positive score; equal ones in the order of the corpus.

        Args:
            terms: of the query, in the order in which scores are added up; none without postings.
            k: how many.
        """
        if not terms:
            return _nothing()
        if len(terms) == 1:
            return _best(terms[0].passages, terms[0].added(), k)
        postings = sum(map(_size, terms))
        if postings + len(self._scores) // _SCANNED < _PLAIN:
            return self._added_up(terms, k)
        passages = self._candidates(sorted(terms, key=_size), k)
        # Each passage is scored anew, for the sums so far depend on the order of evaluation.
        scores = terms[0].added_to(passages)
        for term in terms[1:]:
            scores += term.added_to(passages)
        return _best(passages, scores, k)

    def _added_up(self, terms: Sequence[Postings], k: int) -> Found:
        scores = self._scores
        for term in terms:
            np.add.at(scores, term.passages, term.added())
        passages = np.flatnonzero(scores >= _bound(terms, scores, k))
        found = _best(passages, scores.take(passages), k)
        scores.fill(0.0)
        return found

    def _candidates(self, terms: list[Postings], k: int) -> Numbers:
        """Passages, ascending, among which the k best are; terms come with the rarest first."""
        left = sum(term.bound for term in terms)
        scores, least = self._scores, 0.0
        seen: list[Numbers] = []
        probe: Numbers | None = None  # of a rare term: their k-th best bounds that of all
        for term in terms:
            if least * _SLACK > left:
                break
            passages = term.passages.astype(np.intp)  # numpy indexes twice as fast with these
            np.add.at(scores, passages, term.added())
            seen.append(passages)
            left -= term.bound
            if probe is None and len(passages) >= k:
                probe = passages
            if probe is not None:
                least = max(least, float(_kth(scores.take(probe), k)))
        found = self._reaching(seen, least * _SLACK - left)
        sums = scores.take(found)
        self._clear(seen)
        for term in terms[len(seen) :]:
            sums += self._looked_up(term, found)
            left -= term.bound
            if len(found) >= k:
                least = max(least, float(_kth(sums.copy(), k)))
            kept = np.flatnonzero(sums >= least * _SLACK - left)
            found, sums = found.take(kept), sums.take(kept)
        return found

    def _reaching(self, seen: list[Numbers], bound: float) -> Numbers:
        """The seen passages whose score is positive and at least a bound, ascending."""
        scores = self._scores
        if sum(map(len, seen)) * _SCANNED > len(scores):
            return np.flatnonzero(scores >= bound if bound > 0.0 else scores)
        parts = [passages.compress(scores.take(passages) >= bound) for passages in seen]
        found = np.concatenate(parts)
        found.sort()
        new = np.ones(len(found), np.bool_)
        np.not_equal(found[1:], found[:-1], out=new[1:])
        return found.compress(new)

    def _clear(self, seen: list[Numbers]) -> None:
        if sum(map(len, seen)) * _SCANNED > len(self._scores):
            self._scores.fill(0.0)
        else:
            for passages in seen:
                self._scores[passages] = 0.0

    def _looked_up(self, term: Postings, passages: Numbers) -> Floats:
        """What a term adds to the scores of some passages, by whichever way is shorter."""
        if len(passages) * _LOOK_UP < len(term.passages):
            return term.added_to(passages)
        there = term.passages.astype(np.intp)
        self._scores[there] = term.added()
        gains = self._scores.take(passages)
        self._scores[there] = 0.0
        return gains


def _nothing() -> Found:
    return np.empty(0, np.intp), np.empty(0, np.float32)


def _size(term: Postings) -> int:
    return len(term.passages)


def _bound(terms: Sequence[Postings], scores: Floats, k: int) -> np.float32:
    """At most the k-th best score, and positive.

    Args:
        terms: of the query.
        scores: of all passages.
        k: how many are wanted.
    """
    # The k-th best among the passages of a rare term bounds that of all.
    probe = min((term.passages for term in terms if len(term.passages) >= k), key=len, default=None)
    return _TINY if probe is None else max(_kth(scores.take(probe), k), _TINY)


def _kth(scores: Floats, k: int) -> np.float32:
    """The k-th best of at least k scores, which are left in another order."""
    if k > 1:
        scores.partition(len(scores) - k)
    best: np.float32 = scores[-k] if k > 1 else scores.max()
    return best


def _best(passages: npt.NDArray[np.integer], scores: Floats, k: int) -> Found:
    """The k best of some passages, which are ascending."""
    if len(scores) > 8 * k:  # most are out
        kept = np.flatnonzero(scores >= _kth(scores.copy(), k))
        passages, scores = passages.take(kept), scores.take(kept)
    order = (-scores).argsort(kind="stable")[:k]
    passages, scores = passages.take(order), scores.take(order)
    if len(scores) and scores[-1] <= 0.0:
        positive = scores > 0.0
        passages, scores = passages.compress(positive), scores.compress(positive)
    return passages.astype(np.intp), scores
