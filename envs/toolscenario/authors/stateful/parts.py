"""What domains are made of, as data: tables, verbs that read and write them, rules in words.

A *path* names a cell: ``order.status`` is the field of the row that the verb's parameter
``order_id`` names, ``order.product.stock`` goes on through the id in ``product``. A *value* is a
constant, ``$amount`` (a parameter) or ``@order.total`` (a cell).
"""

from __future__ import annotations

import datetime
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolgym.errors import BadInputError

__all__ = [
    *("TODAY", "Days", "Domain", "Field", "Read", "Rule", "Table", "Write", "constant"),
    *("read_field", "resolved", "variable", "words_of"),
]

TODAY = datetime.date(2025, 6, 16)
_FIRST = (
    *("Ada", "Bruno", "Chiara", "Dmitri", "Elif", "Farah", "Goran", "Hana", "Ines", "Jonas"),
    *("Kofi", "Leila", "Mateo", "Nadia", "Oskar", "Priya", "Quentin", "Rosa", "Selim", "Tove"),
    *("Umar", "Vera", "Wanda", "Xavi", "Yara", "Zoltan"),
)
_LAST = (
    *("Abara", "Bergstrom", "Castillo", "Dvorak", "Eriksen", "Fontaine", "Gallo", "Haddad"),
    *("Ivanov", "Jensen", "Kowalski", "Lindqvist", "Moreau", "Nakamura", "Okafor", "Petrov"),
    *("Quispe", "Rossi", "Silva", "Takahashi", "Ueda", "Varga", "Weiss", "Yilmaz", "Zielinski"),
)


_CITIES = (
    *("Lisbon", "Oslo", "Turin", "Graz", "Ghent", "Porto", "Leeds", "Basel", "Lyon", "Cork"),
    *("Bergen", "Krakow", "Malmo", "Nantes", "Zagreb", "Utrecht"),
)
_KINDS = ("pick", "number", "day", "link", "person", "flag", "unique", "text")


@dataclass(frozen=True)
class Field:
    """What a field of a table, or a parameter, may hold.

    Args:
        kind: ``pick`` (of values), ``number``, ``day``, ``link`` (of a table), ``person``, ``flag``
            (false), ``unique`` (of values, each once) or ``text`` (drawn, but any text is taken).
        values: that it is drawn from; of a number the lowest, the highest and the step, of a day
            the first and the last as days from today, of a link the table.
        about: what a parameter is, for its document; it is asked for under this name.
    """

    kind: str
    values: tuple[Any, ...]
    about: str = ""

    def schema(self, about: str) -> dict[str, Any]:
        """JSON Schema of a parameter."""
        if self.kind == "number":
            return {"type": "integer", "description": about, "minimum": self.values[0]}
        told: dict[str, Any] = {"type": "string", "description": about}
        listed = {"enum": list(dict.fromkeys(self.values))} if self.kind == "pick" else {}
        return told | listed

    def draw(self, rng: random.Random) -> Any:
        """A value; not for links and unique ones."""
        if self.kind == "number":
            low, high, step = self.values
            return rng.randrange(low, high + 1, step)
        if self.kind == "day":
            return date_of(rng.randint(*self.values))
        if self.kind == "person":
            return f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"
        return rng.choice(self.values)


def read_field(text: str) -> Field:
    """A field from its words, such as ``number 1 9 = how many`` or ``pick open|closed``.

    Raises:
        BadInputError: it is none.
    """
    told, _, about = text.partition(" = ")
    kind, _, rest = told.partition(" ")
    values: tuple[Any, ...] = ()
    try:
        if kind in ("number", "day"):
            numbers = [int(part) for part in rest.split()]
            values = (*numbers, 1)[:3] if kind == "number" else tuple(numbers)
        elif kind in ("pick", "text", "unique"):
            values = tuple(_CITIES if rest == "$cities" else rest.split("|"))
        elif kind == "link":
            values = (rest,)
        elif kind == "flag":
            values = (False,)
        least = {"person": 0, "flag": 1, "link": 1, "day": 2, "number": 3}.get(kind, 1)
        if kind not in _KINDS or len(values) < least or "" in values:
            raise ValueError(f"kinds: {', '.join(_KINDS)}")
    except ValueError as error:
        raise BadInputError(f"{text!r} is not a field: {error}") from error
    return Field(kind, values, about)


def constant(value: Any) -> Any:
    """What a word stands for: ``true``, ``false``, ``today``, ``day -30``, a number, or itself.

    In a condition, all words in it.
    """
    if isinstance(value, Mapping):
        return {name: constant(item) for name, item in value.items()}
    if not isinstance(value, str):
        return value
    if value in ("true", "false"):
        return value == "true"
    found = re.fullmatch(r"day (-?\d+)", value) or re.fullmatch(r"to(d)ay", value)
    if found:
        return date_of(0 if value == "today" else int(found[1]))
    return int(value) if re.fullmatch(r"-?\d+", value) else value


def date_of(days: int) -> str:
    """A day, counted from today, as a state holds it."""
    return (TODAY + datetime.timedelta(days=days)).isoformat()


@dataclass(frozen=True)
class Table:
    """Rows of one kind.

    Args:
        noun: of a row: ``order``. A parameter ``order_id`` is the id of one.
        prefix: of its ids.
        fields: by name.
        words: how a row is spoken of, with its fields in braces; links are spoken of in turn.
        found: the reading verb that finds a row, and its parameters to the fields that are given;
            fields that are links are looked up first.
        share: rows for each row of the level's size.
    """

    noun: str
    prefix: str
    fields: Mapping[str, Field]
    words: str
    found: tuple[str, Mapping[str, str]]
    share: float = 1.0


@dataclass(frozen=True)
class Read:
    """A verb that gives the rows of a table that fit its parameters.

    Args:
        table: that is read.
        by: parameter to field; ``id`` is the row's own. No parameter lists all.
        about: what it does.
        hides: fields that are not shown.
    """

    table: str
    by: Mapping[str, str]
    about: str
    hides: tuple[str, ...] = ()


Check = tuple[str, str, Any]
"""Path, operator (``is`` or one of `toolgym.grading.states.OPERATORS`), value."""


@dataclass(frozen=True)
class Write:
    """A verb that changes rows.

    Args:
        about: what it does.
        takes: parameters; ``order_id`` and the like are links.
        does: ``("set", path, value)``, ``("add", path, value)``, ``("take", path, value)``,
            ``("new", table, {field: value})`` or ``("drop", row)``.
        asks: ways to ask for it, with rows and parameters in braces; empty: nobody asks for it.
        checks: what has to hold, else it fails.
        vague: ways to ask for it without a parameter, which the user tells when he is asked.
        own: only the user has it in his hands.
    """

    about: str
    takes: Mapping[str, Field]
    does: tuple[tuple[Any, ...], ...]
    asks: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    vague: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    own: bool = False

    def rows(self) -> dict[str, str]:
        """Parameters that are ids, to their tables."""
        return {name: str(f.values[0]) for name, f in self.takes.items() if f.kind == "link"}


@dataclass(frozen=True)
class Rule:
    """What a verb may not be used for, though it can be.

    Args:
        words: as the policy reads it.
        verb: the writing verb; its first parameter names the row.
        before: condition on that row.
        after: condition on it that the verb brings about; empty: the call itself is forbidden.
        instead: the verb that is right then, with the same row as its only parameter.
    """

    words: str
    verb: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    instead: str


@dataclass(frozen=True)
class Domain:
    """A kind of world.

    Args:
        about: whom the policy works for: ``an online shop``.
        tables: by name, those that others link to first.
        reads: by name.
        writes: by name.
        rules: that may be in force.
        invariants: see `toolgym.grading.states.Goal`.
        lock: ``table``, ``field``, ``verb`` and how it is ``asked`` for, of dual control: verbs
            that check the field fail while it is true, until the user calls his own verb.
    """

    about: str
    tables: Mapping[str, Table]
    reads: Mapping[str, Read]
    writes: Mapping[str, Write]
    rules: tuple[Rule, ...] = ()
    invariants: tuple[Mapping[str, Any], ...] = ()
    lock: Mapping[str, str] | None = None
    links: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Collect the links of all tables."""
        found = {
            f"{name}.{key}": str(f.values[0])
            for name, table in self.tables.items()
            for key, f in table.fields.items()
            if f.kind == "link"
        }
        object.__setattr__(self, "links", found)

    def state(self, size: int, rng: random.Random) -> dict[str, Any]:
        """Tables of about so many rows each."""
        state: dict[str, Any] = {"today": TODAY.isoformat()}
        for name, table in self.tables.items():
            count = max(2, round(size * table.share)) if table.share else 0
            state[name] = _drawn(table, count, state, rng)
        return state


def _drawn(
    table: Table, count: int, state: Mapping[str, Any], rng: random.Random
) -> dict[str, dict[str, Any]]:
    unique = {n: list(f.values) for n, f in table.fields.items() if f.kind == "unique"}
    count = min([count, *map(len, unique.values())])
    for values in unique.values():
        rng.shuffle(values)
    taken: set[str] = set()
    rows = {}
    for number in sorted(rng.sample(range(1000, 9000), count)):
        row: dict[str, Any] = {}
        for name, item in table.fields.items():
            if item.kind == "unique":
                row[name] = unique[name].pop()
            elif item.kind == "link":
                row[name] = rng.choice(list(state[item.values[0]]))
            else:
                row[name] = item.draw(rng)
            while item.kind == "person" and row[name] in taken:
                row[name] = item.draw(rng)
            taken |= {row[name]} if item.kind == "person" else set()
        rows[f"{table.prefix}-{number}"] = row
    return rows


def variable(parameter: str) -> str:
    """The name of a row in paths and sources: ``order`` for ``order_id``."""
    return parameter.removesuffix("_id")


def words_of(domain: Domain, state: Mapping[str, Any], table: str, key: str) -> str:
    """How a row is spoken of."""
    spec, row = domain.tables[table], state[table][key]
    told = {}
    for name, item in spec.fields.items():
        linked = item.kind == "link" and f"{{{name}}}" in spec.words
        told[name] = words_of(domain, state, item.values[0], row[name]) if linked else row[name]
    return spec.words.format(**told)


def resolved(
    domain: Domain, state: Mapping[str, Any], write: Write, path: str, given: Mapping[str, Any]
) -> tuple[str, str, str]:
    """Table, id and field that a path leads to.

    Args:
        domain: that the verb is of.
        state: that holds the rows.
        write: whose path it is.
        path: such as ``order.product.stock``.
        given: the verb's arguments.
    """
    first, *rest = path.split(".")
    table, key = write.rows()[f"{first}_id"], given[f"{first}_id"]
    for name in rest[:-1]:
        table, key = domain.links[f"{table}.{name}"], state[table][key][name]
    return table, key, rest[-1]
