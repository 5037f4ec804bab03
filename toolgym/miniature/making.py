"""New questions of the miniature's world of a kind, for a curriculum."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import read_json, require_file
from toolgym.errors import BadInputError
from toolgym.miniature import phrasings
from toolgym.miniature.phrasings import Exercise
from toolgym.miniature.world import CARD, SHARES, Split, World
from toolgym.selftrain.curriculum import Kind, TaskMaker

__all__ = ["MiniatureTasks", "kind_of"]

_DRAWS = 200
"""Draws for each question that is wanted: a kind is about a tenth of its part."""


def kind_of(problem: Exercise) -> dict[str, str | int]:
    """What a question has in common with others: its operation, or how many calls it takes."""
    if problem.kind == "arithmetic":
        return {"operation": problem.family, "level": len(problem.family)}
    return {"asks for": problem.kind, "calls": len(problem.steps)}


class MiniatureTasks(TaskMaker):
    """Questions about the numbers, entities and people that a world keeps for practice.

    Args:
        part: ``arithmetic``, ``entities`` or ``scenarios``.
        seed: of the world.
        split: whose numbers, entities and people.
        world: folder of a world that its preset has written; it knows its seed.

    Raises:
        BadInputError: there is no such part.
    """

    def __init__(
        self, part: str, seed: int = 0, split: Split = "train", world: str | None = None
    ) -> None:
        if part not in SHARES:
            raise BadInputError(f"the miniature has no part {part!r}; parts: {', '.join(SHARES)}")
        if world is not None:
            seed = int(read_json(require_file(Path(world) / CARD, "world"))["seed"])
        self._part, self._split, self._world = part, split, World(seed)

    def kinds(self) -> Sequence[Kind]:
        """The operations, or questions of one and of two calls."""
        if self._part == "arithmetic":
            return [{"operation": s, "level": len(s)} for s in phrasings.ARITHMETIC]
        calls = (1, 2) if self._part == "scenarios" else (1,)
        return [{"asks for": self._part, "calls": number} for number in calls]

    def make(self, kind: Kind, count: int, seed: int, folder: Path) -> list[dict[str, Any]]:
        """See `TaskMaker.make`."""
        rng = random.Random(f"miniature-{self._part}-{seed}")
        found: dict[str, Exercise] = {}
        for _ in range(_DRAWS * count + _DRAWS):
            if len(found) == count:
                break
            drawn = self._world.problem(rng, self._split, self._part)  # type: ignore[arg-type]
            if kind_of(drawn) == kind:
                found.setdefault(drawn.question, drawn)
        if len(found) < count:
            raise BadInputError(
                f"the miniature has only {len(found)} different questions of {dict(kind)}, not "
                f"{count}: ask for fewer tasks a round"
            )
        return [
            self._world.row(f"{self._part}-{place}", problem, self._split)
            for place, problem in enumerate(found.values())
        ]
