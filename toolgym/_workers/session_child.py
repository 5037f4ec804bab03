"""The role of a keeper of sessions: it forks one process for each, which stays until its end.

The next process is forked ahead. The parent gets the other end of its socket (SCM_RIGHTS) and talks
to it without this keeper, which only ends it and reaps it when it is told to, so that no process
number is used again before. A jailed session is made by a work module that is named by its path; a
session of a user's own class is an instance of it, which the keeper has imported once.

A work has ``prepare()``, called in each process before its first message; ``session(opening,
memory, limited, plain)``, which gives what answers each further message; and ``LIMITS`` as in
fork_child.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import pickle
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

# What the parent wants: one more process, it now (it waits), or the end of one (its number).
_ORDER = struct.Struct("!cI")
_NUMBER = struct.Struct("!I")  # of a process; MiB of memory that it may have
_AHEAD = 3  # milliseconds after which the next process is forked
_TOKEN = 8  # bytes of a message that its reply repeats
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
        parent, owed = os.getppid(), 1
        poll = select.poll()
        poll.register(self.link, select.POLLIN)
        while os.getppid() == parent:  # a fork of the parent may hold the socket open
            # Not while the process that was given away last begins, but where the parent waits.
            if not poll.poll(_AHEAD if owed else 1_000):
                what, number = b"w", 0
            else:
                try:
                    order = self.link.recv(_ORDER.size, socket.MSG_WAITALL)
                except OSError:  # the parent has gone without taking the last process
                    break
                if len(order) < _ORDER.size:
                    break
                what, number = _ORDER.unpack(order)
            if what == b"k":
                self.end(number)
            elif what == b"n":
                owed += 1
            elif owed:
                self.fork()
                owed -= 1
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
            rest = opening[_NUMBER.size :]
            answer: Answering = self.work.session(rest, memory, limited, self.child.plain)
            channel.send(b"ready")  # from here on, time is that of a call
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


class _Objects:
    """Sessions of a user's own class, which is trusted.

    Args:
        payload: pickle of what makes an instance.
        tool: the module that makes text of a tool's values and failures.
    """

    LIMITS = ()

    def __init__(self, payload: bytes, tool: Any) -> None:
        self._tool = tool
        self._make: Any = pickle.loads(payload)  # noqa: S301 - our parent wrote it
        parts = (self._make, getattr(self._make, "func", None), *getattr(self._make, "args", ()))
        found = [base for part in parts if isinstance(part, type) for base in part.__mro__[:-1]]
        _CLASSES[:] = dict.fromkeys(found)
        self._pickle = _pickling()
        self._own = [(c, name) for c in _CLASSES for name in vars(c) if self._is_data(c, name)]

    def _is_data(self, kind: type, name: str) -> bool:
        """Whether an attribute of a class is what its instances may remember things in."""
        value = vars(kind)[name]
        if name.startswith("__") or callable(value) or hasattr(type(value), "__get__"):
            return False
        try:
            self._pickle(value)
        except Exception:  # such as a lock: it is none
            return False
        return True

    def prepare(self) -> None:
        """Do once what each session does: what it touches is then the process's own."""
        plain = sys.modules["__main__"].plain
        warm = _Object(_Warm, self._tool, self._pickle, plain)
        for kind, given in ((b"n", ((),)), (b"c", ("state", {})), (b"p", ()), (b"s", ())):
            list(warm.answer(kind + bytes(_TOKEN) + pickle.dumps(given)))

    def session(self, opening: bytes, memory: int, limited: bool, plain: Any) -> Answering:
        """What answers each message; see `_Object`."""
        return _Object(self._make, self._tool, self._pickle, plain, self._own).answer


class _Warm:
    """An instance of our own."""

    def __init__(self, _: Any) -> None:
        self._held = {"held": [1, "x", None]}

    def state(self) -> Any:
        """Something."""
        return self._held


_CLASSES: list[type] = []  # that the keeper made sessions of, in the order of its payload


def _class(place: int) -> type:
    """One of these classes, as a pickle names it: one without a module would be told in full."""
    return _CLASSES[place]


def _pickling() -> Callable[[Any], bytes]:
    """How instances are pickled, also those of classes without a module."""
    cloudpickle = importlib.import_module("cloudpickle")

    class Pickler(cloudpickle.CloudPickler):  # type: ignore[name-defined, misc]
        def reducer_override(self, obj: Any) -> Any:
            for place, known in enumerate(_CLASSES):
                if obj is known:
                    return _class, (place,)
            return super().reducer_override(obj)

    def pickled(value: Any) -> bytes:
        held = io.BytesIO()
        Pickler(held).dump(value)
        return held.getvalue()

    return pickled


class _Object:
    """One instance, and what the parent asks of it.

    Args:
        make: called with the arguments that the parent sends.
        tool: the module that makes text of a tool's values and failures.
        pickled: an instance as bytes.
        plain: a value as JSON text.
        own: classes and their attributes that belong to the session as well.
    """

    def __init__(
        self,
        make: Any,
        tool: Any,
        pickled: Callable[[Any], bytes],
        plain: Callable[[Any], tuple[str, Any]],
        own: Iterable[tuple[type, str]] = (),
    ) -> None:
        self._own = own
        self._make, self._tool, self._pickled, self._plain = make, tool, pickled, plain
        self._instance: Any = None
        self._methods: dict[str, Any] = {}
        self._random = importlib.import_module("random")

    def answer(self, message: bytes) -> Iterable[bytes]:
        """The reply to a message, after its token: ``v`` and bytes, or ``x`` and an error."""
        kind, token, given = message[:1], message[1 : 1 + _TOKEN], message[1 + _TOKEN :]
        found: list[bytes] = []
        reply = self._tool.attempt(lambda: found.append(self._done(kind, given)))
        yield token + (b"v" + found[0] if found else b"x" + json.dumps(reply).encode())

    def _called(self, given: bytes) -> Any:
        # Arguments may need a module that is missing here: a failure of the call as well.
        name, arguments = pickle.loads(given)  # noqa: S301 - our parent wrote it
        if name not in self._methods:
            self._methods[name] = self._tool.by_name(getattr(self._instance, name))
        return self._methods[name](arguments)

    def _done(self, kind: bytes, given: bytes) -> bytes:
        """What was asked: new, call, state, pickle, restore, end."""
        if kind == b"c":
            return json.dumps(self._tool.attempt(self._called, given)).encode()
        if kind == b"p":
            beside = [getattr(kind, name) for kind, name in self._own]
            return self._pickled((self._instance, self._random.getstate(), beside))
        if kind == b"e":
            self._instance.close()
            return b""
        if kind == b"n":
            self._random.seed(0)  # as in every other episode
            self._instance = self._make(*pickle.loads(given))  # noqa: S301 - as above
        elif kind == b"r":
            self._instance, random, beside = pickle.loads(given)  # noqa: S301 - from here
            self._random.setstate(random)
            for (kind_, attribute), value in zip(self._own, beside, strict=True):
                setattr(kind_, attribute, value)
        if kind != b"s":
            self._methods.clear()
        state = self._instance.state()
        try:
            text, _ = self._plain(state)
        except ValueError as error:
            raise ValueError(f"its state is not plain JSON: {error}") from error
        return text.encode("utf-8", "backslashreplace")


def _jailed(child: Any, path: str) -> Any:
    work = child.load(path)
    work.prepare()
    fork_child.alone()
    return work


def _trusted(child: Any, payload: bytes) -> Any:
    os.dup2(2, 1)  # what a session prints must not get into anybody's standard output
    tool = child.load(os.path.join(os.path.dirname(__file__), "tool_child.py"))
    made: list[_Objects] = []
    reply = tool.attempt(lambda: made.append(_Objects(payload, tool)))
    return made[0] if made else reply


def serve(channel: Channel, link: str, path: str) -> None:
    """Make ready what makes sessions, say so, and fork.

    Args:
        channel: to the parent: what it sends before anything else, and how that went.
        link: number of the descriptor of a socket to the parent.
        path: of a jailed work module; empty: the parent sends a user's class.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.set_inheritable(int(link), False)
    child, payload = sys.modules["__main__"], channel.receive()
    work = _jailed(child, path) if path else _trusted(child, payload)
    failed = isinstance(work, dict)
    channel.send(json.dumps(work if failed else {"text": "ready"}).encode())
    if failed:
        return
    keeper = _Keeper(work, socket.socket(fileno=int(link)), bool(path))
    gc.collect()
    gc.freeze()  # a process that collects garbage would copy every page of the keeper
    keeper.serve()
