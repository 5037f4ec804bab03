"""``DocumentTool``: a tool whose parameters are told by a JSON Schema, not by hints."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from toolgym._util.jsonl import copy_json, not_json
from toolgym.errors import BadInputError, ToolError
from toolgym.tools.base import Tool
from toolgym.tools.schemas import misfits, not_schema

__all__ = ["DocumentTool"]

_SCALARS: dict[str, Callable[[str], float]] = {"integer": int, "number": float}
_WORDS = {"true": True, "false": False}


class DocumentTool(Tool):
    """A tool of a document: what `Tool.from_schema` makes.

    Args:
        function: takes the arguments by name.
        schema: JSON Schema of the parameters.
        checked: whether arguments are checked here; a schema that cannot be enforced is refused
            then.
        options: as of `Tool`.

    Raises:
        BadInputError: see `Tool.from_schema`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        schema: Mapping[str, Any],
        checked: bool = True,
        **options: Any,
    ) -> None:
        self._schema, self._checked = schema, checked
        super().__init__(function, **options)
        self._options |= {"schema": schema, "checked": checked}

    def _document(self, function: Callable[..., Any], description: str | None) -> None:
        """Take the document as it is; see `Tool`."""
        given, self.method = self._schema, False
        what = f"the schema of tool {self.name!r}"
        if not isinstance(given, Mapping) or given.get("type", "object") != "object":
            raise BadInputError(f"{what} must be a JSON Schema of type 'object', not {given!r:.80}")
        if why := not_json(dict(given)):
            raise BadInputError(f"{what} is not plain JSON ({why})")
        if self._checked and (why := not_schema(given)):
            raise BadInputError(f"{what} cannot be enforced: {why}")
        self.parameters = copy_json({"type": "object", **given})
        self.parameters.setdefault("properties", {})
        said = description or given.get("description") or inspect.getdoc(function) or ""
        self.description = said.strip()
        if not self.description:
            raise BadInputError(f"tool {self.name!r} needs a description, for the policy reads it")
        self._names = list(self.parameters["properties"])

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Check arguments against the schema: numbers in text are read, unknown names refused.

        Raises:
            ToolError: with one line for the model that names each wrong argument.
        """
        given = dict(arguments)
        if not self._checked:
            return given
        try:
            problems = misfits(given, self.parameters)
            if problems and given != (read := self._read(given)):
                given, problems = read, misfits(read, self.parameters)
        except BadInputError as error:  # a user has changed the document
            raise ToolError(f"{self.name} cannot be called: its parameters: {error}") from error
        if problems:
            raise ToolError(f"invalid arguments for {self.name}: {'; '.join(problems)}")
        return given

    def _read(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that text formats wrote as text, in the type that their schema names."""
        schemas = self.parameters["properties"]
        return {name: _typed(value, schemas.get(name)) for name, value in arguments.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again from function and document, in whatever process."""
        return functools.partial(type(self), **self._options), (self.function,)


def _typed(value: Any, schema: Any) -> Any:
    """A text as the one other type that its schema allows; as it is, where it is none of that."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if not isinstance(value, str) or not isinstance(kind, str):
        return value
    try:
        if kind in _SCALARS:
            number = _SCALARS[kind](value)
            return number if math.isfinite(number) else value
        if kind in ("object", "array"):
            read = json.loads(value)
            return read if isinstance(read, dict if kind == "object" else list) else value
    except (ValueError, RecursionError):
        return value
    return _WORDS.get(value.strip().lower(), value) if kind == "boolean" else value
