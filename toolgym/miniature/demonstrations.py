"""What the base model is shown: a copying drill, then deliberately mixed behaviour.

A demonstration uses the tool well only part of the time. Otherwise it guesses without a tool, asks
for the wrong thing, writes a call that cannot be used, or copies the result badly. So the right
behaviour is there to be found and made stronger by self-training, and is not the habit yet. Nothing
downstream is told which behaviour was meant.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from toolgym.miniature import phrasings
from toolgym.miniature.phrasings import (
    Exercise,
    ToolUse,
    calculate,
    expression,
    fact,
    person,
    town,
)
from toolgym.miniature.world import CALCULATOR, HOME_TOOL, LARGEST, SEARCH, SMALLEST, World, finder

Chat = list[dict[str, str]]
"""A conversation: dicts of `role` and `content`."""

# What the environment says to calls that cannot be used. The model never learns to write these
# texts, only what to do after them, so they need not follow every change of the environment's
# wording.
UNCLOSED: Final = (
    "The reply could not be used: the call {name}[ has no closing bracket: {name}[...]."
)
UNKNOWN: Final = "{name} does not exist. Tools: {tools}."
SHORTENED: Final = {CALCULATOR: "Calc", SEARCH: "Lookup", HOME_TOOL: "home"}
"""Names under which a call that names no tool asks for one."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """What a base is shown after the drill; each function draws a conversation.

    Attributes:
        shown: mixed behaviour.
        right: the tools used well, which the base is probed with.
        job: first part of the name of the base's folder.
    """

    shown: Callable[[random.Random], Chat]
    right: Callable[[random.Random], Chat]
    job: str = "miniature"


def lessons(world: World) -> Lessons:
    """Those of the questions of a world."""

    def shown(rng: random.Random) -> Chat:
        return demonstration(world, world.problem(rng, "demo"), rng)[1]

    def right(rng: random.Random) -> Chat:
        return right_episode(world.problem(rng, "demo"))

    return Lessons(shown, right)


@dataclass(frozen=True, slots=True)
class Mixture:
    """How often the demonstrations behave in which way.

    Attributes:
        tool_use: probability of reaching for a tool, by the problem's family.
        behaviours: weights of what happens once a tool is used.
        lucky: probability that a guess at an arithmetic answer is right.
    """

    tool_use: Mapping[str, float] = field(
        default_factory=lambda: {
            "*": 0.75,
            "*+": 0.75,
            "*-": 0.35,
            "+": 0.35,
            "-": 0.35,
            "founder": 0.75,
            "owner": 0.35,
            "ruler": 0.75,
            "designer": 0.35,
            "home": 0.75,
            "home of founder": 0.75,
            "home of owner": 0.35,
            "home of ruler": 0.75,
            "home of designer": 0.35,
        }
    )
    behaviours: Mapping[str, float] = field(
        default_factory=lambda: {"right": 0.66, "wrong": 0.18, "malformed": 0.08, "miscopied": 0.08}
    )
    lucky: float = 0.15


def question(problem: Exercise) -> dict[str, str]:
    """The first message of an episode, as the environment's bare prompt writes it."""
    return said(f"Question: {problem.question}")


def demonstration(
    world: World, problem: Exercise, rng: random.Random, mixture: Mixture | None = None
) -> tuple[str, Chat]:
    """One conversation under a behaviour drawn at random.

    Args:
        world: whose facts the search knows.
        problem: what is asked.
        rng: where the draws come from.
        mixture: how often which behaviour is shown; the default one if None.

    Returns:
        The behaviour's name ("direct", "right", "wrong", "malformed", "miscopied") and the
        conversation.
    """
    mixture = mixture or Mixture()
    if rng.random() >= mixture.tool_use[problem.family]:
        return "direct", [question(problem), _direct(_guess(problem, rng, mixture.lucky))]
    behaviour = rng.choices(tuple(mixture.behaviours), tuple(mixture.behaviours.values()))[0]
    if behaviour == "malformed":
        return behaviour, [
            question(problem),
            *_malformed(problem, rng),
            _direct(_guess(problem, rng, mixture.lucky)),
        ]
    steps, value = _wrong(world, problem, rng) if behaviour == "wrong" else _right(problem)
    if behaviour == "miscopied":
        value = _miscopied(value, problem, rng)
    return behaviour, [question(problem), *taken(steps), _concluding(value)]


def copy_drill(rng: random.Random) -> Chat:
    """A request to copy numbers and names, without tools: it teaches a fresh model to copy at all.

    A model this small must first be able to carry spans from the question to the call and from the
    result to the answer. Without this drill it never starts to, and self-training has nothing to
    make stronger.
    """
    count = rng.randint(7, 11)
    if rng.random() < 0.5:
        items = [str(rng.randint(0, LARGEST)) for _ in range(count)]
        copied = f"[{rng.choice(('*', '+', '-')).join(items)}]"
    else:
        items = [_item(rng) for _ in range(count)]
        copied = rng.choice((" ", " of ")).join(items)
    return [said("Copy: " + " ".join(items)), wrote(f"Copied: {copied}")]


def right_episode(problem: Exercise) -> Chat:
    """The conversation in which the tools are used well: what the base model is probed with."""
    steps, value = _right(problem)
    return [question(problem), *taken(steps), _concluding(value)]


def _right(problem: Exercise) -> tuple[tuple[ToolUse, ...], str]:
    """The calls, and the value that they lead to."""
    return problem.steps, problem.answer


def _wrong(world: World, problem: Exercise, rng: random.Random) -> tuple[tuple[ToolUse, ...], str]:
    """As `_right`, for another question than was asked."""
    if problem.kind == "scenarios":
        return _wrong_scenario(world, problem, rng)
    if problem.kind == "entities":
        relation = _other(rng, problem.family)
        value = world.facts[problem.entity][relation]
        found = fact(relation, problem.entity, value)
        return (ToolUse(SEARCH, f"{relation} of {problem.entity}", found),), value
    numbers, symbols = problem.numbers, problem.family
    if rng.random() < 0.6:
        others = [
            each for each in phrasings.ARITHMETIC if len(each) == len(symbols) and each != symbols
        ]
        symbols = rng.choice(others)
    else:
        numbers = (*numbers[:-1], rng.randint(SMALLEST, LARGEST))
    value = str(calculate(numbers, symbols))
    return (ToolUse(CALCULATOR, expression(numbers, symbols), value),), value


def _wrong_scenario(
    world: World, problem: Exercise, rng: random.Random
) -> tuple[tuple[ToolUse, ...], str]:
    """Stops at the person, finds another one, or asks for the home of one who was not named."""
    if problem.entity and rng.random() < 0.5:
        first = problem.steps[0]
        return (first,), first.result
    if not problem.entity:
        name = person(rng)
        return (ToolUse(HOME_TOOL, name, world.homes[name]),), world.homes[name]
    relation = _other(rng, problem.family.removeprefix("home of "))
    name = world.facts[problem.entity][relation]
    value = world.homes[name]
    return (ToolUse(finder(relation), problem.entity, name), ToolUse(HOME_TOOL, name, value)), value


def _other(rng: random.Random, relation: str) -> str:
    return rng.choice([each for each in phrasings.RELATIONS if each != relation])


def _malformed(problem: Exercise, rng: random.Random) -> Chat:
    """A call that cannot be used, and what the environment says to it."""
    step = problem.steps[0]
    way = rng.choice(("bracket", "name", "argument"))
    if way == "bracket":
        return [acting(step.call[:-1]), said(UNCLOSED.format(name=step.tool))]
    if way == "name":
        name = SHORTENED.get(step.tool, "person")
        known = f"{CALCULATOR}, {SEARCH}"
        if problem.kind == "scenarios":
            known = ", ".join((*map(finder, phrasings.RELATIONS), HOME_TOOL))
        call = f"{name}[{step.argument}]"
        return [acting(call), _result(call, UNKNOWN.format(name=name, tools=known))]
    if problem.kind == "arithmetic":
        call = f"{step.tool}[{step.argument[:-2]}]"
        return [acting(call), _result(call, "Error: failed to calculate.")]
    call = f"{step.tool}[]"
    complaint = "the query is empty" if problem.kind == "entities" else "nothing is known about ''"
    return [acting(call), _result(call, f"Error: {complaint}.")]


def _guess(problem: Exercise, rng: random.Random, lucky: float) -> str:
    if problem.kind != "arithmetic":
        return _made_up(problem, rng)
    gold = int(problem.answer)
    if rng.random() < lucky:
        return problem.answer
    return str(max(0, gold + rng.choice((-1, 1)) * rng.choice((1, 2, 3, 5, 8, 10, 20, 50, 100))))


def _miscopied(value: str, problem: Exercise, rng: random.Random) -> str:
    if problem.kind != "arithmetic":
        return _made_up(problem, rng)
    return value[:-1] + rng.choice([digit for digit in "0123456789" if digit != value[-1]])


def _made_up(problem: Exercise, rng: random.Random) -> str:
    """A person or a town, whichever is asked for, that is not the answer."""
    while True:
        found = person(rng) if problem.kind == "entities" else town(rng)
        if found != problem.answer:
            return found


def _item(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return str(rng.randint(0, 99))
    if rng.random() < 0.5:
        return town(rng) if rng.random() < 0.3 else person(rng)
    return f"{rng.choice(phrasings.ADJECTIVES)} {rng.choice(phrasings.NOUNS)}"


def said(content: str) -> dict[str, str]:
    """A message of the environment, or of its user."""
    return {"role": "user", "content": content}


def wrote(content: str) -> dict[str, str]:
    """A turn of the policy."""
    return {"role": "assistant", "content": content}


def taken(steps: Sequence[ToolUse]) -> Chat:
    """Calls, each with its result."""
    return [turn for step in steps for turn in (acting(step.call), _result(step.call, step.result))]


def acting(call: str) -> dict[str, str]:
    """A turn that calls a tool."""
    return wrote(f"Thought: I need a tool.\nAction: {call}")


def _result(call: str, result: str) -> dict[str, str]:
    return said(f"Response from tool {call} are: {result}")


def _concluding(value: str) -> dict[str, str]:
    return wrote(f"Thought: the tool says {value}.\nAnswer: {value}")


def _direct(value: str) -> dict[str, str]:
    return wrote(f"Thought: I can tell directly.\nAnswer: {value}")
