"""What a policy is to the rollout: requests in, replies out; anything callable can be one."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from toolgym.errors import BadInputError, PolicyError, ToolgymError
from toolgym.formats import Action, Format
from toolgym.messages import Chat, Message, ToolCall, ToolResult
from toolgym.registry import POLICIES
from toolgym.tools.base import Schema

__all__ = [
    "CallablePolicy",
    "Policy",
    "Reply",
    "ReplyTokens",
    "Request",
    "cut_at_stop",
    "make_policy",
    "past_results",
    "question_of",
    "with_stop",
]


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
    """

    messages: list[Chat]
    tools: list[Schema]
    format: Format
    seed: int = 0
    episode: str = ""
    turn: int = 0


@dataclass(frozen=True, slots=True)
class ReplyTokens:
    """A reply as token ids.

    Args:
        prompt_ids: [prompt] all that the model read in this turn.
        completion_ids: [reply] what it sampled, end token included.
        logprobs: [reply] log-probability of each sampled token at temperature 1, or None.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One assistant turn.

    Args:
        text: as the environment's ``step`` takes it.
        tokens: the same in token ids, when the policy knows them.
    """

    text: str
    tokens: ReplyTokens | None = None


class Policy(ABC):
    """Base class of policies that know more than a callable: batches, tokens, seeds.

    ``batched`` policies get the requests of all running episodes at once; others get one request a
    call, from as many threads as there are concurrent episodes.
    """

    batched: ClassVar[bool] = False
    tokenizer_hash: str = ""
    """Hash of vocabulary and chat template, for policies that say their tokens."""

    @abstractmethod
    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Answer requests in order; a request that failed is answered by its exception."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Plain data for ``run.json``: what to say about the policy, sampling settings included."""

    def forget(self, episode: str) -> None:  # noqa: B027 - most policies keep nothing
        """The episode has ended: drop what was kept for it."""

    def close(self) -> None:  # noqa: B027 - most policies hold nothing open
        """Release models and connections."""


PolicyFunction = Callable[[list[Chat], list[Schema]], Any]


@dataclass
class CallablePolicy(Policy):
    """A function of ``(messages, tools)`` that returns text, a `Message` or a chat dict.

    Args:
        function: may be ``async``.
        name: for reports.
    """

    function: PolicyFunction
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Call the function for each request."""
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Reply | Exception:
        try:
            value = self.function(request.messages, request.tools)
            if inspect.isawaitable(value):
                value = asyncio.run(_wait(value))
            return Reply(reply_text(value, request))
        except ToolgymError as error:
            return error
        except Exception as error:  # a policy is the user's code: its failure is data of the run
            raised = PolicyError(f"the policy raised {type(error).__name__}: {error}")
            raised.__cause__ = error
            return raised

    def describe(self) -> dict[str, Any]:
        """The function's name."""
        name = self.name or getattr(self.function, "__qualname__", type(self.function).__name__)
        return {"policy": "callable", "name": name}


async def _wait(value: Any) -> Any:
    return await value


def reply_text(value: Any, request: Request) -> str:
    """What a policy returned as the text that the format reads; native calls are written in it.

    Raises:
        PolicyError: it returned something that is no reply.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        try:
            value = Message.from_chat({"role": "assistant", **value})
        except BadInputError as error:
            raise PolicyError(
                f"the policy returned a message that cannot be read: {error}"
            ) from error
    if not isinstance(value, Message):
        raise PolicyError(
            f"a policy returns text, a Message or a chat dict, not {type(value).__name__}"
        )
    if not value.tool_calls:
        return value.content
    return request.format.write(Action(value.content, value.tool_calls), request.tools)


def make_policy(policy: Policy | PolicyFunction | str, **options: Any) -> Policy:
    """A policy from whatever a user may write.

    Args:
        policy: a `Policy`, a callable, ``name`` or ``name:argument`` of a registered policy (such
            as ``lookup``, ``replay:runs/first``, ``transformers:path/to/model``), or
            ``module:function`` of the user's own.
        options: passed to a registered policy's factory.

    Raises:
        UnknownNameError: no policy has that name and no module of that name exists.
        BadInputError: the module has no such callable.
    """
    if isinstance(policy, Policy):
        return policy
    if callable(policy):
        return CallablePolicy(policy)
    name, _, argument = policy.partition(":")
    if name in POLICIES:
        factory = POLICIES.get(name)
        given = (argument,) if argument else ()
        try:
            inspect.signature(factory).bind(*given, **options)
        except TypeError as error:
            accepted = ", ".join(inspect.signature(factory).parameters) or "none"
            raise BadInputError(
                f"policy {policy!r}: {error}; its arguments: {accepted} (the first one may follow "
                f"the name: {name}:...)"
            ) from error
        made = factory(*given, **options)
        if not isinstance(made, Policy):
            raise BadInputError(f"policy {name!r} is registered but makes no Policy: {made!r:.80}")
        return made
    if argument and argument.isidentifier():
        return CallablePolicy(_import_function(name, argument), name=policy)
    POLICIES.get(name)  # raises with near names
    raise AssertionError("unreachable")


def _import_function(module: str, attribute: str) -> PolicyFunction:
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise BadInputError(
            f"policy {module + ':' + attribute!r}: there is no module {error.name!r} "
            f"(registered policies: {', '.join(POLICIES)})"
        ) from error
    function = getattr(loaded, attribute, None)
    if not callable(function):
        raise BadInputError(f"module {module!r} has no callable {attribute!r}")
    return function  # type: ignore[no-any-return]


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
