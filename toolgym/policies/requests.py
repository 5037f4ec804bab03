"""What passes between a rollout and a policy: requests and replies, one by one or in a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from toolgym.errors import PolicyError
from toolgym.formats import Action, Format
from toolgym.formats.turn import Turn
from toolgym.messages import Chat, opening_length
from toolgym.tools.base import Schema
from toolgym.trajectory import Tokens

__all__ = ["Lockstep", "Reply", "ReplyTokens", "Request", "Stream", "join_tokens"]


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
    """

    messages: list[Chat]
    tools: list[Schema]
    format: Format
    seed: int = 0
    episode: str = ""
    turn: int = 0
    examples: int = 0

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
