"""Calls written as JSON objects, which several families of models share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from toolgym.formats.base import Action
from toolgym.formats.repair import repaired
from toolgym.formats.scan import fields, read_json
from toolgym.formats.strategies import Strategy
from toolgym.messages import ToolCall
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem

__all__ = ["REPAIRED", "call_of", "read_answer", "read_call", "written_instructions"]

REPAIRED = "repaired_json"


def read_call(
    inner: str, number: int, *, complete: bool = True
) -> tuple[ToolCall | Problem, list[Problem]]:
    """One call from the text of a JSON object.

    Args:
        inner: what the model wrote.
        number: of the call in the reply, from 0.
        complete: whether the model had finished writing it.

    Returns:
        The call, or why there is none; and a problem for each repair.
    """
    notes: list[str] = []
    try:
        value = read_json(inner)
    except ValueError as error:
        try:
            value, notes = repaired(inner, complete=complete)
        except ValueError:
            text = f"tool call {number + 1} is not valid JSON ({error})"
            return Problem("bad_json", text[:300]), []
    return call_of(value, number, notes)


def call_of(
    value: Any, number: int, notes: list[str] | None = None
) -> tuple[ToolCall | Problem, list[Problem]]:
    """One call from a JSON value with ``name`` and ``arguments`` or ``parameters``.

    Args:
        value: any JSON value.
        number: of the call in the reply, from 0.
        notes: what was repaired to get the value.
    """
    notes = list(notes or ())
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return Problem("bad_call", f"tool call {number + 1} needs a 'name'"), []
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        # Some models encode the arguments twice.
        notes.append("arguments encoded as text")
        try:
            arguments = read_json(arguments)
        except ValueError as error:
            text = f"tool call {number + 1} is not valid JSON ({error})"
            return Problem("bad_json", text[:300]), []
    if not isinstance(arguments, dict):
        text = f"the arguments of tool call {number + 1} must be an object"
        return Problem("bad_call", text), []
    problems = [
        Problem(REPAIRED, f"tool call {number + 1} was no valid JSON and was repaired: {note}")
        for note in notes
    ]
    return ToolCall(f"call_{number}", value["name"], arguments), problems


def read_answer(content: str) -> Action:
    """A reply without a call: what follows ``Answer:``, else all of it, is the answer."""
    found = fields(content, ("Answer",))
    answer = found.get("Answer", found[""])
    if not answer:
        return Action("", (), None, (Problem("empty_reply", "it holds no answer"),))
    return Action(found[""] if "Answer" in found else "", (), answer)


def written_instructions(
    strategy: Strategy, tools: Sequence[Schema], frame: str, calling: str
) -> str:
    """The system text for a strategy, in our own words.

    Args:
        strategy: what is asked for.
        tools: function-calling documents; none: tools are not spoken of.
        frame: how the documents stand, with ``{documents}`` in it.
        calling: how a call is written.
    """
    answer = (
        f"{strategy.thinking()} the final answer, in a few words, on a last line 'Answer: ...'."
    )
    if not tools:
        return f"Answer the question from what you know. {answer}"
    documents = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    turns = "in one turn only" if strategy.tool_turns == 1 else "in as many turns as you want"
    return (
        f"Answer the question. You may call functions {turns}. Their signatures:\n"
        f"{frame.replace('{documents}', documents)}\n{calling}. When you know it: {answer}"
    )
