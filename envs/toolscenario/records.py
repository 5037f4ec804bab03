"""What a build begins with, its stages, and what a stage refuses."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from toolgym.errors import ToolgymError
from toolgym.scenario import Record

__all__ = ["STAGES", "Question", "RejectedError"]

STAGES = ("decomposition", "documents", "integration", "scaling", "deployment", "verification")


class RejectedError(ToolgymError, ValueError):
    """A scenario that a stage could not make, or that did not pass verification.

    Args:
        stage: one of `STAGES`.
        reason: a short name for counting, such as ``leaked_answer``.
        message: what was wrong, with the value.
    """

    def __init__(self, stage: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.stage, self.reason = stage, reason

    def __reduce__(self) -> tuple[type[RejectedError], tuple[str, str, str]]:
        """Rebuild from the three parts: stages run in worker processes."""
        return type(self), (self.stage, self.reason, str(self))


class Question(Record):
    """What a scenario is made of.

    Args:
        id: unique within a build.
        text: what the user asks; an author that makes up its questions leaves it empty until the
            first stage.
        answer: the final answer where it is known, else empty.
        split: ``train``, ``validation``, ``test`` or empty.
        notes: the author's own plan, such as the seed of the draw.
    """

    id: str
    text: str = ""
    answer: str = ""
    split: str = ""
    notes: dict[str, Any] = Field(default_factory=dict)
