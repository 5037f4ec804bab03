"""The child of `toolgym._workers.tool_worker`; run by path, so that it starts without toolgym."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from multiprocessing.connection import Connection
from types import AsyncGeneratorType, GeneratorType
from typing import Any


def as_text(value: Any) -> str:
    """A tool's return value as the text that a policy reads."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, dict | list | tuple | bool):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def by_name(function: Callable[..., Any]) -> Callable[[Mapping[str, Any]], Any]:
    """A tool's function, of whatever kind, as one that takes its arguments by name.

    Positional-only ones are given by place, what is awaitable is awaited, a generator is a list.
    """
    kinds = inspect.signature(function).parameters.values()
    places = [kind.name for kind in kinds if kind.kind is kind.POSITIONAL_ONLY]

    def call(arguments: Mapping[str, Any]) -> Any:
        named = dict(arguments)
        placed = [named.pop(name) for name in places]
        value = function(*placed, **named)
        if isinstance(value, GeneratorType):
            return list(value)
        if isinstance(value, AsyncGeneratorType):
            value = _listed(value)
        return _awaited(value) if isinstance(value, Awaitable) else value

    return call


async def _listed(values: AsyncIterator[Any]) -> list[Any]:
    return [value async for value in values]


_LOOP = "toolgym-async-tools"
_LOOPS: dict[tuple[int, str], Any] = {}  # by process, for a fork takes no thread along


def _awaited(value: Awaitable[Any]) -> Any:
    """Wait for an awaitable in a loop of our own, which also works where another one is running.

    One loop serves all calls, so that a tool may keep a connection from one call to the next; a
    tool that calls another one from within that loop gets a second loop.
    """
    import asyncio  # half of what a child would need to start

    here = threading.current_thread().name
    key = os.getpid(), f"{here}+" if here.startswith(_LOOP) else _LOOP
    if key not in _LOOPS:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name=key[1], daemon=True).start()
        _LOOPS.setdefault(key, loop)

    async def waited() -> Any:
        return await value

    future = asyncio.run_coroutine_threadsafe(waited(), _LOOPS[key])
    try:
        return future.result()
    finally:
        future.cancel()


def describe(error: BaseException) -> dict[str, str]:
    """A failure as a reply: errors meant for the model are told by a mark on their class."""
    kinds = {kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "toolgym.errors"}
    if "ToolTimeoutError" in kinds:
        return {"error": "timeout", "text": f"Error: {error}"}
    if "ToolError" in kinds:
        return {"error": "tool_error", "text": f"Error: {error}"}
    detail = "".join(traceback.format_exception(error))
    return {"error": "bug", "text": f"Error: {type(error).__name__}: {error}", "detail": detail}


def serve(read: int, write: int) -> None:
    """Receive the function once, then answer calls until the parent closes its end."""
    receiving, sending = Connection(read, writable=False), Connection(write, readable=False)
    os.dup2(2, 1)  # a tool that prints must not write into anybody's standard output
    try:
        call = by_name(pickle.loads(receiving.recv_bytes()))  # noqa: S301 - our parent wrote it
        reply: dict[str, str] = {"text": "ready"}
    except Exception as error:
        reply = describe(error)
    sending.send_bytes(json.dumps(reply).encode())
    while True:
        try:
            arguments = pickle.loads(receiving.recv_bytes())  # noqa: S301 - our parent wrote it
        except (EOFError, OSError):
            return
        except Exception as error:
            sending.send_bytes(json.dumps(describe(error)).encode())
            continue
        try:
            reply = {"text": as_text(call(arguments))}
        except Exception as error:
            reply = describe(error)
        sending.send_bytes(json.dumps(reply).encode())


if __name__ == "__main__":
    # Run by path, this file's folder is first on sys.path; it must not shadow top-level modules.
    sys.path.pop(0)
    serve(int(sys.argv[1]), int(sys.argv[2]))
