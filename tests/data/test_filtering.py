"""Filtering: every filter, the counts that add up, and the messages of what cannot be done."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

import toolgym
from toolgym import Trajectory, select
from toolgym.data.conditions import condition, measure
from toolgym.errors import BadInputError, MissingFileError, UnknownNameError
from toolgym.rollouts.recording import read_recording
from toolgym.trajectory import Tokens

CALL = "Thought: I compute.\nAction: Calculator[6*7]"
BROKEN = "Thought: I compute.\nAction: Calculator[6*]"
RIGHT = "Answer: 42"
WRONG = "Answer: 41"


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> toolgym.ToolEnv:
    file = tmp_path_factory.mktemp("tasks") / "tasks.jsonl"
    rows = [{"id": f"q{n}", "question": f"What is 6*7? ({n})", "answers": ["42"]} for n in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = gym.make("ToolQA-GSM8K-v0", tasks=str(file), tools=["Calculator"]).unwrapped
    assert isinstance(made, toolgym.ToolEnv)
    return made


def play(env: toolgym.ToolEnv, task: str, sample: int, *replies: str) -> Trajectory:
    env.reset(seed=0, options={"task": task, "sample": sample})
    for reply in replies:
        env.step(reply)
    return env.trajectory


@pytest.fixture(scope="module")
def episodes(env: toolgym.ToolEnv) -> list[Trajectory]:
    return [
        play(env, "q0", 0, CALL, RIGHT),
        play(env, "q0", 1, CALL, RIGHT),
        play(env, "q0", 2, RIGHT),
        play(env, "q0", 3, WRONG),
        play(env, "q1", 0, BROKEN, CALL, RIGHT),
        play(env, "q1", 1, "Thought: quick.\n" + RIGHT),
        play(env, "q2", 0, WRONG),
    ]


def test_right_episodes_are_kept_once_and_the_counts_add_up(episodes: list[Trajectory]) -> None:
    selection = select(episodes)
    assert [t.id for t in selection] == ["q0#0", "q0#2", "q1#0", "q1#1"]
    assert selection.dropped == {"not accuracy>=1": 2, "same text as another of its task": 1}
    assert selection.total == len(episodes)


def test_tools_only_asks_for_a_call(episodes: list[Trajectory]) -> None:
    selection = select(episodes, tools="only")
    assert [t.id for t in selection] == ["q0#0", "q1#0"]
    assert selection.dropped["no tool call"] == 2


def test_conditions_join_and_compare_recorded_measures(episodes: list[Trajectory]) -> None:
    kept = select(episodes, where="accuracy>=1 and tool_errors==0, calls>0", dedupe=None)
    assert [t.id for t in kept] == ["q0#0", "q0#1"]
    assert select(episodes, where=("steps", 3)).kept[0].id == "q1#0"
    assert condition("execution_precision>0.9")(episodes[0])
    assert measure("reward")(episodes[0]) == measure("accuracy")(episodes[0]) == 1.0


def test_best_of_ranks_within_a_task_and_keeps_the_earlier_of_a_tie(
    episodes: list[Trajectory],
) -> None:
    selection = select(episodes, where="accuracy>=1", best_of=1, by="calls")
    assert [t.id for t in selection] == ["q0#0", "q1#0"]
    assert selection.dropped["not among the best 1 of its task by calls"] == 2
    fewest = select(episodes, where="calls<=1 and accuracy>=1", best_of=1)
    assert [t.id for t in fewest] == ["q0#0", "q1#1"]


def test_the_cap_is_drawn_by_seed_and_task(episodes: list[Trajectory]) -> None:
    drawn = {
        tuple(t.id for t in select(episodes, dedupe=None, per_task=1, seed=seed))
        for seed in range(20)
    }
    assert len(drawn) > 1
    assert all(len(ids) == 2 and ids[0].startswith("q0") for ids in drawn)
    first = select(episodes, dedupe=None, per_task=1, seed=3)
    assert [t.id for t in first] == [
        t.id for t in select(episodes, per_task=1, dedupe=None, seed=3)
    ]


def test_token_twins_are_found_by_tokens_only(episodes: list[Trajectory]) -> None:
    twins = [Trajectory.from_row(t.to_row()) for t in episodes[:3]]
    for trajectory, ids in zip(twins, ([5, 6], [5, 7], [5, 6]), strict=True):
        trajectory.tokens = Tokens([1, 2], ids, [1, 1])
    assert [t.id for t in select(twins, dedupe="tokens")] == ["q0#0", "q0#1"]
    with pytest.raises(BadInputError, match="without tokens"):
        select(episodes, dedupe="tokens")


def test_metrics_that_were_recorded_can_be_asked_for(episodes: list[Trajectory]) -> None:
    rated = [Trajectory.from_row(t.to_row()) for t in episodes]
    rated[2].metrics["judge"] = 0.9
    assert [t.id for t in select(rated, where="judge>0.5")] == ["q0#2"]


def test_bad_names_and_conditions_say_what_is_near(episodes: list[Trajectory]) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'accuracy'"):
        select(episodes, where="acuracy>=1")
    with pytest.raises(BadInputError, match="write it as 'accuracy>=1'"):
        select(episodes, where="accuracy is good")
    with pytest.raises(BadInputError, match=r"tools must be one of any, only, not 'onyl'"):
        select(episodes, tools="onyl")
    with pytest.raises(BadInputError, match="best_of must be at least 1"):
        select(episodes, best_of=0)
    with pytest.raises(BadInputError, match="runs, paths or trajectories are needed, not int"):
        select([1])
    with pytest.raises(BadInputError, match="trajectories are needed, not str"):
        select([episodes[0], "q0"])


def test_nothing_kept_says_which_filter_took_them(episodes: list[Trajectory]) -> None:
    with pytest.raises(BadInputError, match="none of 7 episodes was kept: 7 not calls>=9; loosen"):
        select(episodes, where="calls>=9")


def test_a_selection_is_written_and_read_back(episodes: list[Trajectory], tmp_path: Path) -> None:
    selection = select(episodes, per_task=1)
    file = selection.write(tmp_path / "kept")
    assert file == tmp_path / "kept" / "trajectories.jsonl"
    summary = json.loads((tmp_path / "kept" / "selection.json").read_text(encoding="utf-8"))
    assert summary["total"] == 7
    assert summary["kept"] + sum(summary["dropped"].values()) == 7
    for path in (file, tmp_path / "kept"):
        again, origin = read_recording(path)
        assert [t.to_row() for t in again] == [t.to_row() for t in selection]
        assert origin["selection"]["dropped"] == selection.dropped


def test_a_run_folder_is_filtered_with_its_origin(tmp_path: Path) -> None:
    run = toolgym.rollout(
        "ToolQA-GSM8K-v0",
        lambda messages, tools: RIGHT,
        env_args={"tools": ["Calculator"]},
        episodes=3,
        out=tmp_path / "first",
    )
    selection = select(tmp_path / "first", where=None)
    assert len(selection) == len(run) == 3
    assert selection.origin["task_source"] == "sample"
    with pytest.raises(MissingFileError, match="did you mean 'first'"):
        select(tmp_path / "frist")


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 3),
    st.sampled_from(["any", "only"]),
)
def test_kept_and_dropped_always_add_up(
    env: toolgym.ToolEnv, drawn: list[tuple[int, bool, bool]], cap: int, tools: str
) -> None:
    made = [
        play(env, f"q{task}", n, *([CALL] if call else []), RIGHT if right else WRONG)
        for n, (task, right, call) in enumerate(drawn)
    ]
    try:
        selection = select(made, tools=tools, per_task=cap)
    except BadInputError:
        assert not any(right and (call or tools == "any") for _, right, call in drawn)
        return
    assert len(selection) + sum(selection.dropped.values()) == len(made)
    assert all(condition("accuracy>=1")(t) for t in selection)
    groups = [t.task.id for t in selection]
    assert max(groups.count(task) for task in groups) <= cap
