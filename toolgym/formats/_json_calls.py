"""Calls written as JSON objects, which several families of models share."""

from __future__ import annotations

from typing import Any

from toolgym.formats._repair import repaired
from toolgym.formats._scan import read_json
from toolgym.messages import ToolCall
from toolgym.trajectory import Problem

__all__ = ["REPAIRED", "call_of", "read_call"]

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
