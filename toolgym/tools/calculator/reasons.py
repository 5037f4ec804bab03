"""Why an expression cannot be read, where the parser's own words would not say it: units, words."""

from __future__ import annotations

import re
from collections.abc import Callable

from toolgym.errors import ToolError
from toolgym.tools.calculator.grammar import commas, function_name
from toolgym.tools.calculator.tokens import Token, tokens
from toolgym.tools.calculator.wording import NUMBER, OPERATION_WORDS

__all__ = ["reason"]

_MONEY = ("$", "€", "£", "¥", "₹", "₩", "₽", "₺", "₪", "฿")
# Units that are sure to be units; any other word may be an operation that nobody thought of.
_KNOWN_UNITS = frozenset(
    re.findall(
        "[a-z]+",
        "mm cm km kg mg lb lbs oz ft yd mi mph kmh kph ml cl gal sec min hr hrs hour minute second "
        "day week month year dollar cent euro pound usd eur gbp rupee yen meter metre kilometer "
        "kilometre centimeter centimetre millimeter millimetre mile inch inches foot feet yard "
        "liter litre gallon gram kilogram kilo ton tonne ounce apple orange egg book pencil marble "
        "cookie coin ticket student people person watt volt joule newton",
    )
)
_JOINING = frozenset(("and", "or", "then", "also", "while", "but"))
_DECIMAL_COMMA = re.compile(
    r"(?<![0-9.,])(?<![0-9] )([0-9]{1,3}(?:\.[0-9]{3})+|[0-9]+),([0-9]+)(?![0-9.,])"
)
_CHANGE = re.compile(
    rf"percent(?:age)? (?:change|increase|decrease|growth) from ({NUMBER}) to ({NUMBER})", re.I
)


def reason(text: str, written: str, evaluate: Callable[[str], object]) -> str | None:
    """Why an expression cannot be read, where the parser's own words would not say it.

    Args:
        text: from `toolgym.tools.calculator.notation.plain`.
        written: as the model wrote it, with signs of currencies.
        evaluate: of a plain text; an expression that is shown has passed it.
    """
    change = _CHANGE.search(text)
    if change:
        old, new = (part.replace(",", "") for part in change.groups())
        return f"a percentage of change is written ({new} - {old})/{old}*100"
    comma = _DECIMAL_COMMA.search(text)
    if comma and not (len(comma[2]) == 3 and "." not in comma[1]) and "(" not in text:
        number = f"{comma[1].replace('.', '')}.{comma[2]}"
        return f"a comma is not a decimal sign; if {comma[0]} is one number, write {number}"
    try:
        found = tokens(text, commas)
    except ToolError:
        return None
    joined = [word for _, word in found if word.lower() in _JOINING]
    if joined:
        return f"{joined[0]!r} is not understood: one expression at a time"
    worded = [word for kind, word in found if kind == "name" and function_name(word) is None]
    unclear = [w for w in worded if w.lower() in OPERATION_WORDS and w.lower() != "square"]
    if unclear:
        return f"{unclear[0]!r} has no clear reading there; write it with signs and brackets"
    units, bare = _split(found)
    if not units:
        return None
    if not all(map(_is_unit, units)):
        unknown = next(unit for unit in units if not _is_unit(unit))
        return (
            f"{unknown[:60]!r} is not understood; leave units out, write operations as signs"
            if len(unknown) > 1
            else None
        )
    kinds = {_one(unit): unit for unit in reversed(units)}
    names = [repr(kinds[key]) for key in dict.fromkeys(map(_one, units))]
    names = [repr(sign) for sign in _MONEY if sign in written] + names
    if len(names) > 1:
        return f"the units {' and '.join(names)} are mixed; convert to one, then leave units out"
    try:
        evaluate(bare)
    except ToolError:
        return f"units are not calculated with; leave {names[0]} out"
    return f"units are not calculated with; without {names[0]}: {bare[:200]}"


def _is_unit(unit: str) -> bool:
    """Whether it is surely one: a letter alone may be a variable, or a million."""
    words = re.sub(r"^(?:square|cubic) |\^.$", "", unit).split("/")
    letter = len(words) > 1 or unit != words[0]
    return all(_one(word) in _KNOWN_UNITS or (letter and word in "mhs") for word in words)


def _one(unit: str) -> str:
    """Apple and apples are one unit."""
    folded = unit.casefold() if len(unit) > 2 else unit
    return folded[:-1] if len(folded) > 2 and folded.endswith("s") else folded


_SPACED = ("+", "-", "*", "/", "//", "of", "off", "mod", "=", "<", ">", "<=", ">=", "==", "!=")


def _split(found: list[Token]) -> tuple[list[str], str]:
    """The words behind numbers that are not functions, and the expression without them."""
    units: list[str] = []
    kept: list[str] = []
    last_number, index = "", 0
    while index < len(found) - 1:
        kind, word = found[index]
        behind = index > 0 and (found[index - 1][0] == "number" or found[index - 1][1] == ")")
        if kind == "name" and behind and _may_be_unit(found, index):
            words = [word]
            while found[index + 1][0] == "name" and _may_be_unit(found, index + 1):
                index += 1
                words.append(found[index][1])
            rest = found[index + 1 : index + 3]
            if len(rest) == 2 and rest[0][1] == "/" and rest[1][0] == "name":
                index += 2  # km/h
                words[-1] += f"/{found[index][1]}"
            elif len(rest) == 2 and rest[0][1] in ("^", "**") and rest[1][1] in ("2", "3"):
                index += 2  # m^2
                words[-1] += f"^{found[index][1]}"
            units.append(" ".join(words))
        else:
            apart = (word in _SPACED and kept) or (kind == "number" and kept[-1:] == [last_number])
            kept.append(f" {word} " if apart else word)
            last_number = word if kind == "number" else ""
        index += 1
    return units, "".join(kept).replace("  ", " ").strip()


def _may_be_unit(found: list[Token], index: int) -> bool:
    word = found[index][1]
    if found[index + 1][1] == "(" or word.lower() in ("pi", "e", "tau") or not word.isalpha():
        return False
    return function_name(word) is None or word.lower() in ("min", "sec")
