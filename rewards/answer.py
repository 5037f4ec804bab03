"""Rewards on the answer: exact match, accuracy, token F1, task completion."""

from __future__ import annotations

from toolgym.errors import UnknownNameError
from toolgym.grading.answers import (
    RIGHT_PRESETS,
    committed,
    exact,
    overlap_f1,
    per_answer,
    right,
)
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
    preset: str = "ours",
) -> list[float]:
    """Whether the answer says the gold and offers nothing beside it.

    The published accuracy (arXiv 2502.05867, Evaluation: sub-span for text, last number for maths)
    is ``preset="paper"``.

    Args:
        task: gold answers and ``answer_type``.
        trajectory: the record so far.
        normalisation: ``paper``, ``squad`` or ``unicode``; for text. None: ``unicode`` for the
            preset ``ours``, else ``paper``.
        numbers: ``value`` compares numbers as numbers, ``paper`` as the published evaluation,
            ``paper_filter`` as the published training filter.
        whole_words: for ``paper``: a gold answer inside a longer word does not count.
        preset: ``ours``: the gold must be most of what is said and stand alone, so that pasting a
            result, listing candidates or repeating the question earns nothing; a number must be the
            only one, or be stated ("... = 17"). ``paper``: the gold anywhere, or the last number.

    Returns:
        [steps] 1.0 at the step that gave the right answer, else 0.0.

    Raises:
        UnknownNameError: an unknown normalisation, number rule or preset.
    """
    return per_answer(
        trajectory, lambda answer: right(answer, task, normalisation, numbers, whole_words, preset)
    )


def token_f1(
    task: Task, trajectory: Trajectory, *, normalisation: str = "paper", preset: str = "ours"
) -> list[float]:
    """Token F1, the best over the gold answers.

    The published figure (Rajpurkar et al. 2016) is ``preset="paper"``; it pays a part for every
    answer that holds a word of the gold, a pasted passage and a list of candidates included.

    Args:
        task: its gold answers.
        trajectory: the record so far.
        normalisation: ``paper``, ``squad`` or ``unicode``.
        preset: ``ours``: F1 where most of the answer's words are the gold's and it is one answer,
            else 0.0. ``paper``: F1 of any answer.

    Returns:
        [steps] F1 from 0.0 to 1.0 at the step that gave the answer, else 0.0.

    Raises:
        UnknownNameError: an unknown normalisation or preset.
    """
    if preset not in RIGHT_PRESETS:
        raise UnknownNameError("preset", preset, RIGHT_PRESETS)

    def scored(answer: str) -> float:
        if preset == "paper" or committed(answer, task.targets, normalisation):
            return overlap_f1(answer, task.targets, normalisation)
        return float(exact(answer, task.targets, normalisation))

    return per_answer(trajectory, scored)


def task_completion(
    task: Task,
    trajectory: Trajectory,
    *,
    normalisation: str | None = None,
    preset: str = "ours",
) -> list[float]:
    """Whether the episode did what was asked: for questions, an answer that `accuracy` accepts.

    The companion of ``execution_precision``: one says how well the tools were used, this one
    whether it led to the goal.

    Args:
        task: gold answers and ``answer_type``.
        trajectory: the record so far.
        normalisation: as in `accuracy`.
        preset: as in `accuracy`.

    Returns:
        [steps] 1.0 at the step that solved the task, else 0.0.

    Raises:
        UnknownNameError: an unknown normalisation or preset.
    """
    return per_answer(trajectory, lambda answer: right(answer, task, normalisation, preset=preset))
