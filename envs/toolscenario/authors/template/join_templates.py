"""Question plans with several branches: lists, comparisons, sums, and forks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolgym.envs.toolscenario.authors.template.chain_templates import Plan, dated
from toolgym.envs.toolscenario.authors.template.chains import Chain, Draft, Drawer, NoPlanError
from toolgym.envs.toolscenario.authors.template.wording import (
    join,
    mention,
    mentions,
    phrase,
    plural,
)
from toolgym.envs.toolscenario.codegen.sources import json_value
from toolgym.envs.toolscenario.worlds.relations import Relation
from toolgym.scenario import FROM, Combination

__all__ = ["ALONE", "BRANCHES", "alike", "close", "its", "starts"]


def close(
    draft: Draft, question: str, rule: Any, of: Sequence[str], labels: Sequence[str] = ()
) -> Draft:
    """A draft with its question and how the answer follows."""
    draft.question = question[0].upper() + question[1:]
    draft.combination = Combination(rule=rule, of=tuple(of), labels=tuple(labels))
    return draft


def alike(drawer: Drawer, last: Any, hops: int, width: int) -> list[Chain]:
    """Chains along the same relations from different entities, to different values."""
    first = drawer.chain(hops, last)
    found, starts = [first], {first.start}
    pool = drawer.knowledge.places[first.relations[0].subject, first.relations[0].name]
    for _ in range(60):
        if len(found) == width:
            return found
        name = drawer.pick(pool)
        made = None if name in starts else drawer.along(first.relations, name)
        if made is not None and made.value not in [item.value for item in found]:
            met = {value for item in found for value in item.values} & set(made.values)
            if not met:
                found.append(made)
                starts.add(name)
    raise NoPlanError


def _listable(relation: Relation) -> bool:
    return relation.object != "point" and bool(relation.label)


def starts(drawer: Drawer, chains: Sequence[Chain], last: str = "and") -> str:
    """The entities that chains start from, in words."""
    return mentions(drawer.knowledge, [item.start for item in chains], last)


def listed(drawer: Drawer) -> Draft:
    """The same fact about two to four entities."""
    draft = Draft(drawer.knowledge)
    chains = alike(drawer, _listable, 1, drawer.rng.randint(2, 4))
    of = [draft.chain(item) for item in chains]
    relation = chains[0].last
    measured = f", in {relation.unit}" if relation.unit else ""
    what = f"the {plural(relation.label)} of {starts(drawer, chains)}{measured}"
    forms = (f"What are {what}? Answer in this order.", f"List {what}, in the order given.")
    return close(draft, drawer.pick(forms), "list", of)


def facts(drawer: Drawer) -> Draft:
    """Two to four facts about one entity."""
    knowledge, draft = drawer.knowledge, Draft(drawer.knowledge)
    kind = drawer.pick(list(knowledge.by_type))
    name = drawer.pick(knowledge.by_type[kind])
    made = _several(drawer, name, drawer.rng.randint(2, 4))
    of = [draft.chain(item) for item in made]
    who = mention(knowledge, name)
    forms = (
        f"What are {_labels(made)} of {who}?",
        f"For {who}, give {_labels(made)}, in this order.",
    )
    return close(draft, drawer.pick(forms), "list", of)


def _several(drawer: Drawer, name: str, width: int) -> list[Chain]:
    knowledge = drawer.knowledge
    own = [r for r in knowledge.relations_of(knowledge.type_of[name]) if _listable(r)]
    known = [made for r in own if (made := drawer.along((r,), name)) is not None]
    if len(known) < 2:
        raise NoPlanError
    return drawer.rng.sample(known, min(width, len(known)))


def _labels(chains: Sequence[Chain]) -> str:
    return join(
        [
            f"the {item.last.label}" + (f" (in {item.last.unit})" if item.last.unit else "")
            for item in chains
        ]
    )


def compared(drawer: Drawer) -> Draft:
    """Which of three or four entities has the most or the least of something."""
    draft = Draft(drawer.knowledge)
    chains = alike(drawer, lambda r: bool(r.extremes[0]), 1, drawer.rng.randint(3, 4))
    of = [draft.chain(item) for item in chains]
    top = drawer.rng.random() < 0.5
    tail = chains[0].last.extremes[0 if top else 1]
    question = f"Which of {starts(drawer, chains)} {tail}?"
    rule = "first_maximum" if top else "first_minimum"
    return close(draft, question, rule, of, [item.start for item in chains])


def combined(drawer: Drawer) -> Draft:
    """The sum of a number over two to four entities."""
    draft = Draft(drawer.knowledge)
    chains = alike(drawer, lambda r: bool(r.combined), 1, drawer.rng.randint(2, 4))
    of = [draft.chain(item) for item in chains]
    relation = chains[0].last
    measured = f", in {relation.unit}" if relation.unit else ""
    return close(
        draft, f"What is the {relation.combined} of {starts(drawer, chains)}{measured}?", "sum", of
    )


def differing(drawer: Drawer) -> Draft:
    """The difference of two numbers or years."""
    draft = Draft(drawer.knowledge)
    chains = alike(drawer, lambda r: r.numeric, 1, 2)
    of = [draft.chain(item) for item in chains]
    return close(draft, _difference(drawer, chains), "difference", of)


def _difference(drawer: Drawer, chains: Sequence[Chain]) -> str:
    relation = chains[0].last
    inner = [item.inner() for item in chains]
    if relation.object == "year" and relation.event:
        events = [relation.event.replace("{s}", words) for words in inner]
        return (
            f"How many years lie between {events[0]} and {events[1]}, going by the calendar years?"
        )
    measured = f", in {relation.unit}" if relation.unit else ""
    first, second = f"the {relation.label} of {inner[0]}", f"that of {inner[1]}"
    return f"What is the difference between {first} and {second}{measured}?"


def same(drawer: Drawer) -> Draft:
    """Whether two entities share a value."""
    return _same(drawer, 1)


def _same(drawer: Drawer, hops: int) -> Draft:
    knowledge, draft = drawer.knowledge, Draft(drawer.knowledge)

    def shared(relation: Relation) -> bool:
        return relation.entity and (relation.subject, relation.name) in knowledge.sharing

    if drawer.rng.random() < 0.35:  # pairs that share a value are harder to find
        chains = alike(drawer, shared, hops, 2)
    else:
        first = drawer.chain(hops, shared)
        pool = knowledge.places[first.relations[0].subject, first.relations[0].name]
        others = [
            drawer.along(first.relations, name)
            for name in drawer.rng.sample(pool, min(len(pool), 120))
        ]
        equal = [
            item
            for item in others
            if item
            and item.start != first.start
            and item.value == first.value
            and not set(item.values[:-1]) & set(first.values)
        ]
        chains = [first, drawer.pick(equal)]
    of = [draft.chain(item) for item in chains]
    inner, label = join([item.inner() for item in chains]), chains[0].last.label
    verb = f"Are {inner} in" if label in ("city", "country") else f"Do {inner} have"
    return close(draft, f"{verb} the same {label}?", "equal", of)


def chains_listed(drawer: Drawer) -> Draft:
    """Two or three chains, and what each ends in."""
    draft = Draft(drawer.knowledge)
    chains = alike(drawer, _listable, drawer.rng.choice((2, 2, 3)), drawer.rng.randint(2, 3))
    of = [draft.chain(item) for item in chains]
    last = chains[0].last
    measured = f", in {last.unit}" if last.unit else ""
    asked = f"the {last.label} of {its(drawer, chains)}{measured}"
    forms = (
        f"For each of {starts(drawer, chains)}, what is {asked}? Answer in this order.",
        f"Take {starts(drawer, chains)}. For each of them in turn, give {asked}.",
    )
    return close(draft, drawer.pick(forms), "list", of)


def its(drawer: Drawer, chains: Sequence[Chain]) -> str:
    """The chain up to its last relation, from "its director" on."""
    relations = chains[0].relations
    its = drawer.knowledge.types[relations[0].subject].its
    return phrase(relations[1:-1], f"{its} {relations[0].label}")


def chains_compared(drawer: Drawer) -> Draft:
    """For which of two to four entities a chain ends in the most or the least."""
    draft = Draft(drawer.knowledge)
    chains = alike(drawer, lambda r: r.numeric or dated(r), 2, drawer.rng.randint(2, 4))
    of = [draft.chain(item) for item in chains]
    top, last = drawer.rng.random() < 0.5, chains[0].last
    number = last.object == "number"
    word = (
        ("larger", "smaller", "largest", "smallest")
        if number
        else ("later", "earlier", "latest", "earliest")
    )
    chosen = word[(0 if len(chains) == 2 else 2) + (0 if top else 1)]
    asked = f"the {last.label} of {its(drawer, chains)}"
    question = f"For which of {starts(drawer, chains)} is {asked} the {chosen}?"
    rule = "first_maximum" if top else "first_minimum"
    return close(draft, question, rule, of, [item.start for item in chains])


def chains_summed(drawer: Drawer) -> Draft:
    """The sum of, or difference between, what two chains end in."""
    draft = Draft(drawer.knowledge)
    adding = drawer.rng.random() < 0.5
    chains = alike(drawer, (lambda r: bool(r.combined)) if adding else (lambda r: r.numeric), 2, 2)
    of = [draft.chain(item) for item in chains]
    if not adding:
        return close(draft, _difference(drawer, chains), "difference", of)
    relation = chains[0].last
    measured = f", in {relation.unit}" if relation.unit else ""
    inner = join([item.inner() for item in chains])
    return close(draft, f"What is the {relation.combined} of {inner}{measured}?", "sum", of)


def chains_same(drawer: Drawer) -> Draft:
    """Whether two chains end in the same."""
    return _same(drawer, 2)


def fork(drawer: Drawer) -> Draft:
    """Several facts about an entity that is found first."""
    draft = Draft(drawer.knowledge)
    stem = drawer.chain(drawer.rng.randint(1, 2), lambda r: r.entity, search=0.2)
    middle = draft.chain(stem)
    made = [
        item
        for item in _several(drawer, str(stem.value), drawer.rng.randint(2, 3))
        if item.value not in (stem.start, *stem.values)
    ]
    if len(made) < 2:
        raise NoPlanError
    of = []
    for item in made:
        of.append(
            draft.add(
                item.last.asks[0].replace("{s}", f"#{middle}"),
                kind="lookup",
                value=json_value(item.value),
                inputs={"entity": {FROM: middle}},
                subject=item.last.subject,
                relations=(item.last.name,),
                about=item.start,
            )
        )
    inner = stem.last.phrases[0].replace("{s}", stem.inner())
    forms = (
        f"What are {_labels(made)} of {inner}?",
        f"Give {_labels(made)} of {inner}, in this order.",
    )
    return close(draft, drawer.pick(forms), "list", of)


ALONE: tuple[tuple[Plan, float], ...] = (
    *((listed, 3), (facts, 3), (compared, 3), (combined, 2), (differing, 2), (same, 1)),
)
"""Plans whose sub-questions do not need each other, with weights."""
BRANCHES: tuple[tuple[Plan, float], ...] = (
    *(
        (chains_listed, 2),
        (chains_compared, 2),
        (chains_summed, 1.5),
        (chains_same, 0.7),
        (fork, 2),
    ),
)
"""Plans of several chains, with weights."""
