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

from toolgym.errors import BadInputError, PolicyError, ToolgymError, in_words
from toolgym.formats.base import MARK, results_in
from toolgym.messages import Chat, Message, ToolCall
from toolgym.policies.requests import (
    Lockstep,
    Reply,
    ReplyTokens,
    Request,
    Stream,
    join_tokens,
    read_native,
    with_text_arguments,
    wrote_text_arguments,
)
from toolgym.registry import POLICIES
from toolgym.tools.base import Schema

__all__ = [
    "CallablePolicy",
    "Lane",
    "Lockstep",
    "Policy",
    "Reply",
    "ReplyTokens",
    "Request",
    "Stream",
    "cut_at_stop",
    "join_tokens",
    "make_policy",
    "past_results",
    "question_of",
    "with_stop",
]


Lane = Callable[[Reply | Exception | None], Request | None]
"""Requests that follow from replies: called with None it gives the first one, then for the reply to
each, or why there is none, the next one, and None at its end."""


class Policy(ABC):
    """Base class of policies that know more than a callable: batches, tokens, seeds.

    ``batched`` policies get the requests of all running episodes at once; those that ``send`` get
    them as they arise and answer later; others get one request a call, from as many threads as
    there are concurrent episodes.
    """

    batched: ClassVar[bool] = False
    tokenizer_hash: str = ""
    """Hash of vocabulary and chat template, for policies that say their tokens."""

    @property
    def concurrency(self) -> int:
        """Episodes that a rollout runs at once where nobody says how many."""
        return 128 if self.batched else 16

    @property
    def sends(self) -> bool:
        """Whether `send` can be used, so that no thread has to wait for each reply."""
        return False

    @property
    def notice(self) -> str:
        """What the policy waits for now, in words for a progress line; empty as a rule."""
        return ""

    @abstractmethod
    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Answer requests in order; a request that failed is answered by its exception."""

    def stream(self) -> Stream:
        """A fresh stream, which a rollout with a ``batched`` policy uses in place of `act`.

        Episodes whose replies have come are stepped and ask again while the others are still
        waiting for theirs. By default all of them wait for one call of `act`.
        """
        return Lockstep(self.act)

    def send(self, lanes: Sequence[Lane]) -> None:
        """Ask what these lanes ask for until their ends, and do not wait; only where ``sends``.

        Args:
            lanes: called in any thread, and not within this call; each by one thread at a time.
        """
        raise NotImplementedError(f"{type(self).__name__} does not send: use act()")

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Plain data for ``run.json``: what to say about the policy, sampling settings included."""

    def forget(self, episode: str) -> None:  # noqa: B027 - most policies keep nothing
        """The episode has ended: drop what was kept for it."""

    def cancel(self) -> None:  # noqa: B027 - most policies answer at once
        """Give up what is being asked for, from another thread: the rollout was interrupted."""

    def close(self) -> None:  # noqa: B027 - most policies hold nothing open
        """Release models and connections."""


PolicyFunction = Callable[[list[Chat], list[Schema]], Any]


@dataclass
class CallablePolicy(Policy):
    """A function of ``(messages, tools)`` that returns text or a message.

    A message may be a `Message`, a chat dict or a client's own object (`read_native`). After a
    reply with native calls the conversation goes on in their shape: ``tool_calls`` with the ids
    that came, and results of role ``tool``.

    Args:
        function: may be ``async``.
        name: for reports.
    """

    function: PolicyFunction
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    _as_text: set[str] = field(default_factory=set, init=False, repr=False)

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Call the function for each request."""
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Reply | Exception:
        messages = request.messages
        if request.episode in self._as_text:
            messages = list(map(with_text_arguments, messages))
        try:
            value = self.function(messages, request.tools)
            if inspect.isawaitable(value):
                value = asyncio.run(_wait(value))
            if isinstance(value, str | Reply):
                return value if isinstance(value, Reply) else Reply(value)
            reply = read_native(value, request)
            if reply.said is not None and wrote_text_arguments(value):
                self._as_text.add(request.episode)
            return reply
        except ToolgymError as error:
            return error
        # A policy is the user's code: its failure is data of the run, also where it wants to exit.
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            raised = PolicyError(f"the policy raised {type(error).__name__}: {in_words(error)}")
            raised.__cause__ = error
            return raised

    def forget(self, episode: str) -> None:
        """Drop what was kept of an ended episode."""
        self._as_text.discard(episode)

    def describe(self) -> dict[str, Any]:
        """The function's name."""
        name = self.name or getattr(self.function, "__qualname__", type(self.function).__name__)
        return {"policy": "callable", "name": name}


async def _wait(value: Any) -> Any:
    return await value


def make_policy(policy: Policy | PolicyFunction | str, **options: Any) -> Policy:
    """A policy from whatever a user may write.

    Args:
        policy: a `Policy`, a callable, a client of OpenAI's or Anthropic's, ``name`` or
            ``name:argument`` of a registered policy (such as ``lookup``, ``replay:runs/first``,
            ``transformers:path/to/model``), or ``module:function`` of the user's own.
        options: passed to a registered policy's factory; of a client its ``model`` and sampling.

    Raises:
        UnknownNameError: no policy has that name and no module of that name exists.
        BadInputError: the module has no such callable, or it is something else than these.
    """
    if isinstance(policy, Policy):
        return policy
    if not isinstance(policy, str):
        from toolgym.policies.clients import policy_of_client  # which imports this module

        client = policy_of_client(policy, options)
        if client is not None:
            return client
        _require_callable(policy)
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


def _require_callable(policy: Any) -> None:
    """Refuse what cannot be called with messages and tools.

    Raises:
        BadInputError: it is something else, or a class in place of what it makes.
    """
    wanted = "a policy is a callable (messages, tools) -> text, a Policy, or a name"
    if not callable(policy):
        raise BadInputError(f"{wanted}, not {policy!r:.80}")
    if inspect.isclass(policy) and (issubclass(policy, Policy) or "__call__" in vars(policy)):
        raise BadInputError(f"{wanted}, not the class {policy.__name__!r}: give an instance of it")
    try:
        inspect.signature(policy).bind([], [])
    except TypeError as error:
        raise BadInputError(f"{wanted}, and {policy!r:.80} takes others: {error}") from error
    except ValueError:  # built in, without a signature to read
        return


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


def question_of(request: Request) -> str:
    """The question as the task words it: its user message without the format's own words."""
    if request.examples:
        content = request.messages[request.opening - 1]["content"]
    else:
        content = next((m["content"] for m in request.messages if m["role"] == "user"), "")
    before, _, after = request.format.question(Message("user", MARK)).content.partition(MARK)
    return str(content).removeprefix(before).removesuffix(after).strip()


def past_results(request: Request) -> list[tuple[ToolCall, str]]:
    """All calls of the conversation so far, each with what its tool answered, in order.

    Turns whose replies are not in the format's own words are passed over.
    """
    replies = [n for n, m in enumerate(request.messages) if m["role"] == "assistant"]
    turns = [n for n in replies if n >= request.opening]
    found: list[tuple[ToolCall, str]] = []
    for begin, end in itertools.pairwise([*turns, len(request.messages)]):
        if "tool_calls" in request.messages[begin]:
            native = Message.from_chat(request.messages[begin]).tool_calls
            told = [str(m["content"]) for m in request.messages[begin + 1 : end]]
            found += zip(native, told, strict=False)
            continue
        calls = request.format.parse(request.messages[begin]["content"], request.tools).calls
        if not calls:
            continue
        told = [str(m["content"]) for m in request.messages[begin + 1 : end]]
        found += zip(calls, results_in(request.format, calls, told, request.tools), strict=False)
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
    if not stops or not request.format.stop_closes:
        return text
    said = _said(text, request)
    whole = (text + stop for stop in stops)
    # A call may lack its closing tag behind others that are whole.
    return next((reply for reply in whole if _said(reply, request) > said), text)


def _said(text: str, request: Request) -> tuple[bool, int]:
    """Whether a reply says anything, and in how many calls."""
    action = request.format.parse(text, request.tools)
    return bool(action.calls) or action.answer is not None, len(action.calls)
