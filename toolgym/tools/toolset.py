"""Tools: typed, documented functions whose arguments are validated and whose failures are texts."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, overload

from pydantic import ValidationError

from toolgym._util.jsonl import copy_json
from toolgym._workers.pool import WorkerPool
from toolgym._workers.tool_child import attempt, describe
from toolgym.errors import BadInputError, ToolError, UnknownNameError, did_you_mean
from toolgym.messages import ToolCall, ToolResult
from toolgym.registry import TOOLS
from toolgym.tools.arguments import arguments_model, problem, without_titles
from toolgym.tools.cache import Counters, ResultCache, cache_key
from toolgym.tools.docstring import parse_docstring

__all__ = ["Schema", "Tool", "Toolset", "make_toolset", "tool"]

Schema = dict[str, Any]
"""One tool in function-calling form: ``{"type": "function", "function": {name, ...}}``."""

Batch = Callable[[list[dict[str, Any]]], Sequence[Any]]

DEFAULT_TIMEOUT = 10.0  # seconds; the limit of the second paper's environments
MAX_PARALLEL = 8  # child processes that one turn, or one step of many episodes, keeps busy


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
        cache: whether equal arguments may be answered from memory. Default: where there is a
            ``fingerprint``, since that says that data and arguments alone decide the answer.

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
        cache: bool | None = None,
    ) -> None:
        self.function, self.fingerprint = function, fingerprint
        # Per tool object, not by name: options such as a search's k stand in no fingerprint.
        self.cache = ResultCache() if (bool(fingerprint) if cache is None else cache) else None
        self.name = name or function.__name__
        self.timeout, self.inline, self.batch = timeout, inline, batch
        summary, described = parse_docstring(inspect.getdoc(function) or "")
        if not summary:
            raise BadInputError(f"tool {self.name!r} needs a docstring: the policy reads it")
        self.description = summary
        self._model = arguments_model(function, self.name, described)
        self.parameters = without_titles(self._model.model_json_schema())
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
            "parameters": copy_json(self.parameters),
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
            problems = "; ".join(problem(item, names) for item in error.errors())
            raise ToolError(f"invalid arguments for {self.name}: {problems}") from error
        return dict(vars(checked))  # its fields: extra ones are forbidden

    def run(self, call: ToolCall) -> ToolResult:
        """Validate, execute, and turn every failure into a text; a failing tool never raises."""
        return self.run_many([call])[0]

    def run_many(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Several calls of this tool, answered in order; batched where the tool can.

        Never from the cache, which only a `Toolset` uses: who asks twice here wants to see it run.
        """
        return self.answer(calls, use_cache=False)[0]

    def answer(self, calls: Sequence[ToolCall], use_cache: bool) -> tuple[list[ToolResult], int]:
        """As `run_many`, and how many of the answers came from the cache.

        Args:
            calls: of this tool.
            use_cache: look into the tool's cache, where it has one, and add to it.
        """
        cache = self.cache if use_cache else None
        replies: list[dict[str, Any]] = [{}] * len(calls)
        ready: list[tuple[int, dict[str, Any], str | None]] = []
        hits = 0
        for index, call in enumerate(calls):
            try:
                arguments = self.validate(call.arguments)
            except ToolError as error:
                replies[index] = {"error": "invalid_arguments", "text": f"Error: {error}"}
                continue
            key = cache_key(arguments) if cache is not None else None
            known = cache.get(key) if cache is not None and key is not None else None
            if known is None:
                ready.append((index, arguments, key))
            else:
                hits += 1
                replies[index] = {"text": known}
        if self.batch is not None and len(ready) > 1:
            values = self._run_batch(self.batch, [arguments for _, arguments, _ in ready])
        else:
            values = [self._run_one(arguments) for _, arguments, _ in ready]
        for (index, _, key), reply in zip(ready, values, strict=True):
            replies[index] = reply
            if cache is not None and key is not None and "error" not in reply:
                cache.put(key, reply["text"])
        return [
            ToolResult(call.id, reply["text"], reply.get("error"), reply.get("detail"))
            for call, reply in zip(calls, replies, strict=True)
        ], hits

    def close(self) -> None:
        """End the child processes that wait for a call; the next call starts a new one."""
        if self._pool is not None:
            self._pool.close()

    def _run_one(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self._pool is not None:
            return self._pool.call(arguments, self.timeout)
        return attempt(partial(self.function, **arguments))

    def _run_batch(self, batch: Batch, arguments: list[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            values = batch(arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # as in `attempt`, for all of them
            return [describe(error)] * len(arguments)
        return [attempt(partial(_same, value)) for value in values]


def _same(value: Any) -> Any:
    return value


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    inline: bool = False,
    cache: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    inline: bool = False,
    cache: bool = False,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a function a tool: ``@tool``, or ``@tool(timeout=2.0)``.

    Args:
        function: see `Tool`.
        name: what the policy writes; default: the function's name.
        timeout: seconds until the call is ended.
        inline: run in this process without a deadline.
        cache: equal arguments may be answered from memory: only where they alone decide.

    Raises:
        BadInputError: the function is not typed or not documented.
    """

    def wrap(wrapped: Callable[..., Any]) -> Tool:
        return Tool(wrapped, name=name, timeout=timeout, inline=inline, cache=cache)

    return wrap(function) if function is not None else wrap


class Toolset:
    """Tools by name, and the one place where calls are executed.

    Args:
        tools: each with its own name.
        cache: whether tools that have a result cache may use it.

    Raises:
        BadInputError: two tools have one name.
    """

    def __init__(self, tools: Iterable[Tool] = (), *, cache: bool = True) -> None:
        self._tools: dict[str, Tool] = {}
        self._use_cache, self._counters = cache, Counters()
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

    def execute(
        self, calls: Sequence[ToolCall], episodes: Sequence[str] | None = None
    ) -> list[ToolResult]:
        """Run calls; results come in order. A failing tool never raises.

        The calls of an inline tool run here, batched; those of tools in child processes run at the
        same time, at most `MAX_PARALLEL`.

        Args:
            calls: of any tools.
            episodes: the episode of each call; plain toolsets do not ask, served ones do.
        """
        if len(calls) < 2:
            return self._run(calls[0].name, calls) if calls else []
        groups: dict[str, list[int]] = {}
        for index, call in enumerate(calls):
            groups.setdefault(call.name, []).append(index)
        here, apart = [], []
        for name, indices in groups.items():
            if name in self._tools and not self._tools[name].inline:
                apart += [[index] for index in indices]
            else:
                here.append(indices)
        if apart and not here:
            here.append(apart.pop())
        results: dict[int, ToolResult] = {}

        def run(indices: list[int]) -> None:
            found = self._run(calls[indices[0]].name, [calls[index] for index in indices])
            results.update(zip(indices, found, strict=True))

        width = min(MAX_PARALLEL - 1, len(apart))
        pool = ThreadPoolExecutor(width, "toolgym-tool") if apart else None
        try:
            pending = [pool.submit(run, indices) for indices in apart] if pool else []
            for indices in here:
                run(indices)
            for future in pending:
                future.result()
        finally:
            if pool is not None:  # after an error or Ctrl-C no further call is begun
                pool.shutdown(cancel_futures=True)
        return [results[index] for index in range(len(calls))]

    def close(self) -> None:
        """End the tools' idle child processes; all can be called again."""
        for item in self:
            item.close()

    def counters(self) -> dict[str, dict[str, Any]]:
        """By tool: ``calls``, ``errors`` by kind, ``cache_hits``, ``seconds``, ``characters``.

        Calls of tools that do not exist stand under ``(unknown tool)``. Seconds are those of the
        clock; calls that were answered together share theirs.
        """
        return self._counters.read()

    def added_seconds(self, results: Sequence[ToolResult]) -> float:
        """Latency that belongs into the record though nobody waited: replayed calls."""
        return 0.0

    def _run(self, name: str, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Run calls of one name, and count them."""
        item, hits, began = self._tools.get(name), 0, time.perf_counter()
        if item is not None:
            found, hits = item.answer(calls, self._use_cache)
        else:
            text = f"{name[:100]} does not exist.{did_you_mean(name[:100], self._tools)}"
            text += f" Tools: {', '.join(self._tools) or 'none'}."
            found = [ToolResult(call.id, text, "unknown_tool") for call in calls]
        self._counters.add(None if item is None else name, found, time.perf_counter() - began, hits)
        return found


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
                f"tool {name!r} has no option {option!r}{did_you_mean(option, accepted)}; "
                f"options: {', '.join(accepted) or 'none'}"
            )
    given = {k: v for k, v in shared.items() if k in accepted and v is not None} | options
    made = factory(**given)
    if not isinstance(made, Tool):
        raise BadInputError(
            f"the factory of tool {name!r} returned {type(made).__name__}, not a Tool"
        )
    return made
