"""``execution_precision``: the share of a turn's tool calls that came through."""

from __future__ import annotations

from toolgym.calls import count_calls
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["execution_precision"]


def execution_precision(task: Task, trajectory: Trajectory) -> list[float]:
    """Share of calls that were well-formed, to a known tool, with valid arguments, and came off.

    Attempts that could not be read as a call count as calls. A turn without calls gets 0.0: nothing
    was executed, and a bonus for not calling is for a rubric to decide. The figure of a whole run
    (`toolgym.evaluate`) is pooled over calls instead, and has no value when none was made.

    Args:
        task: not read.
        trajectory: the record so far.

    Returns:
        [steps] precision of each turn's own calls, from 0.0 to 1.0.
    """
    return [count_calls([step]).precision or 0.0 for step in trajectory.steps]
