"""JSON Schema of function-calling documents: is it one, and do arguments fit it.

jsonschema-rs checks: of two libraries the one that a hostile document cannot stop. It reads a
pattern in linear time or within a number of steps and fetches nothing; a call takes it 30
microseconds. The other, jsonschema, backtracks without bound in a pattern, opens the addresses that
a ``$ref`` names unless it is told not to, and is a hundred times as slow. What neither bounds is
bounded here: size and depth of documents and arguments, and the work of references that multiply.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from jsonschema_rs import Draft202012Validator, FancyRegexOptions, ReferencingError

from toolgym.errors import BadInputError, did_you_mean

__all__ = ["TYPES", "misfits", "not_schema"]

TYPES = ("string", "integer", "number", "boolean", "array", "object", "null")
# How programming languages call them, in documents that were made from code.
_OTHER_NAMES = {
    "string": "str text char character",
    "integer": "int long short byte",
    "number": "float double decimal",
    "boolean": "bool",
    "array": "list tuple set arraylist",
    "object": "dict dictionary map hashmap mapping",
    "null": "none nonetype",
}
_READ_AS = {other: name for name, others in _OTHER_NAMES.items() for other in others.split()}
_READ_AS |= {name: name for name in TYPES}
_GENERIC = re.compile(r"(?:typing\.)?(\w+)\s*(?:[\[<(].*)?", re.S)  # list[str], List<String>

_DEEPEST = 60  # of nested schemas, and of nested arguments
_LONGEST = 500_000  # characters of a document, and of arguments
_MOST_WORK = 5_000_000  # values times schemas that each may be checked against
_MOST_SCHEMAS = 200_000  # of a document, each counted for every depth that it is met at
_MOST_PATTERNS = 100  # of a document: each takes up to a MiB
_REGEX = FancyRegexOptions(backtrack_limit=10_000, size_limit=1 << 20)
_BACKTRACKS = re.compile(r"\(\?<?[=!]|\\[1-9k]")
_BACKTRACKING = 1000  # schemas that are checked in the time of a pattern that backtracks
_MOST_PROBLEMS = 10

# Where schemas stand in a schema: for the same value, or for values below it.
_HERE, _HERE_LISTS = ("not", "if", "then", "else"), ("allOf", "anyOf", "oneOf")
_MAPS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_MAPS |= {"dependentRequired", "dependencies"}
_VALUES = ("enum", "const", "default", "example", "examples")
_FIELDS = ("additionalProperties", "unevaluatedProperties", "propertyNames")
_ITEMS = ("items", "additionalItems", "unevaluatedItems", "contains")
_COUNTS = re.compile("(min|max)(Length|Items|Properties|Contains)")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


def misfits(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[str]:
    """How arguments break the parameters of a document; names that it does not know, too.

    Args:
        arguments: plain JSON.
        parameters: JSON Schema of an object. Types are also read under the names that programming
            languages give them (``dict``, ``float``, ``List[str]``); a word whose meaning is not
            certain says nothing.

    Raises:
        BadInputError: the parameters are not schema that can be enforced.
    """
    try:
        text = json.dumps(parameters, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInputError(f"they are not JSON: {error}") from error
    checker = _checker(text)
    if isinstance(checker, BadInputError):
        raise checker
    return checker.problems(arguments)


@functools.lru_cache(maxsize=1024)
def _checker(parameters: str) -> _Checker | BadInputError:
    try:
        return _Checker(json.loads(parameters))
    except BadInputError as error:
        return error


class _Checker:
    """The parameters of one document, compiled.

    Raises:
        BadInputError: they cannot be enforced.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        try:
            self._schema = schema = _closed(_read(parameters, 0))
            text = json.dumps(schema)
            if len(text) > _LONGEST or text.count('"pattern') > _MOST_PATTERNS:
                raise BadInputError(
                    f"they have more than {_LONGEST:,} characters or {_MOST_PATTERNS} patterns"
                )
            self._work = _work(schema)
            self._validator = Draft202012Validator(
                schema, offline=True, pattern_options=_REGEX, mask="it"
            )
        except (ValueError, LookupError, TypeError, RecursionError, ReferencingError) as error:
            raise BadInputError(_invalid(error)) from error

    def problems(self, arguments: Mapping[str, Any]) -> list[str]:
        """See `misfits`."""
        size = _size(arguments)
        if size is None or size * self._work > _MOST_WORK:
            return ["they are too large or too deep to be checked"]
        try:
            errors = list(self._validator.iter_errors(dict(arguments)))
        except ValueError as error:  # half of a surrogate pair, a number that is none
            return [f"they are not JSON: {_line(error)}"]
        lines = [line for error in errors[:_MOST_PROBLEMS] for line in self._told(error)]
        more = len(errors) - _MOST_PROBLEMS
        return [*lines, f"and {more} more problems"] if more > 0 else lines

    def _told(self, error: Any) -> list[str]:
        path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.instance_path)
        where, kind = path.lstrip("."), error.kind
        if kind.name == "required":
            return [f"{where!r} lacks {kind.value!r}" if path else f"{kind.value!r} is missing"]
        if kind.name in ("additionalProperties", "unevaluatedProperties"):
            known = list(self._schema.get("properties", {}))
            names = f"parameters: {', '.join(known) or 'none'}"
            return [
                f"{where!r} has {name!r:.80}, which it may not have"
                if path
                else f"{name!r:.80} is not a parameter{did_you_mean(name, known)}; {names:.1000}"
                for name in kind.value[:_MOST_PROBLEMS]
            ]
        shown = f"{error.instance!r:.80}"
        if kind.name == "type":
            return [f"{where!r} must be of type {' or '.join(kind.value)}, not {shown}"]
        if kind.name == "enum":
            return [f"{where!r} is {shown}, none of {kind.value!r:.200}"]
        return [f"{where!r} is {shown}: {_line(error)}" if path else _line(error)]


def _line(error: Any) -> str:
    """What an error says, as one short line."""
    return " ".join(str(getattr(error, "message", error)).split())[:300]


def not_schema(parameters: Mapping[str, Any]) -> str:
    """Why parameters are not JSON Schema that can be enforced; empty where they are.

    Args:
        parameters: JSON Schema of an object.
    """
    try:
        _Checker(parameters)  # which knows bounds
        Draft202012Validator(dict(parameters), offline=True, pattern_options=_REGEX)
    except (ValueError, ReferencingError) as error:
        return _invalid(error)
    return ""


def _invalid(error: Any) -> str:
    """What is wrong with a schema, and where in it."""
    where = ".".join(map(str, getattr(error, "instance_path", ())))
    return f"{where}: {_line(error)}"[:300] if where else _line(error)


def _size(value: Any) -> int | None:
    """Values in a value, long strings counted as several; None where it is nested too deeply."""
    count, layer = 0, [value]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for item in layer:
            if isinstance(item, Mapping):
                below += item
                below += item.values()
            elif isinstance(item, list | tuple):
                below += item
            elif isinstance(item, str):
                count += len(item) // 100
        count += len(layer)
        if not below or count > _MOST_WORK:
            return count
        layer = below
    return None


def _read(schema: Any, depth: int) -> Any:
    """A schema with the words whose meaning is certain."""
    if isinstance(schema, bool) or not isinstance(schema, Mapping):
        return schema if isinstance(schema, bool) else True
    if depth > _DEEPEST:
        raise BadInputError(f"they are nested more than {_DEEPEST} levels deep")
    read: dict[str, Any] = {}
    for word, value in schema.items():
        if word == "type":
            read |= _kinds(value)
        elif word in _HERE_LISTS or word == "prefixItems" or (word == "items" and _is_list(value)):
            if _is_list(value):  # a list of items is the older way to write prefixItems
                word = "prefixItems" if word == "items" else word
                read[word] = [_read(item, depth + 1) for item in value]
        elif word in (*_HERE, *_FIELDS, *_ITEMS):
            read[word] = _read(value, depth + 1)
        elif word in _MAPS and isinstance(value, Mapping):
            lists = {name: item for name, item in value.items() if _is_list(item)}
            if lists and word.startswith("depend"):
                read["dependentRequired"] = lists
            word = "dependentSchemas" if word.startswith("depend") else word
            others = {name: item for name, item in value.items() if name not in lists}
            read[word] = {name: _read(item, depth + 1) for name, item in others.items()}
        elif isinstance(value, Mapping) and word not in _VALUES:
            read[word] = _read(value, depth + 1)  # a $ref may lead through components/schemas
        else:
            read |= _plain(word, value, schema)
    only = read.get("enum", [[]])
    if read.get("type") == ["array"] and not any(isinstance(value, list) for value in only):
        # No list can be one of these values: they are what its items may be.
        items = read.get("items", {})
        read["items"] = {**(items if isinstance(items, dict) else {}), "enum": read.pop("enum")}
    return read


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _plain(word: str, value: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    """A word that holds no schema, as far as its value means anything."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if word in ("$dynamicRef", "$recursiveRef"):
        raise BadInputError(f"{word} is not supported: write $ref")
    if word == "$ref" and not (isinstance(value, str) and value.startswith("#")):
        raise BadInputError(f"$ref {value!r:.80} leads out of the document; nothing is fetched")
    if word == "required" and isinstance(value, list):
        return {word: list(dict.fromkeys(name for name in value if isinstance(name, str)))}
    if word in ("exclusiveMinimum", "exclusiveMaximum") and value is True:  # of 2013
        bound = schema.get(word.removeprefix("exclusive").lower())
        return {word: bound} if isinstance(bound, int | float) else {}
    kept = bool(
        word == "const"
        or (word == "enum" and _is_list(value))
        or (_COUNTS.fullmatch(word) and number and value >= 0 and value == int(value))
        or (word in _BOUNDS and number and (word != "multipleOf" or value > 0))
        or (word in ("pattern", "$ref") and isinstance(value, str))
        or (word == "uniqueItems" and isinstance(value, bool))
    )
    return {word: value} if kept else {}


def _kinds(kinds: Any) -> dict[str, Any]:
    """``{"type": [...]}`` in the words of JSON Schema, or nothing where one is not certain."""
    read = []
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        match = _GENERIC.fullmatch(kind.strip().lower()) if isinstance(kind, str) else None
        known = _READ_AS.get(match[1]) if match else None
        if known is None:
            return {}
        read.append(known)
    return {"type": list(dict.fromkeys(read))} if read else {}


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Parameters that take no name that they do not know, unless they say that they do."""
    names = dict.fromkeys(schema.get("required", ()), True)
    schema["properties"] = {**names, **schema.get("properties", {})}
    if not {"additionalProperties", "unevaluatedProperties"} & schema.keys():
        here = {"$ref", "dependentSchemas", *_HERE, *_HERE_LISTS}
        word = "unevaluatedProperties" if here & schema.keys() else "additionalProperties"
        schema[word] = False
    return schema


def _work(root: dict[str, Any]) -> int:
    """Against how many schemas one value is checked at most, however it is nested.

    Raises:
        BadInputError: a reference leads back to itself, or references multiply.
    """
    known: dict[tuple[int, int], int] = {}

    def cost(schema: Any, depth: int) -> int:
        if not isinstance(schema, dict):
            return 1
        key = id(schema), depth
        if key in known:
            if known[key] == 0:
                raise BadInputError("a $ref leads back to itself for one and the same value")
            return known[key]
        known[key] = 0  # being added up
        total = 1 + sum(cost(inner, depth) for inner in _here(schema, root))
        patterns = [schema.get("pattern", ""), *schema.get("patternProperties", ())]
        total += _BACKTRACKING * sum(bool(_BACKTRACKS.search(item)) for item in patterns)
        if depth:
            total += max(
                sum(cost(schema[word], depth - 1) for word in words if word in schema)
                + sum(cost(inner, depth - 1) for inner in every)
                + max((cost(inner, depth - 1) for inner in one), default=0)
                for words, every, one in (
                    (_FIELDS, _values(schema, "patternProperties"), _values(schema, "properties")),
                    (_ITEMS, (), schema.get("prefixItems", ())),
                )
            )
        known[key] = total
        if total > _MOST_WORK or len(known) > _MOST_SCHEMAS:
            raise BadInputError("references multiply its schemas")
        return total

    return cost(root, _DEEPEST)


def _values(schema: Mapping[str, Any], word: str) -> list[Any]:
    held = schema.get(word)
    return list(held.values()) if isinstance(held, Mapping) else []


def _here(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Any]:
    """The schemas that a value has to fit, or may, beside this one."""
    for word in _HERE_LISTS:
        yield from schema.get(word, ())
    yield from (schema[word] for word in _HERE if word in schema)
    yield from _values(schema, "dependentSchemas")
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#").split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            target = target[int(name)] if isinstance(target, list) else target[name]
        yield target
