"""Two runs until it is decided, gates, and several comparisons at once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym import evaluate
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.evaluation import compare
from toolgym.evaluation.compare import holm_by_metric
from toolgym.evaluation.deciding import (
    Gate,
    GateError,
    check_gates,
    decide,
    play_decided,
    require_gates,
)
from toolgym.evaluation.groups import pass_all_k
from toolgym.sequential.until import Until
from toolgym.task import Task
from toolgym.trajectory import Step, Trajectory


def episode(number: int, right: bool, sample: int = 0) -> Trajectory:
    said = "Seine" if right else "Thames"
    task = Task(f"t{number}", "Which river?", ("Seine",))
    steps = [Step(said, answer=said)]
    return Trajectory(task, steps=steps, env_id="E-v0", terminated=True, sample=sample)


def run_of(hits: list[bool]) -> list[Trajectory]:
    return [episode(n, hit) for n, hit in enumerate(hits)]


def pair(tasks: int, rise: float, seed: int = 0) -> tuple[list[Trajectory], list[Trajectory]]:
    """Half of the tasks right, and then so many more."""
    drawn = random.Random(seed)
    old = [drawn.random() < 0.5 for _ in range(tasks)]
    new = [hit or drawn.random() < rise for hit in old]
    return run_of(old), run_of(new)


def test_a_difference_is_decided_before_all_tasks_are_seen() -> None:
    before, after = pair(300, 0.3)
    found = decide(before, after)
    assert found.verdict == "better"
    assert found.tasks < 150
    assert (found.planned, found.episodes) == (300, 2 * found.tasks)
    assert 0 <= found.low < found.change < found.high
    assert found.p_value <= 0.05
    other = decide(after, before)
    assert (other.verdict, other.tasks) == ("worse", found.tasks)
    assert (-other.high, -other.low) == pytest.approx((found.low, found.high))
    assert "decided, better, after" in str(found)


def test_no_difference_is_open_and_harmless_within_a_margin() -> None:
    before, after = pair(400, 0.01)
    found = decide(before, after)
    assert (found.verdict, found.tasks) == ("open", 400)
    assert found.low < 0 < found.high
    assert "not decided after 400 of 400 tasks" in str(found)
    assert decide(before, before).p_value == 1.0
    harmless = decide(before, after, margin=-0.05)
    assert harmless.verdict == "better"
    assert harmless.low >= -0.05
    assert "decided, above -5 points, after" in str(harmless)
    assert "not decided, beside -0.1 points, after" in str(decide(before, after, margin=-0.001))
    # Where more tasks are planned, the bets are laid for those.
    assert decide(before, after, planned=1000).planned == 1000


@settings(max_examples=15)
@given(
    st.lists(st.lists(st.booleans(), min_size=2, max_size=4), min_size=2, max_size=30), st.data()
)
def test_the_order_within_a_task_and_other_tasks_do_not_matter(
    groups: list[list[bool]], data: st.DataObject
) -> None:
    def run(order: list[list[bool]]) -> list[Trajectory]:
        return [episode(n, hit, s) for n, hits in enumerate(order) for s, hit in enumerate(hits)]

    mixed = [data.draw(st.permutations(hits)) for hits in groups]
    right = run([[True]] * len(groups))
    alone = [episode(len(groups) + 7, True)]
    assert decide(run(groups), right) == decide(run(mixed) + alone, right)
    until = Until.parse("accuracy +- 20")
    assert until.watch(run(groups)) == until.watch(run(mixed))


def test_runs_without_a_common_task_and_margins_out_of_range() -> None:
    with pytest.raises(BadInputError, match="no task in common"):
        decide([episode(0, True)], [episode(1, True)])
    with pytest.raises(BadInputError, match="a margin lies between -1 and 1"):
        decide([episode(0, True)], [episode(0, True)], margin=-3.0)
    with pytest.raises(UnknownNameError, match="acuracy"):
        decide([episode(0, True)], [episode(0, True)], metric="acuracy")


def wrong(messages: list[dict[str, Any]], tools: list[Any]) -> str:
    return "Thought: a guess.\nAnswer: none"


def test_two_policies_play_until_it_is_decided(tmp_path: Path) -> None:
    told: dict[str, Any] = {"episodes": 200, "seed": 2}
    decision, old, new = play_decided(
        "ToolQA-PopQA-v0", wrong, "lookup", **told, out=tmp_path, concurrency=1
    )
    assert (decision.verdict, decision.planned) == ("better", 200)
    assert decision.tasks <= len(old) == len(new) < 100
    # Again, with other workers and in memory: the same decision; the folders are gone on with.
    again, *_ = play_decided("ToolQA-PopQA-v0", wrong, "lookup", **told, out=tmp_path)
    held, memory, _ = play_decided("ToolQA-PopQA-v0", wrong, "lookup", **told, concurrency=5)
    assert again == held == decision
    assert [t.id for t in memory.in_file_order()] == [t.id for t in old.in_file_order()]
    assert decide(tmp_path / "before", tmp_path / "after", planned=200) == decision


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("exact_match>=0.3", Gate("exact_match", ">=", 0.3)),
        (" accuracy >= -1 % ", Gate("accuracy", ">=", -0.01)),
        ("malformed_rate<=.05", Gate("malformed_rate", "<=", 0.05)),
        ("Solve-F1/paper>=0.5", Gate("Solve-F1/paper", ">=", 0.5)),
        ("pass^4>=0.5", Gate("pass^4", ">=", 0.5)),
    ],
)
def test_gates_are_read(text: str, gate: Gate) -> None:
    assert Gate.parse(text) == gate


def test_a_gate_looks_at_the_end_of_the_interval() -> None:
    report = evaluate(run_of([True] * 60 + [False] * 40))
    low, high = report["accuracy"].low, report["accuracy"].high
    assert low is not None
    assert high is not None
    assert low < 0.55 < 0.6 < high
    passed = check_gates(["accuracy>=0.5", "accuracy<=0.7", "accuracy>=0.55"], report)
    assert [each.passed for each in passed] == [True, True, False]
    assert [each.end for each in passed] == [low, high, low]
    with pytest.raises(GateError, match=r"1 of 3 gates failed: gate accuracy>=0.55: FAILED"):
        require_gates(passed)
    require_gates(passed[:2])
    # Calls that nobody made have no interval: nothing is shown.
    (nothing,) = check_gates(["pass_rate>=0"], report)
    assert (nothing.passed, nothing.end) == (False, None)
    with pytest.raises(UnknownNameError, match="acuracy"):
        check_gates(["acuracy>=0.5"], report)
    with pytest.raises(BadInputError, match="a gate is a figure"):
        Gate.parse("accuracy > 0.5")


def test_a_gate_of_a_comparison_and_of_a_decision_looks_at_the_change() -> None:
    before, after = pair(300, 0.3)
    change = compare(before, after)
    (kept,) = check_gates(["accuracy>=-0.01"], change)
    assert (kept.value, kept.end) == (change["accuracy"].change, change["accuracy"].low)
    decision = decide(before, after)
    (own,) = check_gates(["accuracy>=0"], decision)
    assert (own.passed, own.end) == (True, decision.low)
    with pytest.raises(UnknownNameError, match="exact_match"):
        check_gates(["exact_match>=0"], decision)


def test_several_comparisons_are_corrected_by_metric() -> None:
    before, after = pair(60, 0.3)
    found = [compare(before, after), compare(before, before), compare(after, before)]
    (first, second, third) = holm_by_metric(found)
    p_value = found[0]["accuracy"].p_value
    assert p_value is not None
    assert first["accuracy"] == pytest.approx(3 * p_value)
    assert third["accuracy"] == pytest.approx(3 * p_value)
    assert second["accuracy"] == 1.0
    assert "token_f1" not in first


def test_pass_power_k_is_in_the_report_where_tasks_have_samples() -> None:
    hits = {0: 4, 1: 2, 2: 0, 3: 3}
    run = [episode(n, s < right, s) for n, right in hits.items() for s in range(4)]
    report = evaluate(run)
    names = [row.name for row in report.rows if row.name.startswith("pass") and "_" not in row.name]
    assert names == ["pass@2", "pass@4", "pass^2", "pass^4"]
    assert report["pass^4"].value == pytest.approx(1 / 4)
    assert report["pass@4"].value == pytest.approx(3 / 4)
    assert report["pass^2"].value == pytest.approx((1 + 1 / 6 + 0 + 3 / 6) / 4)
    assert report["pass^2"].n == 4
    assert report["accuracy"].value == pytest.approx(9 / 16)
    assert not any("pass^" in row.name for row in evaluate(run[::4]).rows)
    assert pass_all_k(8, 6, 3) == pytest.approx(20 / 56)
    with pytest.raises(BadInputError, match=r"pass\^3 of 1 right among 2"):
        pass_all_k(2, 1, 3)


def test_reports_say_what_they_can_show_and_where_they_would_have_stopped() -> None:
    run = run_of([bool(n % 2) for n in range(200)])
    report = evaluate(run, until="accuracy +- 10")
    assert report.decided is not None
    assert report.decided.reached
    assert report.decided.tasks < 200
    assert report.to_dict()["decided"]["tasks"] == report.decided.tasks
    # z_0.975 + z_0.8 standard errors of a difference of two shares of 1/2 among 200.
    assert report.detectable["accuracy"] == pytest.approx(2.8016 * (0.5 / 200) ** 0.5, rel=0.02)
    assert "power: 13.9 points" in str(report)
    assert "decided" not in evaluate(run).to_dict()
