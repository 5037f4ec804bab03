"""Rows of tasks are read exactly or refused by line; reset options likewise."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym import Task
from toolgym.errors import BadInputError
from toolgym.task import task_from_row, whole_number
from toolgym.tasksource import read_tasks


def read(path: Path, **row: Any) -> Task:
    path.write_text(json.dumps({"question": "Q?"} | row) + "\n", encoding="utf-8")
    return read_tasks(path)[0]


@pytest.mark.parametrize(
    "row",
    [
        {"answers": ["x", None]},
        {"answers": [float("nan")]},
        {"answers": float("inf")},
        {"answers": [True]},
        {"answer": False},
        {"answers": [["x"]]},
        {"answers": [{"text": "x"}]},
        {"answers": [""]},
        {"answers": ["x", " "]},
        {"answers": []},
        {"answers": {}},
        {},
        {"answer": "five", "answer_type": "number"},
        {"answers": ["5", "none"], "answer_type": "number"},
        {"answer": "x", "id": True},
        {"answer": "x", "id": 1.5},
        {"answer": "x", "id": ["a"]},
        {"answer": "x", "split": 0},
    ],
    ids=str,
)
def test_what_no_answer_can_meet_is_refused(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="line 1: "):
        read(tmp_path / "t.jsonl", **row)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"answer": 0.00001}, ("0.00001",)),
        ({"answer": 1e20}, ("100000000000000000000",)),
        ({"answer": 0}, ("0",)),
        ({"answers": 5.0}, ("5.0",)),
        ({"answers": None, "answer": "x"}, ("x",)),
        ({"answers": [" x "]}, (" x ",)),
        ({"answers": [10**30]}, (str(10**30),)),
    ],
    ids=str,
)
def test_golds_are_read_exactly(
    row: dict[str, Any], expected: tuple[str, ...], tmp_path: Path
) -> None:
    assert read(tmp_path / "t.jsonl", **row).answers == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_stays_the_number(value: float) -> None:
    (gold,) = task_from_row({"question": "Q?", "answer": value}, "a").answers
    assert float(gold) == value
    assert "e" not in gold.lower()
    assert Decimal(gold) == Decimal(repr(value))


def test_numbers_of_numpy_are_numbers() -> None:
    row = {"question": "Q?", "answers": [np.int64(3), np.float64(0.5)], "id": np.int64(0)}
    assert task_from_row(row, "a").answers == ("3", "0.5")
    assert task_from_row(row, "a").id == "0"


@pytest.mark.parametrize(
    ("given_id", "expected"), [(0, "0"), ("0", "0"), ("", "line-1"), (None, "line-1"), (7, "7")]
)
def test_ids_are_kept(given_id: Any, expected: str, tmp_path: Path) -> None:
    assert read(tmp_path / "t.jsonl", answer="x", id=given_id).id == expected


def families(tmp_path: Path, env_id: str, row: dict[str, Any]) -> list[Task]:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"question": "Q?"} | row) + "\n", encoding="utf-8")
    return list(gym.make(env_id, tasks=str(path)).unwrapped.tasks)  # type: ignore[attr-defined]


def test_families(tmp_path: Path) -> None:
    trivia = {"question_id": "tc_1", "answer": {"value": "X", "aliases": ["X", "Y"]}}
    (task,) = families(tmp_path, "ToolQA-TriviaQA-v0", trivia)
    assert (task.id, task.answers, task.metadata) == ("tc_1", ("X", "Y"), {"question_id": "tc_1"})
    (task,) = families(tmp_path, "ToolQA-GSM8K-v0", {"answer": "She has 3.\n#### 1,003"})
    assert (task.answers, task.metadata["solution"]) == (("1003",), "She has 3.")
    (task,) = families(tmp_path, "ToolQA-GSM8K-v0", {"answer": "$1,003.50"})
    assert task.answers == ("$1,003.50",)
    for env_id, answer in (
        ("ToolQA-GSM8K-v0", "the 5 results are not known"),
        ("ToolQA-GSM8K-v0", "x\n#### five"),
        ("ToolQA-GSM8K-v0", "x\n####"),
        ("ToolQA-TriviaQA-v0", {"value": "<unk>", "aliases": []}),
        ("ToolQA-TriviaQA-v0", {"value": None, "aliases": None}),
    ):
        with pytest.raises(BadInputError, match="line 1: "):
            families(tmp_path, env_id, {"answer": answer})


def test_reset_options() -> None:
    env = gym.make("ToolQA-PopQA-v0")
    ids = [task.id for task in env.unwrapped.tasks]  # type: ignore[attr-defined]
    for task in (3, np.int64(3), np.uint8(3), np.array(3), ids[3], np.str_(ids[3])):
        assert env.reset(options={"task": task})[1]["task_id"] == ids[3]
    env.reset(options={"sample": np.int32(5)})
    assert env.unwrapped.trajectory.to_row()["sample"] == 5  # type: ignore[attr-defined]
    json.dumps(env.unwrapped.trajectory.to_row())  # type: ignore[attr-defined]
    for options in (
        {"task": True},
        {"task": np.True_},
        {"task": 3.0},
        {"task": -1},
        {"task": len(ids)},
        {"task": [3]},
        {"task": np.array([3])},
        {"task": b"x"},
        {"task": "no such"},
        {"sample": "a"},
        {"sample": None},
        {"sample": 1.0},
        {"sample": -1},
        {"smaple": 1},
        {5: 1, "task": 1},
        ["task"],
    ):
        with pytest.raises(BadInputError):
            env.reset(options=options)  # type: ignore[arg-type]


@given(st.integers(0, 2**70))
def test_whole_numbers(value: int) -> None:
    assert whole_number("n", value) == value
