"""Two runs until it is decided which is better, and gates that a figure has to pass."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolgym.errors import BadInputError, ToolgymError, UnknownNameError
from toolgym.evaluation.compare import Comparison
from toolgym.evaluation.report import Report, Row
from toolgym.evaluation.score import task_key
from toolgym.policies.base import Policy, PolicyFunction
from toolgym.rollouts.engine import rollout
from toolgym.rollouts.plan import plan
from toolgym.rollouts.recording import Recording, in_plan_order
from toolgym.rollouts.runs import Run
from toolgym.sequential.betting import CONFIDENCE, ConfidenceSequence
from toolgym.sequential.until import figure

__all__ = [
    *("Decision", "Gate", "GateError", "Passed", "check_gates", "decide", "play_decided"),
    "require_gates",
]

_LOOKS = 25  # times at most that two policies are compared while they play


@dataclass(frozen=True, slots=True)
class Decision:
    """Which of two runs is better, after as few tasks as that takes.

    Args:
        metric: what was compared.
        margin: the change that is to be told from: 0, or how much may be lost.
        confidence: of the decision, however often one looks.
        verdict: ``better`` (the change is above the margin), ``worse`` (below it), or ``open``.
        tasks: that were taken in.
        planned: tasks of both runs at most; the bets stake all on a decision until then.
        episodes: of both runs, of the tasks that were taken in.
        change: mean over those tasks, after minus before.
        low: lower end of its confidence sequence.
        high: upper end.
        p_value: of no difference, two-sided; it may be looked at after each task.
    """

    metric: str
    margin: float
    confidence: float
    verdict: str
    tasks: int
    planned: int
    episodes: int
    change: float
    low: float
    high: float
    p_value: float

    def __getitem__(self, name: str) -> Decision:
        """Itself, by the metric that decided.

        Raises:
            UnknownNameError: it is another one.
        """
        if name != self.metric:
            raise UnknownNameError("metric", name, [self.metric])
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        words = {"better": "above", "worse": "below", "open": "beside"}
        place = f", {words[self.verdict]} {100 * self.margin:+g} points," if self.margin else ""
        said = "not decided" if self.verdict == "open" else "decided"
        said += place or ("" if self.verdict == "open" else f", {self.verdict},")
        ends = f"{100 * self.low:+.1f} to {100 * self.high:+.1f}, p {self.p_value:.2g}"
        return (
            f"{said} after {self.tasks} of {self.planned} tasks ({self.episodes} episodes): "
            f"{self.metric} {100 * self.change:+.1f} points, {100 * self.confidence:g} % "
            f"confidence sequence {ends}"
        )


def decide(
    before: Recording,
    after: Recording,
    *,
    metric: str = "accuracy",
    margin: float = 0.0,
    confidence: float = CONFIDENCE,
    planned: int | None = None,
) -> Decision:
    """After how many tasks two recorded runs are told apart.

    Tasks that both have are taken in one by one, in the order of the first run's file, which is
    that of its plan; a task counts with the difference of its two means over its samples.

    Args:
        before: a `Run`, the path of one, or trajectories.
        after: the same, on the same tasks.
        metric: see `toolgym.sequential.until.figure`.
        margin: the change that is to be told from: 0; or -0.01 to show that not more than a point
            is lost.
        confidence: of the decision.
        planned: tasks at most, where more are still to be played; None: those that are there.

    Raises:
        MissingFileError: no such run.
        BadInputError: no task in common, or figures that are not from 0 to 1.
        UnknownNameError: an unknown metric.
    """
    _require_margin(margin)
    old, new = _figures(before, metric), _figures(after, metric)
    common = [key for key in old if key in new]
    if not common:
        raise BadInputError(
            "the runs have no task in common; roll both out on the same tasks and environment"
        )
    horizon = max(len(common), planned or 0)
    sequence = ConfidenceSequence(confidence=confidence, horizon=horizon, low=-1.0, high=1.0)
    verdict, episodes = "open", 0
    for key in common:
        sums = [(sum(side[key]) / len(side[key])) for side in (old, new)]
        sequence.add(sums[1] - sums[0])
        episodes += len(old[key]) + len(new[key])
        low, high = sequence.interval
        if low >= margin or high <= margin:
            verdict = "better" if low >= margin else "worse"
            break
    low, high = sequence.interval
    facts = verdict, sequence.count, horizon, episodes
    ends = sequence.value or 0.0, low, high, sequence.p_value(0.0)
    return Decision(metric, margin, confidence, *facts, *ends)


def _require_margin(margin: float) -> None:
    if not -1 < margin < 1:
        raise BadInputError(f"a margin lies between -1 and 1, such as -0.01, not {margin!r}")


def _figures(source: Recording, metric: str) -> dict[tuple[str, str], list[float]]:
    """By task, in the order in which the episodes stand in the run."""
    read, found = figure(metric), dict[tuple[str, str], list[float]]()
    for trajectory in in_plan_order(source):
        found.setdefault(task_key(trajectory), []).append(read(trajectory))
    return found


def play_decided(
    env: str,
    before: Policy | PolicyFunction | str,
    after: Policy | PolicyFunction | str,
    *,
    metric: str = "accuracy",
    margin: float = 0.0,
    confidence: float = CONFIDENCE,
    out: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    **arguments: Any,
) -> tuple[Decision, Run, Run]:
    """Let two policies play the same tasks in step, until it is decided which is better.

    They are compared at most `_LOOKS` times, so that each plays at most a 25th of the tasks more
    than the decision takes. The same command goes on where it was stopped.

    Args:
        env: id of the environment.
        before: the first policy.
        after: the second.
        metric: see `decide`.
        margin: see `decide`.
        confidence: of the decision.
        out: folder of the two run folders ``before`` and ``after``; None: in memory.
        progress: called with ``before`` or ``after``, finished and planned episodes.
        **arguments: of `toolgym.rollout`: ``env_args``, ``episodes`` (of each, at most),
            ``samples_per_task``, ``seed``, ``concurrency``, ``max_failures``.

    Returns:
        The decision, and both runs.

    Raises:
        BadInputError: arguments that do not fit.
        PolicyError: too many failures in a row; what was finished is kept.
    """
    _require_margin(margin)
    figure(metric)
    samples = arguments.get("samples_per_task", 1)
    kept = {name: arguments[name] for name in ("env_args", "seed", "episodes") if name in arguments}
    most = len(plan(env, before, samples_per_task=samples, **kept).jobs)
    tasks = -(-most // samples)
    block = max(16, -(-tasks // _LOOKS))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch if out is None else out)
        for ready in [*range(block, tasks, block), tasks]:
            runs = []
            for side, policy in (("before", before), ("after", after)):
                told = arguments | {"episodes": min(most, ready * samples), "out": folder / side}
                told["progress"] = _telling(progress, side, most)
                runs.append(rollout(env, policy, **told))
            asked: dict[str, Any] = {"metric": metric, "margin": margin, "confidence": confidence}
            decision = decide(*runs, **asked, planned=tasks)
            if decision.verdict != "open":
                break
        if out is None:
            runs = [Run(run.settings, None, list(run.in_file_order())) for run in runs]
    return decision, runs[0], runs[1]


def _telling(
    progress: Callable[[str, int, int], None] | None, side: str, most: int
) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, _: progress(side, done, most)


class GateError(ToolgymError):
    """A figure does not pass its gate; the command line ends with code 6."""

    exit_code = 6


_GATE = re.compile(r"\s*([A-Za-z_][\w./@^() -]*?)\s*(>=|<=)\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*(%?)\s*")


@dataclass(frozen=True, slots=True)
class Gate:
    """What a figure has to show: its whole interval lies on one side of a bound.

    Args:
        metric: a row of a report or of a comparison.
        sign: ``>=`` looks at the lower end, ``<=`` at the upper one.
        bound: as a share, or in the unit of the figure.
    """

    metric: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Gate:
        """From ``exact_match>=0.3``, ``accuracy >= 30 %`` or ``malformed_rate<=0.05``.

        Raises:
            BadInputError: something else.
        """
        found = _GATE.fullmatch(text)
        if found is None:
            raise BadInputError(
                "a gate is a figure, >= or <=, and a number, such as 'exact_match>=0.3', not "
                f"{text!r:.80}"
            )
        return cls(found[1], found[2], float(found[3]) / (100 if found[4] else 1))

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.bound:g}"


@dataclass(frozen=True, slots=True)
class Passed:
    """How a figure fared at its gate.

    Args:
        gate: what was asked.
        value: the estimate, or None.
        end: of the interval, that was looked at; None where there is no interval.
        passed: whether the end keeps the bound. Without an interval nothing is shown.
    """

    gate: Gate
    value: float | None
    end: float | None
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        facts = {"gate": str(self.gate), "value": self.value, "end": self.end}
        return facts | {"passed": self.passed}

    def __str__(self) -> str:
        name = "lower" if self.gate.sign == ">=" else "upper"
        end = "no interval" if self.end is None else f"{name} end {self.end:.4g}"
        value = "no value" if self.value is None else f"{self.value:.4g}"
        return f"gate {self.gate}: {'passed' if self.passed else 'FAILED'} ({value}, {end})"


def check_gates(gates: Iterable[Gate | str], found: Report | Comparison | Decision) -> list[Passed]:
    """Look at the ends of a report's intervals, or at those of a comparison's changes.

    Of policies that played until it was decided only the decision's own interval is valid.

    All have to pass, so that nothing is corrected for their number; each is a one-sided test at
    2.5 %.

    Args:
        gates: such as ``exact_match>=0.3``, of a change ``accuracy>=-0.01``.
        found: of `toolgym.evaluate`, `toolgym.compare` or `play_decided`.

    Raises:
        BadInputError: a text that is not a gate.
        UnknownNameError: a metric that is not there.
    """
    checked = []
    for gate in (each if isinstance(each, Gate) else Gate.parse(each) for each in gates):
        row = found[gate.metric]
        value = row.value if isinstance(row, Row) else row.change
        end = row.low if gate.sign == ">=" else row.high
        kept = end is not None and (
            end >= gate.bound - 1e-12 if gate.sign == ">=" else end <= gate.bound + 1e-12
        )
        checked.append(Passed(gate, value, end, kept))
    return checked


def require_gates(checked: Sequence[Passed]) -> None:
    """Raise where one of them failed.

    Raises:
        GateError: it says which.
    """
    failed = [str(each) for each in checked if not each.passed]
    if failed:
        raise GateError(f"{len(failed)} of {len(checked)} gates failed: {'; '.join(failed)}")
