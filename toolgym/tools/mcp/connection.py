"""A connection to an MCP server: one session, kept alive by a task in a thread of our own."""

from __future__ import annotations

import asyncio
import atexit
import math
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, suppress
from importlib.metadata import version
from typing import Any, TypeVar

import anyio

from toolgym.errors import BadInputError
from toolgym.tools.mcp.wire import Budget, Pipes, sdk

__all__ = ["Connection", "EndedError"]

_T = TypeVar("_T")
_CLOSING_SECONDS = 3.0  # until a session that does not end is dropped
# What the SDK says in place of an answer that can never come.
_ENDS = ("Connection closed", "Session terminated", "SSE stream")
_MOST_PAGES = 1_000  # of a list of tools

Way = Callable[[Budget], Pipes | AbstractAsyncContextManager[tuple[Any, Any]]]
"""Makes what carries the messages of a new connection."""


class EndedError(Exception):
    """The connection has ended; what was asked may have been done or not."""


class Connection:
    """A session with a server; it begins at once, in the background.

    Args:
        way: makes what carries its messages.
        label: the server's name, for messages.
        start: seconds that it may take to begin.
    """

    def __init__(self, way: Way, label: str, start: float) -> None:
        self._way, self._label, self._start = way, label, start
        self._budget = Budget()
        self._pipes: Pipes | None = None
        self._opened: Future[Any] = Future()
        self._scope: anyio.CancelScope | None = None
        self._closing: asyncio.Event | None = None
        self._killed = self._broken = ""
        self._loop, self.owner = _loop(), os.getpid()
        self._gone: Future[None] = asyncio.run_coroutine_threadsafe(self._live(), self._loop)
        _open.add(self)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it has begun.

        Args:
            seconds: at most; None: as long as it may take to begin.

        Raises:
            BadInputError: it could not begin.
            TimeoutError: it has not begun yet.
        """
        self._opened.result(self._start + _CLOSING_SECONDS if seconds is None else seconds)

    @property
    def lost(self) -> bool:
        """Whether it has ended."""
        return bool(self._killed) or self._gone.done() or bool(self._pipes and self._pipes.lost)

    def call(self, name: str, arguments: dict[str, Any], seconds: float) -> Any:
        """Call a tool of the server.

        Args:
            name: as the server calls it.
            arguments: plain JSON.
            seconds: at most.

        Returns:
            The SDK's ``CallToolResult``.

        Raises:
            TimeoutError: no answer came in time; the connection has to be killed then.
            EndedError: the server ended, or the way to it.
            mcp.MCPError: the server answered with an error.
            ValueError: it answered with what is not a result.
        """
        types = sdk("mcp.types")
        asked = types.CallToolRequest(
            params=types.CallToolRequestParams(name=name, arguments=arguments)
        )
        self._budget.renew()
        return self._asked(
            self._opened.result(0).send_request(asked, types.CallToolResult), seconds
        )

    def documents(self, seconds: float) -> list[dict[str, Any]]:
        """What the server says of its tools: ``name``, ``description``, ``inputSchema``.

        Args:
            seconds: at most.

        Raises:
            BadInputError: it does not say it.
        """
        try:
            return self._asked(self._listed(self._opened.result(0)), seconds)
        except TimeoutError as error:
            raise BadInputError(
                f"{self._label} does not list its tools within {seconds:g} seconds"
            ) from error
        except (EndedError, ValueError, sdk().MCPError) as error:
            raise BadInputError(f"{self._label} does not list its tools: {error!s:.300}") from error

    def why(self) -> str:
        """What has ended it, as far as it is known."""
        told = self._pipes.why() if self._pipes else ""
        return self._killed or told or self._broken or "the connection ended"

    @property
    def said(self) -> str:
        """The end of what a program wrote to its standard error."""
        return self._pipes.said if self._pipes else ""

    def close(self) -> None:
        """Let the session end; make it, where it does not."""
        if self.owner != os.getpid():
            return
        if not self._gone.done():
            with suppress(RuntimeError):  # the loop has ended with this process
                self._loop.call_soon_threadsafe(self._close)
                with suppress(Exception):
                    self._gone.result(_CLOSING_SECONDS)
        self.kill("it was closed")

    def kill(self, why: str) -> None:
        """End it at once, a program with all that it started; does not wait; from any thread.

        Args:
            why: for messages.
        """
        if self.owner != os.getpid() or self._gone.done():
            return
        self._killed = self._killed or why
        if self._pipes is not None:
            self._pipes.kill()
        with suppress(RuntimeError):  # as above
            self._loop.call_soon_threadsafe(self._drop)

    def end(self) -> str:
        """End it at once, and wait for that; what has ended it."""
        self.kill("")
        with suppress(Exception):
            self._gone.result(_CLOSING_SECONDS)
        return self.why()

    def _asked(self, asked: Coroutine[Any, Any, _T], seconds: float) -> _T:
        """The answer to a request, asked for in the thread of the loop."""
        future = asyncio.run_coroutine_threadsafe(asked, self._loop)
        try:
            return future.result(seconds)
        except sdk().MCPError as error:
            if self.lost or error.message.startswith(_ENDS):
                raise EndedError(f"{error.message}") from error
            raise
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            raise EndedError(f"the connection ended ({error})") from error
        finally:
            future.cancel()

    async def _live(self) -> None:
        """Begin the session and keep it until it is to end."""
        self._closing = asyncio.Event()
        types = sdk("mcp.types")
        own = types.Implementation(name="toolgym", version=version("toolgym"))
        with anyio.CancelScope(deadline=anyio.current_time() + self._start) as self._scope:
            try:
                way = self._way(self._budget)
                self._pipes = way if isinstance(way, Pipes) else None
                if self._killed:  # before it had a program
                    self._drop()
                carried = way.streams() if isinstance(way, Pipes) else way
                async with (
                    carried as streams,
                    sdk().ClientSession(*streams, client_info=own) as session,
                ):
                    await _greet(session)
                    self._scope.deadline = math.inf
                    self._opened.set_result(session)
                    await self._closing.wait()
            except Exception as error:  # of the SDK, of what it stands on, and of the system
                self._broken = _in_words(error)
        if not self._opened.done():  # who waits for the beginning waits in vain
            late = f"it has not answered within {self._start:g} seconds"
            why = late if self._scope.cancelled_caught and not self._killed else self.why()
            self._opened.set_exception(BadInputError(f"{self._label} cannot be used: {why:.500}"))

    def _close(self) -> None:
        if self._closing is not None and self._opened.done():
            self._closing.set()
        else:
            self._drop()

    def _drop(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    @staticmethod
    async def _listed(session: Any) -> list[dict[str, Any]]:
        types = sdk("mcp.types")
        found: list[dict[str, Any]] = []
        cursor = None
        for _ in range(_MOST_PAGES):
            given = None if cursor is None else types.PaginatedRequestParams(cursor=cursor)
            page = await session.list_tools(params=given)
            for tool in page.tools:
                said = tool.description or tool.title or ""
                found.append(
                    {"name": tool.name, "description": said, "inputSchema": tool.input_schema}
                )
            cursor = page.next_cursor
            if cursor is None:
                return found
        raise ValueError(f"its list has more than {_MOST_PAGES} pages")


def _in_words(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


async def _greet(session: Any) -> None:
    """Agree on a version of the protocol: one with sessions, or the newest, which has none."""
    error_of = sdk().MCPError
    try:
        await session.initialize()
    except error_of as refused:
        types = sdk("mcp.types")
        if refused.code == types.CONNECTION_CLOSED:
            raise
        newest = sdk("mcp.types.version").LATEST_MODERN_VERSION
        try:
            said = await session.send_discover(newest)
        except error_of:
            raise refused from None
        session.adopt(types.DiscoverResult.model_validate(said))


_open: weakref.WeakSet[Connection] = weakref.WeakSet()
_held: list[asyncio.AbstractEventLoop] = []
_lock = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """The loop of all connections of this process, in a thread of its own."""
    with _lock:
        if not _held:
            _held.append(asyncio.new_event_loop())
            threading.Thread(target=_held[0].run_forever, name="toolgym-mcp", daemon=True).start()
        return _held[0]


def _forget() -> None:
    """After a fork of this process: the thread is not here, nor are its connections ours."""
    global _lock
    _lock = threading.Lock()
    _held.clear()
    _open.clear()


def _stop() -> None:
    """At the end of this process: no session, and no thread that works on."""
    for connection in list(_open):
        connection.kill("this process ends")
    for loop in _held:
        loop.call_soon_threadsafe(loop.stop)


os.register_at_fork(after_in_child=_forget)
atexit.register(_stop)
