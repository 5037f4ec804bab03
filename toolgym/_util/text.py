"""Letters as a comparison sees them, months in English, and tables of text."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence

__all__ = ["MONTHS", "fold", "markdown_table", "number", "shortened", "text_table", "written"]

MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August"),
    *("September", "October", "November", "December"),
)


@functools.cache
def _letters() -> dict[int, str]:
    """Letters that Unicode does not decompose, as English writes them; digits of all scripts."""
    latin = {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i"}
    signs = map(chr, range(0x80, 0x20000))
    digits = {s: str(unicodedata.decimal(s)) for s in signs if unicodedata.category(s) == "Nd"}
    return str.maketrans(latin | {"ħ": "h"} | digits)


def fold(text: str) -> str:
    """Lower case without accents: ``Gösta`` and ``gosta`` are one word, ``Łódź`` and ``lodz`` too.

    Only the accents of Latin, Greek and Cyrillic fall; vowel signs of other scripts stay. Digits of
    any script are those of ASCII, letters of mathematics are letters.
    """
    lowered = text.casefold()
    if lowered.isascii():
        return lowered
    # Letters of mathematics have a case once they are decomposed only.
    apart = unicodedata.normalize("NFKD", lowered).casefold().translate(_letters())
    bare = "".join(char for char in apart if not "\u0300" <= char <= "\u036f")
    return unicodedata.normalize("NFC", bare)


def shortened(text: str, width: int) -> str:
    """At most ``width`` characters, and how many more there are."""
    return text if len(text) <= width else f"{text[:width]} [... {len(text) - width:,} more]"


def written(turns: int, tokens: int, seconds: float) -> str:
    """How far a policy is, for a line of progress, such as ``34 turns, 5,210 tokens (98/s)``.

    Args:
        turns: that were answered.
        tokens: that were sampled; 0 where nobody counts them.
        seconds: that it took.
    """
    rate = f", {tokens:,} tokens ({tokens / max(seconds, 1e-9):,.0f}/s)" if tokens else ""
    return f"{turns:,} turn{'s' * (turns != 1)}{rate}"


def number(value: float | None, percent: bool = False) -> str:
    """A figure for readers: three decimals, or percent with one; a dash for None."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if percent else f"{value:.3f}"


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned by spaces: first and last to the left, those between to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(_padded(cell, width, n, len(head)) for n, (cell, width) in _cells(line, widths))
        .rstrip()
        for line in lines
    )  # fmt: skip


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A GitHub table; bars inside cells are escaped."""
    rule = [":--", *("--:" for _ in head[1:-1]), ":--"][: len(head)]
    lines = [head, rule, *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _cells(line: Sequence[str], widths: Sequence[int]) -> enumerate[tuple[str, int]]:
    return enumerate(zip(line, widths, strict=True))


def _padded(cell: str, width: int, column: int, columns: int) -> str:
    return cell.ljust(width) if column in (0, columns - 1) else cell.rjust(width)
