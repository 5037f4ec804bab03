"""``accuracy``: 1.0 when the answer holds a gold answer, or its last number is the gold number."""

from __future__ import annotations

from toolgym.grading.answers import per_answer, right
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["accuracy"]


def accuracy(
    task: Task,
    trajectory: Trajectory,
    *,
    normalisation: str = "paper",
    numbers: str = "value",
    whole_words: bool = False,
    preset: str = "paper",
) -> list[float]:
    """Accuracy of arXiv 2502.05867 (Evaluation): sub-span for text, last number for maths.

    Args:
        task: gold answers and ``answer_type``.
        trajectory: the record so far.
        normalisation: ``paper`` or ``squad``; for text.
        numbers: ``value`` compares numbers as numbers, ``paper`` the matched characters.
        whole_words: a gold answer inside a longer word does not count; the paper counts it.
        preset: ``ours``: whole words, and the gold must make up a quarter of a text answer's
            words, so that listing every candidate, or repeating the question, earns nothing.

    Returns:
        [steps] 1.0 at the step that gave the right answer, else 0.0.

    Raises:
        UnknownNameError: an unknown normalisation, number rule or preset.
    """
    return per_answer(
        trajectory, lambda answer: right(answer, task, normalisation, numbers, whole_words, preset)
    )
