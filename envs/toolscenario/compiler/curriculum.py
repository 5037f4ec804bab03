"""New scenarios and worlds of a kind, for self-training that steers its own tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import read_rows
from toolgym.envs.toolscenario.compiler.decomposition import Author, WorldAuthor
from toolgym.envs.toolscenario.compiler.pipeline import compile_scenarios, make_author
from toolgym.envs.toolscenario.world import LEVELS
from toolgym.errors import BadInputError
from toolgym.scenario import MAX_LEVEL, SHAPES, Levels
from toolgym.selftrain.curriculum import Kind, TaskMaker

__all__ = ["ScenarioTasks", "WorldTasks"]


class ScenarioTasks(TaskMaker):
    """Scenarios of the offline author, each verified; a kind is a shape and a level.

    Args:
        knowledge: of the author, see the author ``offline``.
        size: of a generated world.
        workers: processes that compile.
    """

    def __init__(self, knowledge: str = "generated", size: int = 600, workers: int = 1) -> None:
        self._options = {"knowledge": knowledge, "size": size}
        self._workers = workers
        make_author(
            "offline", self._options
        )  # refuses what it cannot use, before anything is played

    def kinds(self) -> Sequence[Kind]:
        """Four shapes at four levels; a level is that of all four strategies of scaling."""
        return [{"shape": s, "level": level} for level in range(MAX_LEVEL + 1) for s in SHAPES]

    def make(self, kind: Kind, count: int, seed: int, folder: Path) -> list[dict[str, Any]]:
        """See `TaskMaker.make`."""
        levels = Levels(**dict.fromkeys(Levels.model_fields, int(kind["level"])))
        author = make_author("offline", {**self._options, "shapes": [kind["shape"]]}, seed=seed)
        return _compiled(author, count, seed, folder, levels, self._workers)


class WorldTasks(TaskMaker):
    """Worlds of the template author, each proved; a kind is a domain and a level.

    Args:
        dialogues: share of worlds with a user who speaks.
        workers: processes that compile.
    """

    def __init__(self, dialogues: float = 0.4, workers: int = 1) -> None:
        self._dialogues, self._workers = dialogues, workers
        # The author says what domains there are.
        told = make_author("template", {"dialogues": dialogues}).settings()
        self._domains = [str(name) for name in told["domains"]]  # type: ignore[attr-defined]

    def kinds(self) -> Sequence[Kind]:
        """The bundled domains at four levels."""
        return [{"domain": name, "level": level} for level in LEVELS for name in self._domains]

    def make(self, kind: Kind, count: int, seed: int, folder: Path) -> list[dict[str, Any]]:
        """See `TaskMaker.make`."""
        given = {"domains": kind["domain"], "level": kind["level"], "dialogues": self._dialogues}
        author = make_author("template", given, seed=seed)
        return _compiled(author, count, seed, folder, None, self._workers)


def _compiled(
    author: Author | WorldAuthor,
    count: int,
    seed: int,
    folder: Path,
    levels: Levels | None,
    workers: int,
) -> list[dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    place = "" if levels is None else f"-{levels.parameter_expansion}"
    file = folder / f"{author.name}-{seed}{place}.jsonl"
    made = compile_scenarios(author, file, count, seed, levels=levels, workers=workers)
    if made.scenarios < count:
        raise BadInputError(
            f"author {author.name!r} made {made.scenarios} of {count} tasks of a kind; rejected: "
            f"{made.rejected}; ask for fewer tasks a round, or leave the kind out"
        )
    return [row for _, row in read_rows(file, "scenarios")]
