"""Figures by group: by shape, complexity or any column of the tasks, and by a task's samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from toolgym._util.notebook import fragment
from toolgym._util.text import markdown_table, number, text_table
from toolgym.data.conditions import measure
from toolgym.errors import BadInputError, did_you_mean
from toolgym.evaluation.intervals import Interval, bounded_mean
from toolgym.evaluation.metrics import Figures, summarise
from toolgym.evaluation.score import Played, task_key
from toolgym.scenario import SHAPES
from toolgym.trajectory import Trajectory

__all__ = [
    *("MAX_GROUPS", "Group", "Grouping", "grouped", "pass_all_k", "pass_at_k", "pass_rates"),
    "pass_rows",
]

MAX_GROUPS = 50
MOST_NUMBERS = 14  # levels of complexity, and none
_SHOWN = ("Solve-P", "Solve-R", "Solve-F1", "accuracy")
_SHOWN_ELSE = ("exact_match", "accuracy", "token_f1")
_NONE = "(none)"


@dataclass(frozen=True, slots=True)
class Group:
    """The episodes whose tasks have one value in a column.

    Args:
        value: as text; ``low to high`` where numbers were cut into quarters.
        episodes: how many.
        tasks: how many tasks they belong to.
        figures: by name, as in the report of the whole run.
    """

    value: str
    episodes: int
    tasks: int
    figures: dict[str, Interval]


@dataclass(frozen=True, slots=True)
class Grouping:
    """Groups by one column.

    Args:
        by: the column.
        groups: in order of their values.
    """

    by: str
    groups: list[Group]

    def __getitem__(self, value: object) -> Group:
        """The group of a value.

        Raises:
            BadInputError: there is none.
        """
        for found in self.groups:
            if found.value == str(value):
                return found
        known = [found.value for found in self.groups]
        raise BadInputError(
            f"no group {value!r} by {self.by!r}{did_you_mean(str(value), known)}; "
            f"groups: {', '.join(known)}"
        )

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain JSON values."""
        return [
            {"value": found.value, "episodes": found.episodes, "tasks": found.tasks}
            | {
                "rows": [
                    {"name": name, "value": row.value, "low": row.low, "high": row.high}
                    | {"n": row.n, "interval": row.kind}
                    for name, row in found.figures.items()
                ]
            }
            for found in self.groups
        ]

    def to_markdown(self) -> str:
        """A Markdown table under a heading."""
        return f"**By {self.by}**\n\n{markdown_table(*self.table())}"

    def __str__(self) -> str:
        return f"By {self.by}\n{text_table(*self.table())}"

    def __repr__(self) -> str:
        return f"Grouping(by {self.by}: {', '.join(found.value for found in self.groups)})"

    def _repr_html_(self) -> str:
        return fragment([], [(f"By {self.by}", *self.table())])

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Head and cells, of the figures that matter most."""
        solved = any(_SHOWN[0] in found.figures for found in self.groups)
        shown = _SHOWN if solved else _SHOWN_ELSE
        rows = [
            [found.value, str(found.episodes), str(found.tasks)]
            + [_cell(found.figures.get(name)) for name in shown]
            for found in self.groups
        ]
        return [self.by, "episodes", "tasks", *shown], rows


def _cell(row: Interval | None) -> str:
    if row is None or row.value is None:
        return "-"
    if row.low is None or row.high is None:
        return number(row.value, True)
    return f"{number(row.value, True)} [{100 * row.low:.1f}, {100 * row.high:.1f}]"


def grouped(
    trajectories: Sequence[Trajectory | Played], figures: Sequence[Figures], by: str, seed: int
) -> Grouping:
    """Cut a run by a column of its tasks.

    Numbers with more than `MOST_NUMBERS` different values are cut into quarters of the tasks.

    Args:
        trajectories: the episodes.
        figures: one an episode.
        by: a column of the tasks (``shape``, ``s_pop``), a part of one
            (``levels.parameter_expansion``), or ``split``.
        seed: fixes the bootstrap.

    Raises:
        BadInputError: no task has the column, or texts of more than `MAX_GROUPS` kinds.
    """
    values = [_value(trajectory, by) for trajectory in trajectories]
    if all(value is None for value in values):
        known = {*trajectories[0].task.metadata, "split"}
        raise BadInputError(
            f"no task has a column {by!r} to group by{did_you_mean(by, known)}; "
            f"columns: {', '.join(sorted(known))}"
        )
    label = _labels(by, values, trajectories)
    members: dict[str, list[int]] = {}
    for index in sorted(range(len(values)), key=lambda index: _order(values[index])):
        members.setdefault(label(values[index]), []).append(index)
    groups = []
    for name, indices in members.items():
        chosen = [trajectories[index] for index in sorted(indices)]
        rows = summarise(chosen, [figures[index] for index in sorted(indices)], seed, tools=False)
        groups.append(Group(name, len(chosen), len({task_key(t) for t in chosen}), rows))
    return Grouping(by, groups)


def _value(trajectory: Trajectory | Played, by: str) -> Any:
    metadata = trajectory.task.metadata
    if by in metadata:
        return metadata[by]
    if by == "split":
        return trajectory.task.split or None
    found: Any = metadata
    for part in by.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _order(value: Any) -> tuple[int, float, str]:
    if value is None:
        return (3, 0.0, "")
    if _is_number(value):
        return (0, float(value), "")
    return (1, float(SHAPES.index(value)), "") if value in SHAPES else (2, 0.0, str(value))


def _labels(
    by: str, values: Sequence[Any], trajectories: Sequence[Trajectory | Played]
) -> Callable[[Any], str]:
    """What each value's group is called."""
    different = {str(value) for value in values}
    if len(different) <= MOST_NUMBERS:
        return lambda value: _NONE if value is None else str(value)
    if all(value is None or _is_number(value) for value in values):
        by_task = {task_key(t): v for t, v in zip(trajectories, values, strict=True)}
        numbers = np.array([float(value) for value in by_task.values() if value is not None])
        cuts = np.quantile(numbers, [0.25, 0.5, 0.75])
        names = {
            quarter: f"{inside.min():g} to {inside.max():g}"
            for quarter in range(4)
            if (inside := numbers[np.searchsorted(cuts, numbers) == quarter]).size
        }
        return lambda value: (
            _NONE if value is None else names[int(np.searchsorted(cuts, float(value)))]
        )
    if len(different) > MAX_GROUPS:
        raise BadInputError(
            f"column {by!r} has {len(different)} different values; "
            f"group by one with at most {MAX_GROUPS}"
        )
    return lambda value: _NONE if value is None else str(value)


def _require_samples(name: str, samples: int, right: int, k: int) -> None:
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise BadInputError(
            f"{name}{k} of {right} right among {samples} samples cannot be estimated: k must be "
            "from 1 to the number of samples"
        )


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The unbiased estimate for one task (Chen et al. 2021, arXiv 2107.03374, section 2.1).

    Args:
        samples: n, drawn independently.
        right: c of them.
        k: at most n.

    Raises:
        BadInputError: k is not from 1 to n, or c is not from 0 to n.
    """
    _require_samples("pass@", samples, right, k)
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def pass_all_k(samples: int, right: int, k: int) -> float:
    """pass^k: whether k samples are *all* right, the unbiased estimate for one task.

    C(c, k) / C(n, k) (Yao et al. 2024, tau-bench, arXiv 2406.12045, section 3).

    Args:
        samples: n, drawn independently.
        right: c of them.
        k: at most n.

    Raises:
        BadInputError: k is not from 1 to n, or c is not from 0 to n.
    """
    _require_samples("pass^", samples, right, k)
    return comb(right, k) / comb(samples, k)


def pass_rates(
    trajectories: Iterable[Trajectory], ks: Sequence[int] = (1, 2, 4, 8, 16)
) -> dict[int, Interval]:
    """pass@k of a run with several samples a task, with intervals over tasks.

    Args:
        trajectories: of the run.
        ks: those above the fewest samples of a task are left out.
    """
    accuracy = measure("accuracy")
    groups: dict[tuple[str, str], list[bool]] = {}
    for trajectory in trajectories:
        groups.setdefault(task_key(trajectory), []).append(accuracy(trajectory) >= 1)
    counts = [(len(scores), sum(scores)) for scores in groups.values()]
    return _rates(counts, ks, pass_at_k)


def pass_rows(
    trajectories: Iterable[Trajectory | Played], figures: Sequence[Figures]
) -> dict[str, Interval]:
    """pass@k and pass^k by `accuracy`, for k = 2, 4, 8, ... and the fewest samples of a task.

    Args:
        trajectories: the episodes.
        figures: one an episode.

    Returns:
        By name, such as ``pass@2`` and ``pass^2``; nothing where a task has a single sample.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for trajectory, own in zip(trajectories, figures, strict=True):
        counts = groups.setdefault(task_key(trajectory), [0, 0])
        counts[0] += 1
        counts[1] += own.accuracy >= 1
    fewest = min((samples for samples, _ in groups.values()), default=0)
    ks = sorted({fewest, *(2**power for power in range(1, fewest.bit_length()))} - {0, 1})
    found = [(samples, right) for samples, right in groups.values()]
    kinds = {"@": pass_at_k, "^": pass_all_k}
    rates = {sign: _rates(found, ks, kind) for sign, kind in kinds.items()}
    return {f"pass{sign}{k}": row for sign, rows in rates.items() for k, row in rows.items()}


def _rates(
    counts: Sequence[tuple[int, int]], ks: Sequence[int], estimate: Callable[[int, int, int], float]
) -> dict[int, Interval]:
    """Means over tasks, from the samples of each and the right ones among them."""
    fewest = min((samples for samples, _ in counts), default=0)
    return {
        k: bounded_mean([estimate(n, right, k) for n, right in counts], np.ones(len(counts)))
        for k in ks
        if k <= fewest
    }
