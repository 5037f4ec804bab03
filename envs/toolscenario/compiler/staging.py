"""What the five stages share: asking an author, and refusing what came back wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from toolgym.envs.toolscenario.records import Record, RejectedError

__all__ = ["ask", "refuse_unless", "same_fields", "seed_of"]

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
