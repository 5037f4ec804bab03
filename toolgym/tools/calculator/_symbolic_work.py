"""What can be done with a tree: algebra, calculus, equations; runs in the worker's child only."""

from __future__ import annotations

import functools
import importlib
import itertools
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import mpmath
import sympy as sp

if TYPE_CHECKING:
    from toolgym.tools.calculator import _symbolic_sympy as trees
else:  # beside this file: the child runs by path and imports nothing of toolgym
    trees = importlib.import_module("_symbolic_sympy")

__all__ = ["LIMITS", "answer", "prepare"]

Reply = dict[str, Any]

LIMITS = ()  # beyond those of every runner: sympy imports parts of itself as it needs them

MAX_SOLUTIONS = 50
_LONG = 12  # operations in a root above which a polynomial's roots are rather given as decimals
_TAIL = (12, 15, 20, 30, 50, 100, 200, 500, 1_000)
# Where signs of a function are compared to find roots; off the whole numbers, where poles are.
_GRID = [-t + 0.01 for t in reversed(_TAIL)] + [k / 4 + 0.01 for k in range(-41, 41)]
_GRID += [t + 0.01 for t in _TAIL]
_PERIODIC = (sp.sin, sp.cos, sp.tan, sp.cot, sp.sec, sp.csc)


def _diff(expression: Any, *variables: Any) -> Any:
    return sp.diff(expression, *variables)


def _integrate(expression: Any, variable: Any, *bounds: Any) -> Any:
    if not bounds:
        return sp.integrate(expression, variable)
    return sp.integrate(expression, (variable, *bounds))


def _limit(expression: Any, variable: Any, point: Any, side: Any = None) -> Any:
    if point.is_infinite:
        return sp.limit(expression, variable, point)
    if side is not None:
        return sp.limit(expression, variable, point, "+" if side.name == "right" else "-")
    left, right = (sp.limit(expression, variable, point, sign) for sign in "-+")
    if sp.simplify(left - right) != 0 and left != right:
        said = " and ".join(f"{name} {value}" for name, value in (("left", left), ("right", right)))
        raise trees.RefusedError(f"the limits differ: {said}".replace("oo", "infinity"))
    return right


def _over(total: Callable[..., Any]) -> Callable[..., Any]:
    """A sum or product over a variable that runs through whole numbers."""

    def run(expression: Any, *rest: Any) -> Any:
        variable, low, high = rest
        index = sp.Symbol(variable.name, integer=True)
        expression = expression.subs(variable, index)
        return total(expression, (index, low, high))

    return run


def _sum(expression: Any, *rest: Any) -> Any:
    if len(rest) == 3 and rest[0].is_Symbol:
        return _over(sp.summation)(expression, *rest)
    return sp.Add(expression, *rest)


def _factor(expression: Any) -> Any:
    if not expression.is_Integer:
        return sp.factor(expression)
    powers = sp.factorint(expression)
    with sp.evaluate(False):
        return sp.Mul(*(sp.Pow(p, n) if n != 1 else p for p, n in sorted(powers.items())))


def _taylor(expression: Any, variable: Any, point: Any = sp.S.Zero, order: Any = 6) -> Any:
    return sp.series(expression, variable, point, int(order)).removeO()


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "simplify": lambda expression: sp.simplify(expression),
    "expand": lambda expression: sp.expand(expression),
    "factor": _factor,
    "cancel": lambda expression: sp.cancel(expression),
    "together": lambda expression: sp.together(expression),
    "apart": lambda expression, *variable: sp.apart(expression, *variable),
    "collect": lambda expression, variable: sp.collect(sp.expand(expression), variable),
    "diff": _diff,
    "integrate": _integrate,
    "limit": _limit,
    "sum": _sum,
    "product": _over(sp.product),
    "subs": lambda expression, variable, value: expression.subs(variable, value),
    "taylor": _taylor,
}


def answer(request: bytes, memory: int, limited: bool) -> bytes:
    """The reply to one request, both as JSON; what it is about, `work` says."""
    return json.dumps(work(json.loads(request))).encode()


def work(request: dict[str, Any]) -> Reply:
    """The reply to one request.

    Args:
        request: ``tree``, or ``equations`` and ``variables`` to solve for; and ``bound``, the names
            that stand for variables whatever they are called.

    Returns:
        ``tree`` and ``rounded``; ``cases``; ``solutions``; ``intervals``; or ``refused``.
    """
    try:
        if "equations" in request:
            return _solve(request)
        return _say(_build(request["tree"], request, real=True))
    except trees.RefusedError as error:
        return {"refused": str(error)}
    except RecursionError:
        return {"refused": "the expression is nested too deep"}
    except NotImplementedError:
        return {"refused": "no method is known for it"}
    except MemoryError:
        raise
    except Exception as error:  # sympy's own, of many kinds: about what cannot be done
        return {"refused": f"it cannot be done ({type(error).__name__}: {str(error)[:200]})"}


def _build(tree: list[Any], request: dict[str, Any], *, real: bool) -> Any:
    real = real and not request["complex"]
    return trees.build(tree, _OPERATIONS, {"bound": request["bound"], "real": real})


def _say(result: Any) -> Reply:
    if result in (sp.true, sp.false):
        return {"truth": bool(result)}
    if isinstance(result, sp.Piecewise):
        return _cases(result)
    if isinstance(result, sp.Rational):
        return {"tree": trees.lists(result), "rounded": False}
    result, rounded = trees.value(result)
    return {"tree": trees.lists(result), "rounded": rounded}


def _cases(result: Any) -> Reply:
    cases = []
    for expression, condition in result.args:
        try:
            said, _ = trees.value(expression)
        except trees.RefusedError:
            continue  # a case for which no closed form is known; the others hold all the same
        where = None if condition == sp.true else _condition(condition)
        cases.append([trees.lists(said), where])
    if not cases:
        raise trees.RefusedError("no closed form was found")
    return {"cases": cases}


def _condition(condition: Any) -> list[Any] | str:
    try:
        tree: list[Any] = trees.lists(condition)
    except trees.RefusedError:
        return "it converges"  # conditions on the argument of a complex number, and the like
    return tree


def _solve(request: dict[str, Any]) -> Reply:
    unequal = [tree[0] != "=" for tree in request["equations"]]
    if all(unequal):
        return _inequalities(request)
    if any(unequal):
        raise trees.RefusedError("equations and inequalities cannot be solved together")
    relations = [_build(tree, request, real=False) for tree in request["equations"]]
    if all(relation == sp.true for relation in relations):
        return {"every": True}
    if any(relation == sp.false for relation in relations):
        return {"solutions": []}
    # Real solutions of what is not a polynomial, where there are any; all of a polynomial's.
    real = any(_transcendental(relation) for relation in relations)
    for attempt in (real, not real):
        equations = [_build(tree, request, real=attempt) for tree in request["equations"]]
        equations = [_sides(equation) for equation in equations if equation != sp.true]
        if any(equation == sp.false for equation in equations):
            continue
        variables = [_build(["name", v], request, real=attempt) for v in request["variables"]]
        found, note = _solutions(equations, variables)
        if found:
            return {"solutions": _sorted(found, variables), "note": note}
    if any(_transcendental(relation) for relation in relations):
        return {"unknown": True}
    if len(relations) > 1 and not _inconsistent(relations):
        raise trees.RefusedError("no method is known for it")
    return {"solutions": []}


def _solutions(equations: list[Any], variables: list[Any]) -> tuple[list[dict[Any, Any]], str]:
    """Solutions of ``equation = 0``, and a remark on them."""
    single = len(equations) == len(variables) == 1
    try:
        # A list of one equation finds less than the equation itself.
        asked = (equations[0], variables[0]) if single else (equations, variables)
        found = sp.solve(*asked, dict=True)
    except NotImplementedError:
        return _numeric(equations, variables), "found numerically; there may be more"
    if not single or not found:
        return found, ""
    note = "and those that a period adds" if equations[0].has(*_PERIODIC) else ""
    return _polynomial(equations[0], variables[0], found), note


def _inconsistent(relations: list[Any]) -> bool:
    """Whether polynomial equations have no solution, not even a complex one."""
    return bool(sp.groebner([_sides(relation) for relation in relations]).exprs == [1])


def _transcendental(relation: Any) -> bool:
    return not all(_sides(relation).is_polynomial(v) for v in relation.free_symbols)


def _sides(relation: Any) -> Any:
    return relation.lhs - relation.rhs if isinstance(relation, sp.Eq) else relation


def _numeric(equations: list[Any], variables: list[Any]) -> list[dict[Any, Any]]:
    """Roots of one equation in one variable between changes of sign."""
    if len(equations) != 1 or len(variables) != 1:
        raise trees.RefusedError("no method is known for it")
    function, variable = equations[0], variables[0]
    if function.free_symbols != {variable}:
        raise trees.RefusedError("no method is known for it")

    def at(point: Any) -> Any:
        value = function.evalf(20, subs={variable: sp.Float(point, 20)})
        return mpmath.mpf(str(value)) if value.is_Float or value.is_Integer else None

    found: list[Any] = []
    values = [(point, at(point)) for point in _GRID]
    for (left, low), (right, high) in itertools.pairwise(values):
        if low is None or high is None or low * high > 0:
            continue
        with mpmath.workdps(20):
            root = left if low == 0 else right if high == 0 else _between(at, left, right)
        # A change of sign at a pole is not a root.
        if root is not None and abs(at(root) or 0) < 1e-9 and root not in found:
            found.append(sp.Float(str(root), 15))
    if not found:
        raise trees.RefusedError("no method is known for it")
    return [{variable: root} for root in found]


def _between(function: Callable[[Any], Any], left: float, right: float) -> Any:
    try:
        return mpmath.findroot(function, (left, right), solver="anderson", tol=1e-30)
    except (ValueError, TypeError, ZeroDivisionError):  # it does not converge to a root
        return None


def _polynomial(equation: Any, variable: Any, found: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
    """Decimals for the roots of a polynomial where exact ones would fill lines."""
    top = sp.fraction(sp.together(equation))[0]
    clumsy = any(
        solution[variable].has(sp.CRootOf) or solution[variable].count_ops() > _LONG
        for solution in found
    )
    if not clumsy or top.free_symbols != {variable} or not top.is_polynomial(variable):
        return found
    roots = sp.Poly(top, variable).nroots(n=15, maxsteps=200)
    return [{variable: root} for root in roots]


def _sorted(found: list[dict[Any, Any]], variables: Iterable[Any]) -> list[list[list[Any]]]:
    """Real solutions by size, then the others as sympy gives them."""
    if len(found) > MAX_SOLUTIONS:
        raise trees.RefusedError(f"there are more than {MAX_SOLUTIONS} solutions")

    def size(solution: dict[Any, Any]) -> tuple[int, list[float]]:
        values = [value.evalf(15) for value in solution.values()]
        if all(value.is_Float or value.is_Integer for value in values):
            return 0, [float(value) for value in values]
        return 1, []

    said = []
    for solution in sorted(found, key=size):
        row = []
        for variable in variables:
            if variable in solution:
                value, rounded = trees.value(solution[variable])
                row.append([variable.name, trees.lists(value), rounded])
        said.append(row)
    return said


def _inequalities(request: dict[str, Any]) -> Reply:
    if len(request["variables"]) != 1:
        raise trees.RefusedError("inequalities are solved for one variable only")
    variable = _build(["name", request["variables"][0]], request, real=True)
    solution: Any = sp.S.Reals
    for tree in request["equations"]:
        relation = _build(tree, request, real=True)
        if relation in (sp.true, sp.false):
            solved = sp.S.Reals if relation == sp.true else sp.S.EmptySet
        else:
            solved = sp.solve_univariate_inequality(relation, variable, relational=False)
        solution = solution.intersect(solved)
    if solution == sp.S.Reals:
        return {"every": True}
    parts = solution.args if isinstance(solution, sp.Union) else [solution]
    intervals: list[list[Any]] = []
    for part in parts:
        if isinstance(part, sp.Interval):
            ends = [None if end.is_infinite else trees.lists(end) for end in part.args[:2]]
            intervals.append([*ends, bool(part.left_open), bool(part.right_open)])
        elif isinstance(part, sp.FiniteSet):
            intervals += [[trees.lists(point), trees.lists(point), False, False] for point in part]
        elif part != sp.S.EmptySet:
            raise trees.RefusedError("no method is known for it")
    return {"intervals": intervals}


@functools.cache
def prepare() -> None:
    """Do one of each in the keeper, so that its runners inherit what sympy imports and caches."""
    x = ["name", "x"]
    square = ["^", x, ["number", "2"]]
    for tree in (
        ["simplify", ["/", ["+", square, ["number", "-1"]], ["+", x, ["number", "1"]]]],
        ["factor", ["+", square, ["number", "-1"]]],
        ["integrate", ["*", x, ["sin", x]], x],
        ["integrate", ["^", ["name", "e"], x], x, ["number", "0"], ["number", "1"]],
        ["limit", ["/", ["sin", x], x], x, ["number", "0"]],
        ["sum", square, x, ["number", "1"], ["number", "10"]],
        ["diff", ["ln", square], x],
    ):
        work({"tree": tree, "bound": ["x"], "complex": False})
    equation = ["=", square, ["number", "4"]]
    work({"equations": [equation], "variables": ["x"], "bound": ["x"], "complex": False})
    work({"equations": [["<", *equation[1:]]], "variables": ["x"], "bound": [], "complex": False})
