"""The sandbox: a scenario's functions, called one at a time in jailed processes."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolgym._workers.forks import Forks
from toolgym._workers.pool import Keepers
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.sandbox.session import STATE_CHARS, SandboxSession

__all__ = ["LAYERS", "JailedKeepers", "Sandbox", "SandboxResult", "function_name", "shared"]

LAYERS = ("language", "limits", "seccomp")
_SOURCE_CHARS = 100_000
_ARGUMENT_CHARS = 1_000_000
_PROGRAM_CHARS = 1_000_000
_ERROR_CHARS = 1_000
_ALL_CHARS = 50_000_000  # of the answers of many calls
_KINDS = {
    **{"r": "refused", "e": "exception", "t": "timeout", "m": "memory", "o": "output"},
    **{"j": "result", "d": "died", "s": "state"},
}

_IDLE: list[SandboxSession] = []  # processes for calls that leave nothing, of any sandbox
_MOST_IDLE = 16
_RUNNER = Path(__file__).with_name("runner.py")
# As in runner.py, which is run by path and shares no module with this one.
_HEADER = struct.Struct("!IB")
_RULES, _FLAGS, _PUBLISHED = 1, {"limits": 2, "seccomp": 4}, 8
_SESSION = struct.Struct("!IIII")  # MiB, characters of a result and of a state, flags


_programs: dict[tuple[bool, bytes], bytes] = {}
"""What small sources compiled to, for all sandboxes: worlds of one domain share their functions."""
_SMALL, _MOST_PROGRAMS = 20_000, 1_000  # bytes, programs


class JailedKeepers(Keepers):
    """Keepers whose runners are jailed; shared by all sandboxes of one hash seed."""

    def __init__(self, hash_seed: int = 0) -> None:
        super().__init__(_RUNNER, bare=True, hash_seed=hash_seed)
        self.sessions = Forks(_RUNNER, bare=True, hash_seed=hash_seed)
        self._layers: tuple[str, ...] | None = None

    def layers(self) -> tuple[str, ...]:
        """Layers of the operating system that stand around a runner here, as a runner found."""
        if self._layers is None:
            reply = self.call(b"", 60.0, 64, 1_000, rules=False)
            known = reply is not None and reply[:1] == b"v"
            self._layers = tuple(json.loads(reply[1:])) if reply and known else ()
        return self._layers

    def flags(self, rules: bool) -> int:
        """What a runner is told: a layer that stood at the first try has to stand each time."""
        return sum(_FLAGS[layer] for layer in self._layers or ()) + _RULES * rules

    def call(
        self, request: bytes, timeout: float, memory: int, limit: int, *, rules: bool
    ) -> bytes | None:
        """One call in a runner of its own.

        Args:
            request: JSON of name, source and arguments; empty asks for the layers.
            timeout: seconds.
            memory: MiB that the runner may have beyond what an empty one has.
            limit: characters of the answer.
            rules: whether the rules of the language are checked.

        Returns:
            One letter for the kind of the answer and its text in UTF-8; None: the keeper died.
        """
        flags = self.flags(rules)
        largest = 4 * (limit + _ERROR_CHARS) + 1_000  # bytes
        return self.ask(_HEADER.pack(limit, flags) + request, timeout, memory, largest)


# By hash seed: a second one shows which functions depend on the order of sets.
_keepers_of = functools.cache(JailedKeepers)
shared = _keepers_of(0)


@dataclass(frozen=True)
class SandboxResult:
    """What one call gave.

    Args:
        text: the function's return value as JSON, or a text for the model that says what failed.
        error: None, or the kind of failure: ``refused`` (the source uses what the language rules
            do not allow), ``arguments``, ``exception``, ``timeout``, ``memory``, ``output`` (too
            long), ``result`` (not JSON), ``state`` (what a session's call left is not JSON, or too
            long) or ``died`` (the process ended itself or was ended by the kernel).
    """

    text: str
    error: str | None = None


class Sandbox:
    r"""Functions of one scenario, each with its own source.

    Every call runs in a process of its own, forked from a clean interpreter: it sees no other
    call, no other scenario and nothing of this process. There is no file system at all.

    Args:
        functions: name to source; the source defines a function of that name, with ``_`` for signs
            that a Python name cannot hold, and may define what it needs beside it. Sources do not
            see each other.
        timeout: seconds after which a call is killed.
        memory_mb: MiB that a call may use.
        output_chars: characters of JSON that a call may return.
        require: layers of `LAYERS` without which the sandbox refuses to work.
        rules: whether the rules of the language are checked; False gives the function all of
            Python, and leaves its isolation to the layers of the operating system.
        published: call as the published code of arXiv 2508.08791 does: ``json``, ``deepcopy``,
            ``sha256`` and ``sleep`` are in scope, dicts and lists become JSON text and all else
            ``str``, and the text of a failure is the exception's alone.

    Raises:
        BadInputError: a required layer is missing here, a limit is not a positive number, or a
            source is too long.

    Example:
        ```python
        from toolgym.sandbox import Sandbox

        box = Sandbox({"add": "def add(a, b):\n    return a + b"})
        print(box.call("add", {"a": 1, "b": 2}).text)  # 3
        ```
    """

    def __init__(
        self,
        functions: Mapping[str, str],
        *,
        timeout: float = 10.0,
        memory_mb: int = 256,
        output_chars: int = 20_000,
        require: Sequence[str] = ("seccomp",),
        rules: bool = True,
        published: bool = False,
    ) -> None:
        for what, value in (
            *(("timeout", timeout), ("memory_mb", memory_mb)),
            ("output_chars", output_chars),
        ):
            if not (0 < value < 2**31 and math.isfinite(value)):
                raise BadInputError(f"{what} of a sandbox must be a positive number, not {value!r}")
        for name, source in functions.items():
            if len(source) > _SOURCE_CHARS:
                raise BadInputError(
                    f"source of {name!r} has {len(source)} characters; a sandboxed function has "
                    f"at most {_SOURCE_CHARS}"
                )
        self._functions, self._keepers = dict(functions), shared
        self._timeout, self._memory = float(timeout), math.ceil(memory_mb)
        self._limit, self._rules, self._published = int(output_chars), rules, published
        self._programs: dict[str, bytes | SandboxResult] = {}  # compiled once, or refused
        self._clean: set[str] = set()  # functions of which a call leaves nothing to the next one
        active = self.layers()
        for layer in require:
            if layer not in LAYERS:
                raise UnknownNameError("sandbox layer", layer, LAYERS)
            if layer not in active:
                raise BadInputError(
                    f"the sandbox layer {layer!r} is not available here (active: "
                    f"{', '.join(active) or 'none'}); functions written by a model would be less "
                    "isolated: accept that with require=(), or run on Linux with seccomp"
                )

    def layers(self) -> tuple[str, ...]:
        """The layers that stand here, tried in a jailed process: some of `LAYERS`."""
        return (("language",) if self._rules else ()) + self._keepers.layers()

    def check(self) -> dict[str, str]:
        """Function names to what is wrong with their source; empty: all can be called.

        The sources run up to their function's definition, jailed like a call.
        """
        for name in self._functions:  # before any of them runs: in one process then
            self._program(name)
        results = {name: self._called(name, "null") for name in self._functions}
        return {name: result.text for name, result in results.items() if result.error}

    def call(self, name: str, arguments: Mapping[str, Any]) -> SandboxResult:
        """Run a function; what fails inside is a result, never an exception.

        Args:
            name: one of the sandbox's functions.
            arguments: keyword arguments that JSON can hold.

        Raises:
            UnknownNameError: no function has this name.
        """
        text = self._json(name, arguments)
        if isinstance(text, SandboxResult):
            return text
        return self._called(name, text)

    def _called(self, name: str, arguments: str) -> SandboxResult:
        program = self._program(name)
        if isinstance(program, SandboxResult):
            return program
        if name in self._clean:
            with self._kept() as session:
                result = session.called(name, arguments)
            if result.error != "died":  # somebody may have ended a process that waited
                return result
        return self._ask(name, arguments)

    @contextlib.contextmanager
    def _kept(self) -> Iterator[SandboxSession]:
        """A process for what leaves nothing to the next call, which is kept for that."""
        for session in reversed(_IDLE[:]):
            with contextlib.suppress(ValueError):  # another thread was quicker
                if session.box is self:
                    _IDLE.remove(session)
                    break
        else:
            session = self._opened({}, stated=False)
        yield session
        _IDLE.append(session)
        while len(_IDLE) > _MOST_IDLE:
            with contextlib.suppress(IndexError):  # another thread was quicker
                _IDLE.pop(0).close()

    def call_many(self, name: str, arguments: Sequence[Mapping[str, Any]]) -> list[SandboxResult]:
        """Run a function several times in one process, for probing it: a fraction of the time.

        Unlike with `call`, what a call leaves in the source's globals is there for the next one,
        and time and memory are those of all together.

        Args:
            name: one of the sandbox's functions.
            arguments: of each call.

        Returns:
            One result a call; the same failure for all where the process was ended.

        Raises:
            UnknownNameError: no function has this name.
        """
        texts = [self._json(name, item) for item in arguments]
        plain = [text for text in texts if isinstance(text, str)]
        replies = iter(self._ask_many(name, plain) if plain else ())
        return [text if isinstance(text, SandboxResult) else next(replies) for text in texts]

    def _ask_many(self, name: str, arguments: Sequence[str]) -> list[SandboxResult]:
        whole = self._ask(name, f"[{', '.join(arguments)}]", len(arguments))
        if whole.error is not None:
            return [whole] * len(arguments)
        found = json.loads(whole.text)
        # A function that finds the pipe can write its own answer: it must still be one.
        pairs = found if isinstance(found, list) and len(found) == len(arguments) else []
        answers = map(_answer, pairs or [None] * len(arguments))
        return [self._read(name, answer) for answer in answers]

    def open(self, state: Mapping[str, Any]) -> SandboxSession:
        """A live session: the functions change a state, in one jailed process until it is closed.

        Each function is ``def name(state, ...)`` and changes the dict ``state`` in place; nothing
        else outlives a call. A call costs a twentieth of one of `call`.

        Args:
            state: JSON, a dict; the session has a copy.

        Raises:
            BadInputError: the state is not a dict, not JSON, or too large.
        """
        return self._opened(state, stated=True)

    def _opened(self, state: Mapping[str, Any], stated: bool) -> SandboxSession:
        flags = self._keepers.flags(self._rules) + _PUBLISHED * self._published
        opening = _SESSION.pack(self._memory, self._limit, STATE_CHARS, flags)
        largest = 4 * (self._limit + STATE_CHARS) + 1_000  # bytes
        return SandboxSession(self, state, self._keepers.sessions, opening, largest, stated)

    def reseeded(self, hash_seed: int) -> Sandbox:
        """The same functions where sets are walked in another order; shares what was compiled."""
        twin = copy.copy(self)
        twin._keepers = _keepers_of(hash_seed)
        return twin

    def _json(self, name: str, arguments: Mapping[str, Any]) -> str | SandboxResult:
        if name not in self._functions:
            raise UnknownNameError("sandboxed function", name, self._functions)
        try:
            text = json.dumps(dict(arguments), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            return SandboxResult(f"Error: arguments of {name} are not JSON: {error}", "arguments")
        if len(text) > _ARGUMENT_CHARS:
            return SandboxResult(
                f"Error: arguments of {name} have {len(text)} characters; "
                f"at most {_ARGUMENT_CHARS} are allowed",
                "arguments",
            )
        return text

    def _ask(self, name: str, arguments: str, many: int = 0) -> SandboxResult:
        program = self._program(name)
        if isinstance(program, SandboxResult):
            return program
        called = f'"name": {json.dumps(function_name(name))}, "arguments": {arguments}'
        how = f'"limit": {self._limit}, "published": {json.dumps(self._published)}'
        # Text within the JSON text of many answers is escaped once more.
        limit = 2 * many * (self._limit + _ERROR_CHARS) if many else self._limit
        head = f"{{{called}, {how}}}".encode()
        reply = self._send(head + b"\0" + program, min(limit, _ALL_CHARS))
        return self._read(name, reply, limit)

    def _program(self, name: str) -> bytes | SandboxResult:
        return self._programs.get(name) or self._compiled(name)

    def _frame(self, name: str) -> bytes | SandboxResult:
        """What a session's process gets of a function, or why it can get none."""
        program = self._program(name)
        if isinstance(program, SandboxResult):
            return program
        return json.dumps([name, function_name(name)]).encode() + b"\0" + program

    def _compiled(self, name: str) -> bytes | SandboxResult:
        """The program of a function, or why there is none; compiled by a jailed process too."""
        asked = {"name": function_name(name), "source": self._functions[name]}
        request = json.dumps({**asked, "published": self._published}).encode()
        key = (self._rules, request)
        reply = _programs.get(key)
        if reply is None:
            with self._kept() as session:
                reply = session.compiled(request) or self._send(request, _PROGRAM_CHARS)
        if reply is not None and reply[:1] in (b"c", b"k"):
            if len(reply) < _SMALL:
                _programs[key] = reply
                while len(_programs) > _MOST_PROGRAMS:
                    _programs.pop(next(iter(_programs), key), None)
            self._programs[name] = reply[1:]
            if reply[:1] == b"k":
                self._clean.add(name)
            return reply[1:]
        result = self._read(name, reply)
        if result.error == "refused":  # anything else may go better the next time
            self._programs[name] = result
        return result

    def _send(self, request: bytes, limit: int) -> bytes | None:
        return self._keepers.call(request, self._timeout, self._memory, limit, rules=self._rules)

    def _read(self, name: str, reply: bytes | None, limit: int = 0) -> SandboxResult:
        if reply is None:
            return SandboxResult(f"Error: the process of {name} could not be kept.", "died")
        kind = _KINDS.get(reply[:1].decode("latin-1"))
        text = reply[1:].decode("utf-8", "replace")
        if kind is None:
            return self._value(name, text, limit or self._limit)
        said = self._explained(name, kind, text)
        return SandboxResult(said if self._published else f"Error: {said}.", kind)

    def _value(self, name: str, text: str, limit: int) -> SandboxResult:
        # A function that finds the pipe can write its own answer: it must still be one.
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return SandboxResult(f"Error: {name} wrote a broken answer.", "died")
        if len(text) > limit:
            return SandboxResult(f"Error: {name} wrote too long an answer.", "output")
        return SandboxResult(text)

    def _explained(self, name: str, kind: str, text: str) -> str:
        if kind == "timeout":
            return f"{name} was ended after {self._timeout:g} seconds"
        if kind == "died":
            return f"{name} ended its process without an answer"
        if kind == "exception":
            return text if self._published else f"{name} raised {text}"
        if kind == "memory":
            return f"{name} ran out of {text}"
        return text or f"{name} wrote more than {self._limit} characters"


def function_name(name: str) -> str:
    """The Python function behind a tool's name: ``math.add`` and ``math-add`` are ``math_add``."""
    return name if name.isidentifier() else re.sub(r"\W", "_", name)


def _answer(item: Any) -> bytes:
    """One of many answers as a single one comes; that of an ended process, where it is none."""
    if isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return f"{item[0][:1]}{item[1]}".encode("utf-8", "backslashreplace")
    return b"d"
