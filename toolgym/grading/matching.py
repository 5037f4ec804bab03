"""Whether a tool result holds a sub-answer: numbers as numbers, text on token borders.

Everything here takes time linear in its texts.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Context
from typing import Any

__all__ = ["coverage", "tokens"]

_UNITS = frozenset(
    (
        *("km", "m", "cm", "mm", "mi", "ft", "yd", "in", "kg", "g", "mg", "t", "lb", "lbs", "oz"),
        *("l", "ml", "cl", "h", "hr", "hrs", "min", "sec", "ms", "am", "pm", "z", "kb", "mb", "gb"),
        *("tb", "w", "kw", "mw", "kwh", "hz", "khz", "mhz", "ghz", "mph", "kmh"),
        *("usd", "eur", "gbp", "jpy", "chf"),
    )
)
"""What may follow a number without a space and is not part of a name, as it is in ``3d``."""

# Scripts without spaces: every sign is a token, since nothing in the text says where words end.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_SYMBOLS = "$€£¥₹₩₽₿¢%‰°"
_IGNORED = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_DATE = re.compile(r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})")
_THOUSANDS = re.compile(r"(?<=\d)['’\u00a0\u2009\u202f](?=\d{3}(?!\d))")
_TIME = re.compile(r"(?<=\d)t(?=\d\d:)")  # between date and time of day
_ROUNDED = Context(prec=15, rounding=ROUND_HALF_EVEN)
_OPEN, _CLOSE = "\x1e", "\x1f"


def coverage(answer: str, result: str) -> float:
    """How much of a result a sub-answer is.

    Args:
        answer: parts separated by ``, `` may stand apart, in any order.
        result: what the tool said; JSON is read as its keys and values.

    Returns:
        0.0 when the result does not hold every part; else the share of the result's tokens that
        the answer makes up, above 0.0; 1.0 when the result says nothing else.
    """
    needed, length = _parts(answer)
    if not needed:
        alike = bool(answer.strip()) and answer.strip().casefold() == result.strip().casefold()
        return float(alike)
    whole, values, count = _read(result) if len(result) <= _KEPT else _read.__wrapped__(result)
    for spelled, times in needed:
        if not any(_often(text, whole, times) or _often(text, values, times) for text in spelled):
            return 0.0
    return min(1.0, length / count)


def _often(text: str, within: str, times: int) -> bool:
    return text in within and (times == 1 or within.count(text) >= times)


_KEPT = 5_000  # characters of a result that is remembered between the steps of an episode


@functools.lru_cache(maxsize=4096)
def _parts(answer: str) -> tuple[tuple[tuple[tuple[str, ...], int], ...], int]:
    """The distinct parts of a sub-answer: the ways to write each and how often it is needed.

    A part that stands inside another, as ``York`` in ``York, New York``, is needed once more for
    each time it does.
    """
    split = [found for part in answer.split(", ") if (found := tokens(part))]
    texts = [_joined(found) for found in split]
    needed = []
    for text, found in dict(zip(texts, split, strict=True)).items():
        times = sum(other.count(text) for other in texts)
        needed.append(((text, _joined(found[::-1])) if _is_quantity(found) else (text,), times))
    return tuple(needed), sum(map(len, split))


def _is_quantity(found: list[str]) -> bool:
    """A number and its unit, which may stand on either side: ``$5`` and ``5 $``."""
    return len(found) == 2 and (found[0][0] == "=") != (found[1][0] == "=")


@functools.lru_cache(maxsize=256)
def _read(result: str) -> tuple[str, str, int]:
    """A result's tokens, joined; for JSON also those of its values alone; and how many count."""
    leaves = _leaves(result)
    if leaves is None:
        found = tokens(result)
        return _joined(found), "", max(1, len(found))
    whole: list[str] = []
    values: list[str] = []
    for text, is_key in leaves:
        found = tokens(text)
        whole += found
        if not is_key:
            values += found
    return _joined(whole), _joined(values), max(1, len(values))


def _joined(found: list[str]) -> str:
    return "".join(f"{_OPEN}{token}{_CLOSE}" for token in found)


def _leaves(result: str) -> list[tuple[str, bool]] | None:
    """Keys (marked) and values of a JSON list or object in reading order; None for other text."""
    text = result.strip()
    if text[:1] not in ("{", "[", '"'):
        return None
    try:
        value = _load(text)
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            value = _load(value)  # encoded twice
    except (ValueError, RecursionError):
        return None
    return list(_walk(value))


def _load(text: str) -> Any:
    # Numbers stay texts: exact, and linear in time for a million digits.
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)


def _walk(value: Any) -> Iterator[tuple[str, bool]]:
    stack: list[tuple[Any, bool]] = [(value, False)]
    while stack:
        item, is_key = stack.pop()
        if isinstance(item, dict):
            for key, inner in reversed(item.items()):
                stack += [(inner, False), (key, True)]
        elif isinstance(item, list):
            stack += [(inner, False) for inner in reversed(item)]
        else:
            yield (item if isinstance(item, str) else json.dumps(item)), is_key


def tokens(text: str) -> list[str]:
    """Words, numbers, dates and the signs of units, in reading order.

    Words are case-folded; accents count. Numbers stand as ``=`` and their value, whatever digits
    they are written in: ``1,234.50`` and ``1234.5`` are one token. Numbers that are joined by
    ``-``, ``/``, ``:`` or several dots, such as dates, times and versions, are one token too.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.translate(_IGNORED))
    folded = unicodedata.normalize("NFC", _TIME.sub(" ", text.casefold()))
    folded = _THOUSANDS.sub(",", folded)
    found: list[str] = []
    for match in _pattern(folded.isascii()).finditer(folded):
        if match["body"] is None:
            word = match[0].strip("_")
            if word:
                found.append(word)
            continue
        if match["money"]:
            found.append(match["money"])
        found += _numeric(match["sign"] or "", match["body"], match["power"] or "", match["tail"])
    return found


@functools.cache
def _pattern(ascii_only: bool) -> re.Pattern[str]:
    """Tokens of text; possessive throughout, so that no character is looked at twice."""
    marks = "" if ascii_only else _marks()
    other = "" if ascii_only else _UNSPACED
    letter = rf"(?:(?![{other}])\w|[{marks}])" if not ascii_only else r"\w"
    single = rf"|[{other}][{marks}]*+" if not ascii_only else ""
    return re.compile(
        rf"(?:(?<![\w)\]}}])(?P<sign>[-\u2212+]))?+(?P<money>[$€£¥₹])?+"
        rf"(?P<body>(?:\d|(?<![\w.])\.\d)\d*+(?:[.,:/-]\d++)*+)"
        rf"(?P<power>e[+-]?+\d++)?+(?P<tail>{letter}*+)"
        rf"{single}|{letter}++(?:(?<=\d)(?:\.\d++)++|\+\+|\#)?+|[{re.escape(_SYMBOLS)}]"
    )


def _marks() -> str:
    r"""Combining signs of the basic plane, which belong to the letter before, as a class's inside.

    ``\w`` leaves them out, and with them the middle of most words in Indian scripts.
    """
    signs = (chr(code) for code in range(0x300, 0x10000))
    return "".join(sign for sign in signs if unicodedata.category(sign) in ("Mn", "Mc", "Me"))


def _numeric(sign: str, body: str, power: str, tail: str) -> Iterator[str]:
    """The tokens of a run that begins with a digit."""
    if tail and tail not in _UNITS:  # a name such as 3d, 19th or 12_a
        yield f"{body}{power}{tail}"
        return
    pieces = [body] if _GROUPED.fullmatch(body) else body.split(",")
    for number, piece in enumerate(pieces):
        minus = sign in ("-", "\u2212") and number == 0
        last = number == len(pieces) - 1
        yield _piece(piece, minus, power if last else "")
    if tail:
        yield tail


def _piece(text: str, minus: bool, power: str) -> str:
    whole, dot, fraction = text.replace(",", "").partition(".")
    if not (whole + fraction).isdecimal() or (dot and not fraction):
        return _compound(text) + power
    digits = whole + fraction
    if not digits.isascii():
        digits = "".join(str(unicodedata.decimal(sign)) for sign in digits)
    if len(whole) > 1 and digits[0] == "0":  # a code such as 007, not a quantity
        return f"{digits}{power}"
    shift = int(power[1:]) if power and len(power) <= 8 else 0
    if power and len(power) > 8:
        return f"{digits}{power}"
    return _value(digits, shift - len(fraction), minus, bool(fraction))


def _value(digits: str, exponent: int, minus: bool, inexact: bool) -> str:
    """Canonical text of a number: equal values give equal texts.

    A fraction of 16 or 17 digits, as printed for a float, is rounded to 15, so that
    ``0.30000000000000004`` is 0.3. All other numbers are exact, however long.
    """
    digits = digits.lstrip("0")
    kept = digits.rstrip("0")
    if inexact and 15 < len(kept) <= 17:
        exponent += len(digits) - len(kept)
        rounded = _ROUNDED.create_decimal(kept).as_tuple()
        digits = "".join(map(str, rounded.digits))
        exponent += int(rounded.exponent)
        kept = digits.rstrip("0")
    if not kept:
        return "=0"
    return f"={'-' if minus else ''}{kept}e{exponent + len(digits) - len(kept)}"


def _compound(text: str) -> str:
    """Joined numbers as one token; dates in year, month, day order in one spelling."""
    date = _DATE.fullmatch(text)
    if date:
        return f"{int(date[1])}-{int(date[3])}-{int(date[4])}"
    return text
