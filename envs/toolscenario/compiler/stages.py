"""Stages 2 to 5: documents, their integration, complexity scaling and localised deployment.

Each asks the author and checks what it gives: a call for each sub-question, nothing lost where
tools become one, the same questions with harder tools, and a function for each document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolgym.envs.toolscenario.compiler.decomposition import (
    SETTLED,
    Author,
    ask,
    mentions,
    refuse_unless,
    same_fields,
    seed_of,
)
from toolgym.envs.toolscenario.schemas import document_problems
from toolgym.envs.toolscenario.tool import function_problems
from toolgym.grading.answers import normalise
from toolgym.scenario import (
    FROM,
    MAX_LEVEL,
    Decomposition,
    Documented,
    Integrated,
    Levels,
    ReferenceCall,
    Scaled,
    Scenario,
    references,
)
from toolgym.tools.schemas import misfits

__all__ = [
    *("check_documents", "check_functions", "deploy", "document", "draw_levels", "integrate"),
    "scale",
]

_DOCUMENTS = "documents"


def document(decomposition: Decomposition, author: Author) -> Documented:
    """Ask for documents and reference calls, and check them.

    Args:
        decomposition: of stage 1.
        author: who writes it.

    Raises:
        RejectedError: with stage ``documents``.
    """
    made = ask(_DOCUMENTS, Documented, lambda: author.document(decomposition))
    same_fields(_DOCUMENTS, decomposition, made, SETTLED)
    check_documents(made)
    return made


def check_documents(made: Documented, stage: str = _DOCUMENTS) -> None:
    """Whether documents are valid and each sub-question has one call of one of them.

    Args:
        made: by an author, in this stage or a later one.
        stage: for the error.

    Raises:
        RejectedError: they are not.
    """
    names = [item.name for item in made.documents]
    for item in made.documents:
        for problem in document_problems(item.to_row()):
            refuse_unless(False, stage, "bad_document", f"tool {item.name!r:.80}: {problem}")
        refuse_unless(
            names.count(item.name) == 1, stage, "duplicate_tool", f"{item.name!r} stands twice"
        )
    asked = [item.id for item in made.sub_questions]
    called = [call.sub_question for call in made.calls]
    refuse_unless(
        asked == called,
        stage,
        "calls_differ",
        f"the sub-questions are {asked}, the reference calls answer {called}",
    )
    by_name = {item.name: item for item in made.documents}
    for sub_question, call in zip(made.sub_questions, made.calls, strict=True):
        where = f"the call of {call.sub_question!r}"
        refuse_unless(
            call.tool in by_name, stage, "unknown_tool", f"{where} names {call.tool!r}: no document"
        )
        taken = set(references(call.arguments))
        refuse_unless(
            taken <= set(sub_question.needs),
            stage,
            "unlisted_need",
            f"{where} takes from {sorted(taken)}, it needs {list(sub_question.needs)}",
        )
        unused = set(sub_question.needs) - taken - mentions(sub_question)
        refuse_unless(
            not unused,
            stage,
            "unused_need",
            f"{call.sub_question!r} needs {sorted(unused)}, which neither call nor wording uses",
        )
        _check_literals(made, call, stage)
        if not taken:  # what is taken from results is known in verification only
            for problem in misfits(call.arguments, by_name[call.tool].parameters):
                refuse_unless(False, stage, "bad_arguments", f"{where}: {problem}")


def _check_literals(made: Documented, call: ReferenceCall, stage: str) -> None:
    """No argument is another sub-question's answer, written out: a policy has yet to find it."""
    said = {normalise(text) for text in _texts(call.arguments)} - {""}
    for item in made.sub_questions:
        refuse_unless(
            item.id == call.sub_question or normalise(item.answer) not in said,
            stage,
            "literal_answer",
            f"the call of {call.sub_question!r} has the answer of {item.id!r}, "
            f"{item.answer!r:.100}, among its arguments: take it from the result, as "
            f'{{"$from": "{item.id}"}} with the path to it',
        )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in () if FROM in value else value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


_INTEGRATION = "integration"


def integrate(documented: Documented, author: Author) -> Integrated:
    """Ask which tools become one, and check that every sub-question keeps a call.

    Args:
        documented: of stage 2.
        author: who writes it.

    Raises:
        RejectedError: with stage ``integration``.
    """
    made = ask(_INTEGRATION, Integrated, lambda: author.integrate(documented))
    same_fields(_INTEGRATION, documented, made, SETTLED)
    check_documents(made, _INTEGRATION)
    before = {item.name for item in documented.documents}
    after = {item.name for item in made.documents}
    for old, new in made.merged.items():
        refuse_unless(
            old in before and new in after,
            _INTEGRATION,
            "bad_merge",
            f"{old!r} became {new!r}: the first must be a tool of stage 2, the second one of now",
        )
    lost = before - after - set(made.merged)
    refuse_unless(
        not lost, _INTEGRATION, "lost_tool", f"{sorted(lost)} are gone and merged into nothing"
    )
    for was, now in zip(documented.calls, made.calls, strict=True):
        wanted = made.merged.get(was.tool, was.tool)
        refuse_unless(
            now.tool == wanted,
            _INTEGRATION,
            "lost_call",
            f"{was.sub_question!r} called {was.tool!r}, now {now.tool!r} in place of {wanted!r}",
        )
    idle = after - {call.tool for call in made.calls}
    refuse_unless(not idle, _INTEGRATION, "idle_tool", f"no sub-question calls {sorted(idle)}")
    return made


_SCALING = "scaling"


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
    made = ask(_SCALING, Scaled, lambda: author.scale(integrated, levels, seed))
    same_fields(_SCALING, integrated, made, SETTLED)
    check_documents(made, _SCALING)
    for strategy, level in levels.model_dump().items():
        applied = getattr(made.levels, strategy)
        refuse_unless(
            applied <= level,
            _SCALING,
            "wrong_level",
            f"{strategy} was to reach level {level}, not {applied}",
        )
    check_distractors(made)
    return made


def check_distractors(made: Scaled, stage: str = _SCALING) -> None:
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


_DEPLOYMENT = "deployment"


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
    made = ask(_DEPLOYMENT, Scenario, lambda: author.deploy(scaled))
    same_fields(_DEPLOYMENT, scaled, made, (*SETTLED, "levels", "distractors", "calls"))
    same_fields(_DEPLOYMENT, scaled, made, ("documents",))
    check_functions(made, _DEPLOYMENT, timeout)
    return made


def check_functions(made: Scenario, stage: str = _DEPLOYMENT, timeout: float = 10.0) -> None:
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
    check_documents(made, stage)
    check_distractors(made, stage)
    check_functions(made, stage, timeout)


MAX_SOURCE = 100_000
"""Characters of one function; the sandbox takes no more."""
