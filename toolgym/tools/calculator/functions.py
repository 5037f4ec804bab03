"""The functions of the calculator, by name; exact where the result is rational."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from toolgym.errors import ToolError
from toolgym.tools.calculator.arithmetic import (
    TINY,
    Number,
    add,
    divide,
    guard,
    multiply,
    power,
    remainder,
    settled,
    to_float,
    whole,
)

__all__ = ["FUNCTIONS"]

MAX_FACTORIAL = 1_500  # 1500! has 13 671 bits, fewer than `MAX_BITS`


def _sqrt(value: Number) -> Number:
    if value < 0:
        raise ToolError("the square root of a negative number is not real")
    if not isinstance(value, float):
        exact = Fraction(value)
        top, bottom = math.isqrt(exact.numerator), math.isqrt(exact.denominator)
        if top * top == exact.numerator and bottom * bottom == exact.denominator:
            return Fraction(top, bottom)
    return settled(math.sqrt(to_float(value)), value is TINY)


def _root(value: Number, degree: Number) -> Number:
    """The real root: of a negative number for odd degrees."""
    times = whole(degree, "root")
    if times == 0 or (value == 0 and times < 0):
        raise ToolError("division by zero")
    if value < 0 and times % 2 == 0:
        raise ToolError("an even root of a negative number is not real")
    size: Number = -value if value < 0 else value
    root = power(size, Fraction(1, times))
    # A double's cube root is mostly nearer than its power to a third.
    if isinstance(root, float) and times == 3:
        root = math.cbrt(to_float(size))
    return root if value >= 0 else -root


def _round(value: Number, places: Number = 0) -> Number:
    """Half away from zero, as taught in school; Python's own rounds half to even."""
    digits = whole(places, "round")
    if abs(digits) > 300:
        raise ToolError("round takes at most 300 places")
    # A float is taken at its shortest text, so that 2.675 rounds to 2.68.
    exact = Fraction(repr(value)) if isinstance(value, float) else Fraction(value)
    scale = Fraction(10) ** digits
    guard(exact, scale)
    nearest = math.floor(abs(exact) * scale + Fraction(1, 2)) / scale
    return nearest if exact >= 0 else -nearest


def _factorial(value: Number) -> Number:
    count = whole(value, "factorial")
    if not 0 <= count <= MAX_FACTORIAL:
        raise ToolError(f"factorial needs a number from 0 to {MAX_FACTORIAL}")
    return math.factorial(count)


def _counting(count: Callable[[int, int], int], name: str) -> Callable[[Number, Number], Number]:
    def checked(items: Number, chosen: Number) -> Number:
        n, k = whole(items, name), whole(chosen, name)
        if not (0 <= n <= MAX_FACTORIAL and 0 <= k <= MAX_FACTORIAL):
            raise ToolError(f"{name} needs numbers from 0 to {MAX_FACTORIAL}")
        return count(n, k)

    return checked


_NEVER_ZERO = (math.exp, math.erfc, math.gamma)


def _real(function: Callable[..., float]) -> Callable[..., Number]:
    def checked(*values: Number) -> Number:
        numbers = [to_float(value) for value in values]
        tiny = function in _NEVER_ZERO or any(number is TINY for number in numbers)
        return settled(function(*numbers), tiny)

    return checked


def _angle(function: Callable[[float], float]) -> Callable[[Number], Number]:
    def checked(value: Number) -> Number:
        angle = to_float(value)
        result = function(angle)
        if abs(result) > 1e15:  # tan(pi/2) is finite only because pi is rounded
            raise ToolError("the function has no value there")
        # sin(pi) is 1.2e-16 only because pi is rounded; near 0 the digits are genuine.
        rounded = round(result, 15) if abs(angle) > 1e-6 else result
        return settled(rounded, angle is TINY)

    return checked


def _log(value: Number, base: Number | None = None) -> Number:
    if value <= 0 or (base is not None and (base <= 0 or base == 1)):
        raise ToolError("a logarithm needs a positive number and a positive base other than 1")
    if base is None:
        return _ln(value)
    if base in (2, 10):
        return (math.log2 if base == 2 else math.log10)(_loggable(value))
    return divide(_ln(value), _ln(base))


def _loggable(value: Number) -> int | float:
    # math.log takes integers of any size, but fractions only in the range of a double.
    return value.numerator if isinstance(value, int) else to_float(value)


def _ln(value: Number) -> float:
    return math.log(_loggable(value))


def _sign(value: Number) -> Number:
    return (value > 0) - (value < 0)


def _median(*values: Number) -> Number:
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else _mean(ordered[half - 1], ordered[half])


def _inverse(function: Callable[[float], float]) -> Callable[[float], float]:
    def inverse(angle: float) -> float:
        value = function(angle)
        return math.inf if abs(value) < 1e-15 else 1 / value

    return inverse


def _mean(*values: Number) -> Number:
    return divide(_sum(*values), len(values))


def _sum(*values: Number) -> Number:
    total: Number = 0
    for value in values:
        total = add(total, value)
    return total


def _lcm(*values: Number) -> Number:
    least = 1
    for value in values:
        guard(least, value)
        least = math.lcm(least, whole(value, "lcm"))
    return least


def _product(*values: Number) -> Number:
    result: Number = 1
    for value in values:
        result = multiply(result, value)
    return result


def _isqrt(value: Number) -> Number:
    if value < 0:
        raise ToolError("the square root of a negative number is not real")
    return math.isqrt(whole(value, "isqrt"))


def _whole_parts(function: Callable[..., int], name: str) -> Callable[..., Number]:
    return lambda *values: function(*(whole(value, name) for value in values))


_MANY = 1_000
FUNCTIONS: dict[str, tuple[Callable[..., Number], int, int]] = {
    "sqrt": (_sqrt, 1, 1),
    "cbrt": (lambda value: _root(value, 3), 1, 1),
    "root": (_root, 2, 2),
    "radical": (lambda degree, value: _root(value, degree), 2, 2),
    "abs": (abs, 1, 1),
    "float": (lambda value: value, 1, 1),
    "floor": (math.floor, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "trunc": (math.trunc, 1, 1),
    "round": (_round, 1, 2),
    "min": (lambda *values: min(values), 1, _MANY),
    "max": (lambda *values: max(values), 1, _MANY),
    "sum": (_sum, 1, _MANY),
    "product": (_product, 1, _MANY),
    "len": (lambda *values: len(values), 2, _MANY),
    "isqrt": (_isqrt, 1, 1),
    "mean": (_mean, 1, _MANY),
    "avg": (_mean, 1, _MANY),
    "median": (_median, 1, _MANY),
    "sign": (_sign, 1, 1),
    "gcd": (_whole_parts(math.gcd, "gcd"), 2, _MANY),
    "lcm": (_lcm, 2, _MANY),
    "mod": (remainder, 2, 2),
    "pow": (power, 2, 2),
    "frac": (divide, 2, 2),
    "factorial": (_factorial, 1, 1),
    "comb": (_counting(math.comb, "comb"), 2, 2),
    "perm": (_counting(math.perm, "perm"), 2, 2),
    "exp": (_real(math.exp), 1, 1),
    "ln": (_log, 1, 1),
    "log": (_log, 1, 2),
    "log2": (lambda value: _log(value, 2), 1, 1),
    "log10": (lambda value: _log(value, 10), 1, 1),
    "hypot": (_real(math.hypot), 2, 2),
    "degrees": (_real(math.degrees), 1, 1),
    "radians": (_real(math.radians), 1, 1),
    "sin": (_angle(math.sin), 1, 1),
    "cos": (_angle(math.cos), 1, 1),
    "tan": (_angle(math.tan), 1, 1),
    "cot": (_angle(_inverse(math.tan)), 1, 1),
    "sec": (_angle(_inverse(math.cos)), 1, 1),
    "csc": (_angle(_inverse(math.sin)), 1, 1),
    "asin": (_real(math.asin), 1, 1),
    "acos": (_real(math.acos), 1, 1),
    "atan": (_real(math.atan), 1, 1),
    "atan2": (_real(math.atan2), 2, 2),
    "sinh": (_real(math.sinh), 1, 1),
    "cosh": (_real(math.cosh), 1, 1),
    "tanh": (_real(math.tanh), 1, 1),
    "asinh": (_real(math.asinh), 1, 1),
    "acosh": (_real(math.acosh), 1, 1),
    "atanh": (_real(math.atanh), 1, 1),
    "erf": (_real(math.erf), 1, 1),
    "erfc": (_real(math.erfc), 1, 1),
    "gamma": (_real(math.gamma), 1, 1),
}
"""Name to (function, fewest arguments, most arguments)."""
