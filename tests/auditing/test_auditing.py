"""Audits: a clean environment passes, and each planted defect is found by its check."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import pytest
from audited import Sums
from typer.testing import CliRunner

import toolgym
from toolgym import audit
from toolgym.auditing import processes
from toolgym.auditing.report import AuditReport
from toolgym.cli import _app
from toolgym.cli.audit import FAILED
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.trajectory import read_trajectories

GIVEN: dict[str, Any] = {"gold": "info:gold", "reward_range": (0.0, 1.0), "tasks": 14}


def audited(defect: str, **more: Any) -> AuditReport:
    return audit(partial(Sums, defect), **{**GIVEN, **more})


def test_a_clean_environment_passes() -> None:
    report = audited("")
    assert report.passed, report
    assert report["oracle"].figures == {"hits": 14, "of": 14}
    assert report["determinism"].verdict == report["reset"].verdict == "passes"
    assert report["overlap"].verdict == "not shown"


@pytest.mark.parametrize(
    ("defect", "check"),
    [
        ("lenient", "floor: hedge"),
        ("unseeded", "determinism"),
        ("shared", "reset"),
        ("leak", "prompts"),
        ("tells", "errors"),
        ("nan", "reward"),
        ("late", "reward"),
        ("raises", "runs"),
    ],
)
def test_a_planted_defect_is_found(defect: str, check: str) -> None:
    report = audited(defect)
    assert check in report.failed, report
    assert report[check].rule


def test_a_step_that_never_returns_is_ended_and_one_that_exits_is_survived() -> None:
    hangs = audited("hangs", deadline=0.7, tasks=5)
    assert hangs.failed == ["deadline"]
    assert "was ended" in hangs["deadline"].says
    assert "process died" not in hangs["robust"].says
    assert "robust" in audited("dies", tasks=5).failed


@pytest.mark.parametrize(
    ("states", "comes"),
    [
        ([(True, 0.0), (True, 0.1), (True, 0.2)], True),  # it waits for a processor
        ([(False, 0.0), (False, 0.1), (False, 0.2)], True),  # asleep, but it has worked meanwhile
        ([(False, 0.0), (False, 0.0)], False),  # it sleeps
        ([(True, 0.0), (True, 0.5)], False),  # it has had its time
    ],
)
def test_a_process_that_has_had_no_processor_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, states: list[tuple[bool, float]], comes: bool
) -> None:
    shares, asked = iter(states), iter([False, False, True])
    monkeypatch.setattr(processes, "_worked", lambda pid: next(shares))
    monkeypatch.setattr(processes, "_has_come", lambda child, until: next(asked))
    child: Any = SimpleNamespace(process=SimpleNamespace(pid=0), receive=lambda end: b"late")
    if comes:
        assert processes._receive(child, time.monotonic() - 1e-3, 1.0) == b"late"
    else:
        with pytest.raises(TimeoutError):
            processes._receive(child, time.monotonic() - 1e-3, 1.0)


def test_a_wait_does_not_count_the_time_in_which_nobody_ran(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(processes, "_worked", lambda pid: (False, 0.0))
    looks = iter([600.0, 100.2, None])

    def come(child: Any, until: float) -> bool:
        step = next(looks)
        now[0] += step or 0.0
        return step is None

    monkeypatch.setattr(processes, "_has_come", come)
    child: Any = SimpleNamespace(process=SimpleNamespace(pid=0), receive=lambda end: b"late")
    assert processes._receive(child, 103.0, 3.0) == b"late"


def test_memory_that_stays_behind_is_found() -> None:
    assert audited("kept", tasks=20)["memory"].verdict == "fails"


def test_an_instance_and_an_id_of_ours_are_audited() -> None:
    report = audit(Sums(), **{**GIVEN, "tasks": 5})
    assert report.passed
    ours = audit("ToolQA-PopQA-v0", tasks=5)
    assert ours.passed
    assert ours.facts.kind == "toolgym"


def test_the_reference_solution_of_an_environment_is_played_by_its_policy() -> None:
    report = audit("ToolScenario-v0", tasks=4)
    assert report["oracle"].verdict == "passes"
    assert report.facts.oracle
    assert any(row["steps"][0].get("calls") for row in report.evidence) or report.passed


def rows(path: Path, count: int = 40, *more: dict[str, Any]) -> str:
    made = [
        {"question": f"What is {n} * 7?", "answer": str(n * 7)} for n in range(100, 100 + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*made, *more]))
    return str(path)


def test_a_file_of_tasks_with_a_reward_of_a_user(tmp_path: Path) -> None:
    file = rows(tmp_path / "tasks.jsonl")
    good = audit(file, reward="audited:graded", reward_range=(0, 1), tasks=12)
    assert good.passed, good
    bad = audit(file, reward="audited:pays_all", reward_range=(0, 1), tasks=12, held_out=file)
    assert {"floor: null", "floor: echo", "floor: constant", "overlap"} <= set(bad.failed)


def test_tasks_that_repeat_contradict_or_miss_a_gold(tmp_path: Path) -> None:
    again = {"question": "what is 101 *  7?", "answer": "707"}
    against = {"question": "What is 102 * 7?", "answer": "9"}
    bare = {"question": "What is nothing?", "answer": ""}
    report = audit(rows(tmp_path / "tasks.jsonl", 20, again, against, bare), tasks=5)
    assert {"duplicates", "contradictions", "solvable"} <= set(report.failed)
    assert "line-2 = line-21" in report["duplicates"].says


def written(path: Path, made: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return str(path)


def test_digits_behind_a_decimal_and_letters_behind_a_formula_are_no_defect(tmp_path: Path) -> None:
    sums = [{"question": f"{n} / 8?", "answer": f"{n / 8:.3f}"} for n in range(100, 130)]
    signed = [{"question": f"-{n} / 8?", "answer": f"-{n / 8:.3f}"} for n in range(100, 130)]
    whole: dict[str, Any] = {"reward": "audited:near", "reward_range": (0, 1), "tasks": 10}
    report = audit(written(tmp_path / "sums.jsonl", sums + signed), **whole)
    assert "floor: longer" not in report.failed, report
    formulas = [{"question": f"The integral of {2 * n}*x?", "answer": f"{n}*x**2 + C"}
                for n in range(3, 40)]  # fmt: skip
    given = {**whole, "reward": "audited:any_constant"}
    report = audit(written(tmp_path / "formulas.jsonl", formulas), **given)
    assert report.passed, report


def test_a_penalty_that_is_avoided_is_no_reward(tmp_path: Path) -> None:
    file = rows(tmp_path / "tasks.jsonl")
    given: dict[str, Any] = {"reward_range": (-1, 1), "tasks": 10}
    assert audit(file, reward="audited:penalised", **given).passed
    report = audit(file, reward="audited:abstains", **given)
    assert {"floor: null", "floor: empty"} <= set(report.failed), report


def test_a_reward_of_degrees_that_pays_much_for_answers_of_other_tasks_is_found(
    tmp_path: Path,
) -> None:
    made = [{"question": f"Mark {n} of 20.", "answer": "a" * (n % 20) + "x" + "a" * (19 - n % 20)}
            for n in range(40)]  # fmt: skip
    file = written(tmp_path / "tasks.jsonl", made)
    report = audit(file, reward="audited:by_letters", reward_range=(0, 1), tasks=10)
    assert report["floor: wrong gold"].verdict == "passes", report
    assert report["floor: wrong gold, in part"].verdict == "fails"


def test_golds_that_are_right_for_each_other_do_not_contradict(tmp_path: Path) -> None:
    made = [{"question": f"A divisor of {n * 7}?", "answer": "7", "right": ["7", str(n)]}
            for n in range(11, 41)]  # fmt: skip
    made = [{**row, "answer": row["right"][n % 2]} for n, row in enumerate(made)]
    again = {**made[0], "answer": made[0]["right"][1]}
    whole: dict[str, Any] = {"reward_range": (0, 1), "tasks": 10}
    file = written(tmp_path / "tasks.jsonl", [*made, again])
    report = audit(file, reward="audited:either_way", **whole)
    assert report["contradictions"].verdict == "passes", report
    assert "in 1 groups the golds are right" in report["contradictions"].says
    assert audit(file, reward="audited:graded", **whole)["contradictions"].verdict == "fails"


def test_another_gold_that_is_right_is_no_difference_between_processes() -> None:
    found = audited("written in two ways")["determinism"]
    assert found.verdict == "passes"
    assert "have another gold there, which is right, too" in found.says


def test_a_grader_that_evaluates_replies_is_found(tmp_path: Path) -> None:
    file = rows(tmp_path / "tasks.jsonl")
    report = audit(file, reward="audited:evaluates", reward_range=(0, 1), tasks=5, deadline=1)
    assert report["code"].verdict == "fails"
    assert "__import__" in report["code"].says
    assert len(report["code"].episodes) == 4  # alone and in a list, as it is and as an answer
    assert audit(file, tasks=3)["code"].verdict == "passes"


def test_the_command_writes_a_page_and_episodes_and_tells_by_its_exit_code(tmp_path: Path) -> None:
    file, out = rows(tmp_path / "tasks.jsonl"), tmp_path / "out"
    asked = ["audit", file, "--reward", "audited:pays_all", "--range", "0", "1", "--tasks", "6"]
    ran = CliRunner().invoke(_app(), [*asked, "--out", str(out), "--json"])
    assert ran.exit_code == FAILED, ran.output
    told = json.loads(ran.stdout)
    assert not told["passed"]
    found = next(f for f in told["findings"] if f["check"] == "floor: null")
    episodes = {t.id: t for t in read_trajectories(out / "trajectories.jsonl")}
    assert all(episodes[name].reward == 1 for name in found["episodes"])
    assert found["episodes"]
    assert json.loads((out / "audit.json").read_text()) == told
    for page in ("audit.md", "audit.html"):
        assert "floor: null" in (out / page).read_text()
    shown = CliRunner().invoke(_app(), ["view", str(out), "--id", found["episodes"][0]])
    assert shown.exit_code == 0, shown.output
    kept = CliRunner().invoke(_app(), ["audit", file, "--tasks", "4"])
    assert kept.exit_code == 0, kept.output


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(BadInputError, match="no option 'goldd'"):
        audit("ToolQA-PopQA-v0", goldd="info:x")
    with pytest.raises(BadInputError, match="at least 3"):
        audit("ToolQA-PopQA-v0", tasks=2)
    with pytest.raises(BadInputError, match="not 7"):
        audit(7)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="ToolQA-PopQ-v0"):
        audit("ToolQA-PopQ-v0", tasks=3)


def test_the_public_name_is_the_function() -> None:
    assert toolgym.audit is audit
    assert isinstance(Sums(), gym.Env)
