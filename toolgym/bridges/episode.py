"""What all bridges share: rows that name a task, and an episode of it that a framework drives."""

from __future__ import annotations

import functools
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from toolgym.errors import BadInputError
from toolgym.messages import Chat
from toolgym.policies.base import Request, cut_at_stop
from toolgym.rollouts.playing import Opened, Playing, open_env
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["COLUMN", "BridgedEpisode", "Turn", "next_sample", "opened", "place_of", "task_rows"]

COLUMN = "toolgym"
"""Of a framework's data set: which environment and task a row stands for."""

_lock = threading.Lock()
_begun: Counter[tuple[str, str, str]] = Counter()


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of one reply.

    Args:
        messages: all that is new for the policy, as chat dicts.
        reward: of this turn.
        parts: its unweighted rewards by name.
        done: the episode has ended.
    """

    messages: list[Chat]
    reward: float
    parts: dict[str, float]
    done: bool


@functools.lru_cache(maxsize=32)
def _opened(env: str, env_args: str) -> Opened:
    return open_env(env, json.loads(env_args))


def opened(env: str, env_args: Mapping[str, Any] | str | None = None) -> Opened:
    """An environment, opened once a process.

    Args:
        env: its id.
        env_args: its keyword arguments, or the JSON text of them.

    Raises:
        UnknownNameError: no environment has that id.
        BadInputError: arguments that it does not take, or that are not JSON.
    """
    try:
        args = json.loads(env_args) if isinstance(env_args, str) else dict(env_args or {})
        text = json.dumps(args, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"env_args {env_args!r:.80} cannot be JSON ({error})") from error
    if not isinstance(args, dict):
        raise BadInputError(f"env_args are keyword arguments by name, not {env_args!r:.80}")
    return _opened(env, text)


def place_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a framework's row that names environment and task.

    Args:
        row: with a column `COLUMN`, as `task_rows` makes it.

    Raises:
        BadInputError: there is no such column, or it lacks a field.
    """
    place = row.get(COLUMN)
    if not isinstance(place, Mapping):
        raise BadInputError(
            f"the row has no column {COLUMN!r}, found {', '.join(map(str, row)) or 'none'}: "
            "train on rows that the bridge made"
        )
    lacking = [name for name in ("env", "task") if not isinstance(place.get(name), str)]
    if lacking:
        raise BadInputError(f"column {COLUMN!r} lacks {lacking[0]!r} as text: {dict(place)!r:.200}")
    return dict(place)


def task_rows(
    env: str, env_args: Mapping[str, Any] | None = None, split: str | None = None
) -> Iterator[tuple[Task, list[Chat], dict[str, str]]]:
    """Every task with what a framework's row holds of it.

    Args:
        env: id of an environment.
        env_args: its keyword arguments; they must be JSON.
        split: tasks of this one only.

    Yields:
        The task, the messages before the first reply, and the value of the column `COLUMN`: texts
        only, since table formats give each row the fields of all others.

    Raises:
        UnknownNameError: no environment has that id.
        BadInputError: arguments that it does not take, or no task in the split.
    """
    world = opened(env, env_args)
    tasks = world.env.tasks if split is None else world.env.tasks.split(split)
    args = json.dumps(dict(env_args or {}), sort_keys=True)
    for task in tasks:
        playing = world.play()
        info = playing.reset(world.env.tasks.index_of(task.id), 0, 0)
        yield task, info["messages"], {"env": env, "env_args": args, "task": task.id}
        playing.env.end()


def next_sample(env: str, env_args: Any, task: str) -> int:
    """Number an episode among those of its task that have begun in this process.

    Args:
        env: id of the environment.
        env_args: its keyword arguments, as the row has them.
        task: its id.

    Returns:
        The number, from 0.
    """
    key = env, str(env_args), task
    with _lock:
        _begun[key] += 1
        return _begun[key] - 1


class BridgedEpisode:
    """One episode that another framework drives.

    Args:
        row: with the column `COLUMN`. A field ``sample`` there numbers the episode among those of
            its task, and faults and cassettes go by the number; without it they are counted in
            each process.
        max_turns: end after so many turns, where that is less than the environment's own limit.

    Raises:
        UnknownNameError: no environment has that id.
        BadInputError: the row names no task, or one that does not exist.
    """

    def __init__(self, row: Mapping[str, Any], max_turns: int | None = None) -> None:
        place = place_of(row)
        self._opened = opened(place["env"], place.get("env_args"))
        self._playing: Playing = self._opened.play()
        self._task = self._opened.env.tasks.index_of(place["task"])
        if (sample := place.get("sample")) is None:
            sample = next_sample(place["env"], place.get("env_args"), place["task"])
        self._sample = sample
        if max_turns is not None:
            self._playing.env.max_steps = min(self._playing.env.max_steps, max_turns)
        self._turns = 0
        self.info: dict[str, Any] = {}
        """Of the last reset or step."""

    def begin(self) -> list[Chat]:
        """The messages before the first reply."""
        self.info = self._playing.reset(self._task, self._sample, 0)
        self._turns = 0
        return list(self.info["messages"])

    @property
    def max_turns(self) -> int:
        """Replies until the episode is cut."""
        return self._playing.env.max_steps

    @property
    def stop(self) -> list[str]:
        """Texts after which the policy should stop writing."""
        return list(self._playing.env.format.stop)

    def step(self, text: str) -> Turn:
        """Play a reply; what it says after a stop text of the format is not read.

        Args:
            text: as the policy wrote it.

        Raises:
            EpisodeEndedError: before `begin`, or after the end of the episode.
        """
        if self.info:
            text = cut_at_stop(text, self._request())
        before = len(self.info.get("messages", ()))
        outcome = self._playing.outer.step(text)
        self.info, _ = self._playing.take(outcome, self._turns, text)
        self._turns += 1
        new = list(self.info["messages"][before + 1 :])
        mark = "reward/"
        parts = {k.removeprefix(mark): v for k, v in self.info.items() if k.startswith(mark)}
        return Turn(new, float(outcome[1]), parts, self._playing.env.ended)

    @property
    def trajectory(self) -> Trajectory:
        """A copy of the record so far."""
        return self._playing.record(self.info)

    def close(self) -> None:
        """End what the episode's tools remember; those that other episodes share go on."""
        self._playing.env.end()

    def _request(self) -> Request:
        env = self._playing.env
        return Request(self.info["messages"], self.info["tools"], env.format, turn=self._turns)
