"""Verification: what every scenario has to pass before anyone trains on it or is scored by it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolgym.envs.toolscenario.compiler import decomposition
from toolgym.envs.toolscenario.compiler.decomposition import reaches
from toolgym.envs.toolscenario.compiler.stages import check_whole
from toolgym.envs.toolscenario.probing import (
    ECHO,
    Probe,
    echoing,
    entities,
    is_error,
    plausible,
    run_probes,
    wrong,
)
from toolgym.envs.toolscenario.records import RejectedError
from toolgym.envs.toolscenario.tool import Reference, result_text, run_references, sandbox_for
from toolgym.envs.toolscenario.world import World
from toolgym.grading.answers import normalise
from toolgym.grading.solving import solves
from toolgym.sandbox import Sandbox
from toolgym.scenario import Scenario

__all__ = ["Duplicates", "Open", "check_leaks", "told_by", "verify", "words"]

STAGE = "verification"
GUESSABLE = frozenset({"yes", "no", "true", "false"})
"""Answers that everyone can guess: finding one in a text tells nothing."""

_PRESETS = ("ours", "paper")
_CLOCK = re.compile(r"\.\s*(?:now|today|utcnow)\s*\(")
_ALIKE = 0.8  # shared words of two questions with the same sub-answers


@dataclass(frozen=True, slots=True)
class Open:
    """A sub-answer that has to be found.

    Args:
        id: of its sub-question.
        tool: whose call gives it.
        answer: the text.
    """

    id: str
    tool: str
    answer: str


def verify(scenario: Scenario, timeout: float = 10.0) -> dict[str, Any]:
    """Check a scenario by all rules of docs/scenarios.md; functions run in the sandbox only.

    Args:
        scenario: of stage 5, or from a file.
        timeout: seconds, for one call and for all probes of one function.

    Returns:
        Facts: ``results`` (sub-question to the text that its call gave) and ``probes`` (calls made
        beside these).

    Raises:
        RejectedError: it does not pass; stage ``verification``, with reason and message.
        BadInputError: the sandbox does not work here.
    """
    try:
        decomposition.check(scenario)
        check_whole(scenario, STAGE, timeout)
    except RejectedError as error:
        raise RejectedError(STAGE, error.reason, str(error)) from error
    references = run_references(scenario, timeout)
    for item in scenario.sub_questions:
        for preset in _PRESETS:
            if not solves(item.answer, references[item.id].text, preset):
                _reject(
                    "wrong_result",
                    f"{item.id!r} should give {item.answer!r:.200}; its call gave "
                    f"{references[item.id].text!r:.300} ({preset} matching)",
                )
    _check_results(scenario, references)
    calls = {item.sub_question: item.tool for item in scenario.calls}
    opened = [Open(item.id, calls[item.id], item.answer) for item in scenario.sub_questions]
    documents = [item.to_row() for item in scenario.documents]
    leaks = _Leaks(scenario.question, documents, scenario.functions, opened, timeout)
    for call in scenario.calls:
        leaks.references.setdefault(call.tool, []).append(references[call.sub_question])
    leaks.check()
    results = {name: reference.text for name, reference in references.items()}
    return {"results": results, "probes": leaks.count}


def _reject(reason: str, message: str) -> None:
    raise RejectedError(STAGE, reason, message)


def _solves(answer: str, text: str) -> bool:
    return answer.strip().casefold() not in GUESSABLE and solves(answer, text, "ours")


def _check_results(scenario: Scenario, references: Mapping[str, Reference]) -> None:
    """No reference result gives the answer of another sub-question, unless it was made of it."""
    for other in scenario.sub_questions:
        needed = reaches(scenario, other.id)
        for item in scenario.sub_questions:
            same = normalise(item.answer) == normalise(other.answer)
            if item is other or same or item.id in needed:
                continue
            if _solves(item.answer, references[other.id].text):
                _reject(
                    "answer_in_other_result",
                    f"the call of {other.id!r} gave {references[other.id].text!r:.300}, which "
                    f"holds the answer of {item.id!r}, {item.answer!r:.100}",
                )


@dataclass
class _Leaks:
    """The ways to a sub-answer that do not lead through its tool.

    Args:
        question: what the policy reads.
        documents: of all tools.
        functions: name to source.
        opened: the sub-answers.
        timeout: seconds for all probes of one function.
        references: tool to its reference calls, where they are known.
        count: probes made.
    """

    question: str
    documents: Sequence[Mapping[str, Any]]
    functions: Mapping[str, str]
    opened: Sequence[Open]
    timeout: float
    references: dict[str, list[Reference]] = field(default_factory=dict)
    count: int = 0

    def check(self) -> None:
        for item in self.opened:
            if _solves(item.answer, self.question):
                _reject(
                    "answer_in_question",
                    f"the question holds the answer of {item.id!r}, {item.answer!r:.100}",
                )
        for document in self.documents:
            self._check_document(document)
        for name, source in self.functions.items():
            if _CLOCK.search(source):
                _reject("nondeterministic", f"the function {name!r} reads the clock")
        named = entities(self.question)
        given = [item.arguments for found in self.references.values() for item in found]
        box = sandbox_for(self.functions, {"timeout": self.timeout})
        for document in self.documents:
            self._probe(document, box, given, named)

    def _check_document(self, document: Mapping[str, Any]) -> None:
        said = [document["name"].replace("_", " "), document["description"]]
        text = "\n".join([*said, *words(document["parameters"])])
        for item in self.opened:
            if _solves(item.answer, text):
                _reject(
                    "answer_in_document",
                    f"the document of {document['name']!r} holds the answer of {item.id!r}, "
                    f"{item.answer!r:.100}",
                )

    def _probe(
        self,
        document: Mapping[str, Any],
        box: Sandbox,
        given: Sequence[Mapping[str, Any]],
        named: Sequence[str],
    ) -> None:
        name = document["name"]
        mine = self.references.get(name, [])
        first = [Probe("reference", item.arguments) for item in mine]
        guesses = plausible(document, given, named)
        right = mine[0].arguments if mine else guesses[0].arguments if guesses else {}
        tried = [*first, *guesses, *wrong(document, right), *echoing(document, right)]
        tried = [probe for probe in tried if _callable(document, probe)]
        tried += first  # once more, after all others
        if not tried:
            return
        replies = run_probes(box, STAGE, name, tried)
        self.count += len(tried)
        for probe, (fine, value) in zip(tried, replies, strict=True):
            if probe.kind == "reference":
                self._same(name, probe, mine, fine, value)
            else:
                self._judge(document, probe, fine, value)

    def _same(
        self, name: str, probe: Probe, mine: Sequence[Reference], fine: bool, value: str
    ) -> None:
        before = next(item for item in mine if item.arguments == probe.arguments)
        if not fine or result_text(value) != before.text:
            _reject(
                "nondeterministic",
                f"{name}({json.dumps(probe.arguments)[:200]}) gave {before.text!r:.200}, then "
                f"{value!r:.200} (after other calls, and with sets in another order)",
            )

    def _judge(self, document: Mapping[str, Any], probe: Probe, fine: bool, value: str) -> None:
        name, failed = document["name"], is_error(fine, value)
        text = result_text(value) if fine else value
        asked = json.dumps(probe.arguments, ensure_ascii=False)
        if probe.kind == "echo":
            if ECHO in text and not failed and any(item.tool == name for item in self.opened):
                _reject("echoes_arguments", f"{name}({asked:.200}) gave {text!r:.200}")
            return
        for item in self._told(text):
            if _solves(item.answer, asked):  # it was told, and says it again
                continue
            call = f"{name}({asked:.200}) gave {text!r:.200}, which holds the answer of {item.id!r}"
            if failed:
                _reject("answer_in_error", call)
            if probe.kind == "plausible" and item.tool != name:
                called = any(item.tool == name for item in self.opened)
                _reject("answer_from_other_tool" if called else "distractor_solves", call)
            if probe.kind == "all wrong" and document["parameters"].get("required"):
                _reject("answer_without_arguments", call)

    def _told(self, text: str) -> Iterator[Open]:
        return (item for item in self.opened if _solves(item.answer, text))


def _callable(document: Mapping[str, Any], probe: Probe) -> bool:
    """What reaches the function: the environment answers missing and unknown names itself."""
    return set(document["parameters"].get("required", ())) <= set(probe.arguments)


def check_leaks(
    question: str,
    documents: Sequence[Mapping[str, Any]],
    functions: Mapping[str, str],
    opened: Sequence[Open],
    timeout: float = 10.0,
) -> int:
    """The rules that need no reference calls, for files that hold none.

    Args:
        question: what the policy reads.
        documents: of all tools.
        functions: name to source.
        opened: the sub-answers.
        timeout: seconds for all probes of one function.

    Returns:
        Probes made.

    Raises:
        RejectedError: a rule is broken.
        BadInputError: the sandbox does not work here.
    """
    leaks = _Leaks(question, documents, functions, opened, timeout)
    leaks.check()
    return leaks.count


class Duplicates:
    """Finds near-duplicates: the same sub-answers, and questions of mostly the same words.

    Words are compared as a set after normalisation (case, punctuation and articles do not count);
    two questions are near when they share at least four fifths of all their words.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], list[tuple[str, frozenset[str]]]] = {}

    def add(self, name: str, question: str, answers: Iterable[str]) -> str | None:
        """The id of an earlier scenario that this one repeats; None, and it is remembered.

        Args:
            name: the scenario's id.
            question: what the policy reads.
            answers: of the sub-questions.
        """
        key = tuple(sorted(normalise(answer) for answer in answers))
        asked = frozenset(normalise(question).split())
        alike = self._known.setdefault(key, [])
        for earlier, other in alike:
            if len(asked & other) >= _ALIKE * len(asked | other):
                return earlier
        alike.append((name, asked))
        return None


def told_by(scenario: Scenario | World) -> list[str]:
    """What makes two scenarios of the same words different ones: sub-answers, or a goal."""
    if isinstance(scenario, World):
        return [json.dumps(item, sort_keys=True) for item in scenario.goal]
    return [item.answer for item in scenario.sub_questions]


def words(schema: Any) -> Iterator[str]:
    """Everything that a schema says in words or as a value to choose: what a policy can read."""
    if isinstance(schema, str):
        yield schema
    elif isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in ("enum", "default", "const", "examples", "example"):
                values = value if isinstance(value, list) else [value]
                yield from (str(item) for item in values if not isinstance(item, bool | None))
            elif key in ("description", "title", "format"):
                yield str(value)
            elif key in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
                yield from value
                for inner in value.values():
                    yield from words(inner)
            elif isinstance(value, Mapping | list):
                yield from words(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from words(item)
