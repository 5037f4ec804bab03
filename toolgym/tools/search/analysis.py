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
        "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "how", "if", "in", "into",
        "is", "it", "no", "not", "of", "on", "or", "s", "such", "that", "the", "their", "then",
        "there", "these", "they", "this", "to", "was", "what", "when", "where", "which", "whom",
        "whose", "why", "with",
    ]
)  # fmt: skip
"""Lucene's English list with the words that make a sentence a question, and the ``s`` that an
apostrophe leaves behind; without ``will``, which names people. ``who`` names a band and the WHO."""

VERSION = 3
"""Of the way from text to terms; an index built by another one is refused: it would miss words."""

_MARKS = "".join(
    chr(code)
    for code in range(0x300, 0x1E000)
    if unicodedata.category(chr(code)) in ("Mn", "Mc") and not 0xD800 <= code <= 0xDFFF
)
# Signs that nobody sees or types: soft hyphens, joiners, marks of direction, the Arabic tatweel.
_UNSEEN = "\u00ad\u034f\u0640\u200c-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff"
# Letters of their own, such as the ʻokina, which others write as an apostrophe or leave out.
_APOSTROPHES = "\u02b9-\u02bf\u02c8\u02ee\ua78b\ua78c"
# Scripts written without spaces: their runs are cut into single characters and pairs.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003134f"
)
# Marks belong to the word (vowel signs); they are asked for only where a word would end, for speed.
_WORD = re.compile(rf"[^\W_]+(?:[{_MARKS}{_UNSEEN}]+[^\W_]*)*")
_SKIP = re.compile(f"[{_UNSEEN}]+")
_APOSTROPHE = re.compile(f"[{_APOSTROPHES}]+")
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
_MAX_WORD = 100  # characters; what is longer is not a word

# Letters that Vietnamese alone writes. Nearly each of its words has a mark, and many are without it
# words of other languages ("thế", "cho"), so a question in it is asked with its marks.
_VIETNAMESE = re.compile("[\u01a0\u01a1\u01af\u01b0\u1ea0-\u1ef9]")
_VIETNAMESE_STOP_WORDS = frozenset(
    [
        "ai", "bao", "bởi", "bị", "các", "cái", "còn", "có", "cả", "của", "cũng", "cùng", "cho",
        "chỉ", "do", "dưới", "đã", "đang", "đâu", "để", "đến", "đó", "được", "gì", "giữa", "hay",
        "hoặc", "hơn", "khi", "là", "lại", "lúc", "mà", "mấy", "một", "nào", "này", "nên", "nếu",
        "nhiêu", "nhiều", "như", "nhất", "những", "ở", "phải", "qua", "ra", "rất", "sau", "sẽ",
        "tại", "theo", "thế", "thì", "trên", "trong", "trước", "từ", "và", "vào", "vì", "việc",
        "với", "về",
    ]
)  # fmt: skip


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
        capitals = "|".join(re.escape(word.capitalize()) for word in sorted(stop_words))
        self._capital = re.compile(rf"\s(?:{capitals})\b") if capitals else None

    def pieces(self, text: str) -> list[str]:
        """What a query is cut into; the terms of each piece can be remembered."""
        return pieces(text)

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

    def kept_terms(self, text: str) -> list[str]:
        """The terms of a text with those of stop words."""
        return [
            term
            for piece in pieces(text)
            for word in _WORD.findall(piece)
            for term in self._word_terms(word, keep=True)
        ]

    def only_stop_words(self, text: str) -> bool:
        """Whether a text has words, and all of them are stop words."""
        return not self.terms(text) and bool(self.kept_terms(text))

    def query_terms(self, query: str) -> list[str]:
        """The terms of a query: those of a text, and of the titles of stop words that it names.

        For one in Vietnamese see `vietnamese_terms`.
        """
        found = self.vietnamese_terms(query) or self.terms(query)
        return found + self.named_stop_words(query) if found else self.kept_terms(query)

    def named_stop_words(self, query: str) -> list[str]:
        """The terms of names within a query that are made of stop words: ``Who wrote It?``.

        A name is a run of capitals that does not begin the query; where all words have capitals,
        they say nothing. Only titles of stop words alone hold these terms.
        """
        if self._capital is None or not self._capital.search(query):
            return []
        words = [word for word in query.split() if word[0].isalnum() or len(word) > 1]
        if all(word[0].isupper() for word in words):
            return []
        runs = itertools.groupby(words[1:], key=lambda word: word[0].isupper())
        names = (" ".join(run) for capital, run in runs if capital)
        return [t for name in names if self.only_stop_words(name) for t in self.kept_terms(name)]

    def vietnamese_terms(self, query: str) -> list[str]:
        """The terms of a Vietnamese query, with the marks where they are; none if it is no such."""
        if query.isascii():
            return []
        words = _WORD.findall(unicodedata.normalize("NFC", query))
        marked = sum(_VIETNAMESE.search(word) is not None for word in words)
        if marked < 2 or 5 * marked < len(words):
            return []
        found: list[str] = []
        for word in words:
            lowered = word.lower()
            if _VIETNAMESE.search(word):
                found += [] if lowered in _VIETNAMESE_STOP_WORDS else [lowered]
            elif lowered not in _VIETNAMESE_STOP_WORDS:
                found += self._word_terms(word)
        return found

    def _word_terms(self, word: str, keep: bool = False) -> list[str]:
        if len(word) > _MAX_WORD and not _HAS_UNSPACED.search(word):
            return []
        folded = fold(word)
        if folded.isascii() and word.isascii():
            return [self._stem(folded)] if keep or folded not in self._stop_words else []
        terms: list[str] = []
        folded = _SKIP.sub("", folded)
        parts = _APOSTROPHE.split(folded)
        whole = [] if len(parts) == 1 else ["".join(parts)]
        for run in (run for part in dict.fromkeys(whole + parts) for run in _RUN.findall(part)):
            if _HAS_UNSPACED.search(run):
                terms += run
                terms += map("".join, itertools.pairwise(run))
            elif keep or run not in self._stop_words:
                terms.append(self._stem(run))
        composed = unicodedata.normalize("NFC", word.lower())
        if _VIETNAMESE.search(composed):
            terms.append(_SKIP.sub("", composed))
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
