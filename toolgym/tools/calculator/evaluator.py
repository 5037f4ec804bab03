"""Arithmetic by one pass over an expression: exact numbers, comparisons, reasons for refusals."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from toolgym.errors import ToolError, near
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
from toolgym.tools.calculator.grammar import COMPARISONS, PRODUCT, SUM, Parser, width
from toolgym.tools.calculator.notation import closes_at_end, plain, tokens
from toolgym.tools.calculator.units import without_units

__all__ = ["evaluate_expression"]

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
        raise ToolError(f"the name {name[:40]!r} is unknown{near(name[:40], known)}")

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
