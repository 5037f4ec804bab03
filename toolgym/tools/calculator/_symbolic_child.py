"""The keeper: a fresh interpreter with sympy imported, run by path, that forks a runner a call.

A runner answers one request and is ended, at its deadline at the latest, so that no call leaves
anything behind for the next: neither memory, nor caches, nor a computation that goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("!dI")  # seconds, MiB of memory
_LENGTH = struct.Struct("!i")  # how multiprocessing's connections frame a message
_LARGEST = 1 << 20  # bytes of an answer
_DIE_WITH_PARENT = 1  # linux/prctl.h: PR_SET_PDEATHSIG
Work = Callable[[dict[str, Any]], dict[str, Any]]


def read(descriptor: int, count: int) -> bytes | None:
    """So many bytes; None: the other end is closed."""
    parts = []
    while count:
        part = os.read(descriptor, min(count, 1 << 16))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def receive(descriptor: int) -> bytes | None:
    """One framed message; None: the other end is closed."""
    head = read(descriptor, _LENGTH.size)
    return read(descriptor, _LENGTH.unpack(head)[0]) if head else None


def send(descriptor: int, data: bytes) -> None:
    """One framed message."""
    view = memoryview(_LENGTH.pack(len(data)) + data)
    while view:
        view = view[os.write(descriptor, view) :]


def _held() -> int:
    """Bytes of address space of this process."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux
        return 1 << 30


def _die_with_parent() -> None:
    with contextlib.suppress(AttributeError, OSError):  # Linux only
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)


def _limit(memory: int, seconds: float) -> None:
    for what, value in (
        (resource.RLIMIT_AS, _held() + memory * 2**20),
        (resource.RLIMIT_CPU, int(seconds) + 2),  # for a keeper that was killed
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        with contextlib.suppress(OSError, ValueError):  # a system that lacks this limit
            resource.setrlimit(what, (value, value))


def run(work: Work, requests: int, answer: int) -> None:
    """Wait for one request, answer it, and end this process; never returns."""
    leave = os._exit
    try:
        _die_with_parent()
        message = receive(requests)
        if message is None:
            leave(0)
        seconds, memory = _HEADER.unpack_from(message)
        _limit(memory, seconds)
        try:
            reply = work(json.loads(message[_HEADER.size :]))
        except MemoryError:
            reply = {"refused": f"it needs more than {memory} MB of memory"}
        send(answer, json.dumps(reply).encode())
    finally:
        leave(0)


class Runner:
    """One forked process, waiting for its only request: forked ahead, since that takes time.

    Args:
        work: what it does with the request.
    """

    def __init__(self, work: Work) -> None:
        requests, self.requests = os.pipe()
        self.answer, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.requests)
            os.close(self.answer)
            run(work, requests, answer)
        os.close(requests)
        os.close(answer)

    def ask(self, message: bytes, parent: int) -> bytes | None:
        """The answer to a message, with the process ended; None: the parent is gone.

        Args:
            message: header and request.
            parent: descriptor of the pipe from the parent, which ends when the parent does.
        """
        seconds, _ = _HEADER.unpack_from(message)
        end = time.monotonic() + seconds
        with contextlib.suppress(BrokenPipeError):  # it died while it waited: see below
            send(self.requests, message)
        data = b""
        try:
            while len(data) < _LARGEST:
                left = max(end - time.monotonic(), 0)
                ready, _, _ = select.select([self.answer, parent], [], [], left)
                if not ready:
                    return b'{"timeout": true}'
                if parent in ready:
                    return None
                part = os.read(self.answer, 1 << 16)
                if not part:
                    break
                data += part
        finally:
            os.kill(self.pid, signal.SIGKILL)
        whole = len(data) >= _LENGTH.size and _LENGTH.unpack_from(data)[0] + _LENGTH.size
        return data[_LENGTH.size :] if whole == len(data) else b'{"refused": "its process ended"}'

    def close(self) -> None:
        """Reap the ended process."""
        os.close(self.requests)
        os.close(self.answer)
        os.waitpid(self.pid, 0)


def serve(receiving: int, sending: int) -> None:
    """Import sympy, say so, and answer requests until the parent closes its end."""
    sys.path.insert(0, str(Path(__file__).parent))
    module = importlib.import_module("_symbolic_work")
    sys.path.pop(0)
    module.warm_up()
    gc.collect()
    gc.freeze()  # a runner that collects garbage would copy every page of the keeper
    send(sending, b"ready")
    while True:
        runner = Runner(module.work)
        message = receive(receiving)
        reply = runner.ask(message, receiving) if message is not None else None
        if reply is None:
            return
        send(sending, reply)
        runner.close()


if __name__ == "__main__":
    # Run by path, this file's folder is first on sys.path; it must not shadow top-level modules.
    sys.path.pop(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.dup2(2, 1)  # nothing here prints; if sympy does, not into anybody's standard output
    serve(int(sys.argv[1]), int(sys.argv[2]))
