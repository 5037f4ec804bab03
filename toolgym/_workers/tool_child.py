"""The role of a tool's child, and how a tool's values and failures become text in any process."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import json
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, MappingView, Sequence, Set
from functools import partial
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from toolgym._workers.child import Channel

__all__ = ["MAX_CHARS", "as_text", "attempt", "describe", "serve"]

MAX_CHARS = 1_000_000
"""Characters of a result, of an error and of a traceback; the rest is cut where it arose."""

_TOKEN = 8  # bytes of a request that its reply repeats


def as_text(value: Any) -> str:
    """A tool's return value as the text that a policy reads: strings as they are, else JSON."""
    if not isinstance(value, str | dict | list | tuple | bool | int | float) or _is_enum(value):
        value = _plain(value)
    if value is None:
        return ""
    if not isinstance(value, dict | list | tuple | bool):
        return _cut(str(value))
    try:
        return _cut(json.dumps(value, ensure_ascii=False))
    except TypeError:  # it holds something that JSON does not know
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
    return str(value)


def _key(key: Any) -> str | int | float | bool | None:
    plain = _plain(key)
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, dict | list) else plain


def describe(error: BaseException) -> dict[str, str]:
    """A failure as a reply: errors meant for the model are told by a mark on their class."""
    kinds = {kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "toolgym.errors"}
    try:
        said = str(error)
    except Exception:  # a broken __str__ of the tool's own
        said = "(its text cannot be shown)"
    if "ToolError" in kinds:
        kind = "timeout" if "ToolTimeoutError" in kinds else "tool_error"
        return {"error": kind, "text": _cut(f"Error: {said}")}
    detail = _cut("".join(traceback.format_exception(error)))
    return {
        "error": "bug",
        "text": _cut(f"Error: {type(error).__name__}: {said}"),
        "detail": detail,
    }


def attempt(function: Callable[[], Any]) -> dict[str, str]:
    """Call, and make a reply of what comes: a value, or an exception returned or raised.

    Raises:
        KeyboardInterrupt: Ctrl-C, which is not the tool's.
    """
    try:
        value = function()
        return describe(value) if isinstance(value, BaseException) else {"text": as_text(value)}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: it ends a call, not the caller
        return describe(error)


def _run(function: Callable[..., Any], pickled: memoryview) -> Any:
    return function(**pickle.loads(pickled))  # noqa: S301 - our parent wrote it


def serve(channel: Channel) -> None:
    """Receive the function once, then answer calls until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a program expects it
    os.dup2(2, 1)  # a tool that prints must not write into anybody's standard output
    sys.modules["__main__"].end_with_parent()
    function: Any = None

    def load() -> str:
        nonlocal function
        function = pickle.loads(channel.receive())  # noqa: S301 - our parent wrote it
        return "ready"

    channel.send(json.dumps(attempt(load)).encode())
    while True:
        try:
            request = channel.receive()
        except EOFError:
            return
        token, pickled = request[:_TOKEN], memoryview(request)[_TOKEN:]
        # Arguments may need a module that is missing here: a failure of the call as well.
        reply = attempt(partial(_run, function, pickled))
        channel.send(token, json.dumps(reply).encode())
