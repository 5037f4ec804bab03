"""Files of scenarios, ours and published ones, as an environment and as a reader needs them."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from toolgym._util.jsonl import (
    parse_line,
    read_lines,
    read_rows,
    require_file,
    value_hash,
    write_rows,
)
from toolgym._util.text import shortened
from toolgym.envs.toolscenario.records import OWN, PublicScenario, RejectedError, is_public
from toolgym.envs.toolscenario.tool import run_references
from toolgym.errors import BadInputError
from toolgym.scenario import FROM, Scenario
from toolgym.task import SUB_ANSWERS, AnswerType, SubAnswer, Task

__all__ = [
    *("Playable", "ScenarioFile", "describe_row", "open_scenarios", "playable", "read_scenarios"),
    "write_scenarios",
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

    def to_task(self) -> Task:
        """The task; sources of functions are not part of it, a hash of them is."""
        metadata = {
            SUB_ANSWERS: [entry.to_row() for entry in self.sub_answers],
            **self.facts,
            "tools_hash": value_hash([self.documents, self.functions, *[True] * self.published]),
        }
        return Task(self.id, self.question, self.answers, metadata, self.split, self.answer_type)


def read_scenarios(path: str | Path) -> Iterator[tuple[int, Scenario | PublicScenario]]:
    """Read a file of our own or of the published format; lines may be of either.

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


def _read_row(row: Mapping[str, Any], path: str | Path, number: int) -> Scenario | PublicScenario:
    try:
        if is_public(row):
            return PublicScenario.from_row(row, f"line-{number}")
        return _own(row)
    except BadInputError as error:
        raise BadInputError(f"{_WHAT} {str(path)!r}, line {number}: {error}") from error


def _own(row: Mapping[str, Any]) -> Scenario:
    if "functions" not in row or "sub_questions" not in row:
        raise BadInputError(
            "it is not a scenario: neither 'functions' and 'sub_questions' (ours) nor 'tools' and "
            f"'codes' (published format) are among its keys: {', '.join(row) or 'none'}"[:400]
        )
    try:
        return Scenario.from_row(row)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInputError(
            f"field {where!r}: {first['msg']}, found {first['input']!r:.80}"
        ) from error
    except ValueError as error:
        raise BadInputError(str(error)) from error


def write_scenarios(path: str | Path, scenarios: Iterable[Scenario | PublicScenario]) -> int:
    """Write a file atomically, each scenario in its own format.

    Returns:
        How many were written.
    """
    return write_rows(path, (scenario.to_row() for scenario in scenarios))


def playable(scenario: Scenario | PublicScenario) -> Playable:
    """What an environment needs of a scenario.

    Raises:
        BadInputError: a published row without question or answer.
    """
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


def describe_row(row: Mapping[str, Any], width: int = 600) -> tuple[str, str] | None:
    """A row of a scenario file, or of a build's ``rejected.jsonl``.

    Args:
        row: any object of a ``.jsonl`` file.
        width: characters of each text that are shown.

    Returns:
        Its id and the text; None when the row is neither.

    Raises:
        BadInputError: it looks like one, and is broken.
    """
    if is_public(row):
        found = PublicScenario.from_row(row, str(row.get("id") or "(no id)"))
        return found.id, _public(found, width)
    if {"stage", "reason", "message"} <= row.keys():
        return str(row.get("id")), _rejected(row, width)
    if {"sub_questions", "combination"} <= row.keys():
        return str(row.get("id")), _stage(row, width)
    return None


def _stage(row: Mapping[str, Any], width: int) -> str:
    return "\n".join(_lines(row, width, _results(row) if "functions" in row else {}))


def _results(row: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    try:
        found = run_references(Scenario.from_row(row))
    except (RejectedError, BadInputError, ValueError):
        return {}  # shown as they stand in the row: what is wrong with them is told elsewhere
    return {name: (item.arguments, item.text) for name, item in found.items()}


def _lines(
    row: Mapping[str, Any], width: int, results: Mapping[str, tuple[Any, str]]
) -> Iterator[str]:
    levels = row.get("levels") or {}
    shape = f"  {row['shape']}" if "shape" in row else ""
    author = f"  by {row['author']}" if row.get("author") else ""
    yield f"=== {row.get('id')}{shape}  complexity {sum(levels.values())} of 12{author}"
    yield f"question: {shortened(row['question'], width)}"
    yield f"answer:   {shortened(' | '.join(row['answers']), width)}"
    yield f"          {_rule(row['combination'])}"
    if levels:
        shown = (f"{name.replace('_', ' ')} {level}" for name, level in levels.items())
        yield f"levels:   {', '.join(shown)}"
    calls = {call["sub_question"]: call for call in row.get("calls", ())}
    yield "--- sub-questions"
    for item in row["sub_questions"]:
        needs = f"  <- {', '.join(item['needs'])}" if item["needs"] else ""
        yield f"{item['id']}{needs}  {shortened(item['question'], width)}"
        call = calls.get(item["id"])
        if call is not None:
            arguments, text = results.get(item["id"], (None, ""))
            yield f"  -> {call['tool']}({_arguments(call['arguments'], arguments, width)})"
            if text:
                yield f"  <- {shortened(text, width)}"
        yield f"  == {shortened(item['answer'], width)}"
    if row.get("documents"):
        yield "--- tools"
        idle = set(row.get("distractors", ()))
        for document in row["documents"]:
            yield from _tool(document, width, document["name"] in idle)
    for old, new in (row.get("merged") or {}).items():
        yield f"merged: {old} into {new}"


def _rule(combination: Mapping[str, Any]) -> str:
    of = ", ".join(combination["of"])
    labels = f" among {', '.join(combination['labels'])}" if combination.get("labels") else ""
    return f"= {combination['rule'].replace('_', ' ')} of {of}{labels}"


def _arguments(plain: Mapping[str, Any], filled: Any, width: int) -> str:
    parts = []
    for name, value in plain.items():
        shown = _with_arrows(value)
        if filled is not None and filled.get(name) != value:
            shown += f" = {json.dumps(filled[name], ensure_ascii=False)}"
        parts.append(f"{name}: {shown}")
    return shortened(", ".join(parts), width)


def _with_arrows(value: Any) -> str:
    if isinstance(value, Mapping) and FROM in value:
        path = "".join(f"[{json.dumps(step)}]" for step in value.get("path", ()))
        return f"#{value[FROM]}{path}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_with_arrows(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_with_arrows(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _tool(document: Mapping[str, Any], width: int, idle: bool) -> Iterator[str]:
    parameters = document["parameters"]
    required = set(parameters.get("required", ()))
    names = (
        f"{name}{'' if name in required else '?'}: {_kind(schema)}"
        for name, schema in parameters.get("properties", {}).items()
    )
    mark = "  [distractor]" if idle else ""
    yield f"{document['name']}({', '.join(names)}){mark}"
    yield f"    {shortened(document['description'], width)}"


def _kind(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "any"
    if schema.get("enum"):
        return " | ".join(json.dumps(item, ensure_ascii=False) for item in schema["enum"][:6])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"[{_kind(schema.get('items'))}]"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _rejected(row: Mapping[str, Any], width: int) -> str:
    head = f"=== {row.get('id')}  rejected in {row['stage']}: {row['reason']}"
    lines = [head, f"why: {shortened(row['message'], 2 * width)}"]
    record = row.get("record")
    if isinstance(record, Mapping) and "sub_questions" in record:
        lines += _lines(record, width, {})
    return "\n".join(lines)


def _public(scenario: PublicScenario, width: int) -> str:
    own = scenario.row.get(OWN)
    if isinstance(own, str):
        return _stage(json.loads(own), width)
    item = playable(scenario)
    called = {entry.tool for entry in item.sub_answers}
    lines = [
        f"=== {item.id}  published format",
        f"question: {shortened(item.question, width)}",
        f"answer:   {shortened(' | '.join(item.answers), width)}",
        "--- sub-answers (the format names no sub-questions and no calls)",
        *(f"{entry.tool}  == {shortened(entry.answer, width)}" for entry in item.sub_answers),
        "--- tools",
    ]
    for document in item.documents:
        lines += _tool(document, width, document["name"] not in called)
    return "\n".join(lines)
