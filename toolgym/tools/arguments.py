"""A function's parameters as a pydantic model, and as JSON Schema that costs few tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from toolgym.errors import BadInputError, did_you_mean

__all__ = ["arguments_model", "problem", "without_titles"]


def arguments_model(
    function: Callable[..., Any], name: str, described: Mapping[str, str]
) -> type[BaseModel]:
    """A model that checks the arguments of a function.

    Args:
        function: typed by hints.
        name: the tool's, for messages.
        described: descriptions of the parameters.

    Raises:
        BadInputError: a parameter without a type, or ``*args`` or ``**kwargs``.
    """
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise BadInputError(
                f"tool {name!r} may not take *{parameter.name}: name its parameters"
            )
        if parameter.annotation is parameter.empty:
            raise BadInputError(f"parameter {parameter.name!r} of tool {name!r} needs a type hint")
        default = ... if parameter.default is parameter.empty else parameter.default
        description = described.get(parameter.name)
        fields[parameter.name] = (parameter.annotation, Field(default, description=description))
    config = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=False)
    return create_model(name, __config__=config, **fields)


def without_titles(schema: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema without pydantic's titles, which only cost the policy tokens."""

    def walk(node: Any, inside_properties: bool = False) -> Any:
        if isinstance(node, dict):
            return {
                key: walk(value, key == "properties" and not inside_properties)
                for key, value in node.items()
                if inside_properties or key != "title"
            }
        return [walk(item) for item in node] if isinstance(node, list) else node

    cleaned: dict[str, Any] = walk(schema)
    cleaned.setdefault("properties", {})
    cleaned.setdefault("required", [])
    cleaned.pop("additionalProperties", None)
    return cleaned


def problem(item: Mapping[str, Any], names: Sequence[str]) -> str:
    """One of pydantic's findings as a line for the policy.

    Args:
        item: from ``ValidationError.errors()``.
        names: of the tool's parameters.
    """
    where = ".".join(str(part) for part in item["loc"]) or "arguments"
    if item["type"] == "extra_forbidden":
        hint = did_you_mean(where, names)
        return f"{where!r} is not a parameter{hint}; parameters: {', '.join(names)}"
    if item["type"] == "missing":
        return f"{where!r} is missing"
    return f"{where!r}: {item['msg']}, got {item['input']!r:.80}"
