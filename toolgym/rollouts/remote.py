"""Episodes played elsewhere: by an executor, in chunks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from toolgym.executors import Calls, Executor, pack
from toolgym.policies.base import Policy, make_policy
from toolgym.rollouts.plan import Job, Queue, hashes_of
from toolgym.rollouts.playing import Opened, open_env

__all__ = ["Outcome", "Player", "play_elsewhere"]

_AHEAD = 128  # chunks that were handed over and not yet taken in
_PIECES = 64  # at least so many chunks, where there are jobs enough: there may be as many workers

Play = Callable[[Opened, Policy, threading.Lock, int, Sequence[Job]], "Outcome"]
"""Plays a chunk: with what it is played, a lock for what only one at a time holds, a width."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a chunk of jobs.

    Args:
        keys: of the jobs.
        lines: one for each finished episode.
        tools: the documents that those refer to, as lines by name.
        failures: one for each failed one.
        turns: that were answered.
        tokens: that were sampled.
    """

    keys: list[str]
    lines: list[str]
    tools: dict[str, str]
    failures: list[dict[str, Any]]
    turns: int
    tokens: int


class Player:
    """Plays chunks in this process for a rollout in another one.

    Args:
        play: see `Play`.
        width: episodes that run at once.
        env: see `toolgym.rollout`, as all others.
        env_args: for an id.
        policy: plays.
        policy_args: for the name of a policy.
    """

    def __init__(
        self, play: Play, width: int, env: Any, env_args: Any, policy: Any, policy_args: Any
    ) -> None:
        self._play, self._width, self._alone = play, width, threading.Lock()
        self._opened, self._policy = open_env(env, env_args), make_policy(policy, **policy_args)

    def __call__(self, jobs: Sequence[Job]) -> Outcome:
        """Play a chunk."""
        return self._play(self._opened, self._policy, self._alone, self._width, jobs)

    def hashes(self) -> dict[str, Any]:
        """Of all that is read here."""
        return {"hashes": hashes_of(self._opened, self._policy)}

    def close(self) -> None:
        """Let go of the policy: it may be a large model."""
        self._policy.close()


def play_elsewhere(
    executor: Executor,
    player: Mapping[str, Any],
    hashes: Mapping[str, str],
    jobs: Queue,
    take: Callable[[Outcome], None],
    sparing: bool = False,
) -> None:
    """Hand jobs to an executor in chunks, and take in what comes of them.

    Args:
        executor: plays them.
        player: the arguments of `Player`.
        hashes: of all that is read; each process compares its own before it plays.
        jobs: all of them.
        take: called with each outcome, in the order in which they come.
        sparing: the queue may be closed at any time: little is handed over before it is needed.

    Raises:
        BadInputError: an environment or a policy that cannot be pickled.
        LostWorkerError: the executor has lost its workers, or a chunk ends each worker.
    """
    size = max(1, min(4 * player["width"], len(jobs) // _PIECES))
    ahead = _AHEAD
    if sparing:
        size, ahead = min(size, player["width"]), 2 * _workers(executor)
    sent = pack("run", Player, player, {"hashes": hashes}, Player.hashes)
    calls = Calls[list[Job], Outcome](executor, sent, "episodes", _own, _told)

    def taken() -> Iterator[list[Job]]:
        while jobs:
            yield [jobs.popleft() for _ in range(min(size, len(jobs)))]

    with closing(calls.as_done(taken(), ahead)) as done:
        for _, outcome in done:
            take(outcome)


def _workers(executor: Executor) -> int:
    """How many it has, where it says so as those of `concurrent.futures` do."""
    said = getattr(executor, "_max_workers", None) or getattr(executor, "workers", None)
    return said if isinstance(said, int) and said > 0 else os.cpu_count() or 1


def _own(chunk: list[Job], outcome: Outcome) -> bool:
    whole = len(outcome.lines) + len(outcome.failures) == len(chunk)
    return whole and outcome.keys == [job.key for job in chunk]


def _told(chunk: list[Job]) -> str:
    return f"the chunk of episodes {chunk[0].key!r} to {chunk[-1].key!r}"
