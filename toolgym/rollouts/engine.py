"""Rollout: a policy plays episodes, concurrently and resumably, and every one is recorded."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import platform
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym

from toolgym._util.jsonl import value_hash
from toolgym.env import ToolEnv
from toolgym.errors import BadInputError, EndpointError, PolicyError, UnknownNameError
from toolgym.policies.base import Policy, PolicyFunction, Reply, ReplyTokens, Request, make_policy
from toolgym.rollouts.runs import Run, RunWriter
from toolgym.task import TaskSet
from toolgym.trajectory import Tokens, Trajectory
from toolgym.vector import Stepped, step_together

__all__ = ["Run", "rollout"]

Progress = Callable[[int, int], None]
"""Called with finished and planned episodes."""


@dataclass(frozen=True, slots=True)
class _Job:
    task: int
    sample: int
    key: str
    seed: int


@dataclass(slots=True)
class _Episode:
    """One running episode: the environment and what the policy has said in tokens."""

    env: ToolEnv
    job: _Job
    info: dict[str, Any]
    turns: list[ReplyTokens | None] = field(default_factory=list)

    def request(self) -> Request:
        turn = len(self.turns)
        return Request(
            messages=self.info["messages"],
            tools=self.info["tools"],
            format=self.env.format,
            seed=_seed(self.job.seed, turn),
            episode=self.job.key,
            turn=turn,
        )

    def played(self, reply: Reply, stepped: Stepped) -> None:
        self.turns.append(reply.tokens)
        self.info = stepped[-1]

    def record(self, tokenizer: str) -> Trajectory:
        trajectory = self.env.trajectory
        trajectory.tokens = join_tokens(self.turns, tokenizer)
        return trajectory


def rollout(
    env: str,
    policy: Policy | PolicyFunction | str,
    *,
    env_args: Mapping[str, Any] | None = None,
    episodes: int | None = None,
    samples_per_task: int = 1,
    seed: int = 0,
    out: str | Path | None = None,
    concurrency: int | None = None,
    max_failures: int = 20,
    progress: Progress | None = None,
) -> Run:
    """Play episodes and record them.

    Tasks are taken in an order drawn by ``seed``; every sample has its own seed. A run folder
    that exists is resumed: finished episodes are neither lost nor played again, failed ones
    are retried.

    Args:
        env: an environment id.
        policy: a callable ``(messages, tools) -> text``, a `Policy`, or the name of one.
        env_args: the environment's keyword arguments.
        episodes: how many in all; default: each task ``samples_per_task`` times.
        samples_per_task: rollouts of each task (a group).
        seed: fixes the order of tasks and all sampling.
        out: the run folder; None keeps the run in memory.
        concurrency: episodes that run at once; default: 128 for policies that answer in batches,
            else 16.
        max_failures: after so many infrastructure failures in a row the run stops.
        progress: called after each episode.

    Returns:
        The run. Its failures are in `Run.failures`, never among the trajectories.

    Raises:
        UnknownNameError: an unknown environment, policy, tool, format or reward.
        BadInputError: counts that do not fit the tasks.
        RunMismatchError: the folder was begun with other settings.
        PolicyError: too many failures in a row; what was finished is kept.
    """
    probe = make_env(env, env_args)
    player = make_policy(policy)
    wanted = concurrency if concurrency is not None else (128 if player.batched else 16)
    if wanted < 1:
        raise BadInputError(f"concurrency must be at least 1, not {wanted}")
    jobs = _plan(probe.tasks, episodes, samples_per_task, seed)
    settings = _settings(env, env_args, probe, player, len(jobs), samples_per_task, seed)
    run = Run(settings, Path(out) if out is not None else None)
    writer = RunWriter(run)
    try:
        open_jobs = deque(job for job in jobs if job.key not in writer.finished)
        engine = _Engine(writer, player, max_failures, len(jobs), progress)
        width = max(1, min(wanted, len(open_jobs)))
        if open_jobs:
            (engine.batched if player.batched else engine.threaded)(probe, open_jobs, width)
    finally:
        writer.close()
        if player is not policy:
            player.close()
    return run


def make_env(env: str, env_args: Mapping[str, Any] | None = None) -> ToolEnv:
    """``gym.make`` for our environments, unwrapped, with near names when the id is unknown.

    Raises:
        UnknownNameError: no environment has that id.
        BadInputError: an argument that cannot be used, or an environment that is no `ToolEnv`.
    """
    name = env.rpartition(":")[2]
    if name not in gym.registry and ":" not in env:
        raise UnknownNameError("environment", env, environment_ids())
    made = gym.make(env, disable_env_checker=True, **dict(env_args or {})).unwrapped
    if not isinstance(made, ToolEnv):
        raise BadInputError(f"environment {env!r} is a {type(made).__name__}, not a ToolEnv")
    return made


def environment_ids() -> list[str]:
    """The registered ids of toolgym's own environments."""
    return [i for i, spec in gym.registry.items() if "toolgym" in str(spec.entry_point)]


class _Engine:
    """Plays jobs; knows nothing of planning or of folders."""

    def __init__(
        self,
        writer: RunWriter,
        policy: Policy,
        max_failures: int,
        planned: int,
        progress: Progress | None,
    ) -> None:
        self.writer, self.policy, self.max_failures = writer, policy, max_failures
        self.planned, self.progress = planned, progress
        self._in_a_row = 0
        self._lock = threading.Lock()

    def batched(self, probe: ToolEnv, jobs: deque[_Job], width: int) -> None:
        """One policy call a turn for all running episodes; finished ones make place."""
        idle = [probe.clone() for _ in range(width)]
        running: list[_Episode] = []
        while jobs or running:
            while idle and jobs:
                running.append(_start(idle.pop(), jobs.popleft()))
            replies = self.policy.act([episode.request() for episode in running])
            playing: list[tuple[_Episode, Reply]] = []
            for episode, reply in zip(running, replies, strict=True):
                if isinstance(reply, Reply):
                    playing.append((episode, reply))
                else:
                    self._failed(episode, reply)
                    idle.append(episode.env)
            stepped = step_together([e.env for e, _ in playing], [r.text for _, r in playing])
            running = []
            for (episode, reply), outcome in zip(playing, stepped, strict=True):
                if isinstance(outcome, Exception):
                    raise outcome
                episode.played(reply, outcome)
                if episode.env.ended:
                    self._finished(episode)
                    idle.append(episode.env)
                else:
                    running.append(episode)

    def threaded(self, probe: ToolEnv, jobs: deque[_Job], width: int) -> None:
        """Each thread plays one episode after the other; one thread is this one."""
        stop = threading.Event()
        if width == 1:
            self._play_all(probe.clone(), jobs, stop)
            return
        with ThreadPoolExecutor(width, thread_name_prefix="toolgym-episode") as pool:
            try:  # also Ctrl-C while the threads are being started must stop those that run
                futures = [
                    pool.submit(self._play_all, probe.clone(), jobs, stop) for _ in range(width)
                ]
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
            for future in futures:
                future.result()

    def _play_all(self, env: ToolEnv, jobs: deque[_Job], stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                job = jobs.popleft()
            except IndexError:
                return
            episode = _start(env, job)
            while not env.ended and not stop.is_set():
                reply = self.policy.act([episode.request()])[0]
                if not isinstance(reply, Reply):
                    self._failed(episode, reply)
                    break
                episode.played(reply, env.step(reply.text))
            if env.ended:
                self._finished(episode)

    def _finished(self, episode: _Episode) -> None:
        record = episode.record(self.policy.tokenizer_hash)
        self.policy.forget(episode.job.key)
        with self._lock:
            self._in_a_row = 0
            self.writer.add(record)
            if self.progress is not None:
                self.progress(len(self.writer.finished), self.planned)

    def _failed(self, episode: _Episode, error: Exception) -> None:
        self.policy.forget(episode.job.key)
        if isinstance(error, EndpointError):
            kind = error.kind
        else:  # what the policy itself raised, when it was a callable
            kind = type(error.__cause__ or error).__name__
        row = {"id": episode.job.key, "boundary": "policy", "kind": kind, "message": str(error)}
        with self._lock:
            self.writer.fail(row | {"turn": len(episode.turns)})
            self._in_a_row += 1
            if self._in_a_row >= self.max_failures:
                where = self.writer.run.path
                kept = f"{len(self.writer.finished)} finished episodes are kept"
                raise PolicyError(
                    f"{self._in_a_row} episodes in a row failed, the last one with: {error}; {kept}"
                    + (f" in {str(where)!r}; run the same again to go on" if where else "")
                ) from error


def _start(env: ToolEnv, job: _Job) -> _Episode:
    _, info = env.reset(seed=job.seed, options={"task": job.task, "sample": job.sample})
    return _Episode(env, job, info)


def _plan(tasks: TaskSet, episodes: int | None, samples: int, seed: int) -> list[_Job]:
    if samples < 1:
        raise BadInputError(f"samples_per_task must be at least 1, not {samples}")
    possible = len(tasks) * samples
    count = possible if episodes is None else episodes
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
        jobs.append(_Job(task, sample, key, _seed(seed, key)))
    return jobs


def _seed(*parts: object) -> int:
    """31 bits from a hash: the same on every machine, whatever ran before."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def join_tokens(turns: Sequence[ReplyTokens | None], tokenizer: str) -> Tokens | None:
    """An episode's tokens from those of its turns.

    Args:
        turns: one a turn; each prompt must begin with all that stood before it.
        tokenizer: hash of the tokenizer.

    Returns:
        None when a turn has no tokens, or re-rendered what had been said: then nobody can claim
        that these were the tokens, and training has to tokenise again.
    """
    first = turns[0] if turns else None
    if first is None:
        return None
    prompt = list(first.prompt_ids)
    completion: list[int] = []
    mask: list[int] = []
    logprobs: list[float] = []
    for turn in turns:
        if turn is None:
            return None
        so_far = len(prompt) + len(completion)
        if turn.prompt_ids[:so_far] != prompt + completion:
            return None
        between = turn.prompt_ids[so_far:]
        completion += [*between, *turn.completion_ids]
        mask += [0] * len(between) + [1] * len(turn.completion_ids)
        logprobs += [0.0] * len(between) + list(turn.logprobs or ())
    known = all(turn is not None and turn.logprobs is not None for turn in turns)
    return Tokens(prompt, completion, mask, logprobs if known else None, tokenizer)


def _settings(
    env_id: str,
    env_args: Mapping[str, Any] | None,
    env: ToolEnv,
    policy: Policy,
    episodes: int,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    hashes = {
        "tasks": env.tasks.fingerprint(),
        "tools": value_hash(env.toolset.schemas()),
        "tokenizer": policy.tokenizer_hash,
    }
    texts = {tool.name: tool.fingerprint for tool in env.toolset if tool.fingerprint}
    return {
        "schema": 1,
        "env": {"id": env_id, "args": dict(env_args or {})},
        "task_source": env.tasks.source,
        "task_family": env.tasks.name,
        "policy": policy.describe(),
        "episodes": episodes,
        "samples_per_task": samples,
        "seed": seed,
        "hashes": hashes | texts,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """What a run may depend on, as installed."""
    names = ("toolgym", "gymnasium", "numpy", "bm25s", "torch", "transformers", "trl", "openai")
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
