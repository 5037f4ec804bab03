"""Vector environments whose episodes share one tool service: calls are answered in batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from toolgym.env import ToolEnv
from toolgym.errors import BadInputError
from toolgym.messages import ToolCall, ToolResult
from toolgym.task import whole_number
from toolgym.tools.toolset import MAX_PARALLEL, Toolset

__all__ = ["ToolVectorEnv", "step_together"]


class ToolVectorEnv(SyncVectorEnv):
    """A synchronous vector of `ToolEnv` that collects all calls of a step before it runs any.

    This is what ``gym.make_vec(id, num_envs=n)`` makes. Steps take microseconds beside the tools,
    so processes would only add their messages: see docs/environments.md for figures.
    """

    @classmethod
    def of(
        cls,
        make: Callable[..., ToolEnv],
        num_envs: int,
        *,
        max_episode_steps: int | None = None,
        **kwargs: Any,
    ) -> ToolVectorEnv:
        """Make the environments of an id, for its ``vector_entry_point``.

        Args:
            make: makes one.
            num_envs: how many.
            max_episode_steps: of the id's registration; ends episodes that would go on.
            kwargs: of ``make``; what it raises comes here, too.

        Raises:
            BadInputError: a count that is not a whole number of at least 1.
        """
        most = max_episode_steps
        most = None if most is None else whole_number("max_episode_steps", most, 1)

        def made() -> ToolEnv:
            env = make(**kwargs)
            # Not a wrapper: the calls of wrapped environments are not answered together.
            env.max_steps = env.max_steps if most is None else min(env.max_steps, most)
            return env

        return cls([made] * whole_number("num_envs", num_envs, 1))

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> Any:
        """Reset every environment; see `gymnasium.vector.VectorEnv.reset`."""
        for env in self.envs:
            # gymnasium names the vector only after it was made; records name their environment.
            if env.unwrapped.spec is None and self.spec is not None:
                env.unwrapped.spec = _single(self.spec)
        return super().reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        """Step every environment; see `gymnasium.vector.VectorEnv.step`.

        Raises:
            BadInputError: not one action for each environment.
        """
        texts, envs = list(actions), self.envs
        if len(texts) != len(envs):
            raise BadInputError(f"{len(envs)} environments need an action each, not {len(texts)}")
        # What gymnasium resets in this step has no reply to play: it ignores the action.
        resets = self._autoreset_envs & (self.autoreset_mode is AutoresetMode.NEXT_STEP)
        playing = [n for n, again in enumerate(resets) if not again]
        outcomes = step_together([envs[n] for n in playing], [texts[n] for n in playing])
        self.envs = list(envs)
        for n, outcome in zip(playing, outcomes, strict=True):
            self.envs[n] = _Played(envs[n], outcome)
        try:
            return super().step(tuple(texts))
        finally:
            self.envs = envs


class _Played(gym.Wrapper[str, str, str, str]):
    """An environment whose step has been made, so that the loop of gymnasium's vector reads it."""

    def __init__(self, env: gym.Env[str, str], outcome: Stepped | Exception) -> None:
        super().__init__(env)
        self._outcome = outcome

    def step(self, action: str) -> Stepped:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


def _single(spec: EnvSpec) -> EnvSpec:
    kwargs = {k: v for k, v in spec.kwargs.items() if k not in ("num_envs", "vectorization_mode")}
    most = kwargs.pop("max_episode_steps", spec.max_episode_steps)
    return replace(spec, kwargs=kwargs, max_episode_steps=most)


Stepped = tuple[str, Any, bool, bool, dict[str, Any]]
"""What a step gives: observation, reward, terminated, truncated, info."""


@dataclass(slots=True)
class _Begun:
    """A step between its halves."""

    place: int
    env: ToolEnv
    calls: list[ToolCall]
    results: list[ToolResult] = field(default_factory=list)
    seconds: float = 0.0
    failure: Exception | None = None


def step_together(
    envs: Sequence[gym.Env[str, str]], actions: Sequence[str]
) -> list[Stepped | Exception]:
    """Step many environments; the calls of all their replies are run together, batched by tool.

    An environment behind wrappers, which may make another action of it, is stepped by itself.

    Args:
        envs: in the middle of an episode.
        actions: one reply for each.

    Returns:
        What each step gave, or what it raised: the failure of one leaves the others alone.
    """
    begun: list[_Begun] = []
    outcomes: list[Stepped | Exception | None] = [None] * len(envs)
    for place, (env, action) in enumerate(zip(envs, actions, strict=True)):
        try:
            if isinstance(env, ToolEnv):
                begun.append(_Begun(place, env, env.begin(action)))
            else:
                outcomes[place] = env.step(action)
        except Exception as error:  # also what a user's codec or wrapper raises
            outcomes[place] = error
    _answer_all([step for step in begun if step.calls])
    for step in begun:
        try:
            if step.failure is not None:
                raise step.failure
            outcomes[step.place] = step.env.finish(step.results, step.seconds)
        except Exception as error:  # also what a user's reward raises
            outcomes[step.place] = error
    return [outcome for outcome in outcomes if outcome is not None]


def _answer_all(steps: Sequence[_Begun]) -> None:
    """Run all calls, those of one toolset together."""
    by_toolset: dict[int, tuple[Toolset, list[_Begun]]] = {}
    for step in steps:
        tools = step.env.playing_tools
        by_toolset.setdefault(id(tools), (tools, []))[1].append(step)
    groups = list(by_toolset.values())
    # Tools that run in processes need not wait for those of other episodes.
    apart = [g for g in groups if any(not item.inline for item in g[0])] if len(groups) > 1 else []
    with ThreadPoolExecutor(MAX_PARALLEL, "toolgym-tool") if apart else nullcontext() as pool:
        pending = [pool.submit(_answer, *group) for group in apart] if pool else []
        for group in groups:
            if group not in apart:
                _answer(*group)
        for future in pending:
            future.result()


def _answer(toolset: Toolset, steps: Sequence[_Begun]) -> None:
    """Run the calls of all episodes that have one toolset, and give each its results."""
    flat = [call for step in steps for call in step.calls]
    episodes = [step.env.episode for step in steps for _ in step.calls]
    began = time.perf_counter()
    try:
        results = iter(toolset.execute(flat, episodes))
    except Exception as error:  # no failure of a tool, which is a result
        if len(steps) == 1:
            steps[0].failure = error
        else:  # whose it is shows when each is asked alone
            for step in steps:
                _answer(toolset, [step])
        return
    seconds = (time.perf_counter() - began) / len(flat)
    for step in steps:
        step.results = list(islice(results, len(step.calls)))
        step.seconds = seconds * len(step.calls)
