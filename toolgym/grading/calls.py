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
        malformed: attempts that could not be read as a call, or only as one not in the format.
        loose: of those, the ones that were made all the same.
    """

    made: int = 0
    succeeded: int = 0
    malformed: int = 0
    loose: int = 0

    @property
    def attempts(self) -> int:
        """All calls, malformed ones included."""
        return self.made + self.malformed - self.loose

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
    made = succeeded = malformed = loose = 0
    for step in steps:
        made += len(step.calls)
        succeeded += [result.error for result in step.results].count(None)
        if step.problems:
            kinds = [problem.kind for problem in step.problems]
            malformed += sum(kind in MALFORMED_CALLS for kind in kinds)
            loose += kinds.count("loose_call")
    return CallCounts(made, succeeded, malformed, loose)
