"""From what a model replied to the records of the stages, with checks that come early."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from toolgym.envs.toolscenario.authors.llm.replies import (
    DecompositionReply,
    DeploymentReply,
    DocumentReply,
    DocumentsReply,
    IntegrationReply,
    ScalingReply,
    UnusableError,
)
from toolgym.envs.toolscenario.compiler.decomposition import combine
from toolgym.envs.toolscenario.compiler.verification import GUESSABLE, words
from toolgym.envs.toolscenario.records import Question, RejectedError
from toolgym.envs.toolscenario.tool import function_problems, result_text, sandbox_for
from toolgym.formats.scan import read_json
from toolgym.grading.answers import normalise
from toolgym.grading.solving import solves
from toolgym.scenario import (
    Combination,
    Decomposition,
    Documented,
    Integrated,
    Levels,
    ReferenceCall,
    Scaled,
    Scenario,
    SubQuestion,
    ToolDocument,
)
from toolgym.tools.schemas import misfits

__all__ = [
    *("decomposed", "deployed", "documented", "functions_of", "golds_of", "integrated"),
    *("nothing_told", "scaled", "trial", "unscaled"),
]

_TOLD = 6  # problems told at once
_LONGEST = 400  # characters of one


def trial(scenario: Scenario, timeout: float) -> list[tuple[str, str]]:
    """Make the reference calls in the sandbox.

    Unlike verification it goes on after a problem, so that a model can put all right at once.

    Args:
        scenario: whose records hold together.
        timeout: seconds a call.

    Returns:
        Reasons and messages; none when every call gives its sub-answer.

    Raises:
        BadInputError: the sandbox does not work here.
    """
    settings = {"timeout": timeout}
    broken = function_problems(scenario.functions, settings)
    found = [("bad_function", f"{name!r}: {text}") for name, text in broken.items()]
    box = sandbox_for(scenario.functions, settings)
    documents = {item.name: item for item in scenario.documents}
    answers = {item.id: item.answer for item in scenario.sub_questions}
    values: dict[str, Any] = {}
    for call in scenario.calls:
        if call.tool in broken:
            continue
        where = f"the reference call of {call.sub_question!r}"
        try:
            arguments = call.filled(values)
        except (LookupError, TypeError) as error:
            if set(scenario.sub_question(call.sub_question).needs) <= set(values):
                found.append(("unfilled_reference", f"{where} finds no {error} in a result"))
            continue
        shown = f"{where}, {call.tool}({json.dumps(arguments, ensure_ascii=False)[:200]}),"
        wrong = misfits(arguments, documents[call.tool].parameters)
        if wrong:
            found.append(("bad_arguments", f"{shown} does not fit the document: {wrong[0]}"))
            continue
        result = box.call(call.tool, arguments)
        if result.error is not None:
            reason = result.error if result.error in ("timeout", "memory") else "failed_call"
            found.append((reason, f"{shown} failed: {result.text}"))
            continue
        try:
            values[call.sub_question] = read_json(result.text)
        except ValueError as error:
            found.append(
                ("deep_result", f"{shown} gave a value that cannot be an argument: {error}")
            )
            continue
        text, answer = result_text(result.text), answers[call.sub_question]
        if not all(solves(answer, text, preset) for preset in ("ours", "paper")):
            found.append(("wrong_result", f"{shown} should give {answer!r:.200}, it gave {text}"))
    return [(reason, " ".join(message.split())[:_LONGEST]) for reason, message in found[:_TOLD]]


_NUMBER = re.compile(r"-?[$€£]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?%?")


def golds_of(question: Question) -> list[str]:
    """The answers that a question came with, the canonical one first."""
    more = question.notes.get("answers", ())
    return list(dict.fromkeys([question.answer, *more])) if question.answer else []


def decomposed(reply: DecompositionReply, question: Question) -> Decomposition:
    """The record of stage 1. Known answers count, the model's own only where there are none."""
    subs = tuple(
        SubQuestion(
            id=item.id, question=item.question, answer=item.answer.strip(), needs=tuple(item.needs)
        )
        for item in reply.sub_questions
    )
    combination = Combination(
        rule=reply.combination.rule,
        of=tuple(reply.combination.of),
        labels=tuple(reply.combination.labels),
    )
    answers = golds_of(question) or [reply.answer.strip()]
    found = {item.id: item.answer for item in subs}
    if set(combination.of) <= set(found):
        given = normalise(combine(combination, found) or "")
        # The one that follows stands first; the sort keeps the order of the others.
        answers.sort(key=lambda answer: not given or normalise(answer) != given)
    return Decomposition(
        id=question.id,
        question=question.text,
        answers=tuple(answers),
        answer_type="number" if _NUMBER.fullmatch(answers[0]) else "text",
        sub_questions=subs,
        combination=combination,
        split=question.split,
        notes=question.notes,
    )


def documented(reply: DocumentsReply, made: Decomposition) -> Documented:
    """The record of stage 2."""
    return Documented(
        **_fields(made, Decomposition),
        documents=tuple(_document(item) for item in reply.tools),
        calls=tuple(
            ReferenceCall(sub_question=item.sub_question, tool=item.name, arguments=item.arguments)
            for item in reply.tools
        ),
    )


def integrated(reply: IntegrationReply, made: Documented) -> Integrated:
    """The record of stage 3: what no merge names stays as it is.

    Raises:
        UnusableError: a merge names what is not there, or forgets a call.
    """
    documents = {item.name: item for item in made.documents}
    calls = {call.sub_question: call for call in made.calls}
    merged: dict[str, str] = {}
    for merge in reply.merges:
        for name in merge.replaces:
            if name not in documents:
                raise UnusableError("bad_merge", f"{name!r} is not a tool, or is merged twice")
            del documents[name]
            if name != merge.tool.name:
                merged[name] = merge.tool.name
        answered = {c.sub_question for c in made.calls if c.tool in merge.replaces}
        given = {item.sub_question: item.arguments for item in merge.calls}
        if set(given) != answered:
            raise UnusableError(
                "lost_call",
                f"the merge into {merge.tool.name!r} needs calls for {sorted(answered)}, "
                f"it has them for {sorted(given)}",
            )
        for name, arguments in given.items():
            calls[name] = ReferenceCall(
                sub_question=name, tool=merge.tool.name, arguments=arguments
            )
        if merge.tool.name in documents:
            raise UnusableError("duplicate_tool", f"{merge.tool.name!r} is another tool's name")
        documents[merge.tool.name] = _document(merge.tool)
    return Integrated(
        **_fields(made, Decomposition),
        documents=tuple(documents.values()),
        calls=tuple(calls.values()),
        merged=merged,
    )


def scaled(reply: ScalingReply, made: Integrated, levels: Levels) -> tuple[Scaled, list[str]]:
    """The record of stage 4, with the levels that were reached.

    Returns:
        The record, and a line for each level that was missed.
    """
    calls = tuple(
        ReferenceCall(sub_question=item.sub_question, tool=item.tool, arguments=item.arguments)
        for item in reply.calls
    )
    documents = [_document(item) for item in (*reply.tools, *reply.distractors)]
    renamed = {
        was.tool: now.tool
        for was, now in zip(made.calls, calls, strict=False)
        if was.tool != now.tool
    }
    merged = {old: renamed.get(new, new) for old, new in made.merged.items()} | renamed
    reached, missed = _reached(made, documents, calls, levels, len(reply.distractors))
    # In the order of names: who is needed and who distracts must not show.
    ordered = tuple(sorted(documents, key=lambda item: item.name))
    record = Scaled(
        **_fields(made, Decomposition),
        documents=ordered,
        calls=calls,
        merged={old: new for old, new in merged.items() if old != new},
        levels=reached,
        distractors=tuple(item.name for item in reply.distractors),
    )
    return record, missed


def unscaled(made: Integrated) -> Scaled:
    """The record of stage 4 at level 0: nothing changes."""
    return Scaled(**_fields(made, Integrated))


def deployed(functions: Mapping[str, str], made: Scaled, author: str) -> Scenario:
    """The record of stage 5."""
    return Scenario(**_fields(made, Scaled), functions=dict(functions), author=author)


def functions_of(reply: DeploymentReply) -> dict[str, str]:
    """Sources by name.

    Raises:
        UnusableError: a name twice.
    """
    found: dict[str, str] = {}
    for item in reply.functions:
        if item.name in found:
            raise UnusableError("functions_differ", f"the function {item.name!r} comes twice")
        found[item.name] = item.source
    return found


def nothing_told(made: Decomposition, stage: str) -> None:
    """Refuse early what verification would refuse: an answer in the question or a document.

    Args:
        made: by any stage.
        stage: for the error.

    Raises:
        RejectedError: ``answer_in_question`` or ``answer_in_document``.
    """
    texts = [("answer_in_question", "the question", made.question)]
    for item in made.documents if isinstance(made, Documented) else ():
        said = [item.name.replace("_", " "), item.description, *words(item.parameters)]
        texts.append(("answer_in_document", f"the document of {item.name!r}", "\n".join(said)))
    for sub in made.sub_questions:
        if sub.answer.casefold() in GUESSABLE:
            continue
        for reason, where, text in texts:
            if solves(sub.answer, text, "ours"):
                message = f"{where} holds the answer of {sub.id!r}, {sub.answer!r:.100}"
                raise RejectedError(stage, reason, message)


def _fields(made: Any, kind: type[Decomposition]) -> dict[str, Any]:
    return {name: getattr(made, name) for name in kind.model_fields}


def _document(item: DocumentReply) -> ToolDocument:
    return ToolDocument(
        name=item.name, description=item.description.strip(), parameters=item.parameters
    )


_ADDED = (0, 1, 2, 4)  # parameters more, by level
_DEMANDED = (0, 0, 1, 2)  # of these required
_RICHNESS = (0, 1, 2, 4)  # of a tool's parameters, by level
_EXTRA = (0, 1, 2, 4)  # distractors, by level


def _reached(
    made: Integrated,
    documents: Sequence[ToolDocument],
    calls: Sequence[ReferenceCall],
    levels: Levels,
    extra: int,
) -> tuple[Levels, list[str]]:
    """What can be counted is; a tool that does more is taken to, where its document changed."""
    before = {item.name: item for item in made.documents}
    after = {item.name: item for item in documents}
    pairs = [
        (before[was.tool], after[now.tool])
        for was, now in zip(made.calls, calls, strict=False)
        if now.tool in after
    ]
    added = min((_size(new) - _size(old) for old, new in pairs), default=0)
    demanded = min((_required(new) - _required(old) for old, new in pairs), default=0)
    rich = min((_grown(old, new) for old, new in pairs), default=0)
    more = all((old.name, old.description) != (new.name, new.description) for old, new in pairs)
    found = {
        "functional_generalisation": 3 if more else 0,
        "parameter_expansion": min(_level(added, _ADDED), _level(demanded, _DEMANDED)),
        "type_generalisation": _level(rich, _RICHNESS),
        "toolset_extension": _level(extra, _EXTRA),
    }
    wanted = levels.model_dump()
    reached = {name: min(level, found[name]) for name, level in wanted.items()}
    if extra and not wanted["toolset_extension"]:
        raise UnusableError("wrong_level", "toolset_extension is at level 0: no distractors")
    missed = [
        f"{name} was to reach level {level}, it reaches {reached[name]}"
        for name, level in wanted.items()
        if reached[name] < level
    ]
    return Levels(**reached), missed


def _level(count: int, least: Sequence[int]) -> int:
    return max(level for level, needed in enumerate(least) if count >= needed or not level)


def _size(document: ToolDocument) -> int:
    return sum(1 for _ in _properties(document.parameters))


def _required(document: ToolDocument) -> int:
    schemas = (document.parameters, *_properties(document.parameters))
    lists = (schema.get("required") for schema in schemas)
    return sum(len(names) for names in lists if isinstance(names, list))


def _grown(old: ToolDocument, new: ToolDocument) -> int:
    before, after = (sum(map(_points, _properties(d.parameters))) for d in (old, new))
    return after if after > before else 0


def _points(schema: Mapping[str, Any]) -> int:
    kind = schema.get("type")
    if kind in ("object", "array"):
        return 2
    return int(kind != "string" or any(key in schema for key in ("enum", "format", "pattern")))


def _properties(schema: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """All properties of a schema, nested ones too."""
    if not isinstance(schema, Mapping) or depth > 20:
        return
    inner = schema.get("properties")
    items: Iterable[Any] = inner.values() if isinstance(inner, Mapping) else ()
    for item in (*items, schema.get("items")):
        if isinstance(item, Mapping):
            if item is not schema.get("items"):
                yield item
            yield from _properties(item, depth + 1)
