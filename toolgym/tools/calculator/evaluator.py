"""Arithmetic by one pass over an expression: exact numbers, comparisons, reasons for refusals."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

from toolgym.errors import ToolError, did_you_mean
from toolgym.tools.calculator.arithmetic import (
    Number,
    add,
    divide,
    finite,
    floor_divide,
    multiply,
    power,
    read_number,
    remainder,
    to_text,
)
from toolgym.tools.calculator.functions import FUNCTIONS
from toolgym.tools.calculator.grammar import COMPARISONS, PRODUCT, SUM, Parser, function_name, width
from toolgym.tools.calculator.notation import Token, closes_at_end, plain, tokens

__all__ = ["evaluate_expression", "without_units"]

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


CONSTANTS: dict[str, Number] = {"pi": math.pi, "e": math.e, "tau": math.tau}
_COMPARE: dict[str, Callable[[Number, Number], bool]] = {
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
# What stands around an expression in an answer of a model, tried without when the whole fails.
_ASIDE = re.compile(
    r"\s*(?:please\s+)?(?:(?:what(?:'s|\s+is|\s+are)|find|calculate|compute|evaluate|is)\b[\s:]*)?"
    r"(?:the\s+(?:value|result)\s+of\s+)?",
    re.IGNORECASE,
)


def evaluate_expression(expression: str) -> Number:
    """The value of an expression, exact (int or Fraction) where it is rational.

    A leading ``name =`` and everything after a later ``=`` are passed over: models write both. A
    comparison is True or False.

    Raises:
        ToolError: the reason alone.
    """
    text = plain(expression)
    try:
        return _evaluate(text)
    except ToolError as error:
        inner = _ASIDE.sub("", text, count=1).rstrip(" \t\n.;?")
        if inner.startswith("(") and closes_at_end(inner):
            inner = inner[1:-1]  # \( 1/2 < 2 \)
        if inner and inner != text.strip():
            try:
                return _evaluate(inner)
            except ToolError:
                text = inner
        reason = without_units(text, expression, frozenset(CONSTANTS))
        raise ToolError(reason or str(error)) from error


def _evaluate(text: str) -> Number:
    try:
        return _Evaluator(tokens(text, width)).result()
    except OverflowError as error:
        raise ToolError("the result is too large") from error
    except ZeroDivisionError as error:  # by a number too small for a double
        raise ToolError("division by zero") from error
    except ValueError as error:  # outside the domain of one of math's functions
        raise ToolError("the result is not a real number") from error


def _compare(word: str, left: Number, right: Number) -> bool:
    """Exact for exact numbers; otherwise what prints alike is equal: ``sqrt(2)^2 == 2``."""
    rounded = isinstance(left, float) or isinstance(right, float)
    if rounded and to_text(left) == to_text(right):
        return word in ("==", "<=", ">=")
    return _COMPARE[word](left, right)


def _discount(share: Number, price: Number) -> Number:
    """``20% off 50`` is what is left to pay."""
    return multiply(add(1, -share), price)


class _Evaluator(Parser[Number]):
    """Computes as it reads."""

    infix: ClassVar[Mapping[str, tuple[int, Callable[[Any, Any], Any]]]] = {
        "+": (SUM, add),
        "-": (SUM, lambda a, b: add(a, -b)),
        "*": (PRODUCT, multiply),
        "of": (PRODUCT, multiply),
        "off": (PRODUCT, _discount),
        "/": (PRODUCT, divide),
        "//": (PRODUCT, floor_divide),
        "mod": (PRODUCT, remainder),
    }

    def result(self) -> Number:
        """The value of all tokens up to an ``=``."""
        if self.tokens[0][0] == "end":
            raise ToolError("the expression is empty")
        value = self.expression(0)
        kind, word = self.tokens[self.next]
        if kind == "end" or word in ("=", "?"):
            return value
        if word in COMPARISONS:
            return self._comparison(value)
        self.unexpected(kind, word)

    def _comparison(self, left: Number) -> bool:
        """``1 < 2 < 3`` compares neighbours, as in mathematics."""
        holds = True
        while (word := self.tokens[self.next][1]) in COMPARISONS:
            self.next += 1
            right = self.expression(0)
            holds = holds and _compare(word, left, right)
            left = right
        kind, word = self.tokens[self.next]
        if kind != "end" and word not in ("=", "?"):
            self.unexpected(kind, word)
        return holds

    def number(self, word: str) -> Number:
        """An integer or an exact fraction."""
        return read_number(word)

    def named(self, name: str) -> Number:
        """A constant."""
        for constant in (name, name.lower()):
            if constant in CONSTANTS:
                return CONSTANTS[constant]
        known = [*FUNCTIONS, *CONSTANTS]
        if len(name) == 1:
            raise ToolError(
                f"the name {name!r} is unknown; with variables write simplify(...), solve(...), "
                "diff(...) or integrate(...)"
            )
        raise ToolError(f"the name {name[:40]!r} is unknown{did_you_mean(name[:40], known)}")

    def negative(self, value: Number) -> Number:
        """The value with its sign changed."""
        return -value

    def power(self, base: Number, exponent: Number) -> Number:
        """``base ^ exponent``."""
        return power(base, exponent)

    def call(self, name: str, values: Sequence[Number]) -> Number:
        """The value of a function."""
        function, fewest, most = FUNCTIONS[name]
        if not fewest <= len(values) <= most:
            needed = str(fewest) if fewest == most else f"{fewest} or more"
            raise ToolError(f"{name} needs {needed} argument(s), not {len(values)}")
        return finite(function(*values))
