"""Rewards on the answer: exact match, accuracy, token F1, task completion."""

from __future__ import annotations

from toolgym.grading.answers import exact, overlap_f1, per_answer, right
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["accuracy", "exact_match", "task_completion", "token_f1"]


def exact_match(task: Task, trajectory: Trajectory, *, normalisation: str = "paper") -> list[float]:
    """EM of arXiv 2502.05867 (Evaluation).

    Args:
        task: its gold answers; one equal to the answer is enough.
        trajectory: the record so far.
        normalisation: ``paper``, ``squad`` or ``unicode``.

    Returns:
        [steps] 1.0 at the step that gave the right answer, else 0.0.

    Raises:
        UnknownNameError: an unknown normalisation.
    """
    return per_answer(trajectory, lambda answer: exact(answer, task.targets, normalisation))


def accuracy(
    task: Task,
    trajectory: Trajectory,
    *,
    normalisation: str | None = None,
    numbers: str = "value",
    whole_words: bool = False,
    preset: str = "paper",
) -> list[float]:
    """Accuracy of arXiv 2502.05867 (Evaluation): sub-span for text, last number for maths.

    Args:
        task: gold answers and ``answer_type``.
        trajectory: the record so far.
        normalisation: ``paper``, ``squad`` or ``unicode``; for text. None: ``unicode`` for the
            preset ``ours``, else ``paper``.
        numbers: ``value`` compares numbers as numbers, ``paper`` as the published evaluation,
            ``paper_filter`` as the published training filter.
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


def token_f1(task: Task, trajectory: Trajectory, *, normalisation: str = "paper") -> list[float]:
    """Token F1 (Rajpurkar et al. 2016), the best over the gold answers.

    Args:
        task: its gold answers.
        trajectory: the record so far.
        normalisation: ``paper``, ``squad`` or ``unicode``.

    Returns:
        [steps] F1 from 0.0 to 1.0 at the step that gave the answer, else 0.0.

    Raises:
        UnknownNameError: an unknown normalisation.
    """
    return per_answer(trajectory, lambda answer: overlap_f1(answer, task.targets, normalisation))


def task_completion(
    task: Task,
    trajectory: Trajectory,
    *,
    normalisation: str | None = None,
    preset: str = "paper",
) -> list[float]:
    """Whether the episode did what was asked: for questions, an answer that `accuracy` accepts.

    The companion of ``execution_precision``: one says how well the tools were used, this one
    whether it led to the goal.

    Args:
        task: gold answers and ``answer_type``.
        trajectory: the record so far.
        normalisation: as in `accuracy`.
        preset: as in `accuracy`: ``ours`` takes no answer that lists every candidate.

    Returns:
        [steps] 1.0 at the step that solved the task, else 0.0.

    Raises:
        UnknownNameError: an unknown normalisation or preset.
    """
    return per_answer(trajectory, lambda answer: right(answer, task, normalisation, preset=preset))
