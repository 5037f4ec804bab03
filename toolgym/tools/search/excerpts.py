"""The part of a long document that a query asks about, found when it is read: no second index."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from toolgym.tools.search.analysis import Analyzer

__all__ = ["best_passage"]

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
