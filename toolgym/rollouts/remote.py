"""Episodes played elsewhere: by an executor in the shape of `concurrent.futures`, such as Ray's."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, Protocol

import cloudpickle

from toolgym._util.optional import require_extra
from toolgym._util.workfolder import same_settings
from toolgym.errors import BadInputError, CheckError
from toolgym.policies.base import Policy, make_policy
from toolgym.rollouts.plan import Job, Queue, hashes_of
from toolgym.rollouts.playing import Opened, open_env

__all__ = ["Executor", "Outcome", "RayExecutor", "opened_here", "package", "play_elsewhere"]

_AHEAD = 128  # chunks that were handed over and not yet taken in
_RETRIES = 16  # of one chunk whose worker died; one that kills every worker must not go on for ever
_PIECES = 64  # at least so many chunks, where there are jobs enough: there may be as many workers


class Executor(Protocol):
    """What plays elsewhere: those of `concurrent.futures`, `RayExecutor`, and their like."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Call a function somewhere; it and its arguments can be pickled."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a chunk of jobs.

    Args:
        lines: one for each finished episode.
        tools: the documents that those refer to, as lines by name.
        failures: one for each failed one.
        turns: that were answered.
        tokens: that were sampled.
    """

    lines: list[str]
    tools: dict[str, str]
    failures: list[dict[str, Any]]
    turns: int
    tokens: int


def package(env: Any, env_args: Any, policy: Any, policy_args: Any, hashes: Any) -> bytes:
    """What another process needs to play the same.

    Args:
        env: see `toolgym.rollout`.
        env_args: see `toolgym.rollout`.
        policy: see `toolgym.rollout`.
        policy_args: see `toolgym.rollout`.
        hashes: of all that is read; the other process compares its own before it plays.

    Raises:
        BadInputError: an environment or a policy that cannot be pickled.
    """
    for what, value in (("environment", env), ("policy", policy)):
        try:
            cloudpickle.dumps(value)
        except Exception as error:  # whatever it holds
            raise BadInputError(
                f"{what} {value!r:.80} cannot be sent to other processes ({error}); give its name "
                "and arguments"
            ) from error
    here = os.getcwd() if isinstance(policy, str) and ":" in policy else None
    return bytes(cloudpickle.dumps((env, env_args, policy, policy_args, hashes, here)))


_opening = threading.Lock()
_opened: dict[str, tuple[Opened, Policy, threading.Lock]] = {}


def opened_here(sent: bytes) -> tuple[Opened, Policy, threading.Lock]:
    """What `package` says, opened once in this process.

    Args:
        sent: from `package`.

    Returns:
        Environment, policy, and what only one caller at a time holds.

    Raises:
        RunMismatchError: a file here has another hash.
    """
    name = sha256(sent).hexdigest()
    with _opening:
        if name not in _opened:
            env, env_args, policy, policy_args, hashes, folder = cloudpickle.loads(sent)
            if folder is not None and folder not in sys.path:
                sys.path.insert(0, folder)
            opened, player = open_env(env, env_args), make_policy(policy, **policy_args or {})
            same_settings(
                f"the run that {os.uname().nodename!r} is to play for",
                {"hashes": hashes},
                {"hashes": hashes_of(opened, player)},
                then="give that machine the same files",
            )
            for _, other, _ in _opened.values():  # one at a time: it may be a large model
                other.close()
            _opened.clear()
            _opened[name] = opened, player, threading.Lock()
        return _opened[name]


def play_elsewhere(
    executor: Executor,
    play: Callable[[Sequence[Job]], Outcome],
    jobs: Queue,
    width: int,
    take: Callable[[Outcome], None],
) -> None:
    """Hand jobs to an executor in chunks, and take in what comes of them.

    Args:
        executor: plays them.
        play: plays a chunk; it can be pickled.
        jobs: are taken out of it.
        width: episodes that run at once in one process.
        take: called with each outcome, in the order in which they come.

    Raises:
        CheckError: the executor has lost its workers and does not replace them.
    """
    size = max(1, min(4 * width, len(jobs) // _PIECES))
    waiting: dict[Future[Outcome], list[Job]] = {}
    try:
        while jobs or waiting:
            while jobs and len(waiting) < _AHEAD:
                chunk = [jobs.popleft() for _ in range(min(size, len(jobs)))]
                waiting[executor.submit(play, chunk)] = chunk
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                _check_own(outcome := future.result(), waiting.pop(future))
                take(outcome)
    except BrokenExecutor as error:
        raise CheckError(
            f"the workers of {type(executor).__name__} have died ({error}): what was finished is "
            "kept; run the same again to go on"
        ) from error
    finally:
        for future in waiting:
            future.cancel()


def _check_own(outcome: Outcome, chunk: Iterable[Job]) -> None:
    if len(outcome.lines) + len(outcome.failures) != len(list(chunk)):
        raise CheckError("an executor gave back other episodes than it was given: a bug of it")


class RayExecutor:
    """Calls functions on a Ray cluster; calls whose worker dies are made again, by Ray.

    Args:
        address: of the cluster; ``auto``: the one that this machine belongs to, or of the
            environment variable ``RAY_ADDRESS``; ``local``: start one on this machine.
        options: of each call, such as ``{"num_cpus": 1, "num_gpus": 1}``, see ``ray.remote``.

    Raises:
        MissingExtraError: ray is not installed.
        BadInputError: there is no cluster.
    """

    def __init__(self, address: str = "auto", **options: Any) -> None:
        self._ray = require_extra("ray", "ray")
        self._options = {"max_retries": _RETRIES, "num_cpus": 1} | options
        self._calls: dict[Any, Any] = {}
        self._sent: dict[int, tuple[Any, Any]] = {}
        self._own = not self._ray.is_initialized()
        if self._own:
            try:
                self._ray.init(address, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, ValueError) as error:
                raise BadInputError(
                    f"no Ray cluster at {address!r} ({str(error).splitlines()[0]}): start one with "
                    "`ray start --head`, or name address 'local'"
                ) from error

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Call a function on the cluster.

        Args:
            function: what does not change from call to call is sent once where it stands in a
                `functools.partial`.
            args: of this call.
        """
        target, constant = function, tuple[Any, ...]()
        if isinstance(function, partial):
            target, constant = function.func, function.args
        if target not in self._calls:
            self._calls[target] = self._ray.remote(**self._options)(target)
        call = self._calls[target]
        refs = [self._reference(value) for value in constant]
        found: Future[Any] = Future()
        found.set_running_or_notify_cancel()
        call.remote(*refs, *args).future().add_done_callback(partial(_hand_on, found))
        return found

    def _reference(self, value: Any) -> Any:
        if id(value) not in self._sent:
            self._sent[id(value)] = value, self._ray.put(value)
        return self._sent[id(value)][1]

    def shutdown(self) -> None:
        """Leave the cluster, where this object had joined it."""
        if self._own:
            self._ray.shutdown()

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()


def _hand_on(found: Future[Any], done: Future[Any]) -> None:
    error = done.exception()
    if error is not None:
        # Ray wraps what the function raised; an error without that is of its workers.
        raised = getattr(error, "cause", None)
        found.set_exception(raised or BrokenExecutor(str(error).strip().partition("\n")[0]))
    else:
        found.set_result(done.result())
