"""A small phrase book: whole sentences and phrases, matched robustly, never guessed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from toolgym._util.jsonl import read_rows
from toolgym._util.text import fold
from toolgym.errors import BadInputError, UnknownNameError

__all__ = ["PhraseBook"]

_SENTENCE = re.compile(r"[^.!?。！？…\n]+[.!?。！？…]*")
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
# Words that make a sentence English: none is a common word of the phrase book's other languages.
_QUESTION = frozenset(["what", "which", "who", "whom", "whose", "when", "where", "why", "how"])
_ENGLISH = _QUESTION | frozenset(
    [
        "the", "and", "to", "that", "this", "with", "from", "were", "did", "does", "has", "had",
        "have", "been", "many", "much", "year", "city", "country", "it", "its", "by", "of",
    ]
)  # fmt: skip
_KEPT = frozenset(["Ll", "Lo", "Mn", "Mc", "Nd", "Nl", "No"])
_LAST_LATIN = 0x24F  # after folding, what is beyond is another script
_MAX_CHARS = 5_000  # a phrase book covers sentences, not pages


class PhraseBook:
    """Phrases of several languages with their English.

    Args:
        path: JSON lines of ``{"language", "text", "english"}``.

    Raises:
        MissingFileError: no such file.
        BadInputError: a line without these three texts, or no line at all.
    """

    def __init__(self, path: str | Path) -> None:
        self._phrases: dict[str, dict[str, str]] = {}  # language -> key -> English
        self._english_words: set[str] = set(_ENGLISH)
        for number, row in read_rows(path, "phrase book"):
            language, text, english = (row.get(key) for key in ("language", "text", "english"))
            if not (
                isinstance(language, str) and isinstance(text, str) and isinstance(english, str)
            ):
                raise BadInputError(
                    f"phrase book {str(path)!r}, line {number}: 'language', 'text' and 'english' "
                    "must be texts"
                )
            # The first entry of a phrase wins, so that the order of the file decides.
            self._phrases.setdefault(language, {}).setdefault(_key(text), english)
            self._english_words.update(_key(english).split())
        if not self._phrases:
            raise BadInputError(f"phrase book {str(path)!r} holds no phrase")
        self._longest = max(len(key.split()) for keys in self._phrases.values() for key in keys)

    @property
    def languages(self) -> list[str]:
        """Language codes such as ``fra_Latn``, sorted."""
        return sorted(self._phrases)

    def __len__(self) -> int:
        return sum(map(len, self._phrases.values()))

    def check_language(self, language: str) -> str:
        """The same code.

        Raises:
            UnknownNameError: the phrase book has no phrase in it.
        """
        if language not in self._phrases:
            raise UnknownNameError("language of the phrase book", language, self._phrases)
        return language

    def translate(self, text: str, language: str | None = None) -> str | None:
        """The English of a text, or None when a part of it is not in the book.

        The whole text is looked up first, then its sentences, then the fewest phrases that cover a
        sentence without a gap. Case, accents, punctuation and white space do not matter.
        English comes back unchanged.

        Args:
            text: in one language.
            language: its code; default: the language that covers the text with fewest phrases.
        """
        if len(text) > _MAX_CHARS:
            return None
        languages = [language] if language else list(self._phrases)
        for found in (self._phrases[name].get(_key(text)) for name in languages):
            if found is not None:
                return found
        if self._is_english(text):
            return text
        covers = [cover for name in languages if (cover := self._cover(text, name))]
        return " ".join(_shortest(covers) or ()) or None

    def _is_english(self, text: str) -> bool:
        key = _key(text)
        words = key.split()
        if not words or any(ord(char) > _LAST_LATIN for char in key):
            return False
        known = sum(word in self._english_words for word in words)
        telling = sum(word in _ENGLISH for word in words)
        # Names are not English words, so a part of the words has to do.
        return (
            not _QUESTION.isdisjoint(words[:3]) or known == len(words) or telling * 4 >= len(words)
        )

    def _cover(self, text: str, language: str) -> list[str] | None:
        parts: list[str] = []
        for sentence in _SENTENCE.findall(text):
            words = _key(sentence).split()
            if words:
                found = _fewest(words, self._phrases[language], self._longest)
                if found is None:
                    return None
                parts += found
        return parts or None


def _shortest(covers: list[list[str]]) -> list[str] | None:
    return min(covers, key=len) if covers else None


def _fewest(words: list[str], phrases: dict[str, str], longest: int) -> list[str] | None:
    """The English of the fewest phrases that follow each other through all words."""
    best: list[list[str] | None] = [[]]  # best[n] covers the first n words
    for end in range(1, len(words) + 1):
        covers = list(_endings(words, end, best, phrases, longest))
        best.append(_shortest(covers))
    return best[-1]


def _endings(
    words: list[str],
    end: int,
    best: list[list[str] | None],
    phrases: dict[str, str],
    longest: int,
) -> Iterator[list[str]]:
    for start in range(max(0, end - longest), end):
        before, english = best[start], phrases.get(" ".join(words[start:end]))
        if before is not None and english is not None:
            yield [*before, english]


def _key(text: str) -> str:
    """What counts of a text: its words, in lower case and one Unicode form, spaced by one blank."""
    kept = (c if unicodedata.category(c) in _KEPT else " " for c in fold(text))
    return " ".join(_UNSPACED.sub(r" \1 ", "".join(kept)).split())
