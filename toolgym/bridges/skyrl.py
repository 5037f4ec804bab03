"""Environments of ours as SkyRL's: a ``BaseTextEnv`` of skyrl-gym, and rows for its trainer.

Importing this module imports skyrl-gym, which the extra `skyrl` brings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from toolgym._util.optional import require_extra
from toolgym.bridges.episode import COLUMN, BridgedEpisode, task_rows
from toolgym.messages import Chat
from toolgym.trajectory import Trajectory

__all__ = ["NAME", "SkyRLEnv", "register", "skyrl_rows"]

_gym = require_extra("skyrl_gym", "skyrl")
BaseTextEnv: Any = require_extra("skyrl_gym.envs.base_text_env", "skyrl").BaseTextEnv

NAME = "toolgym"
"""Of the environment class in SkyRL's registry and in the rows."""


class SkyRLEnv(BaseTextEnv):  # type: ignore[misc]  # known at run time only
    """One episode of any environment of ours; the row says which.

    Args:
        env_config: what SkyRL's configuration holds of this class; nothing of it is used.
        extras: the row. ``max_turns``, which SkyRL's generator adds, ends the episode earlier than
            the environment itself where it is less.

    Raises:
        UnknownNameError: no environment has the row's id.
        BadInputError: the row was not made by `skyrl_rows`, or its task does not exist.
    """

    def __init__(self, env_config: Any = None, extras: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        row = extras or {}
        self._episode = BridgedEpisode(row, row.get("max_turns"))
        self._metrics: Counter[str] = Counter()
        self.max_turns = self._episode.max_turns

    @property
    def trajectory(self) -> Trajectory:
        """A copy of the record of the episode."""
        return self._episode.trajectory

    def init(self, prompt: list[Chat]) -> tuple[list[Chat], dict[str, Any]]:
        """Begin the episode.

        Args:
            prompt: of the row; the environment writes its own opening, which is the same.

        Returns:
            The messages before the first reply, and the task's id and tools.
        """
        opening = self._episode.begin()
        self._metrics.clear()
        self.turns = 0
        info = self._episode.info
        return opening, {"task": info["task_id"], "tools": info["tools"]}

    def step(self, action: str) -> dict[str, Any]:
        """Play a reply.

        Args:
            action: the reply as text, without the end token.

        Returns:
            As a ``BaseTextEnvStepOutput``: ``observations`` are the new messages, and ``metadata``
            holds the unweighted ``parts`` of the reward, ``problems`` of the reply and
            ``tool_errors``.

        Raises:
            EpisodeEndedError: before `init`, or after the end of the episode.
        """
        turn, info = self._episode.step(action), self._episode.info
        self.turns += 1
        errors = [error for error in info["tool_errors"] if error]
        self._metrics.update({"turns": 1, "problems": len(info["problems"])})
        self._metrics["tool_errors"] += len(errors)
        for name, value in turn.parts.items():
            self._metrics[f"reward/{name}"] += value  # type: ignore[assignment]  # a sum of floats
        told = {"parts": turn.parts, "problems": info["problems"], "tool_errors": errors}
        return {
            "observations": turn.messages,
            "reward": turn.reward,
            "done": turn.done,
            "metadata": told,
        }

    def get_metrics(self) -> dict[str, Any]:
        """Turns, problems, failed calls and the sum of each reward, which SkyRL averages."""
        return dict(self._metrics)

    def close(self) -> None:
        """End what the episode's tools remember."""
        self._episode.close()


def register(name: str = NAME) -> None:
    """Make the class known to ``skyrl_gym.make``, in this process; a second time does nothing.

    Args:
        name: as the rows say in ``env_class``.
    """
    if name not in _gym.envs.registration.registry:
        _gym.register(id=name, entry_point=f"{__name__}:{SkyRLEnv.__name__}")


def skyrl_rows(
    env: str,
    env_args: Mapping[str, Any] | None = None,
    *,
    split: str | None = None,
    name: str = NAME,
) -> list[dict[str, Any]]:
    """Rows for SkyRL's ``data.train_data`` and ``data.val_data``, a row for each task.

    Args:
        env: id of an environment.
        env_args: its keyword arguments; they must be JSON.
        split: tasks of this one only.
        name: under which `register` was called.

    Returns:
        Rows for a ``.parquet`` or ``.jsonl`` file: ``prompt``, ``env_class`` and what the
        environment is made with.

    Raises:
        UnknownNameError: no environment has that id.
        BadInputError: arguments that it does not take, or no task in the split.
    """
    return [
        {"prompt": opening, "env_class": name, "data_source": env, COLUMN: place}
        for _, opening, place in task_rows(env, env_args, split)
    ]
