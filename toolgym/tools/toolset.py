"""``Toolset``: tools by name, and the one place where calls are executed."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from toolgym._util.kinds import require_each
from toolgym._util.rebuilding import plain
from toolgym.errors import BadInputError, UnknownNameError, did_you_mean
from toolgym.messages import ToolCall, ToolResult
from toolgym.registry import SERVERS, TOOLS
from toolgym.task import Task
from toolgym.tools.base import Schema, Tool
from toolgym.tools.cassette import Counters
from toolgym.tools.session import LiveSession, SessionSpec, ToolSession

__all__ = ["MAX_PARALLEL", "Toolset", "is_server", "make_toolset", "tell_tools"]

_RENAME = "rename one, or give one of two MCP servers a prefix: MCP(..., prefix='a_')"

MAX_PARALLEL = 8  # child processes that one turn, or one step of many episodes, keeps busy


class Toolset:
    """Tools by name, and the one place where calls are executed.

    Args:
        tools: each with its own name; also classes whose instances remember what one episode did,
            see `toolgym.tools.session`: their methods are tools; or what is known of such a class.
        cache: whether tools that have a result cache may use it.

    Raises:
        BadInputError: not tools in a list, two of one name, or a class that gives none.
    """

    shared = False
    """Whether all environments of the process hold this one; see `fork`."""
    unknown = ""
    """What a call of a tool that does not exist gets, if not our text; ``{0}`` is the name."""

    def __init__(
        self, tools: Iterable[Tool | type[Any] | SessionSpec] = (), *, cache: bool = True
    ) -> None:
        self._tools: dict[str, Tool] = {}
        self._use_cache, self._counters = cache, Counters()
        self._specs: dict[str, SessionSpec] = {}
        if isinstance(tools, Toolset):
            self._specs |= tools._specs
        self._live: dict[str, LiveSession] = {}
        for item in require_each(tools, object, "a set of tools takes a list of them"):
            if isinstance(item, Tool):
                self._add(item)
                continue
            spec = item if isinstance(item, SessionSpec) else SessionSpec(item)
            if spec.name in self._specs:
                raise BadInputError(f"two sessions are called {spec.name!r}; {_RENAME}")
            self._specs[spec.name] = spec
            for method in spec.tools.values():
                self._add(method)

    def _add(self, item: Tool) -> None:
        if item.name in self._tools:
            raise BadInputError(f"two tools are called {item.name!r}; {_RENAME}")
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

    def fork(self) -> Toolset:
        """The same tools, processes, caches and counts behind documents of their own."""
        twin = copy.copy(self)
        twin.shared = False
        twin._tools = {name: item.fork() for name, item in self._tools.items()}
        return twin

    def described(self, descriptions: Mapping[str, str], some: bool = False) -> Toolset:
        """The same tools under other descriptions.

        Args:
            descriptions: by tool name.
            some: pass over names that are not among the tools.

        Raises:
            UnknownNameError: there is no such tool.
        """
        if not some:
            refuse_descriptions(descriptions, self._tools)
        twin = self.fork()
        for name in descriptions.keys() & twin._tools.keys():
            twin[name].description = descriptions[name]
        return twin

    @property
    def sessions(self) -> list[str]:
        """Names of the classes whose instances remember."""
        return list(self._specs)

    def servers(self) -> dict[str, Any]:
        """What servers say of all their tools, by the name of the server."""
        return {
            name: documents()
            for name, spec in self._specs.items()
            if callable(documents := getattr(spec, "documents", None))
        }

    def open(self, task: Task) -> Toolset:
        """The tools of one episode: these, where nothing remembers; else with sessions of its own.

        Args:
            task: that the episode plays.

        Raises:
            BadInputError: a session cannot begin the task.
        """
        if not self._specs:
            return self
        twin = copy.copy(self)
        twin.shared, twin._live, twin._tools = True, {}, dict(self._tools)
        try:
            for name, spec in self._specs.items():
                if self._opens(spec):
                    twin._bind(name, spec, spec.open(task))
        except BaseException:
            twin.end()
            raise
        return twin

    def _opens(self, spec: SessionSpec) -> bool:
        """Whether episodes have sessions of a class."""
        return True

    def without(self, names: Collection[str]) -> Toolset:
        """The same tools and sessions, but for some tools, which do not exist here.

        Args:
            names: of those.
        """
        if not names:
            return self
        twin = copy.copy(self)
        twin._tools = {name: item for name, item in self._tools.items() if name not in names}
        return twin

    def _bind(self, name: str, spec: SessionSpec, live: LiveSession) -> None:
        self._live[name] = live
        for tool in spec.tools:
            self._tools[tool] = self._tools[tool].bound(live, spec.inline)

    def state(self) -> Any:
        """What the sessions remember: that of the only one, or each one's by its class's name.

        Returns:
            Plain JSON of its own; None where nothing is open.

        Raises:
            BadInputError: the state of a session is not JSON.
        """
        lives = self._live.items()
        found = {name: live.state() for name, live in lives if not self._specs[name].outside}
        return found if len(found) > 1 else next(iter(found.values()), None)

    def snapshot(self) -> dict[str, Any]:
        """What `restore` needs to bring the sessions back to this moment, by name."""
        return {name: live.snapshot() for name, live in self._live.items()}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Bring the sessions back to a moment.

        Args:
            snapshot: of `snapshot`, of this episode or another one of these tools.
        """
        for name, moment in snapshot.items():
            self._live[name].restore(moment)

    def end(self) -> None:
        """End the sessions, where some are open; the tools themselves go on."""
        for live in self._live.values():
            live.close()

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
        remembering = self._remembering()
        groups: dict[str, list[int]] = {}
        ordered: list[int] = []  # what is remembered depends on the order of the calls
        for index, call in enumerate(calls):
            place = ordered if call.name in remembering else groups.setdefault(call.name, [])
            place.append(index)
        here, apart = [], []
        for name, indices in groups.items():
            if name in self._tools and not self._tools[name].inline:
                apart += [[index] for index in indices]
            else:
                here.append(indices)
        if apart and not here and not ordered:
            here.append(apart.pop())
        results: dict[int, ToolResult] = {}

        def run(indices: list[int]) -> None:
            found = self._run(calls[indices[0]].name, [calls[index] for index in indices])
            results.update(zip(indices, found, strict=True))

        width = min(MAX_PARALLEL - 1, len(apart))
        pool = ThreadPoolExecutor(width, "toolgym-tool") if apart else None
        try:
            pending = [pool.submit(run, indices) for indices in apart] if pool else []
            for index in ordered:
                run([index])
            for indices in here:
                run(indices)
            for future in pending:
                future.result()
        finally:
            if pool is not None:  # after an error or Ctrl-C no further call is begun
                pool.shutdown(cancel_futures=True)
        return [results[index] for index in range(len(calls))]

    def _remembering(self) -> set[str]:
        return {tool for name in self._live for tool in self._specs[name].tools}

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

    def _run(self, name: str, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Run calls of one name, and count them."""
        item, hits, began = self._tools.get(name), 0, time.perf_counter()
        if item is not None:
            found, hits = item.answer(calls, self._use_cache)
        else:
            text = f"{name[:100]} does not exist.{did_you_mean(name[:100], self._tools)}"
            text += f" Tools: {', '.join(self._tools) or 'none'}."
            text = self.unknown.format(name) or text
            found = [ToolResult(call.id, text, "unknown_tool") for call in calls]
        self._counters.add(None if item is None else name, found, time.perf_counter() - began, hits)
        return found


def make_toolset(
    tools: Sequence[str | Tool | type[Any] | SessionSpec | Mapping[str, Any]],
    *,
    cassette: str | None = None,
    **shared: Any,
) -> Toolset:
    """Build a toolset from plain data.

    Args:
        tools: names, ``{"name": ..., option: value}`` mappings, `Tool` objects, classes of
            sessions (`toolgym.tools.session`), or servers (`toolgym.MCP`, ``"mcp:..."``).
        cassette: tells the tools of servers, which are not started then.
        shared: options given to every factory that has a parameter of that name (``corpus``).

    Raises:
        UnknownNameError: no tool has that name.
        BadInputError: not these in a list, an unknown option, or a server that cannot be used.
    """
    meant = "tools are a list of names, mappings, Tool objects or classes of sessions"
    kinds = (str, Tool, type, SessionSpec, Mapping)
    made = [_make(item, shared) for item in require_each(tools, kinds, meant)]
    if cassette is None:
        return Toolset(made)
    return Toolset(getattr(item, "told_by", lambda _, item=item: item)(cassette) for item in made)


def check_descriptions(descriptions: Any) -> dict[str, str]:
    """The argument ``descriptions`` of environments.

    Args:
        descriptions: texts by tool name, or None.

    Raises:
        BadInputError: it is something else.
    """
    if descriptions is None:
        return {}
    said = descriptions.values() if isinstance(descriptions, Mapping) else [None]
    if not all(isinstance(text, str) and text.strip() for text in said):
        raise BadInputError(
            "descriptions are texts by tool name, such as {'Calculator': 'Adds numbers.'}, not "
            f"{descriptions!r:.80}"
        )
    return dict(descriptions)


def refuse_descriptions(descriptions: Mapping[str, str], known: Iterable[str]) -> None:
    """Refuse descriptions of tools that there are not.

    Args:
        descriptions: by tool name.
        known: names of the tools.

    Raises:
        UnknownNameError: the first that is not among them; near names stand in the message.
    """
    names = list(known)
    for name in descriptions:
        if name not in names:
            raise UnknownNameError("described tool", name, names)


def tell_tools(tools: Any) -> Any:
    """What was given for the tools, as records say it: plain values, without secrets.

    Args:
        tools: as for `make_toolset`; anything else as it is.
    """
    if not isinstance(tools, list | tuple):
        return plain(tools, "tools")
    return [
        _make(item, {}).describe() if is_server(item) else plain(item, "tools") for item in tools
    ]


def is_server(item: Any) -> bool:
    """Whether plain data names a server, such as ``mcp:...``, and not a tool."""
    name = _named(item)
    return name.partition(":")[0] in SERVERS and name not in TOOLS


def _named(item: Any) -> str:
    return str(item.get("name") if isinstance(item, Mapping) else item)


def _make(
    item: str | Tool | type[Any] | SessionSpec | Mapping[str, Any], shared: Mapping[str, Any]
) -> Any:
    if isinstance(item, Tool | type | SessionSpec):
        return item
    options = {} if isinstance(item, str) else {k: v for k, v in item.items() if k != "name"}
    name, server = _named(item), is_server(item)
    factory = SERVERS.get(name.partition(":")[0]) if server else TOOLS.get(name)
    if isinstance(factory, Tool) or (
        isinstance(factory, type) and issubclass(factory, ToolSession)
    ):
        return factory
    signature = inspect.signature(factory).parameters.values()
    accepted = [each.name for each in signature if each.kind is not each.POSITIONAL_ONLY]
    for option in options:
        if option not in accepted:
            raise BadInputError(
                f"tool {name!r} has no option {option!r}{did_you_mean(option, accepted)}; "
                f"options: {', '.join(accepted) or 'none'}"
            )
    given = {k: v for k, v in shared.items() if k in accepted and v is not None} | options
    made = factory(name, **given) if server else factory(**given)
    if not isinstance(made, Tool | SessionSpec):
        raise BadInputError(
            f"the factory of tool {name!r} returned {type(made).__name__}, not a Tool"
        )
    return made
