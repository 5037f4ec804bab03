"""Which parameters a model server understands, learnt from what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Dialect", "structure_of"]

_REFUSALS = (400, 415, 422, 500, 501)
_STRUCTURE = ("response_format", "json_schema", "json_object", "grammar", "guided")


class Dialect:
    """The request's body as the server has been found to take it; begins with everything.

    Args:
        structured: ask for JSON of a schema.
    """

    def __init__(self, structured: bool) -> None:
        self.format = "json_schema" if structured else ""
        self.limit = "max_tokens"
        self.without: frozenset[str] = frozenset()
        self.proved: set[str] = set()  # the structures with which a reply has come

    def body(self, wanted: Mapping[str, Any], schema: Mapping[str, Any] | None) -> dict[str, Any]:
        """A request's body.

        Args:
            wanted: its fields, as the interface was first documented.
            schema: JSON Schema of the reply, or None.
        """
        made = {key: value for key, value in wanted.items() if key not in self.without}
        made[self.limit] = made.pop("max_tokens")
        if schema and self.format == "json_schema":
            named = {"name": "reply", "schema": schema, "strict": False}
            made["response_format"] = {"type": "json_schema", "json_schema": named}
        elif schema and self.format:
            made["response_format"] = {"type": "json_object"}
        return made

    def adapt(self, body: Mapping[str, Any], status: int, refusal: str) -> bool:
        """Learn from a refusal.

        Args:
            body: that was refused.
            status: of HTTP.
            refusal: what the server said.

        Returns:
            Whether another body may be accepted.
        """
        if status not in _REFUSALS:
            return False
        said = refusal.casefold()
        kind = structure_of(body)
        named = {name for name in ("temperature", "seed") if name in said and name in body}
        if "max_completion_tokens" in said and "max_tokens" in body:
            self.limit = "max_completion_tokens"
        elif named:
            self.without = self.without | named
        elif kind and (_names_structure(said) or (status < 500 and kind not in self.proved)):
            if self.format == kind:
                self.format = "json_object" if kind == "json_schema" else ""
        else:
            return False
        return True

    def restore(self, structure: str) -> None:
        """Ask for this structure again where a lower one has brought no reply either.

        Args:
            structure: what was asked for before.
        """
        if self.format not in self.proved:
            self.format = structure


def structure_of(body: Mapping[str, Any]) -> str:
    """What a body asks for: ``json_schema``, ``json_object`` or nothing."""
    return str(body.get("response_format", {}).get("type", ""))


def _names_structure(said: str) -> bool:
    return any(word in said for word in _STRUCTURE)
