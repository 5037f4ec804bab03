"""One question through the five stages, in this process or in processes beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from toolgym._workers.pool import Jobs
from toolgym.envs.toolscenario.compiler.decomposition import decompose
from toolgym.envs.toolscenario.compiler.deployment import deploy
from toolgym.envs.toolscenario.compiler.documents import document
from toolgym.envs.toolscenario.compiler.integration import integrate
from toolgym.envs.toolscenario.compiler.scaling import draw_levels, scale
from toolgym.envs.toolscenario.compiler.stages import Author, seed_of
from toolgym.envs.toolscenario.compiler.verification import verify
from toolgym.envs.toolscenario.records import STAGES, Question, RejectedError
from toolgym.errors import BadInputError, ToolgymError
from toolgym.scenario import Decomposition, Documented, Integrated, Levels, Scaled, Scenario

__all__ = ["MADE", "Make", "Maker", "Outcome", "default_workers", "working"]

MADE = STAGES[:-1]
"""The stages that make something; verification only judges."""

_KINDS: dict[str, type[Decomposition]] = {
    "decomposition": Decomposition,
    "documents": Documented,
    "integration": Integrated,
    "scaling": Scaled,
    "deployment": Scenario,
}


@dataclass(slots=True)
class Outcome:
    """What became of a question.

    Args:
        id: of the question.
        made: stage to the row that it wrote, of the stages that were run.
        facts: of verification, when the scenario passed.
        rejection: stage, reason and message, when it did not.
    """

    id: str
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    rejection: dict[str, str] | None = None


@dataclass(slots=True)
class Maker:
    """Runs the stages; each result is a function of the question and of these settings.

    Args:
        author: who writes.
        levels: of complexity scaling; None draws them by seed and id.
        seed: of the build.
        timeout: seconds a call of a function in verification.
    """

    author: Author
    levels: Levels | None
    seed: int
    timeout: float

    def make(self, question: Question, known: tuple[str, Mapping[str, Any]] | None) -> Outcome:
        """Run the stages.

        Args:
            question: what the scenario is made of.
            known: the last stage whose row exists already, and that row.

        Raises:
            BadInputError: the sandbox does not work here.
        """
        outcome = Outcome(question.id)
        record: Any = question
        begin = 0
        if known is not None:
            record, begin = read_stage(*known), MADE.index(known[0]) + 1
        try:
            for stage in MADE[begin:]:
                record = self._steps(question, stage)(record)
                outcome.made[stage] = record.to_row()
            outcome.facts = verify(record, self.timeout)
        except RejectedError as error:
            rejection = {"stage": error.stage, "reason": error.reason, "message": str(error)}
            outcome.rejection = rejection
        return outcome

    def _steps(self, question: Question, stage: str) -> Callable[[Any], Any]:
        author = self.author
        steps: dict[str, Callable[[Any], Any]] = {
            "decomposition": lambda record: decompose(record, author),
            "documents": lambda record: document(record, author),
            "integration": lambda record: integrate(record, author),
            "scaling": lambda record: scale(
                record,
                self.levels or draw_levels(self.seed, question.id),
                seed_of(self.seed, question.id, "scale"),
                author,
            ),
            "deployment": lambda record: deploy(record, author, self.timeout),
        }
        return steps[stage]


def read_stage(stage: str, row: Mapping[str, Any]) -> Decomposition:
    """The record of a stage from its row.

    Raises:
        ValueError: the row is none (pydantic's error).
    """
    if stage == "deployment":
        return Scenario.from_row(row)
    return _KINDS[stage].model_validate(dict(row), strict=False)


Make = Callable[[Question, tuple[str, Mapping[str, Any]] | None], "Future[Outcome]"]
"""Begins to make a scenario."""

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
            children.jobs.end()
        _stop(maker)
        # Nobody waits here for a server's last replies; those that come are the author's to keep.
        pool.shutdown(wait=not threads, cancel_futures=True)
        if children is not None:
            children.jobs.release()


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
            self.jobs = Jobs(_make_of, [maker], count)
        except Exception as error:  # pickling runs arbitrary __reduce__ methods
            raise BadInputError(
                f"the author {self._name!r} cannot be sent to worker processes ({error}); "
                "use workers=1"
            ) from error

    def make(self, question: Question, known: tuple[str, Mapping[str, Any]] | None) -> Outcome:
        """Make a scenario in an idle child."""
        try:
            outcome: Outcome = self.jobs.result(self.jobs.send(question, known), _SECONDS)
        except EOFError as error:
            raise ToolgymError(
                f"the worker process of scenario {question.id!r} ended; what was finished is kept, "
                "run the same again to go on (with fewer workers if memory is short)"
            ) from error
        except ModuleNotFoundError as error:
            raise BadInputError(
                f"the author {self._name!r} needs the module {error.name!r}, which a worker "
                "process cannot import: install it, or use workers=1"
            ) from error
        return outcome


def _make_of(maker: Maker) -> Callable[..., Outcome]:
    return maker.make
