"""A function's parameters as a policy is told them: their types as JSON Schema, and their check."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic.json_schema import GenerateJsonSchema

from toolgym._util.kinds import require
from toolgym.errors import BadInputError, did_you_mean

__all__ = ["argument_model", "check_options", "read_signature", "takes_self", "told_problem"]


def check_options(function: Any, name: Any, description: Any, timeout: Any) -> None:
    """Refuse what a tool cannot be declared with; see `toolgym.tools.base.Tool`.

    Raises:
        BadInputError: one of them is something else than it should be.
    """
    if not callable(function):
        raise BadInputError(f"a tool is made of a function, not of {function!r:.80}")
    require(name, (str, NoneType), "the name of a tool is a string")
    require(description, (str, NoneType), "the description of a tool is a string")
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not (number and timeout > 0):
        raise BadInputError(f"the timeout of a tool is seconds above 0, not {timeout!r:.80}")


def read_signature(function: Callable[..., Any], name: str) -> dict[str, inspect.Parameter]:
    """The parameters that a policy may give, by name; what a partial has fixed is not among them.

    Raises:
        BadInputError: a parameter without a type, or ``*args`` or ``**kwargs``.
    """
    try:
        parameters = inspect.signature(function, eval_str=True).parameters
    except (TypeError, ValueError) as error:
        raise BadInputError(f"tool {name!r} has no signature to read ({error})") from error
    except Exception as error:  # evaluating a hint given as text runs any expression
        raise BadInputError(f"a type hint of tool {name!r} has no meaning: {error}") from error
    fixed = function.keywords if isinstance(function, functools.partial) else ()
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise BadInputError(
                f"tool {name!r} may not take *{parameter.name}: name its parameters"
            )
        is_self = parameter.name == "self" and next(iter(parameters)) == "self"
        if parameter.annotation is parameter.empty and parameter.name not in fixed and not is_self:
            raise BadInputError(f"parameter {parameter.name!r} of tool {name!r} needs a type hint")
    return {name: value for name, value in parameters.items() if name not in fixed}


def takes_self(signature: Mapping[str, inspect.Parameter]) -> bool:
    """Whether a function is a method: its first parameter is ``self``, without a type."""
    first = next(iter(signature.values()), None)
    return first is not None and first.name == "self" and first.annotation is first.empty


def argument_model(
    signature: Mapping[str, inspect.Parameter], name: str, described: Mapping[str, str]
) -> tuple[type[BaseModel], dict[str, Any]]:
    """A model that checks arguments, and its JSON Schema.

    The parameters are aliases: pydantic keeps names such as ``copy`` and ``model_config`` for
    itself, and takes none that begins with ``_``.

    Raises:
        BadInputError: a type that is not JSON.
    """
    fields: dict[str, Any] = {}
    for number, (parameter, found) in enumerate(signature.items()):
        default = ... if found.default is found.empty else found.default
        described_as = Field(default, alias=parameter, description=described.get(parameter))
        fields[f"field_{number}"] = (found.annotation, described_as)
    config = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=False)
    try:
        model = create_model(name, __config__=config, **fields)
        return model, _untitled(model.model_json_schema(schema_generator=_Quiet))
    except Exception as error:  # types bring their own checks, and what those raise
        raise _unusable(name, signature, error) from error


def _unusable(
    name: str, signature: Mapping[str, inspect.Parameter], error: Exception
) -> BadInputError:
    """The error that names the parameter whose type cannot be used."""
    for parameter, found in signature.items():
        try:
            TypeAdapter(found.annotation).json_schema()
        except Exception as own:
            why = str(own).splitlines()[0]
            return BadInputError(
                f"the type {found.annotation!r:.80} of parameter {parameter!r} of tool {name!r} "
                f"cannot be given as JSON: {why:.200}"
            )
    return BadInputError(f"tool {name!r} has parameters that are not JSON: {error!s:.200}")


class _Quiet(GenerateJsonSchema):
    """A default that is not JSON is left out of the document without a warning."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - theirs


def _untitled(schema: dict[str, Any]) -> dict[str, Any]:
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


def told_problem(item: Mapping[str, Any], names: Sequence[str]) -> str:
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
