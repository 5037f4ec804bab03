"""Whether a round of self-training was a gain: one metric of choice, paired by question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from toolgym.data.conditions import MEASURES, measure
from toolgym.errors import UnknownNameError
from toolgym.evaluation.intervals import Interval, bootstrap, mcnemar, proportion
from toolgym.evaluation.metrics import Figures, summarise
from toolgym.evaluation.metrics import measure as figures_of
from toolgym.registry import REWARDS
from toolgym.rollouts.engine import Run
from toolgym.selftrain.stages import Work
from toolgym.trajectory import Trajectory

__all__ = ["WAYS", "Change", "Evaluated", "Evaluations", "check_judge", "fell"]

WAYS = ("sampled", "greedy")
_P = 0.05
_PAPERS = tuple(name for name in MEASURES if name.startswith("accuracy_paper"))


def check_judge(name: str | None) -> None:
    """Refuse what cannot judge a round.

    Raises:
        UnknownNameError: neither a registered reward nor one of the paper's rules.
    """
    if name is not None and name not in (*REWARDS, *_PAPERS):
        raise UnknownNameError("metric to judge by", name, {*REWARDS, *_PAPERS})


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
        gained: questions whose score rose.
        lost: questions whose score fell.
        interval: mean change of the score, bootstrapped over questions.
        binary: every score is 0 or 1.
    """

    gained: int
    lost: int
    interval: Interval
    binary: bool

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
        """``better`` or ``worse`` where the test and the mean say so, else ``no difference``."""
        mean = self.interval.value or 0.0
        if self.p >= _P or (self.gained - self.lost) * mean <= 0:
            return "no difference shown"
        return "better" if mean > 0 else "worse"


@dataclass
class Evaluations:
    """The held-out evaluations of a run: 0 is the base, then one a round; each is read once.

    Args:
        work: see `Work`.
    """

    work: Work
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

    def score(self, number: int, way: str, *labels: str) -> Interval:
        """The judged metric over the questions of these environments, or of all."""
        parts = [self.of(number, label, way) for label in labels or self.labels]
        scores = [score for part in parts for score in part.scores.values()]
        if _binary(scores):
            return proportion(scores, [1.0] * len(scores))
        return bootstrap(scores, [1.0] * len(scores), seed=self.work.settings.seed)

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
        changes = [later - earlier for earlier, later in pairs]
        return Change(
            sum(change > 1e-9 for change in changes),
            sum(change < -1e-9 for change in changes),
            bootstrap(changes, [1.0] * len(changes), seed=self.work.settings.seed),
            _binary([score for pair in pairs for score in pair]),
        )


def _binary(scores: Sequence[float]) -> bool:
    return all(score in (0.0, 1.0) for score in scores)


def _evaluated(run: Run, judge: str | None, seed: int) -> Evaluated:
    values: dict[str, Callable[[Trajectory], float]] = {}
    scores, figures, tasks = {}, {}, []
    for trajectory in run:
        found = figures_of(trajectory)
        name = judge or ("solve_f1" if found.solving else "exact_match")
        value = values.setdefault(name, measure(name))
        scores[trajectory.id], figures[trajectory.id] = float(value(trajectory)), found
        tasks.append(Trajectory(trajectory.task, env_id=trajectory.env_id))
    rows = summarise(tasks, list(figures.values()), seed, tools=False)
    return Evaluated(tuple(values), scores, figures, rows)


def fell(work: Work, number: int) -> bool:
    """Whether a round made the held-out answers worse than the one before it, by more than chance.

    One test a round, not corrected for the number of rounds: to stop is the careful side.
    """
    return Evaluations(work).change(number - 1, number).verdict == "worse"
