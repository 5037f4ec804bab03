"""`compare`: two runs on the same tasks, paired by task, and where tools were needed."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolgym._util.notebook import fragment
from toolgym._util.optional import require_extra
from toolgym._util.text import markdown_table, number, text_table
from toolgym.errors import BadInputError
from toolgym.evaluation.intervals import (
    Interval,
    bootstrap,
    group,
    holm,
    mcnemar,
    proportion,
)
from toolgym.evaluation.metrics import SOLVE, Alike, Figures, figures_of, row_named
from toolgym.evaluation.plots import interval_figure
from toolgym.evaluation.power import detectable_change
from toolgym.evaluation.report import source_lines
from toolgym.evaluation.score import task_key
from toolgym.rollouts.recording import Recording, some_episodes

__all__ = [
    "KINDS",
    "Comparison",
    "Difference",
    "Need",
    "compare",
    "holm_by_metric",
    "need_rows",
    "tool_need",
]

_METRICS = ("exact_match", "accuracy", "accuracy_paper", "token_f1")
_ByTask = defaultdict[tuple[str, str], list[Figures]]
_HEAD = ("metric", "before", "after", "change", "low", "high", "p", "tasks", "95 % interval")


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric before and after, over the tasks that both runs have.

    Args:
        name: the metric.
        before: mean over tasks.
        after: mean over tasks.
        change: after minus before.
        low: lower end of the 95 % interval of the change, or None.
        high: upper end, or None.
        p_value: exact McNemar test, for metrics of 0 and 1 with one sample a task; else None.
        kind: how the interval was made, or why there is none.
        detectable: the smallest change that this many tasks show with 80 % power; None where no
            task has changed.
    """

    name: str
    before: float
    after: float
    change: float
    low: float | None
    high: float | None
    p_value: float | None
    kind: str
    detectable: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` gives.

    Args:
        rows: one difference a metric.
        tasks: tasks in both runs.
        only_before: tasks that only the first run has; left out.
        only_after: tasks that only the second run has; left out.
        source: where the tasks of the second run came from.
        family: their family; may be empty.
    """

    rows: list[Difference]
    tasks: int
    only_before: int
    only_after: int
    source: str
    family: str

    def __getitem__(self, name: str) -> Difference:
        """The row of a metric.

        Raises:
            UnknownNameError: there is none.
        """
        return row_named(self.rows, name)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        fields = Difference.__slots__
        return {
            "task_source": self.source,
            "task_family": self.family,
            "tasks": self.tasks,
            "only_before": self.only_before,
            "only_after": self.only_after,
            "rows": [{name: getattr(row, name) for name in fields} for row in self.rows],
        }

    def to_markdown(self) -> str:
        """A Markdown table under the lines that say what was compared."""
        return "\n\n".join([*self.lines(), markdown_table(*self.table())]) + "\n"

    def __str__(self) -> str:
        return "\n".join([*self.lines(), "", text_table(*self.table())])

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row a metric.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return require_extra("pandas", "plot").DataFrame(self.to_dict()["rows"])

    def plot(self) -> Any:
        """The changes with their intervals as a `matplotlib.figure.Figure`.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        rows = [
            (row.name, Interval(row.change, row.low, row.high, self.tasks, row.kind))
            for row in self.rows
        ]
        return interval_figure(rows, "change, with 95 % intervals")

    def __repr__(self) -> str:
        return f"Comparison({self.tasks} tasks, {len(self.rows)} metrics)"

    def _repr_html_(self) -> str:
        return fragment(self.lines(), [("", *self.table())])

    def lines(self) -> list[str]:
        """What was compared, in sentences."""
        lines = [*source_lines(self.source, self.family), f"{self.tasks} tasks in both runs"]
        if self.only_before or self.only_after:
            lines.append(
                f"Left out: {self.only_before} tasks only before, {self.only_after} only after"
            )
        if (least := self["accuracy"].detectable) is not None:
            lines.append(
                f"Smallest change of accuracy that so many tasks show with 80 % power: "
                f"{100 * least:.1f} points"
            )
        return lines

    def table(self) -> tuple[Sequence[str], list[list[str]]]:
        """Its head and its cells, as they are printed."""
        cells = [
            [row.name]
            + [number(v, True) for v in (row.before, row.after, row.change, row.low, row.high)]
            + ["-" if row.p_value is None else f"{row.p_value:.2g}", str(self.tasks), row.kind]
            for row in self.rows
        ]
        return _HEAD, cells


def compare(
    before: Recording,
    after: Recording,
    *,
    normalisation: str = "paper",
    whole_words: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare two runs task by task.

    Args:
        before: a `Run`, the path of one, or trajectories.
        after: the same, on the same tasks.
        normalisation: ``paper``, ``squad`` or ``unicode``.
        whole_words: see `toolgym.evaluate`.
        seed: fixes the bootstrap.

    Returns:
        Paired differences. A task with several samples counts once, with their mean.

    Raises:
        MissingFileError: no such run.
        BadInputError: a run without episodes, or no task in common.
        UnknownNameError: an unknown normalisation.
    """

    def figures(source: Recording) -> tuple[_ByTask, dict[str, Any]]:
        """By task; of a large run nothing else is held."""
        episodes, found, alike = some_episodes(source), _ByTask(list), Alike()
        for trajectory in episodes:
            own = figures_of(trajectory, normalisation, whole_words)
            found[task_key(trajectory)].append(alike.one(own))
        return found, episodes.origin

    (old, _), (new, origin) = figures(before), figures(after)
    common = [key for key in old if key in new]
    if not common:
        raise BadInputError(
            f"the runs have no task in common (before: {next(iter(old))[1]!r} and others, after: "
            f"{next(iter(new))[1]!r} and others); roll both out on the same tasks and environment"
        )
    metrics = list(_METRICS)
    old_figures, new_figures = ([side[key] for key in common] for side in (old, new))
    if all(figure.solving for pair in (old_figures, new_figures) for g in pair for figure in g):
        metrics += SOLVE
    return Comparison(
        rows=[_difference(name, old_figures, new_figures, seed) for name in metrics],
        tasks=len(common),
        only_before=len(old) - len(common),
        only_after=len(new) - len(common),
        source=str(origin.get("task_source") or ""),
        family=str(origin.get("task_family") or ""),
    )


def _difference(
    name: str, before: list[list[Figures]], after: list[list[Figures]], seed: int
) -> Difference:
    old = np.array([np.mean([f.value(name) for f in group]) for group in before])
    new = np.array([np.mean([f.value(name) for f in group]) for group in after])
    changes = new - old
    interval = bootstrap(changes.tolist(), [1.0] * len(changes), seed=seed)
    single = all(len(group) == 1 for group in before + after)
    p_value = None
    if single and name in ("exact_match", "accuracy", "accuracy_paper"):
        p_value = mcnemar(int((changes < 0).sum()), int((changes > 0).sum()))
    return Difference(
        name,
        float(old.mean()),
        float(new.mean()),
        float(changes.mean()),
        interval.low,
        interval.high,
        p_value,
        interval.kind,
        detectable_change(changes),
    )


def holm_by_metric(comparisons: Sequence[Comparison]) -> list[dict[str, float]]:
    """p-values of several comparisons, corrected for their number by metric (Holm 1979).

    Args:
        comparisons: such as of several runs with one.

    Returns:
        One a comparison: metric to corrected p-value, where it has one.
    """
    corrected: list[dict[str, float]] = [{} for _ in comparisons]
    for name in dict.fromkeys(row.name for each in comparisons for row in each.rows):
        places = {
            place: row.p_value
            for place, each in enumerate(comparisons)
            for row in each.rows
            if row.name == name and row.p_value is not None
        }
        for place, value in zip(places, holm(list(places.values())), strict=True):
            corrected[place][name] = value
    return corrected


KINDS = ("needed", "over_used", "under_used", "harmed")
_POPULARITY = "s_pop"


@dataclass(frozen=True, slots=True)
class Need:
    """Shares of questions, each with its interval.

    ``needed``: wrong without tools, right with them. ``over_used``: right without tools, and a
    tool was called all the same. ``under_used``: wrong without tools, no tool was called, and
    still wrong. ``harmed``: right without tools, wrong with them.

    Args:
        label: ``all``, or the popularity of the questions' subjects.
        count: questions.
        shares: by kind.
    """

    label: str
    count: int
    shares: dict[str, Interval]


def tool_need(with_tools: Recording, without: Recording) -> list[Need]:
    """Compare a run with one of the same questions without tools.

    Args:
        with_tools: a `Run`, the path of one, or trajectories.
        without: the same, played without tools; one answer a question is enough.

    Returns:
        All questions first; then by order of magnitude of ``s_pop``, the subject's popularity,
        where the questions have it.

    Raises:
        MissingFileError: no such run.
        BadInputError: no question in common.
    """
    alone: dict[tuple[str, str], list[float]] = {}
    for trajectory in some_episodes(without):
        alone.setdefault(task_key(trajectory), []).append(figures_of(trajectory).accuracy)
    known = {key: sum(scores) / len(scores) >= 0.5 for key, scores in alone.items()}
    played: list[_Answered] = []
    powers = array("d")
    for trajectory in some_episodes(with_tools):
        key = task_key(trajectory)
        if key in alone:
            called = any(True for _ in trajectory.calls)
            played.append((key, known[key], figures_of(trajectory).accuracy >= 1, called))
            popularity = trajectory.task.metadata.get(_POPULARITY)
            if isinstance(popularity, int | float) and 0 < popularity < math.inf:
                powers.append(math.floor(math.log10(popularity)))
            else:
                powers.append(math.nan)
    if not played:
        raise BadInputError(
            "the run with tools and the one without have no question in common; play both on the "
            "same tasks"
        )
    needs = [_need("all", played)]
    for power in sorted({int(power) for power in powers if not math.isnan(power)}):
        label = f"popularity {10**power:,} to {10 ** (power + 1):,}"
        inside = [each for each, own in zip(played, powers, strict=True) if own == power]
        needs.append(_need(label, inside))
    return needs


_Answered = tuple[tuple[str, str], bool, bool, bool]
"""Of an episode: its task, and whether it was right without tools, was right with them, called."""


def _need(label: str, played: Sequence[_Answered]) -> Need:
    columns: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _, alone, right, called in played:
        columns["needed"].append(float(not alone and right))
        columns["over_used"].append(float(alone and called))
        columns["under_used"].append(float(not alone and not called and not right))
        columns["harmed"].append(float(alone and not right))
    keys = [key for key, *_ in played]
    ones = [1.0] * len(played)
    shares = {kind: proportion(*group(keys, hits, ones)) for kind, hits in columns.items()}
    return Need(label, len(set(keys)), shares)


def need_rows(needs: Sequence[Need]) -> list[dict[str, Any]]:
    """The shares as plain data."""
    return [
        {
            "questions": need.label,
            "n": need.count,
            **{kind: [s.value, s.low, s.high] for kind, s in need.shares.items()},
        }
        for need in needs
    ]
