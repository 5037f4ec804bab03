"""What verification calls a scenario's functions with: right, plausible, and wrong arguments."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolgym.envs.toolscenario.records import RejectedError
from toolgym.sandbox import Sandbox

__all__ = [
    *("ECHO", "Probe", "echoing", "entities", "is_error", "plausible", "run_probes", "wrong"),
]

MAX_PLAUSIBLE = 24  # argument sets tried on one tool
_UNKNOWN = "Qivvarnoth"
ECHO = "Ozzumvaleth"
_WORD = r"[^\W\d_a-z][\w.'-]*"  # begins in upper case, or in a script without cases
_ENTITY = re.compile(
    r"\"[^\"]{1,80}\"|'[^']{2,80}'(?!\w)"
    rf"|\b{_WORD}(?:\s+(?:(?:of|the|de|von|van|al)\s+)?{_WORD})*"
    r"|\d[\d.,:/-]*\d|\d"
)
_FAILED = re.compile(r"\s*(error|invalid|unknown|no such|not found|missing|failed)\b", re.I)
_FLAGS = ("ok", "success", "found", "valid")


@dataclass(frozen=True, slots=True)
class Probe:
    """One call that verification makes.

    Args:
        kind: ``reference``, ``plausible``, ``one wrong``, ``all wrong`` or ``echo``.
        arguments: what the function gets.
    """

    kind: str
    arguments: dict[str, Any]


def run_probes(
    box: Sandbox, stage: str, name: str, probes: Sequence[Probe]
) -> list[tuple[bool, str]]:
    """Many calls of one function, in one process: nothing of them reaches an episode.

    Args:
        box: of the scenario's functions.
        stage: for the error.
        name: of the function.
        probes: its calls.

    Returns:
        Whether each call gave a value, and that value as JSON or the error's text.

    Raises:
        RejectedError: the calls take too long, too much memory, or end their process.
    """
    # Sets are walked in another order than in an episode: nothing may depend on it.
    results = box.reseeded(1).call_many(name, [probe.arguments for probe in probes])
    for result in results:
        if result.error in ("timeout", "memory", "died", "refused"):
            reason = result.error if result.error in ("timeout", "memory") else "bad_function"
            text = f"{len(probes)} calls, also with wrong arguments: {result.text}"
            raise RejectedError(stage, reason, text[:1000])
    return [(result.error is None, result.text) for result in results]


def is_error(fine: bool, value: str) -> bool:
    """Whether a function said that something was wrong.

    Args:
        fine: it returned.
        value: what it returned, as JSON.
    """
    if not fine:
        return True
    read = json.loads(value)
    if isinstance(read, str):
        return bool(_FAILED.match(read))
    if not isinstance(read, dict):
        return read is None
    status = str(read.get("status", "")).casefold()
    return (
        any(read.get(key) for key in ("error", "errors"))
        or status in ("error", "failed", "failure", "not_found", "invalid")
        or any(read.get(flag) is False for flag in _FLAGS)
    )


def entities(text: str) -> list[str]:
    """What a question names: quoted texts, words that begin in upper case, numbers."""
    found = [
        (match.start(), match[0].strip("\"'").rstrip(".,:/-")) for match in _ENTITY.finditer(text)
    ]
    # A single word that begins a sentence is seldom a name: it comes last.
    found.sort(key=lambda item: item[0] == 0 and " " not in item[1])
    return list(dict.fromkeys(item for _, item in found if item))


def plausible(
    document: Mapping[str, Any], given: Iterable[Mapping[str, Any]], named: Sequence[str]
) -> list[Probe]:
    """Arguments that a policy might try: from reference calls, the question and the document.

    Args:
        document: of the tool that is called.
        given: arguments of reference calls, of any tools.
        named: see `entities`.
    """
    properties: Mapping[str, Any] = document["parameters"].get("properties", {})
    required = list(document["parameters"].get("required", ()))
    values = {
        name: list(_values(name, schema, list(given), named)) for name, schema in properties.items()
    }
    sets: list[dict[str, Any]] = []
    for row in range(MAX_PLAUSIBLE // 2):  # the first values of all, then the second ones, ...
        sets.append({name: found[row % len(found)] for name, found in values.items() if found})
    axes = [values[name] or [None] for name in required]
    for chosen in itertools.islice(itertools.product(*axes), MAX_PLAUSIBLE // 2):
        sets.append(dict(zip(required, chosen, strict=True)))
    unique = {json.dumps(item, sort_keys=True, default=str): item for item in sets}
    return [Probe("plausible", item) for item in unique.values()]


def _values(
    name: str, schema: Any, given: Sequence[Mapping[str, Any]], named: Sequence[str]
) -> Iterator[Any]:
    schema = schema if isinstance(schema, Mapping) else {}
    seen: set[str] = set()
    for value in _candidates(name, schema, given, named):
        key = json.dumps(value, sort_keys=True, default=str)
        if key not in seen and _fits(value, schema.get("type")):
            seen.add(key)
            yield value


def _candidates(
    name: str, schema: Mapping[str, Any], given: Sequence[Mapping[str, Any]], named: Sequence[str]
) -> Iterator[Any]:
    yield from (arguments[name] for arguments in given if name in arguments)
    yield from schema.get("enum") or ()
    if "default" in schema:
        yield schema["default"]
    yield from (value for arguments in given for value in arguments.values())
    yield from named
    if schema.get("type") != "string":
        yield from (_shaped(schema, [text], 0) for text in named)
        yield _shaped(schema, named, 0)
    yield _shaped(schema, ["all"], 0)


def _shaped(schema: Any, texts: Sequence[str], depth: int) -> Any:
    """A value of a schema's type, made of texts: objects of what they require, lists of all."""
    schema = schema if isinstance(schema, Mapping) and depth < 5 else {}
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind in ("integer", "number"):
        numbers = [int(text) for text in texts if text.isdecimal() and len(text) < 16]
        return numbers[0] if numbers else 1
    if kind == "boolean":
        return True
    if kind == "array":
        return [_shaped(schema.get("items"), [text], depth + 1) for text in texts]
    if kind == "object":
        inner = schema.get("properties")
        inner = inner if isinstance(inner, Mapping) else {}
        names = [name for name in schema.get("required") or inner if name in inner]
        return {name: _shaped(inner[name], texts, depth + 1) for name in names}
    return texts[0] if texts else ""


_PYTHON: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def _fits(value: Any, kind: Any) -> bool:
    kinds = kind if isinstance(kind, list) else [kind]
    return any(item is None or _is(value, str(item)) for item in kinds)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _PYTHON.get(kind, object))


def wrong(document: Mapping[str, Any], right: Mapping[str, Any]) -> list[Probe]:
    """Arguments that no policy should gain from: unknown, misspelt, of a wrong type, empty, null.

    Args:
        document: of the tool that is called.
        right: arguments that work.
    """
    properties: Mapping[str, Any] = document["parameters"].get("properties", {})
    names = [name for name in properties if name in right] or list(properties)
    probes = []
    for change in (_unknown, _misspelt, _mistyped, _empty, _null):
        changed = {name: change(right.get(name), properties[name]) for name in names}
        if names and change is not _misspelt:
            probes.append(Probe("all wrong", {**right, **changed}))
        if len(names) > 1 or change is _misspelt:
            probes += [
                Probe("one wrong", {**right, name: value}) for name, value in changed.items()
            ]
    return probes


def echoing(document: Mapping[str, Any], right: Mapping[str, Any]) -> list[Probe]:
    """Right arguments with one free text changed or added: a result must not repeat it.

    A tool that says again what it is told gives any answer that is guessed into it. Texts in lists
    are left out: tools that sort or count give them back by nature.

    Args:
        document: of the tool that is called.
        right: arguments that work.
    """
    probes = []
    for path in _free_texts(document["parameters"], ()):
        arguments = json.loads(json.dumps(right))
        place = arguments
        for name in path[:-1]:
            inner = place.setdefault(name, {})
            if not isinstance(inner, dict):
                break
            place = inner
        else:
            place[path[-1]] = ECHO
            probes.append(Probe("echo", arguments))
    return probes


def _free_texts(schema: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Where a schema's objects take a text that is not one of a list."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping) or len(path) > 5:
        return
    for name, inner in properties.items():
        if isinstance(inner, Mapping) and inner.get("type") == "string" and not inner.get("enum"):
            yield (*path, name)
        else:
            yield from _free_texts(inner, (*path, name))


def _kind(value: Any, schema: Any) -> str:
    if value is not None:
        return type(value).__name__
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    named = {"integer": "int", "number": "float", "boolean": "bool", "array": "list"}
    return named.get(str(kind), "dict" if kind == "object" else "str")


def _unknown(value: Any, schema: Any) -> Any:
    kind = _kind(value, schema)
    if kind in ("int", "float"):
        return -987654321
    if kind == "list":
        return [_unknown(item, {}) for item in value or ["", ""]]
    if kind == "dict":
        return {key: _unknown(item, {}) for key, item in (value or {_UNKNOWN: ""}).items()}
    return _UNKNOWN


def _misspelt(value: Any, schema: Any) -> Any:
    if isinstance(value, str):
        return value[:-1] + ("x" if value[-1:] != "x" else "y") if value else _UNKNOWN
    if isinstance(value, list):
        return [_misspelt(item, {}) for item in value]
    if isinstance(value, dict):
        return {key: _misspelt(item, {}) for key, item in value.items()}
    return value


def _mistyped(value: Any, schema: Any) -> Any:
    return {"never": [0]} if _kind(value, schema) in ("str", "int", "float", "bool") else 7.25


def _empty(value: Any, schema: Any) -> Any:
    return {"list": [], "dict": {}}.get(_kind(value, schema), "")


def _null(value: Any, schema: Any) -> Any:
    return None
