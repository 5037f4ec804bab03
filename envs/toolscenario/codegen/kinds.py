"""Parameters of tools, those that scaling may add to any tool, and kinds of tool that compute."""

from __future__ import annotations

import builtins
import json
import keyword
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

__all__ = [
    *("AREAS", "COMMON", "DEMANDABLE", "KINDS", "LENGTHS", "MASSES", "OPERATIONS", "OPTIONS"),
    *("TIMES", "WEEKDAYS", "Kind", "Param", "choice", "parameter_name"),
]


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


@dataclass(frozen=True)
class Kind:
    """A kind of tool that computes.

    Args:
        name: of the kind, and of the formula.
        what: description, with a full stop.
        core: what every call needs.
        functional: one more parameter for each level of functional generalisation.
        digits: decimals of the result; None: as it is.
        names: of the tool, the first one first.
        formula: how the body calls the formula.
    """

    name: str
    what: str
    core: tuple[Param, ...]
    functional: tuple[Param, ...]
    digits: int | None
    names: tuple[str, ...]
    formula: str


_FILE: Final[dict[str, Any]] = json.loads(
    resources.files(__package__).joinpath("kinds.json").read_text("utf-8")
)
_WORDS: Final[dict[str, list[str]]] = _FILE["words"]
LENGTHS, MASSES, AREAS, TIMES, OPERATIONS, WEEKDAYS = (
    tuple(_WORDS[name])
    for name in ("lengths", "masses", "areas", "times", "operations", "weekdays")
)


def _param(row: Mapping[str, Any]) -> Param:
    """A parameter of the file; its choices may be the name of a list of words."""
    choices = row.get("choices", [])
    listed = _WORDS[choices] if isinstance(choices, str) else choices
    return Param(**{**row, "choices": tuple(listed)})


def _kind(row: Mapping[str, Any]) -> Kind:
    params = {key: tuple(map(_param, row[key])) for key in ("core", "functional")}
    return Kind(**{**row, **params, "names": tuple(row["names"])})


KINDS: Final[Mapping[str, Kind]] = {row["name"]: _kind(row) for row in _FILE["kinds"]}
"""Kinds by name, the content of ``kinds.json``."""
