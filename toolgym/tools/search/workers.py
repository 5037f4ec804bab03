"""The processes that build an index: one that reads and stores, and others that analyze and merge.

A worker is a fresh interpreter, so that a script without a main guard can build, and a process with
threads, too. With one process everything happens in this one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from toolgym._workers.pool import Child, Jobs
from toolgym.errors import ToolgymError
from toolgym.tools.search.layout import Recipe
from toolgym.tools.search.merge import Range, merge_range
from toolgym.tools.search.spill import Limits, Portion, Reader

__all__ = ["LENGTHS", "SPILL", "Bench", "Crew", "LostWorkerError", "Plan"]

SPILL, LENGTHS = "spill", "lengths"


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

    def __call__(self, work: str, *job: Any) -> Any:
        """Do a job: the name of a method and its arguments."""
        return getattr(self, work)(*job)


class Crew:
    """Workers that do jobs in parallel; a context manager that ends them.

    Args:
        plan: for all of them.
        workers: how many child processes; 0: the jobs are done here.
    """

    def __init__(self, plan: Plan, workers: int) -> None:
        self._workers = workers
        self._bench = None if workers else Bench(plan)
        self._jobs = Jobs(Bench, [plan], workers)

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._jobs.release()

    def run(self, work: str, jobs: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """The results of jobs, in their order.

        Args:
            work: a method of `Bench`.
            jobs: its arguments; the next ones are made while the workers are busy.

        Raises:
            LostWorkerError: a worker ended.
            ToolgymError: what a job raised.
        """
        if self._bench is not None:
            for job in jobs:
                yield self._bench(work, *job)
            return
        busy: deque[Child] = deque()
        try:
            for job in jobs:
                done = [self._jobs.result(busy.popleft())] if len(busy) == self._workers else []
                busy.append(self._jobs.send(work, *job))
                yield from done
            while busy:
                yield self._jobs.result(busy.popleft())
        except EOFError as error:
            raise LostWorkerError(
                f"a process that builds the index ended ({error}); was it short of memory? build "
                "with less memory_mb or with processes=1: what is done is kept"
            ) from error
