"""The checks: every registered name passes, and each kind of mistake is caught by name."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest

import toolgym
from toolgym.checks import check_env, check_format, check_reward, check_tool
from toolgym.env import ToolEnv
from toolgym.episodes.episode import Episode
from toolgym.errors import CheckError, ToolError
from toolgym.formats import Action
from toolgym.formats.react import ReactFormat
from toolgym.registry import ENVIRONMENTS, FORMATS, PROMPTS, REWARDS, TOOLS
from toolgym.task import Task
from toolgym.tools.base import Tool
from toolgym.tools.toolset import make_toolset
from toolgym.trajectory import Trajectory

IDS = list(ENVIRONMENTS)
EXAMPLES = {
    "Calculator": {"expression": "6*7"},
    "WikipediaSearch": {"query": "Marie Curie"},
    "MachineTranslator": {"text": "¿En qué océano desemboca el río Amazonas?"},
}


@pytest.mark.parametrize("name", list(TOOLS))
def test_every_tool(name: str) -> None:
    (tool,) = make_toolset([name])
    example = EXAMPLES.get(name)
    if example is not None:
        example = dict(zip(tool.parameters["properties"], example.values(), strict=False))
    check_tool(tool, example)


@pytest.mark.parametrize("name", list(REWARDS))
def test_every_reward(name: str) -> None:
    # how a task's sub-questions fared stands in the tool results
    check_reward(name, answer_only=not name.startswith("solve_"))


@pytest.mark.parametrize(("name", "prompt"), [*itertools.product(FORMATS, PROMPTS)])
def test_every_format(name: str, prompt: str) -> None:
    # the published parser of the paper takes no brackets and one text only
    check_format(name, prompt=prompt, hard=not name.endswith("-paper"))


@pytest.mark.parametrize(("env_id", "format"), [*itertools.product(IDS, FORMATS)])
def test_every_environment(env_id: str, format: str) -> None:
    check_env(gym.make(env_id, format=format).unwrapped)


def test_the_environments_are_registered() -> None:
    assert {"ToolQA-PopQA-v0", "ToolQA-TriviaQA-v0", "ToolQA-GSM8K-v0", "ToolQA-NQOpen-v0"} <= set(
        IDS
    )


def early(task: Task, trajectory: Trajectory) -> list[float]:
    return [float(trajectory.answer is not None)] * len(trajectory.steps)


def last_only(task: Task, trajectory: Trajectory) -> list[float]:
    return [1.0]


def nan(task: Task, trajectory: Trajectory) -> list[float]:
    return [float("nan")] * len(trajectory.steps)


def results(task: Task, trajectory: Trajectory) -> list[float]:
    return [float(any(task.target in r.content for r in s.results)) for s in trajectory.steps]


def history(task: Task, trajectory: Trajectory) -> list[float]:
    seen = [m.content for m in trajectory.messages if m.role == "user"]
    values = [0.0] * len(trajectory.steps)
    if values and len(seen) > 1:
        values[0] = float(task.target in seen[1])
    return values


def writes(task: Task, trajectory: Trajectory) -> list[float]:
    trajectory.metrics["seen"] = 1.0
    return [0.0] * len(trajectory.steps)


def chance(task: Task, trajectory: Trajectory) -> list[float]:
    return [random.random() for _ in trajectory.steps]


def crashes(task: Task, trajectory: Trajectory) -> list[float]:
    return [1 / len(step.calls) for step in trajectory.steps]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (early, "depends on the future"),
        (last_only, "returned 1 values for 0 steps"),
        (nan, "not finite"),
        (results, "reads tool results"),
        (history, "reads tool results"),
        (writes, "changed the record"),
        (chance, "deterministic"),
        (crashes, "raised ZeroDivisionError"),
    ],
)
def test_each_mistake_in_a_reward_is_named(
    function: Callable[[Task, Trajectory], list[float]], message: str
) -> None:
    with pytest.raises(CheckError, match=message):
        check_reward(function, answer_only=True)


def test_a_reward_may_read_results_when_it_does_not_claim_otherwise() -> None:
    check_reward(results)


def test_a_good_tool_passes() -> None:
    @toolgym.tool(inline=True)
    def double(number: int, times: int = 1) -> int:
        """Double a number.

        Args:
            number: which.
            times: how often.
        """
        if not 0 <= times < 50:
            raise ToolError("times must be from 0 to 49")
        return number * 2**times

    check_tool(double, {"number": 4})


def test_each_mistake_in_a_tool_is_named() -> None:
    counter = itertools.count()

    def clock(text: str) -> int:
        """Count."""
        return next(counter)

    def fails(text: str) -> str:
        """Fail."""
        raise KeyError(text)

    def refuses(text: str) -> str:
        """Refuse."""
        raise ToolError("never")

    def batch(arguments: list[dict[str, Any]]) -> list[str]:
        return ["other"] * len(arguments)

    def echo(text: str) -> str:
        """Echo."""
        return text

    example = {"text": "x"}
    with pytest.raises(CheckError, match="two results"):
        check_tool(Tool(clock, inline=True), example)
    with pytest.raises(CheckError, match="has a bug"):
        check_tool(Tool(fails, inline=True), example)
    with pytest.raises(CheckError, match="fails on its example"):
        check_tool(Tool(refuses, inline=True), example)
    with pytest.raises(CheckError, match="in a batch"):
        check_tool(Tool(echo, inline=True, batch=batch), example)
    with pytest.raises(CheckError, match="64 at most"):
        check_tool(Tool(echo, inline=True, name="my.tool"), example)
    with pytest.raises(CheckError, match="decorate the function"):
        check_tool(echo)  # type: ignore[arg-type]


class Forgetful(ReactFormat):
    """Loses the second call."""

    def parse(self, text: str, tools: Any = ()) -> Action:
        action = super().parse(text, tools)
        return Action(action.thought, action.calls[:1], action.answer, action.problems)


class Silent(ReactFormat):
    """Says nothing about what it cannot read."""

    def parse(self, text: str, tools: Any = ()) -> Action:
        action = super().parse(text, tools)
        return Action(action.thought, action.calls, action.answer)


class Raising(ReactFormat):
    """Raises on NUL."""

    def parse(self, text: str, tools: Any = ()) -> Action:
        if "\x00" in text:
            raise ValueError("NUL")
        return super().parse(text, tools)


@pytest.mark.parametrize(
    ("codec", "message"),
    [(Forgetful, "and read"), (Silent, "without a word"), (Raising, "raised ValueError")],
)
def test_each_mistake_in_a_format_is_named(
    codec: type[ReactFormat], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS._entries, "mine", codec)
    with pytest.raises(CheckError, match=message):
        check_format("mine")


@pytest.fixture
def env() -> ToolEnv:
    made = gym.make("ToolQA-GSM8K-v0", tools=["Calculator"]).unwrapped
    assert isinstance(made, ToolEnv)
    return made


def test_an_environment_that_never_ends_is_caught(
    env: ToolEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToolEnv, "ended", property(lambda self: False))
    with pytest.raises((CheckError, toolgym.errors.EpisodeEndedError)):
        check_env(env)


def test_an_environment_with_a_clock_in_its_info_is_caught(
    env: ToolEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks, plain = itertools.count(), Episode.info
    monkeypatch.setattr(Episode, "info", lambda self: plain(self) | {"time": next(ticks)})
    with pytest.raises(AssertionError):
        check_env(env)


def test_an_environment_with_an_object_in_its_info_is_caught(
    env: ToolEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Episode.info
    monkeypatch.setattr(Episode, "info", lambda self: plain(self) | {"tool": {"a set"}})
    with pytest.raises(CheckError, match="not plain JSON"):
        check_env(env)


def test_other_environments_are_not_ours_to_check() -> None:
    with pytest.raises(CheckError, match="is not a ToolEnv"):
        check_env(gym.make("CartPole-v1"))
