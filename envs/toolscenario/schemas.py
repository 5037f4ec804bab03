"""What keeps a function-calling document that an author wrote from being one."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping
from typing import Any

from toolgym.sandbox.sandbox import function_name
from toolgym.tools.schemas import TYPES, not_schema

__all__ = ["document_problems"]

_NAME = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)
_DEPTH = 20  # of nested schemas
_COMBINING = ("allOf", "anyOf", "oneOf")


def document_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a document from being a function-calling one.

    Args:
        document: ``name``, ``description``, ``parameters``.
    """
    name = document.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield f"the name {name!r:.80} is not a function name of at most 64 ASCII signs"
    elif not function_name(name).isidentifier() or keyword.iskeyword(name):
        yield f"the name {name!r} cannot be that of a Python function"
    if not isinstance(document.get("description"), str) or not document["description"].strip():
        yield "there is no description"
    parameters = document.get("parameters")
    if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
        yield f"the parameters must be a JSON Schema of type 'object', found {parameters!r:.80}"
        return
    if not isinstance(parameters.get("properties"), Mapping):
        yield "the parameters have no 'properties'"
        return
    for parameter in parameters["properties"]:
        if not parameter.isidentifier() or keyword.iskeyword(parameter):
            yield f"the parameter {parameter!r:.80} cannot be that of a Python function"
    yield from _schema_problems(parameters, "parameters")
    invalid = not_schema(parameters)
    if invalid:
        yield f"the parameters are not valid JSON Schema: {invalid}"


def _schema_problems(schema: Any, where: str, depth: int = 0) -> Iterator[str]:
    """What JSON Schema allows, or says in words that help nobody: depth, types, required names."""
    if not isinstance(schema, Mapping):
        return
    if depth > _DEPTH:
        yield f"{where} is nested more than {_DEPTH} levels deep"
        return
    kinds = schema.get("type")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind is not None and kind not in TYPES:
            yield f"{where} has the type {kind!r:.80}; types: {', '.join(TYPES)}"
    properties, required = schema.get("properties", {}), schema.get("required", [])
    for item in _list_of(required):
        if isinstance(item, str) and item not in properties:
            yield f"{where} requires {item!r}, which is not among its properties"
    for name, inner in properties.items() if isinstance(properties, Mapping) else ():
        yield from _schema_problems(inner, f"{where}.{name}", depth + 1)
    yield from _schema_problems(schema.get("items"), f"{where}[]", depth + 1)
    for branch in (branch for word in _COMBINING for branch in _list_of(schema.get(word))):
        yield from _schema_problems(branch, where, depth + 1)


def _list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
