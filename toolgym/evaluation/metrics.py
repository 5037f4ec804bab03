"""What one episode contributes to a report, and the report's figures with their intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from toolgym.data.conditions import answer_words, copied_passage
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.evaluation.intervals import (
    Interval,
    bootstrap,
    bounded_mean,
    group,
    proportion,
    wilson,
)
from toolgym.evaluation.score import Played, task_key
from toolgym.grading.answers import contains_answer, exact, normalise, overlap_f1, per_answer, right
from toolgym.grading.solving import PRESETS, Solving, count_calls, turns
from toolgym.trajectory import Trajectory

__all__ = [
    "MOST_TOOLS",
    "SOLVE",
    "UNKNOWN_TOOL",
    "Alike",
    "Figures",
    "figures_of",
    "is_empty",
    "most_called",
    "row_named",
    "summarise",
]

UNKNOWN_TOOL = "(unknown tool)"
MOST_TOOLS = 20  # shown each; environments whose tools differ by task have thousands
_FEWEST = 6  # below, not even the least and the greatest value hold the median in 95 % of all draws
SOLVE: Mapping[str, tuple[str, Callable[[Solving], float]]] = {
    f"Solve-{letter}{'' if preset == 'ours' else '/' + preset}": (preset, read)
    for preset in PRESETS
    for letter, read in (
        ("P", lambda solving: solving.precision),
        ("R", lambda solving: solving.rate),
        ("F1", lambda solving: solving.f1),
    )
}
"""Figures of solving by name (arXiv 2508.08791, Evaluation): their preset, and how to read them."""


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_Row = TypeVar("_Row", bound=_Named)
Floats = NDArray[np.float64]


def row_named(rows: Sequence[_Row], name: str) -> _Row:
    """The row of that name.

    Raises:
        UnknownNameError: there is none.
    """
    for row in rows:
        if row.name == name:
            return row
    raise UnknownNameError("metric", name, [row.name for row in rows])


@dataclass(frozen=True, slots=True)
class Figures:
    """One episode in numbers.

    Args:
        exact_match: 1.0 or 0.0.
        accuracy: 1.0 or 0.0: the answer says the gold and offers nothing beside it.
        accuracy_paper: 1.0 or 0.0, by the published rule (arXiv 2502.05867, Evaluation).
        token_f1: from 0.0 to 1.0.
        empty: the final answer says nothing.
        truncated: the episode was ended at its limit of steps.
        cut: a reply of it ended at the limit of its length.
        steps: assistant turns.
        calls: tool calls that could be read.
        attempts: all calls, malformed ones included.
        passed: of those, whose result is neither an error nor empty.
        answerable: of those that passed, whose result holds a gold answer.
        succeeded: calls that did not fail.
        malformed: attempts that could not be read as a call, or only as one not in the format.
        answered: the policy gave an answer, be it an empty one.
        answer_words: of the answer, see `toolgym.data.conditions.answer_words`.
        copied_passage: the answer holds a passage of a tool result, see
            `toolgym.data.conditions.copied_passage`.
        by_tool: calls by tool; tools that the policy was not given stand under `UNKNOWN_TOOL`.
        solving: by preset, how the sub-answers of the task fared; empty for a task without.
    """

    exact_match: float
    accuracy: float
    accuracy_paper: float
    token_f1: float
    empty: bool
    truncated: bool
    cut: bool
    steps: int
    calls: int
    attempts: int
    passed: int
    answerable: int
    succeeded: int
    malformed: int
    answered: bool
    answer_words: int
    copied_passage: bool
    by_tool: Counter[str] = field(default_factory=Counter)
    solving: dict[str, Solving] = field(default_factory=dict)

    def value(self, name: str) -> float:
        """A figure by the name that reports give it.

        Raises:
            KeyError: one of `SOLVE`, of a task without sub-answers.
        """
        if name in SOLVE:
            preset, read = SOLVE[name]
            return read(self.solving[preset])
        return float(getattr(self, name))


def figures_of(
    trajectory: Trajectory, normalisation: str = "paper", whole_words: bool = False
) -> Figures:
    """Read one episode's figures (arXiv 2502.05867, Evaluation).

    Args:
        trajectory: a finished episode.
        normalisation: ``paper``, ``squad`` or ``unicode``; ``accuracy`` takes its own, which is
            ``unicode``, where it is ``paper``.
        whole_words: for ``accuracy_paper`` and the answerable rate: a gold answer inside a longer
            word does not count; the paper counts it.

    Raises:
        UnknownNameError: an unknown normalisation.
    """
    normalise("", normalisation)  # an unknown name is an error even where nobody answered
    own = None if normalisation == "paper" else normalisation
    task = trajectory.task
    given = next((step.final for step in trajectory.steps if step.final is not None), None)
    counts = count_calls(trajectory.steps)
    known = {tool.get("function", {}).get("name") for tool in trajectory.documents}
    passed = [result for _, result in trajectory.calls if result.passed]

    def total(scored: Sequence[float]) -> float:
        return float(sum(scored))

    return Figures(
        exact_match=total(per_answer(trajectory, lambda a: exact(a, task.targets, normalisation))),
        accuracy=total(per_answer(trajectory, lambda a: right(a, task, own))),
        accuracy_paper=total(
            per_answer(
                trajectory,
                lambda a: right(a, task, normalisation, whole_words=whole_words, preset="paper"),
            )
        ),
        token_f1=total(
            per_answer(trajectory, lambda a: overlap_f1(a, task.targets, normalisation))
        ),
        empty=is_empty(given),
        truncated=trajectory.truncated,
        cut=any(step.cut for step in trajectory.steps),
        steps=len(trajectory.steps),
        calls=counts.made,
        attempts=counts.attempts,
        passed=len(passed),
        answerable=sum(
            contains_answer(r.content, task, normalisation, whole_words) for r in passed
        ),
        succeeded=counts.succeeded,
        malformed=counts.malformed,
        answered=given is not None,
        answer_words=len(answer_words(trajectory)),
        copied_passage=copied_passage(trajectory),
        by_tool=Counter(c.name if c.name in known else UNKNOWN_TOOL for c, _ in trajectory.calls),
        solving=_solving(trajectory),
    )


class Alike:
    """Figures that are held once however many episodes have them: most are like many others."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Figures] = {}

    def one(self, figures: Figures) -> Figures:
        """The first that was equal to these."""
        key = _NUMBERS(figures), tuple(figures.by_tool.items()), repr(figures.solving)
        return self._known.setdefault(key, figures)


_NUMBERS = attrgetter(
    *(each.name for each in fields(Figures) if each.name not in ("by_tool", "solving"))
)


def _solving(trajectory: Trajectory) -> dict[str, Solving]:
    try:
        total = len(trajectory.task.sub_answers)
    except BadInputError:  # other people's data may have a column of that name
        return {}
    if not total:
        return {}
    return {
        preset: Solving.of(turns(trajectory.task, trajectory.steps, preset), total, preset)
        for preset in PRESETS
    }


def is_empty(answer: str | None) -> bool:
    """Whether a final answer says nothing: none, blank, or only one remark in parentheses."""
    text = (answer or "").strip()
    if not text:
        return True
    if not (text.startswith("(") and text.endswith(")")):
        return False
    depth = 0
    for index, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return index == len(text) - 1
    return False


def summarise(
    trajectories: Iterable[Trajectory | Played],
    figures: Sequence[Figures],
    seed: int,
    tools: bool = True,
) -> dict[str, Interval]:
    """All figures of a run, by name, in the order in which reports show them.

    Args:
        trajectories: the episodes.
        figures: one an episode.
        seed: fixes the bootstrap.
        tools: with calls by tool; of many the most called, the others as one.
    """
    columns = _Columns(trajectories, figures)

    def share(hits: Floats, sizes: Floats) -> Interval:
        return proportion(*columns.by_task(hits, sizes))

    def mean(values: Floats) -> Interval:
        return bootstrap(*columns.by_task(values, ones), seed=seed)

    of = columns.of
    ones = np.ones(len(figures))
    answered, calls, attempts = (
        of(lambda f: f.answered),
        of(lambda f: f.calls),
        of(lambda f: f.attempts),
    )
    rows = {
        "exact_match": share(of(lambda f: f.exact_match), ones),
        "accuracy": share(of(lambda f: f.accuracy), ones),
        "accuracy_paper": share(of(lambda f: f.accuracy_paper), ones),
        "token_f1": mean(of(lambda f: f.token_f1)),
        **_solve_rows(columns),
        "invoke_rate": mean(calls),
        "pass_rate": share(of(lambda f: f.passed), calls),
        "answerable_rate": share(of(lambda f: f.answerable), calls),
        "execution_precision": share(of(lambda f: f.succeeded), attempts),
        "malformed_rate": share(of(lambda f: f.malformed), attempts),
        "empty_answers": share(of(lambda f: f.empty), ones),
        "answer_words": bootstrap(
            *columns.by_task(of(lambda f: f.answer_words), answered), seed=seed
        ),
        "answer_words_median": _median(
            columns.keys[answered > 0], of(lambda f: f.answer_words)[answered > 0]
        ),
        "copied_passage": share(of(lambda f: f.copied_passage), ones),
        "truncated": share(of(lambda f: f.truncated), ones),
        "cut": share(of(lambda f: f.cut), ones),
        "mean_steps": mean(of(lambda f: f.steps)),
    }
    if tools:
        called = columns.called()
        shown = most_called(called, len(figures))
        for name in shown:
            rows[f"calls/{name}"] = mean(columns.calls_of(name))
        if shown and len(called) > len(shown):
            rest = of(lambda f: f.by_tool.total() - sum(f.by_tool[n] for n in shown))
            rows[f"calls/({len(called) - len(shown)} other tools)"] = mean(rest)
    return rows


class _Columns:
    """Figures as arrays: each different one is looked at once, however many episodes have it.

    Args:
        trajectories: the episodes.
        figures: one an episode; those that are one object are alike.
    """

    def __init__(
        self, trajectories: Iterable[Trajectory | Played], figures: Sequence[Figures]
    ) -> None:
        tasks: dict[tuple[str, str], int] = {}
        keys = (tasks.setdefault(task_key(played), len(tasks)) for played in trajectories)
        self.keys = np.fromiter(keys, np.intp, len(figures))
        self._tasks = len(tasks)
        places: dict[int, int] = {}
        which = (places.setdefault(id(figure), len(places)) for figure in figures)
        self._which = np.fromiter(which, np.intp, len(figures))
        found = {id(figure): figure for figure in figures}
        self.different = [found[each] for each in places]

    def of(self, read: Callable[[Figures], float]) -> Floats:
        """[episodes] what is read of each."""
        return np.array([float(read(figure)) for figure in self.different])[self._which]

    def by_task(self, *columns: Floats) -> list[Floats]:
        """Columns summed by task: one [tasks] array each."""
        found = (np.bincount(self.keys, column, self._tasks) for column in columns)
        return [sums.astype(np.float64) for sums in found]

    def calls_of(self, tool: str) -> Floats:
        """[episodes] calls of a tool."""
        return self.of(lambda figure: figure.by_tool[tool])

    def called(self) -> Counter[str]:
        """Calls by tool."""
        found: Counter[str] = Counter()
        for figure, times in zip(self.different, np.bincount(self._which), strict=True):
            found.update({name: int(times) * count for name, count in figure.by_tool.items()})
        return found


def _median(keys: NDArray[np.intp], values: Floats) -> Interval:
    """The lower median with Woodruff's interval (1952): the values at the ends of that of a half.

    Args:
        keys: [observations] task; as many observations count as there are tasks.
        values: [observations]
    """
    count, tasks = len(values), len(np.unique(keys))
    if not count:
        return Interval(None, None, None, 0, "no data")
    ordered = np.sort(values)
    median = float(ordered[(count - 1) // 2])
    if tasks < _FEWEST:
        return Interval(median, None, None, count, f"none: fewer than {_FEWEST} tasks")
    low, high = wilson(0.5, tasks)
    first, last = max(0, int(low * count) - 1), min(count - 1, math.ceil(high * count))
    return Interval(median, float(ordered[first]), float(ordered[last]), count, "Woodruff by task")


def most_called(called: Mapping[str, int], episodes: int) -> list[str]:
    """The tools that reports show one by one, in alphabetical order.

    All where there are few; else at most `MOST_TOOLS`, each called more than once in a hundred
    episodes.
    """
    if len(called) <= MOST_TOOLS:
        return sorted(called)
    often = Counter({name: count for name, count in called.items() if count > episodes / 100})
    return sorted(name for name, _ in often.most_common(MOST_TOOLS))


def _solve_rows(columns: _Columns) -> dict[str, Interval]:
    """Means over the episodes whose tasks have sub-answers; nothing where none has."""
    having = columns.of(lambda figure: bool(figure.solving)) > 0
    if not having.any():
        return {}
    kept = columns.keys[having].tolist()
    ones = np.ones(len(kept))

    def shares(name: str) -> Floats:
        return columns.of(lambda f: f.value(name) if f.solving else 0.0)[having]

    return {name: bounded_mean(*group(kept, shares(name), ones)) for name in SOLVE}
