"""What is played: ids, instances, their wrappers, objects as arguments; and what is refused."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.wrappers import (
    NormalizeReward,
    RecordEpisodeStatistics,
    TimeLimit,
    TransformAction,
    TransformObservation,
    TransformReward,
)

import toolgym
from toolgym import Run, Task, rollout, tool
from toolgym.errors import BadInputError, RunMismatchError, ToolgymError, UnknownNameError
from toolgym.policies.base import Policy, Reply, ReplyTokens
from toolgym.rollouts.playing import open_env
from toolgym.training.grpo import worlds_of
from toolgym.training.trl_environment import trl_environment

POPQA = "ToolQA-PopQA-v0"
MAKE = "toolgym.envs.toolqa.families:make_popqa"


def guess(messages: Any, tools: Any) -> str:
    return "Thought: I know.\nAnswer: politician"


def dither(messages: Any, tools: Any) -> str:
    return "Thought: Once more.\nAction: Calculator[1+1]\nRationale:\nAnswer:"


@pytest.fixture
def register() -> Iterator[Any]:
    """Registers ids with gymnasium for one test."""
    names = []

    def add(name: str, **given: Any) -> str:
        names.append(name)
        gym.register(name, entry_point=MAKE, **given)
        return name

    yield add
    for name in names:
        del gym.registry[name]


def ended(run: Run) -> set[tuple[int, bool, bool]]:
    return {(len(t.steps), t.terminated, t.truncated) for t in run}


def test_a_registered_limit_of_steps_holds(register: Any, tmp_path: Path) -> None:
    short = register("Short-v0", max_episode_steps=1)
    run = rollout(short, dither, episodes=3, out=tmp_path)
    assert ended(run) == {(1, False, True)}
    assert json.loads((tmp_path / "run.json").read_text())["env"]["max_episode_steps"] == 1
    assert ended(rollout(short, dither, episodes=2, env_args={"max_steps": 5})) == {
        (1, False, True)
    }
    env = TimeLimit(gym.make(POPQA, max_steps=5), 2)
    assert ended(rollout(env, dither, episodes=2)) == {(2, False, True)}
    assert env.unwrapped.max_steps == 5, "what the user holds is left alone"
    assert open_env(short).bare("training").max_steps == 1


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("concurrency", [1, 5])
def test_rewards_of_registered_wrappers_are_recorded(
    register: Any, tmp_path: Path, batched: bool, concurrency: int
) -> None:
    scaled = TransformReward.wrapper_spec(func=lambda reward: 10 * reward + 1)
    name = register("Scaled-v0", additional_wrappers=(scaled,))
    player = _Batched() if batched else guess
    run = rollout(name, player, episodes=60, out=tmp_path, concurrency=concurrency)
    plain = rollout(POPQA, guess, episodes=60)
    assert [t.reward for t in run] == [10 * t.reward + 1 for t in plain]
    assert [t.steps[-1].reward_parts for t in run] == [t.steps[-1].reward_parts for t in plain]
    again = rollout(name, player, episodes=60, out=tmp_path)
    assert [t.reward for t in again] == [t.reward for t in run]
    with pytest.raises(RunMismatchError, match="env"):
        rollout(POPQA, player, episodes=60, out=tmp_path)


class _Batched(Policy):
    batched = True

    def act(self, requests: Any) -> list[Any]:
        return [Reply(guess(None, None), ReplyTokens([1], [2, 3])) for _ in requests]

    def describe(self) -> dict[str, Any]:
        return {"policy": "guess"}


def test_instances_are_played_and_resumed(tmp_path: Path) -> None:
    env = gym.make(POPQA, max_steps=3, reward={"mine": halves})
    env.reset(seed=1)
    begun = env.unwrapped.trajectory.id
    run = rollout(env, dither, episodes=4, out=tmp_path)
    assert ended(run) == {(3, False, True)}
    assert {t.reward for t in run} == {1.5}
    assert env.unwrapped.trajectory.id == begun, "nobody has stepped the user's own"
    told = json.loads((tmp_path / "run.json").read_text())["env"]
    assert (told["id"], told["instance"]["max_steps"]) == (POPQA, 3)
    assert "halves#" in told["instance"]["reward"]["mine"]["function"]
    assert len(rollout(env, dither, episodes=6, out=tmp_path)) == 6
    env.unwrapped.max_steps = 2
    with pytest.raises(RunMismatchError, match=r"env\.instance\.max_steps"):
        rollout(env, dither, episodes=6, out=tmp_path)


def halves(task: Any, trajectory: Any) -> list[float]:
    return [0.5] * len(trajectory.steps)


def test_what_a_wrapper_keeps_reaches_no_other_episode() -> None:
    env = NormalizeReward(gym.make(POPQA, reward={"mine": halves}, max_steps=3))
    runs = [rollout(env, dither, episodes=12, concurrency=width) for width in (1, 4)]
    rows = [[[step.reward for step in t.steps] for t in run] for run in runs]
    assert rows[0] == rows[1]
    assert len({tuple(row) for row in rows[0]}) == 1
    assert ended(rollout(RecordEpisodeStatistics(env), dither, episodes=2)) == {(3, False, True)}


class Preamble(gym.Wrapper[str, str, str, str]):
    """Puts a message of its own before all others, and hides the tools."""

    def __init__(self, env: gym.Env[str, str], text: str) -> None:
        super().__init__(env)
        self.text = text

    def reset(self, **given: Any) -> Any:
        seen, info = self.env.reset(**given)
        return seen, self._info(info)

    def step(self, action: str) -> Any:
        *found, info = self.env.step(action)
        return *found, self._info(info)

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        first = {"role": "system", "content": self.text}
        return {**info, "messages": [first, *info["messages"]], "tools": info["tools"][:1]}


def test_messages_and_tools_of_a_wrapper_are_what_the_policy_reads_and_the_record_says() -> None:
    seen = []

    def policy(messages: Any, tools: Any) -> str:
        seen.append((messages[0]["content"], len(tools)))
        return dither(messages, tools)

    env = Preamble(gym.make(POPQA, max_steps=2), "Be brief.")
    (trajectory,) = rollout(env, policy, episodes=1)
    assert seen == [("Be brief.", 1)] * 2
    assert trajectory.messages[0].content == "Be brief."
    assert [m.role for m in trajectory.messages].count("assistant") == 2
    assert len(trajectory.tools) == 1


def test_replies_that_a_wrapper_changes_have_no_tokens() -> None:
    env = gym.make(POPQA)
    other = TransformAction(env, lambda reply: "Answer: 12", env.action_space)
    (trajectory,) = rollout(other, _Batched(), episodes=1)
    assert (trajectory.answer, trajectory.tokens) == ("12", None)
    (plain,) = rollout(env, _Batched(), episodes=1)
    assert plain.tokens is not None


class Twice(gym.Wrapper[str, str, str, str]):
    def step(self, action: str) -> Any:
        self.env.step(action)
        return self.env.step(action)


class Deaf(gym.Wrapper[str, str, str, str]):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return self.env.reset(seed=seed)


class Endless(gym.Wrapper[str, str, str, str]):
    def step(self, action: str) -> Any:
        seen, reward, _, _, info = self.env.step(action)
        return seen, reward, False, False, info


class Bare(gym.Wrapper[str, str, str, str]):
    def reset(self, **given: Any) -> Any:
        return self.env.reset(**given)[0], {}


class Locked(gym.Wrapper[str, str, str, str]):
    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self._lock = threading.Lock()


class Odd(gym.Wrapper[str, str, str, str]):
    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.logger = object()


@pytest.mark.parametrize(
    ("wrap", "why"),
    [
        (Twice, "Twice does not play one turn for each reply"),
        (Deaf, "Deaf does not hand on the options"),
        (Endless, "Endless goes on after the end"),
        (Bare, "Bare takes 'messages' or 'tools' out"),
        (Locked, "Locked: one of them cannot be copied"),
        (Odd, "wrapper Odd\\['logger'\\] is <object"),
        (
            lambda env: TransformObservation(env, str.upper, env.observation_space),
            "TransformObservation changes the observation",
        ),
    ],
)
def test_wrappers_that_cannot_be_played_are_refused_by_name(wrap: Any, why: str) -> None:
    player = guess if wrap is Endless else dither
    with pytest.raises(BadInputError, match=why) as caught:
        rollout(wrap(gym.make(POPQA)), player, episodes=40, concurrency=3)
    assert "\n" not in str(caught.value)


def test_training_refuses_wrappers_that_it_would_drop(register: Any) -> None:
    spec = TransformReward.wrapper_spec(func=halves)
    name = register("Dropped-v0", additional_wrappers=(spec,), max_episode_steps=2)
    for opening in (worlds_of, lambda env: trl_environment(env, {"format": "hermes"})):
        with pytest.raises(BadInputError, match="TransformReward"):
            opening(name)
    with pytest.raises(BadInputError, match="TransformReward"):
        worlds_of(TransformReward(gym.make(POPQA), halves))
    assert worlds_of(gym.make(POPQA, max_steps=3))[0].max_steps == 3


@tool
def distance(city_a: str, city_b: str) -> float:
    """Kilometres between two cities.

    Args:
        city_a: from.
        city_b: to.
    """
    return float(len(city_a) + len(city_b))


ROWS = [{"question": "How far?", "answer": "5"}, {"question": "How far now?", "answer": "6"}]


def measure(messages: Any, tools: Any) -> str:
    return 'Thought: I ask.\nAction: distance[{"city_a": "Bern", "city_b": "B"}]\nRationale:'


def test_objects_as_arguments_are_told_and_resumed(tmp_path: Path) -> None:
    args = {"tools": ["Calculator", distance], "reward": halves, "tasks": ROWS, "max_steps": 2}
    for _ in range(2):
        run = rollout(POPQA, measure, env_args=args, out=tmp_path)
        assert [t.reward for t in run] == [1.0, 1.0]
        assert [r.content for t in run for _, r in t.calls] == ["5.0"] * 4
    told = json.loads((tmp_path / "run.json").read_text())["env"]["args"]
    assert told["tasks"] == {"source": "given by a list", "name": "PopQA", "tasks": 2}
    assert told["tools"][1]["tool"] == "distance"
    for other in ({"tasks": [*ROWS[:1], {**ROWS[1], "answer": "7"}]}, {"reward": "accuracy"}):
        with pytest.raises(RunMismatchError):
            rollout(POPQA, measure, env_args=args | other, out=tmp_path)


def test_tasks_may_be_a_list_a_task_set_or_a_data_set() -> None:
    import datasets

    tasks = [Task("a", "How far?", ("5",), split="test"), Task("b", "How far now?", ("6",))]
    for given in (
        tasks,
        toolgym.TaskSet(tasks, source="mine"),
        datasets.Dataset.from_list([task.to_row() for task in tasks]),
    ):
        env = gym.make(POPQA, tasks=given)
        assert [task.id for task in env.unwrapped.tasks] == ["a", "b"]
    assert len(gym.make(POPQA, tasks=tasks, split="test").unwrapped.tasks) == 1


class Rounded:
    """A reward that is an object."""

    def __init__(self, digits: int) -> None:
        self.digits = digits

    def __call__(self, task: Any, trajectory: Any) -> list[float]:
        return [round(0.123, self.digits)] * len(trajectory.steps)


def test_rewards_may_be_objects_and_partials(tmp_path: Path) -> None:
    for number, reward in enumerate((Rounded(1), functools.partial(halves))):
        out = tmp_path / str(number)
        run = rollout(POPQA, guess, env_args={"reward": {"mine": reward}}, episodes=2, out=out)
        assert {t.reward for t in run} == {(0.1, 0.5)[number]}
        assert len(rollout(POPQA, guess, env_args={"reward": {"mine": reward}}, out=out)) > 2
    with pytest.raises(RunMismatchError, match="digits"):
        rollout(POPQA, guess, env_args={"reward": {"mine": Rounded(2)}}, out=tmp_path / "0")


def test_tool_objects_go_to_other_processes() -> None:
    envs = gym.make_vec(POPQA, num_envs=2, vectorization_mode="async", tools=[distance])
    envs.reset(seed=1)
    seen, *_ = envs.step((measure(None, None),) * 2)
    envs.close()
    assert all("5.0" in text for text in seen)


@pytest.mark.parametrize(
    ("env", "args", "policy", "says"),
    [
        (None, None, guess, "an environment is an id.* not None"),
        (POPQA, ["corpus"], guess, "keyword arguments by name, not \\['corpus'\\]"),
        (POPQA, {}, 42, "a policy is a callable.* not 42"),
        (POPQA, {}, None, "a policy is a callable.* not None"),
        (POPQA, {}, Policy, "not the class 'Policy': give an instance"),
        (POPQA, {}, lambda messages: "x", "takes others"),
        (POPQA, {"tools": "Calculator"}, guess, "list of names"),
        (POPQA, {"tools": [len]}, guess, "list of names"),
        (POPQA, {"tools": distance}, guess, "list of names"),
        (POPQA, {"reward": ["accuracy"]}, guess, "a reward is a name"),
        (POPQA, {"tasks": 5}, guess, "tasks are 'sample'.* not 5"),
        (POPQA, {"tasks": ROWS[0]}, guess, "tasks are 'sample'.* not {"),
        (POPQA, {"tasks": ["q"]}, guess, "row 0 of the tasks is 'q'"),
        (POPQA, {"tasks": [{"question": "q"}]}, guess, "row 0 of the tasks: there is no column"),
        (POPQA, {"tasks": []}, guess, "no tasks"),
        ("ToolScenario-v0", {"tasks": ROWS}, guess, "row 0 of the scenarios"),
        ("CartPole-v1", {}, guess, "is a CartPoleEnv, not a ToolEnv"),
        ("CartPole-v1", {"corpus": "x"}, guess, "CartPole-v1 has no argument 'corpus'"),
        ("nowhere:Some-v0", {}, guess, "module 'nowhere' cannot be imported"),
    ],
)
def test_anything_else_is_one_line(env: Any, args: Any, policy: Any, says: str) -> None:
    with pytest.raises(ToolgymError, match=says) as caught:
        rollout(env, policy, env_args=args)
    assert "\n" not in str(caught.value)


def test_arguments_for_an_instance_and_vectors_are_refused() -> None:
    with pytest.raises(BadInputError, match="env_args are for ids"):
        rollout(gym.make(POPQA), guess, env_args={"max_steps": 2})
    with pytest.raises(BadInputError, match="an environment is an id"):
        rollout(gym.make_vec(POPQA, num_envs=2), guess)


@pytest.mark.parametrize("name", ["ToolQA-PopQQ-v0", "toolgym:ToolQA-PopQQ-v0"])
def test_near_names_of_ids(name: str) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'ToolQA-PopQA-v0'"):
        rollout(name, guess)


def test_an_id_without_its_version_is_the_newest(register: Any) -> None:
    register("Aged-v0", max_episode_steps=1)
    register("Aged-v3", max_episode_steps=2)
    assert ended(rollout("Aged", dither, episodes=2)) == {(2, False, True)}
