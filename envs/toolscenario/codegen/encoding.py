"""How parameters look in JSON at each level of type generalisation, and how tools read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolgym.envs.toolscenario.codegen.toolspecs import Param, parameter_name
from toolgym.scenario import FROM

__all__ = ["Field", "arguments", "fields_of", "grouped", "schema_of", "signature"]

_CALENDARS = ["gregorian", "julian"]
_KINDS = ("person", "city", "country", "company")


@dataclass(frozen=True)
class Field:
    """A parameter as JSON has it.

    Args:
        name: in JSON.
        schema: JSON Schema.
        required: whether every call needs it.
        default: where it is left out.
        reads: Python that gives the plain value from a variable of this name.
        target: the plain variable; several fields may make up one.
    """

    name: str
    schema: dict[str, Any]
    required: bool
    default: Any
    reads: str
    target: str


def _object(what: str, **properties: dict[str, Any]) -> dict[str, Any]:
    optional = {name for name, schema in properties.items() if schema.pop("optional", False)}
    found: dict[str, Any] = {"type": "object", "description": what} if what else {"type": "object"}
    found["properties"] = properties
    found["required"] = [name for name in properties if name not in optional]
    found["additionalProperties"] = False
    return found


def _array(what: str, items: dict[str, Any], low: int, high: int) -> dict[str, Any]:
    return {"type": "array", "description": what, "items": items, "minItems": low, "maxItems": high}


def fields_of(param: Param, typing: int, plurals: Mapping[str, str], batch: bool) -> list[Field]:
    """The JSON fields of a parameter.

    Args:
        param: what the tool needs.
        typing: level of type generalisation.
        plurals: type of entity to the name of a parameter that takes several.
        batch: whether the tool can take several entities at once.
    """
    if param.kind == "points":
        return _point_fields(param, typing)
    name, what = param.name, param.what
    many = param.kind == "entity" and typing >= 2 and batch
    if many:
        name = parameter_name(plurals[param.subject])
        item = _entity("", typing, param)
        schema = _array(f"One or more {name.replace('_', ' ')}", item, 1, 20)
        reads = f'names_of({name}, "{param.subject}", "{name}")'
    elif param.kind == "entity":
        schema = _entity(what, typing, param)
        reads = name if typing == 0 else f'names_of([{name}], "{param.subject}", "{name}")[0]'
        reads = reads if typing == 0 or param.required else f"{reads} if {name} else None"
    elif param.kind == "date":
        schema, reads = _date(what, typing), _read_date(name, typing, param.required)
    elif param.kind in ("number", "year"):
        schema, reads = _number(param, typing)
    elif param.kind == "numbers":
        schema, reads = _numbers(param, typing)
    else:
        schema, reads = _simple(param), name
    if param.default is not None and not param.required:
        schema["default"] = param.default
    return [Field(name, schema, param.required, param.default, reads, param.name)]


def _entity(what: str, typing: int, param: Param) -> dict[str, Any]:
    text = {"type": "string", "description": f"Full name of the {param.subject.replace('_', ' ')}"}
    if typing == 0:
        return {"type": "string", "description": what}
    if typing == 1:
        return _object(what, name=text)
    kinds = sorted({param.subject, *_KINDS})
    kind = {"type": "string", "enum": kinds, "description": "Kind of thing that is named"}
    return _object(what, name=text, kind=kind)


def _date(what: str, typing: int) -> dict[str, Any]:
    text = {"type": "string", "format": "date", "description": "Day, written YYYY-MM-DD"}
    if typing == 0:
        return {**text, "description": f"{what}, written YYYY-MM-DD"}
    if typing == 1:
        return _object(what, date=text)
    calendar = {
        "type": "string",
        "enum": list(_CALENDARS),
        "optional": True,
        "default": "gregorian",
        "description": "Calendar that the day is given in",
    }
    shift = {
        "type": "integer",
        "optional": True,
        "default": 0,
        "minimum": -100_000,
        "maximum": 100_000,
        "description": "Days to add to the day before it is used",
    }
    return _object(what, date=text, calendar=calendar, shift_days=shift)


def _read_date(name: str, typing: int, required: bool) -> str:
    if typing == 0:
        read = f'read_date({name}, "{name}")'
    elif typing == 1:
        read = f'read_date({name}["date"], "{name}.date")'
    else:
        read = (
            f'read_date({name}["date"], "{name}.date", {name}.get("calendar", "gregorian"), '
            f'{name}.get("shift_days", 0))'
        )
    return read if required else f"({read}) if {name} else None"


def _bounds(param: Param) -> dict[str, Any]:
    return {
        key: value
        for key, value in (("minimum", param.low), ("maximum", param.high))
        if value is not None
    }


def _number(param: Param, typing: int) -> tuple[dict[str, Any], str]:
    kind = "integer" if param.kind == "year" else "number"
    plain = {"type": kind, **_bounds(param)}
    if typing == 0 or param.default is not None:
        return {"type": kind, "description": param.what, **_bounds(param)}, param.name
    value = {"value": {**plain, "description": "The number itself"}}
    if typing >= 2 and param.kind == "number":
        value["exponent"] = _exponent()
    schema = _object(param.what, **value)
    name = param.name
    read = f'{name}["value"]'
    if typing >= 2 and param.kind == "number":
        read += f' * 10 ** {name}.get("exponent", 0)'
    return schema, read if param.required else f"({read}) if {name} else None"


def _exponent() -> dict[str, Any]:
    return {
        "type": "integer",
        "optional": True,
        "default": 0,
        "minimum": -9,
        "maximum": 9,
        "description": "Power of ten that the number is multiplied by",
    }


def _numbers(param: Param, typing: int) -> tuple[dict[str, Any], str]:
    number: dict[str, Any] = {"type": "number"}
    name = param.name
    if typing == 0:
        return _array(param.what, number, 1, 50), name
    value: dict[str, Any] = {"value": {**number, "description": "The value itself"}}
    one = 'item["value"]'
    if typing >= 2:
        value["exponent"], one = _exponent(), one + ' * 10 ** item.get("exponent", 0)'
    read = f"[{one} for item in {name}]"
    return _array(param.what, _object("", **value), 1, 50), (
        read if param.required else f"{read} if {name} else None"
    )


def _simple(param: Param) -> dict[str, Any]:
    if param.kind == "choices":
        item = {"type": "string", "enum": list(param.choices)}
        return _array(param.what, item, 1, len(param.choices))
    kinds = {"choice": "string", "text": "string", "flag": "boolean", "integer": "integer"}
    schema: dict[str, Any] = {"type": kinds[param.kind], "description": param.what}
    if param.choices:
        schema["enum"] = list(param.choices)
    return {**schema, **_bounds(param)}


def _point_fields(param: Param, typing: int) -> list[Field]:
    def degrees(what: str, most: int) -> dict[str, Any]:
        return {"type": "number", "description": what, "minimum": -most, "maximum": most}

    def point(what: str) -> dict[str, Any]:
        return _object(
            what,
            latitude=degrees("Degrees north of the equator, negative south of it", 90),
            longitude=degrees("Degrees east of Greenwich, negative west of it", 180),
        )

    if typing == 0:
        reads = "[(latitude_1, longitude_1), (latitude_2, longitude_2)]"
        return [
            Field(
                f"{axis}_{place}",
                degrees(f"{axis.capitalize()} of the {word} {param.what}", most),
                True,
                None,
                reads,
                param.name,
            )
            for place, word in ((1, "first"), (2, "second"))
            for axis, most in (("latitude", 90), ("longitude", 180))
        ]
    if typing == 1:
        names = [
            f'({name}["latitude"], {name}["longitude"])' for name in ("from_point", "to_point")
        ]
        return [
            Field(
                name, point(f"{word} {param.what}"), True, None, f"[{', '.join(names)}]", param.name
            )
            for name, word in (("from_point", "First"), ("to_point", "Second"))
        ]
    schema = _array(f"Two or more points to go through, each a {param.what}", point(""), 2, 20)
    reads = '[(item["latitude"], item["longitude"]) for item in points]'
    return [Field("points", schema, True, None, reads, param.name)]


def grouped(fields: Sequence[Field], typing: int) -> dict[str, list[Field]]:
    """Fields by the object that they stand in: ``query``, ``options`` or the top, ``""``."""
    found: dict[str, list[Field]] = {}
    for item in fields:
        group = "query" if item.required and typing >= 3 else ""
        group = "options" if not item.required and typing >= 2 else group
        found.setdefault(group, []).append(item)
    return found


def schema_of(fields: Sequence[Field], typing: int) -> dict[str, Any]:
    """JSON Schema of all parameters."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    for group, items in sorted(
        grouped(fields, typing).items(), key=lambda pair: pair[0] == "options"
    ):
        inner = {item.name: item.schema for item in items}
        needed = [item.name for item in items if item.required]
        if group:
            what = "What is asked for" if group == "query" else "How it is to be done; all optional"
            properties[group] = {
                "type": "object",
                "description": what,
                "properties": inner,
                "required": needed,
                "additionalProperties": False,
            }
            required += [group] if group == "query" else []
        else:
            properties |= inner
            required += needed
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def signature(fields: Sequence[Field], typing: int) -> list[str]:
    """Parameters of the Python function, those without a default first."""
    groups = grouped(fields, typing)
    top = [group for group in ("query",) if group in groups]
    top += [item.name for item in groups.get("", ()) if item.required]
    top += [f"{item.name}={item.default!r}" for item in groups.get("", ()) if not item.required]
    return top + (["options=None"] if "options" in groups else [])


def arguments(
    params: Sequence[Param],
    fields: Mapping[str, Sequence[Field]],
    values: Mapping[str, Any],
    typing: int,
    batch: bool,
) -> dict[str, Any]:
    """The JSON arguments of a call.

    Args:
        params: of the tool.
        fields: by parameter.
        values: plain values by parameter; what is left out keeps its default. ``{"$from": ...}``
            stands for the result of an earlier call.
        typing: level of type generalisation.
        batch: whether the tool can take several entities at once.
    """
    flat: dict[str, Any] = {}
    for param in params:
        if param.name in values:
            flat |= _encoded(param, fields[param.name], values[param.name], typing, batch)
    every = [item for items in fields.values() for item in items]
    found: dict[str, Any] = {}
    for group, items in grouped(every, typing).items():
        given = {item.name: flat[item.name] for item in items if item.name in flat}
        if group == "query" or (group and given):
            found[group] = given
        elif not group:
            found |= given
    return found


def _encoded(
    param: Param, fields: Sequence[Field], value: Any, typing: int, batch: bool
) -> dict[str, Any]:
    name = fields[0].name
    if param.kind == "points":
        points = [
            {axis: _part(point, axis) for axis in ("latitude", "longitude")} for point in value
        ]
        if typing == 0:
            flat = (point[axis] for point in points for axis in point)
            return {item.name: part for item, part in zip(fields, flat, strict=True)}
        if typing == 1:
            return {item.name: point for item, point in zip(fields, points, strict=True)}
        return {name: points}
    if typing and param.kind == "entity":
        one = {"name": value} if typing == 1 else {"name": value, "kind": param.subject}
        return {name: [one] if typing >= 2 and batch else one}
    if typing and param.kind == "date":
        return {name: {"date": value}}
    if typing and param.kind in ("number", "year") and param.default is None:
        return {name: {"value": value}}
    if typing and param.kind == "numbers":
        return {name: [{"value": item} for item in value]}
    return {name: value}


def _part(value: Any, axis: str) -> Any:
    if isinstance(value, dict) and FROM in value:
        return {**value, "path": [*value.get("path", ()), axis]}
    return value[0] if axis == "latitude" else value[1]
