"""What settings are made of, told as plain values; and an environment made again from its spec."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from gymnasium.envs.registration import EnvSpec, load_env_creator

from toolgym.errors import BadInputError

__all__ = ["make_again", "name_code", "plain"]


def make_again(spec: EnvSpec) -> Any:
    """The environment itself, without the wrappers of ``gymnasium.make``, which pickle themselves.

    Args:
        spec: of an environment that ``gymnasium.make`` made.
    """
    entry = spec.entry_point
    creator: Any = load_env_creator(entry) if isinstance(entry, str) else entry
    made = creator(**spec.kwargs).unwrapped
    made.spec = spec
    return made


def plain(value: Any, what: str) -> Any:
    """A setting in plain JSON values.

    Functions and classes are named with a hash of their source, and whatever has a ``describe()``
    says for itself: the same setting gives the same values in every process.

    Args:
        value: of a setting.
        what: it is called, for the message.

    Raises:
        BadInputError: nothing says how to tell it again.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{what}[{key!r}]") for key, item in value.items()}
    describe = getattr(value, "describe", None)
    if callable(describe) and not isinstance(value, type):
        return describe()
    if isinstance(value, functools.partial):
        given = {"args": value.args, "keywords": value.keywords}
        return {"partial": plain(value.func, what), **plain(given, what)}
    if inspect.isroutine(value) or isinstance(value, type):
        return name_code(value)
    if type(value) in (list, tuple):
        return [plain(item, f"{what}[{place}]") for place, item in enumerate(value)]
    if type(value) in (set, frozenset):
        return sorted((plain(item, what) for item in value), key=repr)
    if callable(getattr(value, "tolist", None)):  # an array, or a number out of one
        return plain(value.tolist(), what)
    if callable(value):
        held = {key: item for key, item in vars(value).items() if not key.startswith("_")}
        return {"callable": name_code(type(value)), "with": plain(held, what)}
    raise BadInputError(
        f"{what} is {value!r:.80}, which a run cannot be told by: give strings, numbers, lists or "
        "mappings, a function, or an object with a describe() that returns such"
    )


_VERSIONED = ("toolgym", "gymnasium", "builtins")  # their versions stand beside it


def name_code(function: Callable[..., Any] | type) -> str:
    """``module:name`` of a function or class, and of a user's own a hash of its source.

    Args:
        function: also a closure or a lambda: what their code is decides, and what they hold.
    """
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    module = getattr(named, "__module__", None) or "builtins"
    name = f"{module}:{named.__qualname__}"
    if module.partition(".")[0] in _VERSIONED:
        return name
    try:
        source = inspect.getsource(named)
    except (OSError, TypeError):  # typed into an interpreter, or built in
        code = getattr(named, "__code__", None)
        source = "" if code is None else repr((code.co_code, _constants(code), code.co_names))
    held: Iterable[Any] = getattr(named, "__closure__", None) or ()
    source += repr([_held(cell) for cell in held])
    return f"{name}#{blake2b(source.encode('utf-8', 'replace'), digest_size=6).hexdigest()}"


def _constants(code: Any) -> list[Any]:
    """Without nested code, whose text tells where in memory it lies."""
    return [item for item in code.co_consts if not hasattr(item, "co_code")]


def _held(cell: Any) -> Any:
    try:
        return plain(cell.cell_contents, "a variable")
    except (BadInputError, ValueError):  # an object without a text of its own, or not set yet
        return None
