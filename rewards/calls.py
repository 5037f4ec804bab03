"""Rewards on the calls: how many of them ran."""

from __future__ import annotations

from itertools import pairwise

from toolgym.grading.calls import count_calls
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["execution_precision"]


def execution_precision(task: Task, trajectory: Trajectory, *, bounded: bool = True) -> list[float]:
    """Share of calls that were well-formed, to a known tool, with valid arguments, and succeeded.

    Attempts that could not be read as a call count as calls.

    Args:
        task: not read.
        trajectory: the record so far.
        bounded: give each turn the change of the precision of the episode so far, which may be
            negative; the sum is then the episode's precision, and more calls earn no more. Without
            it a turn gets the precision of its own calls, and 0.0 when it made none: summed over an
            episode, that pays for calls that nobody needs.

    Returns:
        [steps] precision of each turn's own calls, from 0.0 to 1.0; or the changes.
    """
    steps = trajectory.steps
    if not bounded:
        return [count_calls([step]).precision or 0.0 for step in steps]
    made = succeeded = 0
    so_far = [0.0]
    for step in steps:
        counts = count_calls([step])
        made, succeeded = made + counts.attempts, succeeded + counts.succeeded
        so_far.append(succeeded / made if made else 0.0)
    return [after - before for before, after in pairwise(so_far)]
