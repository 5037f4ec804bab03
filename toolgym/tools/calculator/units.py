"""The refusal of units: which they are, and the expression as it would stand without them."""

from __future__ import annotations

from collections.abc import Collection

from toolgym.errors import ToolError
from toolgym.tools.calculator.grammar import function_name, width
from toolgym.tools.calculator.notation import Token, tokens

__all__ = ["without_units"]

# Letters that more often stand for a unit than for a variable, right after a number.
_LETTERS = frozenset("mgshlLKCFWVNJM")
_NO_UNITS = frozenset(["and", "or", "not", "is", "if", "else", "then", "pm", "infinity"])
_SIGNS = ("$", "€", "£", "¥", "₹", "₩", "₽", "₺", "₪", "฿")


def without_units(text: str, written: str, constants: Collection[str]) -> str | None:
    """The reason for refusing an expression with units, or None where there are none.

    Args:
        text: from `toolgym.tools.calculator.notation.plain`.
        written: as the model wrote it, with signs of currencies.
        constants: names that are numbers.
    """
    try:
        found = tokens(text, width)
    except ToolError:
        return None
    units, bare = _split(found, constants)
    if not units:
        return None
    kinds = {_one(unit): unit for unit in reversed(units)}
    names = [repr(name) for name in dict.fromkeys(kinds[_one(unit)] for unit in units)]
    names = [repr(sign) for sign in _SIGNS if sign in written] + names
    if len(names) > 1:
        return f"the units {' and '.join(names)} are mixed; convert to one, then leave units out"
    if len(units[0]) == 1:
        return f"the name {names[0]} is unknown; if it is a unit, leave it out: {bare[:200]}"
    return f"units are not calculated with; without {names[0]}: {bare[:200]}"


def _one(unit: str) -> str:
    """Apple and apples are one unit."""
    folded = unit.casefold() if len(unit) > 2 else unit
    return folded[:-1] if len(folded) > 2 and folded.endswith("s") else folded


def _split(found: list[Token], constants: Collection[str]) -> tuple[list[str], str]:
    """The units, and the expression without them."""
    units: list[str] = []
    kept: list[str] = []
    last_number, index = "", 0
    while index < len(found) - 1:
        kind, word = found[index]
        after_number = index > 0 and (found[index - 1][0] == "number" or found[index - 1][1] == ")")
        if kind == "name" and after_number and _is_unit(found, index, constants):
            words = [word]
            while found[index + 1][0] == "name" and _is_unit(found, index + 1, constants):
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


_SPACED = ("+", "-", "*", "/", "//", "of", "off", "mod", "=", "<", ">", "<=", ">=", "==", "!=")


def _is_unit(found: list[Token], index: int, constants: Collection[str]) -> bool:
    word = found[index][1]
    if found[index + 1][1] == "(" or word.lower() in constants or not word.isalpha():
        return False
    if len(word) == 1:
        return word in _LETTERS
    if word.lower() in _NO_UNITS:
        return False
    return function_name(word) is None or word.lower() in ("min", "sec")
