"""`evaluate`: a run's figures with 95 % intervals, and where its tasks came from."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from toolgym._util.notebook import Shown, fragment
from toolgym._util.optional import require_extra
from toolgym._util.text import markdown_table, number, text_table
from toolgym.errors import BadInputError
from toolgym.evaluation.groups import Grouping, grouped, pass_rows
from toolgym.evaluation.intervals import Interval
from toolgym.evaluation.metrics import (
    SOLVE,
    Alike,
    Figures,
    figures_of,
    most_called,
    row_named,
    summarise,
)
from toolgym.evaluation.plots import interval_figure
from toolgym.evaluation.power import detectable_difference
from toolgym.evaluation.score import Played, each, task_key
from toolgym.executors import Executor
from toolgym.rollouts.recording import Recording, in_plan_order, some_episodes
from toolgym.rollouts.runs import SETTINGS, Run
from toolgym.scenario import GROUPED_BY
from toolgym.sequential.until import Decided, Until
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["Report", "Row", "evaluate", "source_lines"]

_PERCENT = frozenset(
    {
        "exact_match",
        "accuracy",
        "accuracy_paper",
        "token_f1",
        *SOLVE,
        "pass_rate",
        "answerable_rate",
        "execution_precision",
        "malformed_rate",
        "empty_answers",
        "copied_passage",
        "truncated",
        "cut",
    }
)
_HEAD = ("metric", "value", "low", "high", "n", "95 % interval")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of a report.

    Args:
        name: such as ``accuracy``, or ``calls/Calculator`` (calls of that tool per episode).
        interval: value, ends, number of observations, and how the interval was made.
    """

    name: str
    interval: Interval

    @property
    def value(self) -> float | None:
        """The estimate; None when there was nothing to figures_of."""
        return self.interval.value

    @property
    def low(self) -> float | None:
        """Lower end of the 95 % interval, or None."""
        return self.interval.low

    @property
    def high(self) -> float | None:
        """Upper end of the 95 % interval, or None."""
        return self.interval.high

    @property
    def n(self) -> int:
        """Observations: episodes, or calls."""
        return self.interval.n

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        figures = {"value": self.value, "low": self.low, "high": self.high, "n": self.n}
        return {"name": self.name, **figures, "interval": self.interval.kind}

    def cells(self) -> list[str]:
        """The row as texts."""
        percent = self.name in _PERCENT or self.name.startswith(("pass@", "pass^"))
        ends = (number(value, percent) for value in (self.value, self.low, self.high))
        return [self.name, *ends, str(self.n), self.interval.kind]


@dataclass(frozen=True, slots=True)
class Report:
    """What `evaluate` gives.

    Args:
        rows: the figures in reading order.
        source: where the tasks came from, such as ``sample``, a path or a hub name.
        family: the task family, such as ``PopQA``; may be empty.
        episodes: how many were evaluated.
        tasks: how many tasks they belong to.
        calls_by_tool: how many calls each tool got.
        normalisation: how texts were compared.
        planned: how many the run was to have; 0 where that is not recorded.
        failures: attempts that failed for reasons outside the episode; not scored.
        injected_faults: calls that were hit by an injected fault, by its kind.
        episodes_hit: episodes with at least one of them.
        groups: the figures by columns of the tasks, such as ``shape`` and ``complexity``.
        decided: of a run that stopped when its figure was known, or where it would have.
    """

    rows: list[Row]
    source: str
    family: str
    episodes: int
    tasks: int
    calls_by_tool: dict[str, int]
    normalisation: str
    planned: int = 0
    failures: int = 0
    injected_faults: dict[str, int] = field(default_factory=dict)
    episodes_hit: int = 0
    groups: dict[str, Grouping] = field(default_factory=dict)
    decided: Decided | None = None

    @property
    def detectable(self) -> dict[str, float]:
        """Smallest difference from another run like this one that shows with 80 % power."""
        return {
            row.name: detectable_difference(row.low, row.high)
            for row in self.rows
            if row.name in _PERCENT and row.low is not None and row.high is not None
        }

    def __getitem__(self, name: str) -> Row:
        """The row of a metric.

        Raises:
            UnknownNameError: there is none.
        """
        return row_named(self.rows, name)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "task_source": self.source,
            "task_family": self.family,
            "episodes": self.episodes,
            "tasks": self.tasks,
            "planned": self.planned,
            "failures": self.failures,
            "normalisation": self.normalisation,
            "calls_by_tool": self.calls_by_tool,
            "injected_faults": self.injected_faults,
            "episodes_hit": self.episodes_hit,
            "rows": [row.to_dict() for row in self.rows],
            "detectable": self.detectable,
            **({"decided": self.decided.to_dict()} if self.decided is not None else {}),
        } | ({"groups": {by: g.to_dict() for by, g in self.groups.items()}} if self.groups else {})

    def to_markdown(self) -> str:
        """A Markdown table under the lines that say what was measured."""
        table = markdown_table(_HEAD, [row.cells() for row in self.rows])
        below = [grouping.to_markdown() for grouping in self.groups.values()]
        return "\n\n".join([*self._lines(), table, *below]) + "\n"

    def __str__(self) -> str:
        table = text_table(_HEAD, [row.cells() for row in self.rows])
        below = [f"\n{grouping}" for grouping in self.groups.values()]
        return "\n".join([*self._lines(), "", table, *below])

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row a figure: name, value, low, high, n, interval.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return require_extra("pandas", "plot").DataFrame([row.to_dict() for row in self.rows])

    def plot(self) -> Any:
        """The shares with their intervals as a `matplotlib.figure.Figure`.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return interval_figure(
            [(r.name, r.interval) for r in self.rows if r.name in _PERCENT],
            "share, with 95 % intervals",
        )

    def __repr__(self) -> str:
        return f"Report({self.episodes} episodes of {self.tasks} tasks, {len(self.rows)} figures)"

    def _repr_html_(self) -> str:
        tables: list[Shown] = [("", _HEAD, [row.cells() for row in self.rows])]
        tables += [(f"By {by}", *grouping.table()) for by, grouping in self.groups.items()]
        return fragment(self._lines(), tables)

    def _lines(self) -> list[str]:
        lines = source_lines(self.source, self.family)
        lines.append(
            f"{self.episodes} episodes of {self.tasks} tasks; normalisation: {self.normalisation}"
        )
        lines.append(f"Calls by tool: {self._calls() or 'none'}")
        if (least := self.detectable.get("accuracy")) is not None:
            lines.append(
                "Smallest difference of accuracy between two such runs that shows with 80 % power: "
                f"{100 * least:.1f} points"
            )
        if self.decided is not None:
            lines.append(f"Stopping rule: {self.decided}")
            lines.append("The intervals below are those of a run whose size was fixed before")
        if self.injected_faults:
            kinds = ", ".join(f"{kind} {count}" for kind, count in self.injected_faults.items())
            lines.append(
                f"Injected faults: {sum(self.injected_faults.values())} of "
                f"{sum(self.calls_by_tool.values())} calls ({kinds}), in {self.episodes_hit} of "
                f"{self.episodes} episodes"
            )
        if self.episodes < self.planned:
            missing = self.planned - self.episodes
            lines.append(f"WARNING: unfinished, {missing} of {self.planned} episodes are missing")
        if self.failures:
            lines.append(f"Failed attempts, not scored: {self.failures} (see failures.jsonl)")
        return lines

    def _calls(self) -> str:
        shown = most_called(self.calls_by_tool, self.episodes)
        calls = [f"{name} {self.calls_by_tool[name]}" for name in shown]
        if others := self.calls_by_tool.keys() - set(shown):
            count = sum(self.calls_by_tool[name] for name in others)
            calls.append(f"{len(others)} {'others' if shown else 'tools'} {count}")
        return ", ".join(calls)


def source_lines(source: str, family: str) -> list[str]:
    """The lines that say where tasks came from, with a warning for the bundled sample."""
    lines = [f"Tasks: {family + ' from ' if family else ''}{source or 'not recorded'}"]
    if source == "sample":
        lines.append("WARNING: the bundled sample, not the benchmark")
    return lines


def evaluate(
    run: Recording,
    *,
    normalisation: str = "paper",
    whole_words: bool = False,
    seed: int = 0,
    source: str | None = None,
    by: Sequence[str] | None = None,
    until: Until | str | None = None,
    executor: Executor | None = None,
) -> Report:
    """Measure a run.

    Args:
        run: a `Run`, the path of a run folder or of a ``.jsonl`` of trajectories, or trajectories.
        normalisation: ``paper``, ``squad`` or ``unicode``; ``accuracy`` takes its own, which is
            ``unicode``, where it is ``paper``.
        whole_words: for accuracy_paper and answerable rate: a gold answer inside a longer word
            does not count; the paper counts it.
        seed: fixes the bootstrap.
        source: where the tasks came from, for trajectories that have no ``run.json``.
        by: columns of the tasks to group the figures by, such as ``shape``, ``s_pop``,
            ``levels.parameter_expansion`` or ``split``. Default: ``shape`` and ``complexity``,
            where the tasks have sub-answers.
        until: after how many tasks would a figure have been known so well, such as
            ``accuracy +- 2``? Default: what the run itself was told.
        executor: measures in other processes; see `toolgym.executors`.

    Returns:
        Figures with 95 % intervals; formulas in docs/evaluation.md.

    Raises:
        MissingFileError: no such run.
        BadInputError: no finished episode, or a column that no task has.
        UnknownNameError: an unknown normalisation.
        LostWorkerError: an executor has lost its workers.
    """
    if isinstance(by, str):
        raise BadInputError(f"by needs a list of columns, not a text: by=[{by!r}]")
    if isinstance(run, str | Path) and (Path(run) / SETTINGS).is_file():
        run = Run.open(run)
    recording = some_episodes(run)
    figures: list[Figures] = []
    trajectories: list[Played] = []
    # Most episodes are like many others in numbers, and all of a task have one task: of a large run
    # no more is held than one of each.
    alike = Alike()
    tasks: dict[Any, Played] = {}
    wanted = GROUPED_BY if by is None else by
    columns = {*wanted, *(name.split(".")[0] for name in wanted)}
    faults: Counter[str] = Counter()
    hit = 0
    measure = partial(figures_of, normalisation=normalisation, whole_words=whole_words)
    for trajectory, found in each(recording, measure, executor):
        figures.append(alike.one(found))
        if kinds := _injected(trajectory):
            faults.update(kinds)
            hit += 1
        played = _played(trajectory, columns if tasks else None)
        named = played.env_id, played.task.id, played.task.split, repr(played.task.metadata)
        trajectories.append(tasks.setdefault(named, played))
    by_tool: Counter[str] = Counter()
    for figure in figures:
        for name, count in figure.by_tool.items():
            by_tool[name] += count
    rows = summarise(trajectories, figures, seed) | pass_rows(trajectories, figures)
    origin = recording.origin
    if by is None:
        having = [t.task.metadata for t, f in zip(trajectories, figures, strict=True) if f.solving]
        by = [name for name in GROUPED_BY if any(name in columns for columns in having)]
    return Report(
        rows=[Row(name, interval) for name, interval in rows.items()],
        source=source if source is not None else str(origin.get("task_source") or ""),
        family=str(origin.get("task_family") or ""),
        episodes=len(trajectories),
        tasks=len({task_key(trajectory) for trajectory in trajectories}),
        calls_by_tool=dict(sorted(by_tool.items())),
        normalisation=normalisation + (", whole words" if whole_words else ""),
        planned=_planned(run) if isinstance(run, Run) else 0,
        failures=len(run.failures()) if isinstance(run, Run) else 0,
        injected_faults=dict(sorted(faults.items())),
        episodes_hit=hit,
        groups={name: grouped(trajectories, figures, name, seed) for name in by},
        decided=_decided(run, until),
    )


def _planned(run: Run) -> int:
    """Episodes of the whole plan, or those that decided the run."""
    decided = run.settings.get("decided") or {}
    return run.planned if decided.get("reached") else int(run.settings.get("episodes", 0))


def _decided(run: Recording, until: Until | str | None) -> Decided | None:
    if until is not None:
        return Until.parse(until).watch(in_plan_order(run))
    found = run.settings.get("decided") if isinstance(run, Run) else None
    return Decided(**found) if found else None


def _played(trajectory: Trajectory, columns: Collection[str] | None) -> Played:
    """What figures are cut by.

    Args:
        trajectory: an episode.
        columns: that are held; None: all, for the message of a wrong one.
    """
    task = trajectory.task
    metadata = {
        name: value for name, value in task.metadata.items() if columns is None or name in columns
    }
    return Played(sys.intern(trajectory.env_id), Task(task.id, "", (), metadata, task.split))


def _injected(trajectory: Trajectory) -> list[str]:
    """The kinds of the injected faults that hit an episode's calls."""
    return [result.fault for _, result in trajectory.calls if result.fault is not None]
