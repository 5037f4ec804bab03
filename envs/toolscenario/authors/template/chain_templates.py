"""Question plans: single lookups, searches, lists and computations, and chains of them."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from toolgym.envs.toolscenario.authors.template.chains import Chain, Draft, Drawer, NoPlanError
from toolgym.envs.toolscenario.authors.template.wording import ask, day, join, unit
from toolgym.envs.toolscenario.codegen import formulas
from toolgym.envs.toolscenario.codegen.formulas import round_number
from toolgym.envs.toolscenario.codegen.toolspecs import AREAS, LENGTHS, MASSES, TIMES, WEEKDAYS
from toolgym.envs.toolscenario.worlds.relations import Relation
from toolgym.scenario import FROM, Combination

__all__ = ["CHAINS", "SINGLES", "Template", "dated", "number_words"]

Template = Callable[[Drawer], Draft]
UNITS = {
    **{
        "kilometres": ("length", LENGTHS, ("miles", "nautical_miles")),
        "metres": ("length", LENGTHS, ("feet", "yards")),
    },
    **{"grams": ("mass", MASSES, ("ounces", "pounds")), "tonnes": ("mass", MASSES, ("pounds",))},
    **{"square kilometres": ("area", AREAS, ("square_miles", "hectares", "acres"))},
    **{"minutes": ("time", TIMES, ("hours", "seconds"))},
}
"""Unit of a relation to its dimension, all units of it, and those worth converting to."""


def _done(draft: Draft, question: str, last: str) -> Draft:
    draft.question = question[0].upper() + question[1:]
    draft.combination = Combination(rule="last", of=(last,))
    return draft


def any_value(relation: Relation) -> bool:
    """A last relation that can be asked for by itself."""
    return True


def dated(relation: Relation) -> bool:
    """A relation whose value is a date."""
    return relation.object == "date"


def _measured(relation: Relation) -> bool:
    return relation.object == "number" and relation.unit in UNITS


def number_words(relation: Relation, inner: str) -> str:
    """The noun phrase of a number, with its unit."""
    measured = f" in {relation.unit}" if relation.unit else ""
    return relation.phrases[0].replace("{s}", inner) + measured


def lookup(drawer: Drawer) -> Draft:
    """One fact about one entity."""
    draft, made = Draft(drawer.knowledge), drawer.chain(1, any_value)
    last = draft.chain(made)
    return _done(draft, ask(made.last, made.head, drawer.rng), last)


def find(drawer: Drawer) -> Draft:
    """The entity with given properties."""
    draft, made = Draft(drawer.knowledge), _found(drawer)
    kind = drawer.knowledge.type_of[made.start]
    last = draft.find(kind, made)
    words = made.head.removeprefix("the ")
    who = "Who is" if kind == "person" else "Which is"
    forms = (f"{who} the {words}?", f"What is the name of {made.head}?", f"Name {made.head}.")
    return _done(draft, drawer.pick(forms), last)


def _found(drawer: Drawer) -> Chain:
    for _ in range(20):
        kind = drawer.pick(list(drawer.knowledge.by_type))
        made = drawer.search(drawer.pick(drawer.knowledge.by_type[kind]))
        if made is not None:
            return made
    raise NoPlanError


LISTS = (
    ("city", "country", "population", "most populous", "have at least {n} inhabitants"),
    ("city", "country", "elevation", "highest", "lie at least {n} metres above sea level"),
    ("mountain", "country", "height", "highest", "are at least {n} metres high"),
    ("river", "source_country", "length", "longest", "are at least {n} kilometres long"),
)
"""What can be put in order and counted where a world is closed."""


def _closed(drawer: Drawer, least: int) -> tuple[tuple[str, ...], str, list[tuple[Any, str]]]:
    """A list, its owner, and its entities by measure, the highest first."""
    if not drawer.knowledge.closed:
        raise NoPlanError
    listed = drawer.pick(LISTS)
    kind, place, by = listed[:3]
    owner = drawer.pick(drawer.knowledge.by_type["country"])
    names = drawer.knowledge.inverse.get((kind, place, owner), [])
    rows = sorted(((drawer.knowledge.facts.get((name, by)), name) for name in names), reverse=True)
    if len(rows) < least or len({value for value, _ in rows}) < len(rows):
        raise NoPlanError
    return listed, owner, rows


def rank(drawer: Drawer) -> Draft:
    """The first few of a list that is put in order."""
    (kind, place, by, most, _), owner, rows = _closed(drawer, 4)
    count = drawer.rng.randint(2, min(4, len(rows) - 1))
    draft = Draft(drawer.knowledge)
    many = drawer.knowledge.types[kind].plural
    number = {2: "two", 3: "three", 4: "four"}[count]
    rises = {"source_country": f"that rise in {owner}"}.get(place, f"of {owner}")
    words = f"Which are the {number} {most} {many} {rises}, {most} first?"
    last = draft.add(
        words,
        kind="rank",
        value=[name for _, name in rows[:count]],
        subject=kind,
        inputs={"entity": owner, "limit": count},
        relations=(place, by),
        about=owner,
    )
    other = f"List the {number} {most} {many} {rises}, beginning with the {most}."
    return _done(draft, drawer.pick((words, other)), last)


def count(drawer: Drawer) -> Draft:
    """How many of a list reach a bound."""
    (kind, place, by, _, measured), owner, rows = _closed(drawer, 14)
    draft, many = Draft(drawer.knowledge), drawer.knowledge.types[kind].plural
    wanted = drawer.rng.randint(13, len(rows) - 1)
    bound = (int(rows[wanted - 1][0]) + int(rows[wanted][0])) // 2
    if not rows[wanted][0] < bound <= rows[wanted - 1][0]:
        raise NoPlanError
    rises = {"source_country": f"that rise in {owner}"}.get(place, f"of {owner}")
    words = f"How many {many} {rises} {measured.replace('{n}', str(bound))}?"
    last = draft.add(
        words,
        kind="count",
        value=wanted,
        subject=kind,
        inputs={"entity": owner, "minimum": bound},
        relations=(place, by),
        about=owner,
    )
    return _done(draft, words, last)


def _some_day(drawer: Drawer, low: int = 1750, high: int = 2015) -> str:
    first = datetime.date(low, 1, 1)
    return (first + datetime.timedelta(days=drawer.rng.randrange((high - low) * 365))).isoformat()


def date_gap(drawer: Drawer) -> Draft:
    """The days between two dates that the question gives."""
    draft, (start, end) = Draft(drawer.knowledge), sorted((_some_day(drawer), _some_day(drawer)))
    words = f"How many days lie between {day(start)} and {day(end)}?"
    value = int(
        formulas.date_difference(
            datetime.date.fromisoformat(start), datetime.date.fromisoformat(end)
        )
    )
    last = draft.compute("date_difference", words, value, start_date=start, end_date=end)
    other = f"How many days after {day(start)} is {day(end)}?"
    return _done(draft, drawer.pick((words, other)), last)


def weekdays(drawer: Drawer) -> Draft:
    """How often a day of the week fell into a period that the question gives."""
    draft, (start, end) = Draft(drawer.knowledge), sorted((_some_day(drawer), _some_day(drawer)))
    weekday = drawer.pick(WEEKDAYS)
    words = (
        f"How many {weekday.capitalize()}s fall in the period from {day(start)} to {day(end)}, "
        "both days included?"
    )
    value = formulas.count_weekdays(
        datetime.date.fromisoformat(start), datetime.date.fromisoformat(end), weekday
    )
    last = draft.compute(
        "count_weekdays", words, value, start_date=start, end_date=end, weekday=weekday
    )
    return _done(draft, words, last)


def shifted(drawer: Drawer) -> Draft:
    """The date some days after one that the question gives."""
    draft, start, days = Draft(drawer.knowledge), _some_day(drawer), drawer.rng.randint(401, 9_999)
    words = f"Which date lies {days} days after {day(start)}?"
    value = formulas.add_days(datetime.date.fromisoformat(start), days)
    last = draft.compute("add_days", words, value, date=start, days=days)
    other = f"Counting {days} days on from {day(start)}, which date do you reach?"
    return _done(draft, drawer.pick((words, other)), last)


def converted(drawer: Drawer) -> Draft:
    """A quantity that the question gives, in another unit."""
    draft, name = Draft(drawer.knowledge), drawer.pick(sorted(UNITS))
    dimension, _, targets = UNITS[name]
    target = drawer.pick(targets)
    value = drawer.rng.randint(101, 9_000) + drawer.rng.randint(1, 9) / 10
    result = round_number(formulas.convert_unit(value, name.replace(" ", "_"), target), 2)
    words = f"How many {unit(target)} are {value} {name}, rounded to two decimals?"
    last = draft.compute(
        "convert_unit",
        words,
        result,
        dimension,
        value=value,
        from_unit=name.replace(" ", "_"),
        to_unit=target,
    )
    other = f"Convert {value} {name} to {unit(target)}; give two decimals."
    return _done(draft, drawer.pick((words, other)), last)


def apart(drawer: Drawer) -> Draft:
    """The distance between two points that the question gives."""
    draft, rng = Draft(drawer.knowledge), drawer.rng
    points = [[round(rng.uniform(-60, 70), 2), round(rng.uniform(-175, 175), 2)] for _ in range(2)]
    words = "How many kilometres is it along the great circle from {} to {}, to one decimal?"
    written = [f"latitude {lat}, longitude {lon}" for lat, lon in points]
    value = round_number(formulas.great_circle([(p[0], p[1]) for p in points]), 1)
    question = words.format(*written)
    return _done(draft, question, draft.compute("distance", question, value, points=points))


def summed(drawer: Drawer) -> Draft:
    """The mean, median or sum of numbers that the question gives."""
    draft, rng = Draft(drawer.knowledge), drawer.rng
    values = [rng.randint(101, 9_999) + rng.randint(1, 9) / 10 for _ in range(rng.randint(4, 7))]
    operation = drawer.pick(("mean", "median", "sum"))
    result = round_number(formulas.aggregate(values, operation), 2)
    listed = join([str(value) for value in values])
    words = f"What is the {operation} of {listed}, rounded to two decimals?"
    return _done(draft, words, draft.compute("aggregate", words, result, operation, values=values))


SINGLES: tuple[tuple[Template, float], ...] = (
    *((lookup, 8), (find, 3), (rank, 2), (count, 2), (date_gap, 1), (weekdays, 1), (shifted, 1)),
    *((converted, 1), (apart, 1), (summed, 1)),
)
"""Plans of one sub-question, with their weights."""


def _stepwise(made: Chain, drawer: Drawer) -> str:
    """A long chain as directions, one hop after the other."""
    hops = [
        f"the {relation.label} of that {relation.subject.replace('_', ' ')}"
        for relation in made.relations
    ]
    first = made.relations[0]
    its = drawer.knowledge.types[first.subject].its
    its = "this person's" if its == "their" else its
    hops[0] = f"{its} {first.label}"
    listed = ", then ".join(hops[:-1])
    last = made.last
    closing = ask(last, f"that {last.subject.replace('_', ' ')}")
    return f"Start from {made.head}. Find {listed}. {closing}"


def along(drawer: Drawer) -> Draft:
    """A chain of two to four lookups, or a search and lookups."""
    draft = Draft(drawer.knowledge)
    hops = drawer.rng.choice((2, 2, 3, 3, 4))
    made = drawer.chain(hops, any_value, search=0.3)
    last = draft.chain(made)
    if len(made.relations) >= 3 and not made.keys and drawer.rng.random() < 0.4:
        return _done(draft, _stepwise(made, drawer), last)
    depth = 2 if made.keys else made.hops - 1  # a search has a long phrase
    return _done(draft, ask(made.last, made.inner(drawer.rng), drawer.rng, depth), last)


def chain_converted(drawer: Drawer) -> Draft:
    """A chain that ends in a measure, in another unit."""
    draft = Draft(drawer.knowledge)
    made = drawer.chain(drawer.rng.randint(1, 3), _measured, search=0.3)
    dimension, _, targets = UNITS[made.last.unit]
    target, source = drawer.pick(targets), made.last.unit.replace(" ", "_")
    value = draft.chain(made)
    result = round_number(formulas.convert_unit(made.value, source, target), 2)
    last = draft.compute(
        "convert_unit",
        f"How many {unit(target)} are #{value} {made.last.unit}?",
        result,
        dimension,
        value={FROM: value},
        from_unit=source,
        to_unit=target,
    )
    measure = made.last.phrases[0].replace("{s}", made.inner(drawer.rng))
    forms = (
        f"What is {measure} in {unit(target)}, rounded to two decimals?",
        f"Give {measure} in {unit(target)}, to two decimals.",
    )
    return _done(draft, drawer.pick(forms), last)


def chain_shifted(drawer: Drawer) -> Draft:
    """A chain that ends in a date, and the date some days after it."""
    draft = Draft(drawer.knowledge)
    made = drawer.chain(drawer.rng.randint(1, 3), dated, search=0.3)
    most = (datetime.date(2025, 1, 1) - datetime.date.fromisoformat(made.value)).days
    if most < 500:
        raise NoPlanError
    value, days = draft.chain(made), drawer.rng.randint(401, min(9_999, most))
    last = draft.compute(
        "add_days",
        f"Which date lies {days} days after #{value}?",
        formulas.add_days(datetime.date.fromisoformat(made.value), days),
        date={FROM: value},
        days=days,
    )
    event = made.last.event.replace("{s}", made.inner(drawer.rng))
    forms = (
        f"Which date was exactly {days} days after {event}?",
        f"Counting {days} days on from {event}, which date do you reach?",
    )
    return _done(draft, drawer.pick(forms), last)


def chain_exchanged(drawer: Drawer) -> Draft:
    """A price, or an amount in the currency of a country, at a rate that the question gives."""
    draft, rng = Draft(drawer.knowledge), drawer.rng
    money, rate = (
        ("credits" if drawer.knowledge.closed else "US dollars"),
        rng.randint(1_013, 99_999) / 1000,
    )
    if rng.random() < 0.5:
        made = drawer.chain(rng.randint(1, 2), lambda relation: relation.name == "price")
        source = draft.chain(made)
        amount, code = made.value, drawer.pick([name for name in _CODES if name not in made.head])
        given = {"amount": {FROM: source}, "currency": code}
        words = f"How many {code} are #{source} {made.last.unit} at a rate of {rate}?"
        question = (
            f"Suppose that one credit buys {rate} units of the currency {code}. What does "
            f"{made.inner(rng)} cost in {code}, to two decimals?"
        )
    else:
        made = drawer.chain(rng.randint(1, 3), lambda relation: relation.name == "currency")
        source, amount = draft.chain(made), rng.randint(105, 9_000) + rng.randint(1, 9) / 10
        given = {"amount": amount, "currency": {FROM: source}}
        words = f"How much are {amount} {money} in #{source} at a rate of {rate}?"
        question = (
            f"Suppose that one {money[:-1]} buys {rate} units of the currency of "
            f"{made.inner(rng)}. How many units do you get for {amount} {money}, to two decimals?"
        )
        if made.value == "USD":
            raise NoPlanError
    value = round_number(formulas.convert_currency(amount, rate), 2)
    return _done(
        draft, question, draft.compute("convert_currency", words, value, rate=rate, **given)
    )


_CODES = ("EUR", "GBP", "CHF", "JPY", "SEK")

CHAINS: tuple[tuple[Template, float], ...] = (
    *((along, 6), (chain_converted, 2), (chain_shifted, 2), (chain_exchanged, 1.5)),
)
"""Plans in which each sub-question needs the one before."""
