"""An environment made again from its spec, in whatever process."""

from __future__ import annotations

from typing import Any

from gymnasium.envs.registration import EnvSpec, load_env_creator

__all__ = ["make_again"]


def make_again(spec: EnvSpec) -> Any:
    """The environment itself, without the wrappers of ``gymnasium.make``, which pickle themselves.

    Args:
        spec: of an environment that ``gymnasium.make`` made.
    """
    entry = spec.entry_point
    creator: Any = load_env_creator(entry) if isinstance(entry, str) else entry
    made = creator(**spec.kwargs).unwrapped
    made.spec = spec
    return made
