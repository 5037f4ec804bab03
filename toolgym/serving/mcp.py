"""An environment as an MCP server: each session of a client plays one episode.

Over standard input and output a process serves one client. Over HTTP each session has its own
episode; the newest version of the protocol knows no sessions, so clients are told to use the one
before it, which all of them speak, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import uuid
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.to_thread

from toolgym import __version__
from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, ToolgymError
from toolgym.serving.desk import Desk, Said, Seat

__all__ = ["listening", "serve_http", "serve_stdio"]

_PATH = "/mcp"
_VERSION = b"mcp-protocol-version"
_SESSION = b"mcp-session-id"
_LOCAL = ("127.0.0.1", "localhost", "::1")
_LOOK_SECONDS = 0.1  # between two looks whether all has been played
_LAST_SECONDS = 1.0  # for the last answer to reach its client
_URI = "toolgym://task"


def _sdk(module: str = "mcp") -> Any:
    return require_extra(module, "mcp")


class _Session:
    """One client: its episode, and what it is told.

    Args:
        desk: gives the episode.
        name: of the environment.
    """

    def __init__(self, desk: Desk, name: str) -> None:
        self._types, self._name = _sdk("mcp.types"), name
        self.seat: Seat | None = None
        self._problem = "every episode has been played or is being played"
        try:
            self.seat = desk.seat()
        except ToolgymError as error:
            self._problem = f"the episode cannot begin: {error}"
        taken = {tool["function"]["name"] for tool in self.seat.tools} if self.seat else set()
        self._answer, self._task = _free("answer", taken), _free("task", taken)

    @property
    def task(self) -> str:
        """What the client has to know."""
        if self.seat is None:
            return f"There is no task: {self._problem}."
        return (
            f"{self.seat.question}\n\nCall the tools as you need them, and give the final answer "
            f"with the tool {self._answer!r}, which ends the episode."
        )

    def server(self) -> Any:
        """The SDK's server of this client."""
        return _sdk("mcp.server.lowlevel").Server(
            f"toolgym {self._name}",
            version=__version__,
            instructions=self.task,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_prompts=self._list_prompts,
            on_get_prompt=self._get_prompt,
            on_list_resources=self._list_resources,
            on_read_resource=self._read_resource,
        )

    def leave(self) -> None:
        """The client is gone."""
        if self.seat is not None:
            self.seat.leave()

    async def _list_tools(self, context: Any, asked: Any) -> Any:
        tool = self._types.Tool
        found = [
            tool(name=self._task, description="Read the task.", input_schema=_schema()),
            tool(
                name=self._answer,
                description="Give the final answer, in a few words. This ends the episode.",
                input_schema=_schema("answer"),
            ),
        ]
        for document in self.seat.tools if self.seat is not None else ():
            function = document["function"]
            found.append(
                tool(
                    name=function["name"],
                    description=function["description"],
                    input_schema=function["parameters"],
                )
            )
        return self._types.ListToolsResult(tools=found)

    async def _call_tool(self, context: Any, asked: Any) -> Any:
        seat, arguments = self.seat, asked.arguments or {}
        if asked.name == self._task or seat is None:
            return self._result(Said(self.task, failed=seat is None))
        before = len(seat.tools)
        try:
            if asked.name == self._answer:
                text = arguments.get("answer")
                if not isinstance(text, str) or not text.strip():
                    return self._result(Said("Error: 'answer' is a text, not empty", failed=True))
                said = await anyio.to_thread.run_sync(seat.answer, text)
            else:
                said = await anyio.to_thread.run_sync(seat.call, asked.name, arguments)
        except ToolgymError as error:
            return self._result(Said(f"Error: {error}", failed=True))
        if len(seat.tools) != before:  # the user has shown more
            with contextlib.suppress(Exception):  # a client that has gone needs no notice
                await context.session.send_tool_list_changed()
        return self._result(said)

    def _result(self, said: Said) -> Any:
        part = self._types.TextContent(type="text", text=said.text)
        return self._types.CallToolResult(content=[part], is_error=said.failed)

    async def _list_prompts(self, context: Any, asked: Any) -> Any:
        prompt = self._types.Prompt(name="task", description="The task of this episode.")
        return self._types.ListPromptsResult(prompts=[prompt])

    async def _get_prompt(self, context: Any, asked: Any) -> Any:
        text = self._types.TextContent(type="text", text=self.task)
        message = self._types.PromptMessage(role="user", content=text)
        return self._types.GetPromptResult(messages=[message])

    async def _list_resources(self, context: Any, asked: Any) -> Any:
        task = self._types.Resource(uri=_URI, name="task", mime_type="text/plain")
        return self._types.ListResourcesResult(resources=[task])

    async def _read_resource(self, context: Any, asked: Any) -> Any:
        if str(asked.uri) != _URI:
            raise _sdk().MCPError(self._types.INVALID_PARAMS, f"there is only {_URI}")
        held = self._types.TextResourceContents(uri=_URI, text=self.task, mime_type="text/plain")
        return self._types.ReadResourceResult(contents=[held])


def _free(name: str, taken: set[str]) -> str:
    """A name that no tool of the environment has."""
    while name in taken:
        name = f"toolgym_{name}"
    return name


def _schema(*names: str) -> dict[str, Any]:
    properties = {name: {"type": "string"} for name in names}
    return {"type": "object", "properties": properties, "required": list(names)}


async def serve_stdio(desk: Desk, name: str) -> None:
    """Serve one client over standard input and output, until it closes them.

    Args:
        desk: gives its episode.
        name: of the environment.
    """
    session = await anyio.to_thread.run_sync(_Session, desk, name)
    try:
        server = session.server()
        async with _sdk("mcp.server.stdio").stdio_server(_Lines()) as streams:
            await server.run(*streams, server.create_initialization_options())
    finally:
        session.leave()


class _Lines:
    """Lines of standard input; who waits for one can be interrupted, and this process can end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._came: asyncio.Queue[str | None] = asyncio.Queue()
        threading.Thread(target=self._read, name="toolgym-stdin", daemon=True).start()

    def _read(self) -> None:
        held = b""
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: the loop has ended
            while piece := os.read(0, 1 << 16):
                *lines, held = (held + piece).split(b"\n")
                for line in lines:
                    self._put(line.decode("utf-8", "replace"))
            self._put(None)

    def _put(self, line: str | None) -> None:
        self._loop.call_soon_threadsafe(self._came.put_nowait, line)

    def __aiter__(self) -> _Lines:
        return self

    async def __anext__(self) -> str:
        line = await self._came.get()
        if line is None:
            raise StopAsyncIteration
        return line


def listening(host: str, port: int) -> socket.socket:
    """A socket that waits for clients.

    Args:
        host: address of this machine; other machines reach only those that are not local.
        port: 0: a free one.

    Raises:
        BadInputError: it cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with contextlib.ExitStack() as held:
            found = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((host, port))
            found.listen()  # clients that come before all is ready wait for it
            held.pop_all()
    except (OSError, OverflowError) as error:
        raise BadInputError(f"cannot listen at {host!r}, port {port}: {error}") from error
    return found


async def serve_http(desk: Desk, name: str, door: socket.socket, idle: float) -> None:
    """Serve clients over HTTP until every episode is recorded.

    Args:
        desk: gives each session its episode.
        name: of the environment.
        door: a bound socket.
        idle: seconds after which a session without any request counts as left.
    """
    uvicorn = require_extra("uvicorn", "mcp")
    limit = _sdk("mcp.server.transport_security")
    host, stopped = door.getsockname()[0], None
    async with _Sessions(desk, name, host, idle).running() as sessions:
        app = limit.RequestBodyLimitMiddleware(sessions, limit.DEFAULT_MAX_REQUEST_BODY_SIZE)
        settings = uvicorn.Config(
            app, log_level="error", lifespan="off", timeout_graceful_shutdown=1, access_log=False
        )
        server = uvicorn.Server(settings)
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while not desk.complete:
                    await anyio.sleep(_LOOK_SECONDS)
                await anyio.sleep(_LAST_SECONDS)
                server.should_exit = True

            tasks.start_soon(watch)
            try:
                await server.serve(sockets=[door])
            except KeyboardInterrupt as error:  # raised again outside of groups, which hide it
                stopped = error
            tasks.cancel_scope.cancel()
    if stopped is not None:
        raise stopped


class _Sessions:
    """An ASGI application: a session for each client that begins one.

    Args:
        desk: gives the episodes.
        name: of the environment.
        host: that is listened at.
        idle: seconds.
    """

    def __init__(self, desk: Desk, name: str, host: str, idle: float) -> None:
        self._desk, self._name, self._idle = desk, name, idle
        self._open: dict[str, Any] = {}
        self._tasks: Any = None
        names = [f"{local}:*" for local in (*_LOCAL, "[::1]")]
        self._security = _sdk("mcp.server.transport_security").TransportSecuritySettings(
            enable_dns_rebinding_protection=host in _LOCAL,
            allowed_hosts=names,
            allowed_origins=[f"http://{allowed}" for allowed in names],
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[_Sessions]:
        """Let sessions be opened; at the end all of them are ended."""
        async with anyio.create_task_group() as self._tasks:
            yield self
            self._tasks.cancel_scope.cancel()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        response = _sdk("starlette.responses").Response
        headers = dict(scope.get("headers", ()))
        version = headers.get(_VERSION, b"").decode("latin-1")
        known = _sdk("mcp.types.version").HANDSHAKE_PROTOCOL_VERSIONS
        key = headers.get(_SESSION, b"").decode("latin-1")
        if scope["type"] != "http" or scope["path"] != _PATH:
            answer = response(status_code=404)
        elif version and version not in known:
            answer = self._error(400, "UNSUPPORTED_PROTOCOL_VERSION", version, list(known))
        elif key in self._open:
            answer = self._open[key].handle_request
        elif key:
            answer = self._error(404, "INVALID_REQUEST", "Session not found")
        else:
            answer = await self._begin()
        await answer(scope, receive, send)

    async def _begin(self) -> Any:
        """Open a session; its first request has to be the one that begins it."""
        key = uuid.uuid4().hex
        transport = _sdk("mcp.server.streamable_http").StreamableHTTPServerTransport(
            key, security_settings=self._security, idle_timeout=self._idle
        )
        self._open[key] = transport
        await self._tasks.start(self._serve, key, transport)

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            status = 500

            async def watched(message: Any) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await transport.handle_request(scope, receive, watched)
            finally:
                if status >= 400:  # no session has begun
                    with anyio.CancelScope(shield=True):
                        await transport.terminate()

        return answer

    async def _serve(self, key: str, transport: Any, *, task_status: Any) -> None:
        """One session, from its first request to its end."""
        session: _Session | None = None
        try:
            async with transport.connect() as streams:
                session = await anyio.to_thread.run_sync(_Session, self._desk, self._name)
                server = session.server()
                task_status.started()
                with transport.idle_scope:
                    await server.run(*streams, server.create_initialization_options())
        finally:
            self._open.pop(key, None)
            with anyio.CancelScope(shield=True):
                if session is not None:
                    await anyio.to_thread.run_sync(session.leave)
                if not transport.is_terminated:
                    await transport.terminate()

    @staticmethod
    def _error(status: int, code: str, message: str, supported: list[str] | None = None) -> Any:
        types = _sdk("mcp.types")
        data = None
        if supported is not None:
            data = {"supported": supported, "requested": message}
            message = (
                f"this server keeps a session for each client; versions with them: {supported}"
            )
        error = types.ErrorData(code=getattr(types, code), message=message, data=data)
        body = types.JSONRPCError(jsonrpc="2.0", id=None, error=error)
        return _sdk("starlette.responses").Response(
            body.model_dump_json(by_alias=True, exclude_unset=True),
            status_code=status,
            media_type="application/json",
        )
