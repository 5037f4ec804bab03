"""Where scenarios are made: here, in threads, or in worker processes."""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle

from toolgym._workers.process import Child
from toolgym.envs.toolscenario.compiler.pipeline import Maker, Outcome
from toolgym.envs.toolscenario.compiler.stages import Author
from toolgym.envs.toolscenario.records import Question
from toolgym.errors import BadInputError, ToolgymError

__all__ = ["Make", "default_workers", "working"]

Make = Callable[[Question, tuple[str, Mapping[str, Any]] | None], "Future[Outcome]"]
"""Begins to make a scenario."""

_CHILD = Path(__file__).with_name("_build_child.py")
_SECONDS = 3600.0  # that one scenario may take before its process is taken for broken


def default_workers(author: Author) -> int:
    """How many workers suit an author: its own ``concurrency``, or one for each core."""
    if getattr(author, "threads", False):
        return int(getattr(author, "concurrency", 8))
    return os.cpu_count() or 1


@contextmanager
def working(maker: Maker, workers: int) -> Iterator[Make]:
    """Workers for the time of a build.

    A program's stages run in processes of their own. An author whose attribute ``threads`` is true
    waits for a server most of the time, and gets threads.

    Args:
        maker: runs the stages.
        workers: at least 1; 1 works in this thread.

    Yields:
        A function that begins to make a scenario.
    """
    if workers == 1:
        try:
            yield lambda question, known: _here(maker, question, known)
        finally:
            _stop(maker)
        return
    threads = bool(getattr(maker.author, "threads", False))
    children = None if threads else _Children(maker, workers)
    make = maker.make if children is None else children.make
    pool = ThreadPoolExecutor(workers, "toolgym-scenario")
    try:
        yield lambda question, known: pool.submit(make, question, known)
    finally:  # after an error or Ctrl-C nothing new is begun
        if children is not None:
            children.close()
        _stop(maker)
        # Nobody waits here for a server's last replies; those that come are the author's to keep.
        pool.shutdown(wait=not threads, cancel_futures=True)
        if children is not None:
            children.release()


def _stop(maker: Maker) -> None:
    """An author with a method ``stop`` gives up what it waits for: nobody wants it now."""
    stop = getattr(maker.author, "stop", None)
    if callable(stop):
        stop()


def _here(
    maker: Maker, question: Question, known: tuple[str, Mapping[str, Any]] | None
) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(maker.make(question, known))
    return future


class _Children:
    """Child processes, each with its own copy of the maker; they end when this process does."""

    def __init__(self, maker: Maker, count: int) -> None:
        self._name = maker.author.name
        try:
            self._payload = cloudpickle.dumps(maker)
        except Exception as error:  # pickling runs arbitrary __reduce__ methods
            raise BadInputError(
                f"the author {self._name!r} cannot be sent to worker processes ({error}); "
                "use workers=1"
            ) from error
        self._idle: queue.SimpleQueue[Child | None] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(None)  # started by the thread that needs it
        self._all: list[Child] = []
        self._lock = threading.Lock()
        self._closed = False

    def make(self, question: Question, known: tuple[str, Mapping[str, Any]] | None) -> Outcome:
        """Make a scenario in an idle child."""
        child = self._idle.get() or self._start()
        try:
            reply = child.ask(pickle.dumps((question, known)), _SECONDS)
        except (EOFError, OSError) as error:
            raise self._died(question) from error
        if reply is None:
            raise self._died(question)
        self._idle.put(child)
        # Our child wrote it, and runs no model's code.
        result: Outcome | Exception = pickle.loads(reply)  # noqa: S301
        if isinstance(result, ModuleNotFoundError):
            raise BadInputError(
                f"the author {self._name!r} needs the module {result.name!r}, which a worker "
                "process cannot import: install it, or use workers=1"
            ) from result
        if isinstance(result, Exception):
            raise result
        return result

    def _died(self, question: Question) -> ToolgymError:
        return ToolgymError(
            f"the worker process of scenario {question.id!r} ended; what was finished is kept, run "
            "the same again to go on (with fewer workers if memory is short)"
        )

    def _start(self) -> Child:
        path = os.pathsep.join(item for item in sys.path if item)
        with self._lock:
            if self._closed:
                raise ToolgymError("the build was stopped")
            child = Child(_CHILD, {**os.environ, "PYTHONPATH": path}, ("-P",))
            self._all.append(child)
        child.sending.send_bytes(self._payload)
        return child

    def close(self) -> None:
        """End all children at once."""
        with self._lock:
            self._closed = True
            for child in self._all:
                child.process.kill()

    def release(self) -> None:
        """Reap the ended children, once no thread talks to them."""
        for child in self._all:
            child.kill()
