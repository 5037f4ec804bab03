"""The figures of an ablation: what each reward pays for, and how two of them differ."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolgym.checks import probe_reward
from toolgym.data.conditions import MEASURES
from toolgym.evaluation.intervals import Interval, bootstrap, proportion
from toolgym.evaluation.ranks import area_by_group, average_ranks, kendall, levels, pearson
from toolgym.evaluation.score import Scorer, each, task_key
from toolgym.executors import Executor
from toolgym.grading.rubric import Rubric
from toolgym.trajectory import Trajectory

__all__ = [
    *("LENGTHS", "Bias", "Held", "Judged", "Lab", "Pair", "Variation", "advantages"),
]

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
LENGTHS = ("reply_words", "answer_words", "calls")
_FACTORS = (0.0, 0.5, 2.0)
_EPSILON = 1e-4


@dataclass(frozen=True, slots=True)
class Bias:
    """How a reward goes with a length: Spearman's correlations; None where one does not vary.

    Args:
        overall: over all episodes.
        at_equal_truth: of ranks among the right episodes and among the wrong ones.
    """

    overall: float | None
    at_equal_truth: float | None


@dataclass(frozen=True, slots=True)
class Variation:
    """A rubric with the weight of one part changed, against the rubric as it is.

    Args:
        part: name of the reward.
        factor: of its weight.
        mean: total reward of an episode.
        spearman: with the totals under the weights as they are.
        flips: share of episodes whose advantage changes sign.
    """

    part: str
    factor: float
    mean: float
    spearman: float | None
    flips: Interval


@dataclass(frozen=True, slots=True)
class Judged:
    """One reward.

    Args:
        name: as `ablate` was given it.
        mean: total reward of an episode, intervals by task.
        right: the same of the right episodes alone; None where there are none.
        wrong: of the wrong ones.
        agreement: how often a right episode earns more than a wrong one, equal counted half.
        misordered: of the pairs of a right and a wrong episode of one task, those in which the
            wrong one earns more; None where the whole run is one group.
        flat: share of groups in which all earn the same, so that nothing is learned from them.
        bias: by ``reply_words``, ``answer_words`` and ``calls``.
        weights: what other weights would change, of rubrics with several weighted parts.
        probes: adversaries that it survived, and how many there are; None where not asked.
        fooled_by: the names of the others.
    """

    name: str
    mean: Interval
    right: float | None
    wrong: float | None
    agreement: Interval
    misordered: Interval | None
    flat: Interval | None
    bias: dict[str, Bias]
    weights: list[Variation]
    probes: tuple[int, int] | None
    fooled_by: list[str]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rewards.

    Args:
        first: name of one.
        second: name of the other.
        spearman: rank correlation of the totals; None where one does not vary.
        kendall: tau-b.
        flips: share of episodes in a group whose advantage changes sign.
        muted: share of them whose advantage is 0 under one of the two alone.
        examples: [at most 3] places of the episodes whose advantage changes most across 0.
    """

    first: str
    second: str
    spearman: float | None
    kendall: float | None
    flips: Interval
    muted: float | None
    examples: list[int]


def advantages(values: Floats, groups: Places) -> Floats:
    """The advantage of each episode in its group: reward less mean, over the standard deviation.

    As TRL computes it (arXiv 2402.03300, 4.1.2): deviation of the sample, and 1e-4 beside it.

    Args:
        values: [episodes] total rewards.
        groups: [episodes] number of the group.

    Returns:
        [episodes] 0.0 where all of a group earn the same, and in groups of one.
    """
    sizes = np.maximum(np.bincount(groups), 1)
    mean = np.bincount(groups, values) / sizes
    apart = values - mean[groups]
    apart[np.abs(apart) <= 1e-9 * max(1e-300, float(np.abs(values).max(initial=0.0)))] = 0.0
    variance = np.bincount(groups, apart**2) / np.maximum(sizes - 1, 1)
    return np.asarray(apart / (np.sqrt(variance) + _EPSILON)[groups], np.float64)


class Held:
    """What is held of each episode: a few numbers and its id."""

    def __init__(self, rubrics: Mapping[str, Rubric]) -> None:
        self.rubrics = rubrics
        self.ids: list[str] = []
        self.names: dict[tuple[str, str], int] = {}
        self._tasks, self._right = array("q"), array("b")
        self._totals = {name: array("d") for name in rubrics}
        self._parts = {
            name: {part: array("d") for part in rubric.functions}
            for name, rubric in rubrics.items()
            if sum(map(bool, rubric.weights.values())) > 1
        }
        self._lengths = {name: array("d") for name in LENGTHS}

    def read(self, episodes: Iterable[Trajectory], right: Any, executor: Executor | None) -> None:
        """Take in all episodes, one at a time."""
        for trajectory, found in each(episodes, Scorer(dict(self.rubrics)), executor):
            self.ids.append(trajectory.id)
            self._tasks.append(self.names.setdefault(task_key(trajectory), len(self.names)))
            self._right.append(bool(right(trajectory)))
            for name, (total, summed) in found.items():
                self._totals[name].append(total)
                for part, column in self._parts.get(name, {}).items():
                    column.append(summed[part])
            for name, lengths in self._lengths.items():
                lengths.append(MEASURES[name](trajectory))
        self.tasks: Places = np.frombuffer(self._tasks, np.int64).astype(np.intp)
        self.right = np.frombuffer(self._right, np.int8).astype(np.bool_)
        self.totals = {name: np.frombuffer(c, np.float64) for name, c in self._totals.items()}
        self.lengths = {name: np.frombuffer(c, np.float64) for name, c in self._lengths.items()}

    def summed(self, values: Floats, kept: NDArray[np.bool_] | None = None) -> list[Floats]:
        """[tasks] sums, and how many episodes there are."""
        ones = np.ones(len(values)) if kept is None else kept.astype(np.float64)
        count = len(self.names)
        return [np.bincount(self.tasks, c, count).astype(np.float64) for c in (values * ones, ones)]

    def varied(self, name: str) -> Iterator[tuple[str, float, Floats]]:
        """The totals of a rubric with one weight changed: the part, the factor, [episodes]."""
        weights = self.rubrics[name].weights
        for part, column in self._parts.get(name, {}).items():
            values = np.frombuffer(column, np.float64)
            for factor in _FACTORS if weights[part] else ():
                yield part, factor, self.totals[name] + (factor - 1) * weights[part] * values

    def columns(self) -> dict[str, Any]:
        """For a table of the episodes."""
        names = [task for _, task in self.names]
        return {
            "id": self.ids,
            "task": [names[n] for n in self.tasks.tolist()],
            "right": self.right,
            **self.lengths,
            **self.totals,
        }


class Lab:
    """The figures of what is held.

    Args:
        held: the episodes.
        by_task: groups are those of a task; else all are one group.
        seed: fixes the bootstrap.
    """

    def __init__(self, held: Held, by_task: bool, seed: int) -> None:
        self.held, self.by_task, self.seed = held, by_task, seed
        self.groups = held.tasks if by_task else np.zeros_like(held.tasks)
        self.sizes = np.bincount(self.groups)
        self.member = self.sizes[self.groups] > 1
        self.levels = {name: levels(values) for name, values in held.totals.items()}
        self.advantage = {name: advantages(v, self.groups) for name, v in held.totals.items()}

    def judged(self, name: str, rubric: Rubric, probes: bool) -> Judged:
        """All of one reward."""
        held, values = self.held, self.held.totals[name]
        report = probe_reward(rubric) if probes else None
        total = len(report.probes) if report else 0
        means = [float(values[of].mean()) if of.any() else None for of in (held.right, ~held.right)]
        bias = {
            length: Bias(*self._bias(self.levels[name], column))
            for length, column in held.lengths.items()
        }
        return Judged(
            name=name,
            mean=bootstrap(*held.summed(values), seed=self.seed),
            right=means[0],
            wrong=means[1],
            agreement=area_by_group(self.levels[name], held.right, held.tasks),
            misordered=self._misordered(self.levels[name]) if self.by_task else None,
            flat=self._flat(name) if self.by_task else None,
            bias=bias,
            weights=[
                Variation(
                    part,
                    factor,
                    float(other.mean()),
                    pearson(average_ranks(self.levels[name]), average_ranks(levels(other))),
                    self._flips(self.advantage[name], advantages(other, self.groups))[0],
                )
                for part, factor, other in held.varied(name)
            ],
            probes=(total - len(report.failed), total) if report else None,
            fooled_by=report.failed if report else [],
        )

    def pair(self, first: str, second: str) -> Pair:
        """All of two rewards."""
        one, other = self.advantage[first], self.advantage[second]
        flips, across = self._flips(one, other)
        muted = ((one == 0) != (other == 0))[self.member]
        strength = np.minimum(np.abs(one), np.abs(other)) * across
        order = np.argsort(-strength, kind="stable")[:3]
        ranks = [average_ranks(self.levels[name]) for name in (first, second)]
        return Pair(
            first,
            second,
            pearson(*ranks),
            kendall(self.levels[first], self.levels[second]),
            flips,
            float(muted.mean()) if len(muted) else None,
            [int(place) for place in order if across[place]],
        )

    def _flips(self, one: Floats, other: Floats) -> tuple[Interval, NDArray[np.bool_]]:
        across = np.sign(one) * np.sign(other) < 0
        hits, sizes = self.held.summed(across.astype(np.float64), self.member)
        return proportion(hits, sizes), across

    def _flat(self, name: str) -> Interval:
        moved = np.bincount(self.groups, self.advantage[name] != 0) > 0
        flat = (~moved[self.sizes > 1]).astype(np.float64)
        return proportion(flat, np.ones(len(flat)))

    def _misordered(self, ranks: NDArray[np.int64]) -> Interval:
        """Pairs of a right and a wrong episode of a task, and those in which the wrong earns more.

        Sorted by level within tasks, with wrong before right at the same level, each wrong one has
        misordered all right ones that stand before it.
        """
        held = self.held
        order = np.lexsort((held.right, ranks, held.tasks))
        right, tasks = held.right[order].astype(np.float64), held.tasks[order]
        rights = np.bincount(tasks, right, len(held.names))
        before = np.cumsum(right) - np.r_[0.0, np.cumsum(rights)][tasks]
        hits = np.bincount(tasks, before * (1 - right), len(held.names))
        return proportion(hits, rights * (np.bincount(tasks) - rights))

    def _bias(self, ranks: NDArray[np.int64], lengths: Floats) -> tuple[float | None, float | None]:
        overall = pearson(average_ranks(ranks), average_ranks(lengths))
        parts = []
        for chosen in (self.held.right, ~self.held.right):
            pair = [average_ranks(column[chosen]) for column in (ranks, lengths)]
            parts.append([column - column.mean() for column in pair if len(column)])
        one, other = (np.concatenate(columns) for columns in zip(*filter(None, parts), strict=True))
        return overall, pearson(one, other)

    def worth_reading(self, pairs: Sequence[Pair], most: int) -> dict[int, str]:
        """Places of episodes, each with the reason; the strongest flips first."""
        found: dict[int, str] = {}

        def add(place: int, why: str) -> None:
            if len(found) < most:
                found.setdefault(place, why)

        ordered = sorted(pairs, key=lambda pair: -(pair.flips.value or 0.0))
        for rank in range(3):
            for pair in ordered:
                for place in pair.examples[rank : rank + 1] if len(found) < 2 * most / 3 else ():
                    add(place, self._flipped(pair, place))
        for name, values in self.advantage.items():
            ways = (~self.held.right, 1, "wrong, and"), (self.held.right, -1, "right, and")
            for chosen, sign, label in ways:
                place = int(np.argmax(np.where(chosen, sign * values, -np.inf)))
                if chosen.any() and sign * values[place] > 0:
                    way = "up" if sign > 0 else "down"
                    add(place, f"It is {label} `{name}` pushes it {way} ({values[place]:+.2f}).")
        return found

    def _flipped(self, pair: Pair, place: int) -> str:
        said = [
            f"`{name}` pushes it {'up' if value > 0 else 'down'} ({value:+.2f})"
            for name in (pair.first, pair.second)
            if (value := float(self.advantage[name][place]))
        ]
        return f"A flip: {', '.join(said)}."
