"""Stage 5, localised deployment: a Python function for each document, run in the sandbox only."""

from __future__ import annotations

from toolgym.envs.toolscenario.compiler import documents
from toolgym.envs.toolscenario.compiler.decomposition import SETTLED
from toolgym.envs.toolscenario.compiler.scaling import check_distractors
from toolgym.envs.toolscenario.compiler.stages import Author, ask, refuse_unless, same_fields
from toolgym.envs.toolscenario.tool import function_problems
from toolgym.scenario import Scaled, Scenario

__all__ = ["check_functions", "deploy"]

STAGE = "deployment"


def deploy(scaled: Scaled, author: Author, timeout: float = 10.0) -> Scenario:
    """Ask for the functions, and check that each can be called.

    Args:
        scaled: of stage 4.
        author: who writes it.
        timeout: seconds that a source may take until its function is defined.

    Raises:
        RejectedError: with stage ``deployment``.
        BadInputError: the sandbox does not work here.
    """
    made = ask(STAGE, Scenario, lambda: author.deploy(scaled))
    same_fields(STAGE, scaled, made, (*SETTLED, "levels", "distractors", "calls"))
    same_fields(STAGE, scaled, made, ("documents",))
    check_functions(made, STAGE, timeout)
    return made


def check_functions(made: Scenario, stage: str = STAGE, timeout: float = 10.0) -> None:
    """Whether there is one function for each document, and each can be called in the sandbox.

    Args:
        made: by an author.
        stage: for the error.
        timeout: seconds that a source may take until its function is defined.

    Raises:
        RejectedError: it is not so.
        BadInputError: the sandbox does not work here.
    """
    named = {item.name for item in made.documents}
    refuse_unless(
        set(made.functions) == named,
        stage,
        "functions_differ",
        f"the documents are {sorted(named)}, the functions {sorted(made.functions)}",
    )
    for name, source in made.functions.items():
        refuse_unless(
            len(source) <= MAX_SOURCE,
            stage,
            "long_source",
            f"the function {name!r} has {len(source):,} characters, more than {MAX_SOURCE:,}",
        )
    for name, problem in function_problems(made.functions, {"timeout": timeout}).items():
        refuse_unless(False, stage, "bad_function", f"{name!r}: {problem}"[:1000])


def check_whole(made: Scenario, stage: str, timeout: float = 10.0) -> None:
    """All structural checks of the five stages, on a finished scenario.

    Args:
        made: from a file.
        stage: for the error.
        timeout: seconds that a source may take until its function is defined.

    Raises:
        RejectedError: one does not hold.
    """
    documents.check(made, stage)
    check_distractors(made, stage)
    check_functions(made, stage, timeout)


MAX_SOURCE = 100_000
"""Characters of one function; the sandbox takes no more."""
