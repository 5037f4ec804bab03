"""Algebra and calculus: a request as our own tree, worked on by sympy in a process of its own.

The process is a keeper that has sympy imported and forks a runner for each call. The runner has a
deadline and a limit of memory, and leaves nothing behind: the same request gives the same answer,
whatever was asked before. This process never imports sympy.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

from toolgym._workers.pool import Keepers
from toolgym.errors import ToolError
from toolgym.tools.calculator.arithmetic import to_answer, to_text
from toolgym.tools.calculator.evaluator import evaluate_expression
from toolgym.tools.calculator.expression import (
    CONSTANTS,
    OPERATIONS,
    Node,
    TreeReader,
    apply,
    from_lists,
    name,
    operation_name,
    to_lists,
)
from toolgym.tools.calculator.grammar import COMPARISONS, commas
from toolgym.tools.calculator.notation import MAX_CHARS, closes_at_end, plain
from toolgym.tools.calculator.tokens import Commas, tokens

__all__ = ["SECONDS", "answer", "is_asked_for", "keepers", "read_request", "variables_of"]

_ASKED = re.compile(
    r"simplif|expand|factor(?!ial)|solve|roots|diff|deriv|integra|\blim|\bsum|prod|subst?\b|subs\("
    r"|taylor|series|apart|together|cancel|collect|radsimp|\bd/d[a-z]|\\int|∫|\\frac\{d\}"
    r"|\bfind\s+[a-z]\s|\bint_|\bEq\(",
    re.IGNORECASE,
)
_RELATIONS = ("=", *COMPARISONS)
_POLITE = re.compile(
    r"^\s*(?:please\s+)?(?:(?:what\s+is|find|calculate|compute|evaluate|determine|give)\s+)?"
    r"(?:all\s+)?(?:the\s+)?(?:(?:value|real\s+roots|solutions?|zeros)\s+of\s+)?",
    re.IGNORECASE,
)
MAX_WORDS = 300  # characters of a request in words
_NAME = r"[A-Za-z]\w*"
_SOLVE = (
    r"solve\s+(?:(?:the\s+)?(?:following\s+)?(?:system|equations?|inequalit(?:y|ies))"
    r"(?:\s+of\s+(?:linear\s+)?equations)?\s*:?\s*)?"
)
_WITH = rf"(?:\s*,?\s+(?:with\s+respect\s+to|wrt|w\.r\.t\.|for|in)\s+(?P<var>{_NAME}))?"
_ENDS = r"(?:\s*,?\s+from\s+(?:(?P<var2>[A-Za-z]\w*)\s*=\s*)?(?P<low>.+?)\s+to\s+(?P<high>.+?))?"
# Each form in words or LaTeX, and the call that it stands for; absent groups leave nothing behind.
_FORMS = [
    (rf"(?P<names>{_NAME})\s+(?:if|when|given(?:\s+that)?|such\s+that)\s+(?P<body>.+)",
     "solve(({body}),({names}))"),
    (rf"{_SOLVE}for\s+(?P<names>{_NAME}(?:\s*,\s*{_NAME})*)\s*(?:[,:]|in\b|if\b|given\b)\s*(?P<body>.+)",
     "solve(({body}),({names}))"),
    (rf"{_SOLVE}(?P<body>.+?)(?:\s*,?\s+for\s+(?P<names>{_NAME}(?:(?:\s*,\s*|\s+and\s+){_NAME})*))?",
     "solve(({body}),({names}))"),
    (rf"(?:(?:first\s+)?derivative\s+of|differentiate)\s+(?P<body>.+?){_WITH}"
     rf"(?:\s+(?:at|when)\s+(?P<at>{_NAME})\s*=\s*(?P<value>.+))?", "diff({body},{var})"),
    (rf"second\s+derivative\s+of\s+(?P<body>.+?){_WITH}", "diff({body},{var},2)"),
    (r"d/d(?P<var>[a-z])\s*(?P<body>.+)", "diff({body},{var})"),
    (r"frac\s*\(d\)\s*\(d\s*(?P<var>[a-z])\)\s*(?P<body>.+)", "diff({body},{var})"),
    (rf"(?:(?:definite\s+|indefinite\s+)?integral\s+of|antiderivative\s+of|integrate)\s+"
     rf"(?P<body>.+?)(?:\s+d\s?(?P<d>[a-z]))?{_WITH}{_ENDS}",
     "integrate({body},{var},{low},{high})"),
    (r"int\s*_\s*(?P<low>\([^()]*\)|\w)\s*\^\s*(?P<high>\([^()]*\)|\w+)\s*(?P<body>.+?)"
     r"\s*d\s?(?P<d>[a-z])", "integrate({body},{var},{low},{high})"),
    (r"int\s+(?P<body>.+?)\s*d\s?(?P<d>[a-z])", "integrate({body},{var})"),
    (rf"lim(?:it)?\s*_\s*\((?P<var>{_NAME})\s*->\s*(?P<low>[^()]+)\)\s*(?P<body>.+)",
     "limit({body},{var},{low},{side})"),
    (rf"lim(?:it)?\s+(?:of\s+)?(?P<body>.+?)\s+as\s+(?P<var>{_NAME})\s*"
     r"(?:->|to|approaches|goes\s+to|tends\s+to)\s*(?P<low>.+?)",
     "limit({body},{var},{low},{side})"),
    (rf"(?P<op>sum|prod)(?:uct)?\s*_\s*\((?P<var>{_NAME})\s*=\s*(?P<low>[^()]+)\)\s*\^\s*"
     r"(?P<high>\([^()]*\)|\w+)\s*(?P<body>.+)", "{op}({body},{var},{low},{high})"),
    (rf"(?P<op>sum|prod)(?:uct)?\s+of\s+(?P<body>.+?)\s+(?:for|over|from)\s+(?P<var>{_NAME})\s*"
     r"(?:=|from)\s*(?P<low>.+?)\s+to\s+(?P<high>.+)", "{op}({body},{var},{low},{high})"),
    (r"(?P<op>simplify|expand|factori[sz]e|factor|cancel|together)\s+(?P<body>.+)", "{op}({body})"),
]  # fmt: skip


@functools.cache
def _forms() -> list[tuple[re.Pattern[str], str]]:
    """Compiled on first use: arithmetic needs none of them."""
    return [(re.compile(form, re.IGNORECASE | re.DOTALL), call) for form, call in _FORMS]


_SIDES = {"+": "right", "-": "left"}
_RIGHT_OR_LEFT = re.compile(r"->\s*([^,()]+?)\s*(?:\^?([+-])|\^\(([+-])\))\s*(?=[,)]|$)")


def is_asked_for(expression: str) -> bool:
    """Whether a text that is not arithmetic looks like symbolic work."""
    return len(expression) <= MAX_CHARS and _ASKED.search(expression) is not None


def read_request(expression: str) -> Node:
    """The tree of a request, with every operation's variable named.

    Raises:
        ToolError: it cannot be read.
    """
    text = _POLITE.sub("", _plain(expression)).rstrip(" .?;\n")
    text = _in_calls(text)
    return _arranged(TreeReader(tokens(text, _commas, symbolic=True)).result())


def _plain(expression: str) -> str:
    """As `plain`, but ``solve x = 4`` has no target."""
    marked = plain("0 " + expression)  # nothing that begins with a digit is a target
    return marked[2:] if marked.startswith("0 ") else marked


def _commas(word: str) -> Commas:
    operation = operation_name(word)
    if operation in ("integrate", "sum", "product", "taylor"):
        return "bounds"
    many = OPERATIONS.get(operation or "", 0) > 1
    return "unclear" if many else "digits" if operation else commas(word)


def _in_calls(text: str) -> str:
    """The call that words or LaTeX stand for; the text itself where it is none."""
    call = re.match(r"\s*[A-Za-z]+\s*\(", text)
    if call and operation_name(call[0].strip(" (\n\t")) and closes_at_end(text, call.end() - 1):
        return _RIGHT_OR_LEFT.sub(lambda m: f"->{m[1]},{_SIDES[m[2] or m[3]]}", text)
    if len(text) > MAX_WORDS:  # the forms below take time with the square of the length
        return text
    for form, template in _forms():
        found = form.fullmatch(text.strip())
        if found is None:
            continue
        parts = {key: value or "" for key, value in found.groupdict().items()}
        parts = dict.fromkeys(("var", "low", "high", "side", "names"), "") | parts
        parts["var"] = parts["var"] or parts.get("var2", "") or parts.get("d", "")
        if "limit" in template and parts["low"][-1:] in _SIDES:
            parts["side"], parts["low"] = _SIDES[parts["low"][-1]], parts["low"][:-1].rstrip("^ ")
        for key in ("body", "names"):
            if template.startswith("solve"):
                parts[key] = re.sub(r"\s+and\s+", ",", parts.get(key, ""))
        made = re.sub(r",(?=[,)])", "", re.sub(r",+(?=\))", "", template.format(**parts)))
        made = made.replace(",()", "")
        return f"subs({made},{parts['at']},{parts['value']})" if parts.get("at") else made
    return text


def _arranged(node: Node) -> Node:
    """The tree with lists in calls flattened, and each operation's variable in its second place."""
    parts = tuple(_arranged(part) for part in node.parts)
    if node.kind == "list" or node.kind not in OPERATIONS:
        return apply(node.kind, *parts) if parts else node
    if node.kind == "solve":
        return apply("solve", *parts)
    nested = node.kind in ("integrate", "sum", "product") and len(parts) > 2
    if nested and all(part.kind == "list" for part in parts[1:]):  # the first one is inside
        inner = _arranged(apply(node.kind, *parts[:2]))
        return _arranged(apply(node.kind, inner, *parts[2:]))
    flat = parts[:1] + tuple(_flat(parts[1:]))
    if node.kind in ("diff", "integrate", "limit", "collect", "taylor"):
        flat = _with_variable(node.kind, flat)
    if node.kind in ("limit", "product", "subs") and len(flat) < 3:
        raise ToolError(f"{node.kind} needs an expression, a variable and values; {_EXAMPLES}")
    if node.kind == "sum" and len(flat) == 4 and flat[1].kind != "name":
        return apply("+", *flat)
    return apply(node.kind, *flat)


_EXAMPLES = "such as limit(sin(x)/x, x, 0), product(k, k, 1, 5), subs(x^2, x, 3)"


def _flat(parts: tuple[Node, ...]) -> list[Node]:
    """Lists opened, and ``x = 0`` as ``x, 0``."""
    found: list[Node] = []
    for part in parts:
        if part.kind in ("list", "="):
            found += _flat(part.parts)
        else:
            found.append(part)
    return found


def _with_variable(kind: str, parts: tuple[Node, ...]) -> tuple[Node, ...]:
    if len(parts) > 1 and parts[1].kind == "name":
        return parts
    free = parts[0].variables()
    if len(free) > 1 and "x" not in free:
        raise ToolError(f"name the variable, as in {kind}({str(parts[0])[:80]}, {free[0]})")
    variable = "x" if "x" in free or not free else free[0]
    return (parts[0], name(variable), *parts[1:])


def variables_of(solve: Node) -> tuple[list[Node], list[str]]:
    """The equations of ``solve(...)`` and the names to solve for.

    Raises:
        ToolError: there is no equation, or the unknown is not clear.
    """
    first, *rest = solve.parts
    equations = _equations(first)
    names: list[str] = []
    for part in rest:
        for item in _equations(part):
            if item.kind == "name":
                names.append(str(item.value))
            else:
                equations.append(item)
    free = sorted({v for equation in equations for v in equation.variables()})
    if not names:
        names = free if len(free) <= 1 or len(equations) > 1 else ["x"] if "x" in free else []
        if not names and free:
            raise ToolError(f"name the unknown, as in solve({str(first)[:80]}, {free[0]})")
    if not names:
        names = ["x"]
    if any(n in CONSTANTS and n not in ("i", "e", "E", "I") for n in names):
        raise ToolError(f"{names[0]} is a constant, no unknown")
    return [e if e.kind in _RELATIONS else apply("=", e, _ZERO) for e in equations], names


_ZERO = Node("number", Fraction(0))


def _equations(part: Node) -> list[Node]:
    return (
        [item for inner in part.parts for item in _equations(inner)]
        if part.kind == "list"
        else [part]
    )


SECONDS = 5.0
MEMORY_MB = 512  # beyond what an idle keeper holds
MAX_ANSWER = 2_000  # characters
_LARGEST = 1 << 20  # bytes of a reply
# Keepers with sympy in them. Sets are walked in the same order in each, so answers do not vary.
keepers = Keepers(Path(__file__).with_name("_symbolic_work.py"), bare=False)


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
    data = keepers.ask(json.dumps(request).encode(), seconds, MEMORY_MB, _LARGEST)
    if data is None:
        raise ToolError("the process for work with variables ended")
    if data == b"t":
        raise ToolError(f"it took longer than {seconds:g} seconds and was ended")
    if data[:1] == b"m":
        raise ToolError(f"it needs more than {MEMORY_MB} MB of memory")
    try:
        reply: dict[str, Any] = json.loads(data)
    except ValueError:  # one letter for none, or a part of one
        raise ToolError("its process ended") from None
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
