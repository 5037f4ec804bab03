"""Question plans with several branches: lists, sums, forks, computations; and all plans."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from toolgym.envs.toolscenario.authors.template.chain_templates import (
    CHAINS,
    SINGLES,
    Template,
    dated,
    number_words,
)
from toolgym.envs.toolscenario.authors.template.chains import (
    Chain,
    Draft,
    Drawer,
    NoPlanError,
    alike,
    close,
    its,
    starts,
)
from toolgym.envs.toolscenario.authors.template.wording import (
    join,
    mention,
    plural,
)
from toolgym.envs.toolscenario.codegen import formulas
from toolgym.envs.toolscenario.codegen.formulas import round_number
from toolgym.envs.toolscenario.codegen.sources import json_value
from toolgym.envs.toolscenario.codegen.toolspecs import WEEKDAYS
from toolgym.envs.toolscenario.worlds.relations import Relation
from toolgym.scenario import FROM, Shape

__all__ = ["ALONE", "BRANCHES", "TEMPLATES"]


def _listable(relation: Relation) -> bool:
    return relation.object != "point" and bool(relation.label)


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
    told = ((item.last.label, item.last.unit) for item in chains)
    return join([f"the {label}" + (f" (in {unit})" if unit else "") for label, unit in told])


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


ALONE: tuple[tuple[Template, float], ...] = (
    *((listed, 3), (facts, 3), (compared, 3), (combined, 2), (differing, 2), (same, 1)),
)
"""Plans whose sub-questions do not need each other, with weights."""
BRANCHES: tuple[tuple[Template, float], ...] = (
    *(
        (chains_listed, 2),
        (chains_compared, 2),
        (chains_summed, 1.5),
        (chains_same, 0.7),
        (fork, 2),
    ),
)
"""Plans of several chains, with weights."""


def _two_chains(drawer: Drawer, last: Any) -> list[Chain]:
    """Two chains of one to three hops that end alike; along different relations half the time."""
    hops = drawer.rng.choice((1, 2, 2, 3))
    if drawer.rng.random() < 0.5:
        return alike(drawer, last, hops, 2)
    chains = [drawer.chain(hops, last), drawer.chain(drawer.rng.choice((1, 2)), last, search=0.3)]
    if set(chains[0].values) & set(chains[1].values) or chains[0].start == chains[1].start:
        raise NoPlanError
    return chains


def distance(drawer: Drawer) -> Draft:
    """How far two places are apart."""
    draft = Draft(drawer.knowledge)
    # The longer phrase last: "between the city of A and B" could be read in two ways.
    chains = sorted(_two_chains(drawer, lambda r: r.object == "point"), key=lambda item: item.hops)
    of = [draft.chain(item) for item in chains]
    value = round_number(formulas.great_circle([item.value for item in chains]), 1)
    words = f"How many kilometres lie between #{of[0]} and #{of[1]}?"
    last = draft.compute("distance", words, value, points=[{FROM: name} for name in of])
    places = [item.inner() for item in chains]
    measured = "in kilometres to one decimal"
    forms = (
        f"How far is it as the crow flies from {places[0]} to {places[1]}, {measured}?",
        f"What is the great-circle distance between {places[0]} and {places[1]}, {measured}?",
    )
    return close(draft, drawer.pick(forms), "last", (last,))


def days(drawer: Drawer) -> Draft:
    """The days, or certain days of the week, between two events."""
    draft, rng = Draft(drawer.knowledge), drawer.rng
    chains = sorted(_two_chains(drawer, dated), key=lambda item: str(item.value))
    of = [draft.chain(item) for item in chains]
    dates = {"start_date": {FROM: of[0]}, "end_date": {FROM: of[1]}}
    known = (date.fromisoformat(chains[0].value), date.fromisoformat(chains[1].value))
    events = [item.last.event.replace("{s}", item.inner()) for item in chains]
    if rng.random() < 0.6:
        words = f"How many days lie between #{of[0]} and #{of[1]}?"
        value: Any = int(formulas.date_difference(*known))
        last = draft.compute("date_difference", words, value, **dates)
        rng.shuffle(events)
        question = f"How many days lie between {events[0]} and {events[1]}?"
    else:
        weekday = drawer.pick(WEEKDAYS)
        head = f"How many {weekday.capitalize()}s fell in the period from"
        words = f"{head} #{of[0]} to #{of[1]}, both days included?"
        value = formulas.count_weekdays(*known, weekday)
        last = draft.compute("count_weekdays", words, value, weekday=weekday, **dates)
        question = f"{head} {events[0]} to {events[1]}, both days included?"
    return close(draft, question, "last", (last,))


def statistics(drawer: Drawer) -> Draft:
    """The mean, median or range of what three or four chains end in, or all of it in order."""
    draft, rng = Draft(drawer.knowledge), drawer.rng
    chains = alike(drawer, lambda r: r.object == "number", rng.choice((1, 1, 2)), rng.randint(3, 4))
    of = [draft.chain(item) for item in chains]
    values, given = [item.value for item in chains], [{FROM: name} for name in of]
    last, references = chains[0].last, ", ".join(f"#{name}" for name in of)
    operation = drawer.pick(("mean", "median", "range", "sort"))
    who = starts(drawer, chains)
    asked = (
        f"the {last.label}"
        if len(chains[0].relations) == 1
        else f"the {last.label} of {its(drawer, chains)}"
    )
    measured = f" (in {last.unit})" if last.unit else ""
    if operation == "sort":
        down = rng.random() < 0.5
        order = "descending" if down else "ascending"
        told = "largest to the smallest" if down else "smallest to the largest"
        name = draft.compute(
            "sort",
            f"What are {references} in {order} order?",
            formulas.sort_values(values, order),
            values=given,
            order=order,
        )
        question = (
            f"For each of {who}, look up {asked}{measured}. List these numbers from the {told}."
        )
    else:
        result = round_number(formulas.aggregate(values, operation), 2)
        name = draft.compute(
            "aggregate",
            f"What is the {operation} of {references}?",
            result,
            operation,
            values=given,
        )
        told = "range (highest minus lowest)" if operation == "range" else operation
        whole = operation != "mean" and all(isinstance(item, int) for item in values)
        rounded = "" if whole else ", rounded to two decimals"
        question = f"For each of {who}, look up {asked}{measured}. "
        question += f"What is the {told} of these numbers{rounded}?"
    return close(draft, question, "last", (name,))


def ratio(drawer: Drawer) -> Draft:
    """One number divided by another."""
    draft = Draft(drawer.knowledge)
    chains = alike(drawer, lambda r: r.object == "number", drawer.rng.choice((1, 2)), 2)
    chains.sort(key=lambda item: -float(item.value))
    of = [draft.chain(item) for item in chains]
    value = round_number(formulas.share(*(item.value for item in chains)), 2)
    last = draft.compute(
        "share",
        f"What is #{of[0]} divided by #{of[1]}?",
        value,
        part={FROM: of[0]},
        whole={FROM: of[1]},
    )
    numbers = [number_words(item.last, item.inner()) for item in chains]
    if value < 1.05:
        raise NoPlanError
    forms = (
        f"What do you get when you divide {numbers[0]} by {numbers[1]}, rounded to two decimals?",
        f"Divide {numbers[0]} by {numbers[1]}; what is the result, to two decimals?",
    )
    return close(draft, drawer.pick(forms), "last", (last,))


TEMPLATES: dict[Shape, tuple[tuple[Template, float], ...]] = {
    "single-hop": SINGLES,
    "parallel single-hop": ALONE,
    "multi-hop": CHAINS,
    "parallel multi-hop": (
        *BRANCHES,
        *((distance, 2), (days, 2.5), (statistics, 2), (ratio, 1)),
    ),
}
"""Plans by the shape of their sub-questions, with weights."""
