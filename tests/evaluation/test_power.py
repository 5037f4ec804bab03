"""Sample sizes: textbook figures, simulations, and pilots."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym.errors import BadInputError
from toolgym.evaluation.power import (
    Spread,
    detectable,
    plan_evaluation,
    simulated_stop,
    spread_of,
    spread_of_pair,
    tasks_for_change,
    tasks_for_width,
)
from toolgym.task import Task
from toolgym.trajectory import Step, Trajectory


def test_textbook_sizes() -> None:
    assert tasks_for_width(0.05, 0.25) == 385  # Cochran 1977, section 4.4: 384.1
    assert tasks_for_width(0.03, 0.25) == 1068
    # Two proportions, unpooled: 0.5 against 0.6, and 0.1 against 0.2, 80 % power (Fleiss 1981).
    assert tasks_for_change(0.1, 0.5 * 0.5 + 0.6 * 0.4) == 385
    assert tasks_for_change(0.1, 0.1 * 0.9 + 0.2 * 0.8) == 197
    # Cohen 1988, table 2.4.1: d = 0.5, 80 % power, 63 a group by the normal approximation.
    assert tasks_for_change(0.5, 2.0) == 63
    assert tasks_for_change(-0.5, 2.0, power=0.9) == 85


@given(st.floats(0.01, 0.5), st.floats(0.01, 0.5), st.floats(0.5, 0.99))
def test_the_detectable_change_is_the_inverse(variance: float, change: float, power: float) -> None:
    tasks = tasks_for_change(change, variance, power)
    assert detectable(variance, tasks, power) <= change * (1 + 1e-9)
    if tasks > 1:
        assert detectable(variance, tasks - 1, power) > change * (1 - 1e-9)


def test_samples_of_a_task_help_as_far_as_they_differ() -> None:
    spread = Spread.assumed(0.6, intraclass=0.25)
    assert spread.variance(1) == pytest.approx(0.24)
    assert spread.variance(4) == pytest.approx(0.24 * (0.25 + 0.75 / 4))
    assert Spread.assumed(0.6).variance(100) == pytest.approx(0.24)


def test_the_planned_power_is_met_in_simulation() -> None:
    # Tasks of two runs with correlated results; the test is that of the mean difference.
    moved, change = 0.3, 0.08
    tasks = tasks_for_change(change, moved - change**2)
    rng = np.random.default_rng(3)
    drawn = rng.random((2000, tasks))
    rises = (drawn < (moved + change) / 2).mean(axis=1)
    falls = ((drawn >= (moved + change) / 2) & (drawn < moved)).mean(axis=1)
    differences = rises - falls
    errors = np.sqrt((rises + falls - differences**2) / tasks)
    assert abs((np.abs(differences) > 1.96 * errors).mean() - 0.8) < 0.03
    share, median = simulated_stop(tasks, moved - change**2, change, repeats=600)
    assert 0.9 * 0.8 - 0.05 < share < 0.82
    assert median < tasks
    none, _ = simulated_stop(tasks, moved, 1e-9, repeats=600)
    assert none < 0.08


def episode(number: int, right: bool, sample: int) -> Trajectory:
    said = "Seine" if right else "Thames"
    task = Task(f"t{number}", "Which river?", ("Seine",))
    steps = [Step(said, answer=said)]
    return Trajectory(task, steps=steps, env_id="E-v0", terminated=True, sample=sample)


def test_a_pilot_tells_spread_between_and_within_tasks() -> None:
    drawn = random.Random(1)
    levels = [drawn.betavariate(1.2, 0.8) for _ in range(400)]  # mean .6, correlation 1/3
    runs = [
        [episode(n, drawn.random() < p, s) for n, p in enumerate(levels) for s in range(4)]
        for _ in range(2)
    ]
    spread, tasks, samples = spread_of(runs[0])
    assert (tasks, samples) == (400, 4)
    assert spread.mean == pytest.approx(0.6, abs=0.04)
    assert spread.between == pytest.approx(0.08, abs=0.02)
    assert spread.within == pytest.approx(0.16, abs=0.02)
    first, change = spread_of_pair(*runs)
    assert first == spread
    assert change.mean == pytest.approx(0.0, abs=0.05)
    assert change.between < 0.02  # both are right on the same tasks
    assert change.within == pytest.approx(0.32, abs=0.04)
    with pytest.raises(BadInputError, match="at least two tasks"):
        spread_of(runs[0][:4])
    with pytest.raises(BadInputError, match="at least two tasks in common"):
        spread_of_pair(runs[0][:4], runs[1])


def test_a_plan_answers_what_was_asked() -> None:
    spread = Spread.assumed(0.5)
    plan = plan_evaluation(spread, within=0.05, change=0.1, tasks=385, correlation=None)
    width, change, *given_tasks = plan.rows
    assert width["tasks"] == 385
    assert change["tasks"] == tasks_for_change(0.1, 0.5)
    assert 0.6 < change["sequential_power"] < 0.85
    assert change["sequential_median"] < change["tasks"]
    assert given_tasks[0]["within"] == pytest.approx(0.05, abs=1e-4)
    assert given_tasks[1]["change"] == pytest.approx(detectable(0.5, 385))
    assert plan.to_dict()["paired"] is False
    assert "different tasks" in str(plan)
    paired = plan_evaluation(spread, tasks=385, correlation=0.5)
    assert paired.rows[1]["change"] == pytest.approx(detectable(0.25, 385))
    with pytest.raises(BadInputError, match="say what is wanted"):
        plan_evaluation(spread)
    with pytest.raises(BadInputError, match="a correlation lies from -1 to 1"):
        plan_evaluation(spread, tasks=3, correlation=1.0)
    for wrong in (0.0, 1.0, 60):
        with pytest.raises(BadInputError, match="an accuracy lies between 0 and 1"):
            Spread.assumed(wrong)
    for change_of in (0.0, 0.1):
        with pytest.raises(BadInputError, match="a change is not 0"):
            tasks_for_change(change_of, 0.25, power=0.8 if change_of == 0 else 80)
    with pytest.raises(BadInputError, match="an interval's width is above 0"):
        tasks_for_width(0.0, 0.25)
