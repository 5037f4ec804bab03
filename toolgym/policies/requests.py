"""What passes between a rollout and a policy: requests, replies and messages with native calls."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolgym.errors import PolicyError
from toolgym.formats import Action, Format
from toolgym.formats.calls import Calls, add_native
from toolgym.formats.turn import Turn
from toolgym.messages import Chat, Message, ToolCall, opening_length
from toolgym.tools.base import Schema
from toolgym.trajectory import Tokens

__all__ = [
    "Lockstep",
    "Reply",
    "ReplyTokens",
    "Request",
    "Stream",
    "at",
    "join_tokens",
    "read_native",
    "sampled",
    "with_text_arguments",
    "wrote_text_arguments",
]

# OpenAI and vLLM; Anthropic; Mistral; and filters, which leave out what they do not like.
_CUT = ("length", "max_tokens", "model_length", "content_filter", "safety", "recitation")
_FIELDS = ("content", "tool_calls", "function_call")  # one of them makes a mapping a message


@dataclass(frozen=True, slots=True)
class Request:
    """What a policy is told in one turn. Never the gold answer.

    Args:
        messages: the whole conversation as chat dicts.
        tools: function-calling documents.
        format: the codec that will read the reply; ``format.stop`` are its stop texts.
        seed: for this turn's sampling; the same run gives the same number.
        episode: ``task id#sample``, unique within a run: a key for state kept between turns.
        turn: number of this turn, from 0.
        examples: worked examples before the question: their replies are nobody's own.
        tokens_left: tokens that may still be written in the episode; None: any number. A policy
            that can holds its reply to it.
    """

    messages: list[Chat]
    tools: list[Schema]
    format: Format
    seed: int = 0
    episode: str = ""
    turn: int = 0
    examples: int = 0
    tokens_left: int | None = None

    @property
    def opening(self) -> int:
        """How many messages stand before the policy's own first reply."""
        return opening_length([m["role"] for m in self.messages], self.turn, self.examples)


@dataclass(frozen=True, slots=True)
class ReplyTokens:
    """A reply as token ids.

    Args:
        prompt_ids: [prompt] all that the model read in this turn.
        completion_ids: [reply] what it sampled, end token included.
        logprobs: [reply] log-probability of each sampled token at temperature 1, or None; of the
            model alone, also where it was guided.
        guided: a grammar decided which tokens could be sampled.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float] | None = None
    guided: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """One assistant turn.

    Args:
        text: as the environment's ``step`` takes it.
        tokens: the same in token ids, when the policy knows them.
        cut: it ended at the limit of its length, in the middle.
        said: what it says, where that came as a message with native calls and not as text.
        count: tokens that were written for it, where they are known; those of ``tokens`` count
            first.
    """

    text: str
    tokens: ReplyTokens | None = None
    cut: bool = False
    said: Action | None = None
    count: int | None = None

    @property
    def turn(self) -> str:
        """The text as an action that carries what text cannot say."""
        written = self.count
        if isinstance(self.tokens, ReplyTokens) and isinstance(self.tokens.completion_ids, list):
            written = len(self.tokens.completion_ids)
        if self.cut or self.said or written is not None:
            return Turn(self.text, self.said, self.cut, written)
        return self.text


def join_tokens(turns: Sequence[ReplyTokens | None], tokenizer: str) -> Tokens | None:
    """An episode's tokens from those of its turns.

    Args:
        turns: one a turn; each prompt must begin with all that stood before it.
        tokenizer: hash of the tokenizer.

    Returns:
        None when a turn has no tokens, or re-rendered what had been said: then nobody can claim
        that these were the tokens, and training has to tokenise again.
    """
    first = turns[0] if turns else None
    if first is None:
        return None
    prompt = list(first.prompt_ids)
    completion: list[int] = []
    mask: list[int] = []
    logprobs: list[float] = []
    for turn in turns:
        if turn is None:
            return None
        so_far = len(prompt) + len(completion)
        if turn.prompt_ids[:so_far] != prompt + completion:
            return None
        between = turn.prompt_ids[so_far:]
        completion += [*between, *turn.completion_ids]
        mask += [0] * len(between) + [1] * len(turn.completion_ids)
        logprobs += [0.0] * len(between) + list(turn.logprobs or ())
    known = all(turn is not None and turn.logprobs is not None for turn in turns)
    guided = any(turn is not None and turn.guided for turn in turns)
    return Tokens(prompt, completion, mask, logprobs if known else None, tokenizer, guided)


class Stream(ABC):
    """A conversation with a policy whose replies come when they are ready, in any order.

    Attributes:
        written: tokens sampled so far, for policies that count them.
    """

    written: int = 0

    @abstractmethod
    def begin(self, requests: Mapping[Hashable, Request]) -> None:
        """Hand in requests, beside those that are still open.

        Args:
            requests: by a key that no open request has.
        """

    @abstractmethod
    def advance(self) -> Mapping[Hashable, Reply | Exception]:
        """Work on the open requests for a while, about a second at most.

        Returns:
            By key what has been answered meanwhile, perhaps nothing; a request that failed is
            answered by its exception.
        """


def sampled(reply: Reply | Exception) -> int:
    """How many tokens a reply says that it was sampled with; a user's may say anything for ids."""
    tokens = reply.tokens if isinstance(reply, Reply) else None
    ids = tokens.completion_ids if isinstance(tokens, ReplyTokens) else None
    return len(ids) if isinstance(ids, list) else 0


class Lockstep(Stream):
    """All open requests are answered by one call.

    Args:
        act: as `Policy.act`.
    """

    def __init__(self, act: Callable[[Sequence[Request]], list[Reply | Exception]]) -> None:
        self._act = act
        self._open: dict[Hashable, Request] = {}

    def begin(self, requests: Mapping[Hashable, Request]) -> None:
        """Hand in requests."""
        self._open.update(requests)

    def advance(self) -> Mapping[Hashable, Reply | Exception]:
        """Answer all.

        Raises:
            PolicyError: there are more or fewer replies than requests.
        """
        asked, self._open = self._open, {}
        replies = list(self._act(list(asked.values())))
        if len(replies) != len(asked):
            raise PolicyError(f"the policy gave {len(replies)} replies to {len(asked)} requests")
        self.written += sum(map(sampled, replies))
        return dict(zip(asked, replies, strict=True))


def read_native(value: Any, request: Request, *, own_ids: bool = True) -> Reply:
    """A message as a reply, whoever's class it is.

    Read are `Message`, chat dicts, the message objects and completions of OpenAI's client and what
    their ``model_dump()`` gives, LangChain's ``AIMessage``, and whatever has the same fields.

    Args:
        value: the message.
        request: which it answers.
        own_ids: keep the ids of its calls; else the environment numbers them, so that a server's
            random ones do not stand in the record.

    Raises:
        PolicyError: it is not a message of the assistant.
    """
    value, cut = _unwrapped(value)
    known = (
        any(field in value for field in _FIELDS)
        if isinstance(value, Mapping)
        else hasattr(value, "content")
    )
    if not known:
        raise PolicyError(
            "a policy returns a string, a Message, a chat dict or a client's message object, not "
            f"{type(value).__name__}"
        )
    role = _field(value, "role")
    if role not in (None, "assistant"):
        raise PolicyError(f"the policy returned a message of role {str(role)!r:.80}, not assistant")
    text = _text(_field(value, "content") or _field(value, "refusal"))
    found = _calls(value)
    if not found:
        return Reply(text, cut=cut)
    thought, calls = text.strip(), Calls()
    read, written, taken = list[ToolCall](), list[ToolCall](), {""}
    for call_id, name, given in found:
        before = len(calls.made)
        written.append(add_native(calls, name, given, complete=not cut))
        if len(calls.made) > before:
            # The same id twice cannot tell calls apart.
            known = own_ids and isinstance(call_id, str) and call_id not in taken
            read.append(replace(calls.made[-1], id=call_id if known else ""))
            taken.add(read[-1].id)
    said = Action(thought, tuple(read), None, tuple(calls.problems))
    whole = request.format.write(Action(thought, tuple(written)), request.tools)
    return Reply(whole, cut=cut, said=said)


def _unwrapped(value: Any) -> tuple[Any, bool]:
    """The message, taken out of a completion, and whether it was cut."""
    choices = _field(value, "choices")
    if isinstance(choices, list | tuple) and choices:
        return _field(choices[0], "message"), _was_cut(choices[0])
    return value, _was_cut(value) or _was_cut(_field(value, "response_metadata"))


def _was_cut(holder: Any) -> bool:
    """Whether a choice or a message says that it was cut before its end."""
    reasons = (_field(holder, "finish_reason"), _field(holder, "stop_reason"))
    return any(isinstance(reason, str) and reason.lower() in _CUT for reason in reasons)


def wrote_text_arguments(value: Any) -> bool:
    """Whether the calls of a policy's message come as clients send them: arguments as JSON text."""
    if isinstance(value, Message):
        return False
    value, _ = _unwrapped(value)
    return not isinstance(value, Mapping) or any(isinstance(a, str) for *_, a in _calls(value))


def with_text_arguments(chat: Chat) -> Chat:
    """A chat dict as clients and servers send it: arguments of calls as JSON text."""
    if "tool_calls" not in chat:
        return chat
    calls = []
    for call in chat["tool_calls"]:
        function = call["function"]
        text = json.dumps(function["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**function, "arguments": text}})
    return {**chat, "tool_calls": calls}


def at(value: Any, place: str | int) -> Any:
    """What JSON holds under a name or at a number; None where it is of another shape.

    Args:
        value: read from JSON.
        place: a key of an object or the index of a list.
    """
    if isinstance(place, str):
        return value.get(place) if isinstance(value, Mapping) else None
    return value[place] if isinstance(value, list) and len(value) > place else None


def _field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def _text(content: Any) -> str:
    """The text of a message whose content is a string or a list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list | tuple) and all(
        isinstance(part, str | Mapping) or hasattr(part, "type") for part in content
    ):
        parts = [part if isinstance(part, str) else _field(part, "text") for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    raise PolicyError(
        f"the policy returned a message whose content is not a string: {content!r:.80}"
    )


def _calls(value: Any) -> list[tuple[Any, str, Any]]:
    """Id, name and arguments of each call, as they came."""
    listed: list[Any] = []
    for field in ("tool_calls", "invalid_tool_calls"):
        items = _field(value, field) or ()
        if not isinstance(items, list | tuple):
            raise PolicyError(f"the policy returned {field} that are not a list: {items!r:.80}")
        listed += items
    content = _field(value, "content")
    if not listed and isinstance(content, list | tuple):  # Anthropic's: calls among the parts
        listed = [part for part in content if _field(part, "type") == "tool_use"]
    if not listed and _field(value, "function_call"):
        listed = [{"function": _field(value, "function_call")}]
    found = []
    for number, item in enumerate(listed, 1):
        function = _field(item, "function") or item
        name, arguments = _field(function, "name"), _field(function, "arguments")
        if arguments is None:
            arguments = _field(item, "args") or _field(item, "input")
        if not isinstance(name, str):
            raise PolicyError(
                f"the policy returned tool call {number} without a name: {item!r:.200}"
            )
        found.append((_field(item, "id"), name, arguments))
    return found
