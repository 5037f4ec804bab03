"""Conditions on fields, as data: which there are, and whether somebody wrote one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from toolgym.errors import BadInputError, did_you_mean

__all__ = ["KEYS", "OPERATORS", "check_predicate", "same"]

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "not": lambda value, wanted: bool(value != wanted),
    "one_of": lambda value, wanted: value in wanted,
    "has": lambda value, wanted: isinstance(value, str | list) and wanted in value,
    "at_least": lambda value, wanted: _ordered(value, wanted) and bool(value >= wanted),
    "at_most": lambda value, wanted: _ordered(value, wanted) and bool(value <= wanted),
}
"""What a value in a condition may be compared by; without one it has to be equal."""
KEYS = {
    "reach": {"table", "where", "count"},
    "rules": {"text", "table", "before", "after", "call", "arguments"},
    "invariants": {"text", "table", "where"},
}
"""Keys of the predicates of a goal, by the list that they stand in."""


def same(one: Any, other: Any) -> bool:
    """Equal, where true is not 1 and 2 is 2.0."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _ordered(value: Any, wanted: Any) -> bool:
    """Whether two values can be compared: numbers, or texts such as dates."""
    numbers = all(
        isinstance(item, int | float) and not isinstance(item, bool) for item in (value, wanted)
    )
    return numbers or (isinstance(value, str) and isinstance(wanted, str))


def check_predicate(item: Any, known: set[str], where: str) -> None:
    """Refuse what is no predicate.

    Args:
        item: as somebody wrote it.
        known: its keys, see `KEYS`.
        where: its place, for messages.

    Raises:
        BadInputError: it is none.
    """
    if not isinstance(item, Mapping) or not ("table" in item or "call" in item):
        raise BadInputError(f"{where} is not a predicate with a table: {item!r:.120}")
    for key, value in item.items():
        if key not in known:
            raise BadInputError(
                f"{where} has the key {key!r}{did_you_mean(str(key), known)}; keys: "
                f"{', '.join(sorted(known))}"
            )
        if key in ("where", "before", "after", "arguments"):
            _check_condition(value, f"{where}.{key}")
        elif key == "count":
            _check_condition({key: value}, where)
            if isinstance(value, bool) or not isinstance(value, int | Mapping):
                raise BadInputError(f"{where}.count is a number of rows, not {value!r:.80}")
        elif not isinstance(value, str):
            raise BadInputError(f"{where}.{key} is a string, not {value!r:.80}")
    if "where" in known and "where" not in item:
        raise BadInputError(f"{where} lacks 'where', the condition that rows fit: {item!r:.120}")


def _check_condition(condition: Any, where: str) -> None:
    if not isinstance(condition, Mapping):
        raise BadInputError(f"{where} is a condition, fields to values, not {condition!r:.80}")
    for field, wanted in condition.items():
        if not isinstance(wanted, Mapping):
            continue
        for name, operand in wanted.items():
            if name not in OPERATORS:
                raise BadInputError(
                    f"{where}.{field} has the operator {name!r}"
                    f"{did_you_mean(str(name), OPERATORS)}; operators: {', '.join(OPERATORS)}"
                )
            if name == "one_of" and not isinstance(operand, list | tuple):
                raise BadInputError(f"{where}.{field}.one_of is a list, not {operand!r:.80}")
