"""The role of a tool's child, and how a tool's values and failures become text in any process."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import itertools
import json
import math
import os
import pickle
import re
import signal
import sys
import threading
import traceback
from collections import Counter, defaultdict, deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    MappingView,
    Sequence,
    Set,
)
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from toolgym._workers.child import Channel

__all__ = ["MAX_CHARS", "Watch", "as_text", "attempt", "by_name", "describe", "serve"]

MAX_CHARS = 1_000_000
"""Characters of a result, of an error and of a traceback; the rest is cut where it arose."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+>\Z")
_TOKEN = 8  # bytes of a request that its reply repeats


def as_text(value: Any) -> str:
    """A tool's return value as the text that a policy reads: strings as they are, else JSON."""
    if type(value) is str:  # most are
        return _cut(value)
    if not isinstance(value, str | dict | list | tuple | bool | int | float) or _is_enum(value):
        value = _plain(value)
    if value is None:
        return ""
    if not isinstance(value, dict | list | tuple | bool):
        return _cut(str(value))
    try:
        return _cut(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError):  # it holds something that JSON does not know
        return _cut(json.dumps(_plain(value), ensure_ascii=False))


def _is_enum(value: Any) -> bool:
    return isinstance(value, enum.Enum)


def _cut(text: str) -> str:
    if len(text) <= MAX_CHARS:
        return text
    return f"{text[:MAX_CHARS]} [cut: {len(text):,} characters]"


def _plain(value: Any) -> Any:
    """A value of what JSON has; the order of a set does not depend on the process."""
    if _is_enum(value):
        return _plain(value.value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {_key(key): _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    for method in ("model_dump", "tolist"):  # a pydantic model; an array, or a number out of one
        if callable(getattr(type(value), method, None)):
            return _plain(getattr(value, method)())
    if isinstance(value, Sequence | MappingView | Iterator):
        return [_plain(item) for item in itertools.islice(cast("Any", value), MAX_CHARS)]
    if isinstance(value, Set):
        items = [_plain(item) for item in value]
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))
    text = str(value)
    shown = _ADDRESS.sub(">", text)
    if shown != text:  # an address is another one in each process
        raise TypeError(f"the tool returned {shown[:80]}, which is neither text nor data")
    return text


def _key(key: Any) -> str | int | float | bool | None:
    plain = _plain(key)
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, dict | list) else plain


def by_name(function: Callable[..., Any]) -> Callable[[Mapping[str, Any]], Any]:
    """A tool's function, of whatever kind, as one that takes its arguments by name.

    Positional-only ones are given by place, and what is awaitable is awaited.
    """
    kinds = inspect.signature(function).parameters.values()
    places = [kind.name for kind in kinds if kind.kind is kind.POSITIONAL_ONLY]

    def call(arguments: Mapping[str, Any]) -> Any:
        if places:
            named = dict(arguments)
            placed = [named.pop(name) for name in places]
            value = function(*placed, **named)
        else:
            value = function(**arguments)
        if type(value) is str:
            return value
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


def describe(error: BaseException) -> dict[str, Any]:
    """A failure as a reply: errors meant for the model are told by a mark on their class."""
    kinds = {kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "toolgym.errors"}
    try:
        said = str(error)
    except Exception:  # a broken __str__ of the tool's own
        said = "(its text cannot be shown)"
    if "NothingFoundError" in kinds:
        return {"text": _cut(said), "empty": True}
    if "ToolError" in kinds:
        kind = "timeout" if "ToolTimeoutError" in kinds else "tool_error"
        return {"error": kind, "text": _cut(f"Error: {said}")}
    detail = _cut("".join(traceback.format_exception(error)))
    return {
        "error": "bug",
        "text": _cut(f"Error: {type(error).__name__}: {said}"),
        "detail": detail,
    }


def attempt(function: Callable[..., Any], *given: Any) -> dict[str, Any]:
    """Call, and make a reply of what comes: a value, or an exception returned or raised.

    Args:
        function: what is called.
        given: its arguments, by place.

    Raises:
        KeyboardInterrupt: Ctrl-C, which is not the tool's.
    """
    try:
        value = function(*given)
        return describe(value) if isinstance(value, BaseException) else {"text": as_text(value)}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: it ends a call, not the caller
        return describe(error)


class Watch:
    """The containers that a function reaches by name, set back where a call has changed them.

    A process may answer calls of several episodes, and two calls of one episode may be answered in
    two processes: what one leaves behind would be there by chance.

    Args:
        function: whose globals, variables of outer functions and defaults are looked at; large
            ones are not.
    """

    _MOST_BYTES = 1 << 16

    def __init__(self, function: Callable[..., Any]) -> None:
        self.held: list[tuple[str, Any, bytes]] = []
        code = getattr(function, "__code__", None)
        if code is None:
            return
        names = dict.fromkeys(_names(code))
        found = [(n, function.__globals__[n]) for n in names if n in function.__globals__]
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        found += [(n, cell.cell_contents) for n, cell in cells if _is_set(cell)]
        found += [("a default", value) for value in function.__defaults__ or ()]
        found += (function.__kwdefaults__ or {}).items()
        for name, value in found:
            if type(value) in (list, dict, set, bytearray, deque, defaultdict, Counter):
                before = self._written(value)
                if before and len(before) <= self._MOST_BYTES:
                    self.held.append((name, value, before))

    @staticmethod
    def _written(value: Any) -> bytes:
        try:
            return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        except Exception:  # of objects inside, which nothing tells apart then
            return b""

    def settle(self) -> list[str]:
        """Set back what has changed; its names."""
        changed = []
        for name, value, before in self.held:
            if self._written(value) == before:
                continue
            was = pickle.loads(before)  # noqa: S301 - our own
            if was != value:
                changed.append(name)
                value.clear()
                (value.update if isinstance(value, dict | set) else value.extend)(was)
        return changed


def _names(code: Any) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from _names(constant)


def _is_set(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _run(call: Callable[[Mapping[str, Any]], Any], pickled: memoryview) -> Any:
    return call(pickle.loads(pickled))  # noqa: S301 - our parent wrote it


def serve(channel: Channel) -> None:
    """Receive the function once, then answer calls until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a program expects it
    os.dup2(2, 1)  # a tool that prints must not write into anybody's standard output
    sys.modules["__main__"].end_with_parent()
    function: Any = None
    watch: Watch | None = None

    def load() -> str:
        nonlocal function, watch
        given, shared = pickle.loads(channel.receive())  # noqa: S301 - our parent wrote it
        function, watch = by_name(given), None if shared else Watch(given)
        return "ready"

    channel.send(json.dumps(attempt(load)).encode())
    while True:
        try:
            request = channel.receive()
        except EOFError:
            return
        token, pickled = request[:_TOKEN], memoryview(request)[_TOKEN:]
        # Arguments may need a module that is missing here: a failure of the call as well.
        reply = attempt(_run, function, pickled)
        if watch is not None and (kept := watch.settle()):
            reply["kept"] = kept
        channel.send(token, json.dumps(reply).encode())
