"""Stage 3, function integration: tools whose functions overlap become one; nothing is lost."""

from __future__ import annotations

from toolgym.envs.toolscenario.compiler import documents
from toolgym.envs.toolscenario.compiler.decomposition import SETTLED
from toolgym.envs.toolscenario.compiler.stages import Author, ask, refuse_unless, same_fields
from toolgym.scenario import Documented, Integrated

__all__ = ["integrate"]

STAGE = "integration"


def integrate(documented: Documented, author: Author) -> Integrated:
    """Ask which tools become one, and check that every sub-question keeps a call.

    Args:
        documented: of stage 2.
        author: who writes it.

    Raises:
        RejectedError: with stage ``integration``.
    """
    made = ask(STAGE, Integrated, lambda: author.integrate(documented))
    same_fields(STAGE, documented, made, SETTLED)
    documents.check(made, STAGE)
    before = {item.name for item in documented.documents}
    after = {item.name for item in made.documents}
    for old, new in made.merged.items():
        refuse_unless(
            old in before and new in after,
            STAGE,
            "bad_merge",
            f"{old!r} became {new!r}: the first must be a tool of stage 2, the second one of now",
        )
    lost = before - after - set(made.merged)
    refuse_unless(not lost, STAGE, "lost_tool", f"{sorted(lost)} are gone and merged into nothing")
    for was, now in zip(documented.calls, made.calls, strict=True):
        wanted = made.merged.get(was.tool, was.tool)
        refuse_unless(
            now.tool == wanted,
            STAGE,
            "lost_call",
            f"{was.sub_question!r} called {was.tool!r}, now {now.tool!r} in place of {wanted!r}",
        )
    idle = after - {call.tool for call in made.calls}
    refuse_unless(not idle, STAGE, "idle_tool", f"no sub-question calls {sorted(idle)}")
    return made
