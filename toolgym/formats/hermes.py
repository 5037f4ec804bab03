"""``hermes``: calls as JSON between ``<tool_call>`` tags, as Hermes and Qwen models write them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from toolgym.formats.base import Action, Format
from toolgym.formats.json_calls import read_answer, read_call, written_instructions
from toolgym.formats.scan import spans, without_think
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem

__all__ = ["HermesFormat"]


class HermesFormat(Format):
    """JSON calls in tags. Tools stand in the system text: it works with any chat template."""

    name = "hermes"

    def instructions(self, tools: Sequence[Schema]) -> str:
        """The system text for this strategy, in our own words."""
        calling = (
            "For each call write a JSON object with name and arguments between these tags:\n"
            '<tool_call>\n{"name": "function name", "arguments": {"parameter": "value"}}\n'
            "</tool_call>\nThe results come in the next message"
        )
        frame = "<tools>\n{documents}\n</tools>"
        return written_instructions(self.strategy, tools, frame, calling)

    def parse(self, text: str, tools: Sequence[Schema] = ()) -> Action:
        """Read calls and answer; see `Format.parse`. Text without a call is the answer."""
        content = without_think(text)
        calls: list[ToolCall] = []
        problems: list[Problem] = []
        first = len(content)
        if self.strategy.tools:
            for start, _, inner, closed in spans(content, "tool_call"):
                first = min(first, start)
                complete = closed or inner.rstrip().endswith("}")
                read, notes = read_call(inner, len(calls), complete=complete)
                if isinstance(read, ToolCall):
                    calls.append(read)
                else:
                    problems.append(read)
                problems += notes
        before = content[:first].strip()
        if calls:
            return Action(before, tuple(calls), None, tuple(problems))
        if problems:
            return Action(before, (), None, tuple(problems))
        return read_answer(content)

    def write(self, action: Action, tools: Sequence[Schema] = ()) -> str:
        """The text that parses to this action."""
        parts = [action.thought] if action.thought else []
        for call in action.calls:
            body = {"name": call.name, "arguments": call.arguments}
            text = json.dumps(body, ensure_ascii=False, default=str)
            parts.append(f"<tool_call>\n{text}\n</tool_call>")
        if action.answer is not None:
            parts.append(f"Answer: {action.answer}")
        return "\n".join(parts)

    def results(
        self, calls: Sequence[ToolCall], results: Sequence[ToolResult], tools: Sequence[Schema] = ()
    ) -> list[Message]:
        """One user message with a ``<tool_response>`` block a call."""
        blocks = (f"<tool_response>\n{result.content}\n</tool_response>" for result in results)
        return [Message("user", "\n".join(blocks))]
