"""Conditions on recorded episodes, such as ``accuracy>=1 and calls<=2``; no text is evaluated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from toolgym.errors import BadInputError, UnknownNameError
from toolgym.grading.answers import per_answer, right
from toolgym.grading.rubric import make_rubric
from toolgym.registry import REWARDS
from toolgym.trajectory import Trajectory

__all__ = ["MEASURES", "condition", "measure", "named", "read_conditions"]

MEASURES: Mapping[str, Callable[[Trajectory], float]] = {
    "reward": lambda trajectory: trajectory.reward,
    "steps": lambda trajectory: float(len(trajectory.steps)),
    "calls": lambda trajectory: float(sum(1 for _ in trajectory.calls)),
    "tool_errors": lambda trajectory: float(sum(r.error is not None for _, r in trajectory.calls)),
    "problems": lambda trajectory: float(sum(len(step.problems) for step in trajectory.steps)),
    "cut": lambda trajectory: float(sum(step.cut for step in trajectory.steps)),
    "accuracy_paper_filter": lambda trajectory: sum(
        per_answer(
            trajectory,
            lambda answer: right(answer, trajectory.task, numbers="paper_filter", preset="paper"),
        )
    ),
}
"""What can be compared beside registered rewards and metrics; ``reward`` is the recorded one, and
``cut`` counts replies that ended at the limit of their length; by ``accuracy_paper_filter`` filters
arXiv 2502.05867: it is no registered reward, since copying earns it."""

_NUMBER = r"[-+]?[\d.]+(?:[eE][-+]?\d+)?"
_CONDITION = re.compile(rf"\s*([A-Za-z_][\w./-]*?)\s*(>=|<=|==|>|<)\s*({_NUMBER})\s*")
_AND = re.compile(r"\s+and\s+|,")
_HOLDS: Mapping[str, Callable[[float, float], bool]] = {
    # Sums of floats: a reward of 0.1 ten times must still reach 1.
    ">=": lambda a, b: a >= b - 1e-9,
    "<=": lambda a, b: a <= b + 1e-9,
    "==": lambda a, b: abs(a - b) <= 1e-9,
    ">": lambda a, b: a > b + 1e-9,
    "<": lambda a, b: a < b - 1e-9,
}


def measure(name: str, trajectories: Iterable[Trajectory] = ()) -> Callable[[Trajectory], float]:
    """What gives an episode's total of a reward, metric or measure.

    Args:
        name: a registered reward, one of `MEASURES`, or a metric that was recorded.
        trajectories: whose recorded metrics count as known names.

    Raises:
        UnknownNameError: none of them has that name.
    """
    if name in MEASURES:
        return MEASURES[name]
    if name in REWARDS:
        rubric = make_rubric(name)
        return lambda trajectory: sum(rubric.parts(trajectory.task, trajectory)[name])
    recorded = {metric for trajectory in trajectories for metric in trajectory.metrics}
    if name in recorded:
        return lambda trajectory: trajectory.metrics.get(name, float("-inf"))
    raise UnknownNameError("reward or metric", name, {*MEASURES, *REWARDS, *recorded})


def condition(text: str, trajectories: Iterable[Trajectory] = ()) -> Callable[[Trajectory], bool]:
    """A condition such as ``accuracy>=1 and calls<=2`` as a function.

    Raises:
        UnknownNameError: an unknown name.
        BadInputError: it cannot be read.
    """
    parts = [holds for _, holds in read_conditions(text, trajectories)]
    return lambda trajectory: all(holds(trajectory) for holds in parts)


def read_conditions(
    where: str | None, trajectories: Iterable[Trajectory]
) -> list[tuple[str, Callable[[Trajectory], bool]]]:
    """The parts of a condition, each as its text and a function; none for None.

    Raises:
        UnknownNameError: an unknown name.
        BadInputError: a part cannot be read.
    """
    found = []
    for part in _AND.split(where) if where is not None else ():
        match = _CONDITION.fullmatch(part)
        try:
            name, sign, bound = match.groups() if match else ("", "", "")
            limit = float(bound)
        except ValueError:
            raise BadInputError(
                f"condition {part!r} cannot be read; write it as 'accuracy>=1' "
                "(signs: >=, >, <=, <, ==; join several with 'and')"
            ) from None
        value, compare = measure(name, trajectories), _HOLDS[sign]
        found.append((f"{name}{sign}{bound}", _comparing(value, compare, limit)))
    return found


def _comparing(
    value: Callable[[Trajectory], float], compare: Callable[[float, float], bool], limit: float
) -> Callable[[Trajectory], bool]:
    return lambda trajectory: compare(value(trajectory), limit)


def named(where: str | None) -> list[str]:
    """The names that a condition compares, in order."""
    parts = _AND.split(where) if where else []
    return [match[1] for part in parts if (match := _CONDITION.fullmatch(part))]
