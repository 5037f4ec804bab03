"""What two sides saw of an episode, and how often it is the same."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from toolgym.messages import Chat
from toolgym.trajectory import Tokens

__all__ = ["Comparison", "Seen"]


@dataclass
class Seen:
    """An episode as one of two sides saw it; None is what that side does not have.

    Args:
        opening: the messages before the policy's first reply.
        observations: by step, the messages that were new for the policy.
        rewards: by step.
        done: by step, whether the episode had ended.
        reward: of the whole episode.
        tokens: with the loss mask, 1 on the policy's own tokens.
    """

    opening: list[Chat] | None = None
    observations: list[list[Chat]] | None = None
    rewards: list[float] | None = None
    done: list[bool] | None = None
    reward: float | None = None
    tokens: Tokens | None = None


@dataclass
class _Count:
    equal: int = 0
    unequal: int = 0
    first: str = ""


def _parts(ours: Seen, theirs: Seen) -> Iterable[tuple[str, Any, Any]]:
    yield "opening", ours.opening, theirs.opening
    yield "observations", ours.observations, theirs.observations
    yield "rewards by step", ours.rewards, theirs.rewards
    yield "ends", ours.done, theirs.done
    yield "reward of the episode", ours.reward, theirs.reward
    mine, other = ours.tokens, theirs.tokens
    if mine is not None and other is not None:
        yield "prompt ids", mine.prompt_ids, other.prompt_ids
        yield "response ids", mine.completion_ids, other.completion_ids
        yield "loss masks", mine.mask, other.mask
        if other.logprobs is not None:
            near = [round(x, 5) for x in mine.logprobs or []]
            yield "log-probabilities", near, [round(x, 5) for x in other.logprobs]


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float):
        return abs(ours - theirs) < 1e-6
    if isinstance(ours, list) and ours and isinstance(ours[0], float):
        pairs = zip(ours, theirs, strict=False)
        return len(ours) == len(theirs) and all(abs(a - b) < 1e-6 for a, b in pairs)
    return bool(ours == theirs)


@dataclass
class Comparison:
    """Counts of equal and unequal parts over all episodes."""

    counts: dict[str, _Count] = field(default_factory=dict)

    def add(self, name: str, ours: Seen, theirs: Seen) -> None:
        """Compare one episode; what either side does not have is left out.

        Args:
            name: of the episode, for the first difference.
            ours: reference.
            theirs: as the framework saw it.
        """
        for part, mine, other in _parts(ours, theirs):
            if mine is None or other is None:
                continue
            count = self.counts.setdefault(part, _Count())
            if _same(mine, other):
                count.equal += 1
            else:
                count.unequal += 1
                told = json.dumps([mine, other], default=repr)
                count.first = count.first or f"{name}: {told:.600}"
