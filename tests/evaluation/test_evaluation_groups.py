"""Solve-P/R/F1 in reports, and figures by shape, complexity or any column of the tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from toolgym import Task, ToolCall, ToolResult, Trajectory, evaluate
from toolgym._util.jsonl import write_rows
from toolgym.cli import app
from toolgym.errors import BadInputError
from toolgym.evaluation import compare
from toolgym.evaluation.groups import MAX_GROUPS
from toolgym.evaluation.intervals import bounded_mean, wilson
from toolgym.trajectory import Step

SHAPES = ("single-hop", "parallel single-hop", "multi-hop", "parallel multi-hop")


def episode(
    number: int, results: list[str], answers: list[str] | None, sample: int = 0, **columns: Any
) -> Trajectory:
    """One call of ``f`` a result; sub-answers as given, or none at all."""
    rows = [{"id": f"q{n}", "tool": "f", "answer": a} for n, a in enumerate(answers or ())]
    columns |= {"sub_answers": rows} if rows else {}
    steps = []
    for n, text in enumerate(results):
        call = ToolCall(f"c{n}", "f", {"n": n})
        steps.append(Step("x", (call,), (ToolResult(call.id, text),)))
    steps.append(Step("gold", answer="gold"))
    task = Task(f"t{number}", "q?", ("gold",), columns, split="test" if number % 2 else "")
    tools = [{"type": "function", "function": {"name": "f"}}]
    return Trajectory(task, steps=steps, tools=tools, terminated=True, sample=sample)


def scenarios(right: int = 1) -> list[Trajectory]:
    """Forty, of four shapes and five complexities; every third makes ``right`` of three calls."""
    return [
        episode(
            n,
            ["10", "20", "30"] if n % 3 else ["10", "20", "30"][:right] + ["x"] * (3 - right),
            ["10", "20", "30"],
            shape=SHAPES[n % 4],
            complexity=n % 5 * 3,
            levels={"parameter_expansion": n % 2},
        )
        for n in range(40)
    ]


def test_figures_by_hand() -> None:
    report = evaluate(
        [
            episode(1, ["10", "x", "x", "x"], ["10", "20"]),  # P 1/4, R 1/2, F1 2/6
            episode(2, [], ["10"]),  # no call: P 0, in the paper 1
            episode(3, ["100"], ["10"]),  # P 0, in the paper 1
            episode(4, ["10"], None),  # no sub-answers: not counted
        ]
    )
    expected = {"Solve-P": 1 / 12, "Solve-R": 1 / 6, "Solve-F1": 1 / 9}
    expected |= {"Solve-P/paper": 0.75, "Solve-R/paper": 0.5, "Solve-F1/paper": 4 / 9}
    for name, value in expected.items():
        assert report[name].value == pytest.approx(value), name
        assert report[name].n == 3
        assert report[name].low is not None
        assert f"{name:<15}" in str(report)


def test_runs_without_sub_answers_look_as_before() -> None:
    report = evaluate([episode(n, ["10"], None, shape="x", complexity=1) for n in range(4)])
    assert not [row.name for row in report.rows if row.name.startswith("Solve")]
    assert report.groups == {}
    others = evaluate([episode(n, ["10"], None, sub_answers=["Paris", "10"]) for n in range(4)])
    assert [row.name for row in others.rows] == [row.name for row in report.rows]
    assert "groups" not in report.to_dict()


def test_scenarios_are_shown_by_shape_and_by_complexity() -> None:
    report = evaluate(scenarios())
    assert list(report.groups) == ["shape", "complexity"]
    shapes = report.groups["shape"]
    assert [found.value for found in shapes.groups] == list(SHAPES)
    assert [found.value for found in report.groups["complexity"].groups] == [
        *("0", "3", "6", "9", "12")
    ]
    # of ten multi-hop tasks (n = 2, 6, ..., 38), four are multiples of three and 18 is one of them
    by_hand = [1.0 if n % 3 else 1 / 3 for n in range(2, 40, 4)]
    figure = shapes["multi-hop"].figures["Solve-R"]
    assert figure.value == pytest.approx(np.mean(by_hand))
    assert figure.n == shapes["multi-hop"].episodes == shapes["multi-hop"].tasks == 10
    assert sum(found.episodes for found in shapes.groups) == 40
    text = str(report)
    assert "\nBy shape\nshape                episodes  tasks" in text
    assert "\nBy complexity\n" in text
    assert "**By shape**\n\n| shape | episodes | tasks | Solve-P |" in report.to_markdown()
    plain = report.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["groups"]["complexity"][4]["value"] == "12"


def test_by_other_columns() -> None:
    report = evaluate(scenarios(), by=["levels.parameter_expansion", "split"])
    assert [g.value for g in report.groups["levels.parameter_expansion"].groups] == ["0", "1"]
    assert [g.value for g in report.groups["split"].groups] == ["test", "(none)"]
    assert evaluate(scenarios(), by=[]).groups == {}


def test_numbers_of_many_values_are_cut_into_quarters_of_the_tasks() -> None:
    records = [episode(n, [], None, s_pop=n * 10, sample=k) for n in range(100) for k in (0, 1)]
    records += [episode(200, [], None)]
    groups = evaluate(records, by=["s_pop"]).groups["s_pop"].groups
    assert [(g.value, g.tasks, g.episodes) for g in groups] == [
        ("0 to 240", 25, 50),
        ("250 to 490", 25, 50),
        ("500 to 740", 25, 50),
        ("750 to 990", 25, 50),
        ("(none)", 1, 1),
    ]
    assert "s_pop       episodes  tasks" in str(evaluate(records, by=["s_pop"]))
    assert "exact_match" in str(evaluate(records, by=["s_pop"])).splitlines()[-6]


def test_what_cannot_be_grouped_is_named() -> None:
    records = [episode(n, [], None, prop=f"p{n}") for n in range(MAX_GROUPS + 1)]
    with pytest.raises(BadInputError, match=f"'prop' has {MAX_GROUPS + 1} different values"):
        evaluate(records, by=["prop"])
    with pytest.raises(BadInputError, match=r"no task has a column 'porp'.*did you mean 'prop'"):
        evaluate(records, by=["porp"])
    with pytest.raises(BadInputError, match=r"by=\['prop'\]"):
        evaluate(records, by="prop")
    with pytest.raises(BadInputError, match=r"no group 'multihop'.*did you mean 'multi-hop'"):
        evaluate(scenarios()).groups["shape"]["multihop"]


def test_a_small_group_has_a_wide_interval() -> None:
    alone = evaluate(scenarios()[:1]).groups["shape"]["single-hop"].figures["Solve-R"]
    assert alone.value == pytest.approx(1 / 3)
    assert (alone.low, alone.high) == pytest.approx(wilson(1 / 3, 1))
    perfect = evaluate([episode(n, ["10"], ["10"], shape="x") for n in range(5)])
    row = perfect.groups["shape"]["x"].figures["Solve-F1"]
    assert (row.value, row.high) == (1.0, 1.0)
    assert row.low == pytest.approx(wilson(1.0, 5)[0])


def test_two_runs_are_compared_in_solving_too() -> None:
    found = compare(scenarios(1), scenarios(2))
    assert found["Solve-R"].change == pytest.approx(14 / 40 / 3)
    assert found["Solve-R"].low > 0
    assert found["Solve-F1"].p_value is None
    assert "Solve-R" not in str(compare(scenarios(), [episode(n, [], None) for n in range(40)]))


def test_tools_that_differ_by_task_do_not_fill_the_report() -> None:
    records = scenarios()
    for number, record in enumerate(records):
        name = f"tool_{number}"
        record.tools.append({"type": "function", "function": {"name": name}})
        call = ToolCall("c9", name, {})
        record.steps.insert(0, Step("x", (call,), (ToolResult("c9", "y"),)))
    text = str(evaluate(records))
    assert "Calls by tool: f 120, tool_0 1," in text
    assert text.count("calls/") == 21
    assert "calls/(21 other tools)" in text
    for record in records:
        record.steps = [step for step in record.steps if not step.calls or step.calls[0].id == "c9"]
    many = [
        episode(n, [], ["1"]) if n % 3 else record for n, record in enumerate(records * 3)
    ]  # each tool in less than one of a hundred episodes
    assert "Calls by tool: 40 tools 40" in str(evaluate(many))


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 4)), min_size=1, max_size=40))
def test_a_bounded_mean_lies_in_its_interval(groups: list[tuple[float, int]]) -> None:
    sizes = [float(size) for _, size in groups]
    found = bounded_mean([value * size for value, size in groups], sizes)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.n == sum(sizes)
    widest = wilson(found.value, len(groups))
    assert widest[0] - 1e-9 <= found.low
    assert found.high <= widest[1] + 1e-9


def test_no_data_has_no_mean() -> None:
    assert bounded_mean([], []).value is None
    assert bounded_mean([0.0], [0.0]).kind == "no data"


@pytest.mark.parametrize("tasks", [5, 20, 100])
def test_bounded_means_cover_where_the_bootstrap_does_not(tasks: int) -> None:
    rng = np.random.default_rng(tasks)
    truth, hits = (0.5 + 0.75 + 4) / 6, 0
    for _ in range(400):
        values = rng.choice([0.5, 0.75, 1, 1, 1, 1], size=tasks)
        found = bounded_mean(values, np.ones(tasks))
        hits += found.low <= truth <= found.high
    assert hits / 400 > 0.91


def test_the_command_line_prints_groups(tmp_path: Path) -> None:
    file = tmp_path / "episodes.jsonl"
    write_rows(file, [record.to_row() for record in scenarios()])
    shown = CliRunner().invoke(app, ["eval", str(file)])
    assert shown.exit_code == 0, shown.output
    assert "Solve-F1 " in shown.output
    assert "By shape" in shown.output
    assert "By complexity" in shown.output
    only = CliRunner().invoke(app, ["eval", str(file), "--by", "split", "--json"])
    assert list(json.loads(only.output)["groups"]) == ["split"]
    wrong = CliRunner().invoke(app, ["eval", str(file), "--by", "shap"])
    assert wrong.exit_code != 0
