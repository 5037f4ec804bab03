"""Tools as plans: their parameters, kinds of tool that compute, and the `ToolSpec` of one.

From a spec follow a tool's document, its reference calls and its source.
"""

from __future__ import annotations

import builtins
import json
import keyword
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from typing import Any, Final

from toolgym.envs.toolscenario.worlds.relations import EntityType, Relation

__all__ = [
    *("AREAS", "COMMON", "DEMANDABLE", "KINDS", "LENGTHS", "MASSES", "OPERATIONS", "OPTIONS"),
    *("TIMES", "WEEKDAYS", "Kind", "Param", "ToolSpec", "choice", "core", "eligible", "options"),
    "parameter_name",
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


@dataclass(frozen=True)
class ToolSpec:
    """What a tool does and how far it was scaled; plain data.

    Args:
        name: of the tool.
        kind: one of `KINDS`.
        subject: type of entity that it is about.
        relations: that a lookup offers, by which a search finds, or by which a list is ordered.
        operations: of an aggregation, or the units of a conversion.
        functional: level of functional generalisation.
        typing: level of type generalisation.
        options: names of further parameters, from `OPTIONS`.
        demanded: those of them that every call has to give.
        several: whether it answers several sub-questions. Such a tool takes no lists: a call
            solves one sub-answer, so one that asks for two at once would be held against a policy.
    """

    name: str
    kind: str
    subject: str = ""
    relations: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    functional: int = 0
    typing: int = 0
    options: tuple[str, ...] = ()
    demanded: tuple[str, ...] = ()
    several: bool = False

    def to_row(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ToolSpec:
        """Read what `to_row` wrote; TypeError where it is none."""
        known = {item.name for item in fields(cls)}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list | tuple) else value
            for name, value in row.items()
            if name in known
        }
        return cls(**values)


def eligible(spec: ToolSpec, relations: Mapping[str, Relation]) -> list[str]:
    """Names of the options that make sense for a tool.

    Args:
        spec: of the tool.
        relations: of its subject, by name.
    """
    found = [item.name for item in COMMON]
    if spec.kind in KINDS:
        return [*found, *(("precision", "rounding") if KINDS[spec.kind].digits is not None else ())]
    found += ["match"] if spec.kind in ("rank", "count") else ["match", "missing"]
    if spec.kind == "lookup":
        values = {relations[name].object for name in spec.relations}
        found += ["precision"] if "number" in values else []
        found += ["date_format"] if "date" in values else []
        found += ["letter_case"] if values - {"number", "date", "year", "point"} else []
    elif spec.kind in ("find", "rank"):
        found.append("letter_case")
    return found


def options(spec: ToolSpec) -> list[Param]:
    """The parameters that scaling added."""
    return [replace(OPTIONS[name], required=name in spec.demanded) for name in spec.options]


def core(
    spec: ToolSpec, entity: EntityType | None, relations: Mapping[str, Relation]
) -> list[Param]:
    """The parameters that make up a tool's function, those of functional generalisation included.

    Args:
        spec: of the tool.
        entity: its subject's type; None for a tool that computes.
        relations: of its subject, by name.
    """
    if spec.kind in KINDS:
        return _computing(spec)
    if entity is None:
        raise ValueError(f"a tool of the kind {spec.kind!r} needs a type of entity")
    if spec.kind == "lookup":
        return _lookup(spec, entity, relations)
    if spec.kind == "find":
        return _find(spec, entity, relations)
    return _listing(spec, entity, relations)


def _computing(spec: ToolSpec) -> list[Param]:
    kind = KINDS[spec.kind]
    params = list(kind.core)
    if spec.kind == "convert_unit":
        names = ("from_unit", "to_unit")
        params = [
            Param(p.name, p.kind, p.what, choices=spec.operations) if p.name in names else p
            for p in params
        ]
    added = list(kind.functional[: spec.functional])
    if spec.kind == "aggregate" and len(spec.operations) == 1:
        added = [p for p in added if p.name != "operation"]
    elif spec.kind == "aggregate":
        added = list(kind.functional[: max(1, spec.functional)])
        first = added[0]
        added[0] = Param(first.name, first.kind, first.what, choices=spec.operations)
    return params + added


def _lookup(spec: ToolSpec, entity: EntityType, relations: Mapping[str, Relation]) -> list[Param]:
    params = [Param(parameter_name(entity.name), "entity", entity.what, subject=entity.name)]
    if spec.functional >= 2 and not spec.several:
        what = "What to look up; several at once are possible"
        params.append(Param("facts", "choices", what, choices=spec.relations))
    elif len(spec.relations) > 1:
        params.append(Param("fact", "choice", "What to look up", choices=spec.relations))
    what = "Whether facts come by themselves or as a record with the name"
    layout = Param("layout", "choice", what, False, "plain", ("plain", "record"))
    what = "Name to try where the first one is not in the register"
    fallback = Param("fallback_name", "text", what, False, "")
    extra = [layout, fallback] if spec.several else [layout]
    return params + extra[: max(0, spec.functional - 1 if spec.several else spec.functional - 2)]


def _find(spec: ToolSpec, entity: EntityType, relations: Mapping[str, Relation]) -> list[Param]:
    single = not spec.operations
    params = []
    for name in spec.relations:
        relation = relations[name]
        kinds = {"date": "date", "year": "year", "number": "number", "text": "text"}
        kind = kinds.get(relation.object, "entity")
        what = f"{relation.label.capitalize()} of the {entity.name} that is sought"
        needed = single or name in spec.operations
        params.append(Param(parameter_name(name), kind, what, needed, subject=relation.object))
    if spec.functional >= 2:
        params.append(
            Param(
                "max_results",
                "integer",
                "Give a list of at most so many names in place of the only one",
                False,
                low=1,
                high=50,
            )
        )
    if spec.functional >= 3:
        params.append(
            Param(
                "order",
                "choice",
                "Order of the names where there are several",
                False,
                "register",
                ("register", "alphabetical"),
            )
        )
    return params


def _listing(spec: ToolSpec, entity: EntityType, relations: Mapping[str, Relation]) -> list[Param]:
    place, by = spec.relations[0], spec.relations[1:]
    owner = relations[place].object
    params = [Param(owner, "entity", f"Full name of the {owner}", subject=owner)]
    measure = [Param("sort_by", "choice", "What the order goes by", choices=by)]
    chosen = measure if len(by) > 1 else []
    if spec.kind == "count":
        chosen = (
            [Param("measure", "choice", "What the bounds are about", choices=by)] if chosen else []
        )
        label = relations[by[0]].label if len(by) == 1 else "measure"
        params += [
            *chosen,
            Param("minimum", "number", f"Count only those whose {label} is at least this"),
        ]
        extra = [
            Param("maximum", "number", "Count only those for which it is at most this", False),
            Param(
                "name_contains",
                "text",
                "Count only those with these letters in the name",
                False,
                "",
            ),
            Param(
                "as_percentage",
                "flag",
                "Give the share of all in per cent, not the number",
                False,
                False,
            ),
        ]
    else:
        params += [
            *chosen,
            Param("limit", "integer", f"How many {entity.plural} to give", low=1, high=50),
        ]
        extra = [
            Param(
                "order",
                "choice",
                "From the highest down or from the lowest up",
                False,
                "descending",
                ("descending", "ascending"),
            ),
            Param(
                "skip",
                "integer",
                "How many to leave out at the beginning",
                False,
                0,
                low=0,
                high=50,
            ),
            Param(
                "name_contains", "text", "Give only those with these letters in the name", False, ""
            ),
        ]
    return params + extra[: spec.functional]
