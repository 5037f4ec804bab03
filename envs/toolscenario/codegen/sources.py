"""Writes the Python function of a tool, in the part of Python that the sandbox allows."""

from __future__ import annotations

import functools
import inspect
import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from toolgym.envs.toolscenario.codegen import formulas
from toolgym.envs.toolscenario.codegen.bodies import (
    checking,
    computing,
    ending,
    find,
    listing,
    lookup,
    reading,
)
from toolgym.envs.toolscenario.codegen.encoding import signature
from toolgym.envs.toolscenario.codegen.rendering import PlannedCall, Tool, document
from toolgym.envs.toolscenario.codegen.toolspecs import KINDS
from toolgym.envs.toolscenario.worlds.knowledge import Knowledge, Value

__all__ = ["Secret", "json_value", "source"]

DECOYS = 9
"""Other entities in a tool's register."""
LISTS = 3
"""Other owners in a register of lists, which are long."""


class Secret:
    """The sub-answers of a scenario: what no other tool may give.

    Args:
        answers: their texts.
    """

    def __init__(self, answers: Iterable[str]) -> None:
        self._answers = [_parts(answer) for answer in answers]

    def told_by(self, value: Any) -> bool:
        """Whether a text with this value would give a sub-answer, read as loosely as can be."""
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text = text.casefold().replace(",", "")
        return any(all(part in text for part in parts) for parts in self._answers)


def _parts(answer: str) -> list[str]:
    return [part.casefold().replace(",", "").strip() for part in answer.split(", ")]


def json_value(value: Value) -> Any:
    """A value of the knowledge as tools give it."""
    if isinstance(value, tuple):
        return {"latitude": value[0], "longitude": value[1]}
    return value


@functools.cache
def _text_of(name: str) -> str:
    return inspect.getsource(_HELPERS[name]).rstrip()


def _short(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with what a check needs: descriptions only where their lack is told."""
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            needed = schema.get("required", ())
            kept[key] = {
                name: _short(inner)
                | ({"description": inner["description"]} if name in needed else {})
                for name, inner in value.items()
            }
        elif key == "items":
            kept[key] = _short(value)
        elif key not in ("description", "default", "format", "additionalProperties"):
            kept[key] = value
    return kept


def source(
    tool: Tool, steps: Sequence[PlannedCall], secret: Secret, rng: random.Random, own: bool = True
) -> str:
    """The source of a tool's function.

    Args:
        tool: what it is.
        steps: all of the scenario.
        secret: their answers.
        rng: draws the other entities of its register.
        own: whether it answers steps; False for a distractor.
    """
    spec, made = tool.spec, document(tool)
    if spec.kind in KINDS:
        data, body = [], computing(tool)
    else:
        mine = [step for step in steps if own and _serves(tool, step)]
        rows, shown = _register(tool, mine, steps, secret, rng)
        data = [f"_REGISTER = {_data(rows)}", f"_SHOWN = {_data(shown)}"]
        body = {"lookup": lookup, "find": find}.get(spec.kind, listing)(tool)
    body = [*checking(tool), *reading(tool), *body, *ending(tool)]
    helpers = _helpers("\n".join(body))
    imports = [name for name in _MODULES if any(f"{name}." in text for text in helpers)]
    lines = [f"import {name}" for name in sorted([*imports, "json"])]
    lines += ["from typing import Any", "", f"_PARAMETERS = {_data(_short(made.parameters))}"]
    lines += [*data, *(f"\n\n{text}" for text in helpers)]
    head = f"def {spec.name}({', '.join(signature(tool.fields, spec.typing))}):"
    lines += ["", "", head, f'    """{made.description}"""', *body]
    return "\n".join(lines) + "\n"


_MODULES = ("datetime", "itertools", "math", "unicodedata")
_HELPERS: Mapping[str, Callable[..., Any]] = {
    name: getattr(formulas, name) for name in formulas.PARTS
}


def _helpers(text: str) -> list[str]:
    """Sources of the functions that a text calls, and of those that these call."""
    found: dict[str, str] = {}
    waiting = [text]
    while waiting:
        for name in _called(waiting.pop()):
            if name not in found:
                found[name] = _text_of(name)
                waiting.append(found[name])
    return [found[name] for name in _HELPERS if name in found]


@functools.lru_cache(maxsize=256)
def _called(text: str) -> list[str]:
    return [name for name in dict.fromkeys(_CALL.findall(text)) if name in _HELPERS]


_CALL = re.compile(r"\b([a-z_]+)\(")


def _serves(tool: Tool, step: PlannedCall) -> bool:
    spec = tool.spec
    return (
        step.kind == spec.kind
        and step.subject == spec.subject
        and set(step.relations) <= set(spec.relations)
    )


def _data(value: Any) -> str:
    """Python for a value, as one JSON text: the sandbox's rules are checked node by node."""
    if isinstance(value, dict) and value:
        rows = [f"{_json(key)}: {_json(item)}" for key, item in value.items()]
        text = "{\n    " + ",\n    ".join(rows) + "\n}"
    else:
        text = _json(value)
    return f"json.loads({text!r})" if "'''" in text else f"json.loads(r'''{text}''')"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _register(
    tool: Tool,
    mine: Sequence[PlannedCall],
    steps: Sequence[PlannedCall],
    secret: Secret,
    rng: random.Random,
) -> tuple[dict[str, Any], list[str]]:
    """Rows of the register, and the names that an error may show."""
    knowledge, spec = tool.knowledge, tool.spec
    listing = spec.kind in ("rank", "count")
    kind = tool.relations[spec.relations[0]].object if listing else spec.subject
    needed = [step.about for step in mine]
    named = [step.about for step in steps if knowledge.type_of.get(step.about) == kind]
    pool = knowledge.by_type[kind]
    others = rng.sample(pool, min(len(pool), DECOYS * 2))
    rows: dict[str, Any] = {}
    for name in dict.fromkeys([*needed, *named, *others]):
        if len(rows) >= (LISTS if listing else DECOYS) + len(needed):
            break
        wanted = {step.relations for step in mine if step.about == name}
        if listing:
            row: Any = _listed(knowledge, spec.subject, spec.relations, name)
            if not row or (not wanted and secret.told_by([name, *row])):
                continue
        else:
            row = _row(knowledge, spec.relations, name, wanted, secret, spec.kind == "find")
            if not row or (spec.kind == "find" and not wanted and secret.told_by(name)):
                continue
        rows[name] = row
    order = sorted(rows)
    return {name: rows[name] for name in order}, [n for n in order if not secret.told_by(n)]


def _row(
    knowledge: Knowledge,
    relations: Iterable[str],
    name: str,
    wanted: set[tuple[str, ...]],
    secret: Secret,
    find: bool,
) -> dict[str, Any]:
    """The cells of an entity, without those that would give away a sub-answer."""
    kept = {relation for group in wanted for relation in group}
    cells = {}
    for relation in relations:
        value = knowledge.facts.get((name, relation))
        if value is None:
            continue
        if relation in kept or find or not secret.told_by(json_value(value)):
            cells[relation] = json_value(value)
    return cells


def _listed(
    knowledge: Knowledge, kind: str, relations: Sequence[str], owner: str
) -> list[dict[str, Any]]:
    """All entities of a kind that belong to an owner, with what they are ordered by."""
    names = knowledge.inverse.get((kind, relations[0], owner), [])
    return [
        {"name": name, **{by: knowledge.facts.get((name, by)) for by in relations[1:]}}
        for name in sorted(names)
    ]
