"""What a build begins with, its stages, what one refuses, and rows in the published format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, ValidationError

from toolgym._util.notebook import folded, fragment, quoted
from toolgym.errors import BadInputError, ToolgymError
from toolgym.scenario import Record, Scenario
from toolgym.task import SubAnswer

__all__ = [
    *("OWN", "STAGES", "PublicScenario", "Question", "RejectedError", "is_public", "to_own"),
    "to_public",
]

STAGES = ("decomposition", "documents", "integration", "scaling", "deployment", "verification")


class RejectedError(ToolgymError, ValueError):
    """A scenario that a stage could not make, or that did not pass verification.

    Args:
        stage: one of `STAGES`.
        reason: a short name for counting, such as ``leaked_answer``.
        message: what was wrong, with the value.
    """

    def __init__(self, stage: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.stage, self.reason = stage, reason

    def __reduce__(self) -> tuple[type[RejectedError], tuple[str, str, str]]:
        """Rebuild from the three parts: stages run in worker processes."""
        return type(self), (self.stage, self.reason, str(self))


class Question(Record):
    """What a scenario is made of.

    Args:
        id: unique within a build.
        text: what the user asks; an author that makes up its questions leaves it empty until the
            first stage.
        answer: the final answer where it is known, else empty.
        split: ``train``, ``validation``, ``test`` or empty.
        notes: the author's own plan, such as the seed of the draw.
    """

    id: str
    text: str = ""
    answer: str = ""
    split: str = ""
    notes: dict[str, Any] = Field(default_factory=dict)


OWN = "toolgym"
"""Key under which a row that we wrote holds our whole record, as JSON text."""

_SPLITS = {"valid": "validation", "dev": "validation", "val": "validation"}


def is_public(row: Mapping[str, Any]) -> bool:
    """Whether a row is of the published format, by its keys."""
    return "codes" in row and "tools" in row


@dataclass(frozen=True)
class PublicScenario:
    """A scenario of the published format.

    Args:
        row: as it was read, unknown fields included.
        id: the row's own ``id``, or one made of its place.
        question: the first message of the user.
        answers: the final answer, or several.
        documents: each with ``name``, ``description`` and ``parameters``.
        functions: tool names to sources.
        sub_answers: in the order of ``unsolved_set``.
        split: in our words.
        facts: source and, where we wrote the row, shape and levels.
    """

    row: dict[str, Any]
    id: str
    question: str
    answers: tuple[str, ...]
    documents: list[dict[str, Any]]
    functions: dict[str, str]
    sub_answers: list[SubAnswer]
    split: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        solved = f"{len(self.sub_answers)} sub-answers, {len(self.functions)} tools"
        return f"PublicScenario({self.id}, {solved})"

    def _repr_html_(self) -> str:
        rows = [[entry.id, entry.tool, entry.answer] for entry in self.sub_answers]
        lines = [f"Question: {self.question}", f"Answers: {' | '.join(self.answers)}"]
        below = "".join(folded(name, quoted(source)) for name, source in self.functions.items())
        head = ("", "tool", "answer")
        return fragment(lines, [("", head, rows)], title=repr(self), below=below)

    @classmethod
    def from_row(cls, row: Mapping[str, Any], fallback_id: str) -> PublicScenario:
        """Read a row.

        Args:
            row: one line's object.
            fallback_id: where the row has none.

        Raises:
            BadInputError: a field that cannot be understood.
        """
        split = str(row.get("split") or "")
        return cls(
            row=dict(row),
            id=str(row.get("id") or fallback_id),
            question=_question(_decoded(row, "messages")),
            answers=_answers(row.get("answer")),
            documents=[_document(item) for item in _list(_decoded(row, "tools"), "tools")],
            functions=_functions(_decoded(row, "codes")),
            sub_answers=_sub_answers(_decoded(row, "unsolved_set")),
            split=_SPLITS.get(split, split),
            facts=_facts(row),
        )

    def to_row(self) -> dict[str, Any]:
        """The row as it was read."""
        return self.row


def _decoded(row: Mapping[str, Any], key: str) -> Any:
    value = row.get(key)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"field {key!r} is not JSON ({error}): {value!r:.80}") from error


def _list(value: Any, key: str) -> list[Any]:
    found = [value] if isinstance(value, Mapping) else value
    if not isinstance(found, list) or not found:
        raise BadInputError(f"field {key!r} must be a list with an entry, found {value!r:.80}")
    return found


def _question(messages: Any) -> str:
    for message in _list(messages, "messages"):
        if not isinstance(message, Mapping):
            break
        content = message.get("content")
        if message.get("role", message.get("from")) in ("user", "human") and content:
            return str(content)
    raise BadInputError(f"field 'messages' holds no question of a user: {messages!r:.80}")


def _answers(answer: Any) -> tuple[str, ...]:
    found = answer if isinstance(answer, list) else [answer]
    texts = tuple(str(item) for item in found if isinstance(item, str | int | float))
    if not texts or not all(text.strip() for text in texts):
        raise BadInputError(f"field 'answer' must be a text, found {answer!r:.80}")
    return texts


def _document(item: Any) -> dict[str, Any]:
    function = item.get("function", item) if isinstance(item, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadInputError(f"field 'tools' holds what is not a document with a name: {item!r:.80}")
    parameters = function.get("parameters")
    schema = dict(parameters) if isinstance(parameters, Mapping) else {}
    if not isinstance(schema.get("properties"), Mapping):
        schema["properties"] = {}
    if not isinstance(schema.get("required", []), list):
        schema.pop("required")
    return {
        "name": function["name"],
        "description": str(function.get("description") or function["name"]),
        "parameters": {**schema, "type": "object"},
    }


def _functions(codes: Any) -> dict[str, str]:
    if not isinstance(codes, Mapping) or not all(isinstance(v, str) for v in codes.values()):
        raise BadInputError(f"field 'codes' must be names to sources, found {codes!r:.80}")
    return {str(name): source for name, source in codes.items()}


def _sub_answers(unsolved: Any) -> list[SubAnswer]:
    if not isinstance(unsolved, Mapping):
        raise BadInputError(
            f"field 'unsolved_set' must be names to sub-answers, found {unsolved!r:.80}"
        )
    pairs = [
        (str(tool), str(answer))
        for tool, answers in unsolved.items()
        for answer in (answers if isinstance(answers, list) else [answers])
    ]
    return [SubAnswer(f"s{number}", *pair) for number, pair in enumerate(pairs, 1)]


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if isinstance(row.get("data_source"), str):
        facts["data_source"] = row["data_source"]
    own = row.get(OWN)
    if isinstance(own, str):
        facts |= _own_record(own).facts()
    return facts


def _own_record(text: str) -> Scenario:
    try:
        return Scenario.from_row(json.loads(text))
    except (ValidationError, ValueError, AttributeError) as error:
        line = str(error).splitlines()[0]
        raise BadInputError(f"field {OWN!r} holds no scenario of ours: {line}") from error


def to_public(scenario: Scenario) -> PublicScenario:
    """Our scenario in the published format; the whole of ours stands beside it, under `OWN`."""
    unsolved: dict[str, list[str]] = {}
    answers = {item.id: item.answer for item in scenario.sub_questions}
    for call in scenario.calls:
        unsolved.setdefault(call.tool, []).append(answers[call.sub_question])
    row = {
        "id": scenario.id,
        "messages": [{"role": "user", "content": scenario.question}],
        "tools": _text([document.schema_row() for document in scenario.documents]),
        "codes": _text(scenario.functions),
        "unsolved_set": _text(unsolved),
        "answer": scenario.answers[0],
        "data_source": scenario.author or "toolgym",
        "split": scenario.split,
        "solve_rate": 0.0,
        OWN: _text(scenario.to_row()),
    }
    return PublicScenario.from_row(row, scenario.id)


def to_own(scenario: PublicScenario) -> Scenario:
    """Our scenario from a published row that we wrote.

    Raises:
        BadInputError: the row is not ours: it says neither sub-questions nor reference calls.
    """
    own = scenario.row.get(OWN)
    if not isinstance(own, str):
        raise BadInputError(
            f"scenario {scenario.id!r} was not written by toolgym: the published format says "
            "neither sub-questions nor reference calls; play the file as it is "
            "(gym.make('ToolScenario-v0', tasks=FILE))"
        )
    return _own_record(own)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
