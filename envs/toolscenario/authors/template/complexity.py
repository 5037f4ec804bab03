"""Complexity scaling without a model: harder versions of tools, and tools that solve nothing."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from toolgym.envs.toolscenario.authors.template.chains import FINDERS
from toolgym.envs.toolscenario.codegen.kinds import KINDS, OPERATIONS
from toolgym.envs.toolscenario.codegen.merging import DIMENSIONS, fact_name, unique
from toolgym.envs.toolscenario.codegen.params import DEMANDABLE
from toolgym.envs.toolscenario.codegen.toolspecs import ToolSpec, eligible
from toolgym.envs.toolscenario.worlds.knowledge import Knowledge
from toolgym.envs.toolscenario.worlds.relations import Relation
from toolgym.scenario import Levels

__all__ = ["distractors", "harder"]

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
