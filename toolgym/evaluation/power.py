"""How many tasks it takes, before they are played: for a figure's width, and for a difference.

All formulas are those of the normal approximation for means over tasks: n = (z v^1/2 / h)^2 for an
interval of half the width h, and n = (z_(1-alpha/2) + z_power)^2 v / d^2 for a difference d between
two runs, where v is the variance of what one task contributes (Cohen, Statistical Power Analysis,
1988, chapter 6; for pairs of right and wrong v is the share that changes less d^2: Miettinen,
Biometrics 24, 1968). Several samples of a task share its difficulty: v = p (1-p) (r + (1-r) / s)
with the correlation r within a task (Donner and Klar, Design and Analysis of Cluster Randomization
Trials, 2000, chapter 5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from toolgym._util.text import text_table
from toolgym.errors import BadInputError
from toolgym.evaluation.score import task_key
from toolgym.rollouts.recording import Recording, some_episodes
from toolgym.sequential.betting import CONFIDENCE, Bets
from toolgym.sequential.until import figure

__all__ = [
    *("POWER", "Plan", "Spread", "detectable", "detectable_change", "detectable_difference"),
    *(
        "plan_evaluation",
        "simulated_stop",
        "spread_of",
        "spread_of_pair",
        "tasks_for_change",
        "tasks_for_width",
    ),
]

POWER = 0.8
_REPEATS = 1000  # simulated comparisons


@dataclass(frozen=True, slots=True)
class Spread:
    """Variance of what a task contributes to a mean.

    Args:
        mean: of all tasks.
        between: variance between tasks, of what infinitely many samples of a task would give.
        within: variance of one sample around its task.
    """

    mean: float
    between: float
    within: float

    @classmethod
    def assumed(cls, accuracy: float, intraclass: float = 1.0) -> Spread:
        """Of right and wrong answers.

        Args:
            accuracy: their share, between 0 and 1.
            intraclass: correlation of two samples of a task, from 0 to 1.

        Raises:
            BadInputError: one of them is out of range.
        """
        if not 0 < accuracy < 1 or not 0 <= intraclass <= 1:
            raise BadInputError(
                f"an accuracy lies between 0 and 1 and a correlation within tasks from 0 to 1, not "
                f"{accuracy!r} and {intraclass!r}"
            )
        total = accuracy * (1 - accuracy)
        return cls(accuracy, intraclass * total, (1 - intraclass) * total)

    def variance(self, samples: int = 1) -> float:
        """Of a task's mean over its samples."""
        return self.between + self.within / samples


def tasks_for_width(within: float, variance: float, confidence: float = CONFIDENCE) -> int:
    """Tasks until an interval of fixed size has half the width ``within``.

    Raises:
        BadInputError: a width that is not above 0.
    """
    if within <= 0:
        raise BadInputError(f"an interval's width is above 0, not {within!r}")
    return max(1, math.ceil(variance * (_z(confidence) / within) ** 2 - 1e-9))


def tasks_for_change(
    change: float, variance: float, power: float = POWER, confidence: float = CONFIDENCE
) -> int:
    """Tasks, of each run, until a two-sided test of fixed size finds a change so often.

    Args:
        change: between the means, not 0.
        variance: of a task's difference where both runs have the same tasks, else the sum of both
            runs' variances.
        power: share of the cases in which it is found.
        confidence: 1 - alpha.

    Raises:
        BadInputError: a change of 0, or a power out of range.
    """
    if not change or not 0 < power < 1:
        raise BadInputError(
            f"a change is not 0 and a power between 0 and 1, such as 0.8, not {change!r} and "
            f"{power!r}"
        )
    reach = _z(confidence) + NormalDist().inv_cdf(power)
    return max(1, math.ceil(variance * (reach / change) ** 2 - 1e-9))


def detectable(
    variance: float, tasks: int, power: float = POWER, confidence: float = CONFIDENCE
) -> float:
    """The smallest change that so many tasks show so often; see `tasks_for_change`."""
    reach = _z(confidence) + NormalDist().inv_cdf(power)
    return reach * math.sqrt(variance / tasks)


def detectable_change(changes: ArrayLike) -> float | None:
    """The smallest change that as many tasks as these show, when they vary as these.

    Args:
        changes: [tasks] after minus before.

    Returns:
        None where there is nothing to say: one task, or none that differs from the others.
    """
    found = np.asarray(changes, np.float64)
    variance = float(found.var(ddof=1)) if len(found) > 1 else 0.0
    return detectable(variance, len(found)) if variance > 1e-30 else None


def detectable_difference(low: float, high: float) -> float:
    """The smallest difference between two runs of different tasks whose intervals are like this.

    Args:
        low: end of a figure's 95 % interval.
        high: the other end.
    """
    error = (high - low) / (2 * _z(CONFIDENCE))
    return detectable(2 * error**2, 1)


def spread_of(run: Recording, metric: str = "accuracy") -> tuple[Spread, int, int]:
    """What a pilot shows, its tasks, and the fewest samples of one.

    With one sample a task nothing is known of the spread within tasks: all counts as between them.

    Raises:
        BadInputError: fewer than two tasks.
    """
    return _spread(list(_by_task(run, metric).values()))


def spread_of_pair(
    before: Recording, after: Recording, metric: str = "accuracy"
) -> tuple[Spread, Spread]:
    """What two pilots on the same tasks show: the spread of the first, and that of the change.

    Raises:
        BadInputError: fewer than two tasks in common.
    """
    old, new = _by_task(before, metric), _by_task(after, metric)
    common = [key for key in old if key in new]
    sides = [[side[key] for key in common] for side in (old, new)]
    if len(common) < 2:
        raise BadInputError("two pilots have at least two tasks in common; play more of them")
    changes = np.array([np.mean(b) - np.mean(a) for a, b in zip(*sides, strict=True)])
    spreads = [_spread(side)[0] for side in sides]
    chance = sum(
        spread.within * float(np.mean([1 / len(group) for group in side]))
        for spread, side in zip(spreads, sides, strict=True)
    )
    between = max(0.0, float(changes.var(ddof=1)) - chance)
    within = spreads[0].within + spreads[1].within
    return spreads[0], Spread(float(changes.mean()), between, within)


def _spread(groups: Sequence[Sequence[float]]) -> tuple[Spread, int, int]:
    if len(groups) < 2:
        raise BadInputError("a pilot has at least two tasks; play more of them")
    means = np.array([np.mean(group) for group in groups])
    several = [group for group in groups if len(group) > 1]
    within = float(np.mean([np.var(group, ddof=1) for group in several])) if several else 0.0
    size = float(np.mean([1 / len(group) for group in groups]))
    between = max(0.0, float(means.var(ddof=1)) - within * size)
    return Spread(float(means.mean()), between, within), len(groups), min(map(len, groups))


def _by_task(run: Recording, metric: str) -> dict[tuple[str, str], list[float]]:
    read, found = figure(metric), dict[tuple[str, str], list[float]]()
    for trajectory in some_episodes(run):
        found.setdefault(task_key(trajectory), []).append(read(trajectory))
    return found


@dataclass(frozen=True, slots=True)
class Plan:
    """What an evaluation takes; see `plan_evaluation`.

    Args:
        assumed: what was taken for granted, in words.
        samples: of each task.
        variance: of a task's mean.
        variance_of_change: of a task's difference, or of both runs together.
        paired: both runs have the same tasks.
        rows: question, and the answer in tasks and episodes.
    """

    assumed: str
    samples: int
    variance: float
    variance_of_change: float
    paired: bool
    rows: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "assumed": self.assumed,
            "samples_per_task": self.samples,
            "variance": self.variance,
            "variance_of_change": self.variance_of_change,
            "paired": self.paired,
            "rows": self.rows,
        }

    def __str__(self) -> str:
        cells = [
            [row["question"], f"{row['tasks']:,}", f"{row['episodes']:,}", row.get("note", "")]
            for row in self.rows
        ]
        table = text_table(("question", "tasks", "episodes a run", "note"), cells)
        return f"Assumed: {self.assumed}\n\n{table}"


def plan_evaluation(
    spread: Spread,
    *,
    after: Spread | None = None,
    correlation: float | None = 0.5,
    variance_of_change: float | None = None,
    samples: int = 1,
    within: float | None = None,
    change: float | None = None,
    tasks: int | None = None,
    power: float = POWER,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Plan:
    """How many tasks an evaluation takes, or what so many tasks show.

    Args:
        spread: of the run, or of the first of two.
        after: of the second; None: as the first.
        correlation: of a task's means in both runs, which have the same tasks; None: they have
            not.
        variance_of_change: of a task's difference where it is known, as from two pilots.
        samples: of each task.
        within: half the width that the interval is to have, as a share.
        change: that is to be found.
        tasks: that there are; the smallest change that they show.
        power: share of the cases in which it is found.
        confidence: of intervals and tests.
        seed: of the simulation of runs that stop when it is decided.

    Raises:
        BadInputError: numbers out of range, or nothing is asked.
    """
    if correlation is not None and not -1 <= correlation < 1:
        raise BadInputError(f"a correlation lies from -1 to 1, and below it, not {correlation!r}")
    if within is None and change is None and tasks is None:
        raise BadInputError(
            "say what is wanted: a width (--within), a change that is to be found (--change), or "
            "how many tasks there are (--tasks)"
        )
    own, other = spread.variance(samples), (after or spread).variance(samples)
    both = own + other - 2 * (correlation or 0.0) * math.sqrt(own * other)
    both = both if variance_of_change is None else variance_of_change
    paired = correlation is not None or variance_of_change is not None
    rows: list[dict[str, Any]] = []

    def tell(question: str, count: int, note: str = "", **more: Any) -> None:
        row = {"question": question, "tasks": count, "episodes": count * samples, "note": note}
        rows.append(row | more)

    if within is not None:
        needed = tasks_for_width(within, own, confidence)
        tell(f"{100 * spread.mean:.3g} % +- {_points(within)}", needed)
    kind = "the same tasks" if paired else "different tasks"
    if change is not None:
        needed = tasks_for_change(change, both, power, confidence)
        share, median = simulated_stop(needed, both, change, confidence=confidence, seed=seed)
        note = f"stopped when decided: power {share:.0%}, half of them by {median:,} tasks"
        question = f"a change of {_points(change)} with {power:.0%} power, {kind}"
        tell(question, needed, note, sequential_power=share, sequential_median=median)
    if tasks is not None:
        least = detectable(both, tasks, power, confidence)
        half = _z(confidence) * math.sqrt(own / tasks)
        tell(f"interval +- {_points(half)}", tasks, within=half)
        question = f"finds a change of {_points(least)} with {power:.0%} power, {kind}"
        tell(question, tasks, change=least)
    assumed = (
        f"mean {100 * spread.mean:.3g} %, variance {spread.between:.3f} between tasks and "
        f"{spread.within:.3f} within; of a change {both:.3f} a task"
    )
    return Plan(assumed, samples, own, both, paired, rows)


def simulated_stop(
    horizon: int,
    variance: float,
    change: float,
    *,
    confidence: float = CONFIDENCE,
    repeats: int = _REPEATS,
    seed: int = 0,
) -> tuple[float, int]:
    """How comparisons end that stop when they are decided, simulated.

    A task's difference is -1, 0 or 1, with the variance asked for as far as that can be.

    Args:
        horizon: tasks at most.
        variance: of a task's difference.
        change: its mean.
        confidence: of the decision.
        repeats: simulated comparisons.
        seed: of the simulation.

    Returns:
        Share that was decided, and the median of the tasks that it took.
    """
    size = min(abs(change), 1.0)
    moved = min(1.0, max(variance + size**2, size))
    rng = np.random.default_rng(seed)
    bets = Bets(np.full(repeats, 0.5), confidence=confidence, horizon=horizon)
    stops = np.full(repeats, horizon + 1)
    for task in range(1, horizon + 1):
        drawn = rng.random(repeats)
        better = drawn < (moved + size) / 2
        bets.add(np.where(better, 1.0, np.where(drawn < moved, 0.0, 0.5)))
        hit = (bets.capital.max(axis=0) >= bets.goal) & (stops > horizon)
        stops[hit] = task
        if bool((stops <= horizon).all()):
            break
    decided = float((stops <= horizon).mean())
    return decided, int(np.median(np.minimum(stops, horizon)))


def _points(share: float) -> str:
    return f"{100 * share:.3g} points"


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise BadInputError(f"a confidence lies between 0 and 1, such as 0.95, not {confidence!r}")
    return NormalDist().inv_cdf((1 + confidence) / 2)
