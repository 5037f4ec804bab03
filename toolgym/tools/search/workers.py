"""The processes that build an index: one that reads and stores, and others that analyze and merge.

A worker is a fresh interpreter, so that a script without a main guard can build, and a process with
threads, too. With one process everything happens in this one.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from toolgym._workers.process import Child
from toolgym.errors import ToolgymError
from toolgym.tools.search.layout import Recipe
from toolgym.tools.search.merge import Range, merge_range
from toolgym.tools.search.spill import Limits, Portion, Reader

__all__ = ["LENGTHS", "SPILL", "Bench", "Crew", "LostWorkerError", "Plan"]

SPILL, LENGTHS = "spill", "lengths"
_CHILD = Path(__file__).with_name("_crew_child.py")


class LostWorkerError(ToolgymError, RuntimeError):
    """A process of a build ended; what was done so far is good."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What every process of a build knows.

    Args:
        source: the corpus.
        folder: becomes the index; holds the blocks while it is built.
        recipe: how passages become terms and scores.
        limits: what may be in memory, in each process.
    """

    source: Path
    folder: Path
    recipe: Recipe
    limits: Limits

    @property
    def spill(self) -> Path:
        """Where the blocks are."""
        return self.folder / SPILL

    @property
    def lengths(self) -> Path:
        """Terms in each passage, raw int32."""
        return self.spill / LENGTHS


class Bench:
    """What a worker can do."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._reader = Reader(plan.source, plan.recipe, plan.limits)

    def read(self, lines: Sequence[tuple[int, bytes]], name: str) -> Portion:
        """Analyze a portion of the corpus; see `toolgym.tools.search.spill.Reader.read`."""
        return self._reader.read(lines, self._plan.spill, name)

    def merge(self, part: Range) -> None:
        """Merge a range of terms; see `toolgym.tools.search.merge.merge_range`."""
        plan = self._plan
        merge_range(part, plan.spill, plan.lengths, plan.folder, plan.recipe)


class Crew:
    """Workers that do jobs in parallel; a context manager that ends them.

    Args:
        plan: for all of them.
        workers: how many child processes; 0: the jobs are done here.
    """

    def __init__(self, plan: Plan, workers: int) -> None:
        self._plan, self._workers = plan, workers
        self._bench: Bench | None = None
        self._children: list[Child] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for child in self._children:
            child.kill()
        self._children = []

    def run(self, work: str, jobs: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """The results of jobs, in their order.

        Args:
            work: a method of `Bench`.
            jobs: its arguments; the next ones are made while the workers are busy.

        Raises:
            LostWorkerError: a worker ended.
            ToolgymError: what a job raised.
        """
        if not self._workers:
            self._bench = self._bench or Bench(self._plan)
            for job in jobs:
                yield getattr(self._bench, work)(*job)
            return
        idle = deque(self._started())
        busy: deque[Child] = deque()
        for job in jobs:
            result: list[Any] = []
            if not idle:
                child = busy.popleft()
                result.append(_received(child))
                idle.append(child)
            busy.append(idle.popleft())
            _send(busy[-1], (work, job))
            yield from result
        for child in busy:
            yield _received(child)

    def _started(self) -> list[Child]:
        if not self._children:
            path = os.pathsep.join(p for p in sys.path if p)
            for _ in range(self._workers):
                self._children.append(Child(_CHILD, {**os.environ, "PYTHONPATH": path}))
                _send(self._children[-1], self._plan)
        return self._children


def _send(child: Child, message: Any) -> None:
    try:
        child.sending.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
    except OSError as error:
        raise _ended(child) from error


def _received(child: Child) -> Any:
    try:
        result = pickle.loads(child.receiving.recv_bytes())  # noqa: S301 - our own child wrote it
    except (OSError, EOFError) as error:
        raise _ended(child) from error
    if isinstance(result, BaseException):
        raise result
    return result


def _ended(child: Child) -> LostWorkerError:
    return LostWorkerError(
        f"a process that builds the index ended (exit code {child.process.wait()}); was it short "
        "of memory? build with less memory_mb or with processes=1: what is done is kept"
    )
