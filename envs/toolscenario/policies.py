"""Policies that need no model: what a perfect one, and what lazy and greedy ones get."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from toolgym.envs.toolscenario.environment import scenario_file
from toolgym.envs.toolscenario.files import given_scenarios, read_scenarios
from toolgym.envs.toolscenario.plans import play
from toolgym.envs.toolscenario.probing import entities, plausible
from toolgym.envs.toolscenario.records import PublicScenario, RejectedError, to_own
from toolgym.envs.toolscenario.tool import run_references
from toolgym.envs.toolscenario.user import questions
from toolgym.envs.toolscenario.world import DONE, World
from toolgym.errors import BadInputError, PolicyError
from toolgym.formats import Action
from toolgym.messages import ToolCall
from toolgym.policies.base import Policy, Reply, Request, past_results, question_of
from toolgym.scenario import Scenario

__all__ = ["NoCallPolicy", "OraclePolicy", "RandomCallPolicy", "SpamPolicy"]

UNKNOWN = "unknown"
_ID = re.compile(r"\b[A-Z]-\d{4}\b")
_ENDING = (DONE, "I am sorry, but the rules do not allow that.")
"""Of a world: the second is for a user who asks once more for what is forbidden."""


class OraclePolicy(Policy):
    """Plays the reference calls, those that need nothing of each other in one turn; then answers.

    In a world it plays the gold plan; where a user speaks, it asks him for each fact first.

    Args:
        tasks: as the environment's argument: a file, ``sample``, or scenarios in memory.
        parallel: False makes one call a turn.

    Raises:
        MissingFileError: no such file.
        BadInputError: a scenario without reference calls, as other people's published files.
    """

    batched: ClassVar[bool] = True

    def __init__(self, tasks: Any = "sample", parallel: bool = True) -> None:
        named = isinstance(tasks, str | Path)
        self._tasks = tasks if named else f"given by a {type(tasks).__name__}"
        self._parallel = parallel
        self._scenarios = {scenario.id: scenario for scenario in _own_scenarios(tasks)}
        self._plans: dict[str, list[Action]] = {}

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Play the turn of each request; a scenario of another file is a `PolicyError`."""
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Reply | Exception:
        name = request.episode.rpartition("#")[0]
        scenario = self._scenarios.get(name)
        if scenario is None:
            return PolicyError(f"scenario {name!r} is not in {self._tasks!r}: name the same file")
        try:
            plan = self._plan(scenario)
        except RejectedError as error:
            return PolicyError(f"scenario {name!r} cannot be played: {error}")
        action = plan[min(request.turn, len(plan) - 1)]
        return Reply(request.format.write(action, request.tools))

    def _plan(self, scenario: Scenario | World) -> list[Action]:
        """What it says by turn; the arguments come from running the reference calls apart."""
        if scenario.id not in self._plans:
            turn_of: dict[str, int] = {}
            turns: list[list[ToolCall]] = []
            for name, needs, call in _calls(scenario):
                first = max((turn_of[need] + 1 for need in needs), default=0)
                turn = first if self._parallel else len(turns)
                turn_of[name] = turn
                turns += [[] for _ in range(turn + 1 - len(turns))]
                turns[turn].append(call)
            world = scenario if isinstance(scenario, World) else None
            asked = questions(world) if world is not None else []
            said = "I call what can be called now."
            self._plans[scenario.id] = [
                *(Action("", (), text) for text in asked),
                *(Action(said, tuple(calls)) for calls in turns),
                *(Action("", (), text) for text in _endings(scenario)),
            ]
        return self._plans[scenario.id]

    def describe(self) -> dict[str, Any]:
        """Its name and file."""
        return {"policy": "scenario-oracle", "tasks": self._tasks, "parallel": self._parallel}


def _endings(scenario: Scenario | World) -> tuple[str, ...]:
    return _ENDING if isinstance(scenario, World) else scenario.answers[:1]


def _calls(scenario: Scenario | World) -> Iterator[tuple[str, Iterable[str], ToolCall]]:
    """Name, needs and call of each step, with its arguments filled in."""
    if isinstance(scenario, World):
        filled = play(scenario).arguments
        for step in scenario.plan:
            call = ToolCall(f"call_{step.id}", step.tool, filled[step.id])
            yield step.id, step.needs, call
        return
    references = run_references(scenario)
    for item, made in zip(scenario.sub_questions, scenario.calls, strict=True):
        call = ToolCall(f"call_{item.id}", made.tool, references[item.id].arguments)
        yield item.id, item.needs, call


def _own_scenarios(tasks: Any) -> list[Scenario | World]:
    named = isinstance(tasks, str | Path)
    file = scenario_file(tasks) if named else None
    numbered = read_scenarios(file) if file is not None else enumerate(given_scenarios(tasks))
    place = f"scenario file {str(file)!r}, line" if named else "scenario"
    found: list[Scenario | World] = []
    for number, scenario in numbered:
        try:
            own = to_own(scenario) if isinstance(scenario, PublicScenario) else scenario
        except BadInputError as error:
            raise BadInputError(f"{place} {number}: {error}") from error
        found.append(own)
    return found


class RandomCallPolicy(Policy):
    """Calls a random tool with arguments drawn from question and document, then gives up.

    Args:
        turns: calls before it answers ``unknown``.
    """

    batched: ClassVar[bool] = True

    def __init__(self, turns: int = 4) -> None:
        if isinstance(turns, bool) or not isinstance(turns, int) or turns < 0:
            raise BadInputError(f"turns must be a whole number of at least 0, not {turns!r}")
        self._turns = turns

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """One call each, drawn by the request's seed."""
        return [Reply(self._one(request)) for request in requests]

    def _one(self, request: Request) -> str:
        if request.turn >= self._turns or not request.tools:
            return request.format.write(Action("", (), UNKNOWN), request.tools)
        rng = random.Random(request.seed)
        tool = rng.choice(request.tools)["function"]
        guesses = plausible(tool, (), entities(question_of(request)))
        arguments = rng.choice(guesses).arguments if guesses else {}
        call = ToolCall("call_0", tool["name"], arguments)
        return request.format.write(Action("I try something.", (call,)), request.tools)

    def describe(self) -> dict[str, Any]:
        """Its name and number of turns."""
        return {"policy": "scenario-random", "turns": self._turns}


class NoCallPolicy(Policy):
    """Never calls anything: answers with the last thing that the question names."""

    batched: ClassVar[bool] = True

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """An answer each."""
        return [Reply(self._one(request)) for request in requests]

    def _one(self, request: Request) -> str:
        named = entities(question_of(request)) or [UNKNOWN]
        return request.format.write(Action("", (), named[-1]), request.tools)

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"policy": "scenario-no-call"}


class SpamPolicy(Policy):
    """Calls every tool with everything that it can think of, in each turn; never answers well.

    Ids that it has read, such as ``O-4711``, are among what it thinks of, the latest ones first.

    Args:
        turns: with calls, before it answers ``unknown``.
        calls: at most so many in a turn.
    """

    batched: ClassVar[bool] = True

    def __init__(self, turns: int = 2, calls: int = 32) -> None:
        for name, value in (("turns", turns), ("calls", calls)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadInputError(f"{name} must be a whole number of at least 1, not {value!r}")
        self._turns, self._calls = turns, calls

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Many calls each."""
        return [Reply(self._one(request)) for request in requests]

    def _one(self, request: Request) -> str:
        if request.turn >= self._turns or not request.tools:
            return request.format.write(Action("", (), UNKNOWN), request.tools)
        told = "\n".join(text for _, text in past_results(request))
        ids = list(dict.fromkeys(_ID.findall(told)))
        named = [*reversed(ids), *entities(question_of(request))]
        functions = [tool["function"] for tool in request.tools]
        guesses = [[(f["name"], p) for p in plausible(f, (), named)] for f in functions]
        by_turns = [call for row in itertools.zip_longest(*guesses) for call in row if call]
        chosen = by_turns[: self._calls]
        action = Action(
            "I call everything.",
            tuple(ToolCall(f"call_{n}", name, p.arguments) for n, (name, p) in enumerate(chosen)),
        )
        return request.format.write(action, request.tools)

    def describe(self) -> dict[str, Any]:
        """Its name and numbers."""
        return {"policy": "scenario-spam", "turns": self._turns, "calls": self._calls}
