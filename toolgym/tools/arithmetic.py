"""Guarded arithmetic for the calculator: exact where numbers are rational, refused where it hangs.

A value is an ``int`` or a ``Fraction`` (exact) as long as it can be, and a finite ``float`` after a
function that leaves the rationals. Every operation looks at the sizes of its operands first, so
that the cost of one is bounded by `MAX_BITS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction

from toolgym.errors import ToolError

__all__ = ["FUNCTIONS", "MAX_BITS", "Number", "add", "divide", "multiply", "power", "remainder"]

Number = int | Fraction | float

MAX_BITS = 1 << 14
"""Bits of a numerator or denominator: 4 932 digits, below Python's limit for printing integers."""
MAX_FACTORIAL = 1_500  # 1500! has 13 671 bits
MAX_PLAIN_DIGITS = 100  # a longer integer is printed in scientific notation
MAX_DECIMALS = 20  # a longer terminating fraction is rounded like a periodic one
SIGNIFICANT = 15  # digits that a double always holds
_TOO_LARGE = "the result is too large"
_ROUNDED = Context(prec=SIGNIFICANT, Emax=999_999, Emin=-999_999)


def bits(value: Number) -> int:
    """Bits of the longer part of an exact number; 0 for a float."""
    if isinstance(value, int):
        return value.bit_length()
    if isinstance(value, Fraction):
        return max(value.numerator.bit_length(), value.denominator.bit_length())
    return 0


def whole(value: Number, what: str) -> int:
    """The value as an integer.

    Raises:
        ToolError: it is none; ``what`` says who needs one.
    """
    if value == int(value):
        return int(value)
    raise ToolError(f"{what} needs a whole number, not {to_text(value)}")


def finite(value: Number) -> Number:
    """The value, unless it is infinite or no number.

    Raises:
        ToolError: it is.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ToolError(_TOO_LARGE if math.isinf(value) else "the result is not a number")
    return value


def add(left: Number, right: Number) -> Number:
    """``left + right``."""
    if type(left) is not int or type(right) is not int:
        _guard(left, right)
    return finite(left + right)


def multiply(left: Number, right: Number) -> Number:
    """``left * right``."""
    _guard(left, right)
    return finite(left * right)


def divide(left: Number, right: Number) -> Number:
    """``left / right``, exact for exact numbers.

    Raises:
        ToolError: division by zero, or a result that is too large.
    """
    if right == 0:
        raise ToolError("division by zero")
    if isinstance(left, int) and isinstance(right, int):  # no longer than its operands
        return left // right if left % right == 0 else Fraction(left, right)
    _guard(left, right)
    return finite(left / right)


def remainder(left: Number, right: Number) -> Number:
    """``left mod right``, with the sign of ``right``."""
    if right == 0:
        raise ToolError("division by zero")
    _guard(left, right)
    return finite(left % right)


def floor_divide(left: Number, right: Number) -> Number:
    """The whole number of times that ``right`` goes into ``left``, rounded down."""
    if right == 0:
        raise ToolError("division by zero")
    _guard(left, right)
    return math.floor(finite(left // right))


def power(base: Number, exponent: Number) -> Number:
    """``base ** exponent``; exact for an exact base and a whole exponent.

    Raises:
        ToolError: too large, ``0`` to a negative power, or a result that is not real.
    """
    if base == 0 and exponent < 0:
        raise ToolError("division by zero")
    if (
        not isinstance(base, float)
        and not isinstance(exponent, float)
        and exponent == int(exponent)
    ):
        times = int(exponent)
        # Exactly 0, 1 and -1 stay as small as they are, whatever the exponent.
        if base not in (0, 1, -1) and abs(times) * bits(base) > MAX_BITS:
            raise ToolError(_TOO_LARGE)
        if base in (1, -1) or times >= 0:
            return base ** (times % 2 if base in (1, -1) else times)
        return Fraction(base) ** times
    result = to_float(base) ** to_float(exponent)
    if isinstance(result, complex):
        raise ToolError("the result is not a real number")
    return finite(result)


def to_float(value: Number) -> float:
    """The nearest double.

    Raises:
        ToolError: beyond the largest double.
    """
    try:
        return float(value)
    except OverflowError as error:
        raise ToolError(_TOO_LARGE) from error


def _guard(left: Number, right: Number) -> None:
    if bits(left) + bits(right) > MAX_BITS:
        raise ToolError(_TOO_LARGE)


def to_text(value: Number) -> str:
    """A number as a person writes it: no ``.0``, no binary noise, never longer than a line.

    Integers in full up to 100 digits and terminating decimals up to 20 places; everything else is
    rounded to 15 significant digits.
    """
    if isinstance(value, Fraction):
        if value.denominator == 1:
            value = value.numerator
        else:
            text = _terminating(value)
            return text or _rounded(
                _ROUNDED.divide(Decimal(value.numerator), Decimal(value.denominator))
            )
    if isinstance(value, int):
        # 3.33 bits a digit: the exact test would need the text that it is to avoid.
        if value.bit_length() <= MAX_PLAIN_DIGITS * 3.33:
            return str(value)
        return _rounded(_ROUNDED.create_decimal(value))
    return _rounded(_ROUNDED.create_decimal(repr(value)))


def _terminating(value: Fraction) -> str | None:
    """All decimals of a fraction whose denominator has no prime factors but 2 and 5."""
    scaled = value.numerator * 10**MAX_DECIMALS
    if scaled % value.denominator or bits(value) > MAX_PLAIN_DIGITS:
        return None
    digits = str(abs(scaled) // value.denominator).rjust(MAX_DECIMALS + 1, "0")
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-MAX_DECIMALS]}.{digits[-MAX_DECIMALS:]}".rstrip("0").rstrip(".")


def _rounded(value: Decimal) -> str:
    if value == 0:
        return "0"
    exponent = value.adjusted()
    if -7 <= exponent <= SIGNIFICANT:
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa = format(value.scaleb(-exponent, _ROUNDED), "f").rstrip("0").rstrip(".")
    return f"{mantissa}e{exponent:+d}"


def _sqrt(value: Number) -> Number:
    if value < 0:
        raise ToolError("the square root of a negative number is not real")
    if not isinstance(value, float):
        exact = Fraction(value)
        top, bottom = math.isqrt(exact.numerator), math.isqrt(exact.denominator)
        if top * top == exact.numerator and bottom * bottom == exact.denominator:
            return Fraction(top, bottom)
    return math.sqrt(to_float(value))


def _round(value: Number, places: Number = 0) -> Number:
    """Half away from zero, as taught in school; Python's own rounds half to even."""
    digits = whole(places, "round")
    if abs(digits) > 300:
        raise ToolError("round takes at most 300 places")
    # A float is taken at its shortest text, so that 2.675 rounds to 2.68.
    exact = Fraction(repr(value)) if isinstance(value, float) else Fraction(value)
    scale = Fraction(10) ** digits
    _guard(exact, scale)
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


def _real(function: Callable[..., float]) -> Callable[..., Number]:
    def checked(*values: Number) -> Number:
        return finite(function(*(to_float(value) for value in values)))

    return checked


def _angle(function: Callable[[float], float]) -> Callable[[Number], Number]:
    def checked(value: Number) -> Number:
        angle = to_float(value)
        result = function(angle)
        # sin(pi) is 1.2e-16 only because pi is rounded; near 0 the digits are genuine.
        return finite(round(result, 15) if abs(angle) > 1e-6 else result)

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


def _mean(*values: Number) -> Number:
    return divide(_sum(*values), len(values))


def _sum(*values: Number) -> Number:
    total: Number = 0
    for value in values:
        total = add(total, value)
    return total


def _lcm(left: Number, right: Number) -> Number:
    _guard(left, right)
    return math.lcm(whole(left, "lcm"), whole(right, "lcm"))


def _whole_parts(function: Callable[..., int], name: str) -> Callable[..., Number]:
    return lambda *values: function(*(whole(value, name) for value in values))


_MANY = 1_000
FUNCTIONS: dict[str, tuple[Callable[..., Number], int, int]] = {
    "sqrt": (_sqrt, 1, 1),
    "cbrt": (_real(math.cbrt), 1, 1),
    "abs": (abs, 1, 1),
    "floor": (math.floor, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "trunc": (math.trunc, 1, 1),
    "round": (_round, 1, 2),
    "min": (lambda *values: min(values), 1, _MANY),
    "max": (lambda *values: max(values), 1, _MANY),
    "sum": (_sum, 1, _MANY),
    "mean": (_mean, 1, _MANY),
    "avg": (_mean, 1, _MANY),
    "gcd": (_whole_parts(math.gcd, "gcd"), 1, _MANY),
    "lcm": (_lcm, 2, 2),
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
    "asin": (_real(math.asin), 1, 1),
    "acos": (_real(math.acos), 1, 1),
    "atan": (_real(math.atan), 1, 1),
    "atan2": (_real(math.atan2), 2, 2),
    "sinh": (_real(math.sinh), 1, 1),
    "cosh": (_real(math.cosh), 1, 1),
    "tanh": (_real(math.tanh), 1, 1),
}
"""Name to (function, fewest arguments, most arguments)."""
