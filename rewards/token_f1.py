"""``token_f1``: how much of a gold answer's words the answer has, and nothing else."""

from __future__ import annotations

from toolgym.grading.answers import overlap_f1, per_answer
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["token_f1"]


def token_f1(task: Task, trajectory: Trajectory, *, normalisation: str = "paper") -> list[float]:
    """Token F1 (Rajpurkar et al. 2016), the best over the gold answers.

    Args:
        task: its gold answers.
        trajectory: the record so far.
        normalisation: ``paper`` or ``squad``.

    Returns:
        [steps] F1 from 0.0 to 1.0 at the step that gave the answer, else 0.0.

    Raises:
        UnknownNameError: an unknown normalisation.
    """
    return per_answer(trajectory, lambda answer: overlap_f1(answer, task.targets, normalisation))
