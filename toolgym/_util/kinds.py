"""What was given, if it is of the kind that is meant: else one line that says what to give."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from toolgym.errors import BadInputError

__all__ = ["require", "require_each"]


def require(value: Any, kinds: type | tuple[type, ...], meant: str) -> None:
    """Refuse a value of another kind.

    Args:
        value: any.
        kinds: what it may be an instance of.
        meant: what is meant, such as ``"a rubric is made of ..., such as {'accuracy': 1.0}"``.

    Raises:
        BadInputError: it is something else.
    """
    if not isinstance(value, kinds):
        raise BadInputError(f"{meant}, not {value!r:.80}")


def require_each(values: Any, kinds: type | tuple[type, ...], meant: str) -> tuple[Any, ...]:
    """The values of a list or another series, each of the kind that is meant.

    Args:
        values: any; a string is not a series of them, nor is a mapping.
        kinds: what each may be an instance of.
        meant: as for `require`.

    Raises:
        BadInputError: it is not a series, or one of them is something else.
    """
    if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
        raise BadInputError(f"{meant}, not {values!r:.80}")
    found = tuple(values)
    for value in found:
        require(value, kinds, meant)
    return found
