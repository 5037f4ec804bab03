"""Whether a round of self-training was a gain: one metric of choice, paired by question."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from toolgym.data.conditions import measure
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.evaluation.intervals import Interval, bootstrap, mcnemar, proportion
from toolgym.evaluation.metrics import SOLVE, Figures, figures_of, summarise
from toolgym.registry import REWARDS
from toolgym.rollouts.engine import Run
from toolgym.selftrain.stages import Work
from toolgym.trajectory import Trajectory

__all__ = [
    *("WAYS", "Change", "Evaluated", "Evaluations", "average", "check_judge", "fell", "share"),
]

WAYS = ("sampled", "greedy")
_P = 0.05
_SAME = 1e-9  # sums of floats that are closer are equal
_FIGURES = ("exact_match", "accuracy", "accuracy_paper", "token_f1", *SOLVE)


def check_judge(name: str | None) -> None:
    """Refuse what cannot judge a round.

    Raises:
        UnknownNameError: neither a figure of right answers nor a registered reward.
    """
    if name is not None and name not in (*_FIGURES, *REWARDS):
        raise UnknownNameError("metric to judge by", name, {*_FIGURES, *REWARDS})


@dataclass(frozen=True)
class Evaluated:
    """The held-out episodes of one environment, played once by one model.

    Args:
        judges: the metrics that judge them: one, unless only some of the tasks have sub-answers.
        scores: the judged metric, by id of the episode.
        figures: all others, by id.
        rows: those of all episodes together, with their intervals.
    """

    judges: tuple[str, ...]
    scores: dict[str, float]
    figures: dict[str, Figures]
    rows: dict[str, Interval]


@dataclass(frozen=True)
class Change:
    """What became of the same questions.

    Args:
        changes: [questions] the later score minus the earlier one.
        binary: every score is 0 or 1.
        seed: fixes the bootstrap.
    """

    changes: Sequence[float]
    binary: bool
    seed: int

    @property
    def gained(self) -> int:
        """Questions whose score rose."""
        return sum(change > _SAME for change in self.changes)

    @property
    def lost(self) -> int:
        """Questions whose score fell."""
        return sum(change < -_SAME for change in self.changes)

    @property
    def mean(self) -> float:
        """Mean change of the score."""
        return sum(self.changes) / max(1, len(self.changes))

    @functools.cached_property
    def interval(self) -> Interval:
        """Of the mean change, bootstrapped over questions."""
        return bootstrap(self.changes, [1.0] * len(self.changes), seed=self.seed)

    @property
    def p(self) -> float:
        """Exact two-sided sign test; of scores of 0 and 1 it is McNemar's."""
        return mcnemar(self.lost, self.gained)

    @property
    def test(self) -> str:
        """Name of the test."""
        return "exact McNemar test" if self.binary else "exact sign test"

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the test and the mean agree, else that none is shown."""
        if self.p >= _P or (self.gained - self.lost) * self.mean <= 0:
            return "no difference shown"
        return "better" if self.mean > 0 else "worse"


@dataclass
class Evaluations:
    """The held-out evaluations of a run: 0 is the base, then one a round; each is read once.

    Args:
        work: see `Work`.
        last: the number of the last one.
    """

    work: Work
    last: int = 0
    _read: dict[tuple[int, str, str], Evaluated] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """The environments that are evaluated."""
        return [e.label for e in self.work.environments if e.test is not None]

    def of(self, number: int, label: str, way: str = "sampled") -> Evaluated:
        """One evaluation of one environment."""
        key = number, label, way
        if key not in self._read:
            run = Run.open(self.work.out / f"evaluation-{number}" / f"{label}-{way}")
            self._read[key] = _evaluated(run, self.work.settings.judge_by, self.work.settings.seed)
        return self._read[key]

    def judge(self, *labels: str) -> str:
        """What these environments, or all, are judged by."""
        found = (self.of(0, label).judges for label in labels or self.labels)
        return " or ".join(dict.fromkeys(name for names in found for name in names))

    def score(self, number: int, way: str, *labels: str) -> str:
        """The judged metric over the questions of these environments, or of all, as text."""
        parts = [self.of(number, label, way) for label in labels or self.labels]
        scores = [score for part in parts for score in part.scores.values()]
        ones = [1.0] * len(scores)
        if _binary(scores):
            return share(proportion(scores, ones))
        found = bootstrap(scores, ones, seed=self.work.settings.seed)
        return share(found) if self.in_percent else average(found)

    @property
    def in_percent(self) -> bool:
        """Whether the judged metric always lies from 0 to 1."""
        parts = (
            self.of(number, label, way)
            for number in range(self.last + 1)
            for label in self.labels
            for way in WAYS
        )
        return all(0 <= score <= 1 for part in parts for score in part.scores.values())

    def change(
        self,
        before: int,
        after: int,
        way: str = "sampled",
        labels: Sequence[str] = (),
        metric: str | None = None,
    ) -> Change:
        """How the same questions fared in two evaluations.

        Args:
            before: number of the one.
            after: number of the other.
            way: of `WAYS`.
            labels: of the environments; default: all.
            metric: a figure; default: what judges.
        """
        pairs: list[tuple[float, float]] = []
        for label in labels or self.labels:
            old, new = self.of(before, label, way), self.of(after, label, way)
            pairs += [
                (score, new.scores[key])
                if metric is None
                else (old.figures[key].value(metric), new.figures[key].value(metric))
                for key, score in old.scores.items()
                if key in new.scores
            ]
        binary = _binary([score for pair in pairs for score in pair])
        changes = [later - earlier for earlier, later in pairs]
        return Change(changes, binary, self.work.settings.seed)


def share(found: Interval) -> str:
    """A share in percent with its interval."""
    return _text(found, lambda value: f"{100 * value:.1f}", " %")


def average(found: Interval) -> str:
    """A mean or a median with its interval."""
    return _text(found, lambda value: f"{value:.2f}")


def _text(found: Interval, write: Callable[[float], str], unit: str = "") -> str:
    if found.value is None:
        return "-"
    ends = ""
    if found.low is not None and found.high is not None:
        ends = f" [{write(found.low)}, {write(found.high)}]"
    return write(found.value) + unit + ends


def _binary(scores: Sequence[float]) -> bool:
    return all(score in (0.0, 1.0) for score in scores)


def _evaluated(run: Run, judge: str | None, seed: int) -> Evaluated:
    reward = None if judge is None or judge in _FIGURES else measure(judge)
    judges: dict[str, None] = {}
    scores, figures, tasks = {}, {}, []
    for trajectory in run:
        found = figures_of(trajectory)
        name = judge or ("Solve-F1" if found.solving else "exact_match")
        judges[name] = None
        if name in SOLVE and not found.solving:
            raise BadInputError(
                f"judge_by {name!r} needs tasks with sub-answers, which {trajectory.task.id!r} of "
                f"{trajectory.env_id!r} has not; 'exact_match' judges any"
            )
        score = reward(trajectory) if reward is not None else found.value(name)
        scores[trajectory.id], figures[trajectory.id] = float(score), found
        tasks.append(Trajectory(trajectory.task, env_id=trajectory.env_id))
    rows = summarise(tasks, list(figures.values()), seed, tools=False)
    return Evaluated(tuple(judges), scores, figures, rows)


def fell(work: Work, number: int) -> bool:
    """Whether a round made the held-out answers worse than the one before it, by more than chance.

    One test a round, not corrected for the number of rounds: to stop is the careful side.
    """
    return Evaluations(work).change(number - 1, number).verdict == "worse"
