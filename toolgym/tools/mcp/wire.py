"""What carries MCP messages: the pipes of a program, or HTTP, both within bounds.

The SDK's own transport of a program reads a line of any length into memory, waits for a program
that does not end, and leaves it running when this process is killed; this one does neither.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio

from toolgym._util.optional import require_extra
from toolgym._workers.programs import Program

__all__ = ["Budget", "Pipes", "http", "sdk"]

_LONGEST = 16 << 20  # bytes of one message
_MOST_BYTES = 64 << 20  # that a server sends during one call
_MOST_MESSAGES = 100_000  # of it during one call, lines that are none among them
_TAIL = 4_000  # characters of what it writes to its standard error that are kept
_GRACE = 0.5  # seconds that a program may take to end by itself, once its input has closed
_TERMINATION = 0.3  # seconds after SIGTERM
_CLOSED, _FLOODED = "closed its output", "sent more than a call may bring"
_POLL = 0.004  # seconds between two looks whether it has ended
_CONNECT_SECONDS = 30.0
_PIECE = 1 << 16  # bytes that are read at once: what a pipe holds


def sdk(module: str = "mcp") -> Any:
    """A module of the official SDK, which comes with the extra ``mcp``.

    Raises:
        MissingExtraError: it is not installed.
    """
    if not logging.getLogger("mcp").handlers:  # else what it logs goes to standard error
        logging.getLogger("mcp").addHandler(logging.NullHandler())
    return require_extra(module, "mcp")


class FloodError(Exception):
    """A server sent more than a call may bring."""


class Budget:
    """What a server may still send; every call renews it."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin a call."""
        self._bytes, self._messages = _MOST_BYTES, _MOST_MESSAGES

    def take(self, size: int, messages: int = 1) -> None:
        """Count what has come.

        Raises:
            FloodError: it is more than a call may bring.
        """
        if not self.has(size, messages):
            raise FloodError

    def has(self, size: int, messages: int = 0) -> bool:
        """Count what has come; whether a call may bring so much."""
        self._bytes -= size
        self._messages -= messages
        return self._bytes >= 0 and self._messages >= 0


class Pipes:
    """A server that is a program: messages are lines of its standard input and output.

    Args:
        command: the program and its arguments.
        environment: all its environment variables.
        folder: its working folder; None is ours.
        budget: of what it sends.

    Raises:
        OSError: it cannot be started.
        ValueError: an argument or a variable that the system cannot take.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: str | None,
        budget: Budget,
    ) -> None:
        self.program = Program(command, environment, folder)
        self._budget, self._stray, self._by_itself = budget, "", False
        self.lost, self.said = "", ""  # what became of it; the end of its standard error

    def why(self) -> str:
        """What happened to it, as far as it is known, with the last that it wrote; or nothing."""
        said = self.said.strip().splitlines()
        stray = f"; it writes what is not MCP: {self._stray!r:.200}" if self._stray else ""
        last = f": {said[-1]:.300}" if said and self.lost else ""
        return f"{self.lost}{stray}{last}".removeprefix("; ")

    def kill(self) -> None:
        """End the program and all that it started, at once; from any thread."""
        self.program.signal(signal.SIGKILL)

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[tuple[Any, Any]]:
        """Messages from the server and to it, as the SDK takes them; at its end it is ended."""
        message_of = sdk("mcp.shared.message").SessionMessage
        adapter = sdk("mcp.types").jsonrpc_message_adapter
        coming, received = anyio.create_memory_object_stream[Any](0)
        sent, going = anyio.create_memory_object_stream[Any](0)
        stdout, stderr = self.program.output, self.program.errors

        async def read() -> None:
            async with coming:
                try:
                    async for line in self._lines(stdout):
                        try:
                            message = message_of(adapter.validate_json(line, by_name=False))
                        except ValueError:  # many a server prints, too
                            self._stray = line.decode("utf-8", "replace").strip() or self._stray
                            continue
                        await coming.send(message)
                    self.lost = self.lost or _CLOSED
                except FloodError:
                    self.lost = _FLOODED
                    self.kill()
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass  # nobody reads any more: it is being ended

        async def write() -> None:
            with suppress(OSError, anyio.ClosedResourceError):  # told by its output, which ends
                async for item in going:
                    text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                    await self._write(text.encode() + b"\n")

        async def listen() -> None:
            while piece := await _read(stderr):
                if not self._budget.has(len(piece)):
                    self.lost = _FLOODED
                    self.kill()
                    return
                self.said = (self.said + piece.decode("utf-8", "replace"))[-_TAIL:]

        try:
            async with anyio.create_task_group() as tasks:
                for task in (read, write, listen):
                    tasks.start_soon(task)
                try:
                    yield received, sent
                finally:
                    with anyio.CancelScope(shield=True):
                        await self._ended()
                    tasks.cancel_scope.cancel()
        finally:
            for stream in (coming, received, sent, going):
                stream.close()
            code = self.program.end()
            if self.lost == _CLOSED and self._by_itself:
                how = f"exit code {code}" if code >= 0 else f"signal {-code}"
                self.lost = f"ended ({how})"

    async def _lines(self, pipe: int) -> AsyncIterator[bytes]:
        """Whole lines, each within the budget.

        Raises:
            FloodError: it is used up, or a line does not end.
        """
        held = bytearray()
        while piece := await _read(pipe):
            self._budget.take(len(piece), piece.count(b"\n"))
            looked = len(held)
            held += piece
            while (end := held.find(b"\n", looked)) >= 0:
                line, looked = bytes(held[:end]), 0
                del held[: end + 1]
                if line.strip():
                    yield line
            if len(held) > _LONGEST:
                raise FloodError

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self.program.input_closed:  # else the number may be another file's
            try:
                view = view[os.write(self.program.input, view) :]
            except BlockingIOError:
                await anyio.wait_writable(self.program.input)

    async def _ended(self) -> None:
        """Close its input, and let it end by itself; make it, where it does not."""
        anyio.notify_closing(self.program.input)
        self.program.close_input()
        for seconds, then in ((_GRACE, signal.SIGTERM), (_TERMINATION, signal.SIGKILL)):
            end = time.monotonic() + seconds
            while not self.program.exited():
                if time.monotonic() > end:
                    self.program.signal(then)
                    break
                await anyio.sleep(_POLL)
            else:
                self._by_itself = self._by_itself or then is signal.SIGTERM


async def _read(pipe: int) -> bytes:
    """What has come; waits for it. Nothing at the end."""
    while True:
        try:
            return os.read(pipe, _PIECE)
        except BlockingIOError:
            await anyio.wait_readable(pipe)
        except OSError:
            return b""


@asynccontextmanager
async def http(
    url: str, headers: Mapping[str, str], budget: Budget
) -> AsyncIterator[tuple[Any, Any]]:
    """A session over HTTP, as the SDK takes it: what comes counts, and no other host is asked.

    Args:
        url: of the server.
        headers: that every request carries.
        budget: of what it sends.
    """
    httpx = sdk("httpx2")

    class Counted(httpx.AsyncByteStream):  # type: ignore[name-defined, misc]
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for piece in self.stream:
                budget.take(len(piece), 0)
                yield piece

        async def aclose(self) -> None:
            await self.stream.aclose()

    async def count(response: Any) -> None:
        budget.take(0)
        response.stream = Counted(response.stream)

    client = httpx.AsyncClient(
        headers=headers,
        timeout=httpx.Timeout(_CONNECT_SECONDS, read=None),  # a call has its own deadline
        event_hooks={"response": [count]},
    )
    streams = sdk("mcp.client.streamable_http").streamable_http_client
    async with client, streams(url, http_client=client, max_sse_event_size=_LONGEST) as both:
        yield both
