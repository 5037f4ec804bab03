"""The plan of a run: which episodes it has, in which order, and which of them one shard plays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym

from toolgym._util.jsonl import read_json, require_file, value_hash
from toolgym._util.optional import installed_versions
from toolgym._util.workfolder import same_settings
from toolgym.errors import BadInputError
from toolgym.policies.base import Policy, PolicyFunction, make_policy
from toolgym.rollouts.playing import Opened, open_env
from toolgym.rollouts.runs import SETTINGS, Run, episode_seed
from toolgym.rollouts.writing import RunWriter
from toolgym.task import TaskSet, whole_number

__all__ = ["Job", "Plan", "Shard", "hashes_of", "make_plan", "plan", "read_shard"]

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


@dataclass(frozen=True, slots=True)
class Plan:
    """All episodes of a run, and what ``run.json`` says of them.

    Args:
        jobs: in the order of the plan, which is the order of a finished run's file.
        settings: environment, policy, sampling, seeds, versions, and hashes of all that is read.
    """

    jobs: tuple[Job, ...]
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
            same_settings("the other plan", same_as, self.settings, free=("shard", "versions"))
            return
        path = Path(same_as)
        path = require_file(path / SETTINGS if path.is_dir() else path, "plan")
        then = "give this machine the same files and arguments"
        free = ("shard", "versions")
        same_settings(path, read_json(path), self.settings, free=free, then=then)

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


def _jobs(tasks: TaskSet, episodes: int | None, samples: int, seed: int) -> tuple[Job, ...]:
    possible = len(tasks) * samples
    count = possible if episodes is None else whole_number("episodes", episodes)
    if not 1 <= count <= possible:
        raise BadInputError(
            f"episodes must be from 1 to {possible} ({len(tasks)} tasks of {tasks.source!r} x "
            f"{samples} samples), not {count}; raise samples_per_task for more"
        )
    order = [tasks.index_of(task.id) for task in tasks.shuffled(seed)]
    jobs = []
    for number in range(count):
        task, sample = order[number // samples], number % samples
        key = f"{tasks[task].id}#{sample}"
        jobs.append(Job(task, sample, key, episode_seed(seed, key)))
    return tuple(jobs)


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
