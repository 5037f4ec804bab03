"""Rollout: a policy plays episodes, concurrently and resumably, and every one is recorded."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym

from toolgym._util.jsonl import exact_line
from toolgym._util.progress import shown
from toolgym.errors import (
    BadInputError,
    CheckError,
    EndpointError,
    MissingExtraError,
    MissingFileError,
    PolicyError,
    ReplayMissError,
    in_words,
)
from toolgym.executors import Executor
from toolgym.policies.base import Lockstep, Policy, PolicyFunction, Reply, Stream, make_policy
from toolgym.policies.requests import sampled
from toolgym.rollouts import playing
from toolgym.rollouts.asking import Asking
from toolgym.rollouts.deciding import Deciding
from toolgym.rollouts.plan import Job, Queue, Shard, make_plan
from toolgym.rollouts.playing import Episode, Opened, open_env
from toolgym.rollouts.remote import Outcome, play_elsewhere
from toolgym.rollouts.runs import Run
from toolgym.rollouts.writing import RunWriter
from toolgym.sequential.until import Until
from toolgym.task import whole_number
from toolgym.trajectory import Documents
from toolgym.vector import Stepped, step_together

__all__ = ["Run", "rollout"]

Progress = Callable[[int, int], None] | bool
"""Called with finished and planned episodes; False: nobody is told."""

Pulse = Callable[[int, int], None]
"""Called with the turns that were answered and the tokens that were sampled by now."""


def rollout(
    env: str | gym.Env[Any, Any],
    policy: Policy | PolicyFunction | str,
    *,
    env_args: Mapping[str, Any] | None = None,
    policy_args: Mapping[str, Any] | None = None,
    episodes: int | None = None,
    samples_per_task: int = 1,
    seed: int = 0,
    until: Until | str | None = None,
    out: str | Path | None = None,
    shard: Shard | str | None = None,
    same_as: str | Path | Mapping[str, Any] | None = None,
    executor: Executor | None = None,
    concurrency: int | None = None,
    max_failures: int = 20,
    compress: bool | None = None,
    progress: Progress | None = None,
    pulse: Pulse | None = None,
) -> Run:
    """Play episodes and record them.

    Tasks are taken in an order drawn by ``seed``; every sample has its own seed. A run folder
    that exists is resumed: finished episodes are neither lost nor played again, failed ones
    are retried.

    Args:
        env: an environment id, or an environment, which is copied for each episode. What is wrapped
            around it is played and recorded, too, or refused; see `toolgym.rollouts.playing`.
        policy: a callable ``(messages, tools) -> text``, a `Policy`, or the name of one.
        env_args: the environment's keyword arguments, for an id.
        policy_args: keyword arguments of a policy that is named.
        episodes: how many in all; default: each task ``samples_per_task`` times.
        samples_per_task: rollouts of each task (a group).
        seed: fixes the order of tasks and all sampling.
        until: stop as soon as a figure is known so well, such as ``accuracy +- 2`` (percentage
            points); ``episodes`` is then the most that are played. See `toolgym.sequential`.
        out: the run folder; None keeps the run in memory. What was played to its end stands there
            in the plan's order: the same bytes however it was played, but for `Step.seconds`.
        shard: play this part of the plan alone, such as ``(0, 4)``; `toolgym.merge` joins them.
        same_as: a run folder, ``run.json`` or `Plan.settings` of another machine: where a setting
            or the hash of a file differs, nothing is played.
        executor: plays the episodes in other processes or on other machines: one of
            `concurrent.futures`, a `toolgym.executors.RayExecutor`, or any with ``submit()``.
            Objects are sent there pickled; each process compares its files by hash first.
        concurrency: episodes that run at once, of an executor in each process; default:
            128 for policies that answer in batches (32 for a local model on a CPU), else 16.
        max_failures: after so many infrastructure failures in a row the run stops.
        compress: record with zstd (``trajectories.jsonl.zst``); None: as the folder is.
        progress: called after each episode. None: a bar, in a terminal or a notebook; False: none.
        pulse: called with turns and tokens so far (0 where a policy does not count them), after
            each turn and about every second of a long one with a local model.

    Returns:
        The run. Its failures are in `Run.failures`, never among the trajectories.

    Raises:
        UnknownNameError: an unknown environment, policy, tool, format or reward.
        BadInputError: counts that do not fit the tasks, an argument or a policy that cannot be
            used, or a wrapper that cannot be played.
        RunMismatchError: the folder was begun with other settings, or ``same_as`` has others.
        PolicyError: too many failures in a row, or a server is lost; what was finished is kept.
    """
    opened = open_env(env, env_args)
    player = make_policy(policy, **policy_args or {})
    wanted = player.concurrency if concurrency is None else concurrency
    wanted = whole_number("concurrency", wanted, 1)
    max_failures = whole_number("max_failures", max_failures, 1)
    if out == "" or not isinstance(out, str | Path | None):
        raise BadInputError(f"out is the path of a run folder, or None, not {out!r:.80}")
    made = make_plan(opened, player, episodes, samples_per_task, seed).shard(shard)
    if same_as is not None:
        made.check(same_as)
    wish = None if until is None else Until.parse(until)
    if wish is not None and shard is not None:
        raise BadInputError("a shard cannot know when the whole run is decided: leave out `until`")
    told = made.settings | ({"until": wish.describe()} if wish else {})
    run = Run(told, Path(out) if out is not None else None)
    writer = RunWriter(run, compress)
    try:
        if shard is not None:
            writer.keep_plan((job.key for job in made.jobs), len(made.jobs))
        open_jobs = Queue(made.jobs, writer.before)
        bar = shown(progress, "episodes")
        engine = _Engine(writer, player, max_failures, len(made.jobs), bar, pulse)
        if wish is not None:
            engine.deciding = Deciding(wish, made.jobs, open_jobs, samples_per_task, run)
        width = max(1, min(wanted, len(open_jobs)))
        if open_jobs and executor is not None:
            sent = {"play": _play_chunk, "width": width, "env": env, "env_args": env_args}
            sent |= {"policy": policy, "policy_args": policy_args or {}}
            hashes = made.settings["hashes"]
            play_elsewhere(executor, sent, hashes, open_jobs, engine.take, wish is not None)
        elif open_jobs:
            engine.play(opened, open_jobs, width)
        decided = engine.deciding.decided if engine.deciding is not None else None
        writer.settle(made.jobs.ranks(), decided)
    finally:
        writer.close()
        if player is not policy:
            player.close()
    return run


class _Engine:
    """Plays jobs; knows nothing of planning or of folders."""

    def __init__(
        self,
        writer: RunWriter,
        policy: Policy,
        max_failures: int,
        planned: int,
        progress: Callable[[int, int], None] | None,
        pulse: Pulse | None,
    ) -> None:
        self.writer, self.policy, self.max_failures = writer, policy, max_failures
        self.planned, self.progress, self.pulse = planned, progress, pulse
        self._in_a_row = self._turns = self._tokens = 0
        self.deciding: Deciding | None = None
        self._lock = threading.RLock()

    def play(self, opened: Opened, jobs: Queue, width: int) -> None:
        """Play all jobs in this process."""
        if self.policy.batched:
            self.batched(opened, jobs, width)
        elif self.policy.sends:
            Asking(self.policy, partial(self._started, opened), self._answered).play(jobs, width)
        else:
            self.threaded(opened, jobs, width)

    def take(self, outcome: Outcome) -> None:
        """Record what was played elsewhere."""
        self.writer.add_lines(outcome.lines, outcome.tools)
        for row in outcome.failures:
            self.writer.fail(row)
        self._beat(outcome.turns, outcome.tokens)
        self._in_a_row = 0 if outcome.lines else self._in_a_row + len(outcome.failures)
        if self.progress is not None and outcome.lines:
            self.progress(self.writer.finished, self.planned)
        if self.deciding is not None:
            self.deciding.take_outcome(outcome)
        if self._in_a_row >= self.max_failures:
            last = outcome.failures[-1]
            self._give_up(PolicyError(last["message"]), last["boundary"])

    def batched(self, opened: Opened, jobs: Queue, width: int) -> None:
        """One stream for all running episodes; others begin where some have ended."""
        running: dict[Hashable, Episode] = {}
        asking: list[Episode] = []
        stream: Stream | None = None
        while jobs or running:
            while jobs and len(running) < width:
                episode = self._started(opened, jobs.popleft())
                if episode is not None:
                    running[episode.job.key] = episode
                    asking.append(episode)
            if not running:
                continue
            before = 0 if stream is None else stream.written
            try:
                stream = stream or self.policy.stream()
                replies = self._advanced(stream, asking)
                if not replies.keys() <= running.keys():
                    raise PolicyError("the policy's stream answers what nobody has asked")
                written = stream.written - before
            except Exception as error:  # a policy may be the user's own
                replies, stream, written = dict.fromkeys(running, error), None, 0
            self._beat(len(replies), written)
            asking = self._stepped([(running.pop(key), reply) for key, reply in replies.items()])
            running |= {episode.job.key: episode for episode in asking}

    def _advanced(
        self, stream: Stream, asking: Sequence[Episode]
    ) -> Mapping[Hashable, Reply | Exception]:
        """What a stream has answered by now, once these episodes have asked, too."""
        if asking:
            stream.begin({episode.job.key: episode.request() for episode in asking})
        return {key: playing.checked_reply(reply) for key, reply in stream.advance().items()}

    def _stepped(self, answered: Sequence[tuple[Episode, Reply | Exception]]) -> list[Episode]:
        """Step the environments of what was answered; returns the episodes that go on."""
        going = []
        for episode, reply in answered:
            if isinstance(reply, Reply):
                going.append((episode, reply))
            else:
                self._failed(episode, reply)
        outer = [episode.playing.outer for episode, _ in going]
        stepped = step_together(outer, [reply.turn for _, reply in going])
        return [
            episode
            for (episode, reply), outcome in zip(going, stepped, strict=True)
            if self._played(episode, reply, outcome)
        ]

    def threaded(self, opened: Opened, jobs: Queue, width: int) -> None:
        """Each thread plays one episode after the other; one thread is this one."""
        stop = threading.Event()
        if width == 1:
            self._play_all(opened, jobs, stop)
            return
        with ThreadPoolExecutor(width, thread_name_prefix="toolgym-episode") as pool:
            try:  # also Ctrl-C while the threads are being started must stop those that run
                futures = [pool.submit(self._play_all, opened, jobs, stop) for _ in range(width)]
                wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:  # nobody may wait on for a server that is away
                stop.set()
                self.policy.cancel()
                raise
            stop.set()
            for future in futures:
                future.result()

    def _play_all(self, opened: Opened, jobs: Queue, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                job = jobs.popleft()
            except IndexError:
                return
            episode = self._started(opened, job)
            while episode is not None and not stop.is_set():
                reply: Reply | Exception
                stream = Lockstep(self.policy.act)
                try:
                    (reply,) = self._advanced(stream, [episode]).values()
                except Exception as error:  # a policy may be the user's own
                    reply = error
                if stop.is_set() and isinstance(reply, Exception):
                    return  # it was given up
                self._beat(1, stream.written)
                if not self._stepped([(episode, reply)]):
                    break

    def _answered(self, episode: Episode, reply: Reply | Exception) -> bool:
        """Take in the reply to one episode; says whether it goes on."""
        reply = playing.checked_reply(reply)
        self._beat(1, sampled(reply))
        return bool(self._stepped([(episode, reply)]))

    def _started(self, opened: Opened, job: Job) -> Episode | None:
        """The job's episode, or None where it failed at once."""
        episode = Episode(opened.play(), job, {})
        try:
            episode.info = episode.playing.reset(job.task, job.sample, job.seed)
        except playing.RefusedWrapperError:
            raise
        except Exception as error:  # also what a user's codec or task raises
            self._failed(episode, error, "environment")
            return None
        return episode

    def _beat(self, turns: int, tokens: int) -> None:
        """Count replies and tokens, and tell of them."""
        with self._lock:
            self._turns, self._tokens = self._turns + turns, self._tokens + tokens
            if self.pulse is not None:
                self.pulse(self._turns, self._tokens)

    def _played(self, episode: Episode, reply: Reply, outcome: Stepped | Exception) -> bool:
        """Take in a step; says whether the episode goes on."""
        if isinstance(outcome, Exception):
            self._failed(episode, outcome, "environment")
            return False
        turn = len(episode.turns)
        episode.info, unchanged = episode.playing.take(outcome, turn, reply.turn)
        # The tokens of a reply that a wrapper has changed are not those of what was played.
        episode.turns.append(reply.tokens if unchanged else None)
        if episode.playing.env.ended:
            self._finished(episode)
        return not episode.playing.env.ended

    def _finished(self, episode: Episode) -> None:
        try:
            record = episode.record(self.policy.tokenizer_hash)
        except Exception as error:  # what JSON cannot hold, wherever it came from
            self._failed(episode, error, "record")
            return
        with self._lock:  # so that each count is told once, and in order
            try:
                self.writer.add(record)
            except OSError:  # the disk is full: no other episode can be recorded either
                raise
            except Exception as error:
                self._failed(episode, error, "record")
                return
            self._in_a_row = 0
            if self.progress is not None:
                self.progress(self.writer.finished, self.planned)
            if self.deciding is not None:
                self.deciding.take(record)
        self._forget(episode)

    def _failed(self, episode: Episode, error: Exception, boundary: str = "policy") -> None:
        if isinstance(error, _OF_THE_RUN) or getattr(error, "kind", "") == "ended":
            raise error
        self._forget(episode)
        # What the policy itself raised, when it was a callable.
        kind = type((boundary == "policy" and error.__cause__) or error).__name__
        kind = error.kind if isinstance(error, EndpointError) else kind
        row: dict[str, Any] = {"id": episode.job.key, "boundary": boundary, "kind": kind}
        row |= {"message": in_words(error), "turn": len(episode.turns)}
        with self._lock:
            self.writer.fail(row)
            if self.deciding is not None:
                self.deciding.fail(episode.job.key)
            self._in_a_row += 1
            if self._in_a_row >= self.max_failures:
                self._give_up(error, boundary)

    def _forget(self, episode: Episode) -> None:
        try:
            self.policy.forget(episode.job.key)
        except Exception as error:  # the episode itself is none the worse for it
            said = f"the policy's forget() raised {type(error).__name__}: {in_words(error)}"
            warnings.warn(said, RuntimeWarning, stacklevel=2)

    def _give_up(self, error: Exception, boundary: str) -> None:
        where = self.writer.run.path
        raised = PolicyError if boundary == "policy" else CheckError
        raise raised(
            f"{self._in_a_row} episodes in a row failed, the last one with: {in_words(error)}; "
            f"{self.writer.finished} finished episodes are kept"
            + (f" in {str(where)!r}; run the same again to go on" if where else "")
        ) from error


def _play_chunk(
    opened: Opened, policy: Policy, alone: threading.Lock, width: int, jobs: Sequence[Job]
) -> Outcome:
    """Play some jobs in this process for a rollout in another one; what fails is a row."""
    engine = _Engine(RunWriter(run := Run({})), policy, len(jobs) + 1, len(jobs), None, None)
    with alone if policy.batched else nullcontext():
        engine.play(opened, Queue(jobs), max(1, min(width, len(jobs))))
    lines, tools = list[str](), dict[str, str]()
    for trajectory in run:
        name = Documents.name_of(Documents.text_of(trajectory.tools))
        lines.append(trajectory.to_line(name))
        tools[name] = tools.get(name) or exact_line({"id": name, "tools": trajectory.tools})
    keys = [job.key for job in jobs]
    return Outcome(keys, lines, tools, run.failures(), engine._turns, engine._tokens)


# What no other episode can survive either: the user has to do something first.
_OF_THE_RUN = (ReplayMissError, MissingExtraError, MissingFileError)
