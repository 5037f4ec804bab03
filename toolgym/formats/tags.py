"""``tags``: ``<think>``, ``<search>``, ``<information>``, ``<answer>``, as in Search-R1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from toolgym.formats.base import Action, Format, argument_name, describe_tools
from toolgym.formats.scan import read_json, spans
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem

__all__ = ["TagsFormat"]

ALIASES = {
    "search": "WikipediaSearch",
    "calculator": "Calculator",
    "translate": "MachineTranslator",
}
_TAGS = {name: tag for tag, name in ALIASES.items()}


class TagsFormat(Format):
    """Search-R1's tags; every tool has one: ``<search>`` and its like, else the tool's own name.

    A reply that carries an ``<information>`` block of its own is read as a transcript: calls
    before the block count as answered, and the block is a problem (``wrote_result``).
    """

    name = "tags"
    stop = ("</search>", "</answer>", "</calculator>", "</translate>")

    def instructions(self, tools: Sequence[Schema]) -> str:
        """The system text for this strategy, in our own words."""
        think = "Reason between <think> and </think> first. " if self.strategy.thought else ""
        answer = (
            "Give the final answer, a few words without explanation, between <answer> and </answer>"
        )
        if not tools:
            return f"Answer the question from what you know. {think}{answer}."
        lines = [
            f"- <{tag_of(tool)}>input</{tag_of(tool)}> calls {line}"
            for tool, line in zip(tools, describe_tools(tools), strict=True)
        ]
        turns = "once" if self.strategy.tool_turns == 1 else "as often as you want"
        return (
            f"Answer the question. {think}When you lack knowledge, call a tool with its tag:\n"
            + "\n".join(lines)
            + "\nThe results come between <information> and </information> in the next message. "
            f"You may call tools {turns}. {answer}."
        )

    def parse(self, text: str, tools: Sequence[Schema] = ()) -> Action:
        """Read the tags; see `Format.parse`."""
        thought = next((inner.strip() for _, _, inner, _ in spans(text, "think")), "")
        problems: list[Problem] = []
        written = [end for _, end, _, _ in spans(text, "information")]
        if written:
            problems.append(
                Problem("wrote_result", "it holds an <information> block, which only tools write")
            )
        after = written[-1] if written else 0
        answers = [(start, inner, closed) for start, _, inner, closed in spans(text, "answer")]
        calls = self._calls(text, after, tools, problems) if self.strategy.tools else []
        if calls:
            if any(start > after for start, _, _ in answers):
                problems.append(
                    Problem("answer_with_call", "the answer given beside a tool call was not used")
                )
            return Action(thought, tuple(calls), None, tuple(problems))
        if answers and answers[-1][2]:
            return Action(thought, (), answers[-1][1].strip(), tuple(problems))
        if answers:
            problems.append(Problem("unclosed_answer", "<answer> has no </answer>"))
        elif not any(problem.kind == "unclosed_call" for problem in problems):
            problems.append(_missing(text))
        return Action(thought, (), None, tuple(problems))

    def _calls(
        self, text: str, after: int, tools: Sequence[Schema], problems: list[Problem]
    ) -> list[ToolCall]:
        names = ALIASES | {tool["function"]["name"]: tool["function"]["name"] for tool in tools}
        found: list[tuple[int, str, str]] = []
        for tag, name in names.items():
            if f"<{tag}>" not in text:
                continue
            for start, _, inner, closed in spans(text, tag):
                if start < after:
                    continue
                if closed:
                    found.append((start, name, inner.strip()))
                else:
                    problems.append(Problem("unclosed_call", f"<{tag}> has no </{tag}>"))
        return [
            ToolCall(f"call_{number}", name, _arguments(name, inner, tools))
            for number, (_, name, inner) in enumerate(sorted(found))
        ]

    def write(self, action: Action, tools: Sequence[Schema] = ()) -> str:
        """The tags that parse to this action."""
        parts = [f"<think>{action.thought}</think>"] if action.thought else []
        for call in action.calls:
            tag = _TAGS.get(call.name, call.name)
            text = call.arguments.get(argument_name(call.name, tools))
            if len(call.arguments) != 1 or not isinstance(text, str) or _arguments_differ(text):
                text = json.dumps(call.arguments, ensure_ascii=False, default=str)
            parts.append(f"<{tag}>{text}</{tag}>")
        if action.answer is not None:
            parts.append(f"<answer>{action.answer}</answer>")
        return "\n".join(parts)

    def results(
        self, calls: Sequence[ToolCall], results: Sequence[ToolResult], tools: Sequence[Schema] = ()
    ) -> list[Message]:
        """One user message with an ``<information>`` block a call."""
        blocks = (f"<information>{result.content}</information>" for result in results)
        return [Message("user", "\n".join(blocks))]


def tag_of(tool: Schema) -> str:
    """The tag that calls a tool."""
    name = str(tool["function"]["name"])
    return _TAGS.get(name, name)


def _arguments(name: str, inner: str, tools: Sequence[Schema]) -> dict[str, Any]:
    if inner.startswith("{"):
        try:
            parsed = read_json(inner)
        except ValueError:
            parsed = None
        if isinstance(parsed, dict):
            return parsed
    return {argument_name(name, tools): inner}


def _arguments_differ(text: str) -> bool:
    return text != text.strip() or text.startswith("{")


def _missing(text: str) -> Problem:
    if not text.strip():
        return Problem("empty_reply", "it was empty")
    return Problem("no_answer", "it has neither a tool call nor <answer>...</answer>")
