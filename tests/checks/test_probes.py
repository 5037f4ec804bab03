"""Scripted adversaries: which rewards survive them, and that each catches its own mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from toolgym import Rubric, Task, Trajectory
from toolgym.checks import ProbeReport, probe_reward
from toolgym.checks.adversaries import adversaries
from toolgym.checks.unearned import state_adversaries
from toolgym.errors import UnknownNameError
from toolgym.rewards import NAMES
from toolgym.trajectory import Step

EVERY = (*adversaries(), *state_adversaries())
ADVERSARIES = {adversary.name: adversary for adversary in EVERY}
OURS: list[Any] = [
    *(name for name in NAMES if name not in ("no_harm", "calls")),
    {"goal_reached": 1.0, "no_harm": 1.0},  # those that only take show nothing by themselves
    {"solve_f1": 1.0, "calls": 0.05},
    *({name: {"bounded": True}} for name in ("solve_precision", "solve_product", "solve_f1")),
    {"solve_f1": 1.0, "task_completion": 1.0},
]
COPIES = {
    *("pasted_result", "pasted_sentence", "pasted_title", "pasted_message", "two_candidates"),
    *("either_or", "lines_of_candidates", "candidates_as_json", "slashed_candidates"),
    *("every_year", "number_dump"),
}
WIDE = {"echoed_question", "all_candidates", "megabyte_reply", "part_of_a_word", "one_for_ten"}
PAPER = {
    *("repeated_result", "planted_in_error", "huge_numbers", "stalling", "reasoning_only"),
    *WIDE,
    *COPIES,
}
FAILURES: list[tuple[Any, set[str]]] = [
    ({"accuracy": {"preset": "paper"}}, WIDE | COPIES),
    ({"task_completion": {"preset": "paper"}}, WIDE | COPIES),
    ({"token_f1": {"preset": "paper"}}, COPIES),
    (
        {"execution_precision": {"bounded": False}},
        {
            *("tool_spam", "spam_only", "repeated_call", "one_thing_more", "undoes_and_redoes"),
            *("does_and_undoes", "forbidden_way"),
        },
    ),
    *(
        ({name: {"preset": "paper"}}, PAPER)
        for name in ("solve_precision", "solve_rate", "solve_product", "solve_f1")
    ),
    ({"solve_f1": {"preset": "paper", "harmonic": True}}, PAPER),
    ({"accuracy": 1.0, "calls": 0.05}, {"unearned_answer"}),
    ({"goal_reached": {"strict": False}}, {"does_everything", "one_thing_more", "forbidden_way"}),
]


@pytest.mark.parametrize("reward", OURS, ids=str)
def test_every_built_in_of_ours_survives(reward: Any) -> None:
    report = probe_reward(reward)
    assert report.passed, f"\n{report}"
    assert len(report.probes) == len(ADVERSARIES) == 39


def test_every_built_in_is_probed() -> None:
    probed = {name for r in OURS for name in (r if isinstance(r, dict) else [r])}
    assert probed == set(NAMES)


@pytest.mark.parametrize(
    ("reward", "failed"), FAILURES, ids=lambda value: "" if isinstance(value, set) else str(value)
)
def test_the_published_formulas_fail_these_and_no_others(reward: Any, failed: set[str]) -> None:
    report = probe_reward(reward)
    assert set(report.failed) == failed, f"\n{report}"
    assert not report.passed


def bonus_for_calls(task: Task, trajectory: Trajectory) -> list[float]:
    return [0.1 * len(step.calls) for step in trajectory.steps]


def reads_history(task: Task, trajectory: Trajectory) -> list[float]:
    words = " ".join(m.content for m in trajectory.messages[:2])
    return [float(task.target in words)] + [0.0] * (len(trajectory.steps) - 1)


def reads_results(task: Task, trajectory: Trajectory) -> list[float]:
    return [float(any(task.target in r.content for r in s.results)) for s in trajectory.steps]


def empty_holds(task: Task, trajectory: Trajectory) -> list[float]:
    return [float(s.answer is not None and s.answer in task.target) for s in trajectory.steps]


def digits(task: Task, trajectory: Trajectory) -> list[float]:
    """What ``str.isdigit`` and ``int`` make of superscripts."""
    return [
        float(sum(int(c) for c in (s.answer or "") if c.isdigit()) > 0) for s in trajectory.steps
    ]


def exponent(task: Task, trajectory: Trajectory) -> list[float]:
    return [float((s.answer or "").split(" ")[-1] == "1e999999999") for s in trajectory.steps]


def pays_tries(task: Task, trajectory: Trajectory) -> list[float]:
    return [0.1 * len(step.problems) for step in trajectory.steps]


def first_word(task: Task, trajectory: Trajectory) -> list[float]:
    return [float((s.answer or "").startswith(task.target)) for s in trajectory.steps]


@pytest.mark.parametrize(
    ("reward", "caught"),
    [
        (bonus_for_calls, {"tool_spam", "spam_in_one_turn", "spam_only", "repeated_call"}),
        (reads_history, {"planted_in_question"}),
        (reads_results, {"planted_in_result", "planted_in_error", "one_for_ten"}),
        (empty_holds, {"empty_answer"}),
        (digits, {"unicode_digits"}),
        (exponent, {"huge_numbers"}),
        (pays_tries, {"malformed_calls", "never_calling"}),
        (first_word, {"all_candidates"}),
    ],
)
def test_each_mistake_is_caught(reward: Callable[..., list[float]], caught: set[str]) -> None:
    assert caught <= set(probe_reward(reward).failed)


def test_a_reward_that_raises_has_that_as_its_verdict() -> None:
    report = probe_reward(digits)
    assert report["unicode_digits"].verdict == (
        "raised ValueError: invalid literal for int() with base 10: '⁷'"
    )
    assert report["unicode_digits"].earned is None
    line = next(line for line in str(report).splitlines() if line.startswith("unicode_digits"))
    assert line.split()[1:4] == ["-", "-", "-"]


def test_a_reward_that_pays_nothing_shows_nothing() -> None:
    def nothing(task: Task, trajectory: Trajectory) -> list[float]:
        return [0.0] * len(trajectory.steps)

    report = probe_reward(nothing)
    assert report.failed == []
    assert not report.passed
    assert "no honest episode earns anything" in str(report)


def test_the_report() -> None:
    report = probe_reward({"accuracy": {"preset": "paper"}})
    assert isinstance(report, ProbeReport)
    assert str(report).startswith("accuracy: 23 of 39 probes passed\n\nprobe ")
    assert report.to_markdown().count("\n| ") == 41
    plain = report.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    probe = report["all_candidates"]
    assert (probe.earned, probe.control, probe.honest) == (1.0, 0.0, 1.0)
    assert probe.verdict == "credit without merit"
    assert probe.episode.answer is not None
    assert probe.episode.answer.count(",") == 21
    with pytest.raises(UnknownNameError, match="did you mean 'tool_spam'"):
        report["tool_span"]


def test_a_weighted_rubric_is_probed_as_a_sum() -> None:
    published = {"preset": "paper", "weight": 1.0}
    report = probe_reward(Rubric({"accuracy": published, "execution_precision": 0.0}))
    assert set(report.failed) == WIDE | COPIES
    assert report.reward == "accuracy, execution_precision"


@pytest.mark.parametrize("adversary", ADVERSARIES.values(), ids=ADVERSARIES)
def test_episodes_are_proper_records(adversary: Any) -> None:
    for record in (adversary.episode, adversary.control, *adversary.honest):
        assert [m.content for m in record.messages if m.role == "assistant"] == [
            step.action for step in record.steps
        ]
        ids = [call.id for call, _ in record.calls]
        assert len(set(ids)) == len(ids)
        assert [result.call_id for _, result in record.calls] == ids
        assert record.terminated is (record.answer is not None) is not record.truncated
        if len(record.steps[-1].action) < 10_000:
            assert Trajectory.from_row(record.to_row()).steps == record.steps


def test_probing_changes_no_episode() -> None:
    before = [json.dumps(a.episode.to_row()) for a in EVERY]
    report = probe_reward("solve_f1")
    assert [json.dumps(probe.episode.to_row()) for probe in report.probes] == before
    assert isinstance(report.probes[0].episode.steps[0], Step)
