"""Reward functions and their weighted sum, the rubric."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolgym._util.kinds import require
from toolgym._util.rebuilding import name_code, plain
from toolgym.errors import BadInputError, did_you_mean
from toolgym.registry import REWARDS
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["RewardFunction", "Rubric", "make_rubric"]

RewardFunction = Callable[[Task, Trajectory], Sequence[float]]
"""``(task, trajectory)`` to one float a step; the float of step *k* depends on nothing after *k*,
and the answer is read only from the policy's own answer, never from tool results."""

Spec = Mapping[str, Any]
"""``{name: weight}``, ``{name: {"weight": w, option: value}}``, ``{name: function}`` or
``{name: (function, weight)}``."""


class Rubric:
    """Named, weighted reward functions; the parts are kept, so that a record can be re-weighted.

    A weight of 0 makes a part a metric: measured, but no reward.

    Args:
        spec: see `Spec`; names are looked up in the registry unless a function is given.

    Raises:
        UnknownNameError: no reward has that name.
        BadInputError: it is not a mapping, a weight that is not a finite number, or an unknown
            option.
    """

    def __init__(self, spec: Spec) -> None:
        require(spec, Mapping, "a rubric is weights by name, such as {'accuracy': 1.0}")
        self.functions: dict[str, RewardFunction] = {}
        self.weights: dict[str, float] = {}
        for name, value in spec.items():
            self.functions[name], self.weights[name] = _read(name, value)

    def __repr__(self) -> str:
        return f"Rubric({self.weights})"

    def describe(self) -> dict[str, Any]:
        """Weights and functions in plain values; registered rewards by their names alone."""
        return {
            name: {"weight": self.weights[name], "function": _told(name, function)}
            for name, function in self.functions.items()
        }

    def parts(self, task: Task, trajectory: Trajectory) -> dict[str, list[float]]:
        """Unweighted values by name.

        Returns:
            ``{name: [steps] float}``.

        Raises:
            BadInputError: a function gave not one finite float a step, or would end the program.
                Exceptions inside a reward function are not caught: a broken reward must not look
                like a 0.
        """
        parts = {}
        for name, function in self.functions.items():
            try:
                values = function(task, trajectory)
            except SystemExit as error:  # a run goes on, as after any other failure of a reward
                raise BadInputError(f"reward {name!r} called exit({error.code!r:.80})") from error
            parts[name] = _checked(name, values, len(trajectory.steps))
        return parts

    def total(self, parts: Mapping[str, Sequence[float]]) -> list[float]:
        """The weighted sum of parts, one float a step."""
        columns = zip(*parts.values(), strict=True)
        return [self._sum(dict(zip(parts, column, strict=True))) for column in columns]

    def apply(self, trajectory: Trajectory, last_only: bool = False) -> None:
        """Write rewards and parts into the steps.

        Args:
            trajectory: changed in place.
            last_only: only the last step is new (inside an episode).
        """
        parts = self.parts(trajectory.task, trajectory)
        steps = len(trajectory.steps)
        for index in range(max(0, steps - 1) if last_only else 0, steps):
            step = trajectory.steps[index]
            step.reward_parts = {name: values[index] for name, values in parts.items()}
            step.reward = self._sum(step.reward_parts)

    def _sum(self, parts: Mapping[str, float]) -> float:
        return sum([self.weights[name] * value for name, value in parts.items()], 0.0)


def make_rubric(reward: Rubric | RewardFunction | str | Spec | None) -> Rubric:
    """A rubric from whatever a user may write: a name, a function, a spec, a rubric, or nothing.

    Raises:
        UnknownNameError: no reward has that name.
        BadInputError: something else, or see `Rubric`.
    """
    if isinstance(reward, Rubric):
        return reward
    if reward is None:
        return Rubric({})
    if isinstance(reward, str):
        return Rubric({reward: 1.0})
    if callable(reward) and not isinstance(reward, Mapping):
        return Rubric({getattr(reward, "__name__", "reward"): reward})
    if not isinstance(reward, Mapping):
        raise BadInputError(
            "a reward is a name, {name: weight}, {name: function} or a function, such as "
            f"{{'accuracy': 1.0}}, not {reward!r:.80}"
        )
    return Rubric(reward)


def _told(name: str, function: RewardFunction) -> Any:
    registered = name in REWARDS and REWARDS.get(name) is getattr(function, "func", function)
    told = name if registered else name_code(function)
    options = getattr(function, "keywords", None)
    return [told, plain(options, f"reward {name!r}")] if options else told


def _read(name: str, value: Any) -> tuple[RewardFunction, float]:
    function, weight, options = None, value, {}
    if isinstance(value, Mapping):
        options = {key: option for key, option in value.items() if key != "weight"}
        weight = value.get("weight", 1.0)
    elif isinstance(value, list | tuple) and len(value) == 2 and callable(value[0]):
        function, weight = value
    elif callable(value):
        function, weight = value, 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise BadInputError(
            f"the weight of reward {name!r} must be a finite number, not {weight!r}"
        )
    if function is None:
        function = REWARDS.get(name)
    if options:
        accepted = list(inspect.signature(function).parameters)[2:]
        for option in options:
            if option not in accepted:
                raise BadInputError(
                    f"reward {name!r} has no option {option!r}{did_you_mean(option, accepted)}; "
                    f"options: {', '.join(accepted) or 'none'}"
                )
        function = functools.partial(function, **options)
    return function, float(weight)


def _checked(name: str, values: Sequence[float], steps: int) -> list[float]:
    try:
        floats = list(map(float, values))
    except (TypeError, ValueError) as error:
        raise BadInputError(
            f"reward {name!r} must return a list with one float a step, not {values!r:.80}"
        ) from error
    if len(floats) != steps:
        raise BadInputError(f"reward {name!r} returned {len(floats)} values for {steps} steps")
    if not all(map(math.isfinite, floats)):
        raise BadInputError(f"reward {name!r} returned a value that is not finite: {floats!r:.80}")
    return floats
