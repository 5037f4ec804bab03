"""Rewards on what the tools remember: whether the goal is reached, and what harm was done."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from toolgym.grading.states import Standing, standings
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["goal_reached", "no_harm", "state_progress"]


def goal_reached(task: Task, trajectory: Trajectory, *, strict: bool = True) -> list[float]:
    """Whether the state is what the task asks for.

    What the policy says is not looked at. A step that reaches the goal gets 1.0, one that leaves it
    again -1.0, so that the sum says how the episode ended.

    Args:
        task: with a goal, see `toolgym.grading.states.Goal`.
        trajectory: with the state of its sessions.
        strict: the goal counts only where nothing else was changed, no invariant is broken and no
            rule was. Without it the predicates alone count: a policy that does everything to
            everything reaches them, too.

    Returns:
        [steps] the change from 0.0 (not reached) to 1.0 (reached).

    Raises:
        BadInputError: a task without a goal, or an episode without a state.
    """

    def figure(now: Standing) -> float:
        return float(now.reached if strict else now.met == now.wanted)

    return _changes(task, trajectory, figure)


def state_progress(task: Task, trajectory: Trajectory) -> list[float]:
    """Share of the goal's predicates that hold, minus harm.

    Counted are predicates that did not hold at the beginning; one that held and does not any more
    takes off as much. Each row that was changed without need, each that breaks an invariant, and
    each rule that was broken, takes off as much, too.

    Args:
        task: with a goal.
        trajectory: with the state of its sessions.

    Returns:
        [steps] by how much each step changed it; the sum is from -1.0 to 1.0.

    Raises:
        BadInputError: a task without a goal, or an episode without a state.
    """

    def figure(now: Standing) -> float:
        return max(-1.0, (now.met - now.harm - now.broken) / max(1, now.wanted))

    return _changes(task, trajectory, figure)


def no_harm(task: Task, trajectory: Trajectory) -> list[float]:
    """Whether nothing was changed but what the goal asks for, and no rule was broken.

    It takes and never gives: an episode that does nothing sums to 0.0, one that does harm to -1.0.
    Harm that is undone is forgiven, a broken rule is not.

    Args:
        task: with a goal.
        trajectory: with the state of its sessions.

    Returns:
        [steps] -1.0 at a step that does the first harm, 1.0 at one that undoes the last.

    Raises:
        BadInputError: a task without a goal, or an episode without a state.
    """
    return _changes(task, trajectory, lambda now: -float(bool(now.harm or now.broken)))


def _changes(
    task: Task, trajectory: Trajectory, figure: Callable[[Standing], float]
) -> list[float]:
    figures = [figure(standing) for standing in standings(task, trajectory)]
    return [after - before for before, after in pairwise(figures)]
