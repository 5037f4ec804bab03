"""The child of `toolgym._workers.tool_worker`; run by path, so that it starts without toolgym."""

from __future__ import annotations

import json
import os
import pickle
import sys
import traceback
from multiprocessing.connection import Connection
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
        function = pickle.loads(receiving.recv_bytes())  # noqa: S301 - our parent wrote it
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
            reply = {"text": as_text(function(**arguments))}
        except Exception as error:
            reply = describe(error)
        sending.send_bytes(json.dumps(reply).encode())


if __name__ == "__main__":
    # Run by path, this file's folder is first on sys.path; it must not shadow top-level modules.
    sys.path.pop(0)
    serve(int(sys.argv[1]), int(sys.argv[2]))
