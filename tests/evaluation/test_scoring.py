"""Scoring: rewards tried on recordings that stay as they are."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

import toolgym
from toolgym._util.jsonl import write_rows
from toolgym.checks.probes import episodes
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.evaluation.score import score
from toolgym.grading.rubric import Rubric
from toolgym.rollouts.recording import open_recording
from toolgym.task import Task
from toolgym.trajectory import Trajectory


def length(task: Task, trajectory: Trajectory) -> list[float]:
    return [1.0 for _ in trajectory.steps]


def test_every_way_to_name_a_rubric() -> None:
    recorded = episodes()
    table = score(
        recorded,
        {
            "by name": "exact_match",
            "spec": {"accuracy": 1.0, "execution_precision": 0.1, "token_f1": 0.0},
            "function": length,
            "rubric": Rubric({"length": (length, 0.5)}),
        },
    )
    assert table.ids == [t.id for t in recorded]
    assert table.totals["function"] == [float(len(t.steps)) for t in recorded]
    assert table.totals["rubric"] == [len(t.steps) / 2 for t in recorded]
    parts = table.parts["spec"]
    assert set(parts) == {"accuracy", "execution_precision", "token_f1"}
    weighted = zip(parts["accuracy"], parts["execution_precision"], strict=True)
    assert table.totals["spec"] == pytest.approx([a + 0.1 * e for a, e in weighted])
    row = table.rows["by name"]
    assert row.value == pytest.approx(sum(table.totals["by name"]) / len(recorded))
    assert row.low < row.value < row.high


def test_the_same_values_as_within_the_episode() -> None:
    recorded = [t for t in episodes() if t.steps]
    rubric = Rubric({"accuracy": 1.0, "execution_precision": 0.25})
    for trajectory in recorded:
        rubric.apply(trajectory)
    assert score(recorded, {"same": rubric}).totals["same"] == [t.reward for t in recorded]


def test_recordings_stay_as_they_are_even_under_a_careless_reward() -> None:
    def careless(task: Task, trajectory: Trajectory) -> list[float]:
        values = [0.5] * len(trajectory.steps)
        for step in trajectory.steps:
            step.reward, step.reward_parts["x"] = 9.0, 9.0
        trajectory.metrics["x"] = 1.0
        trajectory.messages.clear()
        trajectory.steps.clear()
        return values

    recorded = episodes()[1:3]
    before = copy.deepcopy(recorded)
    with pytest.raises(BadInputError, match="values for 0 steps"):
        score(recorded, {"careless": careless})
    assert recorded == before


def test_a_reward_that_fails_is_no_zero() -> None:
    def broken(task: Task, trajectory: Trajectory) -> list[float]:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        score(episodes(), {"broken": broken})


def test_tables_as_text_markdown_and_json() -> None:
    table = score(episodes(), {"a|b": "accuracy"})
    head = str(table).splitlines()[0]
    assert head.startswith("rubric  mean reward")
    assert head.endswith("n  95 % interval")
    assert f"| a\\|b | {table.rows['a|b'].value:.3f} |" in table.to_markdown()
    again = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert again["rows"][0]["n"] == len(episodes())
    assert again["totals"] == table.totals


def test_recordings_from_a_file(tmp_path: Path) -> None:
    recorded = [t for t in episodes() if t.steps and "\ud800" not in repr(t.steps)]
    write_rows(tmp_path / "kept.jsonl", [t.to_row() for t in recorded])
    assert [t.id for t in open_recording(tmp_path / "kept.jsonl")] == [t.id for t in recorded]
    from_file = toolgym.score(str(tmp_path / "kept.jsonl"), {"f1": "token_f1"})
    assert from_file.totals == score(recorded, {"f1": "token_f1"}).totals


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ({"accuracy": 1.0}, "a single weighted reward is"),
        ("accuracy", "rubrics need names"),
        ({}, "rubrics need names"),
    ],
)
def test_wrong_rubrics_are_one_clear_line(rewards: object, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        score(episodes(), rewards)  # type: ignore[arg-type]


def test_unknown_rewards_have_near_names() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'accuracy'"):
        score(episodes(), {"x": {"acuracy": 1.0}})
