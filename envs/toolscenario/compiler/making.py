"""One scenario through all stages: from a question to a verified record, or to a rejection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from toolgym.envs.toolscenario.compiler.author import Author
from toolgym.envs.toolscenario.compiler.decomposition import decompose
from toolgym.envs.toolscenario.compiler.deployment import deploy
from toolgym.envs.toolscenario.compiler.documents import document
from toolgym.envs.toolscenario.compiler.integration import integrate
from toolgym.envs.toolscenario.compiler.scaling import draw_levels, scale
from toolgym.envs.toolscenario.compiler.staging import seed_of
from toolgym.envs.toolscenario.compiler.verification import verify
from toolgym.envs.toolscenario.records import (
    STAGES,
    Decomposition,
    Documented,
    Integrated,
    Levels,
    Question,
    RejectedError,
    Scaled,
    Scenario,
)

__all__ = ["MADE", "Maker", "Outcome"]

MADE = STAGES[:-1]
"""The stages that make something; verification only judges."""

_KINDS: dict[str, type[Decomposition]] = {
    "decomposition": Decomposition,
    "documents": Documented,
    "integration": Integrated,
    "scaling": Scaled,
    "deployment": Scenario,
}


@dataclass(slots=True)
class Outcome:
    """What became of a question.

    Args:
        id: of the question.
        made: stage to the row that it wrote, of the stages that were run.
        facts: of verification, when the scenario passed.
        rejection: stage, reason and message, when it did not.
    """

    id: str
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    rejection: dict[str, str] | None = None


@dataclass(slots=True)
class Maker:
    """Runs the stages; each result is a function of the question and of these settings.

    Args:
        author: who writes.
        levels: of complexity scaling; None draws them by seed and id.
        seed: of the build.
        timeout: seconds a call of a function in verification.
    """

    author: Author
    levels: Levels | None
    seed: int
    timeout: float

    def make(self, question: Question, known: tuple[str, Mapping[str, Any]] | None) -> Outcome:
        """Run the stages.

        Args:
            question: what the scenario is made of.
            known: the last stage whose row exists already, and that row.

        Raises:
            BadInputError: the sandbox does not work here.
        """
        outcome = Outcome(question.id)
        record: Any = question
        begin = 0
        if known is not None:
            record, begin = read_stage(*known), MADE.index(known[0]) + 1
        try:
            for stage in MADE[begin:]:
                record = self._steps(question, stage)(record)
                outcome.made[stage] = record.to_row()
            outcome.facts = verify(record, self.timeout)
        except RejectedError as error:
            rejection = {"stage": error.stage, "reason": error.reason, "message": str(error)}
            outcome.rejection = rejection
        return outcome

    def _steps(self, question: Question, stage: str) -> Callable[[Any], Any]:
        author = self.author
        steps: dict[str, Callable[[Any], Any]] = {
            "decomposition": lambda record: decompose(record, author),
            "documents": lambda record: document(record, author),
            "integration": lambda record: integrate(record, author),
            "scaling": lambda record: scale(
                record,
                self.levels or draw_levels(self.seed, question.id),
                seed_of(self.seed, question.id, "scale"),
                author,
            ),
            "deployment": lambda record: deploy(record, author, self.timeout),
        }
        return steps[stage]


def read_stage(stage: str, row: Mapping[str, Any]) -> Decomposition:
    """The record of a stage from its row.

    Raises:
        ValueError: the row is none (pydantic's error).
    """
    if stage == "deployment":
        return Scenario.from_row(row)
    return _KINDS[stage].model_validate(dict(row), strict=False)
