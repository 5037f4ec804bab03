"""Hostile values from policies, tools, rewards, tasks and codecs: they fail their own episode."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym import Rubric, Run, Task, TaskSet, ToolEnv, Toolset, rollout
from toolgym._util.hashes import value_hash
from toolgym._util.jsonl import exact_line, not_json, read_rows
from toolgym.errors import BadInputError, PolicyError
from toolgym.formats import Action, get_format
from toolgym.formats.hermes import HermesFormat
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.policies.base import Policy, Reply, ReplyTokens, Request
from toolgym.tools.toolset import Tool
from toolgym.trajectory import Documents, Trajectory

ID = "Poison-v0"
COUNT = 6


class UnprintableError(Exception):
    """An exception whose text cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Opaque:
    """No JSON value."""

    def __repr__(self) -> str:
        return "Opaque()"  # names of tests are the same in every process


class _Circle(list[Any]):
    def __init__(self) -> None:
        super().__init__([self])


HOSTILE: dict[str, Any] = {
    "nan": float("nan"),
    "infinity": [float("-inf")],
    "huge int": 10**5000,
    "integer keys": {1: "a"},
    "mixed keys": {1: "a", "b": 2},
    "tuple keys": {(1, 2): "a"},
    "object": Opaque(),
    "bytes": b"\xff",
    "set": {1, 2},
    "circle": _Circle(),
    "halves of a character": "\ud83d\ude00",
    "complex": 1j,
}


def rubric_of_ones(task: Task, trajectory: Trajectory) -> list[float]:
    return [1.0] * len(trajectory.steps)


def _echo(text: str = "") -> Any:
    """Say it again.

    Args:
        text: what.
    """
    return text


class World:
    """What the environment is made of; a test puts poison in."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}
        self.task_fields: dict[str, Any] = {}
        self.reward: Callable[..., Any] = rubric_of_ones
        self.toolset = Toolset([Tool(_echo, name="echo", inline=True)])
        self.codec: Any = get_format("hermes")

    def make(self, **kwargs: Any) -> ToolEnv:
        tasks = [Task(f"t{n}", f"Q{n}?", (str(n),)) for n in range(COUNT)]
        wrong = {"question": "Q2?", "answers": ("2",), "metadata": self.metadata}
        tasks[2] = Task("t2", **(wrong | self.task_fields))
        return ToolEnv(
            TaskSet(tasks, source="poison"), self.toolset, self.codec, Rubric({"r": self.reward})
        )


@pytest.fixture
def world() -> Any:
    made = World()
    gym.register(ID, entry_point=made.make, disable_env_checker=True)
    yield made
    del gym.registry[ID]


def script(messages: Any, tools: Any) -> Any:
    turn = sum(message["role"] == "assistant" for message in messages)
    call = {"id": "a", "name": "echo", "arguments": {"text": "x"}}
    return {"tool_calls": [call]} if turn == 0 else "Answer: 1"


def check(run: Run, out: Path, failed: Sequence[str], boundary: str) -> None:
    """All others were recorded, and the files hold strict JSON that reads back."""
    assert sorted({row["id"] for row in run.failures()}) == list(failed)
    assert {row["boundary"] for row in run.failures()} == ({boundary} if failed else set())
    assert sorted(t.id for t in run) == sorted({f"t{n}#0" for n in range(COUNT)} - set(failed))
    for line in (out / "trajectories.jsonl").read_bytes().splitlines():
        row = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in the record"))
        again = Trajectory.from_row(row | {"tools": Documents(out).find(row["tools"])})
        assert json.loads(again.to_line(row["tools"])) == row


def play(out: Path, policy: Any = script, **kwargs: Any) -> Run:
    return rollout(ID, policy, out=out, seed=1, **kwargs)


class Batched(Policy):
    """A policy whose `act` a test writes."""

    batched = True

    def __init__(self, act: Callable[[Request], Any], whole: bool = False) -> None:
        self._act, self._whole = act, whole

    def act(self, requests: Sequence[Request]) -> Any:
        if self._whole:
            return self._act(requests[0])
        return [self._act(request) for request in requests]

    def describe(self) -> dict[str, Any]:
        return {"policy": "batched"}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("batched", [False, True])
def test_metadata_of_a_task(name: str, batched: bool, world: World, tmp_path: Path) -> None:
    world.metadata = {"column": HOSTILE[name]}
    policy = Batched(lambda request: Reply("Answer: 1")) if batched else script
    for _ in range(2):  # the second time it is resumed
        run = play(tmp_path / "run", policy)
        check(run, tmp_path / "run", ["t2#0"], "record")
    if name != "circle":  # which ends where the record is copied
        assert "'column'" in run.failures()[0]["message"]
    assert len(rollout(ID, policy, seed=1)) == COUNT - 1  # in memory all is the same


@pytest.mark.parametrize(
    "fields",
    [
        {"question": None},
        {"question": 5},
        {"answers": (None,)},
        {"answers": (float("nan"),)},
        {"split": Opaque()},
        {"answer_type": float("nan")},
    ],
    ids=str,
)
def test_fields_of_a_task(fields: dict[str, Any], world: World, tmp_path: Path) -> None:
    """They are refused before anything is played."""
    world.task_fields = fields
    with pytest.raises(BadInputError, match=r"of (a )?task") as caught:
        play(tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_metadata_may_not_hide_a_column() -> None:
    for name in ("id", "question", "answers", "split", "answer_type"):
        with pytest.raises(BadInputError, match=f"may not be named '{name}'"):
            Task("t", "Q?", ("a",), {name: "x"})


@pytest.mark.parametrize("name", [*HOSTILE, "raises", "unprintable", "wrong count", "no list"])
@pytest.mark.parametrize("batched", [False, True])
def test_rewards(name: str, batched: bool, world: World, tmp_path: Path) -> None:
    def reward(task: Task, trajectory: Trajectory) -> Any:
        if task.id != "t2":
            return [1.0] * len(trajectory.steps)
        if name == "raises":
            raise KeyError("mine")
        if name == "unprintable":
            raise UnprintableError
        if name == "no list":
            return None
        return [] if name == "wrong count" else [HOSTILE[name]] * len(trajectory.steps)

    world.reward = reward
    policy = Batched(lambda request: Reply("Answer: 1")) if batched else script
    for _ in range(2):
        check(play(tmp_path / "run", policy), tmp_path / "run", ["t2#0"], "environment")


@pytest.mark.parametrize("name", [*HOSTILE, "raises", "unprintable", "exit"])
def test_tools(name: str, world: World, tmp_path: Path) -> None:
    class Service(Toolset):
        def execute(self, calls: Any, episodes: Any = None) -> Any:
            found = super().execute(calls, episodes)
            for n, episode in enumerate(episodes or ()):
                if episode == "t2#0":
                    if name == "raises":
                        raise OSError("gone")
                    if name == "unprintable":
                        raise UnprintableError
                    found[n] = ToolResult(calls[n].id, "x", None, HOSTILE.get(name, Opaque()))
            return found

    world.toolset = Service([Tool(_echo, name="echo", inline=True)])
    boundary = "environment" if name in ("raises", "unprintable") else "record"

    def native(request: Request) -> Reply:
        call = ToolCall("", "echo", {"text": "x"})
        said = Action("", (call,))
        return Reply("call", said=said) if request.turn == 0 else Reply("Answer: 1")

    for number, policy in enumerate((script, Batched(native))):
        for _ in range(2):
            out = tmp_path / f"run{number}"
            check(play(out, policy), out, ["t2#0"], boundary)


class _Codec(HermesFormat):
    where = ""

    def render(self, tools: Any, messages: Any) -> Any:
        if self.where == "render" and messages[0].content == "Q2?":
            raise UnprintableError
        return super().render(tools, messages)

    def parse(self, text: str, tools: Any = ()) -> Any:
        if self.where == "parse" and text == "poison":
            raise UnprintableError
        if self.where == "none" and text == "poison":
            return None
        return super().parse(text, tools)


@pytest.mark.parametrize("where", ["render", "parse", "none"])
@pytest.mark.parametrize("batched", [False, True])
def test_codecs(where: str, batched: bool, world: World, tmp_path: Path) -> None:
    world.codec = _Codec(get_format("hermes").strategy)
    world.codec.where = where

    def said(request: Request) -> Reply:
        return Reply("poison" if "Q2?" in str(request.messages) else "Answer: 1")

    policy: Any = Batched(said) if batched else lambda m, t: said(Request(m, t, world.codec)).text
    for _ in range(2):
        check(play(tmp_path / "run", policy), tmp_path / "run", ["t2#0"], "environment")


def policies() -> dict[str, Any]:
    def returns(value: Any) -> Any:
        return lambda: value

    def raises(error: BaseException) -> Any:
        def act() -> Any:
            raise error

        return act

    made: dict[str, Any] = {
        f"returns {name}": returns(value)
        for name, value in HOSTILE.items()
        if name != "halves of a character"
    }
    made |= {
        f"message of {name}": returns(Message("assistant", value))
        for name, value in HOSTILE.items()
        if name != "halves of a character"
    }
    return made | {
        "raises": raises(KeyError("mine")),
        "unprintable": raises(UnprintableError()),
        "exit": raises(SystemExit(3)),
        "no reply": returns(None),
        "reply without text": returns(Reply(None)),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("name", policies())
def test_policies(name: str, world: World, tmp_path: Path) -> None:
    hostile = policies()[name]

    def policy(messages: Any, tools: Any) -> Any:
        return hostile() if "Q2?" in str(messages) else script(messages, tools)

    for _ in range(2):
        check(play(tmp_path / "run", policy), tmp_path / "run", ["t2#0"], "policy")


@pytest.mark.parametrize("value", [None, 5, "text", [], [1, 2, 3], [None], [Opaque()]], ids=repr)
def test_what_act_may_not_give(value: Any, world: World) -> None:
    with pytest.raises(PolicyError, match="in a row failed"):
        rollout(ID, Batched(lambda request: value, whole=True), max_failures=3)


@pytest.mark.parametrize(
    "tokens",
    [
        ReplyTokens([1], [2], [float("nan")]),
        ReplyTokens([1], [Opaque()]),  # type: ignore[list-item]
        ReplyTokens(None, [1]),  # type: ignore[arg-type]
        5,
    ],
    ids=repr,
)
def test_tokens(tokens: Any, world: World, tmp_path: Path) -> None:
    def act(request: Request) -> Reply:
        return Reply("Answer: 1", tokens if request.episode == "t2#0" else None)

    for _ in range(2):
        check(play(tmp_path / "run", Batched(act)), tmp_path / "run", ["t2#0"], "record")


@pytest.mark.parametrize("reply", ["\ud83d", "a\udc80b", "\x00", "\u2028", "x" * 200_000])
def test_replies_that_are_only_strange(reply: str, world: World, tmp_path: Path) -> None:
    run = play(tmp_path / "run", lambda m, t: reply if len(m) < 4 else "Answer: 1")
    check(run, tmp_path / "run", [], "")
    assert all(t.steps[0].action == reply for t in run)


def test_a_hostile_policy_that_changes_what_it_is_told(world: World, tmp_path: Path) -> None:
    def policy(messages: Any, tools: Any) -> Any:
        reply = script(messages, tools)
        messages.clear()
        for tool in tools:
            tool["function"].clear()
        return reply

    check(play(tmp_path / "run", policy), tmp_path / "run", [], "")


def test_forgetting_may_fail(world: World, tmp_path: Path) -> None:
    class Forgets(Batched):
        def forget(self, episode: str) -> None:
            raise UnprintableError

    with pytest.warns(RuntimeWarning, match="forget.. raised UnprintableError"):
        run = play(tmp_path / "run", Forgets(lambda request: Reply("Answer: 1")))
    check(run, tmp_path / "run", [], "")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


def _lists(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    return {k: _lists(v) for k, v in value.items()} if isinstance(value, dict) else value


@given(ANY)
@settings(max_examples=300, deadline=None)
def test_a_line_reads_back_or_is_refused_by_name(value: Any) -> None:
    if not_json(value):
        with pytest.raises(BadInputError, match=r"^JSON cannot hold this: 'value'"):
            exact_line({"value": value})
        return
    line = exact_line({"value": value})
    assert json.loads(line) == {"value": _lists(value)}
    assert len(value_hash(value)) == 64


@pytest.mark.parametrize("name", HOSTILE)
def test_hashes_do_not_depend_on_the_process(name: str) -> None:
    assert value_hash(HOSTILE[name]) == value_hash(HOSTILE[name])
    assert value_hash({"a": Opaque()}) == value_hash({"a": Opaque()})


def test_failures_are_plain_lines(world: World, tmp_path: Path) -> None:
    def policy(messages: Any, tools: Any) -> Any:
        raise ValueError("\ud83d" + "x" * 100_000)

    with pytest.raises(PolicyError):
        play(tmp_path / "run", policy, max_failures=2, concurrency=1)
    rows = [row for _, row in read_rows(tmp_path / "run" / "failures.jsonl")]
    assert [len(row["message"]) < 3000 for row in rows] == [True, True]
