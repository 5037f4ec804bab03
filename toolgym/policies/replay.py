"""``ReplayPolicy``: plays the recorded actions of a run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import file_hash
from toolgym.errors import BadInputError, PolicyError, did_you_mean
from toolgym.policies.base import Policy, Reply, Request
from toolgym.trajectory import read_trajectories

__all__ = ["ReplayPolicy"]

FILE = "trajectories.jsonl"


class ReplayPolicy(Policy):
    """Plays the recorded actions by task id and sample, for instance against changed tools.

    The actions are texts: the recorded token ids are not played, since the tools may answer
    otherwise now and the ids would then belong to another conversation.

    Args:
        recording: a run folder, or a ``.jsonl`` file of trajectories.

    Raises:
        MissingFileError: no such file, or a folder that holds no run.
        BadInputError: a broken line, an episode twice, or no episode at all.
    """

    def __init__(self, recording: str | Path) -> None:
        path = Path(recording)
        self._path = path / FILE if path.is_dir() else path
        self._actions: dict[str, list[str]] = {}
        for trajectory in read_trajectories(self._path):
            if trajectory.id in self._actions:
                raise BadInputError(f"{str(self._path)!r} holds episode {trajectory.id!r} twice")
            self._actions[trajectory.id] = [step.action for step in trajectory.steps]
        if not self._actions:
            raise BadInputError(f"{str(self._path)!r} holds no episode to replay")

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Play each request's recorded action; what was not recorded is a `PolicyError`."""
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Reply | Exception:
        actions = self._actions.get(request.episode)
        if actions is None:
            return PolicyError(
                f"the recording {str(self._path)!r} has no episode {request.episode!r}"
                f"{did_you_mean(request.episode, self._actions)}; "
                f"it holds {len(self._actions)} episodes"
            )
        if request.turn >= len(actions):
            return PolicyError(
                f"episode {request.episode!r} was recorded with {len(actions)} turns, but turn "
                f"{request.turn + 1} is asked for: the environment behaves otherwise than then "
                "(compare its format, max_steps and tools with those in run.json)"
            )
        return Reply(actions[request.turn])

    def describe(self) -> dict[str, Any]:
        """The recording, its number of episodes and its hash."""
        return {
            "policy": "replay",
            "recording": str(self._path),
            "episodes": len(self._actions),
            "recording_hash": file_hash(self._path),
        }
