"""JSON Schema as far as function-calling documents use it: is a document one, does a value fit."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["document_problems", "misfits", "words"]

_NAME = re.compile(r"[A-Za-z_][\w-]{0,63}", re.ASCII)
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
    "null": (type(None),),
}
_DEPTH = 20  # of nested schemas


def document_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a document from being a function-calling one.

    Args:
        document: ``name``, ``description``, ``parameters``.
    """
    name = document.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield f"the name {name!r:.80} is no function name of at most 64 ASCII signs"
    elif not name.isidentifier() or keyword.iskeyword(name):
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
    yield from _schema_problems(parameters, "parameters", 0)


def _schema_problems(schema: Any, where: str, depth: int) -> Iterator[str]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        yield f"{where} must be a schema, found {schema!r:.80}"
        return
    if depth > _DEPTH:
        yield f"{where} is nested more than {_DEPTH} levels deep"
        return
    kinds = schema.get("type")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind is not None and (not isinstance(kind, str) or kind not in _TYPES):
            yield f"{where} has the type {kind!r}; types: {', '.join(_TYPES)}"
    if "enum" in schema and (not isinstance(schema["enum"], list) or not schema["enum"]):
        yield f"{where} has an 'enum' that is no list of values"
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, Mapping):
        yield f"{where} has 'properties' that are no object"
        return
    if not isinstance(required, list) or not all(isinstance(item, str) for item in required):
        yield f"{where} has a 'required' that is no list of names"
        return
    for item in required:
        if item not in properties:
            yield f"{where} requires {item!r}, which is not among its properties"
    if len(set(required)) < len(required):
        yield f"{where} requires a name twice"
    for name, inner in properties.items():
        yield from _schema_problems(inner, f"{where}.{name}", depth + 1)
    if "items" in schema:
        yield from _schema_problems(schema["items"], f"{where}[]", depth + 1)
    for word in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(word, [])
        if not isinstance(branches, list):
            yield f"{where} has an {word!r} that is no list"
            continue
        for branch in branches:
            yield from _schema_problems(branch, where, depth + 1)


def misfits(value: Any, schema: Any, where: str = "arguments") -> Iterator[str]:
    """How a value breaks a valid schema: types, enumerations, bounds, required and unknown names.

    Args:
        value: plain JSON.
        schema: checked by `document_problems`; words that it does not know are passed over.
        where: for messages.
    """
    if not isinstance(schema, Mapping):
        return
    kinds = schema.get("type")
    names: Sequence[str] = kinds if isinstance(kinds, list) else [kinds] if kinds else []
    if names and not any(_is(value, kind) for kind in names):
        yield f"{where} must be of type {' or '.join(names)}, not {value!r:.80}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} is {value!r:.80}, none of {schema['enum']!r:.200}"
    if "const" in schema and value != schema["const"]:
        yield f"{where} must be {schema['const']!r:.80}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield from _out_of_bounds(value, schema, where)
    if isinstance(value, dict):
        yield from _object_misfits(value, schema, where)
    if isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from misfits(item, schema.get("items"), f"{where}[{number}]")
    for word in ("anyOf", "oneOf"):
        branches = schema.get(word)
        if branches and not any(not list(misfits(value, branch, where)) for branch in branches):
            yield f"{where} fits no branch of its {word}"


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _out_of_bounds(value: float, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if isinstance(low, int | float) and value < low:
        yield f"{where} is {value!r}, less than {low!r}"
    if isinstance(high, int | float) and value > high:
        yield f"{where} is {value!r}, more than {high!r}"


def _object_misfits(
    value: Mapping[str, Any], schema: Mapping[str, Any], where: str
) -> Iterator[str]:
    properties = schema.get("properties")
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where} lacks {name!r}"
    if not isinstance(properties, Mapping):
        return
    for name, inner in value.items():
        if name in properties:
            yield from misfits(inner, properties[name], f"{where}.{name}")
        elif schema.get("additionalProperties") is False or where == "arguments":
            yield f"{where} has {name!r}, which is no parameter"


def words(schema: Any) -> Iterator[str]:
    """Everything that a schema says in words or as a value to choose: what a policy can read."""
    if isinstance(schema, str):
        yield schema
    elif isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in ("enum", "default", "const", "examples", "example"):
                values = value if isinstance(value, list) else [value]
                yield from (str(item) for item in values if not isinstance(item, bool | None))
            elif key in ("description", "title", "format"):
                yield str(value)
            elif key in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
                yield from value
                for inner in value.values():
                    yield from words(inner)
            elif isinstance(value, Mapping | list):
                yield from words(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from words(item)
