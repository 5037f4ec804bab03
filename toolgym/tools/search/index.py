"""Search indexes in a folder: opened by memory map, searched exactly with numpy.

The folder holds bm25s's own files (so bm25s opens it too), the passages, and a header that says how
it was made; `toolgym.tools.search.building` writes it. Scores are BM25 as Lucene has it.

The code is our own though the files are bm25s's: bm25s adds up every posting of a query, and holds
a corpus and its terms in memory to build; this passes over most postings, and builds in bounds.
"""

from __future__ import annotations

import json
import math
import mmap
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toolgym.tools.search import layout
from toolgym.tools.search.analysis import Analyzer
from toolgym.tools.search.building import build_index
from toolgym.tools.search.corpora.passages import Passage
from toolgym.tools.search.folders import open_folder
from toolgym.tools.search.layout import HEADER, disk_name
from toolgym.tools.search.ranking import Found, Postings, Ranker

__all__ = [
    "HEADER",
    "Hit",
    "Index",
    "best_passage",
    "build_index",
    "disk_name",
    "open_index",
]

MAX_TEXT_CHARS = 1_000_000  # what is beyond is not read: a call's cost stays bounded
_SATURATION = 0.9  # k1 of BM25; windows are about equally long, so that b plays no part
# Behind a sentence, or behind a line. Scripts without spaces end sentences without them.
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+|[。！？।]+\s*|\n\s*")


def best_passage(
    text: str, weights: Mapping[str, float], analyzer: Analyzer, characters: int
) -> str:
    """The window of whole sentences that answers to a query best; of equal ones the first.

    A window's score is the sum over the query's terms of weight times ``n / (n + 0.9)`` for ``n``
    occurrences in it: BM25 with its lengths taken as equal.

    Args:
        text: the document; its first million characters are read.
        weights: inverse document frequency of each term of the query.
        analyzer: that of the index.
        characters: the longest window.

    Returns:
        A piece of the text with no space around it: the whole text when it is no longer than a
        window, the first window when no term of the query stands in the text.
    """
    if len(text) <= characters:
        return text
    units = list(_units(text[:MAX_TEXT_CHARS], characters))
    found = [_counts(text[begin:end], weights, analyzer) for begin, end in units]
    best, chosen = -1.0, (0, 0)
    for first, counts in enumerate(found):
        if not counts and best >= 0.0:
            continue
        last = first
        total = dict(counts)
        while last + 1 < len(units) and units[last + 1][1] - units[first][0] <= characters:
            last += 1
            for term, count in found[last].items():
                total[term] = total.get(term, 0) + count
        score = sum(weights[term] * n / (n + _SATURATION) for term, n in total.items())
        if score > best:
            best, chosen = score, (first, last)
    return text[units[chosen[0]][0] : units[chosen[1]][1]].strip()


def _units(text: str, characters: int) -> Iterator[tuple[int, int]]:
    """Where sentences begin and end; one that is too long is cut, at a space where there is one."""
    begin = 0
    for match in _SENTENCE_END.finditer(text):
        yield from _cut(text, begin, match.end(), characters)
        begin = match.end()
    yield from _cut(text, begin, len(text), characters)


def _cut(text: str, begin: int, end: int, characters: int) -> Iterator[tuple[int, int]]:
    while end - begin > characters:
        space = text.rfind(" ", begin + characters // 2, begin + characters)
        cut = space + 1 if space >= 0 else begin + characters
        yield begin, cut
        begin = cut
    if text[begin:end].strip():
        yield begin, end


def _counts(text: str, weights: Mapping[str, float], analyzer: Analyzer) -> dict[str, int]:
    """How often each term of the query stands in a text that holds one."""
    counts: dict[str, int] = {}
    for term in analyzer.terms(text):
        if term in weights:
            counts[term] = counts.get(term, 0) + 1
    return counts


_LISTED = 500_000  # terms
_WIDENED = 2_000_000  # postings, 16 MB
_MEMO_PIECES, _MEMO_CHARS = 50_000, 100  # of queries, with their postings, which are not copied
MAX_QUERY_CHARS = 10_000  # what is beyond is not read: a query's cost stays bounded


@dataclass(frozen=True, slots=True)
class Hit:
    """One found passage.

    Args:
        passage: what was found.
        score: its BM25 score, positive.
    """

    passage: Passage
    score: float


class Index:
    """An opened index; safe to search from several threads.

    Args:
        folder: where `build_index` wrote it, or ``bm25s.BM25.save(folder, corpus=...)``.
        options: that it was built with, where they are known; see
            `toolgym.tools.search.folders.open_folder`.

    Raises:
        MissingFileError: there is no such folder.
        BadInputError: it holds no index, a damaged one, one that this version cannot search, or one
            that was built with other options.
    """

    def __init__(self, folder: str | Path, options: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self._parts = parts = open_folder(self.folder, dict(options or {}))
        self.recipe, self._analyzer, self._number = parts.recipe, parts.analyzer, parts.number
        self._data, self._documents, self._offsets = parts.data, parts.documents, parts.offsets
        # Numbers of a list are read faster, and numpy adds up faster where indices are of its own
        # width; of a large index both would cost memory and time at opening.
        if len(self._documents) <= _WIDENED:
            self._documents = self._documents.astype(np.intp)
        self._starts: list[int] | npt.NDArray[np.int64]
        self._maxima: list[float] | npt.NDArray[np.float32]
        listed = len(parts.starts) <= _LISTED
        self._starts = parts.starts.tolist() if listed else parts.starts
        self._maxima = parts.maxima.tolist() if listed else parts.maxima
        with (self.folder / layout.PASSAGES).open("rb") as stream:
            self._passages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._memo: dict[str, tuple[Postings, ...]] = {}
        self._local = threading.local()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def fingerprint(self) -> str:
        """Hash of the passages and of everything that decides the order of hits."""
        return self._parts.fingerprint

    def passage(self, number: int) -> Passage:
        """The passage with that number, counted from 0 in the order of the corpus."""
        start, end = self._offsets[number : number + 2].tolist()
        line = self._passages[start:end].decode("utf-8", "surrogatepass")
        return self._parts.read(json.loads(line), number)

    def search(self, query: str, k: int = 1) -> list[Hit]:
        """The best passages, best first; equal scores in the order of the corpus.

        Args:
            query: any text; its first 10 000 characters are read. A word counts as often as it
                stands there.
            k: at most so many hits; fewer when fewer passages hold a word of the query.
        """
        numbers, scores = self.ranking(query, k)
        found = zip(numbers.tolist(), scores.tolist(), strict=True)
        return [Hit(self.passage(number), score) for number, score in found]

    def search_many(self, queries: Sequence[str], k: int = 1) -> list[list[Hit]]:
        """`search` of several queries: equal ones are ranked, and equal passages read, once.

        Args:
            queries: any texts.
            k: at most so many hits for each.
        """
        different = list(dict.fromkeys(queries))
        found = dict(zip(different, self.ranking_many(different, k), strict=True))
        numbers = {number for ranked, _ in found.values() for number in ranked.tolist()}
        passages = {number: self.passage(number) for number in numbers}
        hits = {
            query: [
                Hit(passages[number], score)
                for number, score in zip(ranked.tolist(), scores.tolist(), strict=True)
            ]
            for query, (ranked, scores) in found.items()
        }
        return [list(hits[query]) for query in queries]

    def ranking(self, query: str, k: int) -> Found:
        """`search` without reading the passages.

        Returns:
            Passage numbers and scores: [hits] each.
        """
        terms = self._postings(query) if k > 0 else []
        passages, scores = self._ranker().top(terms, k)
        if self._parts.absent is not None:  # each passage has a part of the score for nothing
            scores = scores + sum(self._parts.absent[term.number] * term.times for term in terms)
        return passages, scores

    def ranking_many(self, queries: Sequence[str], k: int) -> list[Found]:
        """`search_many` without reading the passages; a query that comes again is ranked once."""
        # Adding up the postings of several queries side by side was measured: it gains nothing.
        found = {query: self.ranking(query, k) for query in dict.fromkeys(queries)}
        return [found[query] for query in queries]

    def excerpt(self, query: str, passage: Passage, characters: int) -> Passage:
        """The part of a passage that answers to a query best.

        Args:
            query: as it was searched.
            passage: one of its hits.
            characters: the longest part; see `toolgym.tools.search.index.best_passage`.
        """
        weights: dict[str, float] = {}
        for term in self._analyzer.terms(query[:MAX_QUERY_CHARS]):
            number = self._number(term)
            if number is not None and term not in weights:
                frequency = int(self._starts[number + 1]) - int(self._starts[number])
                weights[term] = math.log1p((len(self) - frequency + 0.5) / (frequency + 0.5))
        text = best_passage(passage.text, weights, self._analyzer, characters)
        return Passage(passage.id, passage.title, text)

    def _ranker(self) -> Ranker:
        """This thread's own: it adds up scores in place."""
        ranker: Ranker | None = getattr(self._local, "ranker", None)
        if ranker is None:
            ranker = self._local.ranker = Ranker(len(self), self._data.dtype)
        return ranker

    def terms(self, query: str) -> list[str]:
        """What is searched of a query, such as for ``bm25s.BM25.load(folder).retrieve([terms])``.

        Args:
            query: any text; its first 10 000 characters are read.
        """
        return self._analyzer.query_terms(query[:MAX_QUERY_CHARS])

    def only_stop_words(self, query: str) -> bool:
        """Whether a query has words, and all are too common to be searched in texts."""
        return self._analyzer.only_stop_words(query[:MAX_QUERY_CHARS])

    def _postings(self, query: str) -> list[Postings]:
        memo, found = self._memo, dict[int, Postings]()
        query = query[:MAX_QUERY_CHARS]
        analyzer, ascii_only = self._analyzer, query.isascii()
        special = [] if ascii_only else analyzer.vietnamese_terms(query)
        silent = []  # a stop word of an ASCII query is a piece without a term
        for piece in () if special else analyzer.pieces(query):
            known = memo.get(piece)
            if known is None:
                known = self._look_up(piece)
            if not known:
                silent.append(piece)
            for term in known:
                before = found.get(term.number)
                found[term.number] = term if before is None else before.once_more(term)
        if not (found or special):
            special = analyzer.kept_terms(query)
        elif not ascii_only or _named(silent, query):
            special += analyzer.named_stop_words(query)
        for name in special:
            for term in self._posting(name):
                before = found.get(term.number)
                found[term.number] = term if before is None else before.once_more(term)
        return list(found.values())

    def _look_up(self, piece: str) -> tuple[Postings, ...]:
        """The terms of a piece that some passage holds; remembered."""
        terms = self._analyzer.piece_terms(piece)
        found = [posting for term in terms for posting in self._posting(term)]
        if len(self._memo) >= _MEMO_PIECES:
            self._memo = {}
        if len(piece) <= _MEMO_CHARS:
            self._memo[piece] = tuple(found)
        return tuple(found)

    def _posting(self, term: str) -> Iterator[Postings]:
        number = self._number(term)
        if number is not None:
            start, end = int(self._starts[number]), int(self._starts[number + 1])
            passages, gains = self._documents[start:end], self._data[start:end]
            yield Postings(number, passages, gains, 1, float(self._maxima[number]))


def _named(pieces: Sequence[str], query: str) -> bool:
    """Whether one of some lower-case pieces may stand in a query's middle with a capital.

    It costs a fraction of what the regular expression for such names does.
    """
    for piece in pieces:  # noqa: SIM110 (a generator costs as much as the whole loop)
        if query.find(piece.capitalize(), 1) > 0:
            return True
    return False


def open_index(folder: str | Path, options: Mapping[str, Any] | None = None) -> Index:
    """Open an index folder; see `Index` for what it takes and raises."""
    return Index(folder, options)
