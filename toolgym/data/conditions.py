"""Conditions on recorded episodes, such as ``accuracy>=1 and calls<=2``; no text is evaluated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import NoneType

from toolgym._util.kinds import require
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.grading.answers import normalise, per_answer, right
from toolgym.grading.rubric import make_rubric
from toolgym.grading.solving import count_calls
from toolgym.registry import REWARDS
from toolgym.trajectory import Trajectory

__all__ = [
    "COPIED_WORDS",
    "MEASURES",
    "answer_words",
    "compared_names",
    "condition",
    "copied_passage",
    "measure",
    "read_conditions",
]

COPIED_WORDS = 6
"""Fewest words of a copied passage: one more than 100 % of PopQA's and NQ-Open's gold answers and
95 % of TriviaQA's have (500 questions of each, the first gold answer)."""


def answer_words(trajectory: Trajectory) -> list[str]:
    """The words of the policy's own answer, normalised as ``unicode``; none where it gave none.

    That is lower case, without punctuation and English articles; in scripts without spaces each
    letter is a word.
    """
    answer = next((step.final for step in trajectory.steps if step.final is not None), "")
    return normalise(answer, "unicode").split()


def copied_passage(trajectory: Trajectory) -> bool:
    """Whether the answer holds a passage of a tool result.

    A passage is a run of at least `COPIED_WORDS` words, and of more words than the longest gold
    answer has, that stand one after the other both in the answer and in one result that the policy
    had read before it answered.
    """
    words = answer_words(trajectory)
    if len(words) < COPIED_WORDS:  # the results need not be read
        return False
    longest = max(len(normalise(gold, "unicode").split()) for gold in trajectory.task.targets)
    return _copied_words(trajectory) >= max(COPIED_WORDS, longest + 1)


def _copied_words(trajectory: Trajectory) -> int:
    """Words of the longest run that the answer and one result have in common."""
    words = answer_words(trajectory)
    results: list[str] = []
    for step in trajectory.steps if words else ():
        if step.final is not None:
            break
        results += [f" {normalise(result.seen, 'unicode')} " for result in step.results]
    best = begin = 0
    while begin + best < len(words):
        run = f" {' '.join(words[begin : begin + best + 1])} "
        if any(run in result for result in results):
            best += 1
        else:
            begin += 1
    return best


def _accuracy_paper(numbers: str) -> Callable[[Trajectory], float]:
    return lambda trajectory: sum(
        per_answer(
            trajectory,
            lambda answer: right(answer, trajectory.task, numbers=numbers, preset="paper"),
        )
    )


MEASURES: Mapping[str, Callable[[Trajectory], float]] = {
    "reward": lambda trajectory: trajectory.reward,
    "steps": lambda trajectory: float(len(trajectory.steps)),
    "calls": lambda trajectory: float(sum(1 for _ in trajectory.calls)),
    "tool_errors": lambda trajectory: float(sum(r.error is not None for _, r in trajectory.calls)),
    "problems": lambda trajectory: float(sum(len(step.problems) for step in trajectory.steps)),
    "user_turns": lambda trajectory: float(sum(s.user is not None for s in trajectory.steps)),
    "cut": lambda trajectory: float(sum(step.cut for step in trajectory.steps)),
    "malformed": lambda trajectory: float(count_calls(trajectory.steps).malformed),
    "truncated": lambda trajectory: float(trajectory.truncated),
    "answer_words": lambda trajectory: float(len(answer_words(trajectory))),
    "reply_words": lambda trajectory: float(sum(len(s.action.split()) for s in trajectory.steps)),
    "copied_passage": lambda trajectory: float(copied_passage(trajectory)),
    "copied_words": lambda trajectory: float(_copied_words(trajectory)),
    "accuracy_paper": _accuracy_paper("value"),
    "accuracy_paper_filter": _accuracy_paper("paper_filter"),
}
"""What can be compared beside registered rewards and metrics; ``reward`` is the recorded one,
``user_turns`` counts what a user said after the question, ``cut`` replies that ended at the limit
of their length, ``malformed`` attempts that could not be read as a call. ``answer_words`` is 0
without an answer, ``copied_passage`` 1 where the answer holds one, ``copied_words`` the longest run
that the answer shares with a result. ``accuracy_paper`` and ``accuracy_paper_filter`` are the rules
by which arXiv 2502.05867 evaluates and filters: they are no registered rewards, since copying earns
them."""

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
    require(where, (str, NoneType), "a condition is a string such as 'accuracy>=1', or None")
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


def compared_names(where: str | None) -> list[str]:
    """The names that a condition compares, in order."""
    parts = _AND.split(where) if where else []
    return [match[1] for part in parts if (match := _CONDITION.fullmatch(part))]
