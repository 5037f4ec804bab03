"""The role of a keeper of sessions: it forks one process for each, which stays until its end.

The next process is forked ahead. The parent gets the other end of its socket (SCM_RIGHTS) and talks
to it without this keeper, which only ends it and reaps it when it is told to, so that no process
number is used again before. A jailed session is made by a work module that is named by its path; a
session of a user's own class by `Objects`, from a class that the keeper imported once.

A work has ``prepare()``, called in each process before its first message; ``session(opening,
limited, plain)``, which gives what answers each further message; and ``LIMITS`` as in fork_child.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolgym._workers import fork_child
    from toolgym._workers.child import Channel
else:  # beside this file: a role runs by path and imports nothing of toolgym
    fork_child = importlib.import_module("fork_child")

__all__ = ["Answering", "serve"]

Answering = Callable[[bytes], Iterable[bytes]]
"""Replies to one message."""

_ORDER = struct.Struct("!cI")  # what the parent wants, and of which process
_NUMBER = struct.Struct("!I")  # of a process; MiB of memory that it may have
_OWN = 3  # the only descriptor of a jailed session but the null device; as in seccomp.py
_PROCESSOR_SECONDS = 3_600  # of a jailed session, should nobody be left who ends it


class _Keeper:
    """What forks the processes.

    Args:
        work: that makes sessions.
        link: the socket to the parent.
        jailed: a session gets nothing of this process.
    """

    def __init__(self, work: Any, link: socket.socket, jailed: bool) -> None:
        self.work, self.link, self.jailed = work, link, jailed
        self.child = sys.modules["__main__"]
        self.door = fork_child.Door()
        self.running: set[int] = set()

    def serve(self) -> None:
        """Fork one ahead, and do what the parent orders, until it is gone."""
        parent = os.getppid()
        poll = select.poll()
        poll.register(self.link, select.POLLIN)
        self.fork()
        while os.getppid() == parent:  # a fork of the parent may hold the socket open
            if not poll.poll(1_000):
                continue
            order = self.link.recv(_ORDER.size, socket.MSG_WAITALL)
            if len(order) < _ORDER.size:
                break
            what, number = _ORDER.unpack(order)
            if what == b"k":
                self.end(number)
            else:
                self.fork()
        for number in list(self.running):
            self.end(number)

    def end(self, number: int) -> None:
        """End a process, with all that it started, and reap it."""
        if number in self.running:
            self.running.discard(number)
            for group in (os.killpg, os.kill):  # it may not have made its group yet
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    group(number, signal.SIGKILL)
            os.waitpid(number, 0)

    def fork(self) -> None:
        """Fork a process and give its socket to the parent."""
        ours, theirs = socket.socketpair()
        number = os.fork()
        if number == 0:
            self.run(theirs.detach(), ours.detach())
        theirs.close()
        self.running.add(number)
        with ours, contextlib.suppress(OSError):  # the parent is gone: found out by the next order
            socket.send_fds(self.link, [_NUMBER.pack(number)], [ours.fileno()])

    def run(self, own: int, others: int) -> None:
        """In a process: make the session and answer, until the parent lets go; never returns."""
        leave = os._exit
        try:
            os.setpgid(0, 0)
            self.door.die_with_keeper()
            own = self._alone(own, others)
            self.work.prepare()  # the pages that a call touches are then its own
            channel = self.child.Channel(own, own)
            opening = channel.receive()
            (memory,) = _NUMBER.unpack_from(opening)
            limited = not memory or self.door.limit(memory, _PROCESSOR_SECONDS, self.work.LIMITS)
            answer: Answering = self.work.session(
                opening[_NUMBER.size :], limited, self.child.plain
            )
            while True:
                for reply in answer(channel.receive()):
                    channel.send(reply)
        except EOFError:
            pass
        except BaseException:
            traceback.print_exc()  # the parent sees that the process ended; a person sees why
        finally:
            leave(0)

    def _alone(self, own: int, others: int) -> int:
        """Close what is the keeper's; the session's descriptor then."""
        if self.jailed:
            os.dup2(own, _OWN)
            most = 1_024 if sys.platform == "linux" else os.sysconf("SC_OPEN_MAX")
            os.closerange(_OWN + 1, most)
            return _OWN
        self.link.close()
        os.close(others)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as a program expects it
        return own


def serve(channel: Channel, link: str, path: str) -> None:
    """Make ready what makes sessions, say so, and fork.

    Args:
        channel: to the parent: what it sends before anything else, and whether that went well.
        link: number of the descriptor of a socket to the parent.
        path: of a jailed work module; empty: the parent sends a user's class.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.set_inheritable(int(link), False)
    child = sys.modules["__main__"]
    work = child.load(path)
    work.prepare()
    fork_child.alone()
    channel.send(b"ready")
    keeper = _Keeper(work, socket.socket(fileno=int(link)), True)
    gc.collect()
    gc.freeze()  # a process that collects garbage would copy every page of the keeper
    keeper.serve()
