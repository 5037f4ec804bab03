"""The grammar of expressions: one precedence-climbing parser, whatever the values are.

The calculator computes numbers while it reads; symbolic work builds a tree. Both read by the same
rules, since both are this class with other values.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from toolgym.errors import ToolError, did_you_mean
from toolgym.tools.calculator.functions import FUNCTIONS
from toolgym.tools.calculator.tokens import MAX_DEPTH, TOO_DEEP, Commas, Token

__all__ = [
    *("COMPARISONS", "POWER", "PRODUCT", "SIGN", "SUM", "Parser", "commas", "function_name"),
    "near",
]

V = TypeVar("V")

# Binding powers: a larger one binds tighter.
SUM, PRODUCT, SIGN, POWER = 10, 20, 30, 40
COMPARISONS = ("<", ">", "<=", ">=", "==", "!=")
_ALIASES = {
    "nCr": "comb", "ncr": "comb", "C": "comb", "choose": "comb", "binom": "comb", "nPr": "perm",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "average": "avg", "log_10": "log10",
    "log_2": "log2", "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "comb",
    "ceiling": "ceil", "Abs": "abs", "sgn": "sign", "nthroot": "root", "binomial": "comb",
    "int": "trunc", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
    "tbinom": "comb", "Fraction": "frac",
    "cuberoot": "cbrt", "squareroot": "sqrt", "prod": "product", "fsum": "sum", "fabs": "abs",
    "absolute": "abs", "power": "pow", "maximum": "max", "minimum": "min", "amax": "max",
    "amin": "min", "fact": "factorial", "fmod": "mod", "sine": "sin", "cosine": "cos",
    "tangent": "tan", "permutations": "perm", "combinations": "comb", "around": "round",
}  # fmt: skip
_UNBRACKETED = ("sqrt", "cbrt")  # as the root signs give them: one operand without brackets
_ANGLES = ("sin", "cos", "tan", "cot", "sec", "csc")  # of a number: radians or degrees
# Read without brackets before one clear operand; a "12 round 5" is not understood.
_BARE = frozenset(("ln", "log", "log2", "log10", *_ANGLES, "asin", "acos", "atan"))
_ENDS = (")", ",", "+", "-", "=", "?", *("<", ">", "<=", ">=", "==", "!="))
_DIVISIONS = ("/", "//", "mod")
_WITH_DIGITS = re.compile(r"(log)_?([0-9]+)|(sqrt|cbrt|ln)([0-9]+)", re.IGNORECASE)
_PAIRED = ("frac", "radical", "comb")  # LaTeX: \frac{1}{2}, \sqrt[3]{8}, \binom{5}{2}


def function_name(name: str) -> str | None:
    """The function that a name means, or None."""
    name = _ALIASES.get(name, name)
    return name if name in FUNCTIONS else name.lower() if name.lower() in FUNCTIONS else None


def commas(name: str) -> Commas:
    """What commas between digits part in the call of a name."""
    known = function_name(name)
    _, fewest, most = FUNCTIONS[known] if known else (None, 1, 1)
    if most == 1 or fewest == most:
        return "digits" if most == 1 else "arguments"
    return "pair" if fewest == 2 else "unclear"


def near(name: str, others: Iterable[str] = ()) -> str:
    """Names that are hardly more than a slip away, as the tail of a message, or nothing."""
    if not name.isalpha() or len(name) < 3:
        return ""
    return did_you_mean(name[:40], [*FUNCTIONS, *others], cutoff=0.8)


class Parser(ABC, Generic[V]):
    """Reads tokens; what a number, a name and an operation become is a subclass's matter.

    Args:
        tokens: from `toolgym.tools.calculator.notation.tokens`.
    """

    infix: ClassVar[Mapping[str, tuple[int, Callable[[Any, Any], Any]]]]

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens, self.next, self._depth = tokens, 0, 0
        self._percentage = -1  # where the last one ended

    @abstractmethod
    def number(self, word: str) -> V:
        """The value of a literal."""

    @abstractmethod
    def named(self, name: str) -> V:
        """The value of a name that is not a function.

        Raises:
            ToolError: it is unknown.
        """

    @abstractmethod
    def negative(self, value: V) -> V:
        """The value with its sign changed."""

    @abstractmethod
    def power(self, base: V, exponent: V) -> V:
        """``base ^ exponent``."""

    @abstractmethod
    def call(self, name: str, values: Sequence[V]) -> V:
        """The value of a function; ``name`` is one that `function` gave."""

    def function(self, name: str) -> str | None:
        """The function that a name means, or None."""
        return function_name(name)

    def is_bare(self, function: str) -> bool:
        """Whether the operand that comes next needs no brackets, as after a root sign."""
        return function in _UNBRACKETED

    def bare(self, name: str, function: str) -> V:
        """The one operand of a function that stands there without brackets: ``log2 8``, ``√16``.

        Raises:
            ToolError: it is not clear how far it goes, or in which unit an angle is.
        """
        kind, word = self.tokens[self.next]
        clear = function in _BARE and kind in ("number", "name")
        bare = self.is_bare(function)
        if bare:
            value = self.expression(POWER)
        elif clear and (kind == "name" or function not in _ANGLES):
            value = self._operand()
        else:
            raise ToolError(f"{name} needs its argument in brackets")
        kind, word = self.tokens[self.next]
        if function in _UNBRACKETED:
            clear = word != "(" and kind != "name" and self.tokens[self.next - 1][1] not in "!%"
        elif not bare:
            clear = kind == "end" or word in _ENDS or self._is_bare_function(word)
        if not clear:
            raise ToolError(f"{name} needs its argument in brackets: its end is not clear")
        return value

    def _is_bare_function(self, operator: str) -> bool:
        """``ln 8 / ln 2``: an operator, and another function without brackets."""
        kind, word = self.tokens[self.next + 1]
        return (
            operator in ("*", "/")
            and kind == "name"
            and self.function(word) is not None
            and self.tokens[self.next + 2][1] != "("
        )

    def argument(self) -> V:
        """One argument of a function."""
        return self.expression(0)

    def bracket(self) -> V:
        """What stands in a bracket that was just opened."""
        value = self.expression(0)
        self.close()
        return value

    def expression(self, least: int) -> V:
        """Read as far as operators bind tighter than ``least``.

        Raises:
            ToolError: what stands there is no expression.
        """
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ToolError(TOO_DEEP)
        value = self._operand()
        infix = self.infix
        # The operator before; whether the value is a percentage, or a sum of percentages.
        last, share = "", self._percentage == self.next
        while True:
            kind, word = self.tokens[self.next]
            if word == "!" or word == "%":
                value, share, last = self._postfix(word, value), word == "%", word
            elif word == "^" or word == "**":
                if least > POWER:
                    break
                self.next += 1
                value = self.power(value, self.expression(POWER))
            else:
                implied = word == "(" or kind == "name" or (kind == "number" and last == "!")
                operator = "*" if implied else word
                if operator not in infix or infix[operator][0] <= least:
                    break
                self.next += not implied
                binding, apply = infix[operator]
                begin = self.next
                right = self.expression(binding)
                if implied and last in _DIVISIONS:
                    raise ToolError("a product without a sign after a quotient has two readings")
                if self._percentage == self.next and binding == SUM:
                    self._check_share(operator, value, share, begin)
                else:
                    share = False
                value, last = apply(value, right), operator
        self._depth -= 1
        return value

    def _check_share(self, operator: str, value: V, share: bool, begin: int) -> None:
        """Refuse ``100 + 10%``: 110 or 100.1; ``1 + 10%`` and ``50% + 10%`` are clear.

        Raises:
            ToolError: it has two readings.
        """
        bare = begin + 2 == self.next or self.tokens[begin][1] == "("
        if bare and not share and value != self.number("1"):
            raise ToolError(
                "a percentage added to a number or taken from it has two readings; for a share of "
                f"that number multiply it by (1 {operator} the percentage), for a plain number "
                "divide by 100 instead of writing %"
            )

    def _postfix(self, word: str, value: V) -> V:
        self.next += 1
        if word == "%":
            self._percentage = self.next
            share: V = self.infix["/"][1](value, self.number("100"))
            return share
        if self.tokens[self.next][1] == "!":
            raise ToolError("'!!' has two meanings; use brackets for a factorial of a factorial")
        return self.call("factorial", (value,))

    def _operand(self) -> V:
        kind, word = self.tokens[self.next]
        self.next += 1
        if kind == "number":
            return self.number(word)
        if kind == "name":
            return self._by_name(word)
        if word == "(":
            return self.bracket()
        if word in ("-", "+"):
            value = self.expression(SIGN)
            return self.negative(value) if word == "-" else value
        self.unexpected(kind, word)

    def _by_name(self, name: str) -> V:
        function, base = self.function(name), None
        if function is None:
            digits = _WITH_DIGITS.fullmatch(name)
            if digits is None:
                return self.named(name)
            if digits[3]:
                return self.call(digits[3].lower(), (self.number(digits[4]),))
            function, base = "log", self.number(digits[2])
        if self.tokens[self.next][1] in ("^", "**"):
            if self._is_inverse() and f"a{function}" in FUNCTIONS:
                return self._applied(name, f"a{function}", base)
            raised = self._raised()
            return self.power(self._applied(name, function, base), raised)
        return self._applied(name, function, base)

    def _is_inverse(self) -> bool:
        """Pass ``^-1``, which after a function's name means its inverse: ``sin^-1(x)``."""
        follow = [word for _, word in self.tokens[self.next + 1 : self.next + 5]]
        for sign in (["-", "1"], ["(", "-", "1", ")"]):
            if follow[: len(sign)] == sign:
                self.next += 1 + len(sign)
                return True
        return False

    def _raised(self) -> V:
        """The number to which a function's name is raised, as in ``sin^2(x)``."""
        follow = [word for _, word in self.tokens[self.next : self.next + 4]]
        bracketed = follow[1] == "(" and follow[3:] == [")"]
        digits = follow[2] if bracketed else follow[1]
        if not digits.isdecimal():
            raise ToolError("a function's name is raised to a whole number only, as in sin^2(x)")
        self.next += 4 if bracketed else 2
        return self.number(digits)

    def _applied(self, name: str, function: str, base: V | None) -> V:
        """The value of a function whose arguments come next."""
        if self.tokens[self.next][1] != "(":
            if function == "log" and base is None:
                raise ToolError("log is the natural logarithm; write ln(...) or log10(...)")
            value = self.bare(name, function)
            return self.call(function, (value,) if base is None else (value, base))
        self.next += 1
        values: list[V] = []
        if self.tokens[self.next][1] != ")":
            values.append(self.argument())
            while self.tokens[self.next][1] == ",":
                self.next += 1
                values.append(self.argument())
        self.close()
        if len(values) == 1 and function in _PAIRED:
            kind, word = self.tokens[self.next]
            if word == "(":
                self.next += 1
                values.append(self.argument())
                self.close()
            elif kind == "number" and (len(word) == 1 or function == "radical"):  # \frac{1}2
                self.next += 1
                values.append(self.number(word))
        return self.call(function, values if base is None else [*values, base])

    def close(self) -> None:
        """Pass a closing bracket.

        Raises:
            ToolError: there is none.
        """
        kind, word = self.tokens[self.next]
        self.next += 1
        if word == ")":
            return
        if kind == "end":
            raise ToolError("a closing bracket is missing")
        self.unexpected(kind, word)

    def unexpected(self, kind: str, word: str) -> NoReturn:
        """Say why a token cannot stand where it stands.

        Raises:
            ToolError: always.
        """
        if kind == "end":
            raise ToolError("the expression ends too early")
        if word == ",":
            raise ToolError("a comma stands only between thousands or arguments")
        if kind == "number":
            raise ToolError(f"an operator is missing before {word[:40]}")
        raise ToolError(f"{word[:40]!r} is not expected there")
