"""Chains of relations through a knowledge base, and the draft that questions are built in."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from toolgym.envs.toolscenario.authors.template.wording import day, mention, mentions, phrase
from toolgym.envs.toolscenario.codegen.rendering import PlannedCall
from toolgym.envs.toolscenario.codegen.sources import json_value
from toolgym.envs.toolscenario.worlds.knowledge import Knowledge, Value
from toolgym.envs.toolscenario.worlds.relations import TYPES, Relation
from toolgym.scenario import FROM, Combination

__all__ = [
    *("FINDERS", "Chain", "Draft", "Drawer", "NoPlanError", "alike", "close", "its", "starts"),
    "telling",
]

FINDERS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("country", ("capital",), "the country whose capital is {capital}"),
    ("city", ("mayor",), "the city whose mayor is {mayor}"),
    (
        "book",
        ("author", "publication_year"),
        "the book that {author} published in {publication_year}",
    ),
    ("film", ("director", "release_year"), "the film that {director} released in {release_year}"),
    (
        "opera",
        ("composer", "premiere_date"),
        "the opera by {composer} that premiered on {premiere_date}",
    ),
    (
        "person",
        ("birthplace", "birth_date"),
        "the person who was born in {birthplace} on {birth_date}",
    ),
    (
        "company",
        ("founder", "founded_year"),
        "the company that {founder} founded in {founded_year}",
    ),
    (
        "university",
        ("city", "founded_year"),
        "the university in {city} that was founded in {founded_year}",
    ),
    ("ship", ("port", "captain"), "the ship with home port {port} and captain {captain}"),
    (
        "product",
        ("manufacturer", "launch_date"),
        "the product that {manufacturer} launched on {launch_date}",
    ),
    ("bridge", ("city", "opening_date"), "the bridge in {city} that was opened on {opening_date}"),
    (
        "mountain",
        ("country", "first_ascent"),
        "the mountain in {country} that was first climbed on {first_ascent}",
    ),
    (
        "observatory",
        ("country", "elevation"),
        "the observatory in {country} that lies {elevation} metres above sea level",
    ),
    ("structure", ("opening_date",), "the structure that was opened on {opening_date}"),
)
"""Entities that can be found by what is known of them: type, keys and noun phrase."""


class NoPlanError(Exception):
    """A draw that led nowhere; another one is made."""


@dataclass(frozen=True)
class Chain:
    """Lookups one after the other.

    Args:
        start: the entity that the question names, or the one that a search finds.
        relations: of the lookups.
        values: what each leads to.
        head: noun phrase of the start.
        keys: by which a search finds the start; empty: the question names it.
    """

    start: str
    relations: tuple[Relation, ...]
    values: tuple[Value, ...]
    head: str
    keys: tuple[tuple[str, Value], ...] = ()

    @property
    def last(self) -> Relation:
        """The relation whose value is asked for."""
        return self.relations[-1]

    @property
    def value(self) -> Any:
        """What it leads to."""
        return self.values[-1]

    @property
    def hops(self) -> int:
        """Sub-questions that it takes."""
        return len(self.relations) + bool(self.keys)

    def inner(self, rng: random.Random | None = None) -> str:
        """The noun phrase of the entity about which the last relation is asked."""
        return phrase(self.relations[:-1], self.head, rng)


@dataclass
class Draft:
    """A question under construction.

    Args:
        knowledge: what it is about.
        steps: so far.
        words: of the sub-questions, by step.
        question: what is asked.
        combination: how the answer follows.
    """

    knowledge: Knowledge
    steps: list[PlannedCall] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)
    question: str = ""
    combination: Combination = field(default_factory=lambda: Combination(of=()))

    def add(self, words: str, **fields: Any) -> str:
        """Add a step; its id.

        Args:
            words: the sub-question.
            **fields: of the `PlannedCall`.
        """
        name = f"q{len(self.steps) + 1}"
        self.steps.append(PlannedCall(id=name, **fields))
        self.words[name] = words
        return name

    def chain(self, chain: Chain) -> str:
        """Add the lookups of a chain, its search included; the id of the last one."""
        source: Any = chain.start
        inner, about = mention(self.knowledge, chain.start), chain.start
        if chain.keys:
            kind = self.knowledge.type_of[chain.start]
            name = self.find(kind, chain)
            source, inner = {FROM: name}, f"#{name}"
        for relation, value in zip(chain.relations, chain.values, strict=True):
            name = self.add(
                relation.asks[0].replace("{s}", inner),
                kind="lookup",
                value=json_value(value),
                inputs={"entity": source},
                subject=relation.subject,
                relations=(relation.name,),
                about=about,
            )
            source, inner, about = {FROM: name}, f"#{name}", str(value)
        return name

    def find(self, kind: str, chain: Chain) -> str:
        """Add the search for the start of a chain."""
        words = chain.head.removeprefix("the ")
        who = f"Who is the {words}?" if kind == "person" else f"Which is the {words}?"
        return self.add(
            who,
            kind="find",
            value=chain.start,
            inputs=dict(chain.keys),
            subject=kind,
            relations=tuple(key for key, _ in chain.keys),
            about=chain.start,
        )

    def compute(
        self, kind: str, words: str, value: Any, operation: str = "", /, **inputs: Any
    ) -> str:
        """Add a step that computes."""
        return self.add(words, kind=kind, value=value, inputs=inputs, operation=operation)


class Drawer:
    """Draws chains.

    Args:
        knowledge: what they lead through.
        rng: of the draw.
    """

    def __init__(self, knowledge: Knowledge, rng: random.Random) -> None:
        self.knowledge, self.rng = knowledge, rng

    def pick(self, items: Sequence[Any]) -> Any:
        """One of them; NoPlanError where there is none."""
        if not items:
            raise NoPlanError
        return self.rng.choice(items)

    def chain(
        self, hops: int, last: Callable[[Relation], bool], *, start: str = "", search: float = 0.0
    ) -> Chain:
        """A chain of so many hops whose last relation suits.

        Args:
            hops: a search at the beginning counts as one.
            last: what the last relation has to be.
            start: type of the start; empty: any.
            search: how likely the start is to be searched for, not named.

        Raises:
            NoPlanError: none was found in some tries.
        """
        paths = [
            path
            for path in _paths(self.knowledge, hops)
            if last(path[-1]) and (not start or path[0].subject == start)
        ]
        searched = hops > 1 and self.rng.random() < search
        if searched:
            paths = [
                path
                for path in _paths(self.knowledge, hops - 1)
                if last(path[-1]) and _finders(self.knowledge, path[0].subject)
            ]
        for _ in range(20):
            path = self._path(paths)
            name = self.pick(self.knowledge.places[path[0].subject, path[0].name])
            made = self.along(path, name)
            if made is not None and searched:
                made = self._searched(made, path)
            if made is not None:
                return made
        raise NoPlanError

    def _path(self, paths: Sequence[tuple[Relation, ...]]) -> tuple[Relation, ...]:
        """One path: first its last relation, so that common ones do not crowd out the others."""
        last = self.pick(list(dict.fromkeys(path[-1] for path in paths)))
        chosen: tuple[Relation, ...] = self.pick([path for path in paths if path[-1] == last])
        return chosen

    def along(self, path: Sequence[Relation], start: str) -> Chain | None:
        """The chain from an entity along relations; None where it breaks off or turns back."""
        values: list[Value] = []
        name: Value = start
        for relation in path:
            found = self.knowledge.facts.get((str(name), relation.name))
            if found is None or found == start or found in values:
                return None
            values.append(found)
            name = found
        return Chain(start, tuple(path), tuple(values), mention(self.knowledge, start))

    def _searched(self, chain: Chain, path: Sequence[Relation]) -> Chain | None:
        found = self.search(chain.start, {relation.name for relation in path})
        if found is None:
            return None
        return Chain(chain.start, chain.relations, chain.values, found.head, found.keys)

    def search(self, name: str, without: Set[str] = frozenset()) -> Chain | None:
        """How an entity can be found by what is known of it, in a chain without lookups.

        Args:
            name: of the entity.
            without: relations that must not be keys, since they are asked for.
        """
        knowledge, kind = self.knowledge, self.knowledge.type_of[name]
        finders = _finders(knowledge, kind)
        if not finders:
            return None
        keys, written = self.pick(finders)
        known = [
            (key, knowledge.facts[name, key]) for key in keys if (name, key) in knowledge.facts
        ]
        if len(known) < len(keys) or without & set(keys):
            return None
        groups = [set(knowledge.inverse[kind, key, value]) for key, value in known]
        if set.intersection(*groups) != {name}:
            return None
        for key, value in known:
            relation = knowledge.relations[kind, key]
            words = mention(knowledge, str(value)) if relation.entity else str(value)
            words = day(str(value)) if relation.object == "date" else words
            written = written.replace(f"{{{key}}}", words)
        return Chain(name, (), (), written, tuple(known))


def _finders(knowledge: Knowledge, kind: str) -> list[tuple[tuple[str, ...], str]]:
    """Keys and noun phrases; made up from the labels for a type that has none of its own."""
    own = [(keys, words) for subject, keys, words in FINDERS if subject == kind]
    if own or kind in TYPES:
        return own
    return [
        ((item.name,), f"the {kind.replace('_', ' ')} whose {item.label} is {{{item.name}}}")
        for item in knowledge.relations_of(kind)
        if item.object not in ("number", "point")
    ]


def _paths(knowledge: Knowledge, hops: int) -> list[tuple[Relation, ...]]:
    """All chains of relations of a length, without one that occurs twice; kept per knowledge."""
    if hops not in knowledge.paths:
        knowledge.paths[hops] = list(_walk(knowledge, hops))
    return knowledge.paths[hops]


def _walk(knowledge: Knowledge, hops: int) -> Iterator[tuple[Relation, ...]]:
    for kind in knowledge.by_type:
        for relation in knowledge.relations_of(kind):
            if hops == 1:
                yield (relation,)
            elif relation.entity and relation.object in knowledge.by_type:
                yield from _continued(knowledge, (relation,), hops)


def _continued(
    knowledge: Knowledge, path: tuple[Relation, ...], hops: int
) -> Iterator[tuple[Relation, ...]]:
    for relation in knowledge.relations_of(path[-1].object):
        longer = (*path, relation)
        if relation in path:
            continue
        if len(longer) == hops:
            yield longer
        elif relation.entity:
            yield from _continued(knowledge, longer, hops)


def telling(text: str) -> bool:
    """Whether an answer is too short to be told from other text."""
    try:
        return abs(float(text)) >= 13 or len(text.partition(".")[2]) > 1
    except ValueError:
        return len(text) >= 3


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


def starts(drawer: Drawer, chains: Sequence[Chain], last: str = "and") -> str:
    """The entities that chains start from, in words."""
    return mentions(drawer.knowledge, [item.start for item in chains], last)


def its(drawer: Drawer, chains: Sequence[Chain]) -> str:
    """The chain up to its last relation, from "its director" on."""
    relations = chains[0].relations
    its = drawer.knowledge.types[relations[0].subject].its
    return phrase(relations[1:-1], f"{its} {relations[0].label}")
