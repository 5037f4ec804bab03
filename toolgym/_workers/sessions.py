"""A live session of a user's own class: an instance in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle

from toolgym._workers.forks import Forks, Held
from toolgym.errors import BadInputError

__all__ = ["ProcessSession"]

_LARGEST_REPLY = 256 << 20  # bytes, of a pickled instance above all
_JOURNAL = 32  # calls that are made again at most, where an instance can be pickled
_JOURNAL_SECONDS = 1.0  # that those calls took
_KEPT = 8  # keepers of classes of which no session lives
_OPENING = struct.pack("!I", 0)  # no limit of memory, as in the role
_LENGTH = struct.Struct("!Q")


class ProcessSession:
    """An instance in a process of its own, which is forked from one that has imported its class.

    A call that ends leaves what it changed, also where it raised. One that has to be ended, or
    whose process ends, changes nothing: a new process gets the last pickle of the instance, and
    the calls since then are made again; a call whose effects reach further than its instance may
    so have them twice. Calls of several threads take effect one after another.

    ``random`` starts from the same seed in each session, and sets are walked in the same order.

    Args:
        make: called with the arguments in the process; gives an instance with ``state()`` and
            ``close()``. Anything that cloudpickle takes.
        arguments: anything that pickles.
        name: of the class, for messages.
        methods: name of a tool to the one of its method; what is missing is named alike.
        timeout: seconds for all but calls.

    Raises:
        BadInputError: the class or the arguments cannot be sent to a process, the class cannot be
            imported there, making the instance fails, or its state is not JSON.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        arguments: tuple[Any, ...],
        name: str,
        methods: Mapping[str, str] | None = None,
        timeout: float = 10.0,
    ) -> None:
        self._name, self._methods, self._timeout = name, methods or {}, timeout
        try:
            self._forks, made = _forks_of(make), cloudpickle.dumps(arguments)
        except Exception as error:  # pickling runs arbitrary __reduce__ methods
            raise BadInputError(
                f"{name} cannot be sent to a process of its own ({error}); inline = True keeps it "
                "in this process, without a deadline"
            ) from error
        # From what the instance is made again: kind and bytes of a message, and calls since.
        self._base, self._journal = (b"n", made), list[bytes]()
        self._pickles, self._spent = True, 0.0  # whether it can be pickled; seconds of those calls
        self._state: bytes | None = None  # after the last call in the journal, where it was asked
        self._lock, self._closed = threading.RLock(), False
        self._process: Held | None = None
        self._begin()

    def call(self, name: str, arguments: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Call a method; what fails is a reply.

        Args:
            name: of the tool.
            arguments: keyword arguments; anything that pickles.
            timeout: seconds; at its end the process is ended, with what it started.

        Returns:
            ``{"text": ...}``, or ``{"error": kind, "text": ..., "detail": traceback}``.

        Raises:
            BadInputError: the arguments cannot be pickled, or the session is closed.
        """
        try:
            request = cloudpickle.dumps((self._methods.get(name, name), dict(arguments)))
        except Exception as error:  # as above
            raise BadInputError(f"arguments of {name} cannot be sent to it ({error})") from error
        with self._lock:
            begun = time.monotonic()
            try:
                reply = self._told(b"c", request, timeout)
            except _EndedError as error:
                return {"error": error.kind, "text": f"Error: {name} {error}."}
            self._journal.append(request)
            self._state = None
            self._spent += time.monotonic() - begun
            long = len(self._journal) >= _JOURNAL or self._spent > _JOURNAL_SECONDS
            if self._pickles and long:
                self._pickles = self._pickle()
            answer: dict[str, Any] = json.loads(reply)
            return answer

    def state(self) -> Any:
        """What ``state()`` of the instance says, as JSON that nobody else holds.

        Raises:
            BadInputError: it is not JSON, or it raised.
        """
        with self._lock:
            if self._state is None:
                try:
                    self._state = self._read(b"s")
                except (BadInputError, _EndedError) as error:
                    raise BadInputError(f"{self._name}.state(): {error}") from error
            return json.loads(self._state)

    def snapshot(self) -> bytes:
        """What brings back this moment: the pickled instance, or all calls where it has none.

        Raises:
            BadInputError: the session is closed.
        """
        with self._lock:
            with contextlib.suppress(BadInputError):  # no state: it is not compared then
                self.state()
            self._pickle()
            parts = (*self._base, self._state or b"", *self._journal)
            return b"".join(_LENGTH.pack(len(part)) + part for part in parts)

    def restore(self, snapshot: bytes) -> None:
        """Go back to the moment of a snapshot, of this session or of another one of its class.

        Raises:
            BadInputError: it cannot be brought back, or the session is closed.
        """
        parts, at = list[bytes](), 0
        while at < len(snapshot):
            (length,) = _LENGTH.unpack_from(snapshot, at)
            at += _LENGTH.size + length
            parts.append(snapshot[at - length : at])
        with self._lock:
            self._base, self._journal = (parts[0], parts[1]), parts[3:]
            self._state, self._spent = parts[2] or None, 0.0
            fresh = parts[0] == b"n"  # only an untouched process makes the same instance again
            if fresh or not self._lives():
                self._drop()
            try:
                self._begin()
            except _OtherError as error:
                raise BadInputError(
                    f"{self._name} has another state after a restore than at its snapshot: it must "
                    "remember things in its attributes, not in globals"
                ) from error

    def close(self) -> None:
        """Call ``close()`` of the instance, and end its process with what it started.

        Raises:
            BadInputError: ``close()`` raised, or did not end.
        """
        with self._lock:
            self._closed = True
            try:
                if self._lives():
                    self._asked(b"e", b"", self._timeout)
            except EOFError:  # ended meanwhile
                pass
            except (TimeoutError, ValueError) as error:
                why = str(error) or f"did not end within {self._timeout:g} seconds"
                raise BadInputError(f"{self._name}.close(): {why}") from error
            finally:
                self._drop()

    def _lives(self) -> bool:
        """Whether there is a process, of ours: after a fork of this one it is the parent's."""
        process = self._process
        return process is not None and process.owner == os.getpid() and process.quiet()

    def _drop(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def _asked(self, kind: bytes, request: bytes, seconds: float) -> bytes:
        """The reply of the process to a message.

        Raises:
            EOFError: it ended.
            TimeoutError: it took too long.
            BadInputError: what was asked raised.
            ValueError: what came is not the reply.
        """
        if self._process is None:
            raise EOFError
        end = time.monotonic() + seconds
        reply = self._process.reply(self._process.post(kind, request, end), end, _LARGEST_REPLY)
        if reply[:1] == b"x":
            raise BadInputError(json.loads(reply[1:])["text"].removeprefix("Error: "))
        return reply[1:]

    def _begin(self) -> None:
        """Bring back what base and journal say, in a new process where there is none.

        Raises:
            BadInputError: it cannot be brought back, or the session is closed.
            _OtherError: it was, but its state is not the same.
        """
        if self._closed:
            raise BadInputError(f"this session of {self._name} is closed; open another one")
        known, self._state = self._state, None
        try:
            if self._process is None:
                self._process = self._forks.take()
                self._process.send(_OPENING)
                self._process.begun()
            state = self._asked(*self._base, self._timeout)
            for request in self._journal:
                self._asked(b"c", request, self._timeout)
            if self._journal and known is not None:
                state = self._asked(b"s", b"", self._timeout)
        except (EOFError, TimeoutError, ValueError) as error:
            self._drop()
            why = "it took too long" if isinstance(error, TimeoutError) else "its process ended"
            raise BadInputError(
                f"{self._name} cannot begin in a process of its own: {str(error) or why}; "
                "inline = True keeps it in this process, without a deadline"
            ) from error
        except BaseException:  # Ctrl-C in the middle: the process is in an unknown state
            self._drop()
            raise
        if known is not None or not self._journal:
            self._state = state
        if known not in (None, state):
            raise _OtherError

    def _told(self, kind: bytes, request: bytes, seconds: float) -> bytes:
        """The reply to a message, of a process that is begun again where it has ended.

        Raises:
            BadInputError: what was asked raised, or no process can be begun.
            _EndedError: the process had to be ended; all is as before the message.
        """
        if not self._lives():
            self._drop()
            try:
                self._begin()
            except _OtherError as error:
                why = "was not called: its process had ended, and the state before it is another"
                raise _EndedError("bug", why) from error
        try:
            return self._asked(kind, request, seconds)
        except BadInputError:
            raise
        except EOFError as error:
            cause: Exception = error
            found = _EndedError("bug", "ended its process")
        except TimeoutError as error:
            cause = error
            found = _EndedError("timeout", f"was ended after {seconds:g} seconds")
        except ValueError as error:
            why = "wrote something into the channel of its own process, which was ended"
            cause = error
            found = _EndedError("bug", why)
        except BaseException:  # Ctrl-C, as above
            self._drop()
            raise
        self._drop()
        raise self._recovered(found) from cause

    def _read(self, kind: bytes) -> bytes:
        """The reply to a message that changes nothing: asked again where the process had ended."""
        try:
            return self._told(kind, b"", self._timeout)
        except _EndedError:
            if not self._lives():
                raise
            return self._told(kind, b"", self._timeout)

    def _recovered(self, error: _EndedError) -> _EndedError:
        """The error, with what could not be brought back."""
        try:
            self._begin()
        except _OtherError:
            why = "and the state before it could not be made the same again"
        except BadInputError as begun:
            why = f"and the state before it could not be brought back ({begun})"
        else:
            return error
        return _EndedError(error.kind, f"{error}, {why}")

    def _pickle(self) -> bool:
        """Begin from a pickle of the instance from now on; False: it cannot be pickled."""
        try:
            self._base = b"r", self._read(b"p")
        except _EndedError:
            return False
        except BadInputError:
            if self._closed:
                raise
            return False
        self._journal, self._spent = [], 0.0
        return True


class _EndedError(Exception):
    """What was done had to be ended; its text is the end of a sentence.

    Args:
        kind: of the failure, as in a reply.
        why: what happened.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class _OtherError(Exception):
    """A session was made again, and its state is another one."""


_PAYLOADS: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()
_FORKS: OrderedDict[bytes, Forks] = OrderedDict()
_LOCK = threading.Lock()


def _renew() -> None:
    """After a fork of this process: a thread that is not here may have held the lock."""
    global _LOCK
    _LOCK = threading.Lock()


os.register_at_fork(after_in_child=_renew)


def _forks_of(make: Callable[..., Any]) -> Forks:
    """Where processes come from in which this can be called; shared by what pickles alike."""
    with _LOCK:
        payload = _PAYLOADS.get(make)
        if payload is None:
            payload = _PAYLOADS[make] = cloudpickle.dumps(make)
        forks = _FORKS.pop(payload, None) or Forks(None, payload, bare=False)
        idle = [key for key, one in _FORKS.items() if one.idle()]
        for key in idle[: max(len(_FORKS) - _KEPT, 0)]:  # longest unused first
            _FORKS.pop(key).close()
        _FORKS[payload] = forks
    return forks
