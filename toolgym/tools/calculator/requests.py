"""Symbolic work as models ask for it: calls, words and LaTeX, all as one tree."""

from __future__ import annotations

import functools
import re
from fractions import Fraction

from toolgym.errors import ToolError
from toolgym.tools.calculator.expression import (
    CONSTANTS,
    OPERATIONS,
    Node,
    Reader,
    apply,
    name,
    operation_name,
)
from toolgym.tools.calculator.grammar import COMPARISONS, width
from toolgym.tools.calculator.notation import MAX_CHARS, closes_at_end, plain, tokens

__all__ = ["is_asked_for", "read_request", "variables_of"]

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
    """Whether a text that is no arithmetic looks like symbolic work."""
    return len(expression) <= MAX_CHARS and _ASKED.search(expression) is not None


def read_request(expression: str) -> Node:
    """The tree of a request, with every operation's variable named.

    Raises:
        ToolError: it cannot be read.
    """
    text = _POLITE.sub("", _plain(expression)).rstrip(" .?;\n")
    text = _in_calls(text)
    return _arranged(Reader(tokens(text, _width, symbolic=True)).result())


def _plain(expression: str) -> str:
    """As `plain`, but ``solve x = 4`` has no target."""
    marked = plain("0 " + expression)  # nothing that begins with a digit is a target
    return marked[2:] if marked.startswith("0 ") else marked


def _width(word: str) -> int:
    return OPERATIONS.get(operation_name(word) or "", 0) or width(word)


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
