"""``solve_f1``: the harmonic mean of precision and completeness of a turn's calls."""

from __future__ import annotations

from toolgym.rewards.solve import solve_values
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["solve_f1"]


def solve_f1(
    task: Task,
    trajectory: Trajectory,
    *,
    preset: str = "ours",
    bounded: bool = False,
    harmonic: bool = False,
) -> list[float]:
    """Twice the newly solved over calls plus what was open (arXiv 2508.08791, Verifiable reward).

    Args:
        task: with sub-answers.
        trajectory: the record so far.
        preset: ``ours``: 2s / (c + u), from 0.0 to 1.0, and 0.0 for a turn without calls.
            ``paper``: 2s / (c + 1) as its code has it, and its values from -0.5 to 1.0 for turns
            without calls.
        bounded: give each turn the change of the episode's Solve-F1, which may be negative; more
            turns earn no more. For ``ours``.
        harmonic: under ``paper`` too, 2s / (c + u): the harmonic mean over the turn.

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
        ours=lambda calls, solved, unsolved, total: 2 * solved / (calls + unsolved),
        paper=lambda calls, solved, unsolved, total: (
            2 * solved / (calls + (unsolved if harmonic else 1))
        ),
        episode=(lambda played: played.f1) if bounded else None,
    )
