"""The calculator: one expression in, one exact answer out.

The text comes from a model, so it is never given to Python's own evaluator: a small precedence
parser reads and computes in one pass. What the paper's tool (numexpr; arXiv 2502.05867) hangs on,
overflows on or rejects (``9**9**9``, ``2**70``, ``12,500*2``) is refused at once, exact, or
understood. Symbolic work is read by the same grammar and done in a process of its own
(`toolgym.tools.calculator.symbolic`).
"""

from __future__ import annotations

import re

from toolgym.errors import BadInputError, ToolError
from toolgym.tools.base import Tool
from toolgym.tools.calculator import symbolic
from toolgym.tools.calculator.arithmetic import to_answer
from toolgym.tools.calculator.evaluator import evaluate_expression

_VARIABLE_OR_CALL = re.compile(r"\b[b-zB-Z]\b|[A-Za-z]\(|\\[a-z]")

# Not a docstring: the policy reads it under ``python -OO``, too.
_TOLD = """Calculate an expression exactly: arithmetic, comparison, algebra and calculus.

Args:
    expression: such as 12,500*3/4, 15% of 80, sqrt(2)^3, 5! or 3/4 > 0.7. Known are
        + - * / // mod ^ ! %, functions such as sqrt, round, min, max, gcd, comb, log (natural),
        log10, sin (radians), and pi and e; with variables simplify(...), expand(...),
        factor(...), solve(x^2 = 4, x), diff(x^3, x), integrate(x^2, x, 0, 1),
        limit(sin(x)/x, x, 0) and sum(k^2, k, 1, 10).
"""

__all__ = ["calculate", "evaluate_expression", "make_calculator"]


def make_calculator(symbolic_seconds: float = symbolic.SECONDS) -> Tool:
    """The ``Calculator`` tool.

    Arithmetic runs in this process: every expression ends by itself. Symbolic work runs in a child
    process.

    Args:
        symbolic_seconds: after which symbolic work is ended.

    Raises:
        BadInputError: they are not positive.
    """
    if not symbolic_seconds > 0:
        raise BadInputError(f"symbolic_seconds must be positive, not {symbolic_seconds!r}")

    def calculate_within(expression: str) -> str:
        return _calculate(expression, symbolic_seconds)

    calculate_within.__doc__ = _TOLD
    return Tool(calculate_within, name="Calculator", inline=True)


def calculate(expression: str) -> str:
    """Calculate an expression, as the tool does.

    Args:
        expression: as the tool's document says.

    Raises:
        ToolError: ``failed to calculate '2+': ...``, with the reason.
    """
    return _calculate(expression, symbolic.SECONDS)


def _calculate(expression: str, symbolic_seconds: float) -> str:
    try:
        try:
            value = evaluate_expression(expression)
        except ToolError:
            if not symbolic.is_asked_for(expression):
                raise
            try:
                return symbolic.answer(expression, seconds=symbolic_seconds)
            except ToolError:
                if _VARIABLE_OR_CALL.search(expression):
                    raise
            raise  # "sum of 1,200 and 1,300" is not a work with variables
        return to_answer(value)
    except ToolError as error:
        shown = expression if len(expression) <= 80 else expression[:77] + "..."
        raise ToolError(f"failed to calculate {shown!r}: {error}") from error
