"""Vector environments whose episodes share one tool service: calls are answered in batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from gymnasium.vector import SyncVectorEnv

from toolgym.env import ToolEnv
from toolgym.messages import ToolCall
from toolgym.toolset import Toolset

__all__ = ["ToolVectorEnv", "execute_together"]


class ToolVectorEnv(SyncVectorEnv):
    """A synchronous vector of `ToolEnv` that collects all calls of a step before it runs any.

    This is what ``gym.make_vec(id, num_envs=n)`` makes. Steps take microseconds beside the tools,
    so processes would only add their messages: see docs/environments.md for figures.
    """

    def step(self, actions: Any) -> Any:
        """Step every environment; see `gymnasium.vector.VectorEnv.step`."""
        texts = list(actions)
        envs = [env.unwrapped for env in self.envs]
        execute_together([e for e in envs if isinstance(e, ToolEnv)], texts)
        return super().step(tuple(texts))


def execute_together(envs: Sequence[ToolEnv], actions: Sequence[str]) -> None:
    """Run the calls of many replies, batched by tool, and provide each environment's results.

    Args:
        envs: environments in the middle of an episode; ended ones are passed over.
        actions: one reply for each.
    """
    calls: list[tuple[ToolEnv, list[ToolCall]]] = []
    for env, action in zip(envs, actions, strict=True):
        if not env.ended:
            calls.append((env, env.prepare(action)))
    by_toolset: dict[int, tuple[Toolset, list[tuple[ToolEnv, list[ToolCall]]]]] = {}
    for env, made in calls:
        group = by_toolset.setdefault(id(env.current_tools), (env.current_tools, []))
        group[1].append((env, made))
    for toolset, members in by_toolset.values():
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
