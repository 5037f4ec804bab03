"""``Tool``: a typed, documented function; its arguments are checked, its failures are texts."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from pydantic import ValidationError

from toolgym._util.hashes import value_hash
from toolgym._util.jsonl import copy_json
from toolgym._util.rebuilding import name_code
from toolgym._workers.pool import WorkerPool
from toolgym._workers.tool_child import Watch, attempt, by_name, describe
from toolgym.errors import BadInputError, ToolError
from toolgym.messages import ToolCall, ToolResult
from toolgym.tools.cassette import ResultCache, cache_key
from toolgym.tools.docstring import read_docstring
from toolgym.tools.keeping import what_it_keeps
from toolgym.tools.signature import (
    argument_model,
    check_options,
    read_signature,
    takes_self,
    told_problem,
)

if TYPE_CHECKING:
    from toolgym.tools.session import LiveSession

__all__ = ["DEFAULT_TIMEOUT", "Schema", "Tool", "tool"]

Schema = dict[str, Any]
"""One tool in function-calling form: ``{"type": "function", "function": {name, ...}}``."""

Batch = Callable[[list[dict[str, Any]]], Sequence[Any]]

DEFAULT_TIMEOUT = 10.0  # seconds; the limit of the second paper's environments
_NAME = re.compile(r"\w[\w.-]{0,63}")  # what every format can write and read


class Tool:
    """A function that a policy may call.

    Args:
        function: typed by hints, and documented in Google's, NumPy's, reST's or Epydoc's style: the
            text becomes the description, its fields those of the parameters. It may be async: what
            it gives is awaited; what a generator yields is a list.
        name: what the policy writes; default: the function's name.
        description: in place of the docstring's text.
        timeout: seconds a call may take. It runs in a child process that is killed at the deadline.
        inline: run in this process, with no deadline: for functions that always end by themselves.
        batch: optional, for inline tools: many argument dicts at once to as many results, each a
            value or an exception; used when several calls of this tool are answered together.
        fingerprint: hash of the data that the answers depend on, such as an index; for
            ``run.json``.
        cache: whether equal arguments may be answered from memory. Default: where there is a
            ``fingerprint``, since that says that data and arguments alone decide the answer.
        shared_state: the function may keep something from call to call, though calls run in any
            order and in several processes: for caches, which change no answer. What remembers for
            an episode is a method of a `toolgym.tools.session.ToolSession`.

    Raises:
        BadInputError: a function that writes what outlives its call, a name that a format cannot
            write, a parameter whose type is missing or no JSON, ``*args`` or ``**kwargs``, or no
            description.
    """

    # What tools that are not made of a function, but of a document, do not have.
    _live: LiveSession | None = None
    _watch: Watch | None = None
    _said = False

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        inline: bool = False,
        batch: Batch | None = None,
        fingerprint: str = "",
        cache: bool | None = None,
        shared_state: bool = False,
    ) -> None:
        check_options(function, name, description, timeout)
        self.function, self.fingerprint = function, fingerprint
        # Per tool object, not by name: options such as a search's k stand in no fingerprint.
        self.cache = ResultCache() if (bool(fingerprint) if cache is None else cache) else None
        self.name = _checked_name(name or _plain(function).__name__)
        self.timeout, self.inline, self.batch = timeout, inline, batch
        self._document(function, description)
        kept = "" if shared_state or self.method else what_it_keeps(function)
        if kept:
            raise BadInputError(_keeping(self.name, kept))
        if inline and not (shared_state or self.method):
            watch = Watch(function)
            self._watch = watch if watch.held else None
        self._call = by_name(function)
        self._options: dict[str, Any] = {"name": self.name, "description": description}
        self._options |= {"timeout": timeout, "inline": inline, "batch": batch, "cache": cache}
        self._options |= {"fingerprint": fingerprint, "shared_state": shared_state}
        self._pool = (
            None if inline or self.method else WorkerPool(function, self.name, shared_state)
        )

    @classmethod
    def from_schema(
        cls, name: str, schema: Mapping[str, Any], function: Callable[..., Any], **options: Any
    ) -> Tool:
        """A tool whose parameters are told by a JSON Schema in place of type hints.

        Args:
            name: what the policy writes.
            schema: JSON Schema of an object, kept whole: what is nested, referred to or one of
                several kinds stands in every document, and arguments are checked against it.
            function: takes the arguments by name, such as ``lambda **arguments: ...``.
            options: as of `Tool`. The description may also be the schema's own.

        Raises:
            BadInputError: as of `Tool`, or a schema that is not one of an object or that cannot be
                enforced.
        """
        from toolgym.tools.documents import DocumentTool  # which is a `Tool`

        return DocumentTool(function, name=name, schema=schema, **options)

    def _document(self, function: Callable[..., Any], description: str | None) -> None:
        """Set what the policy is told, and how arguments are checked."""
        signature = read_signature(function, self.name)
        self.method = takes_self(signature)
        if self.method:
            del signature["self"]
        text = inspect.getdoc(_plain(function)) or ""
        written, described = read_docstring(text, list(signature))
        self.description = " ".join((description or written).split())
        if not self.description:
            raise BadInputError(_undocumented(self.name))
        model, self.parameters = argument_model(signature, self.name, described)
        self._names, self._check = list(signature), model.__pydantic_validator__.validate_python

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function: no validation, no deadline."""
        return self.function(*args, **kwargs)

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        """Of an instance of its class, a method is the plain function bound to that instance."""
        if instance is None or not self.method:
            return self
        return functools.partial(self.function, instance)

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
            checked = self._check(dict(arguments))
        except ValidationError as error:
            problems = "; ".join(told_problem(item, self._names) for item in error.errors())
            raise ToolError(f"invalid arguments for {self.name}: {problems}") from error
        # Its fields, in order, are all that it holds, for extra ones are forbidden.
        return dict(zip(self._names, vars(checked).values(), strict=True))

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
            if self._watch is not None or "kept" in reply:
                self._settle(reply)
            if cache is not None and key is not None and reply.keys() == {"text"}:
                cache.put(key, reply["text"])
        return [
            ToolResult(
                call.id,
                reply["text"],
                reply.get("error"),
                reply.get("detail"),
                empty="empty" in reply,
            )
            for call, reply in zip(calls, replies, strict=True)
        ], hits

    def bound(self, live: LiveSession, inline: bool) -> Tool:
        """The same tool, answered by the session of one episode.

        Args:
            live: the session.
            inline: whether it lives in this process.
        """
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, _live=live, inline=inline, cache=None, batch=None)
        return twin

    def fork(self) -> Tool:
        """The same tool behind a document of its own: what is changed there stays there."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.parameters = copy_json(self.parameters)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Tool:
        """As `fork`: gymnasium copies the arguments of every environment that it makes."""
        return self.fork()

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again from its function, in whatever process."""
        return functools.partial(type(self), **self._options), (self.function,)

    def describe(self) -> dict[str, str]:
        """Plain data for ``run.json``: the name, the function, and the document's hash."""
        told = {"tool": self.name, "function": name_code(self.function)}
        return told | {"document": value_hash(self.schema())}

    def close(self) -> None:
        """End the child processes that wait for a call; the next call starts a new one."""
        if self._pool is not None:
            self._pool.close()

    def _run_one(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self._live is not None:
            return self._live.call(self.name, arguments, self.timeout)
        if self._pool is not None:
            return self._pool.call(arguments, self.timeout)
        if self.method:
            raise BadInputError(
                f"tool {self.name!r} is a method of a session: give the class as a tool"
            )
        return attempt(self._call, arguments)

    def _settle(self, reply: dict[str, Any]) -> None:
        """Set back what a call left behind; said once."""
        kept = reply.pop("kept", None) or (self._watch.settle() if self._watch is not None else [])
        if kept and not self._said:
            self._said = True
            why = f"it changed {', '.join(kept)}, which was set back after the call"
            warnings.warn(f"tool {self.name!r}: {why}; {_REMEMBERS}", RuntimeWarning, stacklevel=2)

    def _run_batch(self, batch: Batch, arguments: list[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            values = batch(arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # as in `attempt`, for all of them
            return [describe(error)] * len(arguments)
        return [attempt(_same, value) for value in values]


def _same(value: Any) -> Any:
    return value


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    inline: bool = False,
    cache: bool = False,
    shared_state: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    inline: bool = False,
    cache: bool = False,
    shared_state: bool = False,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a function a tool: ``@tool``, or ``@tool(timeout=2.0)``.

    Args:
        function: see `Tool`.
        name: what the policy writes; default: the function's name.
        description: in place of the docstring's text.
        timeout: seconds until the call is ended.
        inline: run in this process without a deadline.
        cache: equal arguments may be answered from memory: only where they alone decide.
        shared_state: the function may keep something from call to call; see `Tool`.

    Raises:
        BadInputError: the function cannot be a tool, or is not typed or not documented.
    """

    def wrap(wrapped: Callable[..., Any]) -> Tool:
        return Tool(
            wrapped,
            name=name,
            description=description,
            timeout=timeout,
            inline=inline,
            cache=cache,
            shared_state=shared_state,
        )

    return wrap(function) if function is not None else wrap


def _plain(function: Callable[..., Any]) -> Any:
    """What holds the name and the docstring of a function: partials and callable objects do not."""
    while isinstance(function, functools.partial):
        function = function.func
    if hasattr(function, "__name__"):
        return function
    return type(function) if type(function).__doc__ else type(function).__call__


_REMEMBERS = (
    "what remembers during an episode is a method of a toolgym.ToolSession; a cache, which changes "
    "no answer, is declared with @tool(shared_state=True)"
)


def _keeping(name: str, kept: str) -> str:
    return (
        f"tool {name!r} writes {kept}, which outlives the call and would be seen by other episodes "
        f"or not at all, for calls run in several processes: {_REMEMBERS}"
    )


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        near = re.sub(r"[^\w.-]+", "_", name).strip("_.-")[:64] or "my_tool"
        raise BadInputError(
            f"tool name {name!r} must be at most 64 letters, digits, '_', '-' and '.', for not "
            f"every format can write others; pass name={near!r}"
        )
    return name


def _undocumented(name: str) -> str:
    ways = "write one, or pass @tool(description=...)"
    if sys.flags.optimize > 1:
        ways = "python -OO removes docstrings: run without -OO, or pass @tool(description=...)"
    return f"tool {name!r} needs a docstring that describes it, for the policy reads it; {ways}"
