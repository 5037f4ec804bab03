"""The build: questions through all stages, in parallel, resumably, the same bytes each time."""

from __future__ import annotations

import inspect
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolgym._util.optional import installed_versions
from toolgym.envs.toolscenario.compiler.decomposition import Author, WorldAuthor
from toolgym.envs.toolscenario.compiler.making import (
    SETTINGS,
    BuildFolder,
    Maker,
    Making,
    Outcome,
    Taken,
    working,
)
from toolgym.envs.toolscenario.compiler.verification import Duplicates, told_by
from toolgym.envs.toolscenario.records import STAGES, Question
from toolgym.envs.toolscenario.world import World
from toolgym.errors import BadInputError, did_you_mean
from toolgym.executors import Executor
from toolgym.registry import AUTHORS
from toolgym.scenario import SHAPES, Levels, Scenario

__all__ = ["BuildReport", "build_folder", "compile_scenarios", "make_author"]

Progress = Callable[[int, int], None]
"""Called with finished and planned scenarios."""

_AHEAD = 64  # questions that an executor has at once: it may have as many workers
_SPARE = 4  # questions asked of the author for each scenario that is wanted: some are rejected


@dataclass(slots=True)
class BuildReport:
    """What a build gave.

    Args:
        out: the file of scenarios.
        folder: every stage's results.
        scenarios: in the file.
        tried: questions that were taken up, those of earlier sittings included.
        seconds: of this sitting.
        made: scenarios and rejections of this sitting.
        shapes: how many scenarios of each shape; of worlds, of each domain.
        levels: strategy to how many scenarios at each level from 0 to 3; of worlds, ``level`` to
            how many at each from 1 to 4.
        rejected: ``stage/reason`` to how many.
        author: what the author has to say, such as its requests and their cost.
    """

    out: Path
    folder: Path
    scenarios: int = 0
    tried: int = 0
    seconds: float = 0.0
    made: int = 0
    shapes: dict[str, int] = field(default_factory=dict)
    levels: dict[str, list[int]] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    author: dict[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = [name for name in self.__slots__ if name not in ("out", "folder")]
        row = {name: getattr(self, name) for name in names}
        return {"out": str(self.out), "folder": str(self.folder), **row}


def build_folder(out: str | Path) -> Path:
    """Where the stages of a build lie: ``OUT.build`` beside the file."""
    return Path(out).with_name(Path(out).name + ".build")


def compile_scenarios(
    author: Author | WorldAuthor,
    out: str | Path,
    count: int,
    seed: int = 0,
    *,
    levels: Levels | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    from_stage: str | None = None,
    timeout: float = 10.0,
    progress: Progress | None = None,
) -> BuildReport:
    """Make verified scenarios.

    Questions are taken up in the author's order until there are enough scenarios. A build that
    exists is resumed, and ends with the same bytes as one that was never interrupted, whatever the
    number of workers.

    Args:
        author: who writes; see `toolgym.envs.toolscenario.compiler.decomposition`.
        out: the ``.jsonl`` file to write; stages and rejections lie in ``OUT.build`` beside it.
        count: scenarios wanted.
        seed: decides levels and the author's draws in scaling.
        levels: the same for all scenarios; None draws them for each by seed and id. Worlds have
            none.
        workers: processes, or threads for an author whose attribute ``threads`` is true.
        executor: works instead of processes of this machine; see `toolgym.executors`.
        from_stage: run this stage and the later ones again, on what the earlier ones gave.
        timeout: seconds a call of a function may take in verification.
        progress: called after each finished scenario.

    Returns:
        Counts; fewer scenarios than wanted when the author had no more questions.

    Raises:
        BadInputError: a wrong argument, a question's id that comes twice, a file in the way.
        RunMismatchError: the folder was begun with other settings, or is being written right now;
            a machine of the executor has other files.
        LostWorkerError: a scenario that ends each of its workers, or no worker is left; what was
            finished is kept.
    """
    target = Path(out)
    _check_arguments(target, count, workers, from_stage)
    worlds = isinstance(author, WorldAuthor)
    if worlds and levels is not None:
        raise BadInputError(
            f"worlds have no levels of scaling: give the {author.name} author --option level=1 to 4"
        )
    began = time.monotonic()
    settings = {
        "schema": 1,
        "author": {"name": author.name, "settings": author.settings()},
        "seed": seed,
        "levels": None if levels is None else levels.to_row(),
        "timeout": timeout,
        "count": count,
        "versions": installed_versions(),
    }
    folder = BuildFolder(build_folder(target), settings, from_stage)
    try:
        build = _Build(folder, count, progress, worlds)
        with working(Maker(author, levels, seed, timeout), workers, executor) as make:
            ahead = 2 * workers if executor is None else max(2 * workers, min(2 * count, _AHEAD))
            build.run(make, _unique(author.questions(count * _SPARE)), ahead)
        report = build.report
        report.out, report.scenarios = target, folder.publish(target, count)
    finally:
        folder.close()
    report.seconds = time.monotonic() - began
    describe = getattr(author, "report", None)
    report.author = describe() if callable(describe) else {}
    return report


def _check_arguments(out: Path, count: int, workers: int, from_stage: str | None) -> None:
    for name, value in (("count", count), ("workers", workers)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadInputError(f"{name} must be a whole number of at least 1, not {value!r}")
    if from_stage is not None and from_stage not in STAGES:
        raise BadInputError(
            f"there is no stage {from_stage!r}{did_you_mean(from_stage, STAGES)}; stages: "
            f"{', '.join(STAGES)}"
        )
    if out.is_dir():
        raise BadInputError(f"{str(out)!r} is a folder; name a .jsonl file to write")
    if out.exists() and not (build_folder(out) / SETTINGS).is_file():
        raise BadInputError(
            f"{str(out)!r} exists, and no build of it in {str(build_folder(out))!r}: remove the "
            "file, or choose another --out"
        )


def _unique(questions: Any) -> Iterator[Question]:
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise BadInputError(f"question id {question.id!r} comes twice; ids must be unique")
        seen.add(question.id)
        yield question


class _Build:
    """Takes up questions ahead, and finishes them in their order."""

    def __init__(
        self, folder: BuildFolder, count: int, progress: Progress | None, worlds: bool
    ) -> None:
        self.folder, self.count, self.progress = folder, count, progress
        self.report = BuildReport(Path(), folder.path)
        self.report.shapes = {} if worlds else dict.fromkeys(SHAPES, 0)
        names = ["level"] if worlds else list(Levels.model_fields)
        self.report.levels = {name: [0] * 4 for name in names}
        self._duplicates = Duplicates()
        self._passed = 0
        self._rejected: Counter[str] = Counter()

    def run(
        self, make: Callable[[Taken], Making], questions: Iterator[Question], ahead: int
    ) -> None:
        """Work until there are enough scenarios, or no more questions.

        Args:
            make: begins to make a scenario.
            questions: in order.
            ahead: questions in work at once.
        """
        waiting: deque[tuple[Question, Making | None]] = deque()
        try:
            while self._passed < self.count:
                for question in itertools.islice(questions, ahead - len(waiting)):
                    open_ = self.folder.finished(question.id) is None
                    known = self.folder.known(question.id) if open_ else None
                    waiting.append((question, make((question, known)) if open_ else None))
                if not waiting:
                    break
                question, making = waiting.popleft()
                self._finish(question, None if making is None else making.result())
                if self.progress is not None:
                    self.progress(self._passed, self.count)
        finally:
            for _, making in waiting:
                if making is not None:
                    making.cancel()
        self.report.rejected = dict(sorted(self._rejected.items()))

    def _finish(self, question: Question, outcome: Outcome | None) -> None:
        self.report.tried += 1
        if outcome is not None:
            self.report.made += 1
            rejection = outcome.rejection
            if rejection is None:
                rejection = self._repeated(self._scenario(question.id, outcome))
            self.folder.add(outcome, rejection)
        elif self.folder.finished(question.id):
            self._repeated(self._scenario(question.id, None))
        if self.folder.finished(question.id):
            self._count(self._scenario(question.id, outcome))
        else:
            row = self.folder.row("rejected", question.id)
            self._rejected[f"{row['stage']}/{row['reason']}"] += 1

    def _scenario(self, name: str, outcome: Outcome | None) -> Scenario | World:
        made = {} if outcome is None else outcome.made
        row = made.get("deployment") or self.folder.row("deployment", name)
        return World.from_row(row) if "kind" in row else Scenario.from_row(row)

    def _repeated(self, scenario: Scenario | World) -> dict[str, str] | None:
        answers = told_by(scenario)
        other = self._duplicates.add(scenario.id, scenario.question, answers)
        if other is None:
            return None
        message = f"it asks the same as {other!r}, with the same sub-answers"
        return {"stage": STAGES[-1], "reason": "duplicate", "message": message}

    def _count(self, scenario: Scenario | World) -> None:
        self._passed += 1
        if isinstance(scenario, World):
            domains = self.report.shapes
            domains[scenario.domain] = domains.get(scenario.domain, 0) + 1
            self.report.levels["level"][scenario.level - 1] += 1
            return
        self.report.shapes[scenario.shape] += 1
        for name, level in scenario.levels.model_dump().items():
            self.report.levels[name][level] += 1


def make_author(
    name: str, options: Mapping[str, Any], out: str | Path | None = None, seed: int = 0
) -> Author | WorldAuthor:
    """A registered author.

    Args:
        name: such as ``offline`` or ``endpoint``.
        options: of its constructor, plain data.
        out: the file that will be built; an author with a parameter ``folder`` may keep what it
            has to keep in the build's folder.
        seed: of the build, for an author with such a parameter.

    Raises:
        UnknownNameError: no author has that name.
        BadInputError: an option that it does not have, or one that is missing.
    """
    factory = AUTHORS.get(name)
    accepted = inspect.signature(factory).parameters
    for option in options:
        if option not in accepted:
            raise BadInputError(
                f"author {name!r} has no option {option!r}"
                f"{did_you_mean(option, accepted)}; options: "
                f"{', '.join(accepted) or 'none'}"
            )
    offered: dict[str, Any] = {"seed": seed}
    if out is not None:
        offered["folder"] = str(build_folder(out))
    given = {key: value for key, value in offered.items() if key in accepted} | dict(options)
    needed = [
        key
        for key, parameter in accepted.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    missing = [key for key in needed if key not in given]
    if missing:
        raise BadInputError(
            f"author {name!r} needs the option {missing[0]!r} "
            f"(--{missing[0].replace('_', '-')} on the command line)"
        )
    made = factory(**given)
    if not isinstance(made, Author | WorldAuthor):
        raise BadInputError(f"author {name!r} is registered but makes no Author: {made!r:.80}")
    return made
