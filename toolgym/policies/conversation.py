"""What policies read out of a request: the question, and what tools have answered."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.policies.base import Request

__all__ = ["cut_at_stop", "past_results", "question_of", "with_stop"]

_MARK = "\ue000"  # private use: stands for a text whose surroundings are wanted


def question_of(request: Request) -> str:
    """The question as the task words it: the first user message without the format's own words."""
    content = next((m["content"] for m in request.messages if m["role"] == "user"), "")
    before, _, after = request.format.question(Message("user", _MARK)).content.partition(_MARK)
    return str(content).removeprefix(before).removesuffix(after).strip()


def past_results(request: Request) -> list[tuple[ToolCall, str]]:
    """All calls of the conversation so far, each with what its tool answered, in order.

    Turns whose replies are not in the format's own words are passed over.
    """
    turns = [n for n, m in enumerate(request.messages) if m["role"] == "assistant"]
    found: list[tuple[ToolCall, str]] = []
    for begin, end in itertools.pairwise([*turns, len(request.messages)]):
        calls = request.format.parse(request.messages[begin]["content"], request.tools).calls
        if not calls:
            continue
        marked = [ToolResult(call.id, f"{_MARK}{n}{_MARK}") for n, call in enumerate(calls)]
        shape = request.format.results(calls, marked, request.tools)
        fixed = _MARK.join(message.content for message in shape).split(_MARK)[::2]
        given = _MARK.join(str(m["content"]) for m in request.messages[begin + 1 : end])
        found += zip(calls, _between(fixed, given), strict=False)
    return found


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


def cut_at_stop(text: str, request: Request) -> str:
    """A reply up to its first stop text; that text is kept where the format cannot do without it.

    A closing tag belongs to the reply; the beginning of an imagined tool response does not.
    """
    found = [(text.index(stop), stop) for stop in request.format.stop if stop in text]
    if not found:
        return text
    begin, stop = min(found)
    return with_stop(text[:begin], (stop,), request)


def with_stop(text: str, stops: Sequence[str], request: Request) -> str:
    """A reply whose stop text was left out, with it put back where the format cannot do without.

    Args:
        text: the reply before the stop text.
        stops: those that may have ended it.
        request: whose format reads the reply.
    """
    if _decides(text, request):
        return text
    whole = (text + stop for stop in stops)
    return next((reply for reply in whole if _decides(reply, request)), text)


def _decides(text: str, request: Request) -> bool:
    action = request.format.parse(text, request.tools)
    return bool(action.calls) or action.answer is not None
