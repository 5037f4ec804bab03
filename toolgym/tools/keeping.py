"""Whether a plain function keeps something from one call to the next, as its source shows."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence, MutableSet
from queue import Queue
from types import CodeType, FunctionType
from typing import Any, cast

__all__ = ["what_it_keeps"]

# Methods of lists, dicts, sets, deques, counters and queues that change them.
_CHANGING = frozenset(
    (
        *("add", "append", "appendleft", "clear", "difference_update", "discard", "extend"),
        *("extendleft", "get_nowait", "insert", "intersection_update", "move_to_end", "pop"),
        *("popitem", "popleft", "put", "put_nowait", "remove", "reverse", "rotate", "setdefault"),
        *("sort", "subtract", "symmetric_difference_update", "update"),
    )
)
_DEEPEST = 8  # functions that call one another


def what_it_keeps(function: Callable[..., Any]) -> str:
    """What a function writes that outlives its call: a global, a closure's variable, their parts.

    Functions of the same module that it calls by name are read, too. What cannot be seen in the
    source (a library's own cache, an object that changes itself) is not found.

    Args:
        function: plain; callable objects keep what they were made for, and are not read.

    Returns:
        The name of what is written first; empty where nothing is.
    """
    return next(_written(function, set(), 0), "")


def _written(function: Any, seen: set[CodeType], depth: int) -> Iterator[str]:
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function) if callable(function) else function
    if not isinstance(function, FunctionType) or function.__code__ in seen or depth > _DEEPEST:
        return
    seen.add(function.__code__)
    tree = _tree(function)
    if tree is None:
        return
    outer = _outer(function)
    yield from _stores(tree, function, _locals(tree), outer)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = outer.get(node.func.id)
            if getattr(called, "__module__", None) == function.__module__:
                yield from _written(called, seen, depth + 1)


def _tree(function: FunctionType) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The function's own source; None where there is none to read, as in an interpreter."""
    try:
        module = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    nodes = (n for n in ast.walk(module) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return next((n for n in nodes if n.name == function.__name__), None)


def _outer(function: FunctionType) -> dict[str, Any]:
    """What its names stand for, where they are not its own."""
    found = dict(function.__globals__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not set yet
            found[name] = None
    return found


def _locals(tree: ast.AST) -> set[str]:
    """Names that are bound somewhere inside, and are not declared to be of outside."""
    bound, outside = set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Global | ast.Nonlocal):
            outside |= set(node.names)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return bound - outside


def _stores(
    tree: ast.AST, function: FunctionType, own: set[str], outer: dict[str, Any]
) -> Iterator[str]:
    free = function.__code__.co_freevars
    declared = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Global | ast.Nonlocal)
        for name in node.names
        if isinstance(node, ast.Global) or name in free
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield from [node.id] * (node.id in declared)
        elif isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load):
            yield from (name for name, _ in _along(node.value, own, outer))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in _CHANGING:
            held = _along(cast("ast.Attribute", node.func).value, own, outer)
            yield from (name for name, values in held if any(map(_changes, values)))


def _along(node: ast.expr, own: set[str], outer: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """An outer thing as it is written, and the values on the way to it, as far as they are known.

    Nothing for a thing of the function's own.
    """
    way: list[str | None] = []
    place = node
    while isinstance(place, ast.Attribute | ast.Subscript):
        way.append(place.attr if isinstance(place, ast.Attribute) else None)
        place = place.value
    if not isinstance(place, ast.Name) or place.id in own or place.id not in outer:
        return
    values = [outer[place.id]]
    for attribute in reversed(way):
        if attribute is None:
            break
        try:
            values.append(inspect.getattr_static(values[-1], attribute))
        except AttributeError:
            break
    yield ast.unparse(node), values


def _changes(value: Any) -> bool:
    return isinstance(value, MutableMapping | MutableSequence | MutableSet | deque | Queue)
