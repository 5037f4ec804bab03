"""Guarded arithmetic for the calculator: exact where numbers are rational, refused where it hangs.

A value is an ``int`` or a ``Fraction`` (exact) as long as it can be, and a finite ``float`` after a
function that leaves the rationals. Every operation looks at the sizes of its operands first, so
that the cost of one is bounded by `MAX_BITS`.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal
from fractions import Fraction

from toolgym.errors import ToolError

__all__ = [
    *("MAX_BITS", "TINY", "Number", "add", "bits", "divide", "finite", "floor_divide", "guard"),
    *("is_zero", "multiply", "power", "read_decimal", "read_number", "remainder", "settled"),
    *("to_answer", "to_text"),
]

Number = int | Fraction | float

MAX_BITS = 1 << 14
"""Bits of a numerator or denominator, 4 932 digits: an operation on two takes microseconds."""
MAX_ROOT = 64  # degree up to which a root is tried for being exact
MAX_PLAIN_DIGITS = 100  # a longer integer is printed in scientific notation
MAX_SHOWN_FRACTION = 1_000_000  # parts of a fraction that is shown beside its decimals are below
MAX_DECIMALS = 20  # a longer terminating fraction is rounded like a periodic one
SIGNIFICANT = 15  # digits that a double always holds
_TOO_LARGE = "the result is too large"
_ROUNDED = Context(prec=SIGNIFICANT, Emax=999_999, Emin=-999_999)


class _Tiny(float):
    """Nearer to 0 than any double, and not 0: its sign is not kept, it is shown as ``≈ 0``."""

    __slots__ = ()

    def __neg__(self) -> _Tiny:
        return self

    __abs__ = __neg__


TINY = _Tiny(0.0)


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


def settled(value: Number, not_zero: bool) -> Number:
    """As `finite`; a float that is 0 though the exact value is not, is `TINY`."""
    return TINY if not_zero and value == 0 else finite(value)


def is_zero(value: Number) -> bool:
    """Whether it is 0, and not only nearer to it than any double."""
    return value == 0 and value is not TINY


def add(left: Number, right: Number) -> Number:
    """``left + right``."""
    if type(left) is int and type(right) is int:
        return left + right
    guard(left, right)
    return settled(left + right, left is TINY or right is TINY)


def multiply(left: Number, right: Number) -> Number:
    """``left * right``."""
    guard(left, right)
    product = left * right
    if type(product) is int:
        return product
    return settled(product, not (is_zero(left) or is_zero(right)))


def divide(left: Number, right: Number) -> Number:
    """``left / right``, exact for exact numbers.

    Raises:
        ToolError: division by zero, or a result that is too large.
    """
    if right == 0:
        raise ToolError(_TOO_LARGE if right is TINY else "division by zero")
    if isinstance(left, int) and isinstance(right, int):  # no longer than its operands
        return left // right if left % right == 0 else Fraction(left, right)
    guard(left, right)
    return settled(left / right, not is_zero(left))


def remainder(left: Number, right: Number) -> Number:
    """``left mod right``, with the sign of ``right``."""
    if right == 0:
        raise ToolError("division by zero")
    guard(left, right)
    return finite(left % right)


def floor_divide(left: Number, right: Number) -> Number:
    """The whole number of times that ``right`` goes into ``left``, rounded down."""
    if right == 0:
        raise ToolError("division by zero")
    guard(left, right)
    return math.floor(finite(left // right))


def power(base: Number, exponent: Number) -> Number:
    """``base ** exponent``; exact for an exact base and a whole exponent.

    Raises:
        ToolError: too large, ``0`` to a negative power, or a result that is not real.
    """
    if base == 0 and exponent < 0:
        raise ToolError(_TOO_LARGE if base is TINY else "division by zero")
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
    if isinstance(exponent, Fraction) and not isinstance(base, float) and base > 0:
        exact = _exact_root(base, exponent.denominator)
        if exact is not None:
            return power(exact, exponent.numerator)
    result = to_float(base) ** to_float(exponent)
    if isinstance(result, complex):
        raise ToolError("the result is not a real number")
    return settled(result, not is_zero(base))


def _exact_root(value: Number, degree: int) -> Fraction | None:
    """The root of an exact number that is not negative, where it is rational."""
    if degree > MAX_ROOT or isinstance(value, float):
        return None
    parts = []
    for part in (value.numerator, value.denominator):
        if part.bit_length() > 53 * degree:  # a double's root would miss the last digits
            return None
        root = round(math.exp(math.log(part) / degree)) if part else 0
        if root**degree != part:
            return None
        parts.append(root)
    return Fraction(*parts)


def to_float(value: Number) -> float:
    """The nearest double, `TINY` for what is nearer to 0 than any.

    Raises:
        ToolError: beyond the largest double.
    """
    try:
        nearest = float(value)
    except OverflowError as error:
        raise ToolError(_TOO_LARGE) from error
    return TINY if value is TINY or (nearest == 0 and value != 0) else nearest


def guard(left: Number, right: Number) -> None:
    """Refuse operands whose product would be too long.

    Raises:
        ToolError: they have more than `MAX_BITS` bits together.
    """
    if bits(left) + bits(right) > MAX_BITS:
        raise ToolError(_TOO_LARGE)


def read_number(word: str) -> Number:
    """The exact value of a literal: digits, commas between thousands, a point, an exponent.

    Raises:
        ToolError: larger or smaller than any number that can be worked with.
    """
    plain = word.replace(",", "")
    if plain.isdigit():
        return int(plain)  # leading zeros are not a sign of octal here
    mantissa, _, exponent = plain.lower().partition("e")
    # Two exponents: `1.5e3 million`, each with its own.
    shift = sum(int(part) if len(part) <= 6 else MAX_BITS for part in exponent.split("e") if part)
    left, _, right = mantissa.partition(".")
    shift -= len(right)
    if abs(shift) * 3.33 > MAX_BITS:
        raise ToolError(f"the number {word[:40]} is out of range")
    return multiply(int(left + right or "0"), power(10, shift))


def read_decimal(text: str) -> Number:
    """As `read_number`, with a sign before it.

    Raises:
        ToolError: as there.
    """
    value = read_number(text.lstrip("+-"))
    return -value if text.startswith("-") else value


def to_answer(value: Number) -> str:
    """As `to_text`; a short fraction without an end also as such, a comparison as a word."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = to_text(value)
    if isinstance(value, Fraction) and value.denominator > 1 and bits(value) <= 20:
        top, bottom = value.numerator, value.denominator
        if max(abs(top), bottom) < MAX_SHOWN_FRACTION and _terminating(value) is None:
            return f"{top}/{bottom} ≈ {text}"
    return text


def to_text(value: Number) -> str:
    """A number as a person writes it: no ``.0``, no binary noise, never longer than a line.

    Integers in full up to 100 digits and terminating decimals up to 20 places; everything else is
    rounded to 15 significant digits.
    """
    if value is TINY:
        return "≈ 0"
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
