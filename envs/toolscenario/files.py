"""Files of scenarios, ours and published ones, as an environment and as a reader needs them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from toolgym._util.hashes import value_hash
from toolgym._util.jsonl import parse_line, read_lines, read_rows, require_file, write_rows
from toolgym.envs.toolscenario.records import OWN, PublicScenario, is_public
from toolgym.envs.toolscenario.world import DONE, World
from toolgym.errors import BadInputError
from toolgym.scenario import Scenario
from toolgym.task import SUB_ANSWERS, AnswerType, SubAnswer, Task
from toolgym.tasksource import given_rows

__all__ = [
    *("GivenScenarios", "Playable", "Read", "ScenarioFile", "given_scenarios", "open_scenarios"),
    *("playable", "read_scenarios", "write_scenarios"),
]

_WHAT = "scenario file"


@dataclass(frozen=True)
class Playable:
    """A scenario as an environment needs it, from either format.

    Args:
        id: unique within a file.
        question: what the policy is asked.
        answers: acceptable final answers, the canonical one first.
        documents: each with ``name``, ``description`` and ``parameters``.
        functions: tool names to sources.
        sub_answers: one for each sub-question.
        answer_type: how an answer is compared.
        split: ``train``, ``validation``, ``test`` or empty.
        facts: for the task's metadata: shape, levels and complexity, where they are known.
        published: whether others wrote it, for the executor of the published code.
        world: the whole record, where its tools remember.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    documents: list[dict[str, Any]]
    functions: dict[str, str]
    sub_answers: list[SubAnswer]
    answer_type: AnswerType = "text"
    split: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    published: bool = False
    world: World | None = None

    def to_task(self) -> Task:
        """The task; sources of functions are not part of it, a hash of them is."""
        tools = [self.documents, self.functions, *[True] * self.published]
        metadata: dict[str, Any] = {SUB_ANSWERS: [entry.to_row() for entry in self.sub_answers]}
        if self.world is not None:
            metadata = {"goal": self.world.judged()}
            tools = [tools, self.world.state, self.world.user and self.world.user.to_row()]
        metadata |= {**self.facts, "tools_hash": value_hash(tools)}
        return Task(self.id, self.question, self.answers, metadata, self.split, self.answer_type)


Read = Scenario | PublicScenario | World
"""What a line of a file may hold."""


def read_scenarios(path: str | Path) -> Iterator[tuple[int, Read]]:
    """Read a file of our own or of the published format; lines may be of either, and worlds.

    Args:
        path: one JSON object a line.

    Yields:
        Line number and scenario.

    Raises:
        MissingFileError: no such file.
        BadInputError: a line that is neither; its number and what is wrong stand in the message.
    """
    count = 0
    for number, row in read_rows(path, _WHAT):
        count += 1
        yield number, _read_row(row, path, number)
    _refuse_empty(path, count)


def _refuse_empty(path: str | Path, count: int) -> None:
    if not count:
        raise BadInputError(f"{_WHAT} {str(path)!r} is empty: it needs at least one scenario")


def _read_row(row: Mapping[str, Any], path: str | Path, number: int) -> Read:
    try:
        return _row(row, f"line-{number}")
    except BadInputError as error:
        raise BadInputError(f"{_WHAT} {str(path)!r}, line {number}: {error}") from error


def _row(row: Mapping[str, Any], fallback_id: str) -> Read:
    return PublicScenario.from_row(row, fallback_id) if is_public(row) else _own(row)


def _own(row: Mapping[str, Any]) -> Scenario | World:
    world = "kind" in row
    if not world and ("functions" not in row or "sub_questions" not in row):
        raise BadInputError(
            "it is not a scenario: neither 'functions' and 'sub_questions' (ours) nor 'tools' and "
            f"'codes' (published format) are among its keys: {', '.join(row) or 'none'}"[:400]
        )
    try:
        return World.from_row(row) if world else Scenario.from_row(row)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInputError(
            f"field {where!r}: {first['msg']}, found {first['input']!r:.80}"
        ) from error
    except ValueError as error:
        raise BadInputError(str(error)) from error


def write_scenarios(path: str | Path, scenarios: Iterable[Read]) -> int:
    """Write a file atomically, each scenario in its own format.

    Returns:
        How many were written.
    """
    return write_rows(path, (scenario.to_row() for scenario in scenarios))


def playable(scenario: Read) -> Playable:
    """What an environment needs of a scenario.

    Raises:
        BadInputError: a published row without question or answer.
    """
    if isinstance(scenario, World):
        return Playable(
            id=scenario.id,
            question=scenario.question,
            answers=(DONE,),
            documents=[document.to_row() for document in scenario.documents],
            functions=scenario.functions,
            sub_answers=[],
            split=scenario.split,
            facts=scenario.facts(),
            world=scenario,
        )
    if isinstance(scenario, PublicScenario):
        return Playable(
            id=scenario.id,
            question=scenario.question,
            answers=scenario.answers,
            documents=scenario.documents,
            functions=scenario.functions,
            sub_answers=scenario.sub_answers,
            split=scenario.split,
            facts=scenario.facts,
            published=OWN not in scenario.row,
        )
    calls = {call.sub_question: call.tool for call in scenario.calls}
    return Playable(
        id=scenario.id,
        question=scenario.question,
        answers=scenario.answers,
        documents=[document.to_row() for document in scenario.documents],
        functions=scenario.functions,
        sub_answers=[
            SubAnswer(item.id, calls[item.id], item.answer) for item in scenario.sub_questions
        ],
        answer_type=scenario.answer_type,
        split=scenario.split,
        facts=scenario.facts(),
    )


class ScenarioFile(Mapping[str, Playable]):
    """The scenarios of a file by id: tasks are held in memory, functions are read when asked for.

    Args:
        path: of either format.

    Raises:
        MissingFileError: no such file.
        BadInputError: a line that is not a scenario, or an id that stands twice.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self._file = Path(path), Path(path).absolute()
        self.tasks: list[Task] = []
        self._places: dict[str, tuple[int, int]] = {}
        for number, position, raw in read_lines(path, _WHAT):
            self._add(raw, number, position)
        _refuse_empty(path, len(self.tasks))

    def _add(self, raw: bytes, number: int, position: int) -> None:
        item = self._read(raw, number)
        if item.id in self._places:
            raise BadInputError(
                f"{_WHAT} {str(self.path)!r}, line {number}: id {item.id!r} stands twice"
            )
        self._places[item.id] = (number, position)
        self.tasks.append(item.to_task())

    def _read(self, raw: bytes, number: int) -> Playable:
        row = parse_line(raw, self.path, number, _WHAT)
        return playable(_read_row(row, self.path, number))

    def __getitem__(self, name: str) -> Playable:
        """The scenario of that id, read from the file.

        Raises:
            KeyError: there is none.
            BadInputError: the file has been changed since it was opened.
        """
        number, position = self._places[name]
        with self._file.open("rb") as stream:
            stream.seek(position)
            raw = stream.readline()
        with contextlib.suppress(BadInputError):
            item = self._read(raw, number)
            if item.id == name:
                return item
        raise BadInputError(
            f"{_WHAT} {str(self.path)!r} was changed while it was played: line {number} is no "
            f"longer {name!r}"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class GivenScenarios(dict[str, Playable]):
    """Scenarios that stand in memory, by id.

    Args:
        given: see `given_scenarios`.

    Raises:
        BadInputError: see `given_scenarios`.
    """

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.path = f"given by a {type(given).__name__}"
        self.tasks: list[Task] = []
        for scenario in given_scenarios(given):
            item = playable(scenario)
            if item.id in self:
                raise BadInputError(f"scenario id {item.id!r} stands twice among those given")
            self[item.id] = item
            self.tasks.append(item.to_task())
        if not self:
            raise BadInputError("no scenarios were given: an environment needs at least one")


def given_scenarios(given: Any) -> Iterator[Read]:
    """Scenarios that stand in memory.

    Args:
        given: rows of our own or of the published format, or `Scenario` and `World` objects: a
            list, a data frame, or a ``datasets.Dataset``.

    Raises:
        BadInputError: something else, or a row that is not a scenario; its place is named.
    """
    for fallback, row in given_rows(given):
        if isinstance(row, Read):
            yield row
            continue
        place = fallback.removeprefix("row-")
        try:
            if not isinstance(row, Mapping):
                raise BadInputError(f"it is a {type(row).__name__}, and no scenario")
            yield _row(row, fallback)
        except BadInputError as error:
            raise BadInputError(f"row {place} of the scenarios: {error}") from error


def open_scenarios(path: str | Path) -> ScenarioFile:
    """A file of scenarios; opened once a process, until it changes.

    Raises:
        MissingFileError: no such file.
        BadInputError: see `ScenarioFile`.
    """
    status = require_file(path, _WHAT).stat()
    stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
    return _open(str(Path(path).absolute()), str(path), stamp)


@functools.lru_cache(maxsize=8)
def _open(_absolute: str, path: str, _stamp: tuple[int, ...]) -> ScenarioFile:
    return ScenarioFile(path)
