"""Tools as plans: from one `ToolSpec` follow its document, its reference calls and its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from toolgym.envs.toolscenario.codegen.kinds import COMMON, KINDS, OPTIONS, Param, parameter_name
from toolgym.envs.toolscenario.worlds.relations import EntityType, Relation

__all__ = ["ToolSpec", "core", "eligible", "options"]


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
