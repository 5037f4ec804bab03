"""The calculator: one arithmetic expression in, one number out.

The text comes from a model, so it is never given to Python's own evaluator: a small precedence
parser reads and computes in one pass. What the paper's tool (numexpr; arXiv 2502.05867) hangs on,
overflows on or rejects (``9**9**9``, ``2**70``, ``12,500*2``) is refused at once, exact, or
understood.
"""

from __future__ import annotations

import math
import re
from typing import NoReturn

from toolgym.errors import ToolError, near
from toolgym.tools.arithmetic import (
    FUNCTIONS,
    MAX_BITS,
    Number,
    add,
    divide,
    finite,
    floor_divide,
    multiply,
    power,
    remainder,
    to_text,
)
from toolgym.toolset import Tool

__all__ = ["calculate", "evaluate_expression", "make_calculator"]

MAX_CHARS = 4_000
MAX_DEPTH = 60  # nested brackets, signs and powers; each costs a few Python frames
_TOO_DEEP = f"the expression is nested deeper than {MAX_DEPTH} levels"

CONSTANTS: dict[str, Number] = {"pi": math.pi, "e": math.e, "tau": math.tau}
_ALIASES = {
    "nCr": "comb", "ncr": "comb", "C": "comb", "choose": "comb", "binom": "comb", "nPr": "perm",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "average": "avg", "log_10": "log10",
    "log_2": "log2", "dfrac": "frac", "tfrac": "frac", "ceiling": "ceil", "Abs": "abs",
}  # fmt: skip
_SIGNS = str.maketrans(
    {
        "×": "*", "✕": "*", "·": "*", "⋅": "*", "∙": "*", "∗": "*", "÷": "/", "∕": "/", "⁄": "/",
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "＋": "+", "（": "(", "）": ")",
        "，": ",", "％": "%", "＝": "=", "π": " pi ", "τ": " tau ", "√": " sqrt ",
        "²": "^2 ", "³": "^3 ", "½": "(1/2)", "¼": "(1/4)", "¾": "(3/4)", "\u202f": "",
        "\u2009": "", "\u200b": "", "\ufeff": "", "[": "(", "]": ")", "{": "(", "}": ")",
        "€": "", "£": "", "¥": "", "`": "",
    }
)  # fmt: skip
_LATEX = re.compile(r"\\(left|right|times|cdot|div|text|mathrm|[,;:! $%])?")
_LATEX_SIGNS = {"times": "*", "cdot": "*", "div": "/", "%": "%"}
_TARGET = re.compile(r"\s*[A-Za-z_]\w{0,40}\s*=(?!=)")
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}(?![0-9])|[0-9]+)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?
        |\.[0-9]+(?:[eE][+-]?[0-9]+)?)
      |(?P<times>(?<=[0-9)\s])[xX](?=\s*[0-9.(-]))
      |(?P<name>[A-Za-z_][A-Za-z_0-9]*)
      |(?P<sign>\*\*|//|[-+*/^%!(),=?])
    )""",
    re.VERBOSE,
)

# Binding powers: a larger one binds tighter.
_SUM, _PRODUCT, _SIGN, _POWER = 10, 20, 30, 40
_INFIX = {
    "+": (_SUM, add),
    "-": (_SUM, lambda a, b: add(a, -b)),
    "*": (_PRODUCT, multiply),
    "of": (_PRODUCT, multiply),
    "/": (_PRODUCT, divide),
    "//": (_PRODUCT, floor_divide),
    "mod": (_PRODUCT, remainder),
}
_WORDS = {
    "of": "of", "mod": "mod", "modulo": "mod", "percent": "%", "plus": "+", "minus": "-",
    "times": "*",
}  # fmt: skip

Token = tuple[str, str]
"""Kind (``number``, ``name``, ``sign`` or ``end``) and text."""


def make_calculator() -> Tool:
    """The ``Calculator`` tool. It runs in this process: every expression ends by itself."""
    return Tool(calculate, name="Calculator", inline=True)


def calculate(expression: str) -> str:
    """Calculate an arithmetic expression exactly.

    Args:
        expression: such as 12,500*3/4, 15% of 80, sqrt(2)^3 or 5!. Known are + - * / // mod ^ ! %,
            functions such as sqrt, round, min, max, gcd, comb, log (natural), log10, sin (radians),
            and pi and e.

    Raises:
        ToolError: ``failed to calculate '2+': ...``, with the reason.
    """
    try:
        return to_text(evaluate_expression(expression))
    except ToolError as error:
        shown = expression if len(expression) <= 80 else expression[:77] + "..."
        raise ToolError(f"failed to calculate {shown!r}: {error}") from error


def evaluate_expression(expression: str) -> Number:
    """The value of an expression, exact (int or Fraction) where it is rational.

    A leading ``name =`` and everything after a later ``=`` are passed over: models write both.

    Raises:
        ToolError: the reason alone.
    """
    if len(expression) > MAX_CHARS:
        raise ToolError(f"the expression is longer than {MAX_CHARS} characters")
    try:
        return _Parser(_tokens(_plain(expression))).result()
    except OverflowError as error:
        raise ToolError("the result is too large") from error
    except ZeroDivisionError as error:  # by a number too small for a double
        raise ToolError("division by zero") from error
    except ValueError as error:  # outside the domain of one of math's functions
        raise ToolError("the result is not a real number") from error


def _plain(text: str) -> str:
    """Typographic and LaTeX signs as keyboard signs, currency signs and a target name dropped."""
    if "\\" in text:
        text = _LATEX.sub(lambda found: _LATEX_SIGNS.get(found[1] or "", ""), text)
    text = text.replace("$", "")
    if not text.isascii() or any(sign in text for sign in "[]{}`"):
        text = text.translate(_SIGNS)
    target = _TARGET.match(text)
    return text[target.end() :] if target else text


def _tokens(text: str) -> list[Token]:
    found: list[Token] = []
    calls: list[bool] = []  # for each open bracket: does a comma in it separate arguments?
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise ToolError(f"{text[position:].lstrip()[0]!r} is not understood")
        kind, word = str(match.lastgroup), match[match.lastgroup or 0]
        position = match.end()
        if kind == "number" and "," in word and calls and calls[-1]:
            first = word.index(",")  # max(1,200) has two arguments
            position -= len(word) - first
            word = word[:first]
        elif kind == "times":
            kind, word = "sign", "*"
        elif kind == "name" and word.lower() in _WORDS and text[position : position + 1] != "(":
            kind, word = "sign", _WORDS[word.lower()]
        elif word == "(":
            calls.append(bool(found) and found[-1][0] == "name" and _arguments(found[-1][1]) > 1)
            if len(calls) > MAX_DEPTH:
                raise ToolError(_TOO_DEEP)
        elif word == ")" and calls:
            calls.pop()
        found.append((kind, word))
    found.append(("end", ""))
    return found


def _arguments(name: str) -> int:
    known = _function_name(name)
    return FUNCTIONS[known][2] if known else 0


def _function_name(name: str) -> str | None:
    name = _ALIASES.get(name, name)
    return name if name in FUNCTIONS else name.lower() if name.lower() in FUNCTIONS else None


class _Parser:
    """Precedence climbing over tokens, computing as it goes."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens, self._next, self._depth = tokens, 0, 0

    def result(self) -> Number:
        if self._tokens[0][0] == "end":
            raise ToolError("the expression is empty")
        value = self._expression(0)
        kind, word = self._tokens[self._next]
        if kind != "end" and word != "=":
            self._unexpected(kind, word)
        return value

    def _expression(self, least: int) -> Number:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ToolError(_TOO_DEEP)
        value = self._operand()
        while True:
            kind, word = self._tokens[self._next]
            if word in ("!", "%") and not self._is_modulo(word):
                self._next += 1
                value = self._call("factorial", [value]) if word == "!" else divide(value, 100)
            elif word in ("^", "**"):
                if least > _POWER:
                    break
                self._next += 1
                value = power(value, self._expression(_POWER))
            else:
                implied = word == "(" or kind == "name"
                operator = "*" if implied else "mod" if word == "%" else word
                if operator not in _INFIX or _INFIX[operator][0] <= least:
                    break
                self._next += not implied
                binding, apply = _INFIX[operator]
                value = apply(value, self._expression(binding))
        self._depth -= 1
        return value

    def _is_modulo(self, word: str) -> bool:
        """``10 % 3`` against ``10%`` and ``10% of 3``: a number right after it decides."""
        kind, following = self._tokens[self._next + 1]
        return word == "%" and (kind in ("number", "name") or following == "(")

    def _operand(self) -> Number:
        kind, word = self._tokens[self._next]
        self._next += 1
        if kind == "number":
            return _number(word)
        if kind == "name":
            return self._named(word)
        if word == "(":
            value = self._expression(0)
            self._close()
            return value
        if word in ("-", "+"):
            value = self._expression(_SIGN)
            return -value if word == "-" else value
        self._unexpected(kind, word)

    def _named(self, name: str) -> Number:
        function = _function_name(name)
        if function is None:
            for constant in (name, name.lower()):
                if constant in CONSTANTS:
                    return CONSTANTS[constant]
            known = [*FUNCTIONS, *CONSTANTS]
            raise ToolError(f"the name {name[:40]!r} is unknown{near(name[:40], known)}")
        if self._tokens[self._next][1] != "(":
            # `sqrt 16`, as the root sign gives it: one operand without brackets.
            if function != "sqrt":
                raise ToolError(f"{name} needs its argument in brackets")
            return self._call(function, [self._expression(_POWER)])
        self._next += 1
        values: list[Number] = []
        if self._tokens[self._next][1] != ")":
            values.append(self._expression(0))
            while self._tokens[self._next][1] == ",":
                self._next += 1
                values.append(self._expression(0))
        self._close()
        if function == "frac" and len(values) == 1 and self._tokens[self._next][1] == "(":
            self._next += 1  # LaTeX: \frac{1}{2}
            values.append(self._expression(0))
            self._close()
        return self._call(function, values)

    def _call(self, name: str, values: list[Number]) -> Number:
        function, fewest, most = FUNCTIONS[name]
        if not fewest <= len(values) <= most:
            needed = str(fewest) if fewest == most else f"{fewest} or more"
            raise ToolError(f"{name} needs {needed} argument(s), not {len(values)}")
        return finite(function(*values))

    def _close(self) -> None:
        kind, word = self._tokens[self._next]
        self._next += 1
        if word == ")":
            return
        if kind == "end":
            raise ToolError("a closing bracket is missing")
        self._unexpected(kind, word)

    def _unexpected(self, kind: str, word: str) -> NoReturn:
        if kind == "end":
            raise ToolError("the expression ends too early")
        if word == ",":
            raise ToolError("a comma stands only between thousands (12,500) or arguments")
        if kind == "number":
            raise ToolError(f"an operator is missing before {word[:40]}")
        raise ToolError(f"{word[:40]!r} is not expected there")


def _number(word: str) -> Number:
    plain = word.replace(",", "")
    if plain.isdigit():
        return int(plain)  # leading zeros are no sign of octal here
    mantissa, _, exponent = plain.lower().partition("e")
    left, _, right = mantissa.partition(".")
    shift = int(exponent or 0) - len(right) if len(exponent) <= 6 else MAX_BITS
    if abs(shift) * 3.33 > MAX_BITS:
        raise ToolError(f"the number {word[:40]} is out of range")
    return multiply(int(left + right or "0"), power(10, shift))
