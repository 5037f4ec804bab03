"""The jobs of a first day, each in the few lines that a newcomer would write."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import openai
import pytest
from chat_service import ChatService
from typer.testing import CliRunner

import toolgym
from toolgym import Run, evaluate, rollout, select, tool
from toolgym.cli import app

ENV = "ToolQA-GSM8K-v0"
TASKS = [
    {"id": "tea", "question": "What do 2 tea cost?", "answers": ["6"]},
    {"id": "lamp", "question": "What does 1 lamp cost?", "answers": ["20"]},
]
RIGHT = {"What do 2 tea cost?": "6", "What does 1 lamp cost?": "20"}
PLAIN = Path(__file__).parent.parent / "helpers" / "mcp_plain.py"


def asked(messages: list[dict[str, Any]]) -> str:
    question = next(m["content"] for m in reversed(messages) if m["role"] == "user")
    return str(question).removeprefix("Question: ")


def answers(messages: list[dict[str, Any]], tools: Any) -> str:
    return f"Answer: {RIGHT[asked(messages)]}"


def scripted(*replies: Any) -> Any:
    def policy(messages: list[dict[str, Any]], tools: Any) -> Any:
        return replies[min(sum(m["role"] == "assistant" for m in messages), len(replies) - 1)]

    return policy


def call(name: str, **arguments: Any) -> str:
    written = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{written}\n</tool_call>"


def one(policy: Any, **env_args: Any) -> toolgym.Trajectory:
    args = {"tasks": TASKS[:1], "format": "hermes", "tools": ["Calculator"], **env_args}
    (trajectory,) = rollout(ENV, policy, env_args=args)
    return trajectory


def test_own_tasks_from_a_list() -> None:
    run = rollout(ENV, answers, env_args={"tasks": TASKS, "tools": []})
    assert {t.task.id: t.reward for t in run} == {"tea": 1.0, "lamp": 1.0}


class Cart(toolgym.ToolSession):
    """A cart that remembers."""

    def __init__(self, task: toolgym.Task) -> None:
        self.goods: list[str] = []

    @tool
    def add(self, item: str) -> str:
        """Put something into the cart.

        Args:
            item: such as tea.
        """
        self.goods.append(item)
        return f"{len(self.goods)} in the cart"


def test_a_tool_with_a_state() -> None:
    policy = scripted(call("add", item="tea"), call("add", item="lamp"), "Answer: 6")
    trajectory = one(policy, tools=[Cart])
    assert [result.content for _, result in trajectory.calls] == ["1 in the cart", "2 in the cart"]
    assert trajectory.state == {"goods": ["tea", "lamp"]}


def test_a_system_prompt() -> None:
    trajectory = one(scripted("Answer: 6"), system="You sell tea.", prompt="bare")
    assert trajectory.messages[0] == toolgym.Message("system", "You sell tea.")


def test_few_shot() -> None:
    shown = {
        "question": "What do 3 tea cost?",
        "turns": [
            {"calls": [{"name": "Calculator", "arguments": {"expression": "3*3"}, "result": "9"}]},
            {"answer": "9"},
        ],
    }
    trajectory = one(scripted("Answer: 6"), examples=[shown])
    assert [m.role for m in trajectory.messages[:5]] == [
        *("system", "user", "assistant", "user", "assistant")
    ]


def test_an_openai_client() -> None:
    with ChatService() as service:
        client = openai.OpenAI(base_url=f"{service.root}/v1", api_key="k")
        args = {"tasks": [{"question": "6*7?", "answers": ["42"]}], "format": "native"}
        (trajectory,) = rollout(ENV, client, env_args=args, policy_args={"model": "m"})
    assert trajectory.reward == 1.0


def test_a_langchain_message() -> None:
    made = {"name": "Calculator", "args": {"expression": "2*3"}, "id": "1", "type": "tool_call"}
    first = SimpleNamespace(content="", type="ai", tool_calls=[made], invalid_tool_calls=[])
    last = SimpleNamespace(content="6", type="ai", tool_calls=[], invalid_tool_calls=[])
    trajectory = one(scripted(first, last), format="native")
    assert (trajectory.answer, [r.content for _, r in trajectory.calls]) == ("6", ["6"])


def test_an_mcp_server() -> None:
    policy = scripted(call("keep", key="tea"), "Answer: 6")
    trajectory = one(policy, tools=[f"mcp:{sys.executable} {PLAIN}"])
    assert [(r.content, r.error) for _, r in trajectory.calls] == [("tea", None)]


def test_any_stack_of_wrappers() -> None:
    inner = gym.make(ENV, tasks=TASKS, tools=[])
    halved = gym.wrappers.TransformReward(
        gym.wrappers.RecordEpisodeStatistics(inner), lambda reward: reward / 2
    )
    run = rollout(halved, answers)
    assert [trajectory.reward for trajectory in run] == [0.5, 0.5]
    assert len(run.settings["env"]["wrappers"]) == 2


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One episode that is right, and one that is wrong after a tool failed."""

    def policy(messages: Any, tools: Any) -> str:
        if "tea" in asked(messages) and len(messages) == 2:
            return call("Calculator", expression="1/0")
        return "Answer: 20"

    args = {"tasks": TASKS, "format": "hermes", "tools": ["Calculator"]}
    return rollout(ENV, policy, env_args=args, out=tmp_path_factory.mktemp("run") / "mixed")


def test_the_wrong_ones_with_tool_errors(mixed: Run) -> None:
    where = "accuracy<1 and tool_errors>=1"
    shown = CliRunner().invoke(app, ["view", str(mixed.path), "--where", where])
    assert shown.exit_code == 0, shown.output
    assert "tea#0" in shown.output
    assert "lamp#0" not in shown.output
    chosen = select(mixed, where=where)
    assert [trajectory.task.id for trajectory in chosen.trajectories()] == ["tea"]


def test_a_cost_of_calls() -> None:
    policy = scripted(call("Calculator", expression="2*3"), "Answer: 6")
    assert one(policy, reward={"accuracy": 1.0, "calls": 0.1}).reward == pytest.approx(0.9)


def test_a_budget_of_calls() -> None:
    again = call("Calculator", expression="2*3")
    trajectory = one(scripted(again, again, "Answer: 6"), max_calls=1)
    assert [result.error for _, result in trajectory.calls] == [None, "over_budget"]


def test_another_description_of_a_tool() -> None:
    trajectory = one(scripted("Answer: 6"), descriptions={"Calculator": "Adds up prices."})
    assert trajectory.tools[0]["function"]["description"] == "Adds up prices."


def test_figures_for_a_tracker(mixed: Run) -> None:
    figures = {row.name: row.value for row in evaluate(mixed).rows if row.value is not None}
    assert figures["accuracy"] == 0.5
    assert all(isinstance(value, float) for value in figures.values())
