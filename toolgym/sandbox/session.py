"""A live session in the sandbox: functions that a model wrote, and the state that they change."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from toolgym._workers.child import plain
from toolgym.errors import BadInputError

if TYPE_CHECKING:
    from toolgym._workers.forks import Forks, Held
    from toolgym.sandbox.sandbox import Sandbox, SandboxResult

__all__ = ["STATE_CHARS", "SandboxSession"]

STATE_CHARS = 4_000_000
"""Characters of JSON that a state may have."""

# Kind and bytes of the text, before the state; as in runner.py, which shares no module with us.
_HEAD = struct.Struct("!cI")


class SandboxSession:
    """Functions and a state, in one jailed process that stays; see `Sandbox.open`.

    A call that fails, for whatever reason, leaves the state as it was. Where the process has to be
    ended, or is ended by somebody, the next call gets a new one with that state. Calls of several
    threads take effect one after another.

    Args:
        box: whose functions are called.
        state: JSON, a dict.
        forks: where its processes come from.
        opening: what a process gets before the state.
        largest: bytes of a reply.
        stated: whether functions get the state; else they are called as by `Sandbox.call`.

    Raises:
        BadInputError: the state is not a dict, not JSON, or too large.
    """

    def __init__(
        self,
        box: Sandbox,
        state: Mapping[str, Any],
        forks: Forks,
        opening: bytes,
        largest: int,
        stated: bool = True,
    ) -> None:
        self._kind = b"c" if stated else b"f"
        self.box, self._forks, self._opening, self._largest = box, forks, opening, largest
        self._text = self._checked(state)
        self._parsed: dict[str, Any] | None = None  # what the text says, as long as nobody got it
        self._lock, self._closed = threading.RLock(), False
        self._frames: dict[str, bytes] = {}  # compiled functions, by name
        self._known: set[str] = set()  # functions that the process has got
        self._used = 0  # calls that it answered
        self._process: Held | None = None
        with contextlib.suppress(EOFError):  # then the first call says that there is none
            self._live()

    def call(self, name: str, arguments: Mapping[str, Any]) -> SandboxResult:
        """Run a function on the state; what fails inside is a result, never an exception.

        Args:
            name: one of the sandbox's functions, as ``def name(state, ...)``.
            arguments: keyword arguments that JSON can hold, without the state.

        Raises:
            UnknownNameError: no function has this name.
            BadInputError: the session is closed.
        """
        return self.call_many([(name, arguments)])[0]

    def call_many(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> list[SandboxResult]:
        """Run several functions one after another, in one message: the same as single calls.

        Args:
            calls: pairs of a name and arguments.

        Raises:
            UnknownNameError: no function has one of these names; none was called then.
            BadInputError: the session is closed.
        """
        with self._lock:
            if self._closed:
                raise BadInputError("the session is closed; open another one")
            texts = [self.box._json(name, arguments) for name, arguments in calls]
            found = [self._ready(name, text) for (name, _), text in zip(calls, texts, strict=True)]
            waiting = [
                (place, calls[place][0], text)
                for place, text in enumerate(texts)
                if isinstance(text, str) and found[place] is None
            ]
            while waiting:  # a process that ended leaves some without an answer
                answers = self._answers([call[1:] for call in waiting])
                for (place, _, _), answer in zip(waiting, answers, strict=False):
                    found[place] = answer
                waiting = waiting[len(answers) :]
        return [result for result in found if result is not None]

    def called(self, name: str, arguments: str) -> SandboxResult:
        """Run a function that is compiled, with arguments as JSON text."""
        with self._lock:
            self._ready(name, arguments)
            while not (results := self._answers([(name, arguments)])):
                pass
            return results[0]

    def compiled(self, source: bytes) -> bytes | None:
        """What `Sandbox` asks of a source; None: no process that has run nothing answers."""
        with self._lock:
            if self._used:  # what is compiled is shared with others
                return None
            try:
                process = self._live()
                process.begun()
                end = time.monotonic() + self.box._timeout
                reply = process.reply(process.post(b"k", source, end), end, self._largest)
            except (EOFError, TimeoutError, ValueError):
                self._drop()
                return None
            except BaseException:  # Ctrl-C in the middle: the process is in an unknown state
                self._drop()
                raise
            return reply[:1] + reply[_HEAD.size :]

    def state(self) -> dict[str, Any]:
        """The state as it is now; changing it changes nothing here."""
        with self._lock:
            state, self._parsed = self._parsed, None
            return json.loads(self._text) if state is None else state

    def snapshot(self) -> bytes:
        """The state, for `restore`; of this session or of another one of the same sandbox."""
        return self._text

    def restore(self, state: Mapping[str, Any] | bytes) -> None:
        """Go on from a state.

        Args:
            state: JSON, or what `snapshot` gave.

        Raises:
            BadInputError: the state is not a dict, not JSON, or too large.
        """
        text = state if isinstance(state, bytes) else self._checked(state)
        with self._lock:
            self._text, self._parsed = text, None
            if self._process is not None:
                try:
                    self._process.send(b"s", text, end=time.monotonic() + self.box._timeout)
                except (EOFError, TimeoutError):  # a new one gets it with its first call
                    self._drop()

    def close(self) -> None:
        """End the process; the state can still be read."""
        with self._lock:
            self._closed = True
            self._drop()

    def __enter__(self) -> SandboxSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checked(self, state: Mapping[str, Any]) -> bytes:
        try:
            text, _ = plain(dict(state))
        except (TypeError, ValueError) as error:
            raise BadInputError(
                f"the state of a sandboxed session must be a dict of JSON: {error}"
            ) from error
        if len(text) > STATE_CHARS:
            raise BadInputError(
                f"the state of a sandboxed session has {len(text)} characters; at most "
                f"{STATE_CHARS} are allowed"
            )
        return text.encode("utf-8", "backslashreplace")

    def _ready(self, name: str, text: str | SandboxResult) -> SandboxResult | None:
        """Why a call cannot be made; None: it can, its function is compiled."""
        if not isinstance(text, str):
            return text
        if name not in self._frames:
            frame = self.box._frame(name)
            if not isinstance(frame, bytes):
                return frame
            self._frames[name] = frame
        return None

    def _drop(self) -> None:
        self._used = 0
        if self._process is not None:
            self._process.end()
            self._process = None

    def _live(self) -> Held:
        """The process; a new one with the state where there is none.

        Raises:
            EOFError: no process can be had.
        """
        if self._process is None or self._process.owner != os.getpid():
            self._drop()
            self._known = set()
            process = self._forks.take()
            process.send(self._opening, self._text)
            self._process = process
        return self._process

    def _sent(self, calls: list[tuple[str, str]]) -> tuple[Held, bytes]:
        """Send calls, with the functions that the process does not know yet.

        Raises:
            EOFError: it has ended before.
            TimeoutError: it did not take them.
        """
        process = self._live()
        process.begun()
        end = time.monotonic() + self.box._timeout
        for name in {name for name, _ in calls} - self._known:
            process.send(b"p", self._frames[name], end=end)
            self._known.add(name)
        pairs = ", ".join(f"[{json.dumps(name)}, {text}]" for name, text in calls)
        return process, process.post(self._kind, f"[{pairs}]".encode(), end)

    def _answers(self, calls: list[tuple[str, str]]) -> list[SandboxResult]:
        """Results of calls, up to the first that ended the process.

        None but those where memory ran out in a process that had served others before.
        """
        results: list[SandboxResult] = []
        seconds = self.box._timeout
        try:
            try:
                process, token = self._sent(calls)
            except EOFError:  # ended since its last call: nothing of these was done
                self._drop()
                process, token = self._sent(calls)
            for name, _ in calls:
                reply = process.reply(token, time.monotonic() + seconds, self._largest)
                if reply[:1] == b"m" and self._used:  # it may have been filled by earlier ones
                    self._drop()
                    break
                self._used += 1
                results.append(self._taken(name, reply))
                if self._process is None:
                    break
        except (EOFError, TimeoutError, ValueError) as error:
            self._drop()
            kind = b"t" if isinstance(error, TimeoutError) else b"d"
            results.append(self.box._read(calls[len(results)][0], kind))
        except BaseException:  # Ctrl-C in the middle: the process is in an unknown state
            self._drop()
            raise
        return results

    def _taken(self, name: str, reply: bytes) -> SandboxResult:
        """The result of a call, and the state that it left.

        Raises:
            ValueError: it is not a reply: a function that finds the socket can write its own.
        """
        if len(reply) < _HEAD.size:
            raise ValueError("too short a reply")
        kind, length = _HEAD.unpack_from(reply)
        text, state = reply[_HEAD.size :][:length], reply[_HEAD.size + length :]
        result = self.box._read(name, kind + text)
        if result.error is None and state:
            try:
                parsed = json.loads(state)
            except RecursionError as error:
                raise ValueError("too deep a state") from error
            if not isinstance(parsed, dict) or len(state) > 4 * STATE_CHARS:
                raise ValueError("not a state")
            self._text, self._parsed = state, parsed
        if kind == b"m" or (result.error is not None and kind == b"v"):
            self._drop()
        return result
