"""What a policy is to the rollout: requests in, replies out; anything callable can be one."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from toolgym.errors import BadInputError, PolicyError, ToolgymError, in_words
from toolgym.formats import Action, Format
from toolgym.formats.turn import Turn
from toolgym.messages import Chat, Message, ToolCall, ToolResult
from toolgym.registry import POLICIES
from toolgym.tools.base import Schema
from toolgym.trajectory import Tokens

__all__ = [
    "CallablePolicy",
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
        cut: it ended at the limit of its length, in the middle.
        said: what it says, where that came as a message with native calls and not as text.
    """

    text: str
    tokens: ReplyTokens | None = None
    cut: bool = False
    said: Action | None = None

    @property
    def turn(self) -> str:
        """The text as an action that carries what text cannot say."""
        return Turn(self.text, self.said, self.cut) if self.cut or self.said else self.text


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
    return Tokens(prompt, completion, mask, logprobs if known else None, tokenizer)


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
        said = [reply.tokens for reply in replies if isinstance(reply, Reply)]
        ids = [tokens.completion_ids for tokens in said if isinstance(tokens, ReplyTokens)]
        # A user's policy may say anything for its ids.
        self.written += sum(len(each) for each in ids if isinstance(each, list))
        return dict(zip(asked, replies, strict=True))


class Policy(ABC):
    """Base class of policies that know more than a callable: batches, tokens, seeds.

    ``batched`` policies get the requests of all running episodes at once; others get one request a
    call, from as many threads as there are concurrent episodes.
    """

    batched: ClassVar[bool] = False
    tokenizer_hash: str = ""
    """Hash of vocabulary and chat template, for policies that say their tokens."""

    @property
    def concurrency(self) -> int:
        """Episodes that a rollout runs at once where nobody says how many."""
        return 128 if self.batched else 16

    @abstractmethod
    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Answer requests in order; a request that failed is answered by its exception."""

    def stream(self) -> Stream:
        """A fresh stream, which a rollout with a ``batched`` policy uses in place of `act`.

        Episodes whose replies have come are stepped and ask again while the others are still
        waiting for theirs. By default all of them wait for one call of `act`.
        """
        return Lockstep(self.act)

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
    """A function of ``(messages, tools)`` that returns text or a message.

    A message may be a `Message`, a chat dict or a client's own object; see
    `toolgym.policies.native.read_native`. After a reply with native calls the conversation goes on
    in their shape: ``tool_calls`` with the ids that came, and results of role ``tool``.

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
        from toolgym.policies import native

        messages = request.messages
        if request.episode in self._as_text:
            messages = list(map(native.with_text_arguments, messages))
        try:
            value = self.function(messages, request.tools)
            if inspect.isawaitable(value):
                value = asyncio.run(_wait(value))
            if isinstance(value, str | Reply):
                return value if isinstance(value, Reply) else Reply(value)
            reply = native.read_native(value, request)
            if reply.said is not None and native.wrote_text_arguments(value):
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
        policy: a `Policy`, a callable, ``name`` or ``name:argument`` of a registered policy (such
            as ``lookup``, ``replay:runs/first``, ``transformers:path/to/model``), or
            ``module:function`` of the user's own.
        options: passed to a registered policy's factory.

    Raises:
        UnknownNameError: no policy has that name and no module of that name exists.
        BadInputError: the module has no such callable, or it is something else than these.
    """
    if isinstance(policy, Policy):
        return policy
    if not isinstance(policy, str):
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
        if "tool_calls" in request.messages[begin]:
            native = Message.from_chat(request.messages[begin]).tool_calls
            told = [str(m["content"]) for m in request.messages[begin + 1 : end]]
            found += zip(native, told, strict=False)
            continue
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
