"""The session of one episode with an MCP server, and its results as what a policy reads."""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from toolgym._workers.tool_child import as_text
from toolgym.errors import BadInputError
from toolgym.tools.mcp.connection import Connection, EndedError
from toolgym.tools.mcp.wire import sdk

__all__ = ["MCPSession"]

_MOST_STARTS = 4  # of one episode: a server that always ends would cost a start for every call
_LOST = "what the server remembered of this episode is lost"


class MCPSession:
    """A session with a server for one episode; a `toolgym.tools.session.LiveSession`.

    A call that does not end in time ends the server, with what it remembered; the next one meets a
    fresh one, and the policy is told so.

    Args:
        connect: begins a connection.
        label: the server's name, for messages.
        names: those of tools to the ones that the server gave them.

    Raises:
        BadInputError: the server cannot be started or reached.
    """

    def __init__(
        self, connect: Callable[[], Connection], label: str, names: Mapping[str, str]
    ) -> None:
        self._connect, self._label, self._names = connect, label, names
        self._lock, self._starts, self._closed = threading.Lock(), 1, False
        self._connection = connect()
        self._watch = weakref.finalize(self, _dropped, self._connection)
        try:
            self._connection.wait()
        except BaseException:
            self._connection.close()
            raise

    def call(self, name: str, arguments: dict[str, Any], timeout: float) -> dict[str, Any]:
        """As `LiveSession.call`, but that a server that has ended remembers nothing.

        Raises:
            BadInputError: the session is closed, or another process has opened it.
        """
        with self._lock:
            connection = self._connection
            if self._closed or connection.owner != os.getpid():
                raise BadInputError(
                    f"this session of {self._label} is closed, or of another process; reset the "
                    "environment"
                )
            begun = time.monotonic()
            try:
                if connection.lost:  # since the last call
                    raise BadInputError(f"its server is gone: {connection.end()}")
                connection.wait(timeout)
            except TimeoutError:
                return _failed("timeout", f"{name} was not called, for its server still starts")
            except BadInputError as error:
                reply = _failed("bug", f"{name} was not called, for {error}; {_LOST}", connection)
                self._begin_again()
                return reply
            left = max(timeout - (time.monotonic() - begun), 0.0)
            try:
                return _reply(connection.call(self._names[name], arguments, left))
            except TimeoutError:
                connection.kill(f"was ended after {timeout:g} seconds")
                told = f"was ended after {timeout:g} seconds, and its server with it"
                reply = _failed("timeout", f"{name} {told}; {_LOST}", connection)
            except EndedError as error:
                why = connection.end() or str(error)
                told = f"{name} gave no result, for its server is gone: {why}; {_LOST}"
                reply = _failed("bug", told, connection)
            except sdk().MCPError as error:
                wrong = error.code == sdk("mcp.types").INVALID_PARAMS
                return _failed("invalid_arguments" if wrong else "tool_error", str(error))
            except ValueError as error:  # pydantic's
                what = str(error).splitlines()[0]
                return _failed("bug", f"{name} gave what is not a result ({what:.200})", connection)
            except BaseException:  # Ctrl-C: what it does now is not known
                connection.kill("was ended")
                self._closed = True
                raise
            self._begin_again()
            return reply

    def _begin_again(self) -> None:
        """Start a fresh server in the background, unless it has ended too often."""
        self._connection.kill("")
        if self._starts < _MOST_STARTS:
            self._starts += 1
            self._connection = self._connect()
            self._watch.detach()
            self._watch = weakref.finalize(self, _dropped, self._connection)

    def state(self) -> Any:
        """Nothing: what a server remembers is its own."""
        return None

    def snapshot(self) -> Any:
        """Refused.

        Raises:
            BadInputError: always.
        """
        raise BadInputError(
            f"an episode with a session of {self._label} cannot be saved, copied or branched, for "
            "what an MCP server remembers is its own; reset another environment instead"
        )

    def restore(self, snapshot: Any) -> None:
        """Refused, as `snapshot`."""
        self.snapshot()

    def close(self) -> None:
        """End the session, and a program with all that it started."""
        with self._lock:
            self._closed = True
            self._watch.detach()
            self._connection.close()


def _dropped(connection: Connection) -> None:
    """Nobody holds the session any more; this may run in any thread, so it does not wait."""
    connection.kill("was dropped")


def _failed(kind: str, text: str, connection: Connection | None = None) -> dict[str, Any]:
    reply = {"error": kind, "text": as_text(f"Error: {text}")}
    said = connection.said if connection is not None else ""
    return reply | ({"detail": said} if said else {})


def _reply(result: Any) -> dict[str, Any]:
    """A result of the SDK as a reply: its text, or its structured content where it has none."""
    parts = [_part(item) for item in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    text = as_text("\n".join(parts))
    if not result.is_error:
        return {"text": text}
    named = text.lower().startswith("error")
    return {"error": "tool_error", "text": text if named else f"Error: {text}"}


def _part(item: Any) -> str:
    """One part of a result in text: what is none is named."""
    if item.type == "text":
        return str(item.text)
    if item.type == "resource_link":
        about = f", {item.description}" if item.description else ""
        return f"[resource {item.uri}: {item.name}{about}]"
    if item.type == "resource":
        held = item.resource
        inner = getattr(held, "text", None)
        kind = held.mime_type or "of an unknown type"
        if inner is not None:
            return f"[resource {held.uri}, {kind}]\n{inner}"
        return f"[resource {held.uri}, {kind}, {_bytes(held.blob)}]"
    return f"[{item.type} of type {item.mime_type}, {_bytes(item.data)}]"


def _bytes(coded: str) -> str:
    """How many bytes a text in base64 stands for."""
    return f"{len(coded) * 3 // 4 - coded[-2:].count('='):,} bytes"
