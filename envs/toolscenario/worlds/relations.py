"""Relations: what can be asked about an entity, how it is worded, and those known by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any

__all__ = [
    *("COMPOSITES", "RELATIONS", "TYPES", "VALUES", "EntityType", "Relation", "date_relation"),
    *("entity_relation", "generic", "generic_type", "number_relation", "point_relation"),
    *("text_relation", "year_relation"),
]

VALUES = ("date", "year", "number", "text", "point")
"""Kinds of value that are not entities."""


@dataclass(frozen=True)
class EntityType:
    """A kind of entity.

    Args:
        name: in the singular; also the parameter that takes one.
        plural: also the parameter that takes several.
        mention: how one is named in a question; ``{n}`` is its name.
        its: the possessive.
        what: the description of a parameter that takes one.
    """

    name: str
    plural: str
    mention: str
    its: str
    what: str


@dataclass(frozen=True)
class Relation:
    """A functional relation: each subject has one value.

    Args:
        name: also the key of results.
        subject: a type of entity.
        object: a type of entity or one of `VALUES`.
        label: noun in questions and documents.
        phrases: noun phrases with ``{s}``; the first also suits a long ``{s}``, and stands for an
            entity where the object is one.
        asks: questions with ``{s}``; the first also suits a long one.
        unit: of numbers.
        event: noun phrase of what happened on a date.
        extremes: question tails for the largest and smallest of several, such as "is longest".
        combined: noun phrase before ``of A and B`` for a sum that means something.
        names: more names for a tool that looks it up.
    """

    name: str
    subject: str
    object: str
    label: str
    phrases: tuple[str, ...]
    asks: tuple[str, ...]
    unit: str = ""
    event: str = ""
    extremes: tuple[str, str] = ("", "")
    combined: str = ""
    names: tuple[str, ...] = ()

    @property
    def numeric(self) -> bool:
        """Whether the value is a number."""
        return self.object in ("number", "year")

    @property
    def entity(self) -> bool:
        """Whether the value is an entity, about which more can be asked."""
        return self.object not in VALUES


def _type(name: str, plural: str, mention: str = "{n}", its: str = "its") -> EntityType:
    title = " (title)" if '"' in mention else ""
    return EntityType(name, plural, mention, its, f"Full name{title} of the {name}")


TYPES: Mapping[str, EntityType] = MappingProxyType(
    {
        item.name: item
        for item in (
            _type("person", "people", its="their"),
            _type("city", "cities"),
            _type("country", "countries"),
            _type("book", "books", 'the book "{n}"'),
            _type("film", "films", 'the film "{n}"'),
            _type("opera", "operas", 'the opera "{n}"'),
            _type("company", "companies", "the company {n}"),
            _type("university", "universities"),
            _type("river", "rivers", "the river {n}"),
            _type("mountain", "mountains", "the mountain {n}"),
            _type("structure", "structures", "the {n}"),
            _type("bridge", "bridges", "the {n}"),
            _type("product", "products", "the product {n}"),
            _type("element", "elements", "the element {n}"),
            _type("ship", "ships", 'the ship "{n}"'),
            _type("observatory", "observatories", "the {n}"),
        )
    }
)


def entity_relation(
    name: str,
    subject: str,
    target: str,
    phrases: tuple[str, ...] = (),
    asks: tuple[str, ...] = (),
    *,
    label: str = "",
    names: tuple[str, ...] = (),
) -> Relation:
    """A relation to another entity."""
    label = label or name.replace("_", " ")
    word = "Who" if target == "person" else f"Which {target}"
    twice = label.endswith(target)  # "which country is the country of"
    plain = () if twice else (f"the {label} of {{s}}",)
    asked = () if twice else (f"{word} is the {label} of {{s}}?",)
    return Relation(name, subject, target, label, (*plain, *phrases), (*asked, *asks), names=names)


def date_relation(
    name: str, subject: str, event: str, asks: tuple[str, ...], names: tuple[str, ...] = ()
) -> Relation:
    """A relation to the day of an event."""
    label = name.replace("_", " ")
    what = (f"the date of {event}",)
    return Relation(
        name,
        subject,
        "date",
        label,
        what,
        (f"What is the exact date of {event}?", *asks),
        event=event,
        names=names,
    )


def year_relation(
    name: str,
    subject: str,
    event: str,
    asks: tuple[str, ...],
    last: str,
    first: str,
    names: tuple[str, ...] = (),
) -> Relation:
    """A relation to the year of an event."""
    label = name.replace("_", " ").replace("founded", "founding")
    return Relation(
        name,
        subject,
        "year",
        label,
        (f"the year of {event}",),
        asks,
        event=event,
        extremes=(last, first),
        names=names,
    )


def number_relation(
    name: str,
    subject: str,
    unit: str,
    asks: tuple[str, ...],
    extremes: tuple[str, str],
    combined: str = "",
    label: str = "",
    names: tuple[str, ...] = (),
) -> Relation:
    """A relation to a number."""
    label = label or name.replace("_", " ")
    measured = f"What is the {label} of {{s}}, in {unit}?" if unit else ""
    first = measured or f"What is the {label} of {{s}}?"
    return Relation(
        name,
        subject,
        "number",
        label,
        (f"the {label} of {{s}}",),
        (first, *asks),
        unit=unit,
        extremes=extremes,
        combined=combined,
        names=names,
    )


def text_relation(
    name: str, subject: str, label: str, asks: tuple[str, ...], names: tuple[str, ...] = ()
) -> Relation:
    """A relation to a text that is not an entity."""
    first = f"What is the {label} of {{s}}?"
    return Relation(
        name, subject, "text", label, (f"the {label} of {{s}}",), (first, *asks), names=names
    )


def point_relation(subject: str) -> Relation:
    """A relation to latitude and longitude."""
    return Relation(
        "coordinates",
        subject,
        "point",
        "coordinates",
        ("the coordinates of {s}",),
        (
            "What are the coordinates (latitude and longitude) of {s}?",
            "At which latitude and longitude does {s} lie?",
        ),
        names=("locate", "geocode"),
    )


COMPOSITES: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("headquarters", "country"): "the country where {s} has its headquarters",
        ("city", "country"): "the country where {s} is",
        ("port", "country"): "the country where {s} has its home port",
        ("premiere_city", "country"): "the country where {s} was first performed",
    }
)
"""Noun phrases for two relations in a row."""

_BUILDERS: Mapping[str, Callable[..., Relation]] = {
    **{"entity": entity_relation, "date": date_relation, "year": year_relation},
    **{"number": number_relation, "text": text_relation, "point": point_relation},
}


def _known(row: dict[str, Any]) -> Relation:
    build = _BUILDERS[row.pop("of")]
    return build(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})


_LINES = resources.files(__package__).joinpath("relations.jsonl").read_text("utf-8").splitlines()
RELATIONS: Mapping[tuple[str, str], Relation] = MappingProxyType(
    {(item.subject, item.name): item for item in map(_known, map(json.loads, _LINES))}
)
"""Relations by type of subject and name, the content of ``relations.jsonl``."""


def generic_type(name: str) -> EntityType:
    """A type that is not among `TYPES`."""
    words = name.replace("_", " ")
    plural = words[:-1] + "ies" if words.endswith("y") else words + "s"
    return EntityType(name, plural.replace(" ", "_"), "{n}", "its", f"Full name of the {words}")


def generic(name: str, subject: str, target: str, unit: str = "", label: str = "") -> Relation:
    """A relation that is not known by name, worded from its label.

    Args:
        name: such as ``discovered_by``.
        subject: type of the subject.
        target: type of the object, or one of `VALUES`.
        unit: of numbers.
        label: the noun, such as "discoverer"; empty: made from the name.
    """
    words = name.replace("_", " ")
    done = words.removesuffix(" by")
    label = label or (_agent(done) if done != words else words)
    several = label.endswith("s") and not label.endswith(("ss", "us", "is"))
    word = "Who" if target == "person" else "What"
    measured = f", in {unit}" if unit else ""
    measured = " (latitude and longitude)" if target == "point" else measured
    asks = [f"{word} {'are' if several else 'is'} the {label} of {{s}}{measured}?"]
    if target == "point":
        asks = [f"What {'are' if several else 'is'} the {label}{measured} of {{s}}?"]
    if done != words and target == "person":
        asks.append(f"By whom was {{s}} {done}?")
    number = target in ("number", "year")
    return Relation(
        name,
        subject,
        target,
        label,
        (f"the {label} of {{s}}",),
        tuple(asks),
        unit=unit,
        event=f"the {label} of {{s}}" if target in ("date", "year") else "",
        extremes=(f"has the largest {label}", f"has the smallest {label}") if number else ("", ""),
        combined=f"combined {label}" if target == "number" else "",
    )


_AGENTS = {
    **{"written": "writer", "made": "maker", "built": "builder", "led": "leader", "won": "winner"},
    **{"sung": "singer", "invented": "inventor", "coached": "coach", "drawn": "artist"},
    **{"sponsored": "sponsor", "conquered": "conqueror", "governed": "governor", "held": "holder"},
}


def _agent(done: str) -> str:
    """The noun for who did something: "planter" for "planted"."""
    if done in _AGENTS:
        return _AGENTS[done]
    if not done.endswith("ed") or " " in done:
        return f"{done} by"
    stem = done.removesuffix("ed")
    return stem + ("or" if stem.endswith(("at", "ct", "it")) else "er")
