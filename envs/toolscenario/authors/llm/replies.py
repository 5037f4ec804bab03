"""What a model has to reply in each stage, as strict models, and how it is read from its text."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolgym.formats.repair import repaired
from toolgym.formats.scan import decode_json, read_json, without_think
from toolgym.scenario import Rule

__all__ = [
    *("REPLIES", "DecompositionReply", "DeploymentReply", "DocumentsReply", "IntegrationReply"),
    *("ScalingReply", "UnusableError", "fenced_functions", "read_object", "read_reply"),
    "sent_schema",
]

Kind = TypeVar("Kind", bound=BaseModel)

_DEF = re.compile(r"^def[ \t]+([A-Za-z_]\w*)[ \t]*\(", re.M | re.ASCII)
_AT_MARGIN = re.compile(r"^\{", re.M)
_FENCE = "```"
_CUT_OFF = "it was cut off at the length limit, in the middle of the object: write less"
_TOLD = 5  # schema errors that are named at once


class UnusableError(ValueError):
    """A reply that cannot be used.

    Args:
        reason: a short name for counting, such as ``bad_json``.
        message: what is wrong with it, for the model to read.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def read_reply(text: str, kind: type[Kind], complete: bool) -> Kind:
    """A reply of one stage.

    Args:
        text: what the model wrote.
        kind: what it has to be.
        complete: whether the model had finished.

    Raises:
        UnusableError: it is something else; ``bad_json``, ``wrong_schema``, ``cut_off``,
            ``empty_reply`` or ``several_objects``.
    """
    found = read_object(text, complete)
    try:
        # Written again, since only from JSON text do strict models take lists for tuples; NaN and
        # infinity, which Python reads but JSON lacks, do not survive it.
        return kind.model_validate_json(json.dumps(found, allow_nan=False))
    except ValidationError as error:
        raise UnusableError("wrong_schema", _told(error)) from error
    except ValueError as error:
        raise UnusableError("bad_json", f"a number in it is not JSON: {error}") from error


def _told(error: ValidationError) -> str:
    errors = error.errors(include_url=False, include_context=False)
    lines = []
    for item in errors[:_TOLD]:
        where = ".".join(str(part) for part in item["loc"]) or "the object"
        found = json.dumps(item["input"], default=str, ensure_ascii=False)
        lines.append(f"{where}: {item['msg']} (found {found:.80})")
    if len(errors) > _TOLD:
        lines.append(f"and {len(errors) - _TOLD} more")
    return "; ".join(lines)


def read_object(text: str, complete: bool) -> dict[str, Any]:
    """The one JSON object of a reply.

    Reasoning before ``</think>``, a code fence, and prose before and after are passed over; nearly
    valid JSON is repaired where there is one reading only. Two different objects, and half of one,
    are refused: nobody knows which part was meant.

    Args:
        text: what the model wrote.
        complete: whether the model had finished.

    Raises:
        UnusableError: there is no such object.
    """
    begin = text[: text.find("{") + 1]
    if (
        without_think(begin) == begin
    ):  # no mark of reasoning before the object: those in it are text
        with contextlib.suppress(UnusableError):
            return _read_object(text.strip(), complete)
    return _read_object(without_think(text).strip(), complete)


def _read_object(text: str, complete: bool) -> dict[str, Any]:
    if not text:
        if not complete:
            raise UnusableError("cut_off", _CUT_OFF)
        raise UnusableError("empty_reply", "it is empty")
    for whole in (text, *_only_fence(text)):
        try:
            return _object(read_json(whole))
        except ValueError as error:
            if isinstance(error, UnusableError):
                raise
    return _within_prose(text, complete)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UnusableError(
            "wrong_schema", f"a JSON object is needed, not {type(value).__name__}: {value!r:.80}"
        )
    return value


def _only_fence(text: str) -> list[str]:
    found = list(_fences(text, ("", "json")))
    return found if len(found) == 1 else []


def _fences(text: str, languages: tuple[str, ...]) -> Iterator[str]:
    """What stands in closed code fences of some languages; time is linear in the text."""
    block: list[str] | None = None
    wanted = False
    for line in text.splitlines(keepends=True):
        plain = line.strip()
        if not plain.startswith(_FENCE):
            if block is not None:
                block.append(line)
        elif block is None:
            block, wanted = [], plain[len(_FENCE) :].strip().lower() in languages
        elif plain == _FENCE:
            if wanted:
                yield "".join(block)
            block = None


def _within_prose(text: str, complete: bool) -> dict[str, Any]:
    margin = _AT_MARGIN.search(text)
    begin = margin.start() if margin else text.find("{")
    if begin < 0:
        if not complete:
            raise UnusableError("cut_off", _CUT_OFF)
        raise UnusableError("bad_json", f"there is no JSON object in it; it begins {text[:80]!r}")
    try:
        value, end = decode_json(text, begin)
    except ValueError as error:
        return _mended(text[begin:], complete, error)
    _refuse_second(text, end, value)
    return _object(value)


def _refuse_second(text: str, position: int, first: Any) -> None:
    while (margin := _AT_MARGIN.search(text, position)) is not None:
        try:
            other, position = decode_json(text, margin.start())
        except ValueError:
            return
        if other != first:
            raise UnusableError("several_objects", "there are several JSON objects; reply with one")


def _mended(text: str, complete: bool, error: ValueError) -> dict[str, Any]:
    fence = text.rfind("\n```")
    candidate = text[:fence] if fence >= 0 else text
    try:
        value, _ = repaired(candidate, complete=complete)
    except (ValueError, RecursionError):
        if not complete:
            raise UnusableError("cut_off", _CUT_OFF) from error
        raise UnusableError("bad_json", f"it is not valid JSON: {error}") from error
    return _object(value)


def fenced_functions(text: str) -> dict[str, str]:
    """Python functions in code fences, by name; each with the whole source of its fence.

    Nothing is parsed or run here: only the sandbox reads a model's code.

    Args:
        text: what the model wrote.
    """
    found: dict[str, str] = {}
    for block in _fences(without_think(text), ("", "python", "py", "python3")):
        for name in _DEF.findall(block):
            found[name] = block
    return found


Name = Annotated[str, Field(min_length=1, max_length=64)]
Words = Annotated[str, Field(min_length=1, max_length=2_000)]
Considerations = Annotated[
    str, Field(max_length=20_000, description="Your considerations; nobody uses it")
]
Arguments: TypeAlias = dict[str, Any]


class Reply(BaseModel):
    """Values are not converted, unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SubQuestionReply(Reply):
    """One step: see `toolgym.envs.toolscenario.records.SubQuestion`."""

    id: Name
    question: Words
    answer: Words
    needs: Annotated[list[Name], Field(max_length=12)] = []


class CombinationReply(Reply):
    """How the answer follows: see `toolgym.scenario.Combination`."""

    rule: Rule
    of: Annotated[list[Name], Field(min_length=1, max_length=12)]
    labels: Annotated[list[Words], Field(max_length=12)] = []


class DecompositionReply(Reply):
    """Of stage 1."""

    plan: Considerations = ""
    sub_questions: Annotated[list[SubQuestionReply], Field(min_length=1, max_length=12)]
    combination: CombinationReply
    answer: Words


class DocumentReply(Reply):
    """A function-calling document."""

    name: Name
    description: Words
    parameters: Arguments


class DocumentedReply(DocumentReply):
    """A document with the call of it that answers one sub-question."""

    sub_question: Name
    arguments: Arguments


class DocumentsReply(Reply):
    """Of stage 2: one tool a sub-question."""

    plan: Considerations = ""
    tools: Annotated[list[DocumentedReply], Field(min_length=1, max_length=12)]


class NewArgumentsReply(Reply):
    """A reference call whose tool is known."""

    sub_question: Name
    arguments: Arguments


class MergeReply(Reply):
    """Tools that become one."""

    replaces: Annotated[list[Name], Field(min_length=2, max_length=12)]
    tool: DocumentReply
    calls: Annotated[list[NewArgumentsReply], Field(min_length=1, max_length=12)]


class IntegrationReply(Reply):
    """Of stage 3: what is merged; all else stays as it is."""

    plan: Considerations = ""
    merges: Annotated[list[MergeReply], Field(max_length=6)]


class CallReply(NewArgumentsReply):
    """A whole reference call."""

    tool: Name


class ScalingReply(Reply):
    """Of stage 4: all tools and calls anew, and the distractors."""

    plan: Considerations = ""
    tools: Annotated[list[DocumentReply], Field(min_length=1, max_length=12)]
    calls: Annotated[list[CallReply], Field(min_length=1, max_length=12)]
    distractors: Annotated[list[DocumentReply], Field(max_length=12)] = []


class FunctionReply(Reply):
    """The source of one function."""

    name: Name
    source: Annotated[str, Field(min_length=1, max_length=50_000)]


class DeploymentReply(Reply):
    """Of stage 5."""

    plan: Considerations = ""
    functions: Annotated[list[FunctionReply], Field(min_length=1, max_length=24)]


class WorldToolReply(FunctionReply):
    """A tool of a world: its document and its source."""

    description: Words
    parameters: dict[str, Any]


class StepReply(Reply):
    """A gold call: see `toolgym.envs.toolscenario.world.PlanStep`."""

    id: Name
    tool: Name
    arguments: dict[str, Any]
    after: Annotated[list[Name], Field(max_length=24)] = []


class WorldReply(Reply):
    """A whole world: see `toolgym.envs.toolscenario.world.World`."""

    plan: Considerations = ""
    question: Words
    domain: Name
    state: dict[str, Any]
    links: dict[str, str] = {}
    tools: Annotated[list[WorldToolReply], Field(min_length=1, max_length=24)]
    goal: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=24)]
    rules: Annotated[list[dict[str, Any]], Field(max_length=12)] = []
    invariants: Annotated[list[dict[str, Any]], Field(max_length=12)] = []
    steps: Annotated[list[StepReply], Field(min_length=1, max_length=40)]


REPLIES: dict[str, type[Reply]] = {
    "decomposition": DecompositionReply,
    "documents": DocumentsReply,
    "integration": IntegrationReply,
    "scaling": ScalingReply,
    "deployment": DeploymentReply,
    "world": WorldReply,
}
"""Stages to what is replied in them."""

_NOT_SENT = ("minLength", "maxLength", "minItems", "maxItems")


@functools.lru_cache
def sent_schema(stage: str) -> dict[str, Any]:
    """The JSON Schema of a stage's reply, as a server gets it.

    Without bounds on lengths, which are checked here: servers that make a grammar of a schema
    unroll them.

    Args:
        stage: a key of `REPLIES`.
    """
    made: dict[str, Any] = _sent(REPLIES[stage].model_json_schema())
    return made


def _sent(value: Any) -> Any:
    if isinstance(value, dict):
        kept = ((key, item) for key, item in value.items() if key not in _NOT_SENT)
        return {key: _sent(item) for key, item in kept}
    return [_sent(item) for item in value] if isinstance(value, list) else value
