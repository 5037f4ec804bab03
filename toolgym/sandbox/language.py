"""The part of Python that a model's function may use: checked before it runs, from its tree.

This is the first wall, not the last: it turns most escapes into a clear text for the model before
anything runs. What gets past it still meets the limits and the kernel's filter.
"""

from __future__ import annotations

import ast
import builtins
import decimal
import functools
import importlib
import string
import sys
import textwrap
import types
import typing
from collections.abc import Callable
from typing import Any

__all__ = [
    *("MODULES", "PUBLISHED", "RefusedError", "check", "leaves_nothing", "names"),
    "public_modules",
]

MODULES = (
    *("bisect", "calendar", "collections", "collections.abc", "copy", "datetime", "decimal"),
    *("fractions", "functools", "heapq", "itertools", "json", "math", "random", "re"),
    *("statistics", "string", "textwrap", "typing", "unicodedata"),
)

PUBLISHED = (*MODULES, "hashlib", "time")
"""Modules for functions of the published format: with ``hashlib.sha256`` and ``time``."""

# What C code of the library imports by itself, through the caller's ``__import__``.
_INNER = ("_strptime", "time")

# What a class may define: how its objects are made, shown, compared, counted and walked over.
_METHOD_WORDS = """
    init repr str eq ne lt le gt ge hash len iter next contains getitem setitem delitem call bool
    add radd sub rsub mul rmul truediv floordiv mod pow neg abs enter exit
"""
_METHODS = {f"__{word}__" for word in _METHOD_WORDS.split()}
_READABLE = {"__name__", "__doc__"}
# Doors without underscores: frames, code objects, the order of base classes, text as a program, and
# the object at which a lookup failed.
_DOORS = {
    *("gi_frame", "gi_code", "gi_yieldfrom", "cr_frame", "cr_code", "cr_await", "cr_origin"),
    *("ag_frame", "ag_code", "ag_await", "tb_frame", "tb_next", "tb_lasti", "tb_lineno"),
    *("f_back", "f_builtins", "f_code", "f_globals", "f_locals", "f_trace", "mro", "format_map"),
    *("f_generator", "co_code", "co_consts", "get_type_hints", "_evaluate", "obj"),
    *(("evaluate",) if hasattr(typing.ForwardRef, "evaluate") else ()),  # Python 3.14
}
_BUILTIN_WORDS = """
    abs all any ascii bin bool bytearray bytes callable chr classmethod complex dict divmod
    enumerate filter float format frozenset hash hex id int isinstance issubclass iter len list map
    max min next object oct ord pow print property range repr reversed round set slice sorted
    staticmethod str sum super tuple zip Ellipsis False None NotImplemented True __build_class__
"""
# Modules with settings or tables that can be changed, and what tells the library more.
_LASTING = {"calendar", "decimal", "textwrap", "register"}
_LASTING |= {"overload", "get_overloads", "clear_overloads"}
# Objects of the library whose settings are attributes, and checked by the library.
_SETTABLE = {decimal.Context, textwrap.TextWrapper}
# These read attributes or evaluate annotations that are given as text, or give out `type` itself.
_WITHHELD = {
    "collections": {"UserString"},
    "functools": {"singledispatch", "singledispatchmethod", "update_wrapper", "wraps"},
    "string": {"Formatter"},
    "typing": {"evaluate_forward_ref", "ForwardRef", "get_args", "get_origin", "get_type_hints"},
}
_PREFIX = "_toolgym_"
_FORMAT, _OWN = _PREFIX + "format", _PREFIX + "own"


class RefusedError(Exception):
    """Source that uses what this subset of Python does not have."""


def _refuse(node: ast.AST, why: str) -> None:
    line = getattr(node, "lineno", 0)
    raise RefusedError(f"line {line}: {why}" if line else why)


def _is_super_init(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr in _METHODS
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "super"
    )


def _is_load(node: ast.Name | ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Load)


def _check_word(node: ast.AST, word: str) -> None:
    """One identifier, wherever it stands: attribute, name, argument, pattern, alias."""
    hidden = word == "format" and isinstance(node, ast.MatchClass)
    # Another `super` would be given what `_is_super_init` allows.
    hidden |= word == "super" and not (isinstance(node, ast.Name) and _is_load(node))
    if hidden or word in _DOORS or word.startswith(_PREFIX):
        _refuse(node, f"{word!r} is not available")
    if not word.startswith("__"):
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and word in _METHODS:
        return
    if isinstance(node, ast.Attribute) and (word in _READABLE or _is_super_init(node)):
        return
    _refuse(node, f"names such as {word!r} are not available")


def _check_node(node: ast.AST, modules: tuple[str, ...]) -> None:
    if isinstance(node, ast.Import):
        wanted = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        if node.level:
            _refuse(node, "relative imports are not available")
        wanted = [node.module or ""]
        if any(alias.name == "*" for alias in node.names):
            _refuse(node, "import * is not available; name what you need")
    else:
        wanted = []
    for name in wanted:
        if name not in modules and name != "__future__":
            _refuse(node, f"module {name!r} is not available; these are: {', '.join(modules)}")
    if isinstance(node, ast.MatchClass) and node.patterns:
        # Positions are names of attributes, in a list that a class can give itself.
        _refuse(node, "patterns of classes take names, as in case Point(x=1)")
    if isinstance(node, ast.AugAssign) and getattr(node.target, "attr", "") == "format":
        _refuse(node, "'format' is not available here")  # it is read as well
    if isinstance(node, ast.Constant):
        return
    for field, value in ast.iter_fields(node):
        if field == "module":
            continue
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str):
                _check_word(node, word)


def _is_guarded(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and (node.attr == "format" or not _is_load(node))


class _Guarded(ast.NodeTransformer):
    """``x.format`` and what is set on ``x`` ask first: see `_format` and `_Own`."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if not _is_guarded(node):
            return node
        guard = _FORMAT if _is_load(node) else _OWN
        call = ast.copy_location(
            ast.Call(ast.Name(guard, ast.Load()), [node.value], []), node.value
        )
        if _is_load(node):
            return call
        node.value = call
        return node


def check(source: str, modules: tuple[str, ...] = MODULES) -> ast.Module:
    """The tree to run.

    Args:
        source: of a function, and what it needs beside it.
        modules: `MODULES` or `PUBLISHED`.

    Raises:
        RefusedError: what is not part of the subset, with its line.
        SyntaxError: the source is not Python.
    """
    tree = ast.parse(source, "<tool>")
    guarded = False
    for node in ast.walk(tree):
        _check_node(node, modules)
        guarded = guarded or _is_guarded(node)
    if not guarded:  # rewriting the tree would take longer than all the rest
        return tree
    rewritten: ast.Module = _Guarded().visit(tree)
    return ast.fix_missing_locations(rewritten)


def leaves_nothing(source: str) -> bool:
    """Whether no call of a checked source can be noticed by a later one with globals of its own.

    So it is where the library is only read: nothing that it exports can be changed but by what is
    left out here, no class of the source can be a key in one of its caches, and none of its code is
    run when its objects are cleared away later.

    Args:
        source: that `check` takes.
    """
    kinds = set()
    for node in ast.walk(ast.parse(source)):
        kinds.add(type(node))
        if isinstance(node, ast.Import):
            modules, words = [alias.name for alias in node.names], []
        elif isinstance(node, ast.ImportFrom):
            words = [alias.name for alias in node.names]
            modules = [node.module or ""]
        elif isinstance(node, ast.MatchClass):
            modules, words = [], node.kwd_attrs
        else:
            modules, words = [], [node.attr] if isinstance(node, ast.Attribute) else []
        if isinstance(node, ast.ClassDef) or (isinstance(node, ast.Name) and node.id == "getattr"):
            return False
        if any(word.startswith("_") or word in _LASTING for word in words):
            return False
        if any(name in _LASTING for name in modules):
            return False
    suspended = kinds & {ast.Yield, ast.YieldFrom, ast.Await, ast.AsyncFor, ast.AsyncWith}
    return not (suspended and kinds & {ast.Try, ast.TryStar, ast.With, ast.AsyncWith})


class _Own:
    """What belongs to a source: its classes, their objects and its functions."""

    def __init__(self) -> None:
        self.classes: set[type] = set()
        self.names: dict[str, Any] = {}

    def check(self, value: Any) -> Any:
        """The value itself, when its attributes may be set.

        Raises:
            TypeError: it is the library's.
        """
        kind = type(value)
        mine = kind in self.classes or kind in _SETTABLE
        if kind is types.FunctionType:
            mine = value.__globals__ is self.names
        elif isinstance(value, type):
            mine = value in self.classes
        if not mine:
            raise TypeError(f"attributes of {kind.__name__!r} objects cannot be set here")
        return value

    def build(self, body: Any, name: str, *bases: Any, **words: Any) -> type:
        """The statement ``class``, without metaclasses: they make classes past the check.

        Raises:
            TypeError: the class would be one, or be made by one that is named.
        """
        for base in types.resolve_bases(bases):
            if not isinstance(base, type) or issubclass(base, type):
                raise TypeError(f"class {name!r} cannot be built on that")
        if "metaclass" in words:
            raise TypeError("metaclasses are not available")
        made: type = builtins.__build_class__(body, name, *bases, **words)
        self.classes.add(made)
        return made


_own = _Own()  # of the one source that this process runs


class _Formatter(string.Formatter):
    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        for part in field_name.split(".")[1:]:  # every attribute stands behind a dot
            word = part.partition("[")[0]
            if word.startswith("__") or word in _DOORS:
                raise AttributeError(f"{word!r} is not available")
        return super().get_field(field_name, args, kwargs)


def _format(value: Any) -> Callable[..., Any]:
    """``value.format``, or what stands for it when it turns out to be the one of strings."""
    found: Callable[..., Any] = value.format
    if found is str.format:
        return lambda text, *args, **kwargs: _Formatter().vformat(text, args, kwargs)
    text = getattr(found, "__self__", None)
    if type(found) is types.BuiltinMethodType and isinstance(text, str):
        return lambda *args, **kwargs: _Formatter().vformat(text, args, kwargs)
    return found


def _getattr(value: Any, name: str, *default: Any) -> Any:
    if type(name) is not str or name.startswith("__") or name in _DOORS or name == "format":
        raise AttributeError(f"{name!r} is not available")
    return getattr(value, name, *default)


def _hasattr(value: Any, name: str) -> bool:
    try:
        _getattr(value, name)
    except AttributeError:
        return False
    return True


def _wraps(wrapped: Callable[..., Any]) -> Callable[[Any], Any]:
    """As the original, which copies any attribute that is named to it, onto anything."""

    def decorate(wrapper: Any) -> Any:
        return functools.update_wrapper(_own.check(wrapper), wrapped)

    return decorate


def _total_ordering(kind: type) -> type:
    return functools.total_ordering(_own.check(kind))


def _type(value: Any) -> type:
    found = type(value)
    if issubclass(found, type):  # it would make classes past the check
        raise TypeError("the type of a class is not available")
    if found.__module__ == "typing" and found.__name__.startswith("_"):
        raise TypeError("the type of an annotation is not available")
    return found


_T = typing.TypeVar("_T")


class _Class(typing.Generic[_T]):
    """Stands for ``typing.Type``, whose origin is `type` itself: a comparison would give it out."""


_BUILTINS: dict[str, Any] = {
    **{name: getattr(builtins, name) for name in _BUILTIN_WORDS.split()},
    **{
        name: value
        for name, value in vars(builtins).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    },
    **{"getattr": _getattr, "hasattr": _hasattr, "type": _type},
    **{_FORMAT: _format, _OWN: _own.check, "__build_class__": _own.build},
}


def public_modules() -> dict[str, types.ModuleType]:
    """Copies of the modules with their public names only.

    What a module itself imports is not in its copy, and what a function sets in a copy does not
    reach the original.
    """
    copies = {}
    for name in (*MODULES, "time"):
        original = importlib.import_module(name)
        copy = types.ModuleType(name)
        for word in getattr(original, "__all__", None) or dir(original):
            value = getattr(original, word)
            if word.startswith("_") or word in _WITHHELD.get(name, ()):
                continue
            if not isinstance(value, types.ModuleType):
                setattr(copy, word, value)
        copies[name] = copy
    # The one hash in the authors' scope, from C: hashlib's own is OpenSSL's, which reads files.
    sha = importlib.import_module("_sha2" if sys.version_info >= (3, 12) else "_sha256")
    copies["hashlib"] = types.ModuleType("hashlib")
    copies["hashlib"].sha256 = sha.sha256  # type: ignore[attr-defined]
    copies["typing"].Type = _Class  # type: ignore[attr-defined]
    copies["functools"].wraps = _wraps  # type: ignore[attr-defined]
    copies["functools"].total_ordering = _total_ordering  # type: ignore[attr-defined]
    copies["collections"].abc = copies["collections.abc"]  # type: ignore[attr-defined]
    copies["__future__"] = importlib.import_module("__future__")
    return copies


def names(modules: dict[str, types.ModuleType], published: bool = False) -> dict[str, Any]:
    """A fresh global namespace with the builtins of the subset.

    Args:
        modules: from `public_modules`.
        published: with the names that the code of arXiv 2508.08791 leaves in a function's scope.
    """

    def load(name: str, _g: Any = None, _l: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if name in _INNER and name not in modules:  # no source that passed the check can ask
            return sys.modules[name]
        if level or name not in modules:
            raise ImportError(f"module {name!r} is not available")
        return modules[name] if fromlist else modules[name.partition(".")[0]]

    _own.classes.clear()
    allowed = {**_BUILTINS, "__import__": load}
    _own.names = {"__builtins__": allowed, "__name__": "tool"}
    if published:
        _own.names |= {"json": modules["json"], "deepcopy": modules["copy"].deepcopy}
        _own.names |= {"sha256": modules["hashlib"].sha256, "sleep": modules["time"].sleep}
    return _own.names
