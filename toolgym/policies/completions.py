"""Chat completions: what is sent for a turn, and what comes back as a reply with its tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from toolgym.errors import EndpointError, PolicyError
from toolgym.policies.base import Reply, ReplyTokens, Request, cut_at_stop, with_stop
from toolgym.policies.requests import at, read_native, with_text_arguments

__all__ = [
    "MOST_STOPS",
    "NothingError",
    "body_of",
    "ids_of",
    "reasoning_of",
    "reply_of",
    "tokens_of",
]

MOST_STOPS = 4  # what the interface allows
_REASONED = ("reasoning_content", "reasoning")  # fields of SGLang and llama.cpp, and of vLLM
_THOUGHT = re.compile(r"<think>\n(.*?)\n</think>\n*", re.DOTALL)
_GIVEN_UP = ("abort", "error")  # finish reasons of vLLM and SGLang: what came is no reply


class NothingError(EndpointError):
    """A reply without text or calls: no turn of the model, but a failure of its server."""


def body_of(
    request: Request,
    model: str,
    sampling: Mapping[str, Any],
    *,
    native_tools: bool,
    reasoning: str = "",
) -> dict[str, Any]:
    """The request's body.

    Args:
        request: of one turn.
        model: the server's name for it.
        sampling: settings; None values are left out.
        native_tools: whether the tools are sent as such.
        reasoning: the field in which the server gave its reasoning, and gets it back.
    """
    chats = map(with_text_arguments, request.messages)
    body: dict[str, Any] = {
        "model": model,
        "messages": [_given_back(chat, reasoning) for chat in chats] if reasoning else [*chats],
        "seed": request.seed % 2**31,  # servers differ in how large a seed may be
        **{name: value for name, value in sampling.items() if value is not None},
    }
    if request.format.stop:
        body["stop"] = list(request.format.stop[:MOST_STOPS])
    if native_tools and request.tools:
        body["tools"] = request.tools
    return body


def _given_back(chat: dict[str, Any], field: str) -> dict[str, Any]:
    """A reply as the server gave it: its reasoning in a field of its own."""
    found = _THOUGHT.match(chat["content"] or "") if chat["role"] == "assistant" else None
    if found is None:
        return chat
    return {**chat, "content": chat["content"][found.end() :], field: found[1]}


def reasoning_of(message: Any) -> tuple[str, str]:
    """A message's reasoning and the field that holds it; empty where it has none.

    Args:
        message: of a chat completion.
    """
    for name in _REASONED:
        said = at(message, name)
        if isinstance(said, str) and said.strip():
            return said.strip("\n"), name
    return "", ""


def reply_of(completion: Any, request: Request) -> Reply:
    """A completion as a reply, native calls written in the request's format, too.

    Raises:
        EndpointError: it is not a chat completion.
        NothingError: it holds neither text nor calls, or the server ended it in the middle.
    """
    choice = at(at(completion, "choices"), 0)
    message = at(choice, "message")
    if message is None:
        raise EndpointError(
            "bad_reply", f"the server sent what is not a chat completion: {completion!r:.200}"
        )
    finish = at(choice, "finish_reason")
    if finish in _GIVEN_UP:
        raise NothingError("bad_reply", f"the server gave the reply up ({finish!r})")
    thought, content = reasoning_of(message)[0], at(message, "content")
    told = any(at(message, field) for field in ("tool_calls", "refusal"))
    if content is None and not told and not thought:
        raise NothingError(
            "bad_reply",
            f"the reply holds neither text nor calls (finish_reason {finish!r}): a "
            "reasoning model may need a higher max_tokens",
        )
    if thought and isinstance(content, str | None):
        whole = f"<think>\n{thought}\n</think>\n\n{content or ''}"
        if not content and not told and finish == "length":
            whole = f"<think>\n{thought}"  # it was cut before it had thought to an end
        message = {**message, "content": whole}
    try:
        reply = read_native(
            {"choices": [{"message": message, "finish_reason": finish}]}, request, own_ids=False
        )
    except PolicyError as error:
        raise EndpointError("bad_reply", f"the server sent what is not a reply: {error}") from error
    if reply.said is not None:
        return reply
    text = cut_at_stop(reply.text, request)
    if any(stop in reply.text for stop in request.format.stop):
        return Reply(text)  # a server that passes over stop texts writes on until it is cut
    if finish == "stop":
        return Reply(with_stop(text, _stops(choice, request), request))
    return reply


def _stops(choice: Any, request: Request) -> tuple[str, ...]:
    """Servers leave the stop text out of the reply; vLLM says which one it was."""
    if "stop_reason" not in choice:
        return request.format.stop
    reason = choice["stop_reason"]
    return (reason,) if isinstance(reason, str) else ()


def tokens_of(completion: Any) -> ReplyTokens | None:
    """The tokens of a chat completion, where the server says all of them.

    Args:
        completion: as it came.
    """
    choice = at(at(completion, "choices"), 0)
    prompt = at(completion, "prompt_token_ids") or at(choice, "prompt_token_ids")
    ids, logprobs = ids_of(choice)
    return ReplyTokens(prompt, ids, logprobs) if prompt and ids and _whole(prompt) else None


def ids_of(choice: Any) -> tuple[list[int] | None, list[float] | None]:
    """Ids and log-probabilities that were sampled for a choice; None for what is not said.

    vLLM, and SGLang from 2026, give ids when asked for ``return_token_ids``; SGLang from 0.5.13
    gives both among what it measured, when asked for ``return_meta_info``.

    Args:
        choice: of a completion.
    """
    ids, listed = at(choice, "token_ids"), at(choice, "logprobs")
    measured = at(at(choice, "meta_info"), "output_token_logprobs")
    if isinstance(measured, list):
        logprobs: Any = [at(one, 0) for one in measured]
        ids = [at(one, 1) for one in measured] if ids is None else ids
    elif isinstance(at(listed, "content"), list):
        logprobs = [at(one, "logprob") for one in listed["content"]]
    else:
        logprobs = at(listed, "token_logprobs")
    if not _whole(ids):
        return None, None
    known = isinstance(logprobs, list) and len(logprobs) == len(ids)
    if not known or not all(type(one) in (int, float) for one in logprobs):
        return ids, None
    return ids, [float(one) for one in logprobs]


def _whole(ids: Any) -> bool:
    return isinstance(ids, list) and all(type(one) is int for one in ids)
