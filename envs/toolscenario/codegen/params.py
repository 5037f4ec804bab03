"""Parameters of tools, and those that scaling may add to any tool."""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["COMMON", "DEMANDABLE", "OPTIONS", "Param", "choice", "parameter_name"]


@dataclass(frozen=True)
class Param:
    """A parameter, before typing decides what its JSON looks like.

    Args:
        name: of the parameter.
        kind: ``entity``, ``date``, ``year``, ``number``, ``numbers``, ``points``, ``integer``,
            ``choice``, ``choices``, ``flag`` or ``text``.
        what: its description.
        required: whether every call needs it.
        default: of one that may be left out; None: no default, the tool does without.
        choices: of ``choice`` and ``choices``.
        low: lowest number allowed.
        high: highest number allowed.
        subject: type of an ``entity``.
    """

    name: str
    kind: str
    what: str
    required: bool = True
    default: Any = None
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    subject: str = ""


def choice(name: str, what: str, choices: tuple[str, ...], default: str | None = None) -> Param:
    """A parameter with given values; one with a default may be left out."""
    return Param(name, "choice", what, default is None, default, choices)


COMMON = (
    choice("language", "Language of texts in the result", ("en", "de", "fr"), "en"),
    Param(
        "include_details",
        "flag",
        "Whether to give the value together with details of the request",
        False,
        False,
    ),
)
OPTIONS: Mapping[str, Param] = {
    item.name: item
    for item in (
        *COMMON,
        choice(
            "match",
            "How names are compared: tolerant of case and accents, or exactly",
            ("tolerant", "exact"),
            "tolerant",
        ),
        choice(
            "missing",
            "What to do where the register holds nothing: report an error, or give null",
            ("error", "null"),
            "error",
        ),
        Param("precision", "integer", "Decimals of numbers in the result", False, low=0, high=6),
        choice(
            "date_format",
            "How dates are written: YYYY-MM-DD, or with the month's name",
            ("iso", "long"),
            "iso",
        ),
        choice(
            "letter_case",
            "Letters of texts in the result",
            ("original", "upper", "lower"),
            "original",
        ),
        choice("rounding", "Which way results are rounded", ("nearest", "up", "down"), "nearest"),
    )
}
"""Parameters that scaling may add to a tool."""
_OWN = """
    query options arguments given fact facts layout fallback_name max_results order sort_by measure
    limit minimum maximum skip name_contains as_percentage wanted results known keys result
    check_value find_name fold_name names_of round_number present read_date
    """
_TAKEN = frozenset((*keyword.kwlist, *dir(builtins), *OPTIONS, *_OWN.split()))


def parameter_name(word: str) -> str:
    """A word of the user's as a parameter of a Python function that has names of its own."""
    return f"{word}_name" if word in _TAKEN else word


DEMANDABLE = ("language", "include_details", "match", "missing")
"""Options whose value never decides whether the right result comes."""
