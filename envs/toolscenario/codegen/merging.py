"""Names of tools, and the merging of those whose functions overlap."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from toolgym.envs.toolscenario.codegen import formulas
from toolgym.envs.toolscenario.codegen.kinds import AREAS, KINDS, LENGTHS, MASSES, TIMES
from toolgym.envs.toolscenario.codegen.rendering import Step
from toolgym.envs.toolscenario.codegen.toolspecs import ToolSpec
from toolgym.envs.toolscenario.worlds.knowledge import Knowledge

__all__ = ["DIMENSIONS", "fact_name", "first_spec", "merge", "unique"]

DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    "length": LENGTHS,
    "mass": MASSES,
    "area": AREAS,
    "time": TIMES,
}
_RESERVED = frozenset(formulas.PARTS)
_AGGREGATES = {
    "sum": ("sum_numbers", "add_numbers"),
    "mean": ("average_numbers", "mean_of_numbers"),
    "median": ("median_of_numbers", "middle_of_numbers"),
    "range": ("range_of_numbers", "spread_of_numbers"),
}


def unique(name: str, taken: Iterable[str]) -> str:
    """The name, with a number where it is taken, also by a function that tools are made of."""
    used, number, found = {*taken, *_RESERVED}, 2, name
    while found in used:
        found, number = f"{name}_{number}", number + 1
    return found


def fact_name(knowledge: Knowledge, subject: str, relation: str) -> str:
    """What a lookup of a relation looks up, as part of a tool's name."""
    known = knowledge.relations[subject, relation]
    word = relation if relation not in knowledge.shared else f"{subject}_{relation}"
    return word if known.names or "_" in word or known.entity else f"{subject}_{word}"


def first_spec(
    step: Step, knowledge: Knowledge, rng: random.Random, taken: Iterable[str]
) -> ToolSpec:
    """The tool of one sub-question, before anything is merged.

    Args:
        step: of the sub-question.
        knowledge: its words.
        rng: chooses among names.
        taken: names of other tools.
    """
    kind, subject = step.kind, step.subject
    operations: tuple[str, ...] = ()
    if kind == "lookup":
        word = fact_name(knowledge, subject, step.relations[0])
        own = knowledge.relations[subject, step.relations[0]].names
        names = [f"get_{word}", f"find_{word}", f"look_up_{word}", f"fetch_{word}", *own]
    elif kind == "find":
        keys = "_and_".join(step.relations)
        names = [f"find_{subject}_by_{keys}", f"search_{subject}_by_{keys}", f"identify_{subject}"]
    elif kind in ("rank", "count"):
        many, by = knowledge.types[subject].plural, step.relations[1]
        owner = knowledge.relations[subject, step.relations[0]].object
        names = {
            "rank": [f"rank_{many}_by_{by}", f"list_{many}_by_{by}", f"top_{many}_of_{owner}"],
            "count": [f"count_{many}_by_{by}", f"number_of_{many}", f"count_{many}_of_{owner}"],
        }[kind]
    elif kind == "aggregate":
        names, operations = list(_AGGREGATES[step.operation]), (step.operation,)
    else:
        names = list(KINDS[kind].names)
        operations = DIMENSIONS.get(step.operation, ())
    used = {*taken, *_RESERVED}
    free = [name for name in names if name not in used] or [unique(names[0], used)]
    return ToolSpec(rng.choice(free), kind, subject, step.relations, operations)


def merge(specs: Sequence[ToolSpec], knowledge: Knowledge) -> tuple[list[ToolSpec], dict[str, str]]:
    """One tool for those that do overlapping work: the same, or the same for one kind of entity.

    Args:
        specs: before.
        knowledge: its words.

    Returns:
        The tools, and old names to new ones for those that were merged.
    """
    groups: dict[tuple[str, ...], list[ToolSpec]] = {}
    for spec in specs:
        groups.setdefault(_overlap(spec), []).append(spec)
    made: list[ToolSpec] = []
    renamed: dict[str, str] = {}
    for group in groups.values():
        taken = [spec.name for spec in made]
        taken += [spec.name for spec in specs if spec not in group]
        whole = _one(group, knowledge, taken)
        made.append(whole)
        renamed |= {spec.name: whole.name for spec in group if spec.name != whole.name}
    return made, renamed


def _overlap(spec: ToolSpec) -> tuple[str, ...]:
    if spec.kind in ("rank", "count"):
        return (spec.kind, spec.subject, spec.relations[0])
    return (spec.kind, spec.subject)


def _one(group: Sequence[ToolSpec], knowledge: Knowledge, taken: Iterable[str]) -> ToolSpec:
    first = group[0]
    relations = tuple(dict.fromkeys(name for spec in group for name in spec.relations))
    operations = tuple(dict.fromkeys(name for spec in group for name in spec.operations))
    if (relations, operations) == (first.relations, first.operations):
        return first
    name = first.name
    if first.kind == "lookup":
        name = f"get_{first.subject}_fact"
    elif first.kind == "find":
        name, operations = f"find_{first.subject}", ("any",)
    elif first.kind == "aggregate":
        name = "aggregate_numbers"
    elif first.kind in ("rank", "count"):
        name = f"{first.kind}_{knowledge.types[first.subject].plural}"
    return ToolSpec(unique(name, taken), first.kind, first.subject, relations, operations)
