"""The bridge to SkyRL, over a stand-in of skyrl-gym; `make bridge-skyrl` has the real one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import gymnasium as gym
import pytest
import trainers

from toolgym.bridges.episode import COLUMN
from toolgym.errors import BadInputError, EpisodeEndedError, MissingExtraError

POPQA = "ToolQA-PopQA-v0"


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for name, made in trainers.skyrl_gym().items():
        monkeypatch.setitem(sys.modules, name, made)
    monkeypatch.delitem(sys.modules, "toolgym.bridges.skyrl", raising=False)
    yield importlib.import_module("toolgym.bridges.skyrl")
    sys.modules.pop("toolgym.bridges.skyrl", None)


def generate(env: Any, prompt: list[Any], replies: list[str]) -> dict[str, Any]:
    """An episode as SkyRL's generator plays it: it keeps the conversation, and adds what is new."""
    history, told = env.init(prompt)
    rewards, outputs = [], []
    for reply in replies:
        output = env.step(reply)
        history = [*history, {"role": "assistant", "content": reply}, *output["observations"]]
        rewards.append(output["reward"])
        outputs.append(output)
        if output["done"]:
            break
    metrics = env.get_metrics()
    env.close()
    return {
        "history": history,
        "rewards": rewards,
        "outputs": outputs,
        "told": told,
        "metrics": metrics,
    }


def test_an_episode_is_that_of_the_environment(bridge: ModuleType) -> None:
    row = bridge.skyrl_rows(POPQA)[0]
    env = gym.make(POPQA, disable_env_checker=True).unwrapped
    _, info = env.reset(options={"task": row[COLUMN]["task"]})
    gold = env.tasks[0].answers[0]
    replies = ["Action: WikipediaSearch[George Rankin]", "Action: Oven[x]", f"Answer: {gold}"]
    rewards = [env.step(reply)[1] for reply in replies]
    made = bridge.SkyRLEnv(env_config={}, extras=row)
    played = generate(made, row["prompt"], replies)
    assert played["history"] == [message.to_chat() for message in env.trajectory.messages]
    assert played["rewards"] == rewards == [0.0, 0.0, 1.0]
    assert [output["done"] for output in played["outputs"]] == [False, False, True]
    metadata = [output["metadata"] for output in played["outputs"]]
    assert [told["parts"] for told in metadata] == [{"accuracy": reward} for reward in rewards]
    assert [told["tool_errors"] for told in metadata] == [[], ["unknown_tool"], []]
    assert played["told"]["task"] == row[COLUMN]["task"]
    assert played["told"]["tools"] == info["tools"]
    assert played["metrics"] == {
        "turns": 3,
        "problems": 0,
        "tool_errors": 1,
        "reward/accuracy": 1.0,
    }
    assert made.trajectory.messages == env.trajectory.messages


def test_the_generators_limit_cuts_an_episode(bridge: ModuleType) -> None:
    row = bridge.skyrl_rows(POPQA)[1]
    made = bridge.SkyRLEnv(extras=row | {"max_turns": 2})
    played = generate(made, row["prompt"], ["", "", ""])
    assert [output["done"] for output in played["outputs"]] == [False, True]
    assert (made.turns, made.max_turns) == (2, 2)
    assert played["metrics"]["problems"] == 2
    assert made.trajectory.truncated
    with pytest.raises(EpisodeEndedError):
        made.step("Answer: late")


def test_a_second_episode_begins_anew(bridge: ModuleType) -> None:
    row = bridge.skyrl_rows(POPQA)[2]
    made = bridge.SkyRLEnv(extras=row)
    first = generate(made, row["prompt"], ["Answer: a"])
    second = generate(made, row["prompt"], ["Answer: a"])
    assert first == second
    assert made.turns == 1


def test_rows_are_what_skyrls_data_set_reads(bridge: ModuleType) -> None:
    rows = bridge.skyrl_rows("ToolScenario-v0", {"max_steps": 5}, name="mine")
    assert {row["env_class"] for row in rows} == {"mine"}
    assert {frozenset(row) for row in rows} == {
        frozenset({"prompt", "env_class", "data_source", COLUMN})
    }
    for row in rows[:3]:
        made = bridge.SkyRLEnv(extras={key: row[key] for key in row.keys() - {"prompt"}})
        assert made.init(row["prompt"])[0] == row["prompt"]
        made.close()


def test_registering_twice_is_registering_once(bridge: ModuleType) -> None:
    bridge.register()
    bridge.register()
    bridge.register("other")
    registry = sys.modules["skyrl_gym.envs.registration"].registry
    assert registry == dict.fromkeys(("toolgym", "other"), "toolgym.bridges.skyrl:SkyRLEnv")


def test_a_row_of_something_else_is_refused(bridge: ModuleType) -> None:
    with pytest.raises(BadInputError, match="no column 'toolgym', found reward_spec"):
        bridge.SkyRLEnv(extras={"reward_spec": {}})
    with pytest.raises(BadInputError, match="no column 'toolgym', found none"):
        bridge.SkyRLEnv()


def test_without_skyrl_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skyrl_gym", None)
    monkeypatch.delitem(sys.modules, "toolgym.bridges.skyrl", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'toolgym\[skyrl\]'") as raised:
        importlib.import_module("toolgym.bridges.skyrl")
    assert "\n" not in str(raised.value)
