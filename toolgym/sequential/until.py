"""When a run has played enough: a figure, and how narrow its interval is to be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from toolgym.errors import BadInputError
from toolgym.grading.rubric import Rubric
from toolgym.sequential.betting import CONFIDENCE, ConfidenceSequence
from toolgym.trajectory import Trajectory

__all__ = ["Decided", "Until", "figure"]

_TEXT = re.compile(
    r"\s*(?P<metric>[A-Za-z_][\w./-]*?)\s*(?:\+-|\+/-|±)\s*"
    r"(?P<width>\d+\.?\d*|\.\d+)\s*(?P<points>%|pp)?\s*",
    re.ASCII,
)
_RECORDED: dict[str, Callable[[Trajectory], float]] = {
    "reward": lambda trajectory: trajectory.reward,
    "truncated": lambda trajectory: float(trajectory.truncated),
}


def figure(metric: str) -> Callable[[Trajectory], float]:
    """What gives an episode's figure from 0 to 1.

    Args:
        metric: a registered reward, summed over the steps; ``reward``, the recorded one; or
            ``truncated``.

    Raises:
        UnknownNameError: none of them has that name.
    """
    recorded = _RECORDED.get(metric)
    rubric = Rubric({} if recorded else {metric: 1.0})

    def read(trajectory: Trajectory) -> float:
        parts = {} if recorded else rubric.parts(trajectory.task, trajectory)
        value = recorded(trajectory) if recorded else float(sum(parts[metric]))
        if not -1e-9 <= value <= 1 + 1e-9:
            raise BadInputError(
                f"{metric} of episode {trajectory.id!r} is {value!r}: only a figure from 0 to 1 "
                "can be decided, such as accuracy"
            )
        return min(1.0, max(0.0, value))

    return read


@dataclass(frozen=True, slots=True)
class Until:
    """When a run is to stop: its figure is known within so much.

    Args:
        metric: see `figure`.
        within: half the width of the confidence sequence, as a share: 0.02 are 2 points.
        confidence: of that sequence.

    Raises:
        BadInputError: a width or a confidence out of range.
        UnknownNameError: an unknown metric.
    """

    metric: str
    within: float
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        if not 0.001 <= self.within < 0.5:
            raise BadInputError(
                f"a figure can be known within 0.1 to 50 percentage points, not {self.within!r}: "
                "write 'accuracy +- 2' for 2 points, or 'accuracy +- 0.02'"
            )
        if not 0 < self.confidence < 1:
            raise BadInputError(
                f"a confidence lies between 0 and 1, such as 0.95, not {self.confidence!r}"
            )
        figure(self.metric)

    @classmethod
    def parse(cls, text: str | Until) -> Until:
        """From ``accuracy +- 2``, in percentage points, or ``accuracy +- 0.02``.

        Raises:
            BadInputError: something else.
            UnknownNameError: an unknown metric.
        """
        if isinstance(text, Until):
            return text
        found = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise BadInputError(
                f"until is a figure and how well it is to be known, such as 'accuracy +- 2' (in "
                f"percentage points), not {text!r:.80}"
            )
        width = float(found["width"])
        return cls(found["metric"], width / 100 if found["points"] or width >= 1 else width)

    def describe(self) -> dict[str, Any]:
        """As ``run.json`` has it."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.metric} +- {100 * self.within:g} points"

    def sequence(self) -> ConfidenceSequence:
        """The interval that is watched, before the first task."""
        return ConfidenceSequence(confidence=self.confidence, within=self.within)

    def reached(self, sequence: ConfidenceSequence) -> bool:
        """Whether that interval is narrow enough."""
        low, high = sequence.interval
        return high - low <= 2 * self.within + 1e-12

    def watch(self, episodes: Iterable[Trajectory]) -> Decided:
        """Where a recorded run would have stopped.

        Args:
            episodes: tasks count in the order in which each appears first, once, by the mean of
                their samples; a finished run has them in the order of its plan.
        """
        read, sums = figure(self.metric), dict[tuple[str, str], tuple[float, int]]()
        for trajectory in episodes:
            key = trajectory.env_id, trajectory.task.id
            total, samples = sums.get(key, (0.0, 0))
            sums[key] = total + read(trajectory), samples + 1
        sequence, played = self.sequence(), 0
        for total, samples in sums.values():
            sequence.add(total / samples)
            played += samples
            if self.reached(sequence):
                return self.decided(sequence, played, True)
        return self.decided(sequence, played, False)

    def decided(self, sequence: ConfidenceSequence, episodes: int, reached: bool) -> Decided:
        """What is known of the figure now."""
        low, high = sequence.interval
        facts = self.metric, self.within, self.confidence
        return Decided(*facts, sequence.count, episodes, sequence.value, low, high, reached)


@dataclass(frozen=True, slots=True)
class Decided:
    """A figure when the run stopped, or as far as it was played.

    Args:
        metric: its name.
        within: half the width that the interval was to reach.
        confidence: of the interval.
        tasks: that were taken in.
        episodes: of those tasks.
        value: mean over tasks; None without a task.
        low: lower end of the confidence sequence.
        high: upper end.
        reached: the interval is as narrow as it was to be.
    """

    metric: str
    within: float
    confidence: float
    tasks: int
    episodes: int
    value: float | None
    low: float
    high: float
    reached: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        value = "-" if self.value is None else f"{100 * self.value:.1f} %"
        verb = "decided" if self.reached else "not decided"
        return (
            f"{verb} within {100 * self.within:g} points after {self.tasks} tasks "
            f"({self.episodes} episodes): {self.metric} {value}, {100 * self.confidence:g} % "
            f"confidence sequence {100 * self.low:.1f} to {100 * self.high:.1f} %"
        )
