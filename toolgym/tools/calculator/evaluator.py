"""Arithmetic by one pass over an expression: exact numbers, comparisons, reasons for refusals."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from toolgym.errors import ToolError
from toolgym.tools.calculator.arithmetic import (
    TINY,
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
from toolgym.tools.calculator.grammar import (
    COMPARISONS,
    PRODUCT,
    SUM,
    Parser,
    commas,
    function_name,
    near,
)
from toolgym.tools.calculator.notation import MAX_CHARS, plain, refuse_dates
from toolgym.tools.calculator.tokens import Token, tokens
from toolgym.tools.calculator.wording import NUMBER, OPERATION_WORDS, signs

__all__ = ["evaluate_expression", "reason"]

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


CONSTANTS: dict[str, Number] = {"pi": math.pi, "e": math.e, "tau": math.tau}
_SIGNS = frozenset(("+", "-", "*", "/", "**", "//", "(", ")", "."))
_STEPS = frozenset(("floor", "ceil", "sign", "min", "max", "median", "mod", "ln", "log", "root"))
_COMPARE: dict[str, Callable[[Number, Number], bool]] = {
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
# The common case needs no change of signs, and its tokens no look at what stands around them.
_SIMPLE = re.compile(r"[0-9+*/(). -]*")
_WORD = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+|\*\*|//|[-+*/().]")


def evaluate_expression(expression: str) -> Number:
    """The value of an expression, exact (int or Fraction) where it is rational.

    A leading ``name =`` is passed over, and so is a result after ``=``: models write both. A
    comparison is True or False.

    Raises:
        ToolError: the reason alone.
    """
    if len(expression) <= MAX_CHARS and _SIMPLE.fullmatch(expression):
        refuse_dates(expression)
        words = _WORD.findall(expression)
        found = [("sign" if word in _SIGNS else "number", word) for word in words]
        found.append(("end", ""))
        try:
            return _evaluate(found)
        except ToolError as error:
            if "..." not in expression and " " not in expression.strip():
                raise ToolError(str(error)) from error
    text = plain(expression)
    try:
        return _evaluate(tokens(text, commas))
    except ToolError as error:
        last, other = error, text
        try:
            other = signs(text) or text
            if other != text.strip():
                return _evaluate(tokens(other, commas))
        except ToolError as worded:
            last = worded
        said = reason(other, expression, lambda bare: _evaluate(tokens(bare, commas)))
        raise ToolError(said or str(last)) from error


def _evaluate(found: list[Token]) -> Number:
    try:
        return _Evaluator(found).result()
    except OverflowError as error:
        raise ToolError("the result is too large") from error
    except ZeroDivisionError as error:  # by a number too small for a double
        raise ToolError("division by zero") from error
    except ValueError as error:  # outside the domain of one of math's functions
        raise ToolError("the result is not a real number") from error


def _compare(word: str, left: Number, right: Number) -> bool:
    """Exact for exact numbers; otherwise what prints alike is equal: ``sqrt(2)^2 == 2``."""
    if left is TINY or right is TINY:
        raise ToolError("a number nearer to 0 than any double is not compared")
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
        """The value of all tokens; of a chain of ``=`` the first side.

        Raises:
            ToolError: they are not an expression, or sides that are not results differ.
        """
        if self.tokens[0][0] == "end":
            raise ToolError("the expression is empty")
        value = self.expression(0)
        kind, word = self.tokens[self.next]
        if kind == "end":
            return value
        if word in COMPARISONS:
            value = self._comparison(value)
        elif word == "=":
            self._claim(value)
        kind, word = self.tokens[self.next]
        if word == "?":
            self.next += 1
        elif kind != "end":
            self.unexpected(kind, word)
        if self.tokens[self.next][0] != "end":
            self.unexpected(*self.tokens[self.next])
        return value

    def _claim(self, first: Number) -> None:
        """Pass ``= 12`` and ``= 2*6 = 12``; a plain number is a result, whatever it says.

        Raises:
            ToolError: another expression has another value (``3*4 = 12+5 = 17``).
        """
        computed = self.next > 2
        last = first
        while self.tokens[self.next][1] == "=":
            self.next += 1
            begin = self.next
            if self.tokens[begin][0] == "end" or self.tokens[begin][1] == "?":
                return
            side = self.expression(0)
            words = [word for _, word in self.tokens[begin : self.next]]
            literal = len([word for word in words if word not in "-+%"]) == 1
            if not _compare("==", side, first) and not (literal and computed and last is first):
                raise ToolError(
                    f"the sides of '=' differ: {to_text(first)} and {to_text(side)}; write the one "
                    "that is meant"
                )
            last = side

    def _comparison(self, left: Number) -> bool:
        """``1 < 2 < 3`` compares neighbours, as in mathematics."""
        holds = True
        while (word := self.tokens[self.next][1]) in COMPARISONS:
            self.next += 1
            right = self.expression(0)
            holds = holds and _compare(word, left, right)
            left = right
        if self.tokens[self.next][1] == "=" and self.tokens[self.next + 1][1] in ("", "?"):
            self.next += 1  # nothing, or a question mark, after it
        return holds

    def function(self, name: str) -> str | None:
        """The function that a name means; ``P`` is not a variable here."""
        return "perm" if name == "P" else function_name(name)

    def number(self, word: str) -> Number:
        """An integer or an exact fraction."""
        return read_number(word)

    def named(self, name: str) -> Number:
        """A constant."""
        for constant in (name, name.lower()):
            if constant in CONSTANTS:
                return CONSTANTS[constant]
        if name in ("K", "M", "B", "bn", "mn"):
            raise ToolError(
                f"the name {name!r} is unknown; write a number such as millions in full"
            )
        if len(name) == 1:
            raise ToolError(
                f"the name {name!r} is unknown; leave a unit out; with variables write "
                "simplify(...), solve(...), diff(...) or integrate(...)"
            )
        raise ToolError(f"the name {name[:40]!r} is unknown{near(name)}")

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
        if name in _STEPS and any(value is TINY for value in values):
            raise ToolError(f"{name} needs a number that is not nearer to 0 than any double")
        return finite(function(*values))
