"""Trees to sympy and back, by tables; imported by the worker's child only, by path.

A tree is plain lists (`toolgym.tools.calculator.expression.to_lists`). Each kind of node has one
entry here, and what has none is refused: no text is ever given to sympy's parser.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef

__all__ = ["RefusedError", "build", "lists", "value"]

Lists = list[Any]

MAX_BITS = 10_000  # of a number in a result, as in `toolgym.tools.calculator.expression`


class RefusedError(Exception):
    """What cannot be done, in words for the model."""


_CONSTANTS = {"pi": sp.pi, "e": sp.E, "i": sp.I, "infinity": sp.oo, "tau": 2 * sp.pi}
_CONSTANTS |= {"E": sp.E, "I": sp.I}  # as sympy writes them; read back as e and i
_RELATIONS: dict[str, Any] = {
    "=": sp.Eq,
    "<": sp.Lt,
    ">": sp.Gt,
    "<=": sp.Le,
    ">=": sp.Ge,
    "!=": sp.Ne,
}

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "+": sp.Add,
    "*": sp.Mul,
    "/": lambda top, bottom: top / bottom,
    "^": sp.Pow,
    "neg": lambda value: -value,
    "sqrt": sp.sqrt,
    "cbrt": lambda value: value ** sp.Rational(1, 3),
    "root": lambda value, degree: value ** (1 / degree),
    "abs": sp.Abs,
    "floor": sp.floor,
    "ceil": sp.ceiling,
    "sign": sp.sign,
    "min": sp.Min,
    "max": sp.Max,
    "mean": lambda *values: sp.Add(*values) / len(values),
    "avg": lambda *values: sp.Add(*values) / len(values),
    "gcd": lambda *values: sp.gcd_list(list(values)),
    "lcm": sp.lcm,
    "mod": sp.Mod,
    "factorial": sp.factorial,
    "comb": sp.binomial,
    "perm": sp.ff,
    "exp": sp.exp,
    "ln": sp.log,
    "log": sp.log,
    "log2": lambda value: sp.log(value, 2),
    "log10": lambda value: sp.log(value, 10),
    "hypot": lambda a, b: sp.sqrt(a**2 + b**2),
    "degrees": lambda value: value * 180 / sp.pi,
    "radians": lambda value: value * sp.pi / 180,
    **{name: getattr(sp, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{name: getattr(sp, name) for name in ("asin", "acos", "atan", "atan2")},
    **{name: getattr(sp, name) for name in ("sinh", "cosh", "tanh", "asinh", "acosh", "atanh")},
    **{name: getattr(sp, name) for name in ("erf", "erfc", "gamma")},
}
_NAMES: dict[Any, str] = {
    sp.log: "ln", sp.Abs: "abs", sp.ceiling: "ceil", sp.Max: "max", sp.Min: "min",
    sp.binomial: "comb", sp.Mod: "mod",
    **{getattr(sp, name): name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "asin")},
    **{getattr(sp, name): name for name in ("acos", "atan", "atan2", "sinh", "cosh", "tanh")},
    **{getattr(sp, name): name for name in ("asinh", "acosh", "atanh", "erf", "erfc", "gamma")},
    **{getattr(sp, name): name for name in ("factorial", "floor", "sign")},
}  # fmt: skip
_RELATION_NAMES = {kind: name for name, kind in _RELATIONS.items()}
_UNDONE = (sp.Integral, sp.Sum, sp.Product, sp.Limit, sp.Derivative, sp.Subs, AppliedUndef)


def build(tree: Lists, operations: dict[str, Callable[..., Any]], settings: dict[str, Any]) -> Any:
    """The sympy object of a tree.

    Args:
        tree: plain lists.
        operations: what simplify, diff and the like do with sympy objects.
        settings: ``bound``: names that are variables even where they name a constant; ``real``:
            whether variables stand for real numbers.

    Raises:
        RefusedError: a kind that no table holds.
    """
    kind, *parts = tree
    if kind == "number":
        return sp.Rational(parts[0])
    if kind == "name":
        if parts[0] in _CONSTANTS and parts[0] not in settings["bound"]:
            return _CONSTANTS[parts[0]]
        return sp.Symbol(parts[0], real=True if settings["real"] else None)
    below = [build(part, operations, settings) for part in parts]
    if kind in operations:
        return operations[kind](*below)
    if kind in _RELATIONS:
        return _RELATIONS[kind](*below)
    if kind not in _FUNCTIONS:
        raise RefusedError(f"{kind} cannot be used there")
    return _FUNCTIONS[kind](*below)


def value(expression: Any) -> tuple[Any, bool]:
    """A result that can be said, and whether it was rounded.

    Raises:
        RefusedError: it is undefined, or no closed form was found and it is not a number either.
    """
    if not isinstance(expression, sp.Expr | sp.Rel):
        raise RefusedError("the result is not an expression")
    if expression.has(sp.nan, sp.zoo):
        raise RefusedError("the result is undefined (division by zero?)")
    if not expression.has(*_UNDONE) and _known(expression):
        return expression, bool(expression.has(sp.Float))
    if not expression.free_symbols:
        rounded = expression.evalf(15)
        if rounded.is_number and not rounded.has(*_UNDONE, sp.nan, sp.zoo):
            return rounded, True
    raise RefusedError("no closed form was found")


def _known(expression: Any) -> bool:
    try:
        lists(expression)
    except RefusedError:
        return False
    return True


def lists(expression: Any) -> Lists:
    """The tree of a sympy object, terms in the order in which sympy prints them.

    Raises:
        RefusedError: it holds a function that the calculator does not know.
    """
    if isinstance(expression, sp.Rational):
        if max(expression.p.bit_length(), expression.q.bit_length()) > MAX_BITS:
            raise RefusedError("the result is too large")
        return ["number", str(expression)]
    if expression.is_Float:
        return ["decimal", str(sp.Float(expression, 15))]
    if expression.is_Symbol:
        return ["name", expression.name]
    for name, constant in _CONSTANTS.items():
        if expression == constant and name not in ("tau", "E", "I"):
            return ["name", name]
    if expression is sp.S.NegativeInfinity:
        return ["neg", ["name", "infinity"]]
    if expression.is_Relational:
        return [_RELATION_NAMES[expression.func], lists(expression.lhs), lists(expression.rhs)]
    if expression.is_Add:
        return ["+", *(lists(term) for term in expression.as_ordered_terms())]
    if expression.is_Mul:
        return _product(expression)
    if expression.is_Pow or isinstance(expression, sp.exp):
        return _power(expression)
    known = _NAMES.get(expression.func)
    if known is None:
        raise RefusedError(f"the result needs {expression.func.__name__}, which is not known here")
    return [known, *(lists(part) for part in expression.args)]


def _product(expression: Any) -> Lists:
    if all(isinstance(part, sp.Integer) for f in expression.args for part in f.as_base_exp()):
        # Left undone by factor(12).
        factors = sorted(expression.args, key=lambda factor: factor.as_base_exp()[0])
        return ["*", *(lists(factor) for factor in factors)]
    coefficient, _ = expression.as_coeff_Mul()
    if coefficient.is_number and coefficient.is_negative:
        return ["neg", lists(-expression)]
    top, bottom = sp.fraction(expression, exact=True)
    if bottom != 1:
        return ["/", lists(top), lists(bottom)]
    factors = [lists(factor) for factor in expression.as_ordered_factors()]
    return ["*", *factors] if len(factors) > 1 else factors[0]


def _power(expression: Any) -> Lists:
    base, exponent = expression.as_base_exp() if expression.is_Pow else (sp.E, expression.args[0])
    if base != sp.E and exponent.is_Rational and exponent.is_negative:
        return ["/", ["number", "1"], lists(base**-exponent)]
    if exponent == sp.Rational(1, 2):
        return ["sqrt", lists(base)]
    return ["^", lists(base), lists(exponent)]
