"""``MCP``: a server of the Model Context Protocol as a source of tools."""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import re
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from toolgym._util.jsonl import copy_json, read_rows
from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, MissingFileError, did_you_mean
from toolgym.task import Task
from toolgym.tools.base import DEFAULT_TIMEOUT, Tool
from toolgym.tools.documents import DocumentTool
from toolgym.tools.schemas import not_schema
from toolgym.tools.session import LiveSession, SessionSpec

if TYPE_CHECKING:  # they stand on what comes with the extra
    from toolgym.tools.mcp.connection import Connection
    from toolgym.tools.mcp.wire import Budget

__all__ = ["MCP"]

_SCHEME = "mcp:"
_NOT_RECORDED = "(not recorded)"  # in place of a value that may be a secret
_DEFAULTS: dict[str, Any] = {
    **{"args": [], "tools": None, "prefix": "", "deadline": DEFAULT_TIMEOUT, "start": 30.0},
    **{"cwd": None, "env": {}, "headers": {}},
}
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_URL = re.compile(r"https?://", re.IGNORECASE)


class MCP(SessionSpec):
    """An MCP server, whose tools are offered; each episode has a session of its own.

    A program is started anew for each episode and ended with it; over HTTP each episode opens a
    session. ``${NAME}`` in any text is read from the environment when the server is started, so
    that no secret stands in arguments or records.

    Args:
        command: a program, or the URL of a server (``https://...``).
        args: of the program.
        env: variables of the program, beside ``PATH``, ``HOME`` and the like; recorded by name
            only, where they are not ``${NAME}``.
        cwd: working folder of the program; default: ours.
        headers: of every request to a URL; recorded like ``env``.
        tools: names of those that are offered, as the server calls them; default: all.
        prefix: put before every name, where two servers have tools of one name.
        deadline: seconds that a call may take; then the server is ended.
        start: seconds that a server may take to begin, or to list its tools.

    Raises:
        BadInputError: anything wrong with an argument.
    """

    outside = True

    def __init__(
        self,
        command: str,
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        headers: Mapping[str, str] | None = None,
        tools: Sequence[str] | None = None,
        prefix: str = "",
        deadline: float = DEFAULT_TIMEOUT,
        start: float = 30.0,
    ) -> None:
        self._given: dict[str, Any] = {"args": args, "tools": tools, "prefix": prefix}
        self._given |= {"deadline": deadline, "start": start, "cwd": cwd and str(cwd)}
        self._given |= {"env": env or {}, "headers": headers or {}}
        self.command = command
        self._check()
        self._args, self._offered = tuple(args), None if tools is None else tuple(tools)
        self._given |= {"args": list(args), "tools": None if tools is None else list(tools)}
        self._url = command if _URL.match(command) else ""
        self.inline, self.timeout, self._start = False, float(deadline), float(start)
        self._known: list[dict[str, Any]] | None = None  # what a cassette says of the tools
        told = _bare(self._url) if self._url else shlex.join([command, *self._args])
        self.label = f"MCP server {told!r:.200}"
        self.name = f"{prefix}{_SCHEME}{told}"

    @classmethod
    def read(
        cls,
        text: str,
        /,
        command: str | None = None,
        args: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        headers: Mapping[str, str] | None = None,
        tools: Sequence[str] | None = None,
        prefix: str = "",
        deadline: float = DEFAULT_TIMEOUT,
        start: float = 30.0,
    ) -> MCP:
        """A server from ``mcp:`` and its URL, or its command with arguments.

        Args:
            text: such as ``mcp:python server.py --flag`` or ``mcp:https://host/mcp``; where
                ``args`` are given, the program alone; where ``command`` is given, ``mcp``.
            command: see the class, as all others.
            args: of the program.
            env: variables of the program.
            cwd: its working folder.
            headers: of every request to a URL.
            tools: names of those that are offered.
            prefix: put before every name.
            deadline: seconds that a call may take.
            start: seconds that the server may take to begin.

        Raises:
            BadInputError: as for the class.
        """
        line = text.partition(":")[2].strip()
        if command is not None:
            if line:
                raise BadInputError(f"{text!r} names a server already: leave out {command!r}")
            line = command
        elif args is None and not _URL.match(line):
            try:
                line, *args = shlex.split(line) or [""]
            except ValueError as error:
                raise BadInputError(f"the command {text!r} cannot be read: {error}") from error
        given: dict[str, Any] = {"env": env, "headers": headers, "cwd": cwd, "tools": tools}
        return cls(line, args or (), prefix=prefix, deadline=deadline, start=start, **given)

    def _check(self) -> None:
        """Refuse what is of the wrong kind.

        Raises:
            BadInputError: the first of it.
        """
        given = self._given
        if not isinstance(self.command, str) or not self.command.strip():
            raise BadInputError(
                "an MCP server is a command or a URL, such as 'mcp:python server.py' or "
                f"'mcp:https://host/mcp', not {self.command!r:.80}"
            )
        for name in ("args", "tools"):
            if given[name] is not None and not _texts(given[name]):
                raise BadInputError(f"{name} of {self.command!r} are strings, not {given[name]!r}")
        for name in ("env", "headers"):
            if not isinstance(given[name], Mapping):
                raise BadInputError(f"{name} of {self.command!r} is a mapping, not {given[name]!r}")
            for key, value in given[name].items():
                if not isinstance(key, str) or not isinstance(value, str):
                    raise BadInputError(f"{name} of {self.command!r}: {key!r} is not a string")
                if value == _NOT_RECORDED:
                    raise BadInputError(
                        f"{name} of {self.command!r}: the value of {key!r} was not recorded; give "
                        f"it, or write '${{{key}}}' to have it read from the environment"
                    )
        for name in ("deadline", "start"):
            value = given[name]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value < math.inf:
                raise BadInputError(f"{name} of {self.command!r} is seconds, not {value!r:.80}")
        foreign = ("args", "env", "cwd") if _URL.match(self.command) else ("headers",)
        for name in foreign:
            if given[name]:
                kind = "a URL" if _URL.match(self.command) else "a command"
                raise BadInputError(f"{self.command!r} is {kind}, which has no {name}")
        if not isinstance(given["prefix"], str):
            raise BadInputError(f"prefix of {self.command!r} is a string, not {given['prefix']!r}")

    def describe(self) -> dict[str, Any]:
        """Plain data for ``run.json``, without secrets; `read` takes it again as a mapping."""
        told = {k: v for k, v in self._given.items() if v != _DEFAULTS[k]}
        for name in ("env", "headers"):
            if name in told:
                given = told[name].items()
                told[name] = {k: v if _VARIABLE.search(v) else _NOT_RECORDED for k, v in given}
        if not self._url:
            told["args"] = list(self._args)
        return {"name": _SCHEME + (_bare(self._url) or self.command), **told}

    @functools.cached_property
    def tools(self) -> dict[str, Tool]:  # type: ignore[override]
        """The tools by the names that a policy writes; the server is asked once a process.

        Raises:
            BadInputError: the server cannot be used, or gives no tool of a name that is wanted.
        """
        documents = {document["name"]: document for document in self.documents()}
        for name in self._offered or ():
            if name not in documents:
                raise BadInputError(
                    f"{self.label} has no tool {name!r}{did_you_mean(name, documents)}; it has: "
                    f"{', '.join(documents) or 'none'}"
                )
        found: dict[str, Tool] = {}
        for name in documents if self._offered is None else self._offered:
            made = self._tool(documents[name])
            if made.name in found:
                raise BadInputError(
                    f"{self.label} has two tools that are called {made.name!r} here"
                )
            found[made.name] = made
        if not found:
            raise BadInputError(f"{self.label} gives no tool")
        return found

    @functools.cached_property
    def methods(self) -> dict[str, str]:  # type: ignore[override]
        """Names of tools to those that the server gave them."""
        names = self._offered or [document["name"] for document in self.documents()]
        return dict(zip(self.tools, names, strict=True))

    def _tool(self, document: Mapping[str, Any]) -> Tool:
        schema = {"type": "object", **document["inputSchema"]}
        made = DocumentTool(
            _unopened,
            # What no format can write stands for itself as far as it can.
            name=(self._given["prefix"] + re.sub(r"[^\w.-]", "_", document["name"]))[:64],
            schema=schema,
            description=inspect.cleandoc(document["description"]) or document["name"],
            checked=not not_schema(schema),  # what cannot be enforced here the server checks
            timeout=self.timeout,
            inline=True,
            shared_state=True,
        )
        made.method = True
        return made

    def documents(self) -> list[dict[str, Any]]:
        """What the server says of all its tools: ``name``, ``description``, ``inputSchema``.

        Raises:
            BadInputError: the server cannot be used.
        """
        if self._known is not None:
            return self._known
        key = json.dumps([self.command, {**self._given, "tools": 0, "prefix": 0, "deadline": 0}])
        with _lock:
            lock = _asking.setdefault(key, threading.Lock())
        with lock:  # many environments are made at once, and one asks
            if key not in _listed:
                connection = self._connect()
                try:
                    connection.wait()
                    _listed[key] = connection.documents(self._start)
                finally:
                    connection.close()
        return copy_json(_listed[key])  # type: ignore[no-any-return]

    def told_by(self, cassette: str | Path) -> MCP:
        """The same server, whose tools a cassette tells: it is not started.

        Args:
            cassette: the file.

        Raises:
            MissingFileError: no such file.
            BadInputError: the cassette was recorded without this server.
        """
        if not Path(cassette).is_file():
            raise MissingFileError(f"no cassette {str(cassette)!r}: record one first")
        _, header = next(read_rows(cassette, "cassette", torn=True), (1, {}))
        servers = (header.get("tools") or {}).get("servers") or {}
        if self.name not in servers:
            raise BadInputError(
                f"cassette {str(cassette)!r} was recorded without {self.label}"
                f"{did_you_mean(self.name, servers)}; record another one"
            )
        twin: MCP = self.__reduce__()[0](self.command)
        twin._known = servers[self.name]
        return twin

    def open(self, task: Task) -> LiveSession:
        """Begin an episode; the task says nothing to the server.

        Raises:
            BadInputError: the server cannot be started or reached.
        """
        require_extra("mcp", "mcp")
        from toolgym.tools.mcp.session import MCPSession

        return MCPSession(self._connect, self.label, self.methods)

    def _connect(self) -> Connection:
        require_extra("mcp", "mcp")
        from toolgym.tools.mcp.connection import Connection
        from toolgym.tools.mcp.wire import Pipes, http, sdk

        given = self._given
        env, headers = (
            {key: self._filled(value) for key, value in given[name].items()}
            for name in ("env", "headers")
        )

        def way(budget: Budget) -> Any:
            if self._url:
                return http(self._filled(self._url), headers, budget)
            safe = sdk("mcp.client.stdio").get_default_environment()
            command = [self._filled(part) for part in (self.command, *self._args)]
            return Pipes(command, safe | env, given["cwd"], budget)

        return Connection(way, self.label, self._start)

    def _filled(self, text: str) -> str:
        """A text with the variables that it names.

        Raises:
            BadInputError: one of them is not set.
        """

        def value(match: re.Match[str]) -> str:
            if match[1] not in os.environ:
                raise BadInputError(
                    f"{self.label} needs the environment variable {match[1]}, which is not set"
                )
            return os.environ[match[1]]

        return _VARIABLE.sub(value, text)

    def __repr__(self) -> str:
        return f"MCP({self.describe()['name'].removeprefix(_SCHEME)!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> MCP:
        """Itself: nothing of it changes."""
        return self

    def __reduce__(self) -> tuple[Callable[..., MCP], tuple[str]]:
        """Made again from its arguments, in whatever process."""
        return functools.partial(type(self), **self._given), (self.command,)


_listed: dict[str, list[dict[str, Any]]] = {}
_asking: dict[str, threading.Lock] = {}
_lock = threading.Lock()


def _forget() -> None:
    """After a fork of this process: a thread that is not here may have held a lock."""
    global _lock
    _lock = threading.Lock()
    _asking.clear()


os.register_at_fork(after_in_child=_forget)


def _unopened(**arguments: Any) -> str:
    raise BadInputError("a tool of an MCP server is called in an episode: reset the environment")


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _bare(url: str) -> str:
    """A URL without what may be secret: user, password, query."""
    parts = urlsplit(url)
    query = parts.query if _VARIABLE.fullmatch(parts.query.partition("=")[2]) else ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))
