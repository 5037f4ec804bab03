"""Text to search terms: the same for passages and queries, for every script."""

from __future__ import annotations

import itertools
import re
import sys
import threading
import unicodedata
from collections.abc import Sequence

import Stemmer  # type: ignore[import-not-found]

from toolgym._util.text import fold

__all__ = ["PART", "STOP_WORDS", "VERSION", "Analyzer", "parted_bytes", "pieces"]

STOP_WORDS = frozenset(
    [
        "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is",
        "it", "no", "not", "of", "on", "or", "s", "such", "that", "the", "their", "then",
        "there", "these", "they", "this", "to", "was", "will", "with",
    ]
)  # fmt: skip
"""Lucene's English list, and the ``s`` that an apostrophe leaves behind."""

VERSION = 2
"""Of the way from text to terms; an index built by another one is refused: it would miss words."""

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
PART = b"\x01"
_PART_SIGN = " \x01 "
_CUT_PARTS = _CUT[:1] + PART + _CUT[2:]
_MEMO_PIECES = 200_000  # then it starts anew, so that it cannot grow without bound
_MAX_WORD = 100  # characters; what is longer is no word


class Analyzer:
    """Lower-cases, folds accents, drops stop words, stems, and pairs unspaced scripts.

    Safe to use from several threads.

    Args:
        stop_words: folded words that give no term.
        stemmer: a Snowball language; None: words stay as they are.
    """

    def __init__(
        self, stop_words: frozenset[str] = STOP_WORDS, stemmer: str | None = "english"
    ) -> None:
        self._stop_words = stop_words
        # Its own cache is slower than ours.
        self._stemmer = None if stemmer is None else Stemmer.Stemmer(stemmer, 0)
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
        terms = tuple(map(sys.intern, self.piece_terms(piece)))
        if len(piece) <= _MAX_WORD:
            if len(self._memo) >= _MEMO_PIECES:
                self._memo = {}
            self._memo[piece] = terms
        return terms

    def piece_terms(self, piece: str) -> list[str]:
        """The terms of one of the `pieces`, not remembered."""
        if piece.isascii():
            return self._word_terms(piece)
        return [term for word in _WORD.findall(piece) for term in self._word_terms(word)]

    def _word_terms(self, word: str) -> list[str]:
        if len(word) > _MAX_WORD and not _HAS_UNSPACED.search(word):
            return []
        terms: list[str] = []
        folded = fold(word)
        for run in _RUN.findall(folded) if not folded.isascii() else (folded,):
            if _HAS_UNSPACED.search(run):
                terms += run
                terms += map("".join, itertools.pairwise(run))
            elif run not in self._stop_words:
                terms.append(self._stem(run))
        return terms

    def _stem(self, word: str) -> str:
        if self._stemmer is None:
            return word
        with self._lock:
            stem: str = self._stemmer.stemWord(word)
        return stem or word


def pieces(text: str) -> list[str]:
    """Cut a text at spaces and ASCII punctuation, with ASCII letters in lower case.

    No word reaches over such a cut, so that the terms of a text are those of its pieces; an ASCII
    piece is one word. Many times faster than a regular expression, for it works on bytes: those of
    other characters are never ASCII in UTF-8.
    """
    raw = text.encode("utf-8", "surrogatepass").translate(_CUT)
    return raw.decode("utf-8", "surrogatepass").split()


def parted_bytes(texts: Sequence[str]) -> bytes:
    """Many texts in UTF-8 with spaces where `pieces` cuts, and a lone `PART` after each.

    Only ASCII spaces are such, so a piece may hold others; the terms are the same.
    """
    raw = _PART_SIGN.join((*texts, "")).encode("utf-8", "surrogatepass")
    if raw.count(PART) != len(texts):  # the sign stands in a text, too
        return parted_bytes([text.replace(PART.decode(), " ") for text in texts])
    return raw.translate(_CUT_PARTS)
