"""The syntax tree of expressions with variables: read, built, printed, and as plain lists.

A tree is made by `TreeReader` from text, or from what the symbolic worker sends back. It holds no
object of sympy and is never turned into text that anything but our own parser reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from toolgym.errors import ToolError
from toolgym.tools.calculator import arithmetic
from toolgym.tools.calculator.functions import FUNCTIONS
from toolgym.tools.calculator.grammar import (
    COMPARISONS,
    POWER,
    PRODUCT,
    SUM,
    Parser,
    function_name,
    near,
)

__all__ = [
    *("CONSTANTS", "OPERATIONS", "Node", "TreeReader", "from_lists", "operation_name", "to_lists"),
]

CONSTANTS = ("pi", "e", "i", "infinity", "tau", "E", "I")
_CONSTANT_ALIASES = {"oo": "infinity", "inf": "infinity", "Pi": "pi", "PI": "pi"}
MAX_EXPONENT = 10_000  # of a power whose base is not a number
MAX_NUMBER_BITS = 10_000  # 3 010 digits: below Python's limit for the text of an integer
MAX_TREE = 100  # levels

# Name to most arguments. Numbers of arguments are checked where the operation is done.
OPERATIONS = {
    "simplify": 1, "expand": 1, "factor": 1, "cancel": 1, "apart": 2, "together": 1, "collect": 2,
    "solve": 20, "diff": 6, "integrate": 4, "limit": 4, "sum": 1_000, "product": 4, "subs": 3,
    "taylor": 4,
}  # fmt: skip
_OPERATION_ALIASES = {
    "derivative": "diff", "differentiate": "diff", "integral": "integrate",
    "antiderivative": "integrate", "lim": "limit", "summation": "sum", "prod": "product",
    "factorise": "factor", "factorize": "factor", "factorint": "factor", "roots": "solve",
    "solveset": "solve", "nsolve": "solve", "trigsimp": "simplify", "ratsimp": "simplify",
    "radsimp": "simplify", "series": "taylor", "substitute": "subs",
}  # fmt: skip
# Exact for exact arguments, and guarded: done while reading, so that sympy never sees a huge one.
_FOLDED = frozenset(
    (
        *("factorial", "comb", "perm", "gcd", "lcm", "mod", "floor", "ceil", "round", "trunc"),
        *("abs", "min", "max", "mean", "avg", "median", "sign", "sum"),
    )
)
_NO_NAMES = frozenset(  # words of a sentence that was not understood, no products of letters
    ("the", "and", "for", "of", "is", "are", "to", "in", "at", "if", "or", "by", "all", "with")
)
_NO_VARIABLE = frozenset("fgh")  # f(x) means a function, x(x+1) a product


@dataclass(frozen=True, slots=True)
class Node:
    """A number, a name, or an operation on parts.

    Args:
        kind: ``number``, ``decimal`` (rounded), ``name``, ``list``, a sign (``+ * / ^ neg =`` or a
            comparison) or the name of a function or operation.
        value: of a number, a Fraction; of a decimal or name, its text.
        parts: the operands.
    """

    kind: str
    value: Fraction | str = ""
    parts: tuple[Node, ...] = ()
    depth: int = 0

    def __str__(self) -> str:
        return _print(self, 0)

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def variables(self) -> list[str]:
        """Names that are not constants, sorted."""
        found = {str(n.value) for n in self.walk() if n.kind == "name"}
        return sorted(found.difference(CONSTANTS))


def number(value: Fraction | int) -> Node:
    """A number, exact.

    Raises:
        ToolError: it has more than `MAX_NUMBER_BITS`.
    """
    if arithmetic.bits(value) > MAX_NUMBER_BITS:
        raise ToolError("a number in it is too large for work with variables")
    return Node("number", Fraction(value))


def name(text: str) -> Node:
    """A variable or constant."""
    return Node("name", text)


def apply(kind: str, *parts: Node) -> Node:
    """An operation on parts, as it stands.

    Raises:
        ToolError: the tree becomes too deep.
    """
    depth = 1 + max((part.depth for part in parts), default=0)
    if depth > MAX_TREE:
        raise ToolError(f"the expression is nested deeper than {MAX_TREE} levels")
    return Node(kind, "", parts, depth)


def _both_numbers(left: Node, right: Node) -> bool:
    return left.kind == right.kind == "number"


def _folding(kind: str, compute: Callable[[Any, Any], Any]) -> Callable[[Node, Node], Node]:
    def build(left: Node, right: Node) -> Node:
        if _both_numbers(left, right):
            return number(compute(left.value, right.value))
        if left.kind == kind and kind in ("+", "*"):  # one long sum is one level
            return Node(kind, "", (*left.parts, right), max(left.depth, right.depth + 1))
        return apply(kind, left, right)

    return build


add = _folding("+", arithmetic.add)
multiply = _folding("*", arithmetic.multiply)
divide = _folding("/", arithmetic.divide)
remainder = _folding("mod", arithmetic.remainder)


def negative(value: Node) -> Node:
    """``-value``."""
    return number(-value.value) if isinstance(value.value, Fraction) else apply("neg", value)


def power(base: Node, exponent: Node) -> Node:
    """``base ^ exponent``.

    Raises:
        ToolError: the exponent or the result is too large.
    """
    times = exponent.value
    if isinstance(times, Fraction):
        if isinstance(base.value, Fraction) and times.denominator == 1:
            return number(Fraction(arithmetic.power(base.value, times)))
        if max(abs(times.numerator), times.denominator) > MAX_EXPONENT:
            raise ToolError(f"the exponent {arithmetic.to_text(times)} is too large")
    return apply("^", base, exponent)


def operation_name(text: str) -> str | None:
    """The operation that a name means, or None."""
    lower = text.lower()
    lower = _OPERATION_ALIASES.get(lower, lower)
    return lower if lower in OPERATIONS else None


class TreeReader(Parser[Node]):
    """Builds a tree from tokens that were read as symbolic."""

    infix: ClassVar[Mapping[str, tuple[int, Callable[[Any, Any], Any]]]] = {
        "+": (SUM, add),
        "-": (SUM, lambda left, right: add(left, negative(right))),
        "*": (PRODUCT, multiply),
        "of": (PRODUCT, multiply),
        "/": (PRODUCT, divide),
        "mod": (PRODUCT, remainder),
    }

    def result(self) -> Node:
        """The tree of all tokens.

        Raises:
            ToolError: they are not an expression.
        """
        tree = self.argument()
        kind, word = self.tokens[self.next]
        if kind != "end" and word != "?":
            self.unexpected(kind, word)
        return tree

    def argument(self) -> Node:
        """An expression, or an equation or comparison."""
        left = self.expression(0)
        word = self.tokens[self.next][1]
        if word not in (*COMPARISONS, "=", "->"):
            return left
        self.next += 1
        return apply("=" if word in ("==", "->") else word, left, self.expression(0))

    def bracket(self) -> Node:
        """One expression, or a list."""
        parts = [self.argument()]
        while self.tokens[self.next][1] == ",":
            self.next += 1
            parts.append(self.argument())
        self.close()
        return parts[0] if len(parts) == 1 else apply("list", *parts)

    def number(self, word: str) -> Node:
        """A number, exact: 0.5 is a half."""
        return number(Fraction(arithmetic.read_number(word)))

    def named(self, name: str) -> Node:
        """A constant, a variable, or a product of one-letter variables (``xy``).

        Raises:
            ToolError: it is a function that nobody knows.
        """
        name = _CONSTANT_ALIASES.get(name, name)
        name = "infinity" if name == "Infinity" else name
        if name in CONSTANTS:
            return Node("name", name)
        if self.tokens[self.next][1] == "(" and (len(name) > 2 or name in _NO_VARIABLE):
            raise ToolError(f"the function {name[:40]!r} is unknown{near(name, OPERATIONS)}")
        if name.lower() in _NO_NAMES:
            raise ToolError(f"the word {name!r} is not understood there")
        if len(name) > 40:
            raise ToolError(f"the name {name[:40]!r}... is too long")
        if len(name) in (2, 3) and name.isalpha():
            return apply("*", *(Node("name", c) for c in name))
        if len(name) > 3 and any(name[:-1].lower() == known for known in FUNCTIONS):
            raise ToolError(f"{name!r} is unknown; write {name[:-1]}({name[-1]})")
        return Node("name", name)

    def negative(self, value: Node) -> Node:
        """``-value``."""
        return negative(value)

    def power(self, base: Node, exponent: Node) -> Node:
        """``base ^ exponent``."""
        return power(base, exponent)

    def function(self, name: str) -> str | None:
        """A function or an operation."""
        return "=" if name == "Eq" else operation_name(name) or function_name(name)

    def is_bare(self, function: str) -> bool:
        """``sin x`` is clear, ``sin 2x`` is not."""
        kind, word = self.tokens[self.next]
        clear = kind == "name" and self.function(word) is None
        return Parser.is_bare(self, function) or (clear and function in FUNCTIONS)

    def call(self, name: str, values: Sequence[Node]) -> Node:
        """A function of parts: its value, where it is exact, or the call as it stands.

        Raises:
            ToolError: a wrong number of arguments.
        """
        if name in FUNCTIONS:
            _, fewest, most = FUNCTIONS[name]
            if not fewest <= len(values) <= most:
                raise ToolError(f"{name} does not take {len(values)} argument(s)")
        elif not 1 <= len(values) <= OPERATIONS.get(name, 2):
            raise ToolError(f"{name} does not take {len(values)} argument(s)")
        if name in ("frac", "pow"):
            return (divide if name == "frac" else power)(values[0], values[1])
        if name == "radical":
            name, values = "root", values[::-1]
        numbers = [part.value for part in values if isinstance(part.value, Fraction)]
        if name in _FOLDED and len(numbers) == len(values):
            exact = FUNCTIONS[name][0](*(n.numerator if n.denominator == 1 else n for n in numbers))
            return number(Fraction(exact))
        return apply(name, *values)


def to_lists(node: Node) -> list[Any]:
    """As plain lists: ``["+", ["name", "x"], ["number", "1/2"]]``."""
    if not node.parts:
        return [node.kind, str(node.value)]
    return [node.kind, *(to_lists(part) for part in node.parts)]


def from_lists(lists: Sequence[Any]) -> Node:
    """The tree of plain lists.

    Raises:
        ToolError: it is too deep, or holds a number of more than `MAX_NUMBER_BITS`.
    """
    kind, *parts = lists
    if kind == "number":
        if max(map(len, parts[0].split("/"))) * 3.3 > MAX_NUMBER_BITS:
            raise ToolError("the result is too large")
        return number(Fraction(parts[0]))
    if kind == "decimal":
        return Node(kind, arithmetic.to_text(arithmetic.read_decimal(parts[0])))
    if kind == "name":
        return Node(kind, str(parts[0]))
    return apply(str(kind), *(from_lists(part) for part in parts))


def _binding(node: Node) -> int:
    """How tight the printed form binds; 100 for what needs no brackets."""
    if node.kind in ("=", *COMPARISONS):
        return 1
    if node.kind == "number":
        value = Fraction(node.value)
        return SUM + 1 if value < 0 else 100 if value.denominator == 1 else PRODUCT
    if node.kind == "decimal":
        return SUM + 1 if str(node.value).startswith("-") else 100
    kinds = {"+": SUM, "neg": SUM + 1, "*": PRODUCT, "/": PRODUCT, "^": POWER}
    binding = kinds.get(node.kind, 100)
    first = node.parts[0] if node.kind in ("*", "/") else None
    return SUM + 1 if first and _binding(first) == SUM + 1 else binding


def _print(node: Node, least: int) -> str:
    """The text, in brackets where it binds less tight than ``least``."""
    kind, parts = node.kind, node.parts
    if not parts:
        text = str(node.value)
    elif kind == "+":
        text = _print(parts[0], SUM + 1)
        for part in parts[1:]:
            term = _print(part, SUM + 1)
            text += f" - {term[1:]}" if term.startswith("-") else f" + {term}"
    elif kind == "neg":
        text = f"-{_print(parts[0], PRODUCT)}"
    elif kind in ("*", "/"):
        first = parts[0]
        later = (_print(part, PRODUCT + 1) for part in parts[1:])
        text = kind.join([_print(first, SUM + 1), *later])
    elif kind == "^":
        text = f"{_print(parts[0], POWER + 1)}^{_print(parts[1], POWER + 1)}"
    elif kind in ("=", *COMPARISONS):
        text = f"{_print(parts[0], SUM)} {kind} {_print(parts[1], SUM)}"
    else:
        text = f"{'' if kind == 'list' else kind}({', '.join(_print(p, 0) for p in parts)})"
    return f"({text})" if _binding(node) < least else text
