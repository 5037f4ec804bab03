"""``react``: the first paper's fields ``Thought: Action: Rationale: Answer:``, and its parser."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from toolgym.formats.base import Action, Format, argument_name, describe_tools
from toolgym.formats.scan import bracket_calls, fields, plain
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem

__all__ = ["PaperReactFormat", "ReactFormat"]

_RESPONSE = "\nResponse from tool "
_LABELS = ("Thought", "Action", "Rationale", "Answer")
_NOTHING = {"", "none", "n/a", "no action", "none."}


class ReactFormat(Format):
    """The paper's fields, our parser: nested brackets, quotes, JSON arguments, typed problems."""

    name = "react"
    stop = (_RESPONSE,)

    def instructions(self, tools: Sequence[Schema]) -> str:
        """The system text for this strategy, in our own words."""
        strategy = self.strategy
        if not strategy.tools:
            if not strategy.thought:
                return "Answer the question from what you know, in a few words and nothing else."
            return (
                "Answer the question from what you know. Let's think step by step.\n"
                "Write exactly these two fields, each on a line of its own:\n"
                "Thought: your reasoning\nAnswer: the answer in a few words"
            )
        rationale = "Rationale: what the tool responses tell you (empty until they have come)\n"
        turns = (
            "You may call tools in one turn only; then you must answer."
            if strategy.tool_turns == 1
            else "You may call tools in as many turns as you want."
        )
        return (
            "Answer the question. These tools can help you:\n"
            + "".join(f"- {line}\n" for line in describe_tools(tools))
            + "Write these fields, each beginning on a line of its own:\n"
            "Thought: what you know and what you still need. Let's think step by step.\n"
            "Action: the tool calls as ToolName[input], several if needed; empty if none\n"
            + (rationale if strategy.rationale else "")
            + "Answer: the final answer in a few words (empty until you know it)\n"
            f"After an action, stop: the responses come in the next message. {turns}"
        )

    def parse(self, text: str, tools: Sequence[Schema] = ()) -> Action:
        """Read the fields; see `Format.parse`.

        What follows a tool response that the policy made up is not read.
        """
        problems: list[Problem] = []
        made_up = text.find(_RESPONSE)
        if made_up >= 0:
            text = text[:made_up]
            problems.append(Problem("wrote_result", "tool responses are written by tools only"))
        found = fields(text, _LABELS)
        if not self.strategy.tools:
            return Action(found.get("Thought", ""), (), found.get("Answer") or text.strip())
        thought = found.get("Thought") or found.get("", "")
        calls: list[ToolCall] = []
        for name, argument, closed in bracket_calls(found.get("Action", "")):
            if not closed:
                problems.append(
                    Problem(
                        "unclosed_call", f"the call {name}[ has no closing bracket: {name}[...]"
                    )
                )
                continue
            bound = argument
            if isinstance(bound, str):
                bound = {argument_name(name, tools): bound}
            calls.append(ToolCall(f"call_{len(calls)}", name, bound))
        answer = found.get("Answer") or None
        if calls:
            if answer is not None:
                problems.append(
                    Problem("answer_with_call", "the answer given beside a tool call was not used")
                )
            return Action(thought, tuple(calls), None, tuple(problems))
        if answer is not None:
            return Action(thought, (), answer, tuple(problems))
        if not problems:
            problems.append(_what_is_missing(text, found))
        return Action(thought, (), None, tuple(problems))

    def write(self, action: Action, tools: Sequence[Schema] = ()) -> str:
        """The fields that parse to this action."""
        if not self.strategy.tools:
            return f"Answer: {action.answer}"
        lines = [f"Thought: {action.thought}"] if action.thought else []
        if action.calls:
            lines.append("Action: " + " ".join(call_text(call, tools) for call in action.calls))
        if action.answer is not None:
            lines.append(f"Answer: {action.answer}")
        return "\n".join(lines)

    def results(
        self, calls: Sequence[ToolCall], results: Sequence[ToolResult], tools: Sequence[Schema] = ()
    ) -> list[Message]:
        """One user message, one line a call, as in the paper."""
        lines = [
            f"Response from tool {call_text(call, tools)} are: {result.content}"
            for call, result in zip(calls, results, strict=True)
        ]
        return [Message("user", "\n".join(lines))]


def call_text(call: ToolCall, tools: Sequence[Schema]) -> str:
    """``Name[text]`` where one plain text is all there is to say, else ``Name[{...}]``."""
    if len(call.arguments) == 1:
        ((key, value),) = call.arguments.items()
        if key == argument_name(call.name, tools) and isinstance(value, str) and plain(value):
            return f"{call.name}[{value}]"
    return f"{call.name}[{json.dumps(call.arguments, ensure_ascii=False, default=str)}]"


def _what_is_missing(text: str, found: Mapping[str, str]) -> Problem:
    if not text.strip():
        return Problem("empty_reply", "it was empty")
    if found.get("Action", "").lower() not in _NOTHING:
        return Problem("no_call", "no tool call found after Action")
    if any(label in found for label in _LABELS):
        return Problem("no_answer", "it has neither a tool call nor an answer")
    return Problem("no_fields", "write 'Action: ToolName[input]' or 'Answer: ...' on its own line")


class PaperReactFormat(ReactFormat):
    """The parser as published with arXiv 2502.05867.

    Flat brackets only; the ``Action`` block ends at ``Rationale:``; a reply without ``Answer:`` is
    an answer as a whole.
    """

    name = "react-paper"
    _block = re.compile(r"^Action:(.*?)(?=^Rationale:|\Z)", re.M | re.S)
    _call = re.compile(r"\b(\w+)\[([^\[\]]+)\]")
    _answer = re.compile(r"^Answer:(.*)\Z", re.M | re.S)

    def parse(self, text: str, tools: Sequence[Schema] = ()) -> Action:
        """Read a reply exactly as the paper's code does."""
        calls: list[ToolCall] = []
        block = self._block.search(text) if self.strategy.tools else None
        for name, argument in self._call.findall(block[1]) if block else ():
            call_id = f"call_{len(calls)}"
            calls.append(ToolCall(call_id, name, {argument_name(name, tools): argument}))
        thought = fields(text, _LABELS).get("Thought", "")
        if calls:
            return Action(thought, tuple(calls))
        answer = self._answer.search(text)
        return Action(thought, (), (answer[1] if answer else text).strip())
