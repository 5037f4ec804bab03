"""Processes that each hold one session, as their parent sees them.

One keeper forks all processes of a kind, see `toolgym._workers.session_child`; each is talked to
directly, and ended through the keeper, which reaps it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import socket
import struct
import threading
import time
import weakref
from pathlib import Path

from toolgym._workers.child import Channel
from toolgym._workers.pool import Child, inherited
from toolgym.errors import BadInputError

__all__ = ["Forks", "Held"]

_START_SECONDS = 60.0  # a keeper may have to import its work's own libraries first
_ORDER = struct.Struct("!cI")  # as in the role, which shares no module with this one
_NUMBER = struct.Struct("!I")
_READY = 100  # bytes of the first message, at most
_TOKEN = 8  # bytes that a reply repeats, so that nothing stray is taken for one


class _Keeper(Child):
    """A keeper and the socket on which it gives its processes to us.

    Raises:
        BadInputError: it cannot load its payload.
        EOFError: it ended, or took too long.
    """

    def __init__(self, work: str, payload: bytes, bare: bool, hash_seed: int) -> None:
        seed = {"PYTHONHASHSEED": str(hash_seed)}
        self.link, theirs = socket.socketpair()
        with theirs:
            super().__init__(
                *("session_child", str(theirs.fileno()), work),
                environment=seed if bare else inherited() | seed,
                # No site packages, no user folder and no cached bytecode written.
                options=("-s", "-S", "-B") if bare else (),
                folder="/" if bare else None,
                given=(theirs.fileno(),),
            )
        self.link.settimeout(_START_SECONDS)
        try:
            end = time.monotonic() + _START_SECONDS
            self.send(payload, end=end)
            started = json.loads(self.receive(end))
            if "error" in started:
                raise BadInputError(started["text"])
        except BaseException as error:
            self.kill()
            if isinstance(error, TimeoutError):
                raise EOFError from error
            raise

    def order(self, what: bytes, number: int = 0) -> None:
        """Tell the keeper what to do; one that has ended has nothing left to do."""
        with contextlib.suppress(OSError):
            self.link.sendall(_ORDER.pack(what, number))

    def next(self) -> tuple[int, int]:
        """Number and descriptor of a process that was forked ahead.

        Raises:
            EOFError: the keeper has ended.
        """
        ready = select.poll()
        ready.register(self.link, select.POLLIN)
        if not ready.poll(0):
            self.order(b"w")
        elif self.process.poll() is not None:  # what it forked ahead has ended with it
            raise EOFError
        try:
            message, descriptors, _, _ = socket.recv_fds(self.link, _NUMBER.size, 1)
        except OSError as error:
            raise EOFError from error
        if not descriptors:
            raise EOFError
        self.order(b"n")
        return _NUMBER.unpack(message)[0], descriptors[0]

    def disown(self) -> None:
        """After a fork of this process: let go of a keeper that is the parent's."""
        self.link.close()
        super().disown()

    def kill(self) -> int:
        """Let the keeper end its processes and itself, which it does at once, and reap it."""
        self.link.close()
        with contextlib.suppress(Exception):  # it is ended by force then
            self.process.wait(1.0)
        return super().kill()


class Held(Channel):
    """The process of one session; it ends when nobody holds it any more.

    Args:
        keeper: that forked it.
        number: of the process.
        descriptor: of the socket to it.
    """

    def __init__(self, keeper: _Keeper, number: int, descriptor: int) -> None:
        super().__init__(descriptor, descriptor)
        os.set_blocking(descriptor, False)
        self.number, self.owner = number, os.getpid()
        self._begun = False
        self.end = weakref.finalize(self, _end, keeper, number, descriptor, self.owner)
        self.end.atexit = False  # all end with their keeper then

    def begun(self) -> None:
        """Wait until the process is ready: the deadline of its first call counts none of that.

        Raises:
            EOFError: the process has ended: nothing was done in it.
        """
        if not self._begun:
            try:
                self.receive(time.monotonic() + _START_SECONDS, _READY)
            except (TimeoutError, ValueError) as error:
                raise EOFError from error
            self._begun = True

    def post(self, kind: bytes, request: bytes, end: float) -> bytes:
        """Send a message that has replies; what each of them begins with.

        Args:
            kind: one byte, of the message.
            request: the rest of it.
            end: reading of the monotonic clock at which it is given up.

        Raises:
            EOFError: the process has ended: nothing of the message was done.
            TimeoutError: it did not take the message in time.
        """
        token = os.urandom(_TOKEN)
        self.send(kind, token, request, end=end)
        return token

    def reply(self, token: bytes, end: float, largest: int) -> bytes:
        """The next reply to a message.

        Args:
            token: from `post`.
            end: reading of the monotonic clock at which the wait is over.
            largest: bytes of the reply.

        Raises:
            EOFError: the process ended.
            TimeoutError: nothing came in time.
            ValueError: what came is not the reply.
        """
        reply = self.receive(end, largest)
        if reply[:_TOKEN] != token:
            raise ValueError("not the reply to this message")
        return reply[_TOKEN:]


def _end(keeper: _Keeper, number: int, descriptor: int, owner: int) -> None:
    os.close(descriptor)
    if os.getpid() == owner:
        keeper.order(b"k", number)


class Forks:
    """Where the processes of one kind of session come from; for all threads.

    Args:
        work: path of the module that makes jailed sessions; None: the payload says it.
        payload: cloudpickle of what makes sessions then; empty where there is a module.
        bare: no environment variables and only the standard library; else ours, and our path.
        hash_seed: sets are walked in the same order in every run of one seed.
    """

    def __init__(
        self, work: Path | None, payload: bytes = b"", *, bare: bool, hash_seed: int = 0
    ) -> None:
        self._start = (str(work or ""), payload, bare, hash_seed)
        self._keeper: _Keeper | None = None
        self._held: weakref.WeakSet[Held] = weakref.WeakSet()
        self._lock = threading.Lock()
        _ALL.add(self)

    def take(self) -> Held:
        """A process that waits for its first message.

        Raises:
            BadInputError: the payload cannot be loaded in a keeper.
            EOFError: no keeper could be started.
        """
        with self._lock:
            for _ in range(3):
                if self._keeper is None:
                    self._keeper = _Keeper(*self._start)
                try:
                    held = Held(self._keeper, *self._keeper.next())
                except EOFError:  # somebody ended it
                    self._keeper.kill()
                    self._keeper = None
                    continue
                if held.quiet():  # else somebody ended it
                    self._held.add(held)
                    return held
                held.end()
        raise EOFError

    def idle(self) -> bool:
        """Whether nobody holds one of its processes."""
        return not self._held

    def close(self) -> None:
        """End the keeper and all its processes; it is started again when it is needed."""
        with self._lock:
            if self._keeper is not None:
                self._keeper.kill()
                self._keeper = None

    def forget(self) -> None:
        """After a fork of this process: the keeper is the parent's."""
        self._lock = threading.Lock()  # a thread that is not here may have held it
        if self._keeper is not None:
            self._keeper.disown()
            self._keeper = None


_ALL: weakref.WeakSet[Forks] = weakref.WeakSet()


def _forget() -> None:
    for forks in list(_ALL):
        forks.forget()


def _close() -> None:
    for forks in list(_ALL):
        forks.close()


os.register_at_fork(after_in_child=_forget)
atexit.register(_close)
