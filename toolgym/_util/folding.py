"""Letters as a search or a phrase book compares them."""

from __future__ import annotations

import unicodedata

__all__ = ["fold"]

# Letters that Unicode does not decompose, as English writes them.
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h"}
)


def fold(text: str) -> str:
    """Lower case without accents: ``Gösta`` and ``gosta`` are one word, ``Łódź`` and ``lodz`` too.

    Only the accents of Latin, Greek and Cyrillic fall; vowel signs of other scripts stay.
    """
    lowered = text.casefold()
    if lowered.isascii():
        return lowered
    apart = unicodedata.normalize("NFKD", lowered).translate(_LETTERS)
    bare = "".join(char for char in apart if not "\u0300" <= char <= "\u036f")
    return unicodedata.normalize("NFC", bare)
