"""Planning, stopping, comparing and gates from the command line, with their exit codes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from toolgym.cli import app

ENV = "ToolQA-PopQA-v0"
PLANNED = (ENV, "--policy", "lookup", "--out", "x", "--plan-only")


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a poor run and a good one."""
    folder = tmp_path_factory.mktemp("decisions")
    (folder / "poor_policy.py").write_text(
        'def guess(messages, tools):\n    return "Thought: a guess.\\nAnswer: politician"\n'
    )
    before = Path.cwd()
    os.chdir(folder)
    for name, policy in (("poor", "poor_policy:guess"), ("good", "lookup")):
        assert (
            toolgym(
                *("rollout", ENV, "--policy", policy, "--episodes", "60", "--out", name)
            ).exit_code
            == 0
        )
    yield folder
    os.chdir(before)


def toolgym(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_a_plan_before_a_run() -> None:
    found = toolgym("plan-eval", "--accuracy", "0.5", "--within", "5", "--json")
    assert found.exit_code == 0
    assert json.loads(found.stdout)["rows"][0]["tasks"] == 385
    pilot = toolgym("plan-eval", "--pilot", "poor", "--against", "good", "--change", "20")
    assert "a change of 20 points with 80% power, the same tasks" in pilot.stdout
    several = ("--samples-per-task", "4", "--intraclass", "0.2", "--unpaired", "--tasks", "100")
    assert "different tasks" in toolgym("plan-eval", "--accuracy", "0.5", *several).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("plan-eval", "--within", "2"), 2, "one of both"),
        (("plan-eval", "--accuracy", ".5", "--against", "good", "--tasks", "9"), 2, "--pilot"),
        (("plan-eval", "--accuracy", "0.5"), 3, "say what is wanted"),
        (("plan-eval", "--accuracy", "60", "--tasks", "9"), 3, "between 0 and 1"),
        (("compare", "poor", "good", "--metric", "accuracy"), 2, "--until decided"),
        (("compare", "poor", "good", "--concurrency", "4"), 2, "not for recorded runs"),
        (("compare", "poor", "good", "--out", "x"), 2, "are for models"),
        (("compare", "lookup", "lookup", "--until", "decided"), 2, "one --env"),
        (("eval", "poor", "--gate", "accuracy=1"), 3, "a gate is a figure"),
        (("eval", "poor", "--gate", "acuracy>=1"), 2, "accuracy"),
        (("eval", "poor", "--until", "accuracy"), 3, "percentage points"),
        (("rollout", ENV, "--policy", "lookup", "--out", "x", "--until", "2"), 3, "points"),
        (("rollout", *PLANNED, "--until", "accuracy +- 2"), 2, "a plan is for shards"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: tuple[str, ...], code: int, said: str) -> None:
    found = toolgym(*arguments)
    assert found.exit_code == code
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1
    assert said in found.stderr


def test_gates_decide_the_exit_code_after_the_figures() -> None:
    kept = toolgym("eval", "good", "--gate", "exact_match>=0.5", "--gate", "malformed_rate<=20%")
    assert kept.exit_code == 0
    assert "gate exact_match>=0.5: passed" in kept.stdout
    failed = toolgym("eval", "poor", "--gate", "exact_match>=0.5", "--json")
    assert failed.exit_code == 6
    (gate,) = json.loads(failed.stdout)["gates"]
    assert (gate["gate"], gate["passed"]) == ("exact_match>=0.5", False)
    assert "1 of 1 gates failed: gate exact_match>=0.5: FAILED" in failed.stderr
    assert toolgym("compare", "poor", "good", "--gate", "accuracy>=-0.01").exit_code == 0
    assert toolgym("compare", "good", "poor", "--gate", "accuracy>=-0.01").exit_code == 6


def test_runs_are_compared_until_it_is_decided() -> None:
    found = toolgym("compare", "poor", "good", "--until", "decided", "--json")
    assert found.exit_code == 0
    told = json.loads(found.stdout)
    assert told["decision"]["verdict"] == "better"
    assert told["decision"]["tasks"] < told["tasks"] == 60
    played = toolgym(
        *("compare", "poor_policy:guess", "lookup", "--env", ENV, "--until", "decided"),
        *("--episodes", "60", "--out", "both", "--gate", "accuracy>=0"),
    )
    assert played.exit_code == 0
    assert "Stopping rule: decided, better, after" in played.stdout
    assert "gate accuracy>=0: passed" in played.stdout
    assert Path("both", "after", "run.json").is_file()


def test_a_run_that_stops_says_so() -> None:
    until = ("--until", "accuracy +- 15")
    played = toolgym("rollout", ENV, "--policy", "lookup", *until, "--out", "known", "--json")
    assert played.exit_code == 0
    told = json.loads(played.stdout)
    assert told["decided"]["reached"] is True
    assert told["finished"] == told["planned"] == told["decided"]["episodes"]
    shown = toolgym("eval", "known").stdout
    assert "Stopping rule: decided within 15 points after" in shown
    assert "unfinished" not in shown
    assert (
        "not decided within 2 points after 60 tasks"
        in toolgym("eval", "good", "--until", "accuracy +- 2").stdout
    )


def test_several_comparisons_are_corrected() -> None:
    found = toolgym("eval", "good", "--against", "poor", "--against", "good")
    assert "p of 2 (Holm)" in found.stdout
    told = json.loads(
        toolgym("eval", "good", "--against", "poor", "--against", "good", "--json").stdout
    )
    first, second = told["changes"]
    row = next(row for row in first["rows"] if row["name"] == "accuracy")
    assert first["p_holm"]["accuracy"] == pytest.approx(2 * row["p_value"])
    assert (first["against"], second["p_holm"]["accuracy"]) == ("poor", 1.0)
    alone = json.loads(toolgym("eval", "good", "--against", "poor", "--json").stdout)
    assert alone["change"]["rows"][0]["detectable"] > 0
