"""System text, descriptions and budgets, in every environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from toolgym import Message, Policy, rollout
from toolgym.cli import app
from toolgym.episodes.limits import Limits, estimated_tokens, with_system
from toolgym.errors import ToolgymError
from toolgym.policies.base import Reply, Request
from toolgym.rewards.solve import calls
from toolgym.task import Task
from toolgym.trajectory import Problem, Step, Trajectory

ENV = "ToolQA-GSM8K-v0"
CALL = "Thought: t\nAction: Calculator[{}+1]"


def saying(*replies: str) -> Any:
    return lambda messages, tools: replies[
        min(sum(m["role"] == "assistant" for m in messages), len(replies) - 1)
    ]


def play(policy: Any, env: str = ENV, **args: Any) -> Trajectory:
    (trajectory,) = rollout(env, policy, env_args=args, episodes=1)
    return trajectory


@pytest.mark.parametrize("env", [ENV, "ToolScenario-v0", "ToolBFCL-v0"])
def test_every_environment_takes_them(env: str) -> None:
    plain = gym.make(env).unwrapped
    plain.reset(seed=0)
    name = plain.trajectory.tools[0]["function"]["name"]  # type: ignore[attr-defined]
    made = gym.make(
        env, system="You are terse.", descriptions={name: "Does it."}, max_calls=1, max_tokens=9
    )
    _, info = made.reset(seed=0)
    assert info["messages"][0]["content"].startswith("You are terse.\n\n")
    assert "At most 1 tool calls can be made in all. At most 9 tokens" in str(info["messages"])
    (told,) = [t["function"] for t in info["tools"] if t["function"]["name"] == name]
    assert told["description"] == "Does it."
    assert "Does it." in info["messages"][0]["content"]
    assert made.unwrapped.trajectory.tools == info["tools"]  # type: ignore[attr-defined]
    with pytest.raises(ToolgymError, match=f"did you mean '{name}'"):
        gym.make(env, descriptions={name + "x": "Does it."})


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"max_call": 2}, "did you mean 'max_calls'"),
        ({"sytem": "x"}, "did you mean 'system'"),
        ({"description": {}}, "did you mean 'descriptions'"),
        ({"max_calls": 0}, "max_calls is a whole number of at least 1"),
        ({"max_tokens": True}, "max_tokens is a whole number"),
        ({"descriptions": {"Calculator": ""}}, "descriptions are texts"),
        ({"descriptions": "x"}, "descriptions are texts"),
        ({"system": ["x"]}, "system is a string or None"),
    ],
)
def test_what_is_no_limit(args: dict[str, Any], said: str) -> None:
    with pytest.raises(ToolgymError, match=said) as caught:
        play(saying("Answer: 1"), **args)
    assert "\n" not in str(caught.value)


def test_where_the_system_text_stands() -> None:
    asked = [Message("user", "Q?")]
    told = [Message("system", "Do it."), *asked]
    assert with_system(told, "A.", "N.")[0].content == "A.\n\nDo it.\nN."
    assert with_system(told, "A. {instructions} B.", "")[0].content == "A. Do it. B."
    assert with_system(told, None, "") == told
    assert with_system(asked, None, "N.") == asked
    assert with_system(asked, "A.", "N.") == [Message("system", "A."), *asked]
    trajectory = play(saying("Answer: 1"), prompt="bare", system="A {b} c.")
    assert trajectory.messages[0] == Message("system", "A {b} c.")


def test_calls_beyond_the_budget_are_not_made() -> None:
    three = "Thought: t\n" + "\n".join(f"Action: Calculator[{n}+1]" for n in range(3))
    trajectory = play(saying(three, CALL.format(8), "Answer: 1"), max_calls=2)
    errors = [result.error for _, result in trajectory.calls]
    assert errors == [None, None, "over_budget", "over_budget"]
    assert "budget of 2 tool calls is used up; answer now" in trajectory.steps[1].observation
    assert trajectory.terminated
    assert trajectory.answer == "1"


class Counting(Policy):
    """Says how many tokens its replies have."""

    def __init__(self, *counts: int, answer: bool = False) -> None:
        self.counts, self.answer, self.left = counts, answer, list[int | None]()

    def act(self, requests: Any) -> list[Reply | Exception]:
        return [self.one(request) for request in requests]

    def one(self, request: Request) -> Reply:
        self.left.append(request.tokens_left)
        text = "Answer: 1" if self.answer else CALL.format(request.turn)
        return Reply(text, count=self.counts[request.turn])

    def describe(self) -> dict[str, Any]:
        return {"policy": "counting"}


def test_the_policys_own_count_counts() -> None:
    policy = Counting(4, 6)
    trajectory = play(policy, max_tokens=10)
    assert policy.left == [10, 6]
    assert (trajectory.truncated, trajectory.terminated) == (True, False)
    assert trajectory.metrics == {"tokens_written": 10.0}
    assert [result.error for _, result in trajectory.calls] == [None, None]
    assert not any(step.problems for step in trajectory.steps)


def test_what_is_written_beyond_the_budget_does_not_count() -> None:
    trajectory = play(Counting(11, answer=True), max_tokens=10)
    assert trajectory.answer is None
    assert trajectory.truncated
    assert [problem.kind for problem in trajectory.steps[-1].problems] == ["token_budget"]
    trajectory = play(Counting(11), max_tokens=10)
    assert [result.error for _, result in trajectory.calls] == ["over_budget"]
    assert play(Counting(10, answer=True), max_tokens=10).answer == "1"


def test_a_count_that_nobody_says_is_an_estimate_and_recorded_as_one() -> None:
    trajectory = play(saying(CALL.format(1), "Answer: 1"), max_tokens=1000)
    tokens = sum(estimated_tokens(step.action) for step in trajectory.steps)
    assert trajectory.metrics == {"tokens_written": tokens, "tokens_estimated": tokens}
    assert play(saying("Answer: 1")).metrics == {}


@given(st.text())
def test_estimates(text: str) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    assert (estimated_tokens(text) - 1) * 4 < size <= estimated_tokens(text) * 4


def test_a_run_says_them_and_a_branch_keeps_them(tmp_path: Path) -> None:
    words = CliRunner().invoke(
        app,
        [
            *("rollout", ENV, "--policy", "scripted", "--policy-arg", 'replies=["Answer: 1"]'),
            *("--system", f"@{tmp_path / 's.txt'}", "--max-calls", "2", "--max-tokens", "50"),
            *("--description", "Calculator=Adds = subtracts.", "--tool", "Calculator"),
            *("--episodes", "1", "--out", str(tmp_path / "run")),
        ],
    )
    assert words.exit_code == 2, words.output
    (tmp_path / "s.txt").write_text("Be terse.\n", encoding="utf-8")
    env = gym.make(
        ENV,
        tools=["Calculator"],
        system="Be terse.",
        max_calls=1,
        descriptions={"Calculator": "Adds."},
    )
    run = rollout(env, saying("Answer: 1"), episodes=1)
    told = run.settings["env"]["instance"]
    assert (told["system"], told["max_calls"]) == ("Be terse.", 1)
    assert told["descriptions"] == {"Calculator": "Adds."}
    env.reset(seed=0)
    env.step(CALL.format(1))
    saved = env.unwrapped.snapshot()  # type: ignore[attr-defined]
    for _ in range(2):
        env.unwrapped.restore(saved)  # type: ignore[attr-defined]
        assert env.step(CALL.format(2))[4]["tool_errors"] == ["over_budget"]


def test_the_command_line_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("Be terse.\n", encoding="utf-8")
    out = CliRunner().invoke(
        app,
        [
            *("rollout", ENV, "--policy", "scripted", "--policy-arg", 'replies=["Answer: 1"]'),
            *("--system", f"@{tmp_path / 's.txt'}", "--max-calls", "2", "--max-tokens", "50"),
            *("--description", "Calculator=Adds = subtracts.", "--tool", "Calculator"),
            *("--episodes", "1", "--out", str(tmp_path / "run")),
        ],
    )
    assert out.exit_code == 0, out.output
    args = json.loads((tmp_path / "run/run.json").read_text())["env"]["args"]
    assert args == {
        "tools": ["Calculator"],
        "system": "Be terse.",
        "max_calls": 2,
        "max_tokens": 50,
        "descriptions": {"Calculator": "Adds = subtracts."},
    }


def test_what_calls_cost() -> None:
    trajectory = play(saying(CALL.format(1), CALL.format(2), "Answer: 1"))
    assert calls(trajectory.task, trajectory) == [-1.0, -1.0, 0.0]
    assert calls(trajectory.task, trajectory, free=1) == [0.0, -1.0, 0.0]
    step = Step("a", problems=(Problem("bad_json", "m"),))
    broken = Trajectory(Task("t", "q", ("x",)), steps=[step])
    assert calls(broken.task, broken) == [-1.0]
    for wrong in (-1, True, 0.5):
        with pytest.raises(ToolgymError, match="free is a whole number"):
            calls(broken.task, broken, free=wrong)  # type: ignore[arg-type]


def test_limits_say_only_what_there_is() -> None:
    assert Limits().describe() == {}
    assert Limits().told(True) == ""
    assert Limits(max_calls=3).told(False) == ""
