"""``solve_product``: precision times completeness of a turn's calls."""

from __future__ import annotations

from toolgym.rewards.solve import solve_values
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["solve_product"]


def solve_product(
    task: Task, trajectory: Trajectory, *, preset: str = "ours", bounded: bool = False
) -> list[float]:
    """Solved over calls, times solved (arXiv 2508.08791, Verifiable reward).

    Args:
        task: with sub-answers.
        trajectory: the record so far.
        preset: ``ours``: completeness is the share of all sub-answers, so that a turn gets from
            0.0 to 1.0; 0.0 without calls. ``paper``: completeness is the number solved, and turns
            without calls get its values from -0.5 to 1.0.
        bounded: give each turn the change of the episode's Solve-P x Solve-R, which may be
            negative; more turns earn no more. For ``ours``.

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
        ours=lambda calls, solved, unsolved, total: solved / calls * (solved / total),
        paper=lambda calls, solved, unsolved, total: solved * solved / calls,
        episode=(lambda played: played.precision * played.rate) if bounded else None,
    )
