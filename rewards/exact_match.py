"""``exact_match``: 1.0 when the answer is a gold answer after normalisation."""

from __future__ import annotations

from toolgym.grading.answers import exact, per_answer
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["exact_match"]


def exact_match(task: Task, trajectory: Trajectory, *, normalisation: str = "paper") -> list[float]:
    """EM of arXiv 2502.05867 (Evaluation).

    Args:
        task: its gold answers; one equal to the answer is enough.
        trajectory: the record so far.
        normalisation: ``paper`` or ``squad``.

    Returns:
        [steps] 1.0 at the step that gave the right answer, else 0.0.

    Raises:
        UnknownNameError: an unknown normalisation.
    """
    return per_answer(trajectory, lambda answer: exact(answer, task.targets, normalisation))
