"""Rows that name a task, and the episode that a framework drives."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import pytest

from toolgym.bridges.episode import COLUMN, BridgedEpisode, opened, task_rows
from toolgym.errors import BadInputError, EpisodeEndedError, UnknownNameError

GSM8K = "ToolQA-GSM8K-v0"


def row(**changed: Any) -> dict[str, Any]:
    task, _, place = next(task_rows(GSM8K, {"max_steps": 3}))
    assert task.id == place["task"]
    return {COLUMN: place | changed}


def test_a_row_stands_for_each_task_and_holds_texts_only() -> None:
    rows = list(task_rows(GSM8K, {"format": "hermes", "max_steps": 2}))
    env = gym.make(GSM8K, format="hermes", disable_env_checker=True).unwrapped
    assert [task.id for task, _, _ in rows] == [task.id for task in env.tasks]
    for task, opening, place in rows[:5]:
        _, info = env.reset(options={"task": task.id})
        assert opening == info["messages"]
        assert place["env"] == GSM8K
        assert json.loads(place["env_args"]) == {"format": "hermes", "max_steps": 2}
        assert all(isinstance(value, str) for value in place.values())


def test_rows_of_one_split() -> None:
    splits = {task.split for task, _, _ in task_rows(GSM8K)}
    for split in splits:
        assert {task.split for task, _, _ in task_rows(GSM8K, split=split)} == {split}
    with pytest.raises(BadInputError, match="nowhere"):
        list(task_rows(GSM8K, split="nowhere"))


def test_an_episode_gives_what_the_environment_gives() -> None:
    place = row()
    episode = BridgedEpisode(place)
    env = gym.make(GSM8K, max_steps=3, disable_env_checker=True).unwrapped
    _, info = env.reset(options={"task": place[COLUMN]["task"]})
    assert episode.begin() == info["messages"]
    for reply in ("Action: Calculator[2+3]", "", "Action: Nothing[x]"):
        before = len(info["messages"])
        _, reward, terminated, truncated, info = env.step(reply)
        turn = episode.step(reply)
        assert turn.messages == info["messages"][before + 1 :]
        assert (turn.reward, turn.done) == (reward, terminated or truncated)
        assert turn.parts == {"accuracy": info["reward/accuracy"]}
    assert truncated
    assert episode.trajectory.messages == env.trajectory.messages
    with pytest.raises(EpisodeEndedError):
        episode.step("Answer: 1")


def test_what_is_written_after_a_stop_text_is_not_read() -> None:
    episode = BridgedEpisode(row())
    episode.begin()
    assert len(episode.stop) == 1
    turn = episode.step(f"Action: Calculator[2+3]{episode.stop[0]}are 7\nAnswer: 7")
    assert "5" in turn.messages[-1]["content"]
    assert not turn.done
    assert episode.trajectory.steps[0].action == "Action: Calculator[2+3]"


def test_a_limit_of_the_framework_ends_an_episode_earlier_and_none_later() -> None:
    for given, expected in ((1, 1), (2, 2), (50, 3), (None, 3)):
        episode = BridgedEpisode(row(), given)
        episode.begin()
        done = [episode.step("").done for _ in range(expected)]
        assert done == [False] * (expected - 1) + [True]
        assert episode.max_turns == expected
        assert episode.trajectory.truncated


def test_episodes_of_a_task_are_numbered() -> None:
    place = row(env_args='{"max_steps": 7}')
    made = [BridgedEpisode(place) for _ in range(3)]
    made.append(BridgedEpisode({COLUMN: place[COLUMN] | {"sample": 40}}))
    for episode in made:
        episode.begin()
    assert [episode.trajectory.sample for episode in made] == [0, 1, 2, 40]


def test_an_environment_is_opened_once_and_its_episodes_are_apart() -> None:
    assert opened(GSM8K, {"max_steps": 3}) is opened(GSM8K, '{"max_steps": 3}')
    one, other = BridgedEpisode(row()), BridgedEpisode(row())
    one.begin()
    other.begin()
    one.step("Answer: 1")
    assert not other.step("").done


def test_a_wrapper_is_played_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(gym.RewardWrapper):
        def reward(self, reward: Any) -> float:
            return float(reward) / 2

    def make(**given: Any) -> Any:
        return Half(gym.make(GSM8K, disable_env_checker=True, **given))

    monkeypatch.setitem(gym.registry, "Half-v0", gym.envs.registration.EnvSpec("Half-v0", make))
    task, _, place = next(task_rows("Half-v0"))
    episode = BridgedEpisode({COLUMN: place})
    episode.begin()
    turn = episode.step(f"Answer: {task.answers[0]}")
    assert (turn.reward, turn.parts, turn.done) == (0.5, {"accuracy": 1.0}, True)


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({}, BadInputError, "no column 'toolgym', found none: train on rows that the bridge made"),
        ({"prompt": [], COLUMN: "x"}, BadInputError, "no column 'toolgym', found prompt, toolgym"),
        ({COLUMN: {"env": GSM8K}}, BadInputError, "column 'toolgym' lacks 'task' as text"),
        ({COLUMN: {"env": 3, "task": "a"}}, BadInputError, "lacks 'env' as text"),
        ({COLUMN: {"env": GSM8K, "task": "none"}}, BadInputError, "no task 'none' among"),
        ({COLUMN: {"env": "ToolQA-GSM9K-v0", "task": "a"}}, UnknownNameError, "ToolQA-GSM8K-v0"),
        (
            {COLUMN: {"env": GSM8K, "task": "a", "env_args": '{"formt": 1}'}},
            BadInputError,
            "no argument 'formt'",
        ),
        (
            {COLUMN: {"env": GSM8K, "task": "a", "env_args": "{"}},
            BadInputError,
            "env_args '{' cannot be JSON",
        ),
        (
            {COLUMN: {"env": GSM8K, "task": "a", "env_args": "[1]"}},
            BadInputError,
            r"env_args are keyword arguments by name, not '\[1\]'",
        ),
    ],
)
def test_what_a_row_lacks_is_said(given: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as raised:
        BridgedEpisode(given)
    assert "\n" not in str(raised.value)


def test_arguments_that_no_row_can_hold_are_refused() -> None:
    with pytest.raises(BadInputError, match="cannot be JSON"):
        list(task_rows(GSM8K, {"tasks": object()}))
