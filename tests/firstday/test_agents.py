"""Agents with loops of their own, and logs of other frameworks."""

from __future__ import annotations

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from toolgym import Message, Run, ToolCall, rollout
from toolgym.cli import app
from toolgym.data.logs import _Totals, write_inspect_log, write_lm_eval_log
from toolgym.errors import BadInputError, EpisodeEndedError, ToolgymError
from toolgym.policies.agents import AgentPolicy

ENV = "ToolQA-GSM8K-v0"
TASKS = [
    {"id": name, "question": f"What is {n} times 7?", "answers": [str(7 * n)]}
    for n, name in enumerate("abcdef", 2)
]


def played(agent: Any, episodes: int = 1, timeout: float = 20.0, **args: Any) -> Run:
    env_args = {"tasks": TASKS, "tools": ["Calculator"], "format": "native", **args}
    policy = AgentPolicy(agent, timeout=timeout)
    return rollout(ENV, policy, env_args=env_args, episodes=episodes)


def multiplies(question: str, tools: list[Any]) -> str:
    number = question.split()[2]
    return str(tools[0](expression=f"{number}*7"))


async def multiplies_later(question: str, tools: list[Any]) -> str:
    return multiplies(question, tools)


@pytest.mark.parametrize("agent", [multiplies, multiplies_later])
@pytest.mark.parametrize("format", ["native", "react"])
def test_agents_play_many_episodes_at_once(agent: Any, format: str) -> None:
    run = played(agent, episodes=6, format=format)
    assert [trajectory.reward for trajectory in run] == [1.0] * 6
    assert {len(trajectory.steps) for trajectory in run} == {2}
    assert run.settings["policy"] == {"policy": "agent", "name": agent.__qualname__}


def test_what_an_agent_is_told() -> None:
    told: list[Any] = []

    def agent(question: str, tools: list[Any]) -> Any:
        (tool,) = tools
        told.extend([question, tool.name, sorted(tool.parameters["properties"])])
        told.append(tool.call(expression="1/0"))
        told.append(tool(expresion="1"))
        return 14

    (trajectory,) = played(agent)
    assert told[:3] == [trajectory.task.question, "Calculator", ["expression"]]
    assert [result.error for _, result in trajectory.calls] == ["tool_error", "invalid_arguments"]
    assert told[3:] == [result.seen for _, result in trajectory.calls]
    assert trajectory.answer == "14"


def test_calls_of_several_threads_are_turns_one_after_the_other() -> None:
    def agent(question: str, tools: list[Any]) -> str:
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(lambda n: tools[0](expression=f"{n}+1"), range(4))
            return " ".join(found)

    (trajectory,) = played(agent)
    assert [len(step.calls) for step in trajectory.steps] == [1, 1, 1, 1, 0]
    assert trajectory.answer == "1 2 3 4"


def test_the_end_of_the_episode_is_told_and_nothing_goes_on() -> None:
    ended = threading.Event()

    def agent(question: str, tools: list[Any]) -> str:
        while True:
            try:
                tools[0](expression="1+1")
            except EpisodeEndedError:
                ended.set()
                raise

    (trajectory,) = played(agent, max_steps=3)
    assert (trajectory.truncated, len(trajectory.steps)) == (True, 3)
    assert ended.wait(20)


def test_failures_of_agents_are_failures_of_the_policy() -> None:
    def raises(question: str, tools: list[Any]) -> str:
        raise KeyError("x")

    stuck = threading.Event()
    for agent, kind in ((raises, "KeyError"), (lambda q, t: stuck.wait(20), "PolicyError")):
        run = played(agent, timeout=0.3)
        (row,) = run.failures()
        assert (row["boundary"], row["kind"]) == ("policy", kind)
    stuck.set()
    for wrong in (lambda question: "x", len):
        with pytest.raises(BadInputError, match="an agent is a function of question and tools"):
            AgentPolicy(wrong)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="timeout"):
        AgentPolicy(multiplies, timeout=0)


def called(messages: Any, tools: Any) -> Any:
    if messages[-1]["role"] == "tool":
        return "Answer: 14"
    return Message("assistant", "I see.", (ToolCall("x", "Calculator", {"expression": "2*7"}),))


def test_logs_say_what_the_run_says(tmp_path: Path) -> None:
    args = {"tasks": TASKS[:2], "tools": ["Calculator"], "format": "native"}
    run = rollout(ENV, called, env_args=args, samples_per_task=2, out=tmp_path / "run")
    out = CliRunner().invoke(
        app, ["export", "inspect", str(run.path), "--out", str(tmp_path / "log.json")]
    )
    assert out.exit_code == 0, out.output
    log = json.loads((tmp_path / "log.json").read_text(encoding="utf-8"))
    assert list(log) == ["version", "status", "eval", "plan", "results", "stats", "samples"]
    means = {s["name"]: s["metrics"]["mean"]["value"] for s in log["results"]["scores"]}
    assert means == {"reward": 0.5, "accuracy": 0.5, "exact_match": 0.5}
    assert [(s["id"], s["epoch"]) for s in log["samples"]] == [
        (t.task.id, t.sample + 1) for t in run
    ]
    sample = log["samples"][0]
    call = {"expression": "2*7"}
    assert sample["messages"][2]["tool_calls"][0]["arguments"] == call
    assert sample["messages"][3]["tool_call_id"] == sample["messages"][2]["tool_calls"][0]["id"]
    out = CliRunner().invoke(
        app,
        ["export", "lm-eval", str(run.path), "--out", str(tmp_path), "--where", "accuracy>=1"],
    )
    assert out.exit_code == 0, out.output
    (results,) = tmp_path.glob("*/results_*.json")
    told = json.loads(results.read_text(encoding="utf-8"))
    assert told["results"][ENV]["accuracy,none"] == 1.0
    assert told["n-samples"][ENV] == {"original": 2, "effective": 2}
    (samples,) = tmp_path.glob("*/samples_*.jsonl")
    assert len(samples.read_text(encoding="utf-8").splitlines()) == 2


def test_what_is_no_log(tmp_path: Path) -> None:
    run = rollout(ENV, called, env_args={"tasks": TASKS[:1], "format": "native"})
    with pytest.raises(BadInputError, match=r"\.json"):
        write_inspect_log(run, tmp_path / "log.eval")
    for write in (write_inspect_log, write_lm_eval_log):
        with pytest.raises(ToolgymError, match="no episode"):
            write(run, tmp_path / "x.json", where="reward>5")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.5, 1.0])), min_size=1))
def test_errors_know_which_episodes_share_a_task(values: list[tuple[str, float]]) -> None:
    totals = _Totals()
    for task, value in values:
        totals.add(task, {"x": value})
    mean, error = totals.means()["x"]
    plain = [value for _, value in values]
    assert mean == pytest.approx(sum(plain) / len(plain))
    groups = {task: [v for t, v in values if t == task] for task, _ in values}
    if len(groups) == 1:
        assert math.isnan(error)
    elif len(groups) == len(values):  # one episode a task: the ordinary standard error
        spread = sum((v - mean) ** 2 for v in plain) / (len(plain) - 1)
        assert error == pytest.approx(math.sqrt(spread / len(plain)))
