"""``task_completion``: 1.0 when the task was solved, by the task's own rule."""

from __future__ import annotations

from toolgym.grading.answers import per_answer, right
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["task_completion"]


def task_completion(
    task: Task, trajectory: Trajectory, *, normalisation: str = "paper", preset: str = "paper"
) -> list[float]:
    """Whether the episode did what was asked: for questions, an answer that `accuracy` accepts.

    The companion of ``execution_precision``: one says how well the tools were used, this one
    whether it led to the goal.

    Args:
        task: gold answers and ``answer_type``.
        trajectory: the record so far.
        normalisation: ``paper`` or ``squad``; for text.
        preset: as in `accuracy`: ``ours`` takes no answer that lists every candidate.

    Returns:
        [steps] 1.0 at the step that solved the task, else 0.0.

    Raises:
        UnknownNameError: an unknown normalisation or preset.
    """
    return per_answer(trajectory, lambda answer: right(answer, task, normalisation, preset=preset))
