"""What generated tools are made of: plain functions, whose source is copied into each tool.

They use only what the sandbox's language allows, and run in this process as well, where they
compute the answers that are expected; so an answer and the tool that gives it cannot drift apart.
"""

from __future__ import annotations

import unicodedata
from typing import Any

__all__ = ["check_value", "find_name", "fold_name", "names_of", "present", "round_number"]


def check_value(value: Any, schema: dict[str, Any], where: str) -> None:
    """Compare a value with its JSON Schema; a ValueError says which parameter is wrong, and how."""
    kinds: dict[str, Any] = {
        "string": str,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    kind, shown = schema["type"], str(value)[:60]
    fits = isinstance(value, kinds.get(kind, int))
    if not fits or (isinstance(value, bool) and kind != "boolean"):
        raise ValueError(f"{where} must be of type {kind}, not {shown!r}")
    if value not in schema.get("enum", [value]):
        raise ValueError(f"{where} must be one of {', '.join(schema['enum'])}, not {shown!r}")
    if kind in ("integer", "number"):
        low, high = schema.get("minimum", -1e15), schema.get("maximum", 1e15)
        if not low <= value <= high:
            raise ValueError(f"{where} must lie between {low} and {high}, it is {shown}")
    elif kind == "array":
        if not schema["minItems"] <= len(value) <= schema["maxItems"]:
            bounds = f"{schema['minItems']} to {schema['maxItems']}"
            raise ValueError(f"{where} must have {bounds} items, not {len(value)}")
        for place, item in enumerate(value):
            check_value(item, schema["items"], f"{where}[{place}]")
    elif kind == "object":
        known = schema["properties"]
        for name in schema["required"]:
            if name not in value:
                raise ValueError(f"{where} lacks {name!r}: {known[name]['description']}")
        for name in value:
            if name not in known:
                raise ValueError(f"{where} has no field {name!r}; fields: {', '.join(known)}")
            check_value(value[name], known[name], f"{where}.{name}")


def fold_name(name: str) -> str:
    """A name without case, accents, quotes and surplus spaces."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    kept = "".join(sign for sign in plain if not unicodedata.combining(sign))
    words = kept.replace("’", "'").strip("\"'“”‘ ").split()
    return " ".join(words[1:] if len(words) > 1 and words[0] == "the" else words)


def find_name(
    value: str, names: list[str], listed: list[str], where: str, what: str, exact: bool
) -> str:
    """The name in the register that is meant; a ValueError shows near ones of those listed."""
    for name in names:
        if name == value or (not exact and fold_name(name) == fold_name(value)):
            return name
    start = fold_name(value)[:3]
    near = " or ".join(repr(name) for name in listed if fold_name(name).startswith(start))
    hint = f" (did you mean {near}?)" if start and near else ""
    raise ValueError(
        f"{where}: no {what} {value[:60]!r} in the register{hint}; give the full name as it stands "
        "in the question or in an earlier result"
    )


def names_of(items: list[dict[str, Any]], kind: str, where: str) -> list[str]:
    """The names of entities that have to be of one kind."""
    for item in items:
        if item.get("kind", kind) != kind:
            raise ValueError(f"{where}: kind must be {kind!r} for this tool, not {item['kind']!r}")
    return [item["name"] for item in items]


def round_number(value: Any, digits: int | None, way: str = "nearest") -> Any:
    """Numbers rounded half away from zero, whole ones without a decimal point; else unchanged."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if digits is not None:
        scaled, sign = abs(value) * 10**digits, 1 if value >= 0 else -1
        whole = int(scaled + (0.5 + 1e-9 if way == "nearest" else 1e-9))
        if way != "nearest" and (way == "up") == (sign > 0) and scaled - whole > 1e-9:
            whole += 1
        value = sign * whole / 10**digits
    return int(value) if value == int(value) else value


def present(value: Any, style: str, language: str) -> Any:
    """A value in another form: dates written out, texts in other letters."""
    if not isinstance(value, str):
        return value
    if style in ("upper", "lower"):
        return value.upper() if style == "upper" else value.lower()
    months = {
        "en": "January February March April May June July August September October November "
        "December",
        "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
        "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre "
        "décembre",
    }
    if style == "long" and len(value) == 10 and value[4] == value[7] == "-":
        month = months[language].split()[int(value[5:7]) - 1]
        return f"{int(value[8:])} {month} {value[:4]}"
    return value
