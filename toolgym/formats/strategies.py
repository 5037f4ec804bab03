"""Prompting strategies: what a policy is told about tools, independent of the format's syntax.

The first five are those of arXiv 2502.05867 (section on prompting), in our own words; ``bare``
gives no instructions at all, for policies that were trained into a format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolgym.messages import ToolCall
from toolgym.tools.base import Schema

__all__ = [
    "BARE",
    "NON_REASONING",
    "NO_TOOL",
    "NO_TOOL_COT",
    "REASONING",
    "TOOLS_MULTI_STEP",
    "TOOLS_SINGLE_STEP",
    "TOOLS_SINGLE_STEP_NO_RATIONALE",
    "Strategy",
    "sample_call",
]


@dataclass(frozen=True, slots=True)
class Strategy:
    """What the instructions ask for.

    Args:
        name: what users write as ``prompt``.
        tools: whether tools are offered at all.
        tool_turns: in how many turns tools may be called; None = as many as the episode has.
        thought: ask for reasoning before acting or answering.
        rationale: ask for a reading of the tool results before the answer.
        instructions: write instructions; without them the question stands alone.
        reasoning: ask for that reasoning between ``<think>`` and ``</think>``.
    """

    name: str
    tools: bool = True
    tool_turns: int | None = None
    thought: bool = True
    rationale: bool = True
    instructions: bool = True
    reasoning: bool = False

    def thinking(self) -> str:
        """The begin of the sentence that asks for an answer."""
        if self.reasoning:
            return "Reason between <think> and </think> first, in every turn. Then write"
        return "Think step by step, then write" if self.thought else "Write"

    def following(self, another: str, answer: str) -> str:
        """The line under tool results that says what may come next; empty without instructions.

        Args:
            another: how one more call is named.
            answer: how an answer is written.
        """
        if not self.instructions:
            return ""
        if self.tool_turns == 1:
            return f"\nNo more tools may be called. Now write {answer}."
        return f"\nNow write {another}, or {answer}."


NO_TOOL = Strategy("no_tool", tools=False, thought=False, rationale=False)
NO_TOOL_COT = Strategy("no_tool_cot", tools=False, rationale=False)
TOOLS_SINGLE_STEP = Strategy("tools_single_step", tool_turns=1)
TOOLS_SINGLE_STEP_NO_RATIONALE = Strategy(
    "tools_single_step_no_rationale", tool_turns=1, rationale=False
)
TOOLS_MULTI_STEP = Strategy("tools_multi_step")
BARE = Strategy("bare", instructions=False)
REASONING = Strategy("reasoning", reasoning=True)
"""For models that reason before they act (arXiv 2508.08791, evaluation)."""
NON_REASONING = Strategy("non_reasoning", thought=False, rationale=False)
"""For models that act at once."""

_SUCH_AS = re.compile(r"(?:such as|for example|e\.g\.),?:? *(.+?)(?=, | or |[.;)](?: |\Z)|\Z)")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_DEEPEST = 4  # levels of objects in lists in objects that a sample shows
# Subjects that are made up: none of them is asked for in a set of questions.
_TEXTS = {
    "expression": "12*(7+5)",
    "equation": "3*x = 36",
    "formula": "12*(7+5)",
    "code": "print(12*7)",
    "text": "Wo liegt der Ortmundsee?",
    "phrase": "Wo liegt der Ortmundsee?",
    "sentence": "Wo liegt der Ortmundsee?",
    "language": "German",
    "lang": "de",
    "person": "Ines Falkenrath",
    "author": "Ines Falkenrath",
    "user": "ines_falkenrath",
    "name": "Ines Falkenrath",
    "city": "Ortmund",
    "location": "Ortmund",
    "place": "Ortmund",
    "id": "K-2071",
    "number": "2071",
    "date": "2031-04-05",
    "time": "14:30",
    "date-time": "2031-04-05T14:30:00Z",
    "email": "ines@ortmund.example",
    "url": "https://ortmund.example/lake",
    "uri": "https://ortmund.example/lake",
    "path": "notes/lake.txt",
    "file": "lake.txt",
}
_SUBJECT = "Lake Ortmund"


def sample_call(tool: Schema) -> ToolCall:
    """A call with arguments that look real, for instructions: models copy what they are shown.

    The required arguments are given, or the first where none is required. What the document says
    comes first (``examples``, ``const``, ``enum``, ``default``, words behind "such as"), then its
    types and the names of its parameters.

    Args:
        tool: a function-calling document.
    """
    function = tool["function"]
    return ToolCall("sample", str(function["name"]), _object(function["parameters"], _DEEPEST))


def _object(schema: Mapping[str, Any], levels: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    names: Sequence[str] = schema.get("required") or list(properties)[:1]
    return {name: _sample(name, properties.get(name, {}), levels - 1) for name in names}


def _sample(name: str, schema: Any, levels: int) -> Any:
    if not isinstance(schema, Mapping):
        return _SUBJECT
    for key in ("examples", "enum"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    for key in ("const", "default"):
        if schema.get(key) is not None:
            return schema[key]
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        return _sample(name, {**choice, "description": schema.get("description", "")}, levels)
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind in ("integer", "number"):
        least = max(schema.get("minimum", 1), schema.get("exclusiveMinimum", 0) + 1)
        return max(least, min(3, schema.get("maximum", 3)))
    if kind == "array":
        return [_sample(name.removesuffix("s"), schema.get("items", {}), levels - 1)][: levels > 0]
    if kind == "object":
        return _object(schema, levels) if levels > 0 else {}
    return {"boolean": True, "null": None}.get(kind, _text(name, schema))


def _text(name: str, schema: Mapping[str, Any]) -> str:
    described = _SUCH_AS.search(str(schema.get("description", "")))
    if described is not None:
        return described[1].strip(" '\"`") or _SUBJECT
    words = [str(schema.get("format", "")), *(word.lower() for word in _WORDS.findall(name)[::-1])]
    return next((_TEXTS[word] for word in words if word in _TEXTS), _SUBJECT)
