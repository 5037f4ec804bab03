"""``native``: the conversation with ``tool_calls`` and role ``tool``, as clients have it.

Whoever answers is given the tools beside the conversation and parses calls itself. A reply is text
all the same, so that actions stay texts: an assistant message without calls is its content, and
one with calls the JSON object ``{"content": ..., "tool_calls": [{"name", "arguments"}, ...]}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from toolgym.formats.base import Action, Format
from toolgym.formats.calls import NativeCall, add_native
from toolgym.formats.json_calls import CallScanner, read_reply
from toolgym.formats.scan import marks_and
from toolgym.formats.strategies import Strategy
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.tools.base import Schema

__all__ = ["NativeFormat", "told_of_tools"]

_PATTERN = marks_and(r"(\x00)(?!)")  # reasoning alone: calls do not stand in the content
_KEYS = {"content", "tool_calls"}


def told_of_tools(strategy: Strategy) -> str:
    """The system text of a strategy for those who are shown the tools by a template or server.

    Args:
        strategy: what is asked for.
    """
    if not strategy.instructions:
        return ""
    answer = (
        f"{strategy.thinking()} the final answer, in a few words, on a last line 'Answer: ...'."
    )
    if not strategy.tools:
        return f"Answer the question from what you know. {answer}"
    turns = "in one turn only" if strategy.tool_turns == 1 else "in as many turns as you want"
    return f"Answer the question. You may call functions {turns}. When you know it: {answer}"


class NativeFormat(Format):
    """Messages with ``tool_calls``; the tools stand beside the conversation, not in its text."""

    name = "native"
    native: ClassVar[bool] = True

    def question(self, message: Message) -> Message:
        """The question as it is."""
        return message

    def instructions(self, tools: Sequence[Schema]) -> str:
        """The system text for this strategy, without the tools."""
        return told_of_tools(self.strategy)

    def parse(self, text: str, tools: Sequence[Schema] = (), *, cut: bool = False) -> Action:
        """Read a message; see `Format.parse`. A message without calls is the answer."""
        message = _message(text)
        content = text if message is None else message["content"]
        scan = CallScanner(content, _PATTERN, cut)
        scan.run()
        offered = self.strategy.tools
        if message is None or not message["tool_calls"]:
            return read_reply(scan, tools, offered=offered, cut=cut)
        for call in message["tool_calls"]:
            add_native(scan.calls, call["name"], call["arguments"], complete=not cut)
        problems = scan.calls.problems
        if not offered:
            scan.thought = content.strip()
            return read_reply(scan, tools, offered=False, cut=cut)
        return Action(content.strip(), tuple(scan.calls.made), None, tuple(problems))

    def write(self, action: Action, tools: Sequence[Schema] = ()) -> str:
        """The text that parses to this action."""
        if not action.calls:
            parts = [action.thought] if action.thought else []
            parts += [f"Answer: {action.answer}"] if action.answer is not None else []
            content = "\n".join(parts)
            return content if _message(content) is None else _dump(content, [])
        return _dump(action.thought, action.calls)

    def results(
        self, calls: Sequence[ToolCall], results: Sequence[ToolResult], tools: Sequence[Schema] = ()
    ) -> list[Message]:
        """A message of role ``tool`` for each call."""
        both = zip(calls, results, strict=True)
        return [Message("tool", result.content, (), call.id, call.name) for call, result in both]


def _dump(content: str, calls: Sequence[ToolCall]) -> str:
    listed = [
        {
            "name": call.name,
            "arguments": call.text if isinstance(call, NativeCall) else call.arguments,
        }
        for call in calls
    ]
    return json.dumps({"content": content, "tool_calls": listed}, ensure_ascii=False)


def _message(text: str) -> dict[str, Any] | None:
    """The message that a text writes out, or None: the text is the content itself."""
    if not text.lstrip().startswith("{") or '"tool_calls"' not in text:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("tool_calls"), list):
        return None
    content = found.get("content")
    if not found.keys() <= {*_KEYS, "role"} or not isinstance(content, str | None):
        return None
    calls = [_call(item) for item in found["tool_calls"]]
    whole = [call for call in calls if call is not None]
    if len(whole) < len(calls):
        return None
    return {"content": content or "", "tool_calls": whole}


def _call(item: Any) -> dict[str, Any] | None:
    """A call in short, also where it is written as clients do; None: it is none."""
    inner: Any = item.get("function", item) if isinstance(item, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        return None
    return {"name": name, "arguments": inner.get("arguments")}
