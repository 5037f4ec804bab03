"""The lines that the library promises to run as written, and gymnasium's own checks."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

import toolgym
from toolgym import Rubric, evaluate, rollout, score, tool
from toolgym.envs import IDS
from toolgym.registry import FORMATS, PROMPTS
from toolgym.vector import ToolVectorEnv

REPLY = "Thought: look it up.\nAction: WikipediaSearch[George Rankin]\nRationale:\nAnswer:"


def test_the_environment_lines_run_as_written() -> None:
    env = gym.make("ToolQA-PopQA-v0")
    obs, info = env.reset(seed=7)
    assert isinstance(obs, str)
    assert obs
    assert info["messages"][-1]["role"] == "user"
    assert {schema["function"]["name"] for schema in info["tools"]} == {
        "Calculator",
        "WikipediaSearch",
        "MachineTranslator",
    }
    obs, reward, terminated, truncated, info = env.step(REPLY)
    assert "WikipediaSearch[George Rankin]" in obs
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["messages"][-1]["content"] == obs


def test_the_id_can_name_the_package() -> None:
    env = gym.make("toolgym:ToolQA-PopQA-v0")
    assert isinstance(env.unwrapped, toolgym.ToolEnv)


def test_the_rollout_lines_run_as_written(tmp_path: Path) -> None:
    def policy(messages, tools):
        return "Thought: I know it.\nAnswer: politician"

    def my_reward(task, trajectory):
        return [1.0 if step.answer == "politician" else 0.0 for step in trajectory.steps]

    out = tmp_path / "runs/first"
    run = rollout("ToolQA-PopQA-v0", policy, episodes=20, samples_per_task=1, seed=0, out=out)
    again = rollout("ToolQA-PopQA-v0", policy, episodes=20, samples_per_task=1, seed=0, out=out)
    assert len(run) == len(again) == 20
    report = evaluate(run)
    for name in ("exact_match", "accuracy", "token_f1", "invoke_rate", "pass_rate"):
        assert report[name].n >= 0
    assert report["accuracy"].low <= report["accuracy"].value <= report["accuracy"].high
    table = score(run, {"strict": {"exact_match": 1.0}, "mine": my_reward})
    assert table.rows["mine"].value == 1.0
    assert table.rows["strict"].value == report["exact_match"].value
    assert Rubric({"accuracy": 1.0}).weights == {"accuracy": 1.0}


def test_a_tool_is_a_typed_documented_function() -> None:
    @tool
    def distance(city_a: str, city_b: str) -> float:
        """Distance between two cities in km.

        Args:
            city_a: where from.
            city_b: where to.
        """
        return 95.0

    assert distance.schema()["function"]["parameters"]["required"] == ["city_a", "city_b"]
    assert distance("Bern", "Basel") == 95.0


def make(env_id: str, **kwargs: object) -> gym.Env:
    return gym.make(env_id, **kwargs).unwrapped


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("format", list(FORMATS))
def test_gymnasium_accepts_every_environment_in_every_format(env_id: str, format: str) -> None:
    with warnings.catch_warnings():
        # It warns that rendering cannot be checked without a render mode.
        warnings.filterwarnings("ignore", message=".*render.*")
        check_env(make(env_id, format=format))


@pytest.mark.parametrize("prompt", list(PROMPTS))
def test_gymnasium_accepts_every_prompt(prompt: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*render.*")
        check_env(make("ToolQA-GSM8K-v0", prompt=prompt))


VECTORS = {
    "default": {},
    "sync": {"vectorization_mode": "sync"},
    "async": {"vectorization_mode": "async"},
}


def play(envs: gym.vector.VectorEnv) -> list[object]:
    observations, _ = envs.reset(seed=[5, 6, 7, 8, 9, 10, 11, 12])
    seen: list[object] = [tuple(observations)]
    for reply in (REPLY, "Answer: Rabat", REPLY):
        replies = [reply] * 7 + ["Action: Calculator[6*7]"]
        observations, rewards, terminations, truncations, _ = envs.step(replies)
        seen.append((tuple(observations), list(rewards), list(terminations), list(truncations)))
    envs.close()
    return seen


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_vector_environments_of_every_kind_play_the_same_episodes() -> None:
    played = {
        kind: play(gym.make_vec("ToolQA-PopQA-v0", num_envs=8, **kwargs))
        for kind, kwargs in VECTORS.items()
    }
    assert played["default"] == played["sync"] == played["async"]
    _, first, second, _ = played["default"]
    assert "42" in first[0][7]
    assert second[2] == [True] * 7 + [False]


def test_the_default_vector_environment_is_ours() -> None:
    envs = gym.make_vec("ToolQA-PopQA-v0", num_envs=2)
    assert isinstance(envs, ToolVectorEnv)
    envs.close()


@pytest.mark.sources
def test_the_public_names_are_those_of_the_docs() -> None:
    page = (Path(__file__).parents[1] / "docs" / "index.md").read_text(encoding="utf-8")
    rows = page.partition("## Public names")[2].splitlines()
    listed = {
        name
        for row in rows
        for name in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    }
    assert listed == set(toolgym.__all__)
    for name in toolgym.__all__:
        assert getattr(toolgym, name).__name__ == name
