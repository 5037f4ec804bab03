"""What a real model wrote with a search tool, against the scores that its authors published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolgym.formats import get_format
from toolgym.grading.answers import exact, overlap_f1, right
from toolgym.task import Task

FILES = ("search-r1-popqa", "search-r1-triviaqa")
# Where the paper's normalisation gives another F1 than SQuAD's; explained in docs/evaluation.md.
F1_DIFFERS = {"test_9721", "test_10913", "test_4778", "test_3567", "test_34", "test_4418"}


@pytest.fixture(scope="module", params=FILES)
def rows(request: pytest.FixtureRequest, data_dir: Path) -> list[dict[str, Any]]:
    lines = (data_dir / "recorded-runs" / f"{request.param}.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert len(found) == 250
    return found


def task_of(row: dict[str, Any]) -> Task:
    return Task(row["id"], row["question"], tuple(row["answers"]))


def test_the_parsed_answer_is_the_recorded_one(rows: list[dict[str, Any]]) -> None:
    codec = get_format("tags")
    different = [r["id"] for r in rows if (codec.parse(r["completion"]).answer or "") != r["pred"]]
    assert different == []


def test_squad_normalisation_gives_every_recorded_score(rows: list[dict[str, Any]]) -> None:
    codec = get_format("tags")
    for row in rows:
        answer = codec.parse(row["completion"]).answer or ""
        ours = {
            "em": exact(answer, row["answers"], "squad"),
            "acc": right(answer, task_of(row), "squad", preset="paper"),
            "f1": overlap_f1(answer, row["answers"], "squad"),
        }
        assert ours == row["scores"], row["id"]


def test_paper_normalisation_differs_in_six_f1_scores_only(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        scores, golds = row["scores"], row["answers"]
        assert exact(row["pred"], golds) == scores["em"], row["id"]
        assert right(row["pred"], task_of(row), preset="paper") == scores["acc"], row["id"]
        assert (overlap_f1(row["pred"], golds) == scores["f1"]) == (row["id"] not in F1_DIFFERS)


def test_whole_words_change_nothing_on_these_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        found = right(row["pred"], task_of(row), whole_words=True, preset="paper")
        assert found == row["scores"]["acc"]
