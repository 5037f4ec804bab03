"""Errands: worlds with a state for the miniature, and a user who has to be asked.

An errand changes a state by one to three calls. Half of the errands say all that is needed; the
other half leave out a name that only the user knows, and that he tells when he is asked for it. The
rows are stateful scenarios, so that ``ToolScenario-v0`` plays them, its `CompiledUser` speaks in
them, and ``goal_reached`` scores them. Entities and people are those of `toolgym.miniature.world`,
in its three splits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from toolgym._util.jsonl import write_rows
from toolgym.errors import BadInputError
from toolgym.miniature import phrasings
from toolgym.miniature.demonstrations import UNCLOSED, Chat, Lessons, acting, said, taken, wrote
from toolgym.miniature.phrasings import ToolUse, person
from toolgym.miniature.world import Split, World, finder
from toolgym.scenario import FROM, ToolDocument

__all__ = ["ASKED", "FAMILIES", "TOLD", "Errand", "halves", "lessons", "write"]

JOB: Final = "miniature-errands"
TOLD, ASKED = "told", "asked"
"""Labels of the two environments: all is said, and the user has to be asked."""
FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    TOLD: ("one call", "two calls", "three calls"),
    ASKED: ("a guest", "a firm"),
}
VERBS: Final[Mapping[str, str]] = {"invite": "invited", "thank": "thanked", "pay": "paid"}
"""Tools that do something for a person, and what the person is then."""
CLOSE: Final = "close"
COMPANIES: Final = 4
"""Companies that a world knows."""

_REQUESTS: Final = ("{v} {p}.", "Please {v} {p}.", "Can you {v} {p}?", "I want you to {v} {p}.")
_TOLD: Final = ("{}", "It is {}.", "{}, please.", "Take {}.", "That would be {}.")
_LOST: Final = "Ask me for what you need."
_NOBODY: Final = "Error: {} raised ValueError: nobody is called {!r}."

_FIND: Final = """def {name}(state, company):
    for row in state['companies'].values():
        if row['name'] == company:
            return row['{relation}']
    raise ValueError('there is no company ' + repr(company))
"""
_CLOSE: Final = """def close(state, company):
    for row in state['companies'].values():
        if row['name'] == company:
            row['open'] = False
            return company + ' is closed.'
    raise ValueError('there is no company ' + repr(company))
"""
_DO: Final = """def {name}(state, person):
    for row in state['people'].values():
        if row['name'] == person:
            row['{done}'] = True
            return person + ' is {done}.'
    raise ValueError('nobody is called ' + repr(person))
"""


@dataclass(frozen=True, slots=True)
class Errand:
    """What is to be done, and the calls that do it.

    Attributes:
        family: one of `FAMILIES`.
        question: the text put to the policy.
        verb: what is done, one of `VERBS`.
        person: for whom it is done.
        relation: in which the person stands to the company, or empty.
        company: that is named, or that the user tells; or empty.
        steps: the calls, with their results.
    """

    family: str
    question: str
    verb: str
    person: str
    relation: str
    company: str
    steps: tuple[ToolUse, ...]

    @property
    def fact(self) -> tuple[str, str] | None:
        """What the user has to be asked for, a word, and what he tells then; or None."""
        if self.family not in FAMILIES[ASKED]:
            return None
        return ("firm", self.company) if self.company else ("guest", self.person)


def errand(world: World, rng: random.Random, split: Split, family: str) -> Errand:
    """Draw an errand.

    Args:
        world: whose entities are the companies.
        rng: where the draws come from.
        split: whose companies and people to use.
        family: one of `FAMILIES`.
    """
    verb, relation, company = rng.choice(tuple(VERBS)), "", ""
    if family in ("one call", "a guest"):
        name = rng.choice(world.people(split))
    else:
        company = rng.choice(world.entities(split))
        relation = rng.choice(tuple(phrasings.RELATIONS))
        name = world.facts[company][relation]
    whom = {"one call": name, "a guest": "my guest", "a firm": f"the {relation} of my firm"}
    asked = whom.get(family, f"the {relation} of {company}")
    asked += f" and close {company}" if family == "three calls" else ""
    question = rng.choice(_REQUESTS).format(v=verb, p=asked)
    steps = [_doing(verb, name)]
    if company:
        steps.insert(0, ToolUse(finder(relation), company, name))
    if family == "three calls":
        steps.append(ToolUse(CLOSE, company, f"{company} is closed."))
    question = question[0].upper() + question[1:]
    return Errand(family, question, verb, name, relation, company, tuple(steps))


def _doing(verb: str, name: str) -> ToolUse:
    return ToolUse(verb, name, f"{name} is {VERBS[verb]}.")


def row(name: str, made: Errand, world: World, among: Sequence[str]) -> dict[str, Any]:
    """An errand as a row of a file of stateful scenarios.

    Args:
        name: its id.
        made: the errand.
        world: that it is of.
        among: entities from which the further companies are drawn.
    """
    rng = random.Random(f"{name}: {made.question}")
    known = sorted({made.company, *rng.sample(among, COMPANIES)} - {""})
    named = {each for company in known for each in world.facts[company].values()}
    people = sorted(named | {made.person})
    numbers = rng.sample(range(1000, 10_000), len(known) + len(people))
    company_ids = {each: f"C-{numbers[k]}" for k, each in enumerate(known)}
    person_ids = {each: f"P-{numbers[-1 - k]}" for k, each in enumerate(people)}
    goal = [_goal("people", person_ids[made.person], VERBS[made.verb], True)]
    if made.steps[-1].tool == CLOSE:
        goal.append(_goal("companies", company_ids[made.company], "open", False))
    return {
        "schema": 1,
        "kind": "stateful",
        "id": name,
        "question": made.question,
        "domain": made.family,
        "level": len(made.steps),
        "author": "toolgym.miniature",
        "state": {
            "companies": {
                key: {"name": each, **world.facts[each], "open": True}
                for each, key in company_ids.items()
            },
            "people": {
                key: {"name": each, **dict.fromkeys(VERBS.values(), False)}
                for each, key in person_ids.items()
            },
        },
        **_tools(),
        "goal": goal,
        "plan": [_step(k, step, made) for k, step in enumerate(made.steps)],
        "user": _user(made),
    }


def _goal(table: str, key: str, field: str, value: bool) -> dict[str, Any]:
    return {"table": table, "where": {"id": key, field: value}}


def _step(number: int, step: ToolUse, made: Errand) -> dict[str, Any]:
    found = step.tool in VERBS and made.company
    value = {FROM: "s1"} if found else step.argument
    about = "person" if step.tool in VERBS else "company"
    return {"id": f"s{number + 1}", "tool": step.tool, "arguments": {about: value}}


def _user(made: Errand) -> dict[str, Any] | None:
    if made.fact is None:
        return None
    word, value = made.fact
    return {"facts": [{"name": f"name of the {word}", "keywords": [word], "value": value}]}


def _tools() -> dict[str, Any]:
    """Documents and sources of the tools, which are the same in all worlds."""
    told = {finder(each): f"The {each} of a company." for each in phrasings.RELATIONS}
    told |= {verb: f"{verb.capitalize()} a person." for verb in VERBS}
    told[CLOSE] = "Close a company."
    sources = {
        finder(each): _FIND.format(name=finder(each), relation=each) for each in phrasings.RELATIONS
    }
    sources |= {verb: _DO.format(name=verb, done=done) for verb, done in VERBS.items()}
    sources[CLOSE] = _CLOSE
    documents = [_document(name, text).to_row() for name, text in told.items()]
    return {"documents": documents, "functions": sources}


def _document(name: str, text: str) -> ToolDocument:
    about = "person" if name in VERBS else "company"
    schema = {"type": "string", "description": f"Name of the {about}."}
    parameters = {"type": "object", "properties": {about: schema}, "required": [about]}
    return ToolDocument(name=name, description=text, parameters=parameters)


def write(world: World, folder: str | Path, train: int = 500, test: int = 500) -> dict[str, Path]:
    """Write the worlds.

    Args:
        world: whose entities and people they are about.
        folder: where to; it is made if it is not there.
        train: errands to practise on, of both environments together.
        test: held-out errands, likewise.

    Returns:
        Paths by name: "told-train", "told-test", "asked-train", "asked-test".

    Raises:
        BadInputError: fewer than two are asked for.
    """
    paths: dict[str, Path] = {}
    files: tuple[tuple[Split, int], ...] = (("train", train), ("test", test))
    for split, count in files:
        if count < 2:
            raise BadInputError(f"{count} errands to {split} are too few: ask for at least 2")
        for label, part in halves(count).items():
            key = f"{label}-{split}"
            rng = random.Random(f"{world.seed}-{key}")
            families = FAMILIES[label]
            drawn = [
                errand(world, rng, split, families[place % len(families)]) for place in range(part)
            ]
            among = world.entities(split)
            rows = [row(f"{key}-{k}", each, world, among) for k, each in enumerate(drawn)]
            paths[key] = Path(folder) / f"{key}.jsonl"
            write_rows(paths[key], rows)
    return paths


def halves(count: int) -> dict[str, int]:
    """How many of `count` errands are in which environment."""
    return {TOLD: count - count // 2, ASKED: count // 2}


# How often the demonstrations behave in which way. What is right is there to be found and is the
# smaller part of each family: else greedy decoding would be right before anything is practised.
_SHOWN: Final[Mapping[str, Mapping[str, float]]] = {
    "one call": {"idle": 0.3, "right": 0.42, "wrong": 0.16, "malformed": 0.06, "made up": 0.06},
    "two calls": {"idle": 0.5, "right": 0.3, "wrong": 0.12, "malformed": 0.04, "made up": 0.04},
    "three calls": {"idle": 0.2, "half": 0.35, "right": 0.25, "wrong": 0.12, "malformed": 0.08},
    "a guest": {"idle": 0.2, "made up": 0.45, "right": 0.21, "lost": 0.06, "wrong": 0.08},
    "a firm": {"idle": 0.45, "made up": 0.2, "right": 0.21, "lost": 0.06, "wrong": 0.08},
}


def demonstration(world: World, made: Errand, rng: random.Random) -> tuple[str, Chat]:
    """One conversation under a behaviour drawn at random.

    Args:
        world: that the errand is of.
        made: the errand.
        rng: where the draws come from.

    Returns:
        The behaviour ("idle", "right", "wrong", "half", "malformed", "made up" or "lost") and the
        conversation.
    """
    weights = _SHOWN[made.family]
    behaviour = rng.choices(tuple(weights), tuple(weights.values()))[0]
    ways: dict[str, Callable[[], Chat]] = {
        "idle": list,
        "right": lambda: [*_asking(made, rng), *taken(made.steps)],
        "wrong": lambda: [*_asking(made, rng), *taken(_wrong(world, made, rng))],
        "half": lambda: taken(made.steps[:-1]),
        "malformed": lambda: _malformed(made),
        "made up": lambda: _made_up(made, rng),
        "lost": lambda: [_ask("town"), said(_LOST)],
    }
    return behaviour, [said(f"Question: {made.question}"), *ways[behaviour](), _done()]


def right_episode(made: Errand, rng: random.Random) -> Chat:
    """The conversation in which the user is asked where it is needed, and all is done."""
    question = said(f"Question: {made.question}")
    return [question, *_asking(made, rng), *taken(made.steps), _done()]


def lessons(seed: int) -> Lessons:
    """What the base of a seed is shown: errands of the "demo" split, told and asked in halves."""
    world = World(seed)

    def draw(rng: random.Random) -> Errand:
        family = rng.choice(FAMILIES[rng.choice((TOLD, ASKED))])
        return errand(world, rng, "demo", family)

    def shown(rng: random.Random) -> Chat:
        return demonstration(world, draw(rng), rng)[1]

    return Lessons(shown, lambda rng: right_episode(draw(rng), rng), JOB)


def _ask(word: str) -> dict[str, str]:
    return wrote(f"Thought: I must ask.\nAnswer: What is the name of the {word}?")


def _asking(made: Errand, rng: random.Random) -> Chat:
    if made.fact is None:
        return []
    word, value = made.fact
    return [_ask(word), said(rng.choice(_TOLD).format(value))]


def _done() -> dict[str, str]:
    return wrote("Thought: that is all.\nAnswer: Done.")


def _wrong(world: World, made: Errand, rng: random.Random) -> list[ToolUse]:
    """As the errand's steps, for another errand: another relation, or another verb."""
    steps = list(made.steps)
    if made.company and rng.random() < 0.5:
        relation = rng.choice([each for each in phrasings.RELATIONS if each != made.relation])
        name = world.facts[made.company][relation]
        found = ToolUse(finder(relation), made.company, name)
        return [found, _doing(made.verb, name), *steps[2:]]
    verb = rng.choice([each for each in VERBS if each != made.verb])
    return [_doing(verb, made.person) if step.tool in VERBS else step for step in steps]


def _malformed(made: Errand) -> Chat:
    """A call without its closing bracket, and what the environment says to it."""
    first = made.steps[0]
    return [acting(first.call[:-1]), said(UNCLOSED.format(name=first.tool))]


def _made_up(made: Errand, rng: random.Random) -> Chat:
    """Something done for a person whom nobody named: most often there is none of that name."""
    name = person(rng)
    return taken([ToolUse(made.verb, name, _NOBODY.format(made.verb, name))])
