"""Child processes that run a tool's function, so that a deadline ends the work, not the wait only.

A thread cannot be stopped and a signal does not reach blocking C code; a process can be killed. The
function travels once (cloudpickle: also functions of notebooks and closures), then every call costs
two small messages. This is for trusted tools: it is no sandbox.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle

from toolgym._workers.process import Child
from toolgym.errors import BadInputError

__all__ = ["WorkerPool"]

_CHILD = Path(__file__).with_name("tool_child.py")
_START_SECONDS = 60.0  # a child may have to import the tool's own libraries before its first call


class _Worker(Child):
    """One child process that serves one function."""

    def __init__(self, payload: bytes) -> None:
        path = os.pathsep.join(p for p in sys.path if p)
        super().__init__(_CHILD, {**os.environ, "PYTHONPATH": path})
        self.sending.send_bytes(payload)


class _Idle:
    """Workers that wait for a call, and the process whose children they are."""

    def __init__(self) -> None:
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def put(self, worker: _Worker) -> None:
        with self._lock:
            self._workers.append(worker)

    def take(self) -> _Worker | None:
        with self._lock:
            if self._owner != os.getpid():  # after a fork the parent's children are not ours
                for worker in self._workers:
                    worker.disown()
                self._workers, self._owner = [], os.getpid()
            return self._workers.pop() if self._workers else None

    def end(self) -> None:
        with self._lock:
            workers, self._workers = self._workers, []
        if self._owner == os.getpid():
            for worker in workers:
                worker.kill()


class WorkerPool:
    """The children of one function: each call takes an idle one or starts one.

    They end with the pool: when it is closed, when nobody holds it any more, and with this process.

    Args:
        function: called with keyword arguments in the child; its result comes back as text.
        name: for messages.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function, self._name = function, name
        self._payload: bytes | None = None
        self._idle, self._lock = _Idle(), threading.Lock()
        weakref.finalize(self, self._idle.end)

    def call(self, arguments: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Run the function in a child.

        Args:
            arguments: keyword arguments; anything that pickles.
            timeout: seconds; at its end the child is killed.

        Returns:
            ``{"text": ...}``, or ``{"error": kind, "text": ..., "detail": traceback}``.

        Raises:
            BadInputError: the function or its arguments cannot be sent to a child.
        """
        request = cloudpickle.dumps(dict(arguments))
        worker = self._take()
        try:
            reply = worker.ask(request, timeout)
        except EOFError:
            code = worker.process.wait()
            worker.kill()
            text = f"Error: {self._name} ended its process (exit code {code})."
            return {"error": "bug", "text": text}
        except BaseException:  # Ctrl-C in the middle: the child is in an unknown state
            worker.kill()
            raise
        if reply is None:
            worker.kill()
            return {
                "error": "timeout",
                "text": f"Error: {self._name} was ended after {timeout:g} seconds.",
            }
        self._idle.put(worker)
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def _take(self) -> _Worker:
        idle = self._idle.take()
        if idle is not None:
            return idle
        with self._lock:
            if self._payload is None:
                try:
                    self._payload = cloudpickle.dumps(self._function)
                except Exception as error:  # pickling runs arbitrary __reduce__ methods
                    raise BadInputError(
                        f"tool {self._name!r} cannot be sent to a worker process ({error}); "
                        "if it always ends by itself, declare it with @tool(inline=True)"
                    ) from error
        worker = _Worker(self._payload)
        try:
            ready = worker.ask(None, _START_SECONDS)
        except EOFError:
            ready = None
        started = json.loads(ready) if ready else {"error": "bug"}
        if "error" in started:
            worker.kill()
            why = started["text"] if ready else "its process ended or did not start"
            raise BadInputError(
                f"tool {self._name!r} could not start in a worker process: {why}; "
                "if it always ends by itself, declare it with @tool(inline=True)"
            )
        return worker

    def close(self) -> None:
        """Kill all idle children; the pool can be used again afterwards."""
        self._idle.end()
