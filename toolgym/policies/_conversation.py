"""What policies read out of a request: the question, and the results of the last turn's calls."""

from __future__ import annotations

from toolgym.formats import Format
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.policies.base import Request
from toolgym.toolset import Schema

__all__ = ["finished_text", "last_results", "question_of"]

_MARK = "\ue000"  # private use: stands for a text whose surroundings are wanted


def question_of(request: Request) -> str:
    """The question as the task words it: the first user message without the format's own words."""
    content = next((m["content"] for m in request.messages if m["role"] == "user"), "")
    before, _, after = request.format.question(Message("user", _MARK)).content.partition(_MARK)
    return str(content).removeprefix(before).removesuffix(after).strip()


def last_results(request: Request) -> list[tuple[ToolCall, str]]:
    """The calls of the last assistant turn with what the tools answered.

    Returns:
        Empty when no call was made, or when the messages are not those that the format writes.
    """
    turns = [n for n, m in enumerate(request.messages) if m["role"] == "assistant"]
    if not turns:
        return []
    text = request.messages[turns[-1]]["content"]
    calls = request.format.parse(text, request.tools).calls
    if not calls:
        return []
    marked = [ToolResult(call.id, f"{_MARK}{n}{_MARK}") for n, call in enumerate(calls)]
    shape = request.format.results(calls, marked, request.tools)
    pattern = _MARK.join(message.content for message in shape)
    given = _MARK.join(str(m["content"]) for m in request.messages[turns[-1] + 1 :])
    return list(zip(calls, _between(pattern.split(_MARK)[::2], given), strict=False))


def _between(fixed: list[str], text: str) -> list[str]:
    """The texts that stand between the fixed ones."""
    if not text.startswith(fixed[0]):
        return []
    position, found = len(fixed[0]), []
    for after in fixed[1:]:
        end = text.find(after, position) if after else len(text)
        if end < 0:
            break
        found.append(text[position:end])
        position = end + len(after)
    return found


def finished_text(text: str, stops: tuple[str, ...], format: Format, tools: list[Schema]) -> str:
    """A reply that ended at a stop text, with that text put back where the format cannot do without.

    A closing tag belongs to the reply; the beginning of an imagined tool response does not.

    Args:
        text: the reply before the stop text.
        stops: the stop texts that may have ended it.
        format: reads the reply.
        tools: function-calling documents.
    """
    if not stops or _decides(text, format, tools):
        return text
    closed = (text + stop for stop in stops)
    return next((whole for whole in closed if _decides(whole, format, tools)), text)


def _decides(text: str, format: Format, tools: list[Schema]) -> bool:
    action = format.parse(text, tools)
    return bool(action.calls) or action.answer is not None
