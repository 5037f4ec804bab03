"""Letters as a search or a phrase book compares them."""

from __future__ import annotations

import unicodedata

__all__ = ["fold"]

# Letters that Unicode does not decompose, as English writes them, and the digits of all scripts.
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h"}
    | {
        chr(code): str(unicodedata.decimal(chr(code)))
        for code in range(0x80, 0x20000)
        if unicodedata.category(chr(code)) == "Nd"
    }
)


def fold(text: str) -> str:
    """Lower case without accents: ``Gösta`` and ``gosta`` are one word, ``Łódź`` and ``lodz`` too.

    Only the accents of Latin, Greek and Cyrillic fall; vowel signs of other scripts stay. Digits of
    any script are those of ASCII, letters of mathematics are letters.
    """
    lowered = text.casefold()
    if lowered.isascii():
        return lowered
    # Letters of mathematics have a case once they are decomposed only.
    apart = unicodedata.normalize("NFKD", lowered).casefold().translate(_LETTERS)
    bare = "".join(char for char in apart if not "\u0300" <= char <= "\u036f")
    return unicodedata.normalize("NFC", bare)
