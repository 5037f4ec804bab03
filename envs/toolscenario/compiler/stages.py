"""What the five stages share: who writes (`Author`), and how one stage asks, checks and reports."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar, runtime_checkable

from pydantic import ValidationError

from toolgym.envs.toolscenario.records import Question, RejectedError
from toolgym.scenario import Decomposition, Documented, Integrated, Levels, Record, Scaled, Scenario

__all__ = ["Author", "ask", "refuse_unless", "same_fields", "seed_of"]


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


Made = TypeVar("Made", bound=Record)


def ask(stage: str, kind: type[Made], write: Callable[[], object]) -> Made:
    """What an author writes in one stage.

    Args:
        stage: one of ``STAGES``.
        kind: the record that the stage hands on.
        write: asks the author.

    Raises:
        RejectedError: it cannot do it, or gave something else than such a record.
    """
    try:
        made = write()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RejectedError(stage, "invalid_record", f"{where}: {first['msg']}") from error
    if not isinstance(made, kind):
        raise RejectedError(
            stage, "invalid_record", f"a {kind.__name__} is needed, not {type(made).__name__}"
        )
    return made


def refuse_unless(holds: bool, stage: str, reason: str, message: str) -> None:
    """Go on only where something holds.

    Raises:
        RejectedError: it does not.
    """
    if not holds:
        raise RejectedError(stage, reason, message)


def same_fields(stage: str, before: Record, after: Record, fields: tuple[str, ...]) -> None:
    """What an earlier stage settled stays as it is.

    Raises:
        RejectedError: a field differs.
    """
    for field in fields:
        was, now = getattr(before, field), getattr(after, field)
        refuse_unless(
            was == now,
            stage,
            f"changed_{field}",
            f"{field} was {was!r:.200}, now it is {now!r:.200}",
        )


def seed_of(*parts: object) -> int:
    """31 bits from a hash: the same on every machine, in whatever order scenarios are made."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
