"""The plan of a run: which episodes it has, in which order, and which of them one shard plays."""

from __future__ import annotations

import random
import re
import threading
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import gymnasium as gym

from toolgym._util.hashes import value_hash
from toolgym._util.jsonl import read_json, require_file
from toolgym._util.optional import installed_versions
from toolgym._util.workfolder import same_settings
from toolgym.errors import BadInputError
from toolgym.policies.base import Policy, PolicyFunction, make_policy
from toolgym.rollouts.lines import Key, key_of
from toolgym.rollouts.playing import Opened, open_env
from toolgym.rollouts.runs import SETTINGS, Run, episode_seed
from toolgym.rollouts.writing import RunWriter
from toolgym.task import TaskSet, whole_number

__all__ = [
    *("Job", "Jobs", "Plan", "Queue", "Shard", "hashes_of", "make_plan", "plan", "read_shard"),
]

_OF_ONE_RUN = ("shard", "versions", "until", "decided")  # what may differ from another machine

Shard = tuple[int, int]
"""Number of the shard, from 0, and how many there are."""


@dataclass(frozen=True, slots=True)
class Job:
    """One episode that is to be played.

    Args:
        task: its number among the environment's tasks.
        sample: number of the rollout within its group.
        key: id of the episode, ``task#sample``.
        seed: of the episode.
    """

    task: int
    sample: int
    key: str
    seed: int


class Jobs(Sequence[Job]):
    """The jobs of a plan in its order; each is made when it is looked at.

    Args:
        tasks: of the environment.
        order: [tasks] their numbers in the order in which they are played.
        samples: rollouts of each.
        seed: of the run.
        places: which of all jobs these are.
    """

    def __init__(
        self, tasks: TaskSet, order: array[int], samples: int, seed: int, places: range
    ) -> None:
        self._tasks, self._order, self._samples, self._seed = tasks, order, samples, seed
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Job: ...
    @overload
    def __getitem__(self, index: slice) -> Jobs: ...
    def __getitem__(self, index: int | slice) -> Job | Jobs:
        """One job, or some of them."""
        if isinstance(index, slice):
            places = self.places[index]
            return Jobs(self._tasks, self._order, self._samples, self._seed, places)
        place = self.places[index]
        task, sample = self._order[place // self._samples], place % self._samples
        key = f"{self._tasks[task].id}#{sample}"
        return Job(task, sample, key, episode_seed(self._seed, key))

    def ranks(self) -> Callable[[Key], int]:
        """What gives a key's place among these jobs; their number where it is none of them."""
        turns = array("q", bytes(8 * len(self._order)))
        for turn, task in enumerate(self._order):
            turns[task] = turn

        def rank(key: Key) -> int:
            try:
                place = turns[self._tasks.index_of(key[0])] * self._samples + key[1]
            except BadInputError:  # of a task that was there when it was played
                return len(self)
            inside = key[1] < self._samples and place in self.places
            return self.places.index(place) if inside else len(self)

        return rank

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class Queue:
    """Jobs that are still to be played; any number of threads take from it.

    Args:
        jobs: all of them.
        finished: says of an id's task and sample whether it has been played.
    """

    def __init__(self, jobs: Sequence[Job], finished: Collection[Key] = ()) -> None:
        self._jobs = jobs
        self._open = array(
            "q",
            (n for n, job in enumerate(jobs) if key_of(job.key) not in finished)
            if finished
            else range(len(jobs)),
        )
        self._taken, self._lock = 0, threading.Lock()

    def popleft(self) -> Job:
        """The next job.

        Raises:
            IndexError: there is none.
        """
        with self._lock:
            place = self._open[self._taken]
            self._taken += 1
        return self._jobs[place]

    def close(self) -> None:
        """Give no more jobs."""
        with self._lock:
            self._taken = len(self._open)

    def __len__(self) -> int:
        return len(self._open) - self._taken


@dataclass(frozen=True, slots=True)
class Plan:
    """All episodes of a run, and what ``run.json`` says of them.

    Args:
        jobs: in the order of the plan, which is the order of a finished run's file.
        settings: environment, policy, sampling, seeds, versions, and hashes of all that is read.
    """

    jobs: Jobs
    settings: dict[str, Any]

    def shard(self, shard: Shard | str | None) -> Plan:
        """The part that one of several machines plays: every n-th job.

        Args:
            shard: number and count, as ``(0, 4)`` or ``"0/4"``; None: all.

        Raises:
            BadInputError: there is no such shard.
        """
        if shard is None:
            return self
        index, count = read_shard(shard)
        return Plan(self.jobs[index::count], self.settings | {"shard": [index, count]})

    def check(self, same_as: str | Path | Mapping[str, Any]) -> None:
        """Compare with another plan of which this is to be a part, before anything is played.

        Args:
            same_as: a run folder, its ``run.json``, or settings. Shards and versions may differ.

        Raises:
            RunMismatchError: another setting, or a file with another hash; the first is named.
            MissingFileError: no such file.
        """
        if isinstance(same_as, Mapping):
            same_settings("the other plan", same_as, self.settings, free=_OF_ONE_RUN)
            return
        path = Path(same_as)
        path = require_file(path / SETTINGS if path.is_dir() else path, "plan")
        then = "give this machine the same files and arguments"
        same_settings(path, read_json(path), self.settings, free=_OF_ONE_RUN, then=then)

    def write(self, folder: str | Path) -> None:
        """Write ``run.json``, for machines that are to play parts of this plan; see `check`.

        Args:
            folder: of a run that has no episode yet, or was begun with the same settings.

        Raises:
            RunMismatchError: the folder was begun with other settings.
        """
        RunWriter(Run(self.settings, Path(folder))).close()


def plan(
    env: str | gym.Env[Any, Any],
    policy: Policy | PolicyFunction | str,
    *,
    env_args: Mapping[str, Any] | None = None,
    policy_args: Mapping[str, Any] | None = None,
    episodes: int | None = None,
    samples_per_task: int = 1,
    seed: int = 0,
) -> Plan:
    """The episodes that `toolgym.rollout` plays with these arguments; nothing is played.

    Args:
        env: see `toolgym.rollout`, as all others.
        policy: its description and the hash of its tokenizer are part of the plan.
        env_args: for an id.
        policy_args: for the name of a policy.
        episodes: how many in all.
        samples_per_task: rollouts of each task.
        seed: fixes the order of tasks and all sampling.

    Raises:
        UnknownNameError: an unknown environment, policy, tool, format or reward.
        BadInputError: counts that do not fit the tasks, or an argument that cannot be used.
    """
    opened, player = open_env(env, env_args), make_policy(policy, **policy_args or {})
    try:
        return make_plan(opened, player, episodes, samples_per_task, seed)
    finally:
        if player is not policy:
            player.close()


def make_plan(
    opened: Opened, policy: Policy, episodes: int | None, samples_per_task: int, seed: int
) -> Plan:
    """The plan of an environment and a policy that are open already; see `plan`.

    Raises:
        BadInputError: counts that do not fit the tasks.
    """
    samples = whole_number("samples_per_task", samples_per_task, 1)
    seed = whole_number("seed", seed)
    jobs = _jobs(opened.env.tasks, episodes, samples, seed)
    return Plan(jobs, _settings(opened, policy, len(jobs), samples, seed))


def read_shard(shard: Any) -> Shard:
    """Number and count of a shard, from ``(0, 4)`` or ``"0/4"``.

    Raises:
        BadInputError: it is something else, or the number is not below the count.
    """
    parts: Any = shard
    if isinstance(shard, str):
        parts = [int(part) for part in shard.split("/")] if _SHARD.fullmatch(shard) else ()
    if not isinstance(parts, list | tuple) or len(parts) != 2:
        raise BadInputError(f"a shard is its number and how many there are: '0/4', not {shard!r}")
    index, count = (whole_number("a shard", part) for part in parts)
    if index >= count:
        raise BadInputError(
            f"shard {index} of {count} does not exist: shards are counted from 0 to {count - 1}"
            if count
            else "a plan has at least one shard, not 0"
        )
    return index, count


_SHARD = re.compile(r"\d{1,9}/\d{1,9}", re.ASCII)


def _jobs(tasks: TaskSet, episodes: int | None, samples: int, seed: int) -> Jobs:
    possible = len(tasks) * samples
    count = possible if episodes is None else whole_number("episodes", episodes)
    if not 1 <= count <= possible:
        raise BadInputError(
            f"episodes must be from 1 to {possible} ({len(tasks)} tasks of {tasks.source!r} x "
            f"{samples} samples), not {count}; raise samples_per_task for more"
        )
    order = array("q", range(len(tasks)))
    random.Random(seed).shuffle(order)
    return Jobs(tasks, order, samples, seed, range(count))


def _settings(
    opened: Opened, policy: Policy, episodes: int, samples: int, seed: int
) -> dict[str, Any]:
    env = opened.env
    return {
        "schema": 1,
        "env": opened.told,
        "task_source": env.tasks.source,
        "task_family": env.tasks.name,
        "policy": policy.describe(),
        "episodes": episodes,
        "samples_per_task": samples,
        "seed": seed,
        "hashes": hashes_of(opened, policy),
        "versions": installed_versions(),
    }


def hashes_of(opened: Opened, policy: Policy) -> dict[str, str]:
    """Hashes of all that an environment and a policy read, by name: equal on every machine."""
    env = opened.env
    hashes = {
        "tasks": env.tasks.fingerprint(),
        "tools": value_hash(env.toolset.schemas()),
        "tokenizer": policy.tokenizer_hash,
    }
    if env.examples:
        hashes["examples"] = value_hash([example.describe() for example in env.examples])
    return hashes | {tool.name: tool.fingerprint for tool in env.toolset if tool.fingerprint}
