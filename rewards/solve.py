"""Rewards on calls: how many ran, and what they solve (arXiv 2508.08791, turn by turn)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from toolgym.errors import BadInputError
from toolgym.grading.solving import Solving, Turn, count_calls, turns
from toolgym.task import SUB_ANSWERS, Task, whole_number
from toolgym.trajectory import MALFORMED_CALLS, Step, Trajectory

__all__ = [
    *("calls", "execution_precision", "published_without_calls", "solve_f1", "solve_precision"),
    *("solve_product", "solve_rate", "solve_values"),
]


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


def calls(task: Task, trajectory: Trajectory, *, free: int = 0) -> list[float]:
    """What the calls of each turn cost: minus 1 for each, also for attempts that were not read.

    A cost is for beside a reward of the answer, with a small weight: ``{"accuracy": 1.0, "calls":
    0.05}``. Alone it is highest for a policy that does nothing.

    Args:
        task: not read.
        trajectory: the record so far.
        free: calls of an episode that cost nothing.

    Returns:
        [steps] minus the number of calls beyond those that are free; 0.0 at most.

    Raises:
        BadInputError: ``free`` is not a whole number of at least 0.
    """
    left, costs = whole_number("free", free), []
    for step in trajectory.steps:
        made = count_calls([step]).attempts
        costs.append(-float(max(0, made - left)) if made > left else 0.0)
        left = max(0, left - made)
    return costs


Formula = Callable[[int, int, int, int], float]
"""Calls made, newly solved, open before the turn, sub-answers of the task: to the turn's float."""

_ENDINGS = ("<|endoftext|>", "<|im_end|>")
_MARKUP = ("<tool_call>", "</tool_call>", "<tool_parsed_response>")


def solve_values(
    task: Task,
    trajectory: Trajectory,
    preset: str,
    *,
    ours: Formula,
    paper: Formula,
    episode: Callable[[Solving], float] | None = None,
) -> list[float]:
    """Score each turn by what its calls solved.

    Args:
        task: with sub-answers.
        trajectory: the record so far; read are the calls, their results, problems and replies.
        preset: ``ours``: turns without calls get 0.0. ``paper``: they get what
            `published_without_calls` says.
        ours: for turns with calls.
        paper: for turns with calls.
        episode: a figure of the whole episode. Where it is given, each turn gets by how much it
            changed the figure of the episode so far, and the sum is the episode's figure.

    Returns:
        [steps] floats; the one of step *k* depends on nothing after it.

    Raises:
        UnknownNameError: an unknown preset.
        BadInputError: a task without sub-answers, or changes of a figure asked of ``paper``.
    """
    played = turns(task, trajectory.steps, preset)
    total = len(played[0].open if played else task.sub_answers)
    if not total:
        raise BadInputError(
            f"task {task.id!r} has no sub-answers, which the solve_* rewards score calls by; "
            f"scenarios have them (a task's own: a column {SUB_ANSWERS!r} of "
            "[{'id', 'tool', 'answer'}]). For other tasks use 'execution_precision'"
        )
    if episode is not None:
        if preset == "paper":
            raise BadInputError("bounded=True goes with preset 'ours': the paper publishes no such")
        return _changes(played, total, episode)
    values = []
    for turn, step in zip(played, trajectory.steps, strict=True):
        if turn.calls:
            formula = ours if preset == "ours" else paper
            value = formula(turn.calls, len(turn.solved), len(turn.open), total)
        elif preset == "paper":
            value = published_without_calls(task, step, len(turn.open))
        else:
            value = 0.0
        values.append(value)
    return values


def _changes(
    played: Sequence[Turn], total: int, episode: Callable[[Solving], float]
) -> list[float]:
    calls = accumulate((turn.calls for turn in played), initial=0)
    solved = accumulate((len(turn.solved) for turn in played), initial=0)
    so_far = [episode(Solving(total, s, c)) for c, s in zip(calls, solved, strict=True)]
    return [after - before for before, after in pairwise(so_far)]


def published_without_calls(task: Task, step: Step, unsolved: int) -> float:
    """What a turn without calls gets in the code of arXiv 2508.08791.

    The content is the whole reply, reasoning included, without a mark of the end of the text.

    Args:
        task: its canonical answer is looked for.
        step: the turn.
        unsolved: sub-answers that are open.

    Returns:
        -0.5 for an empty reply; -0.3 for call markup that could not be read; 1 / (1 + open) where
        the reply holds the answer (lower-cased, without commas, stripped); 0.5 where it does not,
        but nothing is open; else 0.0.
    """
    content = step.action.strip()
    for ending in _ENDINGS:
        content = content.removesuffix(ending).strip()
    if not content:
        return -0.5
    if any(mark in content for mark in _MARKUP) or any(
        problem.kind in MALFORMED_CALLS for problem in step.problems
    ):
        return -0.3
    wanted = task.target.lower().replace(",", "").strip()
    if wanted in content.lower().replace(",", "").strip():
        return 1 / (1 + unsolved)
    return 0.5 if not unsolved else 0.0


def solve_precision(
    task: Task, trajectory: Trajectory, *, preset: str = "ours", bounded: bool = False
) -> list[float]:
    """Newly solved sub-answers over calls of the turn (arXiv 2508.08791, Verifiable reward).

    Args:
        task: with sub-answers.
        trajectory: the record so far.
        preset: ``ours``: from 0.0 to 1.0, and 0.0 for a turn without calls. ``paper``: as
            published, with its values from -0.5 to 1.0 for turns without calls.
        bounded: give each turn the change of the episode's Solve-P, which may be negative; the sum
            is then Solve-P, and more turns earn no more. For ``ours``.

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
        ours=lambda calls, solved, unsolved, total: solved / calls,
        paper=lambda calls, solved, unsolved, total: solved / calls,
        episode=(lambda played: played.precision) if bounded else None,
    )


def solve_rate(task: Task, trajectory: Trajectory, *, preset: str = "ours") -> list[float]:
    """Newly solved sub-answers, the completeness of arXiv 2508.08791 (Verifiable reward).

    Args:
        task: with sub-answers.
        trajectory: the record so far.
        preset: ``ours``: as a share of all sub-answers, so that the sum is the episode's Solve-R.
            ``paper``: their number, and its values from -0.5 to 1.0 for turns without calls.

    Returns:
        [steps] the float of step *k* depends on nothing after it.

    Raises:
        UnknownNameError: an unknown preset.
        BadInputError: a task without sub-answers.
    """
    return solve_values(
        task,
        trajectory,
        preset,
        ours=lambda calls, solved, unsolved, total: solved / total,
        paper=lambda calls, solved, unsolved, total: float(solved),
    )


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
