"""Algebra and calculus: a request as our own tree, worked on by sympy in a process of its own.

The process is a keeper that has sympy imported and forks a runner for each call. The runner has a
deadline and a limit of memory, and leaves nothing behind: the same request gives the same answer,
whatever was asked before. This process never imports sympy.
"""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

from toolgym._workers.forkserver import Keepers
from toolgym._workers.process import Child
from toolgym.errors import ToolError
from toolgym.tools.calculator.arithmetic import to_answer, to_text
from toolgym.tools.calculator.evaluator import evaluate_expression
from toolgym.tools.calculator.expression import Node, from_lists, to_lists
from toolgym.tools.calculator.requests import is_asked_for, read_request, variables_of

__all__ = ["SECONDS", "answer", "is_asked_for", "keepers"]

SECONDS = 5.0
MEMORY_MB = 512  # beyond what an idle keeper holds
MAX_ANSWER = 2_000  # characters
_SCRIPT = Path(__file__).with_name("_symbolic_child.py")
_HEADER = struct.Struct("!dI")  # as in the child, which shares no module with this one
_START_SECONDS = 60.0  # importing sympy from a cold disk


class _SymbolicKeepers(Keepers):
    """Keepers with sympy in them."""

    def start(self) -> Child:
        """A new keeper that has imported sympy.

        Raises:
            EOFError: it ended instead.
        """
        path = os.pathsep.join(os.path.abspath(part) for part in sys.path if part)
        # Sets are walked in the same order in every process, so that answers do not vary.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": path}
        child = Child(_SCRIPT, environment, (), "/")
        try:
            ready = child.ask(None, _START_SECONDS)
        except EOFError:
            ready = None
        if ready is None:
            child.kill()
            raise EOFError
        return child


keepers = _SymbolicKeepers()


def answer(expression: str, *, seconds: float = SECONDS) -> str:
    """The answer to a request such as ``diff(x^3, x)`` or ``solve x^2 = 4 for x``.

    Args:
        expression: as a model writes it.
        seconds: after which the work is ended; starting the first worker is not counted.

    Raises:
        ToolError: the reason alone.
    """
    tree = read_request(expression)
    request: dict[str, Any] = {"complex": False}
    bound = {str(n.parts[1].value) for n in tree.walk() if _binds(n)}
    if tree.kind == "solve":
        equations, names = variables_of(tree)
        request |= {"equations": [to_lists(e) for e in equations], "variables": names}
        bound.update(names, ("E", "I"))  # more often energy and current than constants, there
    else:
        request["tree"] = to_lists(tree)
    nodes = list(tree.walk())
    if sum(n.kind == "solve" for n in nodes) > (tree.kind == "solve"):
        raise ToolError("solve(...) stands alone, not inside another expression")
    request["complex"] = any(n.kind == "name" and n.value in ("i", "I") for n in nodes)
    request["bound"] = sorted(bound)
    return _said(_ask(request, seconds), request)


def _binds(node: Node) -> bool:
    return len(node.parts) > 1 and node.kind in ("diff", "integrate", "limit", "sum", "product")


def _ask(request: dict[str, Any], seconds: float) -> dict[str, Any]:
    if importlib.util.find_spec("sympy") is None:
        raise ToolError("work with variables needs sympy: pip install 'toolgym[math]'")
    message = _HEADER.pack(seconds, MEMORY_MB) + json.dumps(request).encode()
    data = keepers.ask(message, seconds)
    if data is None:
        raise ToolError("the process for work with variables ended")
    reply: dict[str, Any] = json.loads(data)
    if "timeout" in reply:
        raise ToolError(f"it took longer than {seconds:g} seconds and was ended")
    if "refused" in reply:
        raise ToolError(str(reply["refused"]))
    return reply


def _said(reply: dict[str, Any], request: dict[str, Any]) -> str:
    """The reply as a text that the calculator can read back, term by term."""
    if "truth" in reply:
        text = "true" if reply["truth"] else "false"
    elif "tree" in reply:
        text = with_decimals(from_lists(reply["tree"]))
    elif "cases" in reply:
        text = _cases(reply["cases"])
    elif "every" in reply:
        text = f"true for every {request['variables'][0]}"
    elif "unknown" in reply:
        text = "no solution was found"
    elif "intervals" in reply:
        parts = [_interval(request["variables"][0], *part) for part in reply["intervals"]]
        text = " or ".join(parts) or "no solution"
    else:
        rows = (", ".join(_equation(*part) for part in row) for row in reply["solutions"])
        text = " or ".join(dict.fromkeys(rows)) or "no solution"
        text += f" ({reply['note']})" if reply.get("note") and reply["solutions"] else ""
    if len(text) > MAX_ANSWER:
        raise ToolError(f"the result has {len(text)} characters; at most {MAX_ANSWER} are given")
    return text


def with_decimals(tree: Node) -> str:
    """The exact text, followed by its decimals where it is a number with roots or constants."""
    text = str(tree)
    if tree.kind == "decimal" or tree.variables():
        return text
    try:
        value = evaluate_expression(text)
    except ToolError:  # complex, infinite, or beyond a double
        return text
    if tree.kind == "number":
        shown = to_answer(value)  # a short fraction, or decimals only
        rounded = "≈" not in shown and evaluate_expression(shown) != value
        return f"{text} ≈ {shown}" if rounded else shown
    return f"{text} ≈ {to_text(value)}" if isinstance(value, float) else text


def _equation(variable: str, lists: list[Any], rounded: bool) -> str:
    sign = "≈" if rounded else "="
    return f"{variable} {sign} {with_decimals(from_lists(lists))}"


def _interval(variable: str, low: Any, high: Any, left_open: bool, right_open: bool) -> str:
    ends = [None if end is None else str(from_lists(end)) for end in (low, high)]
    if ends[0] == ends[1] and ends[0] is not None:
        return f"{variable} = {ends[0]}"
    if ends[0] is None:
        return f"{variable} {'<' if right_open else '<='} {ends[1]}"
    if ends[1] is None:
        return f"{variable} {'>' if left_open else '>='} {ends[0]}"
    return (
        f"{ends[0]} {'<' if left_open else '<='} {variable} {'<' if right_open else '<='} {ends[1]}"
    )


def _cases(cases: list[list[Any]]) -> str:
    parts = []
    for expression, condition in cases:
        said = (
            condition if condition is None or isinstance(condition, str) else from_lists(condition)
        )
        where = "otherwise" if said is None else f"if {said}"
        parts.append(f"{with_decimals(from_lists(expression))} {where}")
    return "; ".join(parts)
