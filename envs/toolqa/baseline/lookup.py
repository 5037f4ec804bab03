"""``LookupPolicy``: searches for the subject and reads the answer off; no model at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from toolgym.envs.toolqa.baseline.questions import guess, plan_of, read
from toolgym.formats import Action
from toolgym.formats.base import argument_name
from toolgym.messages import ToolCall
from toolgym.policies.base import Policy, Reply, Request
from toolgym.policies.conversation import past_results, question_of
from toolgym.tools.toolset import Schema

__all__ = ["LookupPolicy"]

SEARCH, CALCULATOR = "WikipediaSearch", "Calculator"
UNKNOWN = "unknown"
_FAILED = ("Error", "No result for ")


class LookupPolicy(Policy):
    """A deterministic baseline that uses tools and needs no model, GPU or key.

    It knows the relations of PopQA and searches the whole question otherwise; on word problems it
    lets the calculator work on the numbers in the text, by an operation that a few words choose,
    which is seldom right. Its figures stand in docs/policies.md. It speaks every format and keeps
    no state: all that it knows stands in the request.
    """

    batched: ClassVar[bool] = True

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Search, or answer when the searches so far are enough."""
        return [Reply(_act(request)) for request in requests]

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"policy": "lookup"}


def _act(request: Request) -> str:
    question = question_of(request)
    past = past_results(request)
    offered = {tool["function"]["name"] for tool in request.tools}
    expression = arithmetic(question) if CALCULATOR in offered else None
    if expression is not None:
        if not past:
            return _call(request, CALCULATOR, expression, "I compute with the numbers given.")
        return _answer(request, past[-1][1] if _worked(past[-1][1]) else UNKNOWN)
    plan = plan_of(question)
    passages = [text for _, text in past if _worked(text)]
    about = [text for text in passages if plan.subject.casefold() in text.casefold()]
    found = next((answer for text in about if (answer := read(plan, text))), None)
    if found is not None:
        return _answer(request, found)
    limit = request.format.strategy.tool_turns
    tries = len(plan.queries) if limit is None else min(limit, len(plan.queries))
    # Turns are counted, not results: a call that was refused must not be made for ever.
    if SEARCH in offered and request.turn < tries:
        return _call(request, SEARCH, plan.queries[request.turn], f"I look up {plan.subject}.")
    weak = [reader(plan, text) for reader in (read, guess) for text in (*about, *passages)]
    return _answer(request, next((answer for answer in weak if answer), UNKNOWN))


def arithmetic(question: str) -> str | None:
    """An expression for a word problem, or None for other questions.

    One operation for the whole text, told by its words: weak, and the same for every set.
    """
    if not re.search(
        r"\bhow (?:many|much|long|old|far|tall)\b|\bwhat is the total\b", question, re.I
    ):
        return None
    numbers = [n.replace(",", "") for n in re.findall(r"\d[\d,]*(?:\.\d+)?(?<!,)", question)]
    if len(numbers) < 2 or len(numbers) > 12:
        return None
    lowered = question.casefold()
    if re.search(r"\b(?:left|remain\w*|fewer|less than|more than|spen[dt]|gave|change)\b", lowered):
        return f"{numbers[0]} - " + " - ".join(numbers[1:])
    if re.search(r"\b(?:equally|split|divided?|shared?)\b", lowered):
        return " / ".join(numbers[:2])
    if re.search(r"\b(?:each|every|per|times|a (?:day|week|month|year))\b", lowered):
        return " * ".join(numbers)
    return " + ".join(numbers)


def _worked(text: str) -> bool:
    return bool(text.strip()) and not text.startswith(_FAILED)


def _call(request: Request, name: str, text: str, thought: str) -> str:
    tools: list[Schema] = request.tools
    call = ToolCall("call_0", name, {argument_name(name, tools): text})
    return request.format.write(Action(thought, (call,)), tools)


def _answer(request: Request, text: str) -> str:
    return request.format.write(Action("", (), text), request.tools)
