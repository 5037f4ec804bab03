"""Requests as bodies of OpenAI-compatible chat completions, and completions as replies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toolgym.errors import EndpointError
from toolgym.formats import Action
from toolgym.formats.base import argument_name
from toolgym.messages import Chat, ToolCall
from toolgym.policies.base import Request
from toolgym.policies.conversation import cut_at_stop, with_stop

__all__ = ["body_of", "reply_of"]

_MOST_STOPS = 4  # what the interface allows


def body_of(
    request: Request, model: str, sampling: Mapping[str, Any], *, native_tools: bool
) -> dict[str, Any]:
    """The request's body.

    Args:
        request: of one turn.
        model: the server's name for it.
        sampling: settings; None values are left out.
        native_tools: whether the tools are sent as such.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [_sent(chat) for chat in request.messages],
        "seed": request.seed % 2**31,  # servers differ in how large a seed may be
        **{name: value for name, value in sampling.items() if value is not None},
    }
    if request.format.stop:
        body["stop"] = list(request.format.stop[:_MOST_STOPS])
    if native_tools and request.tools:
        body["tools"] = request.tools
    return body


def reply_of(completion: Any, request: Request) -> str:
    """The text of a completion, native calls written in the request's format.

    Raises:
        EndpointError: it is no chat completion.
    """
    choices = getattr(completion, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise EndpointError(
            "bad_reply", f"the server sent what is no chat completion: {completion!r:.200}"
        )
    choice = choices[0]
    text, calls = choice.message.content or "", choice.message.tool_calls or ()
    if not isinstance(text, str):
        raise EndpointError("bad_reply", f"the reply's content is no text: {text!r:.200}")
    if calls:
        read = tuple(_call(call, number, request) for number, call in enumerate(calls))
        return request.format.write(Action(text.strip(), read), request.tools)
    cut = cut_at_stop(text, request)
    if cut != text or choice.finish_reason != "stop":
        return cut
    return with_stop(text, _stops(choice, request), request)


def _stops(choice: Any, request: Request) -> tuple[str, ...]:
    """Servers leave the stop text out of the reply; vLLM says which one it was."""
    extra = choice.model_extra or {}
    if "stop_reason" not in extra:
        return request.format.stop
    reason = extra["stop_reason"]
    return (reason,) if isinstance(reason, str) else ()


def _call(call: Any, number: int, request: Request) -> ToolCall:
    function = getattr(call, "function", None)
    if function is None or not isinstance(function.name, str):
        raise EndpointError("bad_reply", f"tool call {number + 1} has no function: {call!r:.200}")
    given = function.arguments
    try:
        arguments = json.loads(given) if isinstance(given, str) and given.strip() else given or {}
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        # The model's mistake, not the server's: the tool is to see it and to complain.
        arguments = {argument_name(function.name, request.tools): str(given)}
    return ToolCall(f"call_{number}", function.name, arguments)


def _sent(chat: Chat) -> Chat:
    """A message as servers want it: arguments of calls as JSON text."""
    if "tool_calls" not in chat:
        return chat
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for call in chat["tool_calls"]
    ]
    return {**chat, "tool_calls": calls}
