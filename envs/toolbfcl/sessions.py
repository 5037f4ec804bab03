"""The leaderboard's classes as the sessions of an episode, and their functions as tools.

Calls are made by name with arguments; nothing of a policy's text is evaluated. What the published
code shares between episodes of one process is not shared here: default arguments and constants that
methods write into, and the precision of numbers.
"""

from __future__ import annotations

import contextlib
import decimal
import functools
import inspect
import json
import math
import pickle
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from toolgym._util.jsonl import copy_json
from toolgym._util.optional import require_extra
from toolgym.envs.toolbfcl.data import CLASSES, documents_of
from toolgym.errors import BadInputError
from toolgym.task import Task
from toolgym.tools.base import Schema, Tool
from toolgym.tools.session import LiveSession, SessionSpec
from toolgym.tools.toolset import Toolset

__all__ = ["DocumentedTool", "World", "tools_of"]

_SOURCES = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"
_STATELESS = "MathAPI"
# With long contexts methods return module constants that other calls write into, and mpmath has one
# precision a process: one call at a time, and its text made before the next one.
_ONE_AT_A_TIME = threading.Lock()
_MAX_PRECISION = 10_000  # digits
_MAX_BITS = 1_000_000  # of a power of whole numbers
_MAX_ENTRIES, _MAX_DEPTH = 10_000, 64  # of a file system, those of shared directories counted again


class World:
    """The live classes of one episode; a `toolgym.tools.session.LiveSession` in this process.

    Args:
        task: of several user turns; its classes begin with its ``initial_config``.

    Raises:
        MissingExtraError: ``bfcl-eval`` is not installed.
        BadInputError: a class refuses its configuration.
    """

    def __init__(self, task: Task) -> None:
        held = task.metadata
        self.live: dict[str, Any] = {}
        for name in held["classes"]:
            instance = self.live[name] = _class(name)()
            if name == _STATELESS:
                continue
            config = copy_json(held["initial_config"].get(name, {}))
            try:
                instance._load_scenario(config, long_context=bool(held.get("long_context")))
            except Exception as error:  # of foreign code, on a row that may be anybody's
                raise BadInputError(
                    f"{name} cannot begin task {task.id!r}: {type(error).__name__}: {error}"
                ) from error
        if held.get("long_context"):  # its extensions are constants, which methods write into
            self.live = self.copied()
        self._methods = {method: name for name in self.live for method in _methods(name)}
        self._shares = bool(held.get("long_context"))

    def call(self, name: str, arguments: Mapping[str, Any], timeout: float = 0.0) -> dict[str, Any]:
        """Call a method; its result, and what it raises, is told in the published words.

        Args:
            name: of a method.
            arguments: by name; wrong ones are a failed call. They are copied.
            timeout: without effect.

        Returns:
            As `toolgym.tools.session.LiveSession.call`.
        """
        owner = self._methods.get(name)
        if owner is None:
            text = f"Error during execution: name {name!r} is not defined"
            return {"error": "tool_error", "text": text}
        given = copy_json(dict(arguments))
        for parameter, default in _methods(owner)[name].items():
            given.setdefault(parameter, copy_json(default))
        guard = _GUARDS.get(owner, contextlib.nullcontext)
        shares = self._shares or owner == _STATELESS
        with _ONE_AT_A_TIME if shares else contextlib.nullcontext():
            try:
                if owner == _STATELESS:
                    _check_numbers(name, given)
                with guard():
                    value = _ordered(name, given, self._guarded(owner, name)(**given))
                    text = _text(value)
            except Exception as error:  # whatever it raises is what the policy reads
                return {"error": "tool_error", "text": f"Error during execution: {error}"}
        failed = isinstance(value, dict) and "error" in value
        return {"text": text} | ({"error": "tool_error"} if failed else {})

    def _guarded(self, owner: str, name: str) -> Callable[..., Any]:
        """A method; one that could make a directory endless is undone when it does."""
        instance = self.live[owner]
        method: Callable[..., Any] = getattr(instance, name)
        if owner != "GorillaFileSystem" or name not in ("cp", "mv", "mkdir"):
            return method

        def bounded(**given: Any) -> Any:
            before = pickle.dumps(instance)
            value = method(**given)
            for top in (instance.root, instance._current_dir):
                entries, depth = _extent(top, 0, {})
                if entries > _MAX_ENTRIES or depth > _MAX_DEPTH:
                    self.live[owner] = pickle.loads(before)  # noqa: S301 - made above
                    raise OSError(f"{name}: no space left on device")
            return value

        return bounded

    def state(self) -> dict[str, Any]:
        """The public attributes by class, and the working directory, as plain JSON."""
        found = {}
        for name, instance in self.live.items():
            if name == _STATELESS:
                continue
            if name == "GorillaFileSystem":
                found[name] = {"root": {instance.root.name: _plain(instance.root)}}
                found[name] |= instance.pwd()
                continue
            kept = {k: v for k, v in vars(instance).items() if k[0] != "_" and k != "long_context"}
            found[name] = _plain(kept)
        return found

    def snapshot(self) -> bytes:
        """This moment, for `restore`."""
        return pickle.dumps(self.live, pickle.HIGHEST_PROTOCOL)

    def copied(self) -> dict[str, Any]:
        """The classes as they are now, apart."""
        found: dict[str, Any] = pickle.loads(self.snapshot())  # noqa: S301 - made by `snapshot`
        return found

    def restore(self, snapshot: bytes) -> None:
        """Go back to a moment of this world, or of another one of its classes."""
        self.live = pickle.loads(snapshot)  # noqa: S301 - made by `snapshot`

    def close(self) -> None:
        """Nothing is held open."""


@functools.cache
def _class(name: str) -> Any:
    require_extra("mpmath", "math")
    return getattr(require_extra(f"{_SOURCES}.{CLASSES[name]}", "bfcl"), name)


@functools.cache
def _methods(name: str) -> dict[str, dict[str, Any]]:
    """Public methods of a class, each with those defaults that a call could write into."""
    found = {}
    for method, function in inspect.getmembers(_class(name), inspect.isfunction):
        if not method.startswith("_"):
            defaults = inspect.signature(function).parameters.values()
            found[method] = {p.name: p.default for p in defaults if isinstance(p.default, list)}
    return found


def _text(value: Any) -> str:
    """A result as the published executor writes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        with contextlib.suppress(TypeError):  # numbers of mpmath and decimal are not JSON
            return json.dumps(value)
    return str(value)


_UNORDERED = ("Invalid travel class. Must be one of ", "Invalid fields for update: ")
_FIELDS = {"title", "description", "status", "priority"}


def _ordered(name: str, given: Mapping[str, Any], value: Any) -> Any:
    """A result whose text does not depend on the order of a set, another one in each process."""
    error = value.get("error") if isinstance(value, dict) else None
    if not isinstance(error, str) or not error.startswith(_UNORDERED):
        return value
    classes, fields = _UNORDERED
    told = classes + "{'business', 'economy', 'first'}"
    if name == "edit_ticket":
        told = fields + ", ".join(sorted(set(given["updates"]) - _FIELDS))
    return {**value, "error": told}


@contextlib.contextmanager
def _own_precision() -> Iterator[None]:
    """The precision that a call sets is its own."""
    mpmath = require_extra("mpmath", "math")
    with decimal.localcontext(), mpmath.workprec(mpmath.mp.prec):
        yield


_GUARDS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    _STATELESS: _own_precision
}


def _check_numbers(name: str, given: Mapping[str, Any]) -> None:
    """Refuse what would not end: there is no deadline in this process.

    Raises:
        OverflowError: a result of too many digits.
    """
    for parameter in ("precision", "decimal_places"):
        value = given.get(parameter)
        if isinstance(value, int | float) and abs(value) > _MAX_PRECISION:
            raise OverflowError(f"{parameter} is at most {_MAX_PRECISION}")
    if name == "power":
        base: Any = given.get("base")
        exponent: Any = given.get("exponent")
        whole = isinstance(base, int) and isinstance(exponent, int)
        if whole and base.bit_length() * abs(exponent) > _MAX_BITS:
            raise OverflowError("Result too large")
    if name == "logarithm":  # mpmath reads strings, and writes 1e9999999 out in digits
        for value in (given.get("value"), given.get("base")):
            if isinstance(value, str) and _LONG_EXPONENT.search(re.sub(r"[_\s]", "", value)):
                raise OverflowError(f"{value[:30]} is too large or too small")


_LONG_EXPONENT = re.compile(r"e[+-]?\d{5}", re.IGNORECASE)


def _extent(top: Any, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Entries of a directory, at any depth, and how deep it is; too deep where it holds itself."""
    if depth > _MAX_DEPTH:
        return 0, depth
    if id(top) not in known:
        inner = [item for item in top.contents.values() if hasattr(item, "contents")]
        sizes = [_extent(item, depth + 1, known) for item in inner]
        entries = len(top.contents) + sum(count for count, _ in sizes)
        known[id(top)] = entries, 1 + max([below for _, below in sizes], default=0)
    return known[id(top)]


_LEAVES = (str, int, bool, type(None))


def _plain(value: Any) -> Any:
    """A value as plain JSON: a directory by the names in it, a file as its content."""
    if type(value) in _LEAVES:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {
            key if type(key) is str else _key(key, value): item
            if type(item) in _LEAVES
            else _plain(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set):
        return sorted(value)
    return _plain(value.contents) if hasattr(value, "contents") else value.content


def _key(key: Any, beside: Mapping[Any, Any]) -> str:
    """A number as a key of JSON, told apart from the same digits as text."""
    return f"{key} (number)" if str(key) in beside else str(key)


class DocumentedTool(Tool):
    """A tool that a function document describes; arguments go to the function as they are.

    Args:
        document: ``name``, ``description`` and ``parameters``.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.name, self.description = document["name"], document["description"]
        self.parameters: Schema = copy_json(document["parameters"])
        self.fingerprint, self.timeout, self.cache = "", 0.0, None
        self.function, self.batch, self.inline, self.method = self._answer, None, True, True
        self._pool, self._live = None, None

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing is checked, as published: a wrong argument is the function's failure."""
        return dict(arguments)

    def _answer(self, /, **arguments: Any) -> str:
        return self._run_one(arguments)["text"]  # type: ignore[no-any-return]

    def _run_one(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self._live is not None:
            return self._live.call(self.name, arguments, self.timeout)
        return {"text": "The call was noted."}  # nobody published what it does

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again from its document."""
        document = {"name": self.name, "description": self.description}
        return DocumentedTool, (document | {"parameters": self.parameters},)


class _Classes(SessionSpec):
    """Classes of the leaderboard whose instances are one session of an episode."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self.cls, self.name, self.inline, self.make = World, "BFCL", True, World
        self.tools = {tool.name: tool for tool in tools}
        self.methods = {name: name for name in self.tools}

    def open(self, task: Task) -> LiveSession:
        """Begin an episode."""
        return World(task)

    def describe(self) -> dict[str, str]:
        """Plain data for ``run.json``."""
        return {"session": self.name, "class": f"bfcl-eval {version('bfcl-eval')}"}


@functools.lru_cache(maxsize=64)
def _class_tools(classes: tuple[str, ...]) -> Toolset:
    documents = documents_of(Task("", "", (), {"classes": list(classes)}))
    made = Toolset([_Classes([DocumentedTool(document) for document in documents])])
    made.shared = True
    return made


def tools_of(task: Task) -> Toolset:
    """The tools of a task; those of several user turns remember, once they are opened.

    Args:
        task: of `toolgym.envs.toolbfcl.data.open_tasks`.
    """
    if "classes" in task.metadata:
        return _class_tools(tuple(task.metadata["classes"]))
    return Toolset(DocumentedTool(document) for document in documents_of(task))
