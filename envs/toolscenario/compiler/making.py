"""One question through the five stages, in this process or beside it, and the folder of a build.

The folder holds one file a stage, what was rejected, and the settings.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from toolgym._util.jsonl import (
    append_row,
    appending,
    drop_torn_line,
    parse_line,
    read_json,
    read_lines,
    read_rows,
    row_at,
    write_json,
    write_rows,
)
from toolgym._util.workfolder import hold, publish, same_settings
from toolgym.envs.toolscenario.compiler.decomposition import (
    Author,
    WorldAuthor,
    decompose,
    seed_of,
)
from toolgym.envs.toolscenario.compiler.proof import prove
from toolgym.envs.toolscenario.compiler.stages import (
    deploy,
    document,
    draw_levels,
    integrate,
    scale,
)
from toolgym.envs.toolscenario.compiler.verification import verify
from toolgym.envs.toolscenario.records import STAGES, Question, RejectedError
from toolgym.errors import BadInputError
from toolgym.executors import Call, Calls, Executor, Here, WorkerExecutor, code_of, pack
from toolgym.scenario import Decomposition, Documented, Integrated, Levels, Scaled, Scenario

__all__ = [
    "MADE",
    "BuildFolder",
    "Maker",
    "Making",
    "Outcome",
    "Taken",
    "default_workers",
    "working",
]

SETTINGS, REJECTED = "build.json", "rejected.jsonl"
_MAY_DIFFER = ("count", "versions", "again")


class BuildFolder:
    """The writing side of a build: one writer at a time, whole lines, safe against signal 9.

    Scenarios are added in the order of their questions. A scenario is finished when its line
    stands in ``verification.jsonl`` or ``rejected.jsonl``, which are written last; the lines of
    one that a kill cut short are taken up where they end.

    Args:
        path: the folder; made when it does not exist.
        settings: what decides the result.
        from_stage: run this stage and the later ones again, with these settings.

    Raises:
        RunMismatchError: begun with other settings, or being written right now.
        BadInputError: a broken file.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], from_stage: str | None) -> None:
        self.path = path
        self._streams: dict[str, BinaryIO] = {}
        self._places: dict[str, dict[str, int]] = {}
        with contextlib.ExitStack() as held:
            doing = f"building in {str(path)!r}"
            held.enter_context(hold(path, doing, "wait for it, or use another --out"))
            self._begin(settings, from_stage, held)
            self._held = held.pop_all()

    def _begin(
        self, settings: Mapping[str, Any], from_stage: str | None, held: contextlib.ExitStack
    ) -> None:
        file = self.path / SETTINGS
        before = read_json(file) if file.is_file() else None
        if before is None and from_stage not in (None, STAGES[0]):
            raise BadInputError(
                f"{str(self.path)!r} holds no build whose stage {from_stage!r} could be run again"
            )
        if before is not None and from_stage is None:
            then = (
                "choose another --out, remove the folder, or name the stage from which to run "
                "again (--from-stage)"
            )
            same_settings(self.path, before, settings, free=_MAY_DIFFER, then=then)
        again = from_stage or (before or {}).get("again")
        if again is not None:  # said first, so that a kill in between is finished by the next run
            write_json(self.path / SETTINGS, {**settings, "again": again})
            self._forget(again)
        write_json(self.path / SETTINGS, settings)
        for name in (*STAGES, "rejected"):
            file = self._file(name)
            self._streams[name] = held.enter_context(appending(file))
            self._places[name] = {
                str(parse_line(raw, file, number, "stage file").get("id")): position
                for number, position, raw in read_lines(file)
            }

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.jsonl"

    def _forget(self, stage: str) -> None:
        later = STAGES[STAGES.index(stage) :]
        for name in later:
            self._file(name).unlink(missing_ok=True)
        self._file("verification").unlink(missing_ok=True)
        rejected = self._file("rejected")
        if rejected.is_file():
            drop_torn_line(rejected)
            kept = [row for _, row in read_rows(rejected) if row["stage"] not in later]
            write_rows(rejected, kept)

    def finished(self, name: str) -> bool | None:
        """Whether a question became a scenario (True), was rejected (False), or is open (None)."""
        if name in self._places["verification"]:
            return True
        return False if name in self._places["rejected"] else None

    def known(self, name: str) -> tuple[str, dict[str, Any]] | None:
        """The last stage that an open question has a row of, and that row."""
        last = None
        for stage in MADE:
            if name not in self._places[stage]:
                break
            last = stage
        return None if last is None else (last, self.row(last, name))

    def row(self, stage: str, name: str) -> dict[str, Any]:
        """The row of one scenario in the file of a stage, or in ``rejected``."""
        return row_at(self._file(stage), self._places[stage][name], "stage file")

    def add(self, outcome: Outcome, rejected: Mapping[str, Any] | None) -> None:
        """Record a finished question; once this returns, a kill does not lose it.

        Args:
            outcome: of all its stages.
            rejected: stage, reason and message, or None when the scenario passed.
        """
        for stage, row in outcome.made.items():
            self._append(stage, outcome.id, row)
        if rejected is None:
            self._append("verification", outcome.id, {"id": outcome.id, **outcome.facts})
            return
        last = self.known(outcome.id)
        record = {} if last is None else {"record": last[1]}
        self._append("rejected", outcome.id, {"id": outcome.id, **rejected, **record})

    def _append(self, name: str, key: str, row: Mapping[str, Any]) -> None:
        stream = self._streams[name]
        self._places[name][key] = stream.tell()
        append_row(stream, row)

    def rejections(self) -> Iterator[dict[str, Any]]:
        """The rows of what was rejected, in order."""
        return (row for _, row in read_rows(self._file("rejected")))

    def publish(self, out: Path, count: int) -> int:
        """Write the finished scenarios to one file, atomically.

        Args:
            out: the file.
            count: at most so many, the first ones.

        Returns:
            How many there are.
        """
        names = list(self._places["verification"])[:count]
        with (
            publish(out) as partial,
            partial.open("wb") as target,
            self._file("deployment").open("rb") as source,
        ):
            for name in names:
                source.seek(self._places["deployment"][name])
                target.write(source.readline())
        return len(names)

    def close(self) -> None:
        """Bring everything to disk and let others write."""
        self._held.close()


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


Taken = tuple[Question, tuple[str, Mapping[str, Any]] | None]
"""A question, and the last stage that it has a row of already, with that row."""


@dataclass(slots=True)
class Maker:
    """Runs the stages; each result is a function of the question and of these settings.

    Args:
        author: who writes.
        levels: of complexity scaling; None draws them by seed and id.
        seed: of the build.
        timeout: seconds a call of a function in verification.
    """

    author: Author | WorldAuthor
    levels: Levels | None
    seed: int
    timeout: float

    def __call__(self, taken: Taken) -> Outcome:
        """Run the stages.

        Args:
            taken: what the scenario is made of, and the last stage whose row exists already with
                that row.

        Raises:
            BadInputError: the sandbox does not work here.
        """
        question, known = taken
        outcome = Outcome(question.id)
        if isinstance(self.author, WorldAuthor):
            return self._world(self.author, question, outcome)
        record: Any = question
        begin = 0
        if known is not None:
            record, begin = read_stage(*known), MADE.index(known[0]) + 1
        try:
            for stage in MADE[begin:]:
                record = self._steps(self.author, question, stage)(record)
                outcome.made[stage] = record.to_row()
            outcome.facts = verify(record, self.timeout)
        except RejectedError as error:
            rejection = {"stage": error.stage, "reason": error.reason, "message": str(error)}
            outcome.rejection = rejection
        return outcome

    def _world(self, author: WorldAuthor, question: Question, outcome: Outcome) -> Outcome:
        try:
            world = author.world(question)
            outcome.made[MADE[-1]] = world.to_row()
            outcome.facts = prove(world, self.timeout)
            outcome.made[MADE[-1]] |= {"proof": outcome.facts}
        except RejectedError as error:
            rejection = {"stage": error.stage, "reason": error.reason, "message": str(error)}
            outcome.rejection = rejection
        return outcome

    def _steps(self, author: Author, question: Question, stage: str) -> Callable[[Any], Any]:
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


Making = Call[Taken, Outcome]
"""A scenario that is being made."""

_SECONDS = 3600.0  # that one scenario may take before its process is taken for broken


def default_workers(author: Author | WorldAuthor) -> int:
    """How many workers suit an author: its own ``concurrency``, or one for each core."""
    if getattr(author, "threads", False):
        return int(getattr(author, "concurrency", 8))
    return os.cpu_count() or 1


@contextmanager
def working(
    maker: Maker, workers: int, executor: Executor | None = None
) -> Iterator[Callable[[Taken], Making]]:
    """What makes scenarios, for the time of a build.

    A program's stages run in processes of their own. An author whose attribute ``threads`` is true
    waits for a server most of the time, and gets threads.

    Args:
        maker: runs the stages.
        workers: at least 1; 1 works in this thread.
        executor: works instead of them.

    Yields:
        A function that begins to make a scenario.

    Raises:
        BadInputError: the author cannot work in other processes.
    """
    author = maker.author
    threads = bool(getattr(author, "threads", False))
    if threads and executor is not None:
        raise BadInputError(
            f"the author {author.name!r} waits for a server, which threads of this process do "
            "best: say how many by workers, without an executor"
        )
    here = executor is None and (threads or workers == 1)
    own: Any = None  # a pool for this build alone
    if executor is None:
        own = ThreadPoolExecutor(workers) if threads else WorkerExecutor(workers, _SECONDS)
        executor = own = Here() if workers == 1 else own
    try:
        sent = maker if here else _packed(maker)
        yield Calls[Taken, Outcome](executor, sent, "scenarios", _own, _told).begin
    finally:  # after an error or Ctrl-C nothing new is begun
        stop = getattr(author, "stop", None)
        if callable(stop):  # it gives up what it waits for: nobody wants it now
            stop()
        if isinstance(own, WorkerExecutor):
            own.shutdown()
        elif isinstance(own, ThreadPoolExecutor):
            # Nobody waits here for a server's last replies; those that come are the author's.
            own.shutdown(wait=False, cancel_futures=True)


def _packed(maker: Maker) -> bytes:
    parts = {name: getattr(maker, name) for name in ("author", "levels", "seed", "timeout")}
    return pack("build", Maker, parts, _read_by(maker), _read_by)


def _read_by(maker: Maker) -> dict[str, Any]:
    """What decides what an author writes: equal on all machines."""
    return {"author": maker.author.settings(), "code": code_of(maker.author)}


def _own(taken: Taken, outcome: Outcome) -> bool:
    return outcome.id == taken[0].id


def _told(taken: Taken) -> str:
    return f"scenario {taken[0].id!r}"
