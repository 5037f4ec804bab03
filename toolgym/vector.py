"""Vector environments whose episodes share one tool service: calls are answered in batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv

from toolgym.env import ToolEnv
from toolgym.messages import ToolCall
from toolgym.tools.toolset import MAX_PARALLEL, Toolset

__all__ = ["ToolVectorEnv", "execute_together"]


class ToolVectorEnv(SyncVectorEnv):
    """A synchronous vector of `ToolEnv` that collects all calls of a step before it runs any.

    This is what ``gym.make_vec(id, num_envs=n)`` makes. Steps take microseconds beside the tools,
    so processes would only add their messages: see docs/environments.md for figures.
    """

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
        """Step every environment; see `gymnasium.vector.VectorEnv.step`."""
        texts = list(actions)
        envs = [env.unwrapped for env in self.envs]
        execute_together([e for e in envs if isinstance(e, ToolEnv)], texts)
        return super().step(tuple(texts))


def _single(spec: EnvSpec) -> EnvSpec:
    kwargs = {k: v for k, v in spec.kwargs.items() if k not in ("num_envs", "vectorization_mode")}
    return replace(spec, kwargs=kwargs)


Made = tuple[ToolEnv, list[ToolCall]]
"""An environment, and the calls of its reply."""


def execute_together(envs: Sequence[ToolEnv], actions: Sequence[str]) -> None:
    """Run the calls of many replies, batched by tool, and provide each environment's results.

    Args:
        envs: environments in the middle of an episode; ended ones are passed over.
        actions: one reply for each.
    """
    calls: list[Made] = []
    for env, action in zip(envs, actions, strict=True):
        if not env.ended:
            calls.append((env, env.prepare(action)))
    by_toolset: dict[int, tuple[Toolset, list[Made]]] = {}
    for env, made in calls:
        group = by_toolset.setdefault(id(env.current_tools), (env.current_tools, []))
        group[1].append((env, made))
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


def _answer(toolset: Toolset, members: Sequence[Made]) -> None:
    """Run the calls of all episodes that have one toolset, and give each its results."""
    flat = [call for _, made in members for call in made]
    episodes = [env.episode for env, made in members for _ in made]
    began = time.perf_counter()
    results = toolset.execute(flat, episodes)
    seconds = (time.perf_counter() - began) / max(1, len(flat))
    position = 0
    for env, made in members:
        mine = results[position : position + len(made)]
        env.provide(mine, seconds * len(made) + toolset.added_seconds(mine))
        position += len(made)
