"""Tasks from lists, frames, data sets and tables: the same tasks, the same hash, clear refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import toolgym
from toolgym import Task, rollout
from toolgym._util.jsonl import write_rows
from toolgym.cli import app
from toolgym.envs.toolscenario.environment import scenario_file
from toolgym.errors import BadInputError, RunMismatchError
from toolgym.tasksource import given_tasks, read_tasks

ROWS = [
    {"id": "a", "question": "What is 6 times 7?", "answers": ["42"], "level": 1},
    {"id": "b", "question": 'What is "6 + 1", spelt?', "answers": ["seven", "7"], "level": 2},
]
ENV = "ToolQA-PopQA-v0"


def answering(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    return "Thought: I know it.\nAnswer: 42"


def written(path: Path, rows: list[list[str]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(rows)
    return path


def table(path: Path, delimiter: str = ",") -> Path:
    head = list(ROWS[0])
    cells = [[str(r["id"]), str(r["question"]), json.dumps(r["answers"]), ""] for r in ROWS]
    return written(path, [head, *cells], delimiter)


def test_every_source_gives_the_same_tasks(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.jsonl", ROWS)
    frame = pd.DataFrame(ROWS)
    sources: list[Any] = [
        ROWS,
        tuple(ROWS),
        [Task("a", ROWS[0]["question"], ("42",), {"level": 1}), ROWS[1]],  # type: ignore[arg-type]
        datasets.Dataset.from_list(ROWS),
        datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
        frame,
        frame.iloc[::-1].iloc[::-1],
        str(tmp_path / "t.jsonl"),
    ]
    found = [gym.make(ENV, tasks=source).unwrapped.tasks for source in sources]  # type: ignore[attr-defined]
    assert {tasks.fingerprint() for tasks in found} == {found[0].fingerprint()}
    assert [task.answers for task in found[0]] == [("42",), ("seven", "7")]


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_tables(tmp_path: Path, suffix: str, delimiter: str) -> None:
    tasks = read_tasks(table(tmp_path / f"t.{suffix}", delimiter))
    assert [(t.id, t.question, t.answers) for t in tasks] == [
        (r["id"], r["question"], tuple(r["answers"]))  # type: ignore[arg-type]
        for r in ROWS
    ]
    assert tasks[0].metadata == {"level": None}
    run = CliRunner().invoke(
        app,
        [
            *("rollout", ENV, "--policy", "scripted", "--policy-arg", 'replies=["Answer: 42"]'),
            *("--tasks", str(tmp_path / f"t.{suffix}"), "--out", str(tmp_path / "run")),
        ],
    )
    assert run.exit_code == 0, run.output
    told = json.loads((tmp_path / "run/run.json").read_text())
    assert told["hashes"]["tasks"] == tasks.fingerprint()


def test_a_table_of_one_answer_a_row(tmp_path: Path) -> None:
    rows = [["question", "answer", "split"], ["Q?", "a, b", "test"], [], ["R?", "[x", ""]]
    tasks = read_tasks(written(tmp_path / "t.csv", rows))
    assert [(t.id, t.answers, t.split) for t in tasks] == [
        ("line-2", ("a, b",), "test"),
        ("line-4", ("[x",), ""),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("question,answers\nQ?,a,b\n", "line 2: 3 cells, and the header has 2"),
        ("question,answers\nQ?\n", "line 2: 1 cells"),
        ("question,question\nQ?,a\n", "names each column, none of them twice"),
        ("question,\nQ?,a\n", "names each column"),
        ("question,answers\nQ?,\"['a', 'b']\"\n", "JSON list"),
        ('question,answers\nQ?,"a\n', "behind line"),
        ("prompt,gold\nQ?,a\n", "is it 'prompt'"),
        ("Question,answers\nQ?,a\n", "did you mean 'Question'"),
        ("question,answer_text\nQ?,a\n", "columns: question, answer_text"),
        ("question,answers\n,a\n", "'question' must be a string, found None"),
        ("question,answers\n", "no tasks"),
        ("", "no tasks"),
        ("question,answers\nQ?,\xff\n", "behind line"),
    ],
)
def test_broken_tables(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInputError) as caught:
        read_tasks(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.lists(
        st.tuples(st.text(min_size=1), st.text(min_size=1)).filter(
            lambda row: row[0].strip() != "" and row[1].strip() != "" and row[1].lstrip()[0] != "["
        ),
        min_size=1,
    )
)
def test_what_a_table_holds_is_read_exactly(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("t")
    path = written(folder / "t.csv", [["question", "answer"], *map(list, rows)])
    assert [(task.question, task.target) for task in read_tasks(path)] == rows


def test_frames_say_what_is_missing_in_their_own_way() -> None:
    rows = [
        {"question": "Q?", "answers": np.array(["x", "y"]), "id": np.int64(3), "n": 1.0},
        {"question": "R?", "answers": "z", "id": None, "n": float("nan")},
    ]
    frame = pd.DataFrame(rows).astype({"id": "Int64"})
    frame["day"] = pd.to_datetime(["2026-01-02", None])
    first, second = given_tasks(frame)
    assert (first.id, first.answers) == ("3", ("x", "y"))
    assert first.metadata == {"n": 1.0, "day": "2026-01-02T00:00:00"}
    assert (second.id, second.metadata) == ("row-1", {"n": None, "day": None})


def test_a_dict_of_data_sets_brings_its_splits() -> None:
    parts = {name: datasets.Dataset.from_list([{k: r[k] for k in ("question", "answers")}])
             for name, r in zip(("train", "test"), ROWS, strict=True)}  # fmt: skip
    tasks = gym.make(ENV, tasks=datasets.DatasetDict(parts), split="test").unwrapped.tasks  # type: ignore[attr-defined]
    assert [(task.id, task.split) for task in tasks] == [("test-0", "test")]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (5, "tasks are"),
        ({"question": ["Q?"], "answers": [["a"]]}, "tasks are"),
        (["Q?"], "row 0 of the tasks is 'Q?', not a mapping"),
        ([ROWS[0], {"query": "Q?", "answers": ["a"]}], "row 1 of the tasks: there is no column"),
        (pd.DataFrame({"question": ["Q?"], "anwsers": ["a"]}), "did you mean 'anwsers'"),
        (pd.DataFrame({"question": ["Q?"], "label": ["a"]}), "is it 'label'"),
        (pd.DataFrame([["Q?", "a"]], columns=["question", "question"]), "a column twice"),
        ([], "no tasks"),
        ([ROWS[0], ROWS[0]], "stands twice"),
    ],
)
def test_what_holds_no_tasks(wrong: Any, said: str) -> None:
    with pytest.raises(BadInputError) as caught:
        rollout(ENV, answering, env_args={"tasks": wrong})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_goes_on_with_the_same_tasks_alone(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS)
    run = rollout(ENV, answering, env_args={"tasks": frame}, episodes=1, out=tmp_path)
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["env"]["args"]["tasks"]["source"] == "given by a DataFrame"
    assert told["hashes"]["tasks"] == given_tasks(ROWS).fingerprint()
    run = rollout(ENV, answering, env_args={"tasks": frame.copy()}, out=tmp_path)
    assert len(run) == 2
    frame.loc[1, "question"] = "What else?"
    with pytest.raises(RunMismatchError, match="tasks"):
        rollout(ENV, answering, env_args={"tasks": frame}, out=tmp_path)


def test_scenarios_in_memory() -> None:
    rows = [json.loads(line) for line in scenario_file("sample").read_text().splitlines()[:3]]
    everything = rollout("ToolScenario-v0", "scenario-oracle")
    expected = {t.id: t.reward for t in everything if t.task.id in {row["id"] for row in rows}}
    assert len(expected) == 3
    given: Any
    for given in (rows, pd.DataFrame(rows)):
        args = {"tasks": given}
        run = rollout("ToolScenario-v0", "scenario-oracle", env_args=args, policy_args=args)
        assert {trajectory.id: trajectory.reward for trajectory in run} == expected
        assert run.settings["policy"]["tasks"] == run.settings["task_source"]
    of_file = gym.make("ToolScenario-v0").unwrapped.tasks  # type: ignore[attr-defined]
    found = gym.make("ToolScenario-v0", tasks=rows).unwrapped.tasks  # type: ignore[attr-defined]
    assert found.fingerprint() == of_file[:3].fingerprint()
    for wrong, said in (
        ([ROWS[0]], "row 0 of the scenarios: it is not a scenario"),
        ([Task("a", "Q?", ("x",))], "it is a Task, and no scenario"),
        ([rows[0], rows[0]], "stands twice"),
        ([], "no scenarios"),
        (3, "tasks are"),
    ):
        with pytest.raises(BadInputError, match=said):
            gym.make("ToolScenario-v0", tasks=wrong)


def test_it_is_still_a_public_name() -> None:
    assert toolgym.read_tasks is read_tasks
