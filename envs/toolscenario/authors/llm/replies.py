"""What a model has to reply in each stage: strict pydantic models, also sent as JSON Schemas."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "REPLIES",
    "DecompositionReply",
    "DeploymentReply",
    "DocumentsReply",
    "IntegrationReply",
    "ScalingReply",
    "sent_schema",
]

Name = Annotated[str, Field(min_length=1, max_length=64)]
Words = Annotated[str, Field(min_length=1, max_length=2_000)]
Plan = Annotated[str, Field(max_length=20_000, description="Your considerations; nobody uses it")]
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
    """How the answer follows: see `toolgym.envs.toolscenario.records.Combination`."""

    rule: Literal[
        "last",
        "list",
        "count",
        "sum",
        "difference",
        "maximum",
        "minimum",
        "first_maximum",
        "first_minimum",
        "equal",
    ]
    of: Annotated[list[Name], Field(min_length=1, max_length=12)]
    labels: Annotated[list[Words], Field(max_length=12)] = []


class DecompositionReply(Reply):
    """Of stage 1."""

    plan: Plan = ""
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

    plan: Plan = ""
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

    plan: Plan = ""
    merges: Annotated[list[MergeReply], Field(max_length=6)]


class CallReply(NewArgumentsReply):
    """A whole reference call."""

    tool: Name


class ScalingReply(Reply):
    """Of stage 4: all tools and calls anew, and the distractors."""

    plan: Plan = ""
    tools: Annotated[list[DocumentReply], Field(min_length=1, max_length=12)]
    calls: Annotated[list[CallReply], Field(min_length=1, max_length=12)]
    distractors: Annotated[list[DocumentReply], Field(max_length=12)] = []


class FunctionReply(Reply):
    """The source of one function."""

    name: Name
    source: Annotated[str, Field(min_length=1, max_length=50_000)]


class DeploymentReply(Reply):
    """Of stage 5."""

    plan: Plan = ""
    functions: Annotated[list[FunctionReply], Field(min_length=1, max_length=24)]


REPLIES: dict[str, type[Reply]] = {
    "decomposition": DecompositionReply,
    "documents": DocumentsReply,
    "integration": IntegrationReply,
    "scaling": ScalingReply,
    "deployment": DeploymentReply,
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
