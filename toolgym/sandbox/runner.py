"""What a jailed runner does: the work module of the sandbox's keepers, imported by path.

The keeper's own part is `toolgym._workers.fork_child`. What stands here closes the door behind a
request, checks or runs the source, and gives the answer as bytes: one letter and a text.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import json
import marshal
import mmap
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolgym.sandbox import language, seccomp
else:  # beside this file: a keeper runs by path and imports nothing of toolgym
    language, seccomp = map(importlib.import_module, ("language", "seccomp"))

__all__ = ["LIMITS", "answer", "prepare", "session"]

# No process, and at last no descriptor: closing one makes no room for another.
LIMITS = ((resource.RLIMIT_NPROC, 0), (resource.RLIMIT_NOFILE, 0))
_HEADER = struct.Struct("!IB")  # characters, flags
_RULES, _PUBLISHED = 1, 8  # flags: the rules of the language hold; see Sandbox
_LAYERS = {"limits": 2, "seccomp": 4}  # flags: this layer must stand, or nothing runs
# What a new runner runs before it waits.
_WARM_UP = """
import re, datetime
def warm(a, b=1):
    return {"text": "{}".format(a), "list": [n + b for n in range(3)]}
"""
_ERROR_CHARS = 1_000
_RESERVE = 4 << 20  # bytes, set free when memory runs out so that this can still be reported
_NO_FUNCTION = "its source defines no function of that name"
_SESSION = struct.Struct("!III")  # characters of a result and of the state, flags
_TEXTS = 1_000_000  # characters of entries of a state that are kept
_TOKEN = 8  # bytes of a message that its replies repeat
_LENGTH = struct.Struct("!I")  # of a reply's text, before the state
# Read on first use by code that a function may call; a runner can open no file.
for _name in ("_strptime", "encodings.ascii", "encodings.latin_1", "encodings.idna", "locale"):
    importlib.import_module(_name)
_MODULES = language.public_modules()
try:
    _FILTER: seccomp.Filter | None = seccomp.Filter()
except OSError:
    _FILTER = None  # layers() says so, and Sandbox refuses to work unless told to


def _to_json(value: Any) -> Any:
    if isinstance(value, Decimal | Fraction):
        return str(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__} has no form in JSON")


def _compile(asked: dict[str, Any], rules: bool) -> tuple[bytes, str | bytes]:
    """The program of a source, checked; nothing of it runs. ``k``: its calls leave nothing."""
    try:
        modules = language.PUBLISHED if asked.get("published", False) else language.MODULES
        tree = language.check(asked["source"], modules) if rules else asked["source"]
        program = marshal.dumps(compile(tree, "<tool>", "exec"))
        clean = rules and language.leaves_nothing(asked["source"])
        return b"k" if clean else b"c", program
    except (language.RefusedError, SyntaxError, ValueError, RecursionError) as error:
        if asked.get("published", False):
            if isinstance(error, SyntaxError):
                error.filename = "<string>"  # as their exec() says
            return b"r", str(error)
        return b"r", f"{asked['name']} was refused: {error}"


def _function(name: str, program: Any, rules: bool, published: bool) -> Any:
    """The function that a program defines, in fresh globals; None: it defines none."""
    allowed = language.names(_MODULES, published)
    names = allowed if rules else {**allowed, "__builtins__": builtins}
    # The one place where text of a model becomes running code: a forked process with neither
    # files, network nor children, which holds nothing but its one call or its one session.
    exec(program, names)  # noqa: S102
    function = names.get(name)
    if published and name not in names:
        raise NameError(f"name {name} is not defined")
    return function if published or callable(function) else None


def _call(asked: dict[str, Any], code: bytes, limit: int, rules: bool) -> tuple[bytes, str]:
    """The value of a function as JSON; of several calls, a list of kinds and texts."""
    name, published = asked["name"], asked.get("published", False)
    program = marshal.loads(code)  # noqa: S302 - from _compile, in a runner that ran nothing
    function = _function(name, program, rules, published)
    if function is None:
        return b"r", f"{name} was refused: {_NO_FUNCTION}"
    arguments = asked["arguments"]
    if arguments is None:
        return b"v", "null"
    sys.modules["random"].seed(0)  # the same call gives the same answer
    if isinstance(arguments, dict):
        return _value(name, function, arguments, limit, published)
    answers = []
    for item in arguments:
        try:
            kind, text = _value(name, function, item, asked["limit"], published)
        except MemoryError:
            raise
        except Exception as error:
            kind, text = b"e", str(error) if published else _said(error)
        answers.append([kind.decode(), text])
    return b"v", json.dumps(answers, ensure_ascii=False)


def _said(error: BaseException) -> str:
    said = str(error)[:_ERROR_CHARS]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _value(
    name: str, function: Any, arguments: dict[str, Any], limit: int, published: bool
) -> tuple[bytes, str]:
    """What one call returns, as JSON."""
    value = function(**arguments)
    if published and type(value) in (dict, list):
        value = json.dumps(value, ensure_ascii=False)
    elif published and type(value) is not str:
        value = str(value)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_to_json)
    except (TypeError, ValueError, RecursionError) as error:
        return b"j", f"{name} returned what is not JSON: {error}"
    if len(text) > limit:
        return b"o", f"{name} returned {len(text)} characters; at most {limit} are allowed"
    return b"v", text


def _answer(request: bytes, limit: int, rules: bool) -> tuple[bytes, str | bytes]:
    """(kind of answer, text): ``v`` a value, ``c`` or ``k`` a program, else an error."""
    head, _, code = request.partition(b"\0")
    asked = json.loads(head)
    if not code:
        return _compile(asked, rules)
    try:
        return _call(asked, code, limit, rules)
    except Exception as error:
        if not asked.get("published", False) or isinstance(error, MemoryError):
            raise
        return b"e", str(error)[:limit]


@functools.cache
def _warming() -> bytes:
    """The request that warms a runner up; the keeper makes it once, from our own source."""
    program = marshal.dumps(compile(language.check(_WARM_UP), "<warm>", "exec"))
    asked = {"name": "warm", "arguments": {"a": 1}}
    return json.dumps(asked).encode() + b"\0" + program


def _closed(flags: int, limited: bool) -> list[str] | None:
    """Close the door: the layers that stand then; None: one that has to stand does not."""
    layers = ["limits"] if limited else []
    if _FILTER is not None and _FILTER.install():
        layers.append("seccomp")
    missing = any(flags & flag and layer not in layers for layer, flag in _LAYERS.items())
    return None if missing else layers


def answer(request: bytes, memory: int, limited: bool) -> bytes | None:
    """Close the door and answer one request: with the layers that stand, if it asks nothing.

    Args:
        request: header, and JSON of what is asked; a program may follow it.
        memory: MiB; limited already.
        limited: whether the limits stand.

    Returns:
        A letter and a text; None: a layer that has to stand does not.
    """
    limit, flags = _HEADER.unpack_from(request)
    layers = _closed(flags, limited)
    if layers is None:
        return None
    asked = request[_HEADER.size :]
    kind, text = (
        _answer(asked, limit, bool(flags & _RULES)) if asked else (b"v", json.dumps(layers))
    )
    return kind + (text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text)


class _StateError(Exception):
    """What a call left, and why it cannot stay."""


class _Session:
    """The state of one session, and the functions that change it.

    Nothing but the state outlives a call: each has fresh globals, and one that fails, or leaves
    what is not JSON, changes nothing.

    Args:
        opening: limits, flags and the first state.
        memory: MiB, for messages.
        plain: a value as JSON text, and what that gives again.
    """

    def __init__(
        self, opening: bytes, memory: int, plain: Callable[[Any], tuple[str, Any]]
    ) -> None:
        self._memory = memory
        self._limit, self._largest, self._flags = _SESSION.unpack_from(opening)
        self._plain, self._programs = plain, dict[str, tuple[str, Any]]()
        self._reserve = mmap.mmap(-1, _RESERVE)
        # Each entry of the state as bytes, and what such bytes are as JSON: mostly one changes.
        self._entries: list[tuple[str, bytes]] = []
        self._texts: dict[bytes, str] = {}
        self._characters = 0  # of those texts
        self._set(opening[_SESSION.size :])

    def _set(self, state: bytes) -> None:
        self._entries = [(key, _exact(value)) for key, value in json.loads(state).items()]
        self._renew()

    def _renew(self) -> None:
        """Make the state anew: two places of it that hold one value hold two after a call."""
        own = self._entries
        self._state = {key: marshal.loads(held) for key, held in own}  # noqa: S302 - our own

    def answer(self, message: bytes) -> Iterator[bytes]:
        """Replies to a message: a program (``p``), a state (``s``), a source (``k``), or calls.

        Calls of kind ``c`` get the state, those of kind ``f`` nothing but their arguments.
        """
        kind, rest = message[:1], message[1:]
        if kind == b"p":
            head, _, code = rest.partition(b"\0")
            name, function = json.loads(head)
            self._programs[name] = function, marshal.loads(code)  # noqa: S302 - from _compile
        elif kind == b"s":
            self._set(rest)
        elif kind == b"k":
            letter, program = _compile(json.loads(rest[_TOKEN:]), bool(self._flags & _RULES))
            if isinstance(program, str):
                program = program.encode("utf-8", "backslashreplace")
            yield b"".join((rest[:_TOKEN], letter, _LENGTH.pack(len(program)), program))
        else:
            for name, arguments in json.loads(rest[_TOKEN:]):
                letter, text, state = self._call(name, arguments, kind == b"c")
                said = text.encode("utf-8", "backslashreplace")
                yield b"".join((rest[:_TOKEN], letter, _LENGTH.pack(len(said)), said, state))
                if letter == b"m":  # what is left of the memory is not known
                    raise EOFError
                self._renew()  # while the parent reads the reply
                sys.modules["random"].seed(0)  # for what a source does outside of its function

    def _call(
        self, name: str, arguments: dict[str, Any] | None, stated: bool
    ) -> tuple[bytes, str, bytes]:
        """Kind and text of a call, and the state where it has changed."""
        try:
            kind, text = self._result(name, arguments, stated)
            if kind == b"v" and stated:
                return kind, text, self._changed()
        except MemoryError:
            self._reserve.close()
            return b"m", f"memory: at most {self._memory} MB are allowed", b""
        except _StateError as error:
            kind, text = b"s", f"{name} left {error}"
        except BaseException as error:  # also SystemExit: it ends a call
            theirs = self._flags & _PUBLISHED and isinstance(error, Exception)
            kind, text = b"e", str(error)[: self._limit] if theirs else _said(error)
        return kind, text, b""

    def _result(
        self, name: str, arguments: dict[str, Any] | None, stated: bool
    ) -> tuple[bytes, str]:
        published = bool(self._flags & _PUBLISHED)
        rules = bool(self._flags & _RULES)
        name, program = self._programs[name]
        function = _function(name, program, rules, published)
        if function is None:
            return b"r", f"{name} was refused: {_NO_FUNCTION}"
        if arguments is None:  # it is only asked whether there is one
            return b"v", "null"
        sys.modules["random"].seed(0)  # as for a call alone
        called = functools.partial(function, self._state) if stated else function
        return _value(name, called, arguments, self._limit, published)

    def _changed(self) -> bytes:
        """The state as JSON after a call that went well; empty: it is as before.

        Raises:
            _StateError: it cannot stay.
        """
        entries = []
        for key, value in self._state.items():
            try:
                entries.append((key, _exact(value)))
            except ValueError:  # not JSON, or in a subclass of a type of JSON
                entries.append((key, b""))
        if entries == self._entries:
            return b""
        try:
            settled = [self._settled(key, held) for key, held in entries]
        except ValueError as error:
            raise _StateError(f"what JSON cannot hold in the state: {error}") from error
        text = "{" + ", ".join(text for _, _, text in settled) + "}"
        if len(text) > self._largest:
            raise _StateError(f"a state of {len(text)} characters; at most {self._largest}")
        self._entries = [(key, held) for key, held, _ in settled]
        return text.encode("utf-8", "backslashreplace")

    def _settled(self, key: Any, held: bytes) -> tuple[str, bytes, str]:
        """An entry of the state as JSON has it, and its text.

        Raises:
            ValueError: JSON cannot hold it.
        """
        name, again = self._plain({key: 0})
        text = self._texts.get(held)
        if text is None:
            text, value = self._plain(self._state[key])
            held = _exact(value)
            self._characters += len(text)
            if self._characters > _TEXTS:  # it is memory that calls may need
                self._texts, self._characters = {}, len(text)
            self._texts[held] = text
        return next(iter(again)), held, f"{name[1:-2]}{text}"


def _exact(value: Any) -> bytes:
    """Bytes that tell the order of a dict and 1 from True, but not who else holds a value.

    Raises:
        ValueError: it is of a type that JSON does not have, or too deep.
    """
    return marshal.dumps(value, 2)


def session(
    opening: bytes, memory: int, limited: bool, plain: Callable[[Any], tuple[str, Any]]
) -> Callable[[bytes], Iterator[bytes]]:
    """Close the door and hold a state; what answers each message to come.

    Args:
        opening: limits, flags and the first state.
        memory: MiB; limited already.
        limited: whether the limits stand.
        plain: a value as JSON text, and what that gives again.

    Raises:
        EOFError: a layer that has to stand does not.
    """
    held = _Session(opening, memory, plain)
    if _closed(_SESSION.unpack_from(opening)[-1], limited) is None:
        raise EOFError
    return held.answer


def prepare() -> None:
    """Run a function of our own: what it touches is there, and in a runner its own."""
    _answer(_warming(), 1_000, True)
