"""``solve_rate``: how many sub-questions a turn's calls solved."""

from __future__ import annotations

from toolgym.rewards.solve import solve_values
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["solve_rate"]


def solve_rate(task: Task, trajectory: Trajectory, *, preset: str = "ours") -> list[float]:
    """Newly solved sub-answers, the completeness of arXiv 2508.08791 (Verifiable reward).

    Args:
        task: with sub-answers.
        trajectory: the record so far.
        preset: ``ours``: as a share of all sub-answers, so that the sum is the episode's Solve-R.
            ``paper``: their number, and its values from -0.5 to 1.0 for turns without calls.

    Returns:
        [steps] the float of step *k* depends on nothing after it.

    Raises:
        UnknownNameError: an unknown preset.
        BadInputError: a task without sub-answers.
    """
    return solve_values(
        task,
        trajectory,
        preset,
        ours=lambda calls, solved, unsolved, total: solved / total,
        paper=lambda calls, solved, unsolved, total: float(solved),
    )
