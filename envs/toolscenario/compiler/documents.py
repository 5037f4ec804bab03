"""Stage 2, document generation: a function-calling document and a reference call a sub-question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolgym.envs.toolscenario.compiler.decomposition import SETTLED, mentions
from toolgym.envs.toolscenario.compiler.stages import Author, ask, refuse_unless, same_fields
from toolgym.envs.toolscenario.schemas import document_problems, misfits
from toolgym.grading.answers import normalise
from toolgym.scenario import FROM, Decomposition, Documented, ReferenceCall, references

__all__ = ["check", "document"]

STAGE = "documents"


def document(decomposition: Decomposition, author: Author) -> Documented:
    """Ask for documents and reference calls, and check them.

    Args:
        decomposition: of stage 1.
        author: who writes it.

    Raises:
        RejectedError: with stage ``documents``.
    """
    made = ask(STAGE, Documented, lambda: author.document(decomposition))
    same_fields(STAGE, decomposition, made, SETTLED)
    check(made)
    return made


def check(made: Documented, stage: str = STAGE) -> None:
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
