"""Verbs as function-calling documents and as Python sources, and what they do to a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolgym._util.jsonl import copy_json
from toolgym.envs.toolscenario.authors.stateful.parts import (
    Domain,
    Read,
    Write,
    constant,
    resolved,
    variable,
)
from toolgym.grading.conditions import OPERATORS
from toolgym.scenario import ToolDocument

__all__ = ["applied", "document", "fits", "found_rows", "source"]

_SIGNS = {"is": "==", "not": "!=", "at_least": ">=", "at_most": "<=", "one_of": "in"}


def document(domain: Domain, name: str) -> ToolDocument:
    """What a policy reads of a verb."""
    verb = domain.writes.get(name) or domain.reads[name]
    properties: dict[str, Any] = {}
    if isinstance(verb, Read):
        for parameter, key in verb.by.items():
            properties[parameter] = _read_parameter(domain, verb, parameter, key)
    else:
        for parameter, item in verb.takes.items():
            said = item.about.capitalize() or f"The {parameter.replace('_', ' ')}."
            if item.kind == "link":
                said = f"Id of the {variable(parameter).replace('_', ' ')}."
            elif item.kind == "day":
                said = f"{said.rstrip('.')}, as YYYY-MM-DD."
            properties[parameter] = item.schema(f"{said.rstrip('.')}.")
    return ToolDocument(
        name=name,
        description=verb.about,
        parameters={"type": "object", "properties": properties, "required": list(properties)},
    )


def _read_parameter(domain: Domain, verb: Read, parameter: str, key: str) -> dict[str, Any]:
    noun = domain.tables[verb.table].noun
    if key == "id":
        return {"type": "string", "description": f"Id of the {noun}."}
    item = domain.tables[verb.table].fields[key]
    if item.kind == "link":
        linked = domain.tables[item.values[0]].noun
        return {"type": "string", "description": f"Id of the {linked}."}
    said = f"{key.replace('_', ' ').capitalize()} of the {noun}"
    return item.schema(f"{said}, as YYYY-MM-DD." if item.kind == "day" else f"{said}.")


def source(domain: Domain, name: str) -> str:
    """The Python function of a verb: ``def name(state, ...)``."""
    if name in domain.reads:
        return _read_source(domain, name, domain.reads[name])
    return _write_source(domain, name, domain.writes[name])


def _read_source(domain: Domain, name: str, verb: Read) -> str:
    lines = [f"def {name}({', '.join(['state', *verb.by])}):"]
    hidden = f" if k not in {list(verb.hides)!r}" if verb.hides else ""
    shown = f"{{'id': key, **{{k: v for k, v in row.items(){hidden}}}}}"
    if list(verb.by.values()) == ["id"]:
        (parameter,) = verb.by
        lines += _row_lines(parameter, verb.table, domain.tables[verb.table].noun)
        lines += [f"    key, row = {parameter}, {variable(parameter)}", f"    return {shown}"]
        return "\n".join(lines) + "\n"
    tests = []
    for parameter, key in verb.by.items():
        item = domain.tables[verb.table].fields[key]
        if item.kind in ("number", "link", "day"):
            tests.append(f"row[{key!r}] == {parameter}")
        else:
            tests.append(f"row[{key!r}].lower() == {parameter}.strip().lower()")
    lines += [
        "    found = []",
        f"    for key, row in state[{verb.table!r}].items():",
        f"        if {' and '.join(tests) or 'True'}:",
        f"            found.append({shown})",
        "    return found",
    ]
    return "\n".join(lines) + "\n"


def _row_lines(parameter: str, table: str, noun: str) -> list[str]:
    name = variable(parameter)
    return [
        f"    {name} = state[{table!r}].get({parameter})",
        f"    if {name} is None:",
        f"        raise ValueError('there is no {noun} ' + repr({parameter}))",
    ]


def _write_source(domain: Domain, name: str, verb: Write) -> str:
    lines = [f"def {name}({', '.join(['state', *verb.takes])}):"]
    for parameter, table in verb.rows().items():
        lines += _row_lines(parameter, table, domain.tables[table].noun)
    lines += _parameter_lines(verb)
    for path, operator, value in verb.checks:
        cell, wanted = _cell(domain, verb, path), _value(domain, verb, value)
        said = path.replace(".", " of the ", 1) if path.count(".") > 1 else path.replace(".", " ")
        lines += [
            f"    if not {cell} {_SIGNS[operator]} {wanted}:",
            f"        raise ValueError('not possible: {said} is ' + str({cell}))",
        ]
    kept = []
    for kind, *rest in verb.does:
        if kind == "new":
            table, row = rest
            prefix = domain.tables[table].prefix
            cells = ", ".join(f"{k!r}: {_value(domain, verb, v)}" for k, v in row.items())
            lines += [
                f"    numbers = [int(key.split('-')[1]) for key in state[{table!r}]]",
                f"    new_id = {prefix + '-'!r} + str(max(numbers, default=1000) + 1)",
                f"    state[{table!r}][new_id] = {{{cells}}}",
            ]
            kept.append(
                f"{domain.tables[table].noun!r}: {{'id': new_id, **state[{table!r}][new_id]}}"
            )
        elif kind == "drop":
            parameter = f"{rest[0]}_id"
            lines.append(f"    del state[{verb.rows()[parameter]!r}][{parameter}]")
        else:
            sign = {"set": "=", "add": "+=", "take": "-="}[kind]
            lines.append(
                f"    {_cell(domain, verb, rest[0])} {sign} {_value(domain, verb, rest[1])}"
            )
    gone = {f"{rest[0]}_id" for kind, *rest in verb.does if kind == "drop"}
    for parameter in verb.rows():
        if parameter not in gone:
            kept.append(f"{variable(parameter)!r}: {{'id': {parameter}, **{variable(parameter)}}}")
    lines.append(f"    return {{'done': True, {', '.join(kept)}}}")
    return "\n".join(lines) + "\n"


def _parameter_lines(verb: Write) -> list[str]:
    lines = []
    for name, item in verb.takes.items():
        if item.kind == "number":
            lines += [f"    if {name} < {item.values[0]}:"]
            lines += [f"        raise ValueError('{name} is at least {item.values[0]}')"]
        elif item.kind == "day":
            lines += [f"    datetime.date.fromisoformat({name})"]
    if any(item.kind == "day" for item in verb.takes.values()):
        lines.insert(0, "    import datetime")
    return lines


def _cell(domain: Domain, verb: Write, path: str) -> str:
    """A path as Python."""
    first, *rest = path.split(".")
    table, text = verb.rows()[f"{first}_id"], first
    for name in rest[:-1]:
        text = f"state[{domain.links[f'{table}.{name}']!r}][{text}[{name!r}]]"
        table = domain.links[f"{table}.{name}"]
    return f"{text}[{rest[-1]!r}]"


def _value(domain: Domain, verb: Write, value: Any) -> str:
    """A value as Python."""
    if isinstance(value, str) and value.startswith("$"):
        return value[1:]
    if isinstance(value, str) and value.startswith("@"):
        return _cell(domain, verb, value[1:])
    return repr(constant(value))


def _now(
    domain: Domain, state: Mapping[str, Any], verb: Write, value: Any, given: Mapping[str, Any]
) -> Any:
    """A value in a state."""
    if isinstance(value, str) and value.startswith("$"):
        return given[value[1:]]
    if isinstance(value, str) and value.startswith("@"):
        table, key, field = resolved(domain, state, verb, value[1:], given)
        return state[table][key][field]
    return constant(value)


def fits(domain: Domain, state: Mapping[str, Any], verb: Write, given: Mapping[str, Any]) -> bool:
    """Whether the checks of a verb hold for some arguments."""
    rows = list(verb.rows())
    if len({given[name] for name in rows}) < len(rows):
        return False
    for path, operator, value in verb.checks:
        table, key, field = resolved(domain, state, verb, path, given)
        cell, wanted = state[table][key][field], _now(domain, state, verb, value, given)
        holds = cell == wanted if operator == "is" else OPERATORS[operator](cell, wanted)
        if not holds:
            return False
    return True


def applied(
    domain: Domain, state: Mapping[str, Any], verb: Write, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The state after a verb: what its description says, not what its source does."""
    after: dict[str, Any] = copy_json(state)
    for kind, *rest in verb.does:
        if kind == "new":
            table, row = rest
            numbers = [int(key.split("-")[1]) for key in after[table]]
            key = f"{domain.tables[table].prefix}-{max(numbers, default=1000) + 1}"
            after[table][key] = {k: _now(domain, after, verb, v, given) for k, v in row.items()}
        elif kind == "drop":
            parameter = f"{rest[0]}_id"
            del after[verb.rows()[parameter]][given[parameter]]
        else:
            table, key, field = resolved(domain, after, verb, rest[0], given)
            value, row = _now(domain, after, verb, rest[1], given), after[table][key]
            row[field] = value if kind == "set" else row[field] + (value, -value)[kind == "take"]
    return after


def found_rows(
    domain: Domain, state: Mapping[str, Any], name: str, given: Mapping[str, Any]
) -> list[str]:
    """Ids of the rows that a reading verb gives, in order."""
    verb = domain.reads[name]
    return [
        key
        for key, row in state[verb.table].items()
        if all(row[field] == given[parameter] for parameter, field in verb.by.items())
    ]
