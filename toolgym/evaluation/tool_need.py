"""Where tools were needed, over-used and under-used: a run beside one without tools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolgym.errors import BadInputError
from toolgym.evaluation.intervals import Interval, group, proportion
from toolgym.evaluation.metrics import measure
from toolgym.evaluation.score import task_key
from toolgym.rollouts.sources import Recording, some_episodes
from toolgym.trajectory import Trajectory

__all__ = ["KINDS", "Need", "need_rows", "tool_need"]

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
        alone.setdefault(task_key(trajectory), []).append(measure(trajectory).accuracy)
    played = [t for t in some_episodes(with_tools) if task_key(t) in alone]
    if not played:
        raise BadInputError(
            "the run with tools and the one without have no question in common; play both on the "
            "same tasks"
        )
    known = {key: sum(scores) / len(scores) >= 0.5 for key, scores in alone.items()}
    needs = [_need("all", played, known)]
    classes: dict[int, list[Trajectory]] = {}
    for trajectory in played:
        popularity = trajectory.task.metadata.get(_POPULARITY)
        if isinstance(popularity, int | float) and 0 < popularity < math.inf:
            classes.setdefault(math.floor(math.log10(popularity)), []).append(trajectory)
    for power in sorted(classes):
        label = f"popularity {10**power:,} to {10 ** (power + 1):,}"
        needs.append(_need(label, classes[power], known))
    return needs


def _need(label: str, played: Sequence[Trajectory], known: dict[tuple[str, str], bool]) -> Need:
    columns: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for trajectory in played:
        alone = known[task_key(trajectory)]
        right = measure(trajectory).accuracy >= 1
        called = any(True for _ in trajectory.calls)
        columns["needed"].append(float(not alone and right))
        columns["over_used"].append(float(alone and called))
        columns["under_used"].append(float(not alone and not called and not right))
        columns["harmed"].append(float(alone and not right))
    keys = [task_key(trajectory) for trajectory in played]
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
