"""How tool calls are counted: what was attempted, what could be read, what succeeded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from toolgym.trajectory import MALFORMED_CALLS, Step

__all__ = ["CallCounts", "count_calls"]


class CallCounts(NamedTuple):
    """Calls of one or more steps.

    Args:
        made: calls that could be read.
        succeeded: of those, calls that named a known tool with valid arguments and did not fail.
        malformed: attempts that could not be read as a call.
    """

    made: int = 0
    succeeded: int = 0
    malformed: int = 0

    @property
    def attempts(self) -> int:
        """All calls, malformed ones included."""
        return self.made + self.malformed

    @property
    def precision(self) -> float | None:
        """Succeeded over attempts; None when nothing was attempted."""
        attempts = self.attempts
        return self.succeeded / attempts if attempts else None


def count_calls(steps: Iterable[Step]) -> CallCounts:
    """Count the calls of some steps.

    A call succeeded when its result carries no error. Unknown tools, invalid arguments, failures of
    the tool, time-outs, bugs and refused calls are marked as errors. An empty one is not.
    """
    made = succeeded = malformed = 0
    for step in steps:
        made += len(step.calls)
        succeeded += [result.error for result in step.results].count(None)
        if step.problems:
            malformed += sum(problem.kind in MALFORMED_CALLS for problem in step.problems)
    return CallCounts(made, succeeded, malformed)
