"""Who writes scenarios: one method a stage, behind which a program or a language model may sit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from toolgym.envs.toolscenario.records import (
    Decomposition,
    Documented,
    Integrated,
    Levels,
    Question,
    Scaled,
    Scenario,
)

__all__ = ["Author"]


@runtime_checkable
class Author(Protocol):
    """The creative half of the five stages; the modules of the stages check what it gives.

    Every method is a function of its arguments (a language model's reply is kept, so that it is
    one, too). A method that cannot do its work raises ``RejectedError`` with its stage.
    """

    name: str

    def settings(self) -> dict[str, object]:
        """Plain JSON values that decide what it writes, without secrets; for the build's record."""
        ...

    def questions(self, count: int) -> Iterable[Question]:
        """At most so many questions, always the same ones in the same order."""
        ...

    def decompose(self, question: Question) -> Decomposition:
        """Stage 1: sub-questions, their answers, and what each needs."""
        ...

    def document(self, decomposition: Decomposition) -> Documented:
        """Stage 2: one function-calling document a sub-question, and the call that answers it."""
        ...

    def integrate(self, documented: Documented) -> Integrated:
        """Stage 3: documents whose functions overlap become one more general tool."""
        ...

    def scale(self, integrated: Integrated, levels: Levels, seed: int) -> Scaled:
        """Stage 4: the same questions with harder tools and with distractors."""
        ...

    def deploy(self, scaled: Scaled) -> Scenario:
        """Stage 5: a Python function for each document."""
        ...
