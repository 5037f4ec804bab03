"""The environment as gymnasium knows it: wrappers, vectors, copies, inputs in one line."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.registration import WrapperSpec, register
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import DelayObservation, FrameStackObservation, TransformReward

from toolgym import evaluate, rollout, score, tool

IDS = [f"ToolQA-{name}-v0" for name in ("PopQA", "TriviaQA", "GSM8K", "NQOpen")]
IDS.append("ToolScenario-v0")
GSM8K = IDS[2]


def answers(messages: Any, tools: Any) -> str:
    return "Answer: 5"


def calls(messages: Any, tools: Any) -> str:
    return "Action: Calculator[1+1]"


def doubled(reward: float) -> float:
    return 2.0 * float(reward) + 1.0


@pytest.fixture
def registered() -> Iterator[list[str]]:
    names: list[str] = []
    yield names
    for name in names:
        del gymnasium.registry[name]


def test_a_registered_wrapper_and_limit_hold_in_a_rollout(registered: list[str]) -> None:
    entry = gymnasium.spec(GSM8K).entry_point
    wrapper = WrapperSpec("twice", "gymnasium.wrappers:TransformReward", {"func": doubled})
    register("Twice-v0", entry_point=entry, additional_wrappers=(wrapper,))
    register("Short-v0", entry_point=entry, max_episode_steps=1)
    registered += ["Twice-v0", "Short-v0"]
    (twice,) = rollout("Twice-v0", answers, episodes=1)
    assert sum(step.reward for step in twice.steps) in (1.0, 3.0)
    (short,) = rollout("Short-v0", calls, episodes=1)
    assert len(short.steps) == 1


@pytest.mark.parametrize("env_id", IDS)
def test_an_asynchronous_vector_works_with_the_defaults(env_id: str) -> None:
    vector = gymnasium.make_vec(env_id, num_envs=2, vectorization_mode="async")
    observations, _ = vector.reset(seed=3)
    assert all(isinstance(text, str) for text in observations)
    _, _, terminated, *_ = vector.step(("Answer: a", "Answer: b"))
    vector.close()
    assert terminated.all()


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_every_mode_of_autoreset(kind: str, mode: AutoresetMode) -> None:
    vector = gymnasium.make_vec(
        GSM8K, num_envs=2, vectorization_mode=kind, vector_kwargs={"autoreset_mode": mode}
    )
    vector.reset(seed=3)
    _, _, terminated, _, info = vector.step(("Answer: a", "Action: Calculator[1+1]"))
    vector.close()
    assert terminated.tolist() == [True, False]
    assert ("final_obs" in info) == (mode is AutoresetMode.SAME_STEP)


@pytest.mark.parametrize("padding", ["reset", "zero"])
def test_frames_are_stacked_and_delayed(padding: str) -> None:
    stacked = FrameStackObservation(gymnasium.make(GSM8K), 3, padding_type=padding)
    observation, _ = stacked.reset(seed=1)
    assert len(observation) == 3
    delayed = DelayObservation(gymnasium.make(GSM8K), 1)
    first, _ = delayed.reset(seed=1)
    second, *_ = delayed.step("Action: Calculator[1+1]")
    assert (first, second == observation[-1]) == ("", True)


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("name", ["react", "tags", "hermes", "llama3"])
def test_the_checker_passes(env_id: str, name: str) -> None:
    check_env(gymnasium.make(env_id, format=name).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_plays_on_identically(twin: Any) -> None:
    env = gymnasium.make(GSM8K)
    env.reset(seed=4)
    env.step("Action: Calculator[2+3]")
    other = twin(env)
    for action in ("Action: Calculator[7*8]", "Answer: 56"):
        assert env.step(action)[:4] == other.step(action)[:4]
    assert env.reset()[0] == other.reset()[0]


@pytest.mark.parametrize("mode", ["human", "rgb_array", "ANSI", 5])
def test_a_render_mode_that_does_not_exist_is_refused(mode: Any) -> None:
    with pytest.raises(ValueError, match="render_mode"):
        gymnasium.make(GSM8K, render_mode=mode)


def test_a_changed_description_is_that_environments_own() -> None:
    one, other = (gymnasium.make(GSM8K).unwrapped for _ in range(2))
    for changed in one.toolset:
        changed.description = "Something else."
    for env, own in ((one, True), (other, False)):
        _, info = env.reset(seed=1)
        assert ("Something else." in json.dumps(info["tools"])) is own


def triple(x: int) -> int:
    """Three times a number.

    Args:
        x: the number.
    """
    return 3 * x


def test_objects_are_taken_where_a_name_stands() -> None:
    own = gymnasium.make(GSM8K, tools=[tool(triple)])
    own.reset(seed=1)
    observation, *_ = own.step("Action: triple[4]")
    assert "12" in observation

    def one(task: Any, trajectory: Any) -> list[float]:
        return [1.0] * len(trajectory.steps)

    rows = [{"question": "2+2?", "answers": ["4"]}]
    for env, arguments in (
        (GSM8K, {"reward": one, "tasks": rows}),
        (gymnasium.make(GSM8K, reward={"mine": one}, tasks=rows), None),
        (TransformReward(gymnasium.make(GSM8K, tasks=rows), doubled), None),
    ):
        (played,) = rollout(env, answers, episodes=1, env_args=arguments)
        assert [step.reward for step in played.steps] == [1.0]


@pytest.mark.parametrize(
    "arguments",
    [
        *({"policy": 5}, {"policy": None}, {"policy": lambda messages: "x"}, {"env": None}),
        *({"env": "ToolQA-GSM9K-v0"}, {"env": "CartPole-v1"}, {"episodes": -1}, {"episodes": 1.5}),
        *({"seed": "x"}, {"out": 5}, {"out": ""}, {"env_args": [1]}, {"env_args": {"corpus": []}}),
        *({"env_args": {"tasks": 5}}, {"env_args": {"tools": "Calculator"}}),
        *({"env_args": {"reward": 5}}, {"env_args": {"reward": {"accuracy": float("nan")}}}),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(arguments: dict[str, Any]) -> None:
    given = {"env": GSM8K, "policy": answers, "episodes": 1} | arguments
    with pytest.raises((ValueError, LookupError), match=r"\A[^\n]+\Z") as caught:
        rollout(given.pop("env"), given.pop("policy"), **given)
    assert type(caught.value).__module__ == "toolgym.errors"


@pytest.mark.parametrize(
    "reward",
    [
        *(lambda t, e: [float("nan")], lambda t, e: [float("inf")], lambda t, e: None),
        *(lambda t, e: ["x"], lambda t, e: [], lambda t, e: sys.exit(1), lambda t, e: 1 / 0),
    ],
)
def test_a_broken_reward_fails_its_episode_only(reward: Any) -> None:
    run = rollout(GSM8K, answers, episodes=2, env_args={"reward": reward})
    assert (len(list(run)), len(run.failures())) == (0, 2)


def damaged(folder: Path, damage: Any) -> Path:
    rollout(GSM8K, answers, episodes=3, out=folder)
    path = folder / "trajectories.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in damage(rows)))
    return folder


def _without_id(rows: list[Any]) -> list[Any]:
    del rows[1]["id"]
    return rows


def _with_nan(rows: list[Any]) -> list[Any]:
    rows[1]["steps"][0]["reward"] = float("nan")
    return rows


def _of_another_run(rows: list[Any]) -> list[Any]:
    return [rows[0], rows[1] | {"env_id": "ToolQA-PopQA-v0"}, rows[2]]


@pytest.mark.parametrize("damage", [_without_id, _with_nan, _of_another_run])
@pytest.mark.parametrize("read", [evaluate, lambda run: score(run, {"a": "accuracy"})])
def test_a_damaged_record_is_named(damage: Any, read: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 2"):
        read(damaged(tmp_path / "run", damage))


def test_a_line_twice_counts_once(tmp_path: Path) -> None:
    folder = damaged(tmp_path / "run", lambda rows: [*rows, rows[0]])
    assert score(folder, {"a": "accuracy"}).rows["a"].n == 3


def test_view_reads_what_filter_wrote(tmp_path: Path) -> None:
    rollout(GSM8K, answers, episodes=2, out=tmp_path / "run")
    command = [sys.executable, "-m", "toolgym.cli"]
    for words in (
        ["filter", "run", "--where", "accuracy>=0", "--out", "kept"],
        ["view", "kept"],
    ):
        done = subprocess.run(
            [*command, *words], check=True, cwd=tmp_path, timeout=60, capture_output=True, text=True
        )
    assert done.stdout.count("reward 0") >= 1
