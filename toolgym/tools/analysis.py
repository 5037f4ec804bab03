"""Text to search terms: the same for passages and queries, for every script."""

from __future__ import annotations

import itertools
import re
import sys
import threading
import unicodedata
from typing import Any

import Stemmer  # type: ignore[import-not-found]

from toolgym.tools.folding import fold

__all__ = ["ANALYZER", "Analyzer", "pieces", "terms_at_most"]

STOP_WORDS = frozenset(
    [
        "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is",
        "it", "no", "not", "of", "on", "or", "s", "such", "that", "the", "their", "then",
        "there", "these", "they", "this", "to", "was", "will", "with",
    ]
)  # fmt: skip
"""Lucene's English list, and the ``s`` that an apostrophe leaves behind."""

ANALYZER: dict[str, Any] = {
    "name": "unicode-fold-english",
    "version": 1,
    "stemmer": "english",
    "stop_words": sorted(STOP_WORDS),
}
"""What an index records; one built with another analyzer is refused, for it would miss words."""

_MARKS = "".join(
    chr(code)
    for code in range(0x300, 0x1E000)
    if unicodedata.category(chr(code)) in ("Mn", "Mc") and not 0xD800 <= code <= 0xDFFF
)
# Scripts written without spaces: their runs are cut into single characters and pairs.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003134f"
)
# Marks belong to the word (vowel signs); they are asked for only where a word would end, for speed.
_WORD = re.compile(rf"[^\W_]+(?:[{_MARKS}]+[^\W_]*)*")
_RUN = re.compile(rf"[{_UNSPACED}{_MARKS}]+|[^{_UNSPACED}]+")
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_CUT = bytes(
    code if code >= 128 else ord(chr(code).lower()) if chr(code).isalnum() else ord(" ")
    for code in range(256)
)
_MEMO_PIECES = 200_000  # then it starts anew, so that it cannot grow without bound
_MAX_WORD = 100  # characters; what is longer is no word


class Analyzer:
    """Lower-cases, folds accents, drops English stop words, stems, and pairs unspaced scripts.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._stemmer = Stemmer.Stemmer("english", 0)  # its cache is slower than ours
        self._lock = threading.Lock()  # a stemmer keeps state
        self._memo: dict[str, tuple[str, ...]] = {}

    def terms(self, text: str) -> list[str]:
        """The terms of a text in order, repeats included."""
        found: list[str] = []
        memo = self._memo
        for piece in pieces(text):
            terms = memo.get(piece)
            found.extend(self._remember(piece) if terms is None else terms)
        return found

    def _remember(self, piece: str) -> tuple[str, ...]:
        words = (piece,) if piece.isascii() else _WORD.findall(piece)
        terms = tuple(sys.intern(term) for word in words for term in self._word_terms(word))
        if len(piece) <= _MAX_WORD:
            if len(self._memo) >= _MEMO_PIECES:
                self._memo = {}
            self._memo[piece] = terms
        return terms

    def _word_terms(self, word: str) -> list[str]:
        if len(word) > _MAX_WORD and not _HAS_UNSPACED.search(word):
            return []
        terms: list[str] = []
        folded = fold(word)
        for run in _RUN.findall(folded) if not folded.isascii() else (folded,):
            if _HAS_UNSPACED.search(run):
                terms += run
                terms += map("".join, itertools.pairwise(run))
            elif run not in STOP_WORDS:
                with self._lock:
                    terms.append(self._stemmer.stemWord(run))
        return terms


def terms_at_most(text: str, count: int) -> int:
    """About the most terms that a text of so many pieces has: one each, unless it has no spaces."""
    return count if text.isascii() or not _HAS_UNSPACED.search(text) else count + 2 * len(text)


def pieces(text: str) -> list[str]:
    """Cut a text at spaces and ASCII punctuation, with ASCII letters in lower case.

    No word reaches over such a cut, so that the terms of a text are those of its pieces; an ASCII
    piece is one word. Many times faster than a regular expression, for it works on bytes: those of
    other characters are never ASCII in UTF-8.
    """
    raw = text.encode("utf-8", "surrogatepass").translate(_CUT)
    return raw.decode("utf-8", "surrogatepass").split()
