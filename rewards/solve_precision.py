"""``solve_precision``: the share of a turn's calls that solved a sub-question."""

from __future__ import annotations

from toolgym.rewards.solve import solve_values
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["solve_precision"]


def solve_precision(
    task: Task, trajectory: Trajectory, *, preset: str = "ours", bounded: bool = False
) -> list[float]:
    """Newly solved sub-answers over calls of the turn (arXiv 2508.08791, Verifiable reward).

    Args:
        task: with sub-answers.
        trajectory: the record so far.
        preset: ``ours``: from 0.0 to 1.0, and 0.0 for a turn without calls. ``paper``: as
            published, with its values from -0.5 to 1.0 for turns without calls.
        bounded: give each turn the change of the episode's Solve-P, which may be negative; the sum
            is then Solve-P, and more turns earn no more. For ``ours``.

    Returns:
        [steps] the float of step *k* depends on nothing after it.

    Raises:
        UnknownNameError: an unknown preset.
        BadInputError: a task without sub-answers, or ``bounded`` with ``paper``.
    """
    return solve_values(
        task,
        trajectory,
        preset,
        ours=lambda calls, solved, unsolved, total: solved / calls,
        paper=lambda calls, solved, unsolved, total: solved / calls,
        episode=(lambda played: played.precision) if bounded else None,
    )
