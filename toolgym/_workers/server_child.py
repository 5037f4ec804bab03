"""The role of a guard: it starts a server, and ends it with all that it has started.

The server ends when the parent says so, and also when the parent dies in any way: nobody may be
left behind who holds a port, or the memory of a GPU. What the server started and left behind is
adopted by the guard and ended with it, also where it is in a process group of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolgym._workers.child import Channel

_SET_DEATH_SIGNAL, _ADOPT_ORPHANS = 1, 36  # linux/prctl.h
_GRACE = 10.0  # seconds that a server has to end by itself
_PAUSE = 100  # milliseconds between two looks at parent and server


def serve(channel: Channel, log: str, *command: str) -> None:
    """Run a server until it ends, the parent says a word, or the parent is gone.

    The first message to the parent is the server's process id, or why there is none. The exit code
    is the server's; that of a signal is 128 and its number, as in a shell.

    Args:
        channel: to the parent.
        log: file to which standard output and error of the server are added.
        command: of the server.
    """
    parent, guard = os.getppid(), os.getpid()
    control = getattr(ctypes.CDLL(None), "prctl", None)  # None where this is not Linux
    if control is not None:
        control(_ADOPT_ORPHANS, 1, 0, 0, 0)

    def die_with_guard() -> None:
        if control is not None:
            control(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != guard:
                os._exit(0)

    try:
        with open(log, "ab") as out:
            server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_guard,
            )
    except OSError as error:
        channel.send(f"{error.strerror or error}".encode())
        return
    with contextlib.suppress(EOFError):
        channel.send(str(server.pid).encode())
    word = select.poll()
    word.register(channel.reading, select.POLLIN)

    def left_alone() -> bool:
        return server.poll() is None and os.getppid() == parent and not word.poll(_PAUSE)

    while left_alone():
        pass
    with contextlib.suppress(EOFError):
        if server.poll() is None and os.getppid() == parent and channel.receive():
            server.terminate()
            end = time.monotonic() + _GRACE
            while time.monotonic() < end and left_alone():
                pass
    server.kill()
    code = server.wait()
    _end_orphans(guard)
    sys.exit(code if code >= 0 else 128 - code)


def _end_orphans(guard: int) -> None:
    """End what the server has left behind, and what that leaves behind."""
    while children := list(_children(guard)):
        for child in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def _children(parent: int) -> Iterator[int]:
    """Ids of the processes whose parent this is; none where there is no /proc."""
    with contextlib.suppress(OSError):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == parent:
                    yield int(name)
