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
import resource
import struct
import sys
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolgym.sandbox import language, seccomp
else:  # beside this file: a keeper runs by path and imports nothing of toolgym
    language, seccomp = map(importlib.import_module, ("language", "seccomp"))

__all__ = ["LIMITS", "answer", "prepare"]

# No process, and at last no descriptor: closing one makes no room for another.
LIMITS = ((resource.RLIMIT_NPROC, 0), (resource.RLIMIT_NOFILE, 0))
_HEADER = struct.Struct("!IB")  # characters, flags
_RULES = 1  # flag: the rules of the language hold
_LAYERS = {"limits": 2, "seccomp": 4}  # flags: this layer must stand, or nothing runs
# What a new runner runs before it waits.
_WARM_UP = """
import re, datetime
def warm(a, b=1):
    return {"text": "{}".format(a), "list": [n + b for n in range(3)]}
"""
_ERROR_CHARS = 1_000
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
    """The program of a source, checked; nothing of it runs."""
    try:
        modules = language.PUBLISHED if asked.get("published", False) else language.MODULES
        tree = language.check(asked["source"], modules) if rules else asked["source"]
        return b"c", marshal.dumps(compile(tree, "<tool>", "exec"))
    except (language.RefusedError, SyntaxError, ValueError, RecursionError) as error:
        if asked.get("published", False):
            if isinstance(error, SyntaxError):
                error.filename = "<string>"  # as their exec() says
            return b"r", str(error)
        return b"r", f"{asked['name']} was refused: {error}"


def _call(asked: dict[str, Any], code: bytes, limit: int, rules: bool) -> tuple[bytes, str]:
    """The value of a function as JSON; of several calls, a list of kinds and texts."""
    name, published = asked["name"], asked.get("published", False)
    allowed = language.names(_MODULES, published)
    names = allowed if rules else {**allowed, "__builtins__": builtins}
    program = marshal.loads(code)  # noqa: S302 - from _compile, in a runner that ran nothing
    # The one place where text of a model becomes running code: a forked process with neither
    # files, network, children nor a next call, which the keeper ends after its answer.
    exec(program, names)  # noqa: S102
    function = names.get(name)
    if published and name not in names:
        raise NameError(f"name {name} is not defined")
    if not published and not callable(function):
        return b"r", f"{name} was refused: its source defines no function of that name"
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
    """(kind of answer, text): ``v`` a value, ``c`` a program, else an error."""
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
    layers = ["limits"] if limited else []
    if _FILTER is not None and _FILTER.install():
        layers.append("seccomp")
    if any(flags & flag and layer not in layers for layer, flag in _LAYERS.items()):
        return None
    asked = request[_HEADER.size :]
    kind, text = (
        _answer(asked, limit, bool(flags & _RULES)) if asked else (b"v", json.dumps(layers))
    )
    return kind + (text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text)


def prepare() -> None:
    """Run a function of our own: what it touches is there, and in a runner its own."""
    _answer(_warming(), 1_000, True)
