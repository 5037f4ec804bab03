"""What gymnasium promises of any environment: vectors, wrappers, copies, pickles, render modes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv
from gymnasium.vector.utils import batch_differing_spaces, create_empty_array
from gymnasium.wrappers import DelayObservation, FrameStackObservation
from hypothesis import given
from hypothesis import strategies as st

from toolgym import ToolEnv
from toolgym.errors import BadInputError
from toolgym.registry import FORMATS
from toolgym.spaces import SharedTexts, UnicodeText
from toolgym.vector import ToolVectorEnv

IDS = ("ToolQA-PopQA-v0", "ToolQA-TriviaQA-v0", "ToolQA-GSM8K-v0", "ToolQA-NQOpen-v0")
ALL = (*IDS, "ToolScenario-v0")


def plain(value: Any) -> Any:
    """What a vector environment gives, as values that can be compared."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def inner(env: gym.Env[Any, Any]) -> ToolEnv:
    assert isinstance(env.unwrapped, ToolEnv)
    return env.unwrapped


@pytest.mark.parametrize("format", sorted(FORMATS))
@pytest.mark.parametrize("env_id", ALL)
def test_gymnasiums_checker(env_id: str, format: str) -> None:
    check_env(gym.make(env_id, format=format).unwrapped)


@pytest.mark.parametrize("env_id", ALL)
def test_processes_with_gymnasiums_defaults(env_id: str) -> None:
    heard: list[Any] = []
    actions: Any = None
    for mode in ("async", "sync", None):
        envs = gym.make_vec(env_id, num_envs=8, vectorization_mode=mode)
        if mode == "async":
            assert isinstance(envs, AsyncVectorEnv)
            assert envs.shared_memory  # type: ignore[attr-defined]
        said: list[Any] = [envs.reset(seed=5)]
        assert said[0][0] in envs.observation_space
        actions = envs.action_space.sample() if actions is None else actions
        said.append(envs.step(actions))
        first = copy.copy(said[1][0])
        said.append(envs.step(["Answer: x"] * 8))
        assert said[1][0] == first, "what was given does not change under its reader"
        heard.append(plain(said))
        envs.close()
    assert heard[0] == heard[1] == heard[2]


class Long(gym.Env[str, str]):
    """Says each action again, many times."""

    def __init__(self) -> None:
        self.observation_space = UnicodeText(max_length=100_000_000)
        self.action_space = UnicodeText()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return "", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return action * 300_000, 0.0, False, False, {}


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("copied", [True, False])
def test_shared_memory_holds_texts_of_any_length(context: str, copied: bool) -> None:
    envs = AsyncVectorEnv([Long] * 2, context=context, copy=copied)
    envs.reset()
    for texts in (("aé北", "\ud800"), ("", "x"), ("b", "")):
        observations, *_ = envs.step(texts)
        assert [len(text) for text in observations] == [len(text) * 300_000 for text in texts]
        assert [text[:3] for text in observations] == [(text * 3)[:3] for text in texts]
    envs.close()


@given(st.lists(st.text(max_size=5), min_size=1, max_size=4))
def test_shared_texts_read_back(texts: list[str]) -> None:
    shared = SharedTexts.make(2)
    for text in texts:
        shared.write(1, text)
        assert shared[1] == shared[-1] == text
    assert tuple(shared) == copy.deepcopy(shared) == shared[:] == ("", texts[-1])


def test_frames_and_delays() -> None:
    for env_id in ALL:
        stacked = FrameStackObservation(gym.make(env_id), 3, padding_type="zero")
        observation, _ = stacked.reset(seed=1)
        assert observation in stacked.observation_space
        assert observation[:2] == ("", "")
        assert stacked.step("hm")[0][1] == observation[2]
        delayed = DelayObservation(gym.make(env_id), 1)
        assert delayed.reset(seed=1)[0] == ""
        assert delayed.step("hm")[0] == observation[2]
    envs = gym.make_vec(
        IDS[0],
        num_envs=2,
        vectorization_mode="async",
        wrappers=[lambda e: FrameStackObservation(e, 2)],
    )
    observations, _ = envs.reset(seed=1)
    assert observations in envs.observation_space
    envs.close()


def test_functions_of_spaces() -> None:
    space = UnicodeText(50)
    assert create_empty_array(space, 3) == ("", "", "")
    many = batch_differing_spaces([space, UnicodeText(7)])
    assert [one.max_length for one in many] == [50, 7]  # type: ignore[attr-defined]
    space.seed(3)
    twin = copy.deepcopy(space)
    assert [space.sample() for _ in range(9)] == [twin.sample() for _ in range(9)]


@pytest.mark.parametrize("mode", ["human", "rgb_array", "Ansi", 3])
def test_other_render_modes_are_refused(mode: Any) -> None:
    for env_id in ALL:
        with pytest.raises(BadInputError, match="render_mode is 'ansi'"):
            gym.make(env_id, render_mode=mode)


def play(env: gym.Env[Any, Any], format: str = "react") -> list[Any]:
    """The rest of an episode, the next one, and what the spaces draw."""
    heard: list[Any] = []
    for action in ("Action: Calculator[6*7] Calculator[1/0]", "hm", "Answer: 42"):
        heard.append(env.step(action))
    heard.append(env.reset())
    heard.append(env.step("Action: Calculator[2*3]"))
    record = inner(env).trajectory
    heard.append([env.action_space.sample() for _ in range(5)])
    for step in record.steps:
        step.seconds = 0.0
    return [*heard, record]


def begun(env_id: str, **kwargs: Any) -> gym.Env[Any, Any]:
    env = gym.make(env_id, **kwargs)
    env.reset(seed=11)
    env.step("Action: Calculator[2+2]")
    env.action_space.seed(4)
    return env


@pytest.mark.parametrize("env_id", ALL)
@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_copies_play_on_from_the_middle(env_id: str, way: str) -> None:
    env = begun(env_id, format="react", max_steps=5)
    twin = copy.deepcopy(env) if way == "deepcopy" else pickle.loads(pickle.dumps(env))
    assert type(twin) is type(env)
    before = inner(env).trajectory
    for step in inner(twin).trajectory.steps:
        assert step.calls == before.steps[0].calls
    expected = play(env)
    assert play(twin) == expected
    again = begun(env_id, format="react", max_steps=5)
    assert play(again)[:3] == expected[:3]


def _other_process(data: bytes, pipe: Any) -> None:
    pipe.send(play(pickle.loads(data)))


def test_a_pickle_plays_on_in_another_process() -> None:
    env = begun("ToolQA-GSM8K-v0")
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_other_process, args=(pickle.dumps(env), there))
    child.start()
    there.close()
    assert here.recv() == play(env)
    child.join()


def test_a_step_that_was_begun_is_copied() -> None:
    env = inner(begun("ToolQA-GSM8K-v0"))
    calls = env.begin("Action: Calculator[3*3]")
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        results = twin.current_tools.execute(calls)
        assert twin.finish(results)[0].startswith("Response from tool Calculator[3*3] are: 9\n")
    assert len(env.trajectory.steps) == 1
    seen = env.finish(env.current_tools.execute(calls))[0]
    assert seen.startswith("Response from tool Calculator[3*3] are: 9\n")


def test_what_gym_make_did_not_make() -> None:
    env = inner(gym.make("ToolQA-GSM8K-v0"))
    env.spec = None
    env.reset(seed=0)
    with pytest.raises(BadInputError, match=r"only an environment of gym.make can be pickled"):
        pickle.dumps(env)
    twin = copy.deepcopy(env)
    assert twin.step("hm") == env.step("hm")


def documents(env: gym.Env[Any, Any]) -> dict[str, Any]:
    _, info = env.reset(seed=3)
    return {tool["function"]["name"]: tool["function"] for tool in info["tools"]}


@pytest.mark.parametrize("env_id", ALL)
def test_a_changed_description_is_the_environments_own(env_id: str) -> None:
    first, second = gym.make(env_id), gym.make(env_id)
    original = documents(second)
    documents(first)
    tools = inner(first).toolset if env_id != "ToolScenario-v0" else inner(first).current_tools
    (name, *_) = tools.names
    tools[name].description = "changed"
    tools[name].parameters["properties"].clear()
    assert documents(second) == original == documents(gym.make(env_id))
    if env_id != "ToolScenario-v0":  # whose tools are those of the task
        assert documents(first)[name]["description"] == "changed"
        for twin in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
            assert documents(twin)[name]["description"] == "changed"
            inner(twin).toolset[name].description = "changed again"
        assert documents(first)[name]["description"] == "changed"
    told = documents(first)
    told[name].clear()
    assert documents(first)[name] != {}


def test_calls_of_a_vector_are_still_answered_together() -> None:
    envs = gym.make_vec("ToolQA-GSM8K-v0", num_envs=3)
    assert isinstance(envs, ToolVectorEnv)
    assert len({id(inner(env)._toolset) for env in envs.envs}) == 1
    envs.close()


@pytest.mark.parametrize("env_id", ["ToolQA-GSM8K-v0", "ToolScenario-v0"])
def test_a_registered_limit_of_steps_holds_in_our_vectors(env_id: str) -> None:
    spec = replace(gym.spec(env_id), max_episode_steps=2)
    envs = gym.make_vec(spec, num_envs=2)
    assert isinstance(envs, ToolVectorEnv)
    envs.reset(seed=1)
    assert not envs.step(("", ""))[3].any()
    assert envs.step(("", ""))[3].all()
    assert all(env.unwrapped.finished.truncated for env in envs.envs)
    assert gym.make(envs.envs[0].unwrapped.spec).spec.max_episode_steps == 2


def test_what_a_vector_cannot_hold_is_refused() -> None:
    with pytest.raises(BadInputError, match="max_episode_steps is a whole number of at least 1"):
        gym.make_vec("ToolQA-GSM8K-v0", num_envs=2, max_episode_steps=0)
    with pytest.raises(gym.error.Error, match="wrappers"):
        gym.make_vec(
            "ToolQA-GSM8K-v0",
            num_envs=2,
            vectorization_mode="vector_entry_point",
            wrappers=[gym.wrappers.RecordEpisodeStatistics],
        )


@pytest.mark.parametrize("seed", ["a", -1, True, 1.5])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(BadInputError, match="seed is a whole number of at least 0"):
        gym.make("ToolQA-GSM8K-v0").reset(seed=seed)
