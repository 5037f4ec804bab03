"""Names of tools, the merging of those that overlap, and complexity scaling without a model."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from toolgym.envs.toolscenario.authors.template.chains import FINDERS
from toolgym.envs.toolscenario.codegen import formulas
from toolgym.envs.toolscenario.codegen.rendering import PlannedCall
from toolgym.envs.toolscenario.codegen.toolspecs import (
    AREAS,
    DEMANDABLE,
    KINDS,
    LENGTHS,
    MASSES,
    OPERATIONS,
    TIMES,
    ToolSpec,
    eligible,
)
from toolgym.envs.toolscenario.worlds.knowledge import Knowledge
from toolgym.envs.toolscenario.worlds.relations import Relation
from toolgym.scenario import Levels

__all__ = ["DIMENSIONS", "distractors", "fact_name", "first_spec", "harder", "merge", "unique"]

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
    step: PlannedCall, knowledge: Knowledge, rng: random.Random, taken: Iterable[str]
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


_OPTIONS = (0, 2, 3, 5)  # options by level of parameter expansion
_DEMANDED = (0, 0, 1, 2)  # of these required


def harder(
    spec: ToolSpec,
    levels: Levels,
    knowledge: Knowledge,
    rng: random.Random,
    taken: Iterable[str],
    needed: bool = True,
) -> ToolSpec:
    """A tool that does the same and more, in more complicated ways.

    Args:
        spec: the tool.
        levels: how far.
        knowledge: its words.
        rng: chooses what is added; a higher level adds to what a lower one chose.
        taken: names of other tools.
        needed: whether a sub-question needs it; False for a distractor.
    """
    level = levels.functional_generalisation
    if spec.subject and not needed:  # a wider one would only be a broken copy of a needed tool
        level = 0
    made = _general(spec, level, knowledge, rng, taken)
    relations = {item.name: item for item in knowledge.relations_of(spec.subject)}
    # The details come first: other options show in them.
    rest = [name for name in eligible(made, relations) if name != "include_details"]
    order = ["include_details", *rng.sample(rest, len(rest))]
    chosen = order[: _OPTIONS[levels.parameter_expansion]]
    demandable = [name for name in order if name in DEMANDABLE]
    rng.shuffle(demandable)
    demanded = [name for name in demandable if name in chosen]
    return replace(
        made,
        typing=levels.type_generalisation,
        options=tuple(chosen),
        demanded=tuple(demanded[: _DEMANDED[levels.parameter_expansion]]),
    )


def _general(
    spec: ToolSpec, level: int, knowledge: Knowledge, rng: random.Random, taken: Iterable[str]
) -> ToolSpec:
    own = [item.name for item in knowledge.relations_of(spec.subject)]
    more = [name for name in own if name not in spec.relations]
    rng.shuffle(more)  # drawn at every level, so that the next draws are the same ones
    if not level:
        return spec
    name, relations, operations = spec.name, spec.relations, spec.operations
    if spec.kind == "lookup":
        relations += tuple(more[: 2 if level == 1 else len(more)])
        if len(spec.relations) == 1 and more:
            name = f"get_{spec.subject}_facts" if level > 1 else f"get_{spec.subject}_fact"
    elif spec.kind == "find":
        keys = [item for item in more if knowledge.relations[spec.subject, item].object != "point"]
        relations += tuple(keys[: 2 * level])
        operations = operations or spec.relations
        name = f"find_{spec.subject}" if keys else name
    elif spec.kind in ("rank", "count"):
        relations += tuple(_measures(knowledge, spec, more)[:level])
        name = f"{spec.kind}_{knowledge.types[spec.subject].plural}"
    elif spec.kind == "convert_unit":
        others = [unit for units in DIMENSIONS.values() for unit in units]
        operations += tuple(unit for unit in others if unit not in operations)
    elif spec.kind == "aggregate":
        operations += tuple(item for item in OPERATIONS if item not in operations)
        name = "aggregate_numbers"
    if name != spec.name:
        name = unique(name, [item for item in taken if item != spec.name])
    return replace(spec, name=name, relations=relations, operations=operations, functional=level)


def _measures(knowledge: Knowledge, spec: ToolSpec, names: Sequence[str]) -> list[str]:
    return [name for name in names if knowledge.relations[spec.subject, name].numeric]


def distractors(
    specs: Sequence[ToolSpec], levels: Levels, knowledge: Knowledge, rng: random.Random
) -> list[ToolSpec]:
    """Tools that no sub-question needs: near misses first, then others.

    Args:
        specs: of the tools that are needed, as they are before scaling.
        levels: how far.
        knowledge: what they are about.
        rng: chooses; a higher level adds to what a lower one chose.
    """
    counts = (rng.randint(1, 2), rng.randint(1, 2), rng.randint(2, 3))
    count = sum(counts[: levels.toolset_extension])
    taken = {spec.name for spec in specs}
    pool = _near(specs, knowledge, rng)
    found: list[ToolSpec] = []
    for spec in pool[:count]:
        found.append(replace(spec, name=unique(spec.name, taken)))
        taken.add(found[-1].name)
    return found


def _near(specs: Sequence[ToolSpec], knowledge: Knowledge, rng: random.Random) -> list[ToolSpec]:
    """Candidates: other facts about the same kinds of entity, other kinds, other computations."""
    used = {(spec.subject, name) for spec in specs for name in spec.relations}
    kinds = {spec.subject for spec in specs if spec.subject}
    close: list[ToolSpec] = []
    far: list[ToolSpec] = []
    for (subject, name), relation in knowledge.relations.items():
        if (subject, name) not in used and knowledge.places.get((subject, name)):
            (close if subject in kinds else far).append(_lookup(knowledge, relation))
    searched = {spec.subject for spec in specs if spec.kind == "find"}
    for subject, keys, _ in FINDERS:
        known = all(knowledge.places.get((subject, key)) for key in keys)
        if known and subject not in searched and subject in kinds:
            close.append(ToolSpec(f"find_{subject}_by_{'_and_'.join(keys)}", "find", subject, keys))
    computing = [
        ToolSpec(kind.names[0], name, operations=_operations(name))
        for name, kind in KINDS.items()
        if name not in {spec.kind for spec in specs}
    ]
    for items in (close, far, computing):
        rng.shuffle(items)
    mixed: list[ToolSpec] = []
    while close or far or computing:
        for items, times in ((close, 2), (computing, 1), (far, 1)):
            for _ in range(min(times, len(items))):
                mixed.append(items.pop())
    return mixed


def _lookup(knowledge: Knowledge, relation: Relation) -> ToolSpec:
    word = fact_name(knowledge, relation.subject, relation.name)
    return ToolSpec(f"get_{word}", "lookup", relation.subject, (relation.name,))


def _operations(kind: str) -> tuple[str, ...]:
    if kind == "aggregate":
        return OPERATIONS
    return DIMENSIONS["length"] if kind == "convert_unit" else ()
