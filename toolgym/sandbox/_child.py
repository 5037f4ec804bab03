"""The keeper: a fresh interpreter, run by path, that forks one jailed runner for each call.

The keeper never looks into what a model wrote. It passes the request's bytes to a runner, gives it
its time, reads its answer as bytes, and ends it. So nothing that a call does can reach the next.
The runner of the next call is forked ahead, since forking takes longer than most calls.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import marshal
import mmap
import os
import resource
import select
import signal
import struct
import sys
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("!dIIB")  # seconds, MiB of memory, characters, flags
_RULES = 1  # flag: the rules of the language hold
_LAYERS = {"limits": 2, "seccomp": 4}  # flags: this layer must stand, or nothing runs
_LENGTH = struct.Struct("!i")  # how multiprocessing's connections frame a message
_ANSWER, _REQUEST = 3, 4  # a runner's descriptors besides the null device; 4 is closed in time
# What a new runner runs before it waits.
_WARM_UP = """
import re, datetime
def warm(a, b=1):
    return {"text": "{}".format(a), "list": [n + b for n in range(3)]}
"""
_ERROR_CHARS = 1_000
_RESERVE = 4 << 20  # bytes, set free when memory runs out so that this can still be reported
# Read on first use by code that a function may call; a runner can open no file.
_LAZY = ("_strptime", "encodings.ascii", "encodings.latin_1", "encodings.idna", "locale", "time")


def _import_siblings() -> tuple[Any, Any]:
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        return importlib.import_module("language"), importlib.import_module("seccomp")
    finally:
        sys.path.pop(0)


language, seccomp = _import_siblings()
_MODULES = language.public_modules()
try:
    _FILTER = seccomp.Filter()
except OSError:
    _FILTER = None  # layers() says so, and Sandbox refuses to work unless told to


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


def write(descriptor: int, data: bytes) -> None:
    """All of it: a pipe takes a part at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def receive(descriptor: int) -> bytes | None:
    """One framed message; None: the other end is closed."""
    head = read(descriptor, _LENGTH.size)
    return read(descriptor, _LENGTH.unpack(head)[0]) if head else None


# ---- the runner: what stands from here to the next such line runs in a process of one call


@functools.cache
def _held() -> int:
    """Bytes of address space that an interpreter has before it runs anything."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux
        return 512 * 2**20


def _limit(memory: int, seconds: float) -> bool:
    try:
        allowed = _held() + _RESERVE + memory * 2**20
        processor = int(seconds) + 2  # the keeper ends it before; this is for a keeper that died
        for what, value in (
            (resource.RLIMIT_AS, allowed),
            (resource.RLIMIT_CPU, processor),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_NPROC, 0),
            (resource.RLIMIT_NOFILE, _ANSWER + 1),
        ):
            resource.setrlimit(what, (value, value))
    except (OSError, ValueError):
        return False
    return True


def _give_up(request: int, answer: int) -> None:
    """Keep nothing open but the two pipes."""
    request = os.dup(request) if request == _ANSWER else request
    os.dup2(answer, _ANSWER)
    os.dup2(request, _REQUEST)
    os.closerange(_REQUEST + 1, 1_024 if sys.platform == "linux" else os.sysconf("SC_OPEN_MAX"))
    if _FILTER is not None:
        _FILTER.die_with_parent()


def _enter_jail(memory: int, seconds: float) -> list[str]:
    """Close the door behind the request; the layers that stand."""
    os.close(_REQUEST)
    layers = []
    if _limit(memory, seconds):
        layers.append("limits")
    if _FILTER is not None and _FILTER.install():
        layers.append("seccomp")
    return layers


def _to_json(value: Any) -> Any:
    if isinstance(value, Decimal | Fraction):
        return str(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__} has no form in JSON")


def _compile(asked: dict[str, Any], rules: bool) -> tuple[bytes, str | bytes]:
    """The program of a source, checked; nothing of it runs."""
    try:
        tree = language.check(asked["source"]) if rules else asked["source"]
        return b"c", marshal.dumps(compile(tree, "<tool>", "exec"))
    except (language.RefusedError, SyntaxError, ValueError, RecursionError) as error:
        return b"r", f"{asked['name']} was refused: {error}"


def _call(asked: dict[str, Any], code: bytes, limit: int, rules: bool) -> tuple[bytes, str]:
    """The value of a function as JSON; of several calls, a list of kinds and texts."""
    name = asked["name"]
    names = language.names(_MODULES) if rules else {"__name__": "tool"}
    program = marshal.loads(code)  # noqa: S302 - from _compile, in a runner that ran nothing
    # The one place where text of a model becomes running code: a forked process with neither
    # files, network, children nor a next call, which the keeper ends after its answer.
    exec(program, names)  # noqa: S102
    function = names.get(name)
    if not callable(function):
        return b"r", f"{name} was refused: its source defines no function of that name"
    arguments = asked["arguments"]
    if arguments is None:
        return b"v", "null"
    sys.modules["random"].seed(0)  # the same call gives the same answer
    if isinstance(arguments, dict):
        return _value(name, function, arguments, limit)
    answers = []
    for item in arguments:
        try:
            kind, text = _value(name, function, item, asked["limit"])
        except MemoryError:
            raise
        except Exception as error:
            kind, text = b"e", _said(error)
        answers.append([kind.decode(), text])
    return b"v", json.dumps(answers, ensure_ascii=False)


def _said(error: BaseException) -> str:
    said = str(error)[:_ERROR_CHARS]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _value(name: str, function: Any, arguments: dict[str, Any], limit: int) -> tuple[bytes, str]:
    """What one call returns, as JSON."""
    value = function(**arguments)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_to_json)
    except (TypeError, ValueError, RecursionError) as error:
        return b"j", f"{name} returned what is no JSON: {error}"
    if len(text) > limit:
        return b"o", f"{name} returned {len(text)} characters; at most {limit} are allowed"
    return b"v", text


def _answer(request: bytes, limit: int, rules: bool) -> tuple[bytes, str | bytes]:
    """(kind of answer, text): ``v`` a value, ``c`` a program, else an error."""
    head, _, code = request.partition(b"\0")
    asked = json.loads(head)
    return _call(asked, code, limit, rules) if code else _compile(asked, rules)


@functools.cache
def _warming() -> bytes:
    """The request that warms a runner up; the keeper makes it once, from our own source."""
    program = marshal.dumps(compile(language.check(_WARM_UP), "<warm>", "exec"))
    return json.dumps({"name": "warm", "arguments": {"a": 1}}).encode() + b"\0" + program


def run(request_pipe: int, answer_pipe: int) -> None:
    """Wait for one request, jail this process, answer, and end it; never returns."""
    leave = os._exit
    try:
        _give_up(request_pipe, answer_pipe)
        _answer(_warming(), 1_000, True)  # the pages that a call touches are then its own
        message = receive(_REQUEST)
        if message is None:
            leave(0)
        seconds, memory, limit, flags = _HEADER.unpack_from(message)
        reserve = mmap.mmap(-1, _RESERVE)
        layers = _enter_jail(memory, seconds)
        if any(flags & flag and layer not in layers for layer, flag in _LAYERS.items()):
            leave(0)
        text: str | bytes
        try:
            request = message[_HEADER.size :]
            if request:
                kind, text = _answer(request, limit, bool(flags & _RULES))
            else:
                kind, text = b"v", json.dumps(layers)
        except MemoryError:
            reserve.close()
            kind, text = b"m", f"memory: at most {memory} MB are allowed"
        except BaseException as error:
            kind, text = b"e", _said(error)
        data = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
        write(_ANSWER, kind + data)
        os.close(_ANSWER)  # says that the answer is complete; leaving does too, but later
    finally:
        leave(0)


# ---- the keeper


class Runner:
    """One forked process, waiting for its only request."""

    def __init__(self) -> None:
        request, self.request = os.pipe()
        self.answer, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            run(request, answer)
        os.close(request)
        os.close(answer)

    def ask(self, message: bytes, parent: int) -> bytes | None:
        """The answer to a message, with the process ended; None: the parent is gone.

        Args:
            message: header and request.
            parent: descriptor of the pipe from the parent, which ends when the parent does.
        """
        seconds, _, characters, _ = _HEADER.unpack_from(message)
        end = time.monotonic() + seconds
        with contextlib.suppress(BrokenPipeError):  # it died while it waited: see below
            write(self.request, _LENGTH.pack(len(message)) + message)
        left = 4 * (characters + _ERROR_CHARS) + 1_000  # bytes
        parts: list[bytes] = []
        while left > 0:
            ready, _, _ = select.select(
                [self.answer, parent], [], [], max(end - time.monotonic(), 0)
            )
            if not ready or parent in ready:
                os.kill(self.pid, signal.SIGKILL)
                return None if ready else b"t"
            part = os.read(self.answer, 1 << 16)
            if not part:
                break
            parts.append(part)
            left -= len(part)
        os.kill(self.pid, signal.SIGKILL)
        if left <= 0:
            return b"o"
        return b"".join(parts) or b"d"

    def close(self) -> None:
        """Reap the ended process."""
        os.close(self.request)
        os.close(self.answer)
        os.waitpid(self.pid, 0)


def serve(receiving: int, sending: int) -> None:
    """Answer requests, one at a time, until the parent closes its end."""
    while True:
        runner = Runner()
        message = receive(receiving)
        reply = runner.ask(message, receiving) if message is not None else None
        if reply is None:
            return
        write(sending, _LENGTH.pack(len(reply)) + reply)
        runner.close()


if __name__ == "__main__":
    for module in _LAZY:
        importlib.import_module(module)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    if null > 2:
        os.close(null)
    os.environ.clear()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _held()
    _warming()
    gc.collect()
    gc.freeze()  # a runner that collects garbage would copy every page of the keeper
    serve(int(sys.argv[1]), int(sys.argv[2]))
