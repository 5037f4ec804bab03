"""Scenarios: a question, its sub-questions, and tools made for it; validated records.

A scenario is made in stages, and each record holds a little more than the last. Whoever writes rows
of scenarios makes them of these, and whoever reads them too: `toolgym.envs.toolscenario` plays
them, `toolgym.miniature` makes some, reports group by their shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from toolgym._util.notebook import folded, fragment, quoted

__all__ = [
    "FROM",
    "GROUPED_BY",
    "MAX_LEVEL",
    "SHAPES",
    "Combination",
    "Decomposition",
    "Documented",
    "Integrated",
    "Levels",
    "Record",
    "ReferenceCall",
    "Rule",
    "Scaled",
    "Scenario",
    "Shape",
    "SubQuestion",
    "ToolDocument",
    "shape_of",
]

Shape = Literal["single-hop", "parallel single-hop", "multi-hop", "parallel multi-hop"]
SHAPES: tuple[Shape, ...] = (
    *("single-hop", "parallel single-hop", "multi-hop", "parallel multi-hop"),
)
GROUPED_BY = ("shape", "complexity")
"""Columns of their tasks that reports group scenarios by when nothing else is asked for."""
MAX_LEVEL = 3
FROM = "$from"
"""Key of an argument that stands for the result of an earlier sub-question."""

Level = Annotated[int, Field(ge=0, le=MAX_LEVEL)]


class Record(BaseModel):
    """A frozen row: unknown fields are refused, values are not converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def to_row(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json")


class SubQuestion(Record):
    """One step of the way to the answer.

    Args:
        id: such as ``q1``, unique within the scenario.
        question: in words; ``#q1`` stands for the answer of an earlier one.
        answer: what its tool call must give; ``, `` separates parts that may stand apart.
        needs: earlier sub-questions whose answers it needs.
    """

    id: str
    question: str
    answer: str
    needs: tuple[str, ...] = ()


Rule = Literal[
    "last", "list", "count", "sum", "difference",
    "maximum", "minimum", "first_maximum", "first_minimum", "equal",
]  # fmt: skip


class Combination(Record):
    """How the final answer follows from the sub-answers.

    Args:
        rule: ``last``: it is the answer of the one sub-question named; ``list``: the answers of
            those named, in this order; ``count``, ``sum``, ``difference``, ``maximum`` and
            ``minimum``: computed from their numbers; ``first_maximum``, ``first_minimum``: the
            label whose number is largest or smallest; ``equal``: ``yes`` or ``no``.
        of: ids of sub-questions.
        labels: for ``first_maximum`` and ``first_minimum``: one for each of ``of``.
    """

    rule: Rule = "last"
    of: tuple[str, ...]
    labels: tuple[str, ...] = ()


class Decomposition(Record):
    """Stage 1: a question, its sub-questions and how the answer follows from theirs.

    Args:
        id: of the question.
        question: what the policy will be asked.
        answers: acceptable final answers, the canonical one first.
        answer_type: how an answer is compared.
        sub_questions: in an order in which each comes after what it needs.
        combination: how the first of ``answers`` follows.
        split: of the question.
        notes: the author's own, handed on to the later stages; never shown to a policy.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    answer_type: Literal["text", "number"] = "text"
    sub_questions: tuple[SubQuestion, ...]
    combination: Combination
    split: str = ""
    notes: dict[str, Any] = {}

    @property
    def shape(self) -> Shape:
        """The shape of the graph of sub-questions; see `shape_of`."""
        return shape_of(self.sub_questions)

    def sub_question(self, name: str) -> SubQuestion:
        """The sub-question of that id; a KeyError where there is none."""
        for found in self.sub_questions:
            if found.id == name:
                return found
        raise KeyError(name)


class ToolDocument(Record):
    """A function-calling document.

    Args:
        name: what the policy calls.
        description: what it does.
        parameters: JSON Schema of an object.
    """

    name: str
    description: str
    parameters: dict[str, Any]

    def schema_row(self) -> dict[str, Any]:
        """``{"type": "function", "function": {...}}``."""
        return {"type": "function", "function": self.to_row()}


class ReferenceCall(Record):
    """The call that answers a sub-question.

    Args:
        sub_question: its id.
        tool: name of the tool.
        arguments: plain values; ``{"$from": "q1"}`` anywhere in them stands for the result of an
            earlier call, ``{"$from": "q1", "path": ["city", 0]}`` for a part of it.
    """

    sub_question: str
    tool: str
    arguments: dict[str, Any]

    @field_validator("arguments")
    @classmethod
    def _check_references(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        _refuse_malformed(arguments)
        return arguments

    def filled(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments with earlier results put in.

        Args:
            results: sub-question ids to the values that their calls returned.

        Raises:
            LookupError: a result, or a part of one, is not there.
        """
        return {name: _fill(value, results) for name, value in self.arguments.items()}


class Documented(Decomposition):
    """Stage 2: one document for each sub-question, and the call that answers it.

    Args:
        documents: of the tools.
        calls: one for each sub-question, in their order.
    """

    documents: tuple[ToolDocument, ...]
    calls: tuple[ReferenceCall, ...]


class Integrated(Documented):
    """Stage 3: tools whose functions overlap are one.

    Args:
        merged: old tool names to the one that took their work; names that stayed are left out.
    """

    merged: dict[str, str] = {}


class Levels(Record):
    """How far each strategy of complexity scaling goes, from 0 (not at all) to `MAX_LEVEL`.

    Args:
        functional_generalisation: the tools do more than the question needs.
        parameter_expansion: more parameters, also optional ones.
        type_generalisation: texts become dates, lists, objects, enumerations, numbers with units.
        toolset_extension: tools that no sub-question needs.
    """

    functional_generalisation: Level = 0
    parameter_expansion: Level = 0
    type_generalisation: Level = 0
    toolset_extension: Level = 0

    @property
    def total(self) -> int:
        """The sum, from 0 to 12: the scenario's complexity."""
        return sum(self.model_dump().values())


class Scaled(Integrated):
    """Stage 4: the same questions with harder tools.

    Args:
        levels: what was applied.
        distractors: names of tools that solve nothing.
    """

    levels: Levels = Levels()
    distractors: tuple[str, ...] = ()


class Scenario(Scaled):
    """Stage 5: a local tool environment for one question.

    Args:
        functions: tool names to the source of a Python function of that name; run in the sandbox
            only.
        author: which author made it.
    """

    functions: dict[str, str]
    author: str = ""

    def __repr__(self) -> str:
        parts = f"{len(self.sub_questions)} sub-questions, {len(self.functions)} tools"
        return f"Scenario({self.id}, {self.shape}, {parts})"

    def _repr_html_(self) -> str:
        calls = {call.sub_question: call for call in self.calls}
        rows = [
            [item.id, item.question, item.answer, _called(calls.get(item.id))]
            for item in self.sub_questions
        ]
        lines = [f"Question: {self.question}", f"Answers: {' | '.join(self.answers)}"]
        below = "".join(folded(name, quoted(source)) for name, source in self.functions.items())
        head = ("", "sub-question", "answer", "reference call")
        return fragment(lines, [("", head, rows)], title=repr(self), below=below)

    def to_row(self) -> dict[str, Any]:
        """Plain JSON values, with the shape for readers."""
        return {"schema": 1, "shape": self.shape, **self.model_dump(mode="json")}

    def facts(self) -> dict[str, Any]:
        """Columns that its task has, among them those of `GROUPED_BY`."""
        levels = self.levels
        return {"shape": self.shape, "complexity": levels.total, "levels": levels.to_row()}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Scenario:
        """Read what `to_row` wrote.

        Raises:
            ValueError: it is none (pydantic's error, or another schema version).
        """
        if row.get("schema") != 1:
            raise ValueError(f"scenario schema {row.get('schema')!r} is not 1")
        plain = {key: value for key, value in row.items() if key not in ("schema", "shape")}
        return cls.model_validate(plain, strict=False)


def _called(call: ReferenceCall | None) -> str:
    return "-" if call is None else f"{call.tool}({call.arguments})"


def shape_of(sub_questions: Sequence[SubQuestion]) -> Shape:
    """The shape of a graph of sub-questions (arXiv 2508.08791, scenario decomposition).

    One: ``single-hop``. None needs another: ``parallel single-hop``. Each needs exactly the one
    before it: ``multi-hop``. All else, several chains or chains that meet: ``parallel multi-hop``.
    """
    if len(sub_questions) == 1:
        return "single-hop"
    if not any(item.needs for item in sub_questions):
        return "parallel single-hop"
    before = [(), *((item.id,) for item in sub_questions)]
    if all(item.needs == need for item, need in zip(sub_questions, before, strict=False)):
        return "multi-hop"
    return "parallel multi-hop"


def references(value: Any) -> Iterator[str]:
    """The sub-questions that an argument takes results from."""
    if isinstance(value, dict):
        if FROM in value:
            yield value[FROM]
        else:
            for item in value.values():
                yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def _refuse_malformed(value: Any) -> None:
    """Every object with the key `FROM` names a sub-question and, at most, a path.

    Raises:
        ValueError: one does not.
    """
    if isinstance(value, dict) and FROM in value:
        path = value.get("path", ())
        steps = path if isinstance(path, list | tuple) else (None,)
        named = isinstance(value[FROM], str) and value.keys() <= {FROM, "path"}
        if not named or not all(isinstance(step, str | int) for step in steps):
            raise ValueError(
                f'{value!r:.200} is not a reference such as {{"{FROM}": "q1", "path": ["city", 0]}}'
            )
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_malformed(item)


def _fill(value: Any, results: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        if FROM not in value:
            return {name: _fill(item, results) for name, item in value.items()}
        found = results[value[FROM]]
        for step in value.get("path", ()):
            found = found[step]
        return found
    if isinstance(value, list | tuple):
        return [_fill(item, results) for item in value]
    return value
