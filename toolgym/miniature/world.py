"""The miniature's world: sums for the calculator, facts for the search, and scenarios.

The facts are about invented entities and people. A scenario asks where a person lives, often one
who must be found first, and brings its own tools. Numbers, entities and the people asked for by
name come in three disjoint splits: "demo" (what the base model is shown), "train" (what it
practises on) and "test". The same seed gives the same world and the same files.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from toolgym._util.jsonl import write_json, write_rows
from toolgym.errors import BadInputError
from toolgym.miniature import phrasings
from toolgym.miniature.phrasings import (
    Exercise,
    Kind,
    ToolUse,
    calculate,
    expression,
    fact,
    person,
    town,
)
from toolgym.scenario import (
    FROM,
    Combination,
    Levels,
    ReferenceCall,
    Scenario,
    SubQuestion,
    ToolDocument,
)

HOME_TOOL: Final = "home_of"
OTHERS: Final = 5
"""Further entities that a task's tools know."""

_FUNCTION: Final = '''def {name}({parameter}: str) -> str:
    """{about}"""
    known = {known}
    if {parameter} not in known:
        raise ValueError(f"nothing is known about {{{parameter}!r}}")
    return known[{parameter}]
'''


def finder(relation: str) -> str:
    """The name of the tool that finds the person who stands in a relation to an entity."""
    return f"{relation}_of"


def scenario_row(
    name: str,
    problem: Exercise,
    facts: Mapping[str, Mapping[str, str]],
    homes: Mapping[str, str],
    among: Sequence[str],
) -> dict[str, Any]:
    """A scenario as a row of a file.

    Args:
        name: its id.
        problem: of kind "scenarios".
        facts: of the world.
        homes: of the world.
        among: entities from which the further ones are drawn.
    """
    rng = random.Random(f"{name}: {problem.question}")
    known = {problem.entity, *rng.sample(among, OTHERS)} - {""}
    entities = sorted(known)
    people = {person for entity in entities for person in facts[entity].values()}
    people |= {step.argument for step in problem.steps if step.tool == HOME_TOOL}
    tables = {
        finder(relation): {entity: facts[entity][relation] for entity in entities}
        for relation in phrasings.RELATIONS
    }
    tables[HOME_TOOL] = {person: homes[person] for person in sorted(people)}
    called = {step.tool for step in problem.steps}
    idle = [tool for tool in tables if tool not in called]
    last = f"q{len(problem.steps)}"
    made = Scenario(
        id=name,
        question=problem.question,
        answers=(problem.answer,),
        sub_questions=_sub_questions(problem),
        combination=Combination(of=(last,)),
        documents=tuple(_document(tool) for tool in tables),
        calls=_calls(problem),
        levels=Levels(toolset_extension=min(3, len(idle))),
        distractors=tuple(idle),
        functions={tool: _source(tool, table) for tool, table in tables.items()},
        author="toolgym.miniature",
    )
    return made.to_row()


def _sub_questions(problem: Exercise) -> tuple[SubQuestion, ...]:
    """In words, as people are asked for; the second names the first's answer by its id."""
    found = []
    for number, step in enumerate(problem.steps, 1):
        about = f"#q{number - 1}" if number > 1 else step.argument
        text = "Where does {} live?" if step.tool == HOME_TOOL else "Who {} {{}}?"
        if step.tool != HOME_TOOL:
            text = text.format(phrasings.RELATIONS[step.tool.removesuffix("_of")])
        needs = (f"q{number - 1}",) if number > 1 else ()
        asked = text.format(about)
        found.append(SubQuestion(id=f"q{number}", question=asked, answer=step.result, needs=needs))
    return tuple(found)


def _calls(problem: Exercise) -> tuple[ReferenceCall, ...]:
    return tuple(
        ReferenceCall(
            sub_question=f"q{number}",
            tool=step.tool,
            arguments={
                _parameter(step.tool): {FROM: f"q{number - 1}"} if number > 1 else step.argument
            },
        )
        for number, step in enumerate(problem.steps, 1)
    )


def _parameter(tool: str) -> str:
    return "person" if tool == HOME_TOOL else "entity"


def _about(tool: str) -> str:
    if tool == HOME_TOOL:
        return "Gives the town in which a person lives."
    return f"Gives the {tool.removesuffix('_of')} of something."


def _document(tool: str) -> ToolDocument:
    name = _parameter(tool)
    parameters = {
        "type": "object",
        "properties": {name: {"type": "string", "description": "Full name"}},
        "required": [name],
        "additionalProperties": False,
    }
    return ToolDocument(name=tool, description=_about(tool), parameters=parameters)


def _source(tool: str, table: Mapping[str, str]) -> str:
    return _FUNCTION.format(
        name=tool, parameter=_parameter(tool), about=_about(tool), known=json.dumps(table)
    )


Split = Literal["demo", "train", "test"]

SPLITS: Final[tuple[Split, ...]] = ("demo", "train", "test")
SHARES: Final[Mapping[Kind, float]] = {"arithmetic": 0.4, "entities": 0.3, "scenarios": 0.3}
"""Kinds of questions, and how many of a hundredth each makes up."""
CHAINED: Final = 0.75
"""Share of the scenarios whose person must be found first."""
CALCULATOR: Final = "Calculator"
SEARCH: Final = "WikipediaSearch"
SMALLEST, LARGEST = 11, 99
CARD: Final = "world.json"
"""Beside the files of a world: what it was made of."""


class World:
    """A seeded world of numbers and entities.

    Args:
        seed: decides names, facts and which numbers belong to which split.

    Attributes:
        facts: every entity's relations and the people they lead to.
        homes: every person's town.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        rng = random.Random(f"world-{seed}")
        names = [
            f"{adjective} {noun}" for adjective in phrasings.ADJECTIVES for noun in phrasings.NOUNS
        ]
        rng.shuffle(names)
        self.facts: Mapping[str, Mapping[str, str]] = {
            name: {relation: person(rng) for relation in phrasings.RELATIONS} for name in names
        }
        self._entities = {
            split: tuple(names[place :: len(SPLITS)]) for place, split in enumerate(SPLITS)
        }
        people = [
            f"{first} {last}" for first in phrasings.FIRST_NAMES for last in phrasings.LAST_NAMES
        ]
        rng.shuffle(people)
        self.homes: Mapping[str, str] = {name: town(rng) for name in people}
        self._people = {
            split: tuple(people[place :: len(SPLITS)]) for place, split in enumerate(SPLITS)
        }

    def entities(self, split: Split) -> tuple[str, ...]:
        """The entities of a split: 300 each, none in two splits."""
        return self._entities[split]

    def people(self, split: Split) -> tuple[str, ...]:
        """The people who are asked for by name in a split: 300 each, none in two splits."""
        return self._people[split]

    def split_of(self, numbers: Sequence[int]) -> Split:
        """The one split in which these numbers, in this order, may be asked about."""
        text = f"{self.seed}:" + ",".join(map(str, numbers))
        return SPLITS[zlib.crc32(text.encode()) % len(SPLITS)]

    def problem(
        self, rng: random.Random, split: Split, kind: Kind | None = None, *, held_out: bool = False
    ) -> Exercise:
        """Draw one problem.

        Args:
            rng: where the draws come from.
            split: whose numbers and entities to use.
            kind: one of `SHARES`, or None for a draw with these shares.
            held_out: whether to use the held-out phrasings instead of the usual ones.
        """
        kind = kind or rng.choices(tuple(SHARES), tuple(SHARES.values()))[0]
        draw = {
            "arithmetic": self._arithmetic,
            "entities": self._entity,
            "scenarios": self._scenario,
        }
        return draw[kind](rng, split, held_out)

    def problems(
        self,
        rng: random.Random,
        split: Split,
        count: int,
        kind: Kind | None = None,
        *,
        held_out: bool = False,
    ) -> list[Exercise]:
        """Draw `count` problems, no question twice.

        Raises:
            BadInputError: the world does not hold that many different questions of this sort.
        """
        found: dict[str, Exercise] = {}
        for _ in range(20 * count + 100):
            if len(found) == count:
                return list(found.values())
            drawn = self.problem(rng, split, kind, held_out=held_out)
            found.setdefault(drawn.question, drawn)
        raise BadInputError(
            f"only {len(found)} different {kind or 'mixed'} questions were found in split "
            f"{split!r}, not {count}: ask for fewer"
        )

    def passages(self) -> list[dict[str, str]]:
        """One passage a fact, as rows for a search index: `id`, `title` (empty), `text`."""
        rows = [
            fact(relation, entity, self.facts[entity][relation])
            for entity in self.facts
            for relation in phrasings.RELATIONS
        ]
        return [
            {"id": f"fact-{place}", "title": "", "text": text} for place, text in enumerate(rows)
        ]

    def write(self, folder: str | Path, train: int = 500, test: int = 500) -> dict[str, Path]:
        """Write the task files and the passages.

        Args:
            folder: where to; it is made if it is not there.
            train: number of training questions, of the kinds in their shares.
            test: number of test questions, and of test questions with held-out phrasings.

        Returns:
            Paths by name: "arithmetic-train", "arithmetic-test", "arithmetic-heldout", the same
            three for "entities" (rows of `id`, `question`, `answers`) and for "scenarios" (rows
            for ``ToolScenario-v0``), and "passages" (rows of `id`, `title`, `text`).

        Raises:
            BadInputError: more questions are asked for than the world holds.
        """
        folder = Path(folder)
        write_json(folder / CARD, {"seed": self.seed})
        paths: dict[str, Path] = {}
        files: tuple[tuple[str, Split, int], ...] = (
            ("train", "train", train),
            ("test", "test", test),
            ("heldout", "test", test),
        )
        for name, split, count in files:
            for kind, part in zip(SHARES, parts(count).values(), strict=True):
                key = f"{kind}-{name}"
                # Each file has its own stream, so that asking for more of one leaves the others as
                # they are.
                rng = random.Random(f"{self.seed}-{key}")
                drawn = self.problems(rng, split, part, kind, held_out=name == "heldout")
                rows = [self.row(f"{key}-{place}", each, split) for place, each in enumerate(drawn)]
                paths[key] = folder / f"{key}.jsonl"
                write_rows(paths[key], rows)
        paths["passages"] = folder / "passages.jsonl"
        write_rows(paths["passages"], self.passages())
        return paths

    def row(self, name: str, problem: Exercise, split: Split) -> dict[str, Any]:
        """A question as a row of a task file, or of a file of scenarios."""
        if problem.kind == "scenarios":
            return scenario_row(name, problem, self.facts, self.homes, self.entities(split))
        return {"id": name, "question": problem.question, "answers": [problem.answer]}

    def _arithmetic(self, rng: random.Random, split: Split, held_out: bool) -> Exercise:
        symbols = rng.choice(tuple(phrasings.ARITHMETIC))
        while True:
            numbers = tuple(rng.randint(SMALLEST, LARGEST) for _ in range(len(symbols) + 1))
            if symbols == "-":
                numbers = tuple(sorted(numbers, reverse=True))
            if self.split_of(numbers) == split:
                break
        question = _phrasing(rng, phrasings.ARITHMETIC[symbols], held_out).format(
            n=rng.choice(phrasings.PEOPLE),
            o=rng.choice(phrasings.OBJECTS),
            **dict(zip("abc", numbers, strict=False)),
        )
        answer = str(calculate(numbers, symbols))
        return Exercise(
            kind="arithmetic",
            family=symbols,
            question=question,
            answer=answer,
            steps=(ToolUse(CALCULATOR, expression(numbers, symbols), answer),),
            numbers=numbers,
            held_out=held_out,
        )

    def _entity(self, rng: random.Random, split: Split, held_out: bool) -> Exercise:
        entity = rng.choice(self.entities(split))
        relation = rng.choice(tuple(phrasings.RELATIONS))
        question = _phrasing(rng, phrasings.ENTITY, held_out).format(
            r=relation, v=phrasings.RELATIONS[relation], e=entity
        )
        found = self.facts[entity][relation]
        return Exercise(
            kind="entities",
            family=relation,
            question=question,
            answer=found,
            steps=(ToolUse(SEARCH, f"{relation} of {entity}", fact(relation, entity, found)),),
            entity=entity,
            held_out=held_out,
        )

    def _scenario(self, rng: random.Random, split: Split, held_out: bool) -> Exercise:
        phrasing, entity, family = _phrasing(rng, phrasings.HOME, held_out), "", "home"
        first: tuple[ToolUse, ...] = ()
        if rng.random() < CHAINED:
            entity = rng.choice(self.entities(split))
            relation = rng.choice(tuple(phrasings.RELATIONS))
            name, asked = self.facts[entity][relation], f"the {relation} of {entity}"
            family = f"home of {relation}"
            first = (ToolUse(finder(relation), entity, name),)
        else:
            name = asked = rng.choice(self.people(split))
        question = phrasing.format(p=asked)
        return Exercise(
            kind="scenarios",
            family=family,
            question=question[0].upper() + question[1:],
            answer=self.homes[name],
            steps=(*first, ToolUse(HOME_TOOL, name, self.homes[name])),
            entity=entity,
            held_out=held_out,
        )


def parts(count: int) -> dict[str, int]:
    """How many of `count` questions are of which kind."""
    found: dict[str, int] = {kind: round(count * share) for kind, share in SHARES.items()}
    found["arithmetic"] += count - sum(found.values())
    return found


def _phrasing(rng: random.Random, all_of_them: Sequence[str], held_out: bool) -> str:
    shown = len(all_of_them) - phrasings.HELD_OUT
    return rng.choice(all_of_them[shown:] if held_out else all_of_them[:shown])
