"""The role of a keeper: it imports a work module by path and forks one runner for each request.

The keeper never looks into a request. It passes the bytes to a runner, gives it its time, reads its
answer as bytes, and ends it. So nothing that a call does can reach the next. The runner of the next
call is forked ahead, since forking takes longer than most calls.

A work module has ``prepare()``, called once here and once in each runner before its request comes;
``answer(request, memory, limited)``, the answer's bytes, or None for none; and ``LIMITS``, pairs of
a resource and its limit beyond those that every runner has.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolgym._workers.child import Channel

_HEADER = struct.Struct("!dII")  # seconds, MiB of memory, bytes of the answer
_ANSWER, _REQUEST = 3, 4  # a runner's descriptors besides the null device; 4 is closed in time
_ERROR_CHARS = 1_000
_RESERVE = 4 << 20  # bytes, set free when memory runs out so that this can still be reported
_SET_DEATH_SIGNAL = 1  # linux/prctl.h


def _held() -> int:
    """Bytes of address space that the keeper has before anything runs."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux
        return 1 << 30


class Door:
    """What a keeper prepares, and a process that it forked closes behind itself."""

    def __init__(self) -> None:
        self._held, self._keeper = _held(), os.getpid()
        self._control = getattr(ctypes.CDLL(None), "prctl", None)

    def die_with_keeper(self) -> None:
        """From now on, this process ends when the keeper does; at once where it has."""
        if self._control is not None:
            self._control(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != self._keeper:
                os._exit(0)

    def limit(self, memory: int, seconds: int, more: Iterable[tuple[int, int]]) -> bool:
        """Limit this process; False: a limit is not known here.

        Args:
            memory: MiB beyond what the keeper has.
            seconds: of processor time, for a keeper that died.
            more: pairs of a resource and its limit.
        """
        stands = True
        for what, value in (
            (resource.RLIMIT_AS, self._held + _RESERVE + memory * 2**20),
            (resource.RLIMIT_CPU, seconds),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_FSIZE, 0),
            *more,
        ):
            try:
                resource.setrlimit(what, (value, value))
            except (OSError, ValueError):
                stands = False
        return stands


def alone() -> None:
    """Nothing here prints, what a call prints reaches nobody, and no environment is seen."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    if null > 2:
        os.close(null)
    os.environ.clear()


class Keeper:
    """What all runners of one work module share.

    Args:
        work: the module.
        channel: to the parent.
        channels: the class of channels.
    """

    def __init__(self, work: ModuleType, channel: Channel, channels: type[Channel]) -> None:
        self.work, self.channel, self.channels = work, channel, channels
        self._door = Door()

    def serve(self) -> None:
        """Answer requests, one at a time, until the parent closes its end."""
        while True:
            runner = Runner(self)
            try:
                message = self.channel.receive()
            except EOFError:
                return
            reply = runner.ask(message, self.channel.reading)
            if reply is None:
                return
            self.channel.send(reply)
            runner.close()

    def run(self, request: int, answer: int) -> None:
        """In a runner: wait for one request, answer, and end this process; never returns."""
        leave = os._exit
        try:
            request = os.dup(request) if request == _ANSWER else request
            os.dup2(answer, _ANSWER)
            os.dup2(request, _REQUEST)
            most = 1_024 if sys.platform == "linux" else os.sysconf("SC_OPEN_MAX")
            os.closerange(_REQUEST + 1, most)
            self._door.die_with_keeper()
            self.work.prepare()  # the pages that a call touches are then its own
            message = self.channels(_REQUEST, _ANSWER).receive()
            seconds, memory, _ = _HEADER.unpack_from(message)
            reserve = mmap.mmap(-1, _RESERVE)
            os.close(_REQUEST)
            limited = self._door.limit(memory, int(seconds) + 2, self.work.LIMITS)
            try:
                reply = self.work.answer(message[_HEADER.size :], memory, limited)
            except MemoryError:
                reserve.close()
                reply = f"mmemory: at most {memory} MB are allowed".encode()
            except BaseException as error:
                reply = b"e" + said(error).encode("utf-8", "backslashreplace")
            view = memoryview(reply or b"")
            while view:
                view = view[os.write(_ANSWER, view) :]
            os.close(_ANSWER)  # says that the answer is complete; leaving does too, but later
        finally:
            leave(0)


def said(error: BaseException) -> str:
    """An exception in one line."""
    text = str(error)[:_ERROR_CHARS]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Runner:
    """One forked process, waiting for its only request."""

    def __init__(self, keeper: Keeper) -> None:
        request, self._request = os.pipe()
        self._answer, answer = os.pipe()
        self._channel = keeper.channels(self._answer, self._request)
        self._pid = os.fork()
        if self._pid == 0:
            keeper.run(request, answer)
        os.close(request)
        os.close(answer)

    def ask(self, message: bytes, parent: int) -> bytes | None:
        """The answer to a message, with the process ended; None: the parent is gone.

        Args:
            message: header and request.
            parent: descriptor of the pipe from the parent, which ends when the parent does.

        Returns:
            What the work answered, or ``t`` after the deadline, ``o`` for too long an answer and
            ``d`` for none.
        """
        seconds, _, left = _HEADER.unpack_from(message)
        end = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._answer, select.POLLIN)
        poll.register(parent, select.POLLIN)
        with contextlib.suppress(EOFError):  # it died while it waited: there is no answer
            self._channel.send(message)
        parts: list[bytes] = []
        try:
            while left > 0:
                ready = poll.poll(max(end - time.monotonic(), 0) * 1e3)
                if not ready:
                    return b"t"
                if any(descriptor == parent for descriptor, _ in ready):
                    return None
                part = os.read(self._answer, 1 << 16)
                if not part:
                    return b"".join(parts) or b"d"
                parts.append(part)
                left -= len(part)
            return b"o"
        finally:
            os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """Reap the ended process."""
        os.close(self._request)
        os.close(self._answer)
        os.waitpid(self._pid, 0)


def serve(channel: Channel, path: str) -> None:
    """Import the work module, say so, and answer requests.

    Args:
        channel: to the parent.
        path: of the work module.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    child = sys.modules["__main__"]
    work = child.load(path)
    work.prepare()
    alone()
    keeper = Keeper(work, channel, child.Channel)
    gc.collect()
    gc.freeze()  # a runner that collects garbage would copy every page of the keeper
    channel.send(b"ready")
    keeper.serve()
