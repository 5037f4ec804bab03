"""Tools: typed, documented functions whose arguments are validated and whose failures are texts."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from toolgym._docstring import parse_docstring
from toolgym._worker import WorkerPool
from toolgym._worker_child import as_text, describe
from toolgym.errors import BadInputError, ToolError, UnknownNameError, near
from toolgym.messages import ToolCall, ToolResult
from toolgym.registry import TOOLS

__all__ = ["Schema", "Tool", "Toolset", "make_toolset", "tool"]

Schema = dict[str, Any]
"""One tool in function-calling form: ``{"type": "function", "function": {name, ...}}``."""

Batch = Callable[[list[dict[str, Any]]], Sequence[Any]]

DEFAULT_TIMEOUT = 10.0  # seconds; the limit of the second paper's environments


class Tool:
    """A function that a policy may call.

    Args:
        function: typed by hints, documented by a Google docstring; the summary becomes the
            description, ``Args:`` the descriptions of the parameters.
        name: what the policy writes; default: the function's name.
        timeout: seconds a call may take. It runs in a child process that is killed at the deadline.
        inline: run in this process, with no deadline: for functions that always end by themselves.
        batch: optional, for inline tools: many argument dicts at once to as many results, each a
            value or an exception; used when several calls of this tool are answered together.
        fingerprint: hash of the data that the answers depend on, such as an index; for
            ``run.json``.

    Raises:
        BadInputError: a parameter without a type, ``*args`` or ``**kwargs``, or no docstring.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        inline: bool = False,
        batch: Batch | None = None,
        fingerprint: str = "",
    ) -> None:
        self.function, self.fingerprint = function, fingerprint
        self.name = name or function.__name__
        self.timeout, self.inline, self.batch = timeout, inline, batch
        summary, described = parse_docstring(inspect.getdoc(function) or "")
        if not summary:
            raise BadInputError(f"tool {self.name!r} needs a docstring: the policy reads it")
        self.description = summary
        self._model = _arguments_model(function, self.name, described)
        self.parameters = _clean(self._model.model_json_schema())
        self._pool = None if inline else WorkerPool(function, self.name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function: no validation, no deadline."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Tool({self.name!r}, parameters={list(self.parameters['properties'])})"

    def schema(self) -> Schema:
        """A fresh function-calling document."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": json.loads(json.dumps(self.parameters)),
        }
        return {"type": "function", "function": function}

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Check and convert arguments: numbers in text are read, unknown names refused.

        Raises:
            ToolError: with one line for the model that names each wrong argument.
        """
        try:
            checked = self._model.model_validate(dict(arguments))
        except ValidationError as error:
            names = list(self._model.model_fields)
            problems = "; ".join(_problem(item, names) for item in error.errors())
            raise ToolError(f"invalid arguments for {self.name}: {problems}") from error
        return {name: getattr(checked, name) for name in self._model.model_fields}

    def run(self, call: ToolCall) -> ToolResult:
        """Validate, execute, and turn every failure into a text; a failing tool never raises."""
        return self.run_many([call])[0]

    def run_many(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Several calls of this tool, answered in order; batched where the tool can."""
        results: dict[int, dict[str, Any]] = {}
        ready: list[tuple[int, dict[str, Any]]] = []
        for index, call in enumerate(calls):
            try:
                ready.append((index, self.validate(call.arguments)))
            except ToolError as error:
                results[index] = {"error": "invalid_arguments", "text": f"Error: {error}"}
        if self.batch is not None and len(ready) > 1:
            values = self._run_batch(self.batch, [arguments for _, arguments in ready])
        else:
            values = [self._run_one(arguments) for _, arguments in ready]
        results.update({index: value for (index, _), value in zip(ready, values, strict=True)})
        return [
            ToolResult(call.id, reply["text"], reply.get("error"), reply.get("detail"))
            for call, reply in ((call, results[index]) for index, call in enumerate(calls))
        ]

    def _run_one(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self._pool is not None:
            return self._pool.call(arguments, self.timeout)
        try:
            return {"text": as_text(self.function(**arguments))}
        except Exception as error:  # a tool's failure belongs into the record, not into the run
            return describe(error)

    def _run_batch(self, batch: Batch, arguments: list[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            values = batch(arguments)
        except Exception as error:  # as in _run_one, for all of them
            return [describe(error)] * len(arguments)
        return [describe(v) if isinstance(v, Exception) else {"text": as_text(v)} for v in values]


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *, name: str | None = None, timeout: float = DEFAULT_TIMEOUT, inline: bool = False
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    inline: bool = False,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a function a tool: ``@tool``, or ``@tool(timeout=2.0)``.

    Args:
        function: see `Tool`.
        name: what the policy writes; default: the function's name.
        timeout: seconds until the call is ended.
        inline: run in this process without a deadline.

    Raises:
        BadInputError: the function is not typed or not documented.
    """

    def wrap(wrapped: Callable[..., Any]) -> Tool:
        return Tool(wrapped, name=name, timeout=timeout, inline=inline)

    return wrap(function) if function is not None else wrap


class Toolset:
    """Tools by name, and the one place where calls are executed.

    Args:
        tools: each with its own name.

    Raises:
        BadInputError: two tools have one name.
    """

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for item in tools:
            if item.name in self._tools:
                raise BadInputError(f"two tools are called {item.name!r}; rename one")
            self._tools[item.name] = item

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __getitem__(self, name: str) -> Tool:
        """The tool of that name.

        Raises:
            UnknownNameError: there is none.
        """
        if name not in self._tools:
            raise UnknownNameError("tool", name, self._tools)
        return self._tools[name]

    @property
    def names(self) -> list[str]:
        """The names, in the order in which the policy is told them."""
        return list(self._tools)

    def schemas(self) -> list[Schema]:
        """Fresh function-calling documents."""
        return [item.schema() for item in self]

    def execute(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Run calls, batched by tool; results come in order. A failing tool never raises."""
        by_tool: dict[str, list[int]] = {}
        for index, call in enumerate(calls):
            by_tool.setdefault(call.name, []).append(index)
        results: dict[int, ToolResult] = {}
        for name, indices in by_tool.items():
            mine = [calls[index] for index in indices]
            if name in self._tools:
                found = self._tools[name].run_many(mine)
            else:
                text = f"{name[:100]} does not exist.{near(name[:100], self._tools)}"
                text += f" Tools: {', '.join(self._tools) or 'none'}."
                found = [ToolResult(call.id, text, "unknown_tool") for call in mine]
            results.update(zip(indices, found, strict=True))
        return [results[index] for index in range(len(calls))]


def make_toolset(tools: Sequence[str | Tool | Mapping[str, Any]], **shared: Any) -> Toolset:
    """Build a toolset from plain data.

    Args:
        tools: names, ``{"name": ..., option: value}`` mappings, or `Tool` objects.
        shared: options given to every factory that has a parameter of that name (``corpus``).

    Raises:
        UnknownNameError: no tool has that name.
        BadInputError: an option that the tool does not have.
    """
    return Toolset(_make(item, shared) for item in tools)


def _make(item: str | Tool | Mapping[str, Any], shared: Mapping[str, Any]) -> Tool:
    if isinstance(item, Tool):
        return item
    options = {} if isinstance(item, str) else {k: v for k, v in item.items() if k != "name"}
    name = item if isinstance(item, str) else str(item.get("name"))
    factory = TOOLS.get(name)
    if isinstance(factory, Tool):
        return factory
    accepted = inspect.signature(factory).parameters
    for option in options:
        if option not in accepted:
            raise BadInputError(
                f"tool {name!r} has no option {option!r}{near(option, accepted)}; "
                f"options: {', '.join(accepted) or 'none'}"
            )
    given = {k: v for k, v in shared.items() if k in accepted and v is not None} | options
    made = factory(**given)
    if not isinstance(made, Tool):
        raise BadInputError(
            f"the factory of tool {name!r} returned {type(made).__name__}, not a Tool"
        )
    return made


def _arguments_model(
    function: Callable[..., Any], name: str, described: Mapping[str, str]
) -> type[BaseModel]:
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


def _clean(schema: dict[str, Any]) -> dict[str, Any]:
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


def _problem(item: Mapping[str, Any], names: Sequence[str]) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "arguments"
    if item["type"] == "extra_forbidden":
        return f"{where!r} is not a parameter{near(where, names)}; parameters: {', '.join(names)}"
    if item["type"] == "missing":
        return f"{where!r} is missing"
    return f"{where!r}: {item['msg']}, got {item['input']!r:.80}"
