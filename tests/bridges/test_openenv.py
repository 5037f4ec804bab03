"""The bridge to OpenEnv, over a small stand-in of what it asks of OpenEnv."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from remembering import Shop

from toolgym import Task, TaskSet, ToolEnv, Toolset, Trajectory, get_format
from toolgym.errors import BadInputError, EpisodeEndedError, MissingExtraError, PolicyError
from toolgym.grading.rubric import Rubric
from toolgym.rollouts.playing import open_env

ENV = "ToolQA-PopQA-v0"
CALL = "Thought: I look.\nAction: WikipediaSearch[George Rankin]"


class Strict(BaseModel):
    """As OpenEnv's actions and observations: no field but those that are declared."""

    model_config = ConfigDict(extra="forbid")
    metadata: dict[str, Any] = Field(default_factory=dict)


class Observation(Strict):
    done: bool = False
    reward: bool | int | float | None = None


class State(BaseModel):
    episode_id: str | None = None
    step_count: int = 0


class Environment:
    SUPPORTS_CONCURRENT_SESSIONS = False


@dataclass
class StepResult:
    observation: Any
    reward: float | None = None
    done: bool = False
    metadata: dict[str, Any] | None = None


def stand_in() -> dict[str, ModuleType]:
    """Modules of OpenEnv by name, as far as the bridge asks for them."""
    server, client = ModuleType("server"), ModuleType("client")
    types = SimpleNamespace(EnvironmentMetadata=lambda **told: SimpleNamespace(**told))
    vars(server).update(
        Action=Strict, Observation=Observation, State=State, Environment=Environment, types=types
    )
    server.create_app = lambda *given, **named: (given, named)  # type: ignore[attr-defined]
    vars(client).update(EnvClient=object, StepResult=StepResult)
    names = ("openenv", "openenv.core")
    packages: dict[str, ModuleType] = {name: ModuleType(name) for name in names}
    return {**packages, "openenv.core.env_server": server, "openenv.core.env_client": client}


@pytest.fixture(scope="module")
def bridge() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_in().items():
            patch.setitem(sys.modules, name, module)
        patch.delitem(sys.modules, "toolgym.bridges.openenv", raising=False)
        yield importlib.import_module("toolgym.bridges.openenv")
    sys.modules.pop("toolgym.bridges.openenv", None)


@functools.cache
def world() -> ToolEnv:
    return open_env(ENV, {"max_steps": 4}).env


def session(bridge: Any, base: ToolEnv | None = None) -> Any:
    return bridge.OpenEnvEnvironment(base or world(), ENV)


def said(bridge: Any, text: str, **more: Any) -> Any:
    return bridge.TextAction(text=text, **more)


def test_without_openenv_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openenv", None)
    monkeypatch.delitem(sys.modules, "toolgym.bridges.openenv", raising=False)
    for name in ("openenv.core", "openenv.core.env_server", "openenv.core.env_client"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'toolgym\[openenv\]'") as failure:
        importlib.import_module("toolgym.bridges.openenv")
    assert "\n" not in str(failure.value)


replies = st.lists(
    st.one_of(
        st.sampled_from([CALL, "Answer: Troyes", "Action: Calculator[1/0]", "Action: Nothing[x]"]),
        st.text(max_size=40),
    ),
    min_size=1,
    max_size=5,
)


@given(task=st.integers(0, 20), texts=replies)
@settings(max_examples=40, deadline=None)
def test_a_session_shows_what_the_environment_shows(
    bridge: Any, task: int, texts: list[str]
) -> None:
    env, other = world().clone(), session(bridge)
    text, info = env.reset(options={"task": task, "sample": 3})
    seen = other.reset(task=task, sample=3, episode_id="mine")
    assert (seen.text, seen.done, seen.reward) == (text, False, None)
    messages, tools = list(seen.messages), list(seen.tools)
    for reply in texts:
        text, reward, terminated, truncated, info = env.step(reply)
        seen = other.step(said(bridge, reply))
        assert (seen.text, seen.reward, seen.done) == (text, reward, terminated or truncated)
        assert (seen.terminated, seen.truncated) == (terminated, truncated)
        messages += seen.messages
        tools += seen.tools
        told = {k: v for k, v in info.items() if k not in ("messages", "tools")}
        assert seen.metadata == told
        assert seen.metadata["reward/accuracy"] == info["reward/accuracy"]
        if env.ended:
            break
    assert messages == info["messages"]
    assert tools == info["tools"]
    state = other.state
    assert (state.episode_id, state.step_count, state.task_id) == (
        "mine",
        info["step"],
        env.tasks[task].id,
    )
    assert (state.trajectory is not None) == env.ended
    if state.trajectory is not None:
        ours = Trajectory.from_row(state.trajectory)
        assert [step.action for step in ours.steps] == texts[: len(ours.steps)]
        assert ours.reward == env.trajectory.reward


def test_what_tools_remember_is_the_sessions_own(bridge: Any) -> None:
    tasks = TaskSet([Task("a", "Buy.", ("yes",))], source="test")
    shop = ToolEnv(tasks, Toolset([Shop]), get_format("hermes"), Rubric({}))
    first, second = session(bridge, shop), session(bridge, shop)
    call = '<tool_call>\n{"name": "add", "arguments": {"item": "pear"}}\n</tool_call>'
    first.reset(task=0)
    second.reset(task=0)
    assert "1 pear" in first.step(said(bridge, call)).text
    assert "2 pear" in first.step(said(bridge, call)).text
    first.close()
    assert "1 pear" in second.step(said(bridge, call)).text, "closing one ends no other"
    second.close()
    first.reset(task=0)
    assert "1 pear" in first.step(said(bridge, call)).text, "a session may begin again"
    first.close()


def test_calls_apart_from_the_text_and_cut_replies_are_what_they_are(bridge: Any) -> None:
    one = session(bridge)
    one.reset(task=0)
    function = {"name": "WikipediaSearch", "arguments": '{"query": "George Rankin"}'}
    calls = [{"id": "x1", "type": "function", "function": function}]
    seen = one.step(said(bridge, "", tool_calls=calls))
    reply, result = seen.messages
    assert reply["tool_calls"][0]["function"]["name"] == "WikipediaSearch"
    assert (result["role"], result["tool_call_id"]) == ("tool", reply["tool_calls"][0]["id"])
    seen = one.step(said(bridge, "Answer: Troy", cut=True))
    assert not seen.done, "an answer that was cut may go on"
    with pytest.raises(PolicyError, match="without a name"):
        one.step(said(bridge, "", tool_calls=[{"id": "x"}]))
    with pytest.raises(ValidationError, match="txt"):
        bridge.TextAction(txt="a")


def test_a_task_is_named_by_id_number_or_place_in_its_split(bridge: Any) -> None:
    one = session(bridge)
    splits = one.list_splits()
    assert sum(map(one.num_tasks, splits)) == len(world().tasks)
    for split in splits:
        told = one.get_task(split, 1)
        assert told == one.list_tasks(split)[1] == one.get_task_range(split, 1, 2)[0]
        assert told.keys() == {"id", "index", "question"}, "the gold answer is not told"
        assert one.reset(split=split, index=1).metadata["task_id"] == told["id"]
        assert one.reset(task=told["id"]).metadata["task_id"] == told["id"]
    assert one.reset(seed=5).metadata == one.reset(seed=5).metadata


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"tsk": 1}, BadInputError, r"no argument 'tsk' \(did you mean 'task'\?\)"),
        ({"task": "nothing"}, BadInputError, "no task 'nothing'"),
        ({"task": 1, "split": "train", "index": 0}, BadInputError, "task, or split and index"),
        ({"index": 1}, BadInputError, "task, or split and index"),
        ({"split": "trian", "index": 0}, IndexError, "no split 'trian'; splits: "),
        ({"split": "train", "index": 10**6}, IndexError, "none of index 1000000"),
        ({"split": "train", "index": -1}, IndexError, "none of index -1"),
        ({"seed": "x"}, BadInputError, "seed"),
    ],
)
def test_a_wrong_reset_says_what_is_wrong(
    bridge: Any, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        session(bridge).reset(**given)


def test_a_step_out_of_place_and_a_deadline_of_others_are_refused(bridge: Any) -> None:
    one = session(bridge)
    assert one.state.model_dump(exclude_none=True) == {"step_count": 0, "env": ENV}
    with pytest.raises(EpisodeEndedError, match="no episode yet"):
        one.step(said(bridge, CALL))
    one.reset(task=0)
    with pytest.raises(BadInputError, match="tools have deadlines of their own"):
        one.step(said(bridge, CALL), timeout_s=3.0)
    assert one.step(said(bridge, "Answer: Troyes")).done
    with pytest.raises(EpisodeEndedError, match="has ended"):
        one.step(said(bridge, CALL))


def test_the_server_makes_a_session_of_its_own_for_each_connection(
    bridge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (make, action, observation), named = bridge.app(ENV, {"max_steps": 1}, sessions=7)
    assert (action, observation) == (bridge.TextAction, bridge.TextObservation)
    assert (named["max_concurrent_envs"], named["env_name"]) == (7, ENV)
    assert make.func.SUPPORTS_CONCURRENT_SESSIONS
    one, other = make(), make()
    one.reset(task=0)
    other.reset(task=1)
    assert one.step(said(bridge, CALL)).truncated, "arguments are those of the environment"
    assert other.state.step_count == 0
    assert one.get_metadata().name == ENV
    monkeypatch.setenv("TOOLGYM_ENV", ENV)
    monkeypatch.setenv("TOOLGYM_ENV_ARGS", '{"max_steps": 2}')
    (make, *_), _ = bridge.app()
    one = make()
    one.reset(task=0)
    assert not one.step(said(bridge, CALL)).done
    assert one.step(said(bridge, CALL)).truncated


@pytest.mark.parametrize(
    ("env", "args", "message"),
    [
        ("", "", "set TOOLGYM_ENV to an id that"),
        (ENV, "{", "cannot be JSON"),
        (ENV, "[1]", "keyword arguments by name"),
        (ENV, '{"max_stps": 2}', "did you mean 'max_steps'"),
        ("ToolQA-PopQ-v0", "", "did you mean 'ToolQA-PopQA-v0'"),
    ],
)
def test_a_server_of_nothing_is_refused_before_it_serves(
    bridge: Any, monkeypatch: pytest.MonkeyPatch, env: str, args: str, message: str
) -> None:
    monkeypatch.setenv("TOOLGYM_ENV", env)
    monkeypatch.setenv("TOOLGYM_ENV_ARGS", args)
    with pytest.raises((BadInputError, LookupError), match=message):
        bridge.app()


def test_the_client_reads_what_the_server_sends(bridge: Any) -> None:
    client, one = bridge.OpenEnvClient(), session(bridge)
    one.reset(task=0)
    for action in (said(bridge, CALL), said(bridge, "Answer: Troyes")):
        payload = client._step_payload(action)
        assert payload == {"text": action.text}
        seen = one.step(bridge.TextAction(**payload))
        # As OpenEnv's server sends an observation.
        sent = {
            "observation": seen.model_dump(exclude={"reward", "done"}),
            **seen.model_dump(include={"reward", "done", "metadata"}),
        }
        got = client._parse_result(sent)
        assert got.observation == seen
        assert (got.reward, got.done, got.metadata) == (seen.reward, seen.done, seen.metadata)
    assert client._parse_state(one.state.model_dump()) == one.state
