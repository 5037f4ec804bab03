"""Executors: this thread, worker processes of this machine, a Ray cluster."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import cloudpickle

from toolgym._util.optional import require_extra
from toolgym._workers.pool import Child
from toolgym.errors import BadInputError, CheckError

__all__ = ["Here", "RayExecutor", "WorkerExecutor"]


class Here:
    """Does each job at once, in the thread that asks."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Call a function."""
        found: Future[Any] = Future()
        try:
            found.set_result(function(*args))
        except Exception as error:
            found.set_exception(error)
        return found


class WorkerExecutor:
    """Processes of this machine, each a fresh interpreter; one that dies is replaced.

    They hold nothing of this process, so that threads and models in it do no harm, and end when it
    does, however it ends. What a `functools.partial` holds travels once to each of them.

    Args:
        workers: how many; each is started when it is needed.
        seconds: that one job may take before its process is taken for broken; None: any number.

    Raises:
        BadInputError: not a whole number of at least 1.
    """

    def __init__(self, workers: int, seconds: float | None = None) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise BadInputError(f"workers must be a whole number of at least 1, not {workers!r}")
        self.workers = workers
        self._seconds, self._ended = seconds, False
        self._threads = ThreadPoolExecutor(workers, "toolgym-worker")
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all: set[_Worker] = set()
        self._sent: dict[int, tuple[Callable[..., Any], bytes]] = {}
        self._lock = threading.Lock()

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Call a function in a process.

        Args:
            function: anything that cloudpickle takes.
            args: of this call.

        Raises:
            RuntimeError: after `shutdown`.
        """
        with self._lock:
            if id(function) not in self._sent:  # held, so that no other gets its id
                self._sent[id(function)] = function, bytes(cloudpickle.dumps(function))
        return self._threads.submit(self._call, id(function), args)

    def _call(self, key: int, args: tuple[Any, ...]) -> Any:
        worker = self._taken()
        payload = None if key in worker.knows else self._sent[key][1]
        try:
            if not worker.begun:
                worker.child.send(cloudpickle.dumps((_Desk, ())))
                worker.begun = True
            worker.child.send(cloudpickle.dumps((key, payload, args)))
            del args
            end = None if self._seconds is None else time.monotonic() + self._seconds
            reply = worker.child.receive(end)
        except BaseException as error:
            with self._lock:
                self._all.discard(worker)
            code = worker.child.kill()
            if isinstance(error, EOFError):
                raise BrokenExecutor(f"exit code {code}") from error
            if isinstance(error, TimeoutError):
                raise CheckError(
                    f"a job was ended after {self._seconds:g} seconds: what was finished is kept"
                ) from error
            raise
        result = cloudpickle.loads(reply)
        if not isinstance(result, BaseException):
            worker.knows.add(key)
        self._free.put(worker)
        if isinstance(result, BaseException):
            raise result
        return result

    def _taken(self) -> _Worker:
        with contextlib.suppress(queue.Empty):
            return self._free.get_nowait()
        with self._lock:
            if self._ended:
                raise BrokenExecutor("shut down")
            worker = _Worker()
            self._all.add(worker)
        return worker

    def shutdown(self) -> None:
        """End all processes at once; jobs in work are given up."""
        with self._lock:
            self._ended = True
            for worker in self._all:
                worker.child.end()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._all:
            worker.child.kill()
        self._all.clear()

    def __enter__(self) -> WorkerExecutor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()


class _Worker:
    """A process, and which functions it was given."""

    def __init__(self) -> None:
        self.child, self.knows, self.begun = Child("child"), set[int](), False


class _Desk:
    """In a worker process: the functions that it was given."""

    def __init__(self) -> None:
        self._functions: dict[int, Callable[..., Any]] = {}

    def __call__(self, key: int, payload: bytes | None, args: tuple[Any, ...]) -> Any:
        if payload is not None:
            self._functions[key] = cloudpickle.loads(payload)
        return self._functions[key](*args)


class RayExecutor:
    """Calls functions on a Ray cluster.

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
        # Calls whose worker died are made again by who has asked, for all executors alike.
        self._options = {"max_retries": 0, "num_cpus": 1} | options
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
        reference = call.remote(*refs, *args)
        reference.future().add_done_callback(partial(_hand_on, found))
        found.add_done_callback(partial(self._forget, reference))
        return found

    def _reference(self, value: Any) -> Any:
        if id(value) not in self._sent:
            self._sent[id(value)] = value, self._ray.put(value)
        return self._sent[id(value)][1]

    def _forget(self, reference: Any, found: Future[Any]) -> None:
        if found.cancelled():
            self._ray.cancel(reference)

    def shutdown(self) -> None:
        """Leave the cluster, where this object had joined it."""
        if self._own:
            self._ray.shutdown()

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()


def _hand_on(found: Future[Any], done: Future[Any]) -> None:
    if not found.set_running_or_notify_cancel():
        return
    error = done.exception()
    if error is not None:
        # Ray wraps what the function raised; an error without that is of its workers.
        raised = getattr(error, "cause", None)
        found.set_exception(raised or BrokenExecutor(str(error).strip().partition("\n")[0]))
    else:
        found.set_result(done.result())
