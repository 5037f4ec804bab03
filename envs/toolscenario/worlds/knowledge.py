"""Knowledge that scenarios are made of: entities, their types, and functional facts about them."""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import read_rows
from toolgym.envs.toolscenario.worlds.relations import (
    RELATIONS,
    TYPES,
    VALUES,
    EntityType,
    Relation,
    generic,
    generic_type,
)
from toolgym.errors import BadInputError

__all__ = ["Knowledge", "Triple", "Value", "open_knowledge", "read_triples"]

Value = str | int | float | tuple[float, float]
FIELDS = ("subject", "relation", "object", "subject_type", "object_type", "unit", "label")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_RELATION = re.compile(r"[a-z][a-z0-9_]{0,39}")
_NAME_CHARS = 80


@dataclass(frozen=True)
class Triple:
    """One fact.

    Args:
        subject: name of an entity.
        relation: in lower case with underscores.
        object: name of an entity, text, number, ISO date or (latitude, longitude) in degrees.
        subject_type: of the subject; empty where the relation says it.
        object_type: of the object, or one of `relations.VALUES`; empty where it can be seen.
        unit: of a number.
        label: noun for the relation in questions; empty: made from its name.
        where: for messages.
    """

    subject: str
    relation: str
    object: Value
    subject_type: str = ""
    object_type: str = ""
    unit: str = ""
    label: str = ""
    where: str = ""


class Knowledge:
    """Facts with one value for each subject and relation.

    Args:
        triples: facts; where a subject has several values for a relation, that relation of that
            subject is left out, since a question about it would have no single answer.
        closed: whether nothing exists beside these facts, so that all entities with a property
            can be counted and put in order.

    Attributes:
        types: name of a type to its wording.
        type_of: entity to its type.
        by_type: type to entities, in the order in which they were first named.
        relations: by type of the subject and name.
        facts: (subject, relation) to value.
        places: (type, relation) to the subjects that have it.
        shared: names of relations that several types have.
        paths: kept by `chains`: length to all chains of relations.

    Raises:
        BadInputError: an entity has two types, or a value does not suit its relation.
    """

    def __init__(self, triples: Iterable[Triple], *, closed: bool = False) -> None:
        self.closed = closed
        rows = list(triples)
        self.type_of = _types(rows)
        self.relations: dict[tuple[str, str], Relation] = {}
        self.facts: dict[tuple[str, str], Value] = {}
        several: set[tuple[str, str]] = set()
        for row in rows:
            subject_type = self.type_of[row.subject]
            relation = self._relation(row, subject_type)
            key = (row.subject, relation.name)
            _check_value(row, relation, self.type_of)
            if self.facts.setdefault(key, row.object) != row.object:
                several.add(key)
        for key in several:
            del self.facts[key]
        names = dict.fromkeys(self.type_of.values())
        self.types: Mapping[str, EntityType] = {
            name: TYPES.get(name) or generic_type(name) for name in names
        }
        self.by_type: dict[str, list[str]] = defaultdict(list)
        for entity, kind in self.type_of.items():
            self.by_type[kind].append(entity)
        self.places: dict[tuple[str, str], list[str]] = defaultdict(list)
        for subject, name in self.facts:
            self.places[self.type_of[subject], name].append(subject)
        self.paths: dict[int, list[tuple[Relation, ...]]] = {}
        self.shared = {
            name for name, n in Counter(name for _, name in self.relations).items() if n > 1
        }

    def _relation(self, row: Triple, subject_type: str) -> Relation:
        key = (subject_type, row.relation)
        if key not in self.relations:
            target = row.object_type or self.type_of.get(str(row.object), "") or seen(row.object)
            known = None if row.label else RELATIONS.get(key) or _borrowed(*key, target)
            self.relations[key] = known or generic(
                row.relation, subject_type, target, row.unit, row.label
            )
        return self.relations[key]

    def relation(self, subject: str, name: str) -> Relation:
        """The relation of that name for an entity; a KeyError where it has none."""
        return self.relations[self.type_of[subject], name]

    def relations_of(self, kind: str) -> list[Relation]:
        """The relations of a type of entity that have facts."""
        return self._by_subject.get(kind, [])

    @functools.cached_property
    def _by_subject(self) -> dict[str, list[Relation]]:
        found: dict[str, list[Relation]] = defaultdict(list)
        for (kind, name), relation in self.relations.items():
            if self.places.get((kind, name)):
                found[kind].append(relation)
        return found

    @functools.cached_property
    def sharing(self) -> set[tuple[str, str]]:
        """(type, relation) of relations in which some subjects have the same value."""
        return {(kind, name) for (kind, name, _), found in self.inverse.items() if len(found) > 1}

    @functools.cached_property
    def inverse(self) -> dict[tuple[str, str, Value], list[str]]:
        """(type, relation, value) to the subjects that have this value."""
        found: dict[tuple[str, str, Value], list[str]] = defaultdict(list)
        for (subject, name), value in self.facts.items():
            found[self.type_of[subject], name, value].append(subject)
        return found


def _borrowed(kind: str, name: str, target: str) -> Relation | None:
    """The wording of a known relation of that name and kind of value, for another type."""
    alike = {target, "year"} if target == "number" else {target}
    for (other, known), relation in RELATIONS.items():
        if known == name and relation.object in alike and kind not in TYPES:
            return replace(relation, subject=kind, names=()) if other != kind else relation
    return None


def seen(value: Value) -> str:
    """The type that a value shows: date, point, number or text."""
    if isinstance(value, tuple):
        return "point"
    if isinstance(value, int | float):
        return "number"
    return "date" if _DATE.fullmatch(value) else "text"


def _types(rows: list[Triple]) -> dict[str, str]:
    """Entities to types: as stated, else as their relations say, else ``entity``."""
    subjects = [(name, kind) for kind, name in RELATIONS]
    stated: dict[str, str] = {}
    for row in rows:
        for name, kind in ((row.subject, row.subject_type), (str(row.object), row.object_type)):
            if not kind or kind in VALUES:
                continue
            if stated.setdefault(name, kind) != kind:
                raise BadInputError(
                    f"{row.where}: {name!r} is a {kind} here and a {stated[name]} before; give "
                    "each entity one type, and different entities different names"
                )
    possible: dict[str, set[str]] = {}
    for row in rows:
        if row.subject not in stated:
            fitting = {kind for name, kind in subjects if name == row.relation}
            if fitting:
                known = possible.get(row.subject)
                possible[row.subject] = (known & fitting or known) if known else fitting
    order = list(TYPES)
    for name, kinds in possible.items():
        stated[name] = min(kinds, key=order.index)
    for row in rows:
        stated.setdefault(row.subject, "entity")
        known_relation = RELATIONS.get((stated[row.subject], row.relation))
        if known_relation is not None and known_relation.entity:
            stated.setdefault(str(row.object), known_relation.object)
    return {row: stated[row] for row in dict.fromkeys(_names(rows)) if row in stated}


def _names(rows: list[Triple]) -> Iterable[str]:
    for row in rows:
        yield row.subject
        if isinstance(row.object, str):
            yield row.object


def _check_value(row: Triple, relation: Relation, types: Mapping[str, str]) -> None:
    wanted = relation.object
    found = types.get(row.object) if isinstance(row.object, str) else None
    found = found or seen(row.object)
    if wanted == "text" and isinstance(row.object, str):
        return
    if wanted in ("year", "number") and found == "number":
        return
    if found != wanted:
        raise BadInputError(
            f"{row.where}: the {relation.label} of {row.subject!r} must be a {wanted}, "
            f"{row.object!r} is a {found}"
        )


def read_triples(path: str | Path) -> list[Triple]:
    """Facts of a JSONL file: ``subject``, ``relation``, ``object`` and, where wanted, types.

    An ``object`` is a text, a number, a date ``YYYY-MM-DD``, or coordinates as
    ``[latitude, longitude]``. ``subject_type`` and ``object_type`` name kinds of entity; an object
    with no type that is a subject elsewhere has that one's. ``unit`` belongs to a number. The
    first row of a relation may give its ``label``, the noun in questions: "discoverer".

    Args:
        path: the file.

    Raises:
        MissingFileError: it is not there.
        BadInputError: a row is wrong; the message names its line.
    """
    rows = [
        _triple(row, f"knowledge file {str(path)!r}, line {number}")
        for number, row in read_rows(path, "knowledge file")
    ]
    if not rows:
        raise BadInputError(
            f"knowledge file {str(path)!r} holds no fact; one is "
            '{"subject": "Jane Eyre", "relation": "author", "object": "Charlotte Brontë"}'
        )
    return rows


def _triple(row: Mapping[str, Any], where: str) -> Triple:
    unknown = sorted(set(row) - set(FIELDS))
    if unknown:
        raise BadInputError(f"{where}: unknown field {unknown[0]!r}; fields: {', '.join(FIELDS)}")
    for field in FIELDS[:3]:
        if field not in row:
            raise BadInputError(f"{where}: {field!r} is missing")
    for field in ("subject", "relation", *FIELDS[3:]):
        if not isinstance(row.get(field, ""), str):
            raise BadInputError(f"{where}: {field!r} must be a text, not {row[field]!r}")
    subject, relation = row["subject"].strip(), row["relation"].strip()
    _check_name(subject, "subject", where)
    if not _RELATION.fullmatch(relation):
        raise BadInputError(
            f"{where}: the relation {relation!r:.60} must be lower-case letters, digits and "
            "underscores, such as 'birth_date'"
        )
    types = {field: row.get(field, "").strip() for field in ("subject_type", "object_type")}
    for field, kind in types.items():
        if kind and not _RELATION.fullmatch(kind):
            raise BadInputError(f"{where}: the {field} {kind!r:.60} must be a word such as 'city'")
    for field in ("unit", "label"):
        if row.get(field, "").strip():
            _check_name(row[field].strip(), field, where)
    if types["subject_type"] in VALUES:
        raise BadInputError(f"{where}: a {types['subject_type']} cannot have properties")
    return Triple(
        subject,
        relation,
        _object(row["object"], where),
        **types,
        unit=row.get("unit", "").strip(),
        label=row.get("label", "").strip(),
        where=where,
    )


def _check_name(name: str, field: str, where: str) -> None:
    if not name or len(name) > _NAME_CHARS:
        raise BadInputError(
            f"{where}: the {field} needs 1 to {_NAME_CHARS} characters: {name!r:.90}"
        )
    if any(sign in name for sign in ',"#{}\\\n\t'):
        raise BadInputError(
            f"{where}: the {field} {name!r} holds a comma, quote, brace, backslash, '#' or line "
            "break, which tell parts of an answer apart or stand for something else"
        )


def _object(value: Any, where: str) -> Value:
    if isinstance(value, str):
        _check_name(value.strip(), "object", where)
        return value.strip()
    if isinstance(value, bool) or value is None:
        raise BadInputError(f"{where}: the object must be a text, number or point, not {value!r}")
    if isinstance(value, int | float):
        if abs(value) > 1e15 or value != value:
            raise BadInputError(f"{where}: the object {value!r} is not an ordinary number")
        return int(value) if value == int(value) else value
    numbers = isinstance(value, list) and all(type(part) in (int, float) for part in value)
    if not numbers or len(value) != 2:
        raise BadInputError(f"{where}: the object must be a text, number or [latitude, longitude]")
    if not (abs(value[0]) <= 90 and abs(value[1]) <= 180):
        raise BadInputError(f"{where}: latitude and longitude are out of range: {value!r}")
    return (float(value[0]), float(value[1]))


_BUNDLED = "samples/knowledge_sample.jsonl"


@functools.lru_cache(maxsize=8)
def open_knowledge(knowledge: str, seed: int, size: int, content: str = "") -> Knowledge:
    """Knowledge by name; kept, so that all scenarios of a process share it.

    Args:
        knowledge: ``bundled``, ``generated`` or the path of a file for `read_triples`.
        seed: of a generated world.
        size: entities of a generated world, roughly.
        content: hash of the file, so that one that was changed is read again.

    Raises:
        MissingFileError: there is no such file.
        BadInputError: a row of it is wrong.
    """
    if knowledge == "generated":
        from toolgym.envs.toolscenario.worlds.generated import generate

        return Knowledge(generate(seed, size), closed=True)
    if knowledge == "bundled":
        path = resources.files("toolgym.envs.toolscenario") / _BUNDLED
        with resources.as_file(path) as file:
            return Knowledge(read_triples(file))
    return Knowledge(read_triples(knowledge))
