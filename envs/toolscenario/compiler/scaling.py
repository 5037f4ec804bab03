"""Stage 4, complexity scaling: the same questions with harder tools, at levels drawn by seed."""

from __future__ import annotations

from toolgym.envs.toolscenario.compiler import documents
from toolgym.envs.toolscenario.compiler.decomposition import SETTLED
from toolgym.envs.toolscenario.compiler.stages import (
    Author,
    ask,
    refuse_unless,
    same_fields,
    seed_of,
)
from toolgym.scenario import MAX_LEVEL, Integrated, Levels, Scaled

__all__ = ["draw_levels", "scale"]

STAGE = "scaling"


def draw_levels(seed: int, name: str) -> Levels:
    """The levels of one scenario: each strategy's from 0 to `MAX_LEVEL`, all equally likely.

    Args:
        seed: of the build.
        name: the scenario's id; nothing else decides, so order and number of workers do not.
    """
    drawn = {
        strategy: seed_of(seed, name, strategy) % (MAX_LEVEL + 1)
        for strategy in Levels.model_fields
    }
    return Levels(**drawn)


def scale(integrated: Integrated, levels: Levels, seed: int, author: Author) -> Scaled:
    """Ask for harder tools, and check that questions and answers are the same.

    Args:
        integrated: of stage 3.
        levels: how far each strategy is to go.
        seed: for the author's draws.
        author: who writes it.

    Raises:
        RejectedError: with stage ``scaling``.
    """
    made = ask(STAGE, Scaled, lambda: author.scale(integrated, levels, seed))
    same_fields(STAGE, integrated, made, SETTLED)
    documents.check(made, STAGE)
    for strategy, level in levels.model_dump().items():
        applied = getattr(made.levels, strategy)
        refuse_unless(
            applied <= level,
            STAGE,
            "wrong_level",
            f"{strategy} was to reach level {level}, not {applied}",
        )
    check_distractors(made)
    return made


def check_distractors(made: Scaled, stage: str = STAGE) -> None:
    """Distractors are documents that no reference call uses, and all such documents are named.

    Args:
        made: by an author.
        stage: for the error.

    Raises:
        RejectedError: it is not so.
    """
    called = {call.tool for call in made.calls}
    idle = {item.name for item in made.documents} - called
    refuse_unless(
        set(made.distractors) == idle and len(set(made.distractors)) == len(made.distractors),
        stage,
        "wrong_distractors",
        f"no sub-question calls {sorted(idle)}, named as distractors are {list(made.distractors)}",
    )
    refuse_unless(
        bool(idle) <= bool(made.levels.toolset_extension),
        stage,
        "wrong_level",
        f"toolset_extension is 0, and there are {len(idle)} distractors",
    )
