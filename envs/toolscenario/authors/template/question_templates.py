"""Question plans in which chains meet in a computation, and all plans by shape."""

from __future__ import annotations

from datetime import date
from typing import Any

from toolgym.envs.toolscenario.authors.template.chain_templates import (
    CHAINS,
    SINGLES,
    Plan,
    dated,
    number_words,
)
from toolgym.envs.toolscenario.authors.template.chains import Chain, Draft, Drawer, NoPlanError
from toolgym.envs.toolscenario.authors.template.join_templates import (
    ALONE,
    BRANCHES,
    alike,
    close,
    its,
    starts,
)
from toolgym.envs.toolscenario.codegen import formulas
from toolgym.envs.toolscenario.codegen.formulas import round_number
from toolgym.envs.toolscenario.codegen.kinds import WEEKDAYS
from toolgym.scenario import FROM, Shape

__all__ = ["PLANS"]


def _pair(drawer: Drawer, last: Any) -> list[Chain]:
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
    chains = sorted(_pair(drawer, lambda r: r.object == "point"), key=lambda item: item.hops)
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
    chains = sorted(_pair(drawer, dated), key=lambda item: str(item.value))
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


PLANS: dict[Shape, tuple[tuple[Plan, float], ...]] = {
    "single-hop": SINGLES,
    "parallel single-hop": ALONE,
    "multi-hop": CHAINS,
    "parallel multi-hop": (
        *BRANCHES,
        *((distance, 2), (days, 2.5), (statistics, 2), (ratio, 1)),
    ),
}
"""Plans by the shape of their sub-questions, with weights."""
