"""Evaluation: intervals against known values, metrics by hand, reports and comparisons."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym._util.jsonl import write_rows
from toolgym.errors import BadInputError, MissingFileError, UnknownNameError
from toolgym.evaluation import compare, evaluate
from toolgym.evaluation.intervals import bootstrap, group, holm, mcnemar, proportion, wilson
from toolgym.evaluation.metrics import UNKNOWN_TOOL, _median, figures_of, is_empty
from toolgym.evaluation.score import score
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.rollouts.runs import Run
from toolgym.rollouts.writing import RunWriter
from toolgym.task import Task
from toolgym.trajectory import Problem, Step, Trajectory

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("Search", "Calculator")]


def call(content: str, error: str | None = None, name: str = "Search") -> Step:
    return Step("", (ToolCall("c", name, {}),), (ToolResult("c", content, error),))


def episode(
    number: int, answer: str | None, *steps: Step, gold: str = "Seine", sample: int = 0
) -> Trajectory:
    """One episode of task ``t<number>``; without an answer it was truncated."""
    ending = [] if answer is None else [Step(answer, answer=answer)]
    return Trajectory(
        Task(f"t{number}", "Which river?", (gold,)),
        steps=[*steps, *ending],
        tools=TOOLS,
        env_id="Test-v0",
        terminated=answer is not None,
        truncated=answer is None,
        sample=sample,
    )


# Wilson 95 % ends from the closed formula, worked out independently to three decimals.
@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (1, 2, 0.095, 0.905), (477, 500, 0.932, 0.969)],
)
def test_wilson_against_known_values(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits / n, n) == pytest.approx((low, high), abs=6e-4)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_wilson_holds_its_estimate_and_stays_in_range(n: int, share: float) -> None:
    low, high = wilson(share, n)
    assert 0 <= low <= share <= high <= 1


def test_wilson_refuses_no_data() -> None:
    with pytest.raises(ValueError, match="n above 0"):
        wilson(0.0, 0)


def test_samples_of_a_task_are_not_counted_as_independent() -> None:
    # every task's eight samples agree: as much is known as from one sample each
    agreeing = proportion([8.0] * 10 + [0.0] * 10, [8.0] * 20)
    alone = proportion([1.0] * 10 + [0.0] * 10, [1.0] * 20)
    assert alone.kind == "Wilson"
    assert agreeing.n == 160
    assert agreeing.kind.startswith("Wilson by task, effective n 19")
    assert agreeing.high - agreeing.low == pytest.approx(alone.high - alone.low, rel=0.05)


def test_a_clustered_share_of_one_is_not_certain() -> None:
    found = proportion([5.0] * 4, [5.0] * 4)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(wilson(1.0, 4)[0])


def test_clustered_intervals_cover_and_naive_ones_do_not() -> None:
    rng, truth, tasks, samples = np.random.default_rng(0), 0.5, 50, 8
    clustered = naive = 0
    for _ in range(300):
        hits = rng.binomial(samples, rng.beta(0.5, 0.5, size=tasks))
        found = proportion(hits, [samples] * tasks)
        clustered += found.low <= truth <= found.high
        low, high = wilson(found.value, found.n)
        naive += low <= truth <= high
    assert clustered / 300 > 0.91
    assert naive / 300 < 0.80


def test_bootstrap_agrees_with_the_normal_interval_of_a_mean() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, size=400)
    found = bootstrap(values, np.ones(400), seed=1)
    half = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.01)
    assert found.high == pytest.approx(values.mean() + half, abs=0.01)
    assert bootstrap(values, np.ones(400), seed=1) == found
    assert bootstrap(values, np.ones(400), seed=2) != found


def test_bootstrap_resamples_in_chunks_without_changing_its_meaning() -> None:
    values = np.random.default_rng(4).random(3000)  # 4000 x 3000 counts: several chunks
    found = bootstrap(values, np.ones(3000))
    assert found.low < values.mean() < found.high
    assert found.high - found.low == pytest.approx(3.92 * values.std() / 3000**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("sums", "sizes", "kind"),
    [([], [], "no data"), ([0.0], [0.0], "no data"), ([3.0], [2.0], "none: one task")],
)
def test_bootstrap_gives_no_interval_where_none_is_honest(
    sums: list[float], sizes: list[float], kind: str
) -> None:
    found = bootstrap(sums, sizes)
    assert (found.low, found.high, found.kind) == (None, None, kind)


def test_equal_tasks_give_no_interval_of_width_zero() -> None:
    found = bootstrap([0.1 + 0.2, 0.3], [1.0, 1.0])
    assert (found.low, found.high, found.kind) == (None, None, "none: all tasks equal")


# Two-sided exact binomial: 2 * P(X <= 1 | 6, 1/2) = 2 * 7 / 64, and so on.
@pytest.mark.parametrize(
    ("b", "c", "p"), [(0, 0, 1.0), (1, 5, 14 / 64), (0, 10, 2 / 1024), (3, 3, 1.0)]
)
def test_mcnemar_by_hand(b: int, c: int, p: float) -> None:
    assert mcnemar(b, c) == pytest.approx(p)
    assert mcnemar(c, b) == mcnemar(b, c)


def test_mcnemar_of_thousands() -> None:
    assert 0 < mcnemar(4000, 4300) < 0.01


def test_group_sums_by_key() -> None:
    sums, sizes = group(["b", "a", "b"], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert (sums.tolist(), sizes.tolist()) == ([4.0, 2.0], [2.0, 1.0])


@pytest.mark.parametrize(
    ("answer", "empty"),
    [
        *((None, True), ("", True), (" \n", True), ("(unknown)", True), ("(a (b) c)", True)),
        *(("(a) b", False), ("(a) (b)", False), ("x (a)", False), ("(", False), (")(", False)),
    ],
)
def test_empty_answers(answer: str | None, empty: bool) -> None:
    assert is_empty(answer) is empty


def test_one_episode_by_hand() -> None:
    steps = [
        call("The Seine flows through Paris."),
        call("Lyon"),
        call("  "),
        call("Error: 'Seine' is not a number", "tool_error", "Calculator"),
        call("Sein does not exist.", "unknown_tool", "Sein" * 1000),
        Step("", problems=(Problem("bad_json", ""), Problem("wrote_result", ""))),
    ]
    found = figures_of(episode(1, "the river Seine", *steps))
    assert (found.exact_match, found.accuracy, found.accuracy_paper) == (0.0, 0.0, 1.0)
    assert found.token_f1 == pytest.approx(2 / 3)
    assert (found.calls, found.passed, found.answerable) == (5, 2, 1)
    assert (found.succeeded, found.malformed, found.steps) == (3, 1, 7)
    assert found.by_tool == {"Search": 3, "Calculator": 1, UNKNOWN_TOOL: 1}
    assert not found.empty
    assert not found.truncated


def test_numbers_are_answerable_by_value_not_by_digits() -> None:
    task = Task("n", "q", ("5",), answer_type="number")
    for content, expected in (("15", 0), ("15 or $5.00.", 1), ("1.5", 0), ("none", 0)):
        record = Trajectory(task, steps=[call(content)], tools=TOOLS)
        assert figures_of(record).answerable == expected, content


def test_whole_words_reach_accuracy_and_answerable_rate() -> None:
    run = [episode(0, "Eliza", call("a lily"), gold="L.A.")]  # normalised: "l"
    loose, strict = evaluate(run), evaluate(run, whole_words=True)
    assert (loose["accuracy_paper"].value, loose["answerable_rate"].value) == (1.0, 1.0)
    assert (strict["accuracy_paper"].value, strict["answerable_rate"].value) == (0.0, 0.0)
    assert (loose["accuracy"].value, strict["accuracy"].value) == (0.0, 0.0)
    assert "whole words" in str(strict)
    assert compare(run, run, whole_words=True)["accuracy_paper"].after == 0.0


def test_report_by_hand() -> None:
    run = [
        episode(0, "Seine", call("Seine"), call("x", "timeout")),
        episode(1, "Thames"),
        episode(2, "(none)", call("")),
        episode(3, None, Step("", problems=(Problem("no_call", ""),), cut=True)),
    ]
    report = evaluate(run)
    expected = {
        "exact_match": (0.25, 4),
        "accuracy": (0.25, 4),
        "accuracy_paper": (0.25, 4),
        "token_f1": (0.25, 4),
        "invoke_rate": (0.75, 4),
        "pass_rate": (1 / 3, 3),
        "answerable_rate": (1 / 3, 3),
        "execution_precision": (2 / 4, 4),
        "malformed_rate": (1 / 4, 4),
        "empty_answers": (0.5, 4),
        "answer_words": (1.0, 3),
        "answer_words_median": (1.0, 3),
        "copied_passage": (0.0, 4),
        "truncated": (0.25, 4),
        "cut": (0.25, 4),
        "mean_steps": (7 / 4, 4),
        "calls/Search": (0.75, 4),
    }
    assert [row.name for row in report.rows] == list(expected)
    for row in report.rows:
        assert (row.value, row.n) == pytest.approx(expected[row.name]), row.name
    assert report["accuracy"].low == pytest.approx(wilson(0.25, 4)[0])
    assert report.calls_by_tool == {"Search": 3}
    with pytest.raises(UnknownNameError, match="known: accuracy"):
        report["em"]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_the_median_lies_within_its_interval_and_the_values(lengths: list[int]) -> None:
    run = [episode(n, " ".join(["word"] * length)) for n, length in enumerate(lengths)]
    row = evaluate(run)["answer_words_median"]
    assert row.value == sorted(lengths)[(len(lengths) - 1) // 2]
    if len(lengths) < 6:
        assert (row.low, row.high) == (None, None)
    else:
        assert min(lengths) <= row.low <= row.value <= row.high <= max(lengths)


def test_the_interval_of_a_median_covers_it() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        lengths = rng.poisson(12, size=40)  # the median of this Poisson distribution is 12
        run = [episode(n, " ".join(["word"] * length)) for n, length in enumerate(lengths)]
        words = np.array([float(figures_of(t).answer_words) for t in run])
        row = _median(np.arange(len(run)), words)
        hits += row.low <= 12 <= row.high
    assert hits / 300 > 0.93


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrected_p_values_are_larger_and_in_the_same_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(
        p <= c <= min(1.0, len(p_values) * p) for p, c in zip(p_values, corrected, strict=True)
    )
    pairs = sorted(zip(p_values, corrected, strict=True))
    assert [c for _, c in pairs] == sorted(corrected)
    assert min(corrected) == min(1.0, len(p_values) * min(p_values))


def test_holm_as_published() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_a_large_run_is_read_one_episode_at_a_time() -> None:
    alive: weakref.WeakSet[Held] = weakref.WeakSet()
    most = []

    class Held(Message):
        """A message that can be watched."""

        __slots__ = ("__weakref__",)

    class Recorded:
        def trajectories(self) -> Iterator[Trajectory]:
            for number in range(50):
                message = Held("user", "Which river?")
                alive.add(message)
                made = replace(episode(number, "Seine", call("Seine")), messages=[message])
                del message
                yield made
                most.append(len(alive))

    evaluate(Recorded(), source="mine")
    compare(Recorded(), Recorded())
    score(Recorded(), {"em": "exact_match"})
    assert len(most) == 200
    assert max(most) <= 2


def test_a_run_without_calls_has_no_pass_rate() -> None:
    report = evaluate([episode(0, "Seine"), episode(1, "no")])
    row = report["pass_rate"]
    assert (row.value, row.low, row.high, row.n) == (None, None, None, 0)
    assert "no data" in str(report)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["rows"][5]["value"] is None


def test_reports_name_the_source_and_warn_of_the_sample(tmp_path: Path) -> None:
    run = Run({"task_source": "sample", "task_family": "PopQA", "episodes": 3}, tmp_path / "run")
    writer = RunWriter(run)
    for number in range(2):
        writer.add(episode(number, "Seine" if number else "no", call("Seine")))
    writer.fail({"id": "t2#0", "kind": "timeout", "message": "x"})
    writer.close()
    for source in (run, tmp_path / "run", str(tmp_path / "run")):
        report = evaluate(source)
        for text in (str(report), report.to_markdown()):
            assert "Tasks: PopQA from sample" in text
            assert "the bundled sample, not the benchmark" in text
            assert "unfinished, 1 of 3 episodes are missing" in text
            assert "Failed attempts, not scored: 1" in text
    assert report.to_dict()["task_source"] == "sample"
    assert "not the benchmark" not in str(evaluate(run.trajectories(), source="hub:x"))


def test_text_and_markdown_show_the_same_cells() -> None:
    report = evaluate([episode(n, "Seine" if n % 2 else "no", call("Seine")) for n in range(10)])
    line = next(line for line in str(report).splitlines() if line.startswith("accuracy"))
    assert line.split() == ["accuracy", "50.0", "%", "23.7", "%", "76.3", "%", "10", "Wilson"]
    assert "| accuracy | 50.0 % | 23.7 % | 76.3 % | 10 | Wilson |" in report.to_markdown()


def test_several_samples_change_the_interval_not_the_value() -> None:
    run = [episode(n, "Seine" if n % 2 else "no", sample=s) for n in range(10) for s in range(4)]
    row = evaluate(run)["accuracy"]
    assert (row.value, row.n) == (0.5, 40)
    assert row.interval.kind.startswith("Wilson by task")
    assert row.high - row.low > 2 * 0.155  # 40 independent episodes would give 0.155 each way


def test_normalisation_is_passed_on() -> None:
    run = [episode(0, "St Johns", gold="St. John's")]
    assert evaluate(run)["exact_match"].value == 0.0
    assert evaluate(run, normalisation="squad")["exact_match"].value == 1.0
    with pytest.raises(UnknownNameError, match="normalisation"):
        evaluate([episode(0, None)], normalisation="sqad")


def test_bad_runs_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"play some with toolgym\.rollout"):
        evaluate([])
    with pytest.raises(BadInputError, match=r"play some with toolgym\.rollout"):
        evaluate(Run({}))
    with pytest.raises(BadInputError, match="not a single one"):
        evaluate(episode(0, "x"))
    with pytest.raises(BadInputError, match="needed, not int: 5"):
        evaluate(5)
    with pytest.raises(MissingFileError):
        evaluate(tmp_path / "nothing")
    write_rows(tmp_path / "t.jsonl", [episode(0, "x").to_row(), {"schema": 99}])
    with pytest.raises(BadInputError, match="line 2"):
        evaluate(tmp_path / "t.jsonl")


def test_any_object_with_trajectories_is_a_run() -> None:
    class Mine:
        settings = {"task_source": "mine.jsonl"}  # noqa: RUF012

        def trajectories(self) -> list[Trajectory]:
            return [episode(0, "Seine")]

    assert evaluate(Mine()).source == "mine.jsonl"


def test_comparison_by_hand() -> None:
    before = [episode(n, "Seine" if n < 4 else "no") for n in range(12)]
    after = [episode(n, "Seine" if n > 1 else "no") for n in range(12)]
    found = compare(before, after)["accuracy"]
    assert found.before == pytest.approx(4 / 12)
    assert found.after == pytest.approx(10 / 12)
    assert found.change == pytest.approx(0.5)
    assert found.low < 0.5 < found.high
    assert found.p_value == mcnemar(2, 8)
    assert compare(before, after)["token_f1"].p_value is None
    assert compare(before, before)["accuracy"].kind == "none: all tasks equal"


def test_comparison_pairs_by_task_and_says_what_it_left_out() -> None:
    before = [episode(n, "no", sample=s) for n in range(5) for s in range(2)]
    after = [episode(n, "Seine" if n % 2 else "no") for n in range(1, 9)]
    found = compare(before, after)
    assert (found.tasks, found.only_before, found.only_after) == (4, 1, 4)
    assert found["accuracy"].p_value is None  # several samples a task: McNemar does not apply
    assert "Left out: 1 tasks only before, 4 only after" in str(found)
    assert "| accuracy | 0.0 % | 50.0 % |" in found.to_markdown()
    json.dumps(found.to_dict(), allow_nan=False)


def test_runs_without_a_common_task_cannot_be_compared() -> None:
    with pytest.raises(BadInputError, match="no task in common"):
        compare([episode(1, "x")], [episode(2, "x")])


def test_a_search_without_a_hit_does_not_pass() -> None:
    from toolgym import rollout

    def searches_nonsense(messages: list[dict[str, str]], tools: object) -> str:
        return "Action: WikipediaSearch[zzqqxx]" if len(messages) < 3 else "Answer: x"

    report = evaluate(rollout("ToolQA-PopQA-v0", searches_nonsense, episodes=3))
    assert report["pass_rate"].value == 0.0
    assert report["execution_precision"].value == 1.0
