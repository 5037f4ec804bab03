"""The grammar of expressions: one precedence-climbing parser, whatever the values are.

The calculator computes numbers while it reads; symbolic work builds a tree. Both read by the same
rules, since both are this class with other values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from toolgym.errors import ToolError
from toolgym.tools.calculator.functions import FUNCTIONS
from toolgym.tools.calculator.notation import MAX_DEPTH, TOO_DEEP, Token

__all__ = ["COMPARISONS", "POWER", "PRODUCT", "SIGN", "SUM", "Parser", "function_name", "width"]

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
}  # fmt: skip
_UNBRACKETED = ("sqrt", "cbrt")  # as the root signs give them: one operand without brackets
_PAIRED = ("frac", "radical", "comb")  # LaTeX: \frac{1}{2}, \sqrt[3]{8}, \binom{5}{2}


def function_name(name: str) -> str | None:
    """The function that a name means, or None."""
    name = _ALIASES.get(name, name)
    return name if name in FUNCTIONS else name.lower() if name.lower() in FUNCTIONS else None


def width(name: str) -> int:
    """Most arguments of the function of that name; 0: there is none."""
    known = function_name(name)
    return FUNCTIONS[known][2] if known else 0


class Parser(ABC, Generic[V]):
    """Reads tokens; what a number, a name and an operation become is a subclass's matter.

    Args:
        tokens: from `toolgym.tools.calculator.notation.tokens`.
    """

    infix: ClassVar[Mapping[str, tuple[int, Callable[[Any, Any], Any]]]]

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens, self.next, self._depth = tokens, 0, 0

    @abstractmethod
    def number(self, word: str) -> V:
        """The value of a literal."""

    @abstractmethod
    def named(self, name: str) -> V:
        """The value of a name that is no function.

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
        while True:
            kind, word = self.tokens[self.next]
            if word in ("!", "%") and not self._is_modulo(word):
                value = self._postfix(word, value)
            elif word in ("^", "**"):
                if least > POWER:
                    break
                self.next += 1
                value = self.power(value, self.expression(POWER))
            else:
                implied = word == "(" or kind == "name"
                operator = "*" if implied else "mod" if word == "%" else word
                if operator not in infix or infix[operator][0] <= least:
                    break
                self.next += not implied
                binding, apply = infix[operator]
                value = apply(value, self.expression(binding))
        self._depth -= 1
        return value

    def _is_modulo(self, word: str) -> bool:
        """``10 % 3`` against ``10%`` and ``10% of 3``: a number right after it decides."""
        kind, following = self.tokens[self.next + 1]
        return word == "%" and (kind in ("number", "name") or following == "(")

    def _postfix(self, word: str, value: V) -> V:
        self.next += 1
        if word == "%":
            share: V = self.infix["/"][1](value, self.number("100"))
            return share
        if self.tokens[self.next][1] == "!":
            raise ToolError("'!!' has two meanings; write (5!)! for a factorial of a factorial")
        return self.call("factorial", (value,))

    def _operand(self) -> V:
        kind, word = self.tokens[self.next]
        self.next += 1
        if kind == "number":
            return self.number(word)
        if kind == "name":
            return self._named(word)
        if word == "(":
            return self.bracket()
        if word in ("-", "+"):
            value = self.expression(SIGN)
            return self.negative(value) if word == "-" else value
        self.unexpected(kind, word)

    def _named(self, name: str) -> V:
        function, base = self.function(name), None
        if function is None and name[:4].lower() == "log_" and name[4:].isdecimal():
            function, base = "log", self.number(name[4:])
        if function is None:
            return self.named(name)
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
            if not self.is_bare(function):
                raise ToolError(f"{name} needs its argument in brackets")
            return self.call(function, (self.expression(POWER),))
        self.next += 1
        values: list[V] = []
        if self.tokens[self.next][1] != ")":
            values.append(self.argument())
            while self.tokens[self.next][1] == ",":
                self.next += 1
                values.append(self.argument())
        self.close()
        if len(values) == 1 and function in _PAIRED and self.tokens[self.next][1] == "(":
            self.next += 1
            values.append(self.argument())
            self.close()
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
            raise ToolError("a comma stands only between thousands (12,500) or arguments")
        if kind == "number":
            raise ToolError(f"an operator is missing before {word[:40]}")
        raise ToolError(f"{word[:40]!r} is not expected there")
