"""Where tools were needed, and pass@k: by hand, and against counting every choice of samples."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym.errors import BadInputError
from toolgym.evaluation.compare import KINDS, need_rows, tool_need
from toolgym.evaluation.groups import pass_at_k, pass_rates
from toolgym.evaluation.intervals import wilson
from toolgym.messages import ToolCall, ToolResult
from toolgym.task import Task
from toolgym.trajectory import Step, Trajectory


def episode(
    number: int, right: bool, *, called: bool = False, sample: int = 0, **columns: Any
) -> Trajectory:
    said = "Seine" if right else "Thames"
    steps = [Step(said, answer=said)]
    if called:
        call, result = ToolCall("c", "Search", {}), ToolResult("c", "nothing")
        steps.insert(0, Step("", (call,), (result,)))
    task = Task(f"t{number}", "Which river?", ("Seine",), columns)
    return Trajectory(task, steps=steps, env_id="E-v0", terminated=True, sample=sample)


def test_every_kind_by_hand() -> None:
    played = {  # right without, right with, called
        0: (False, True, True),  # needed
        1: (True, True, True),  # over-used
        2: (True, False, True),  # over-used and harmed
        3: (False, False, False),  # under-used
        4: (False, False, True),  # tried in vain: none of them
        5: (True, True, False),  # known, and left alone: none of them
        6: (True, False, False),  # harmed without any call
        7: (False, True, False),  # needed, by luck
    }
    without = [episode(n, alone) for n, (alone, _, _) in played.items()]
    run = [episode(n, right, called=called) for n, (_, right, called) in played.items()]
    (found,) = tool_need(run, without)
    assert (found.label, found.count) == ("all", 8)
    shares = {kind: share.value for kind, share in found.shares.items()}
    assert shares == {"needed": 2 / 8, "over_used": 2 / 8, "under_used": 1 / 8, "harmed": 2 / 8}
    assert (found.shares["needed"].low, found.shares["needed"].high) == wilson(2 / 8, 8)
    assert need_rows([found])[0]["under_used"] == [1 / 8, *wilson(1 / 8, 8)]


def test_questions_of_one_run_alone_are_left_out() -> None:
    (found,) = tool_need(
        [episode(0, True), episode(1, True)], [episode(1, False), episode(2, True)]
    )
    assert (found.count, found.shares["needed"].value) == (1, 1.0)
    with pytest.raises(BadInputError, match="no question in common; play both"):
        tool_need([episode(0, True)], [episode(1, True)])


def test_several_answers_without_tools_are_a_majority() -> None:
    alone = [episode(0, right, sample=n) for n, right in enumerate((True, False, True))]
    alone += [episode(1, right, sample=n) for n, right in enumerate((True, False, False))]
    run = [episode(n, True, called=True, sample=s) for n in (0, 1) for s in range(4)]
    (found,) = tool_need(run, alone)
    assert found.count == 2
    assert found.shares["over_used"].value == found.shares["needed"].value == 0.5
    assert found.shares["needed"].n == 8
    assert "by task" in found.shares["needed"].kind, "four samples of a question are not four"


def test_popularity_is_cut_at_powers_of_ten() -> None:
    columns: list[Any] = [1, 9, 10, 999, 1000, 0, -3, None, "many", float("inf"), 0.5, 123456]
    run = [episode(n, True, s_pop=value) for n, value in enumerate(columns)]
    found = tool_need(run, [episode(n, False) for n in range(len(columns))])
    assert [(need.label, need.count) for need in found] == [
        ("all", 12),
        ("popularity 0.1 to 1", 1),
        ("popularity 1 to 10", 2),
        ("popularity 10 to 100", 1),
        ("popularity 100 to 1,000", 1),
        ("popularity 1,000 to 10,000", 1),
        ("popularity 100,000 to 1,000,000", 1),
    ]


@given(st.lists(st.tuples(*[st.booleans()] * 3), min_size=1, max_size=30))
def test_kinds_exclude_each_other_where_they_must(played: list[tuple[bool, bool, bool]]) -> None:
    without = [episode(n, alone) for n, (alone, _, _) in enumerate(played)]
    run = [episode(n, right, called=called) for n, (_, right, called) in enumerate(played)]
    (found,) = tool_need(run, without)
    count = {kind: round(found.shares[kind].value * len(played)) for kind in KINDS}
    wrong = sum(not alone for alone, _, _ in played)
    assert count["needed"] + count["under_used"] <= wrong
    assert max(count["over_used"], count["harmed"]) <= len(played) - wrong


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_k_is_the_share_of_choices_with_a_right_one(
    hits: list[bool], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(hits)))
    choices = list(itertools.combinations(hits, k))
    expected = sum(any(choice) for choice in choices) / len(choices)
    assert pass_at_k(len(hits), sum(hits), k) == pytest.approx(expected)


def test_pass_at_k_of_many_samples_and_of_too_few() -> None:
    assert pass_at_k(10_000, 5_000, 1) == 0.5
    assert 0.9 < pass_at_k(100_000, 100, 5_000) < 1
    for samples, right, k in ((4, 1, 5), (4, 1, 0), (4, 5, 1), (0, 0, 1)):
        with pytest.raises(BadInputError, match="from 1 to the number of samples"):
            pass_at_k(samples, right, k)


def test_pass_rates_are_means_over_tasks() -> None:
    run = [episode(0, n == 0, sample=n) for n in range(4)]  # one of four
    run += [episode(1, False, sample=n) for n in range(5)]
    run += [episode(2, True, sample=n) for n in range(4)]
    found = pass_rates(run, (1, 2, 4, 8))
    assert list(found) == [1, 2, 4], "8 is more than a task has samples"
    assert found[1].value == pytest.approx((1 / 4 + 0 + 1) / 3)
    assert found[2].value == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert found[4].value == pytest.approx((1 + 0 + 1) / 3)
    low, value, high = found[2].low, found[2].value, found[2].high
    assert low is not None
    assert 0 < low < value < high < 1, "few tasks: no interval from 0 to 1, nor of no width"
    assert found[1].kind == "Wilson by task, effective n 3"
    assert pass_rates(run, (1, 2, 4, 8)) == found
    assert pass_rates([]) == {}
