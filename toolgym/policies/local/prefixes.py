"""What has been read already: beginnings that prompts share, and episodes between their turns."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolgym.policies.local.attention import Prefix, States

__all__ = ["Kept", "Prefixes"]

_WORTH = 32  # tokens that a prefix must have more than the next shorter one
_PREFIXES = 8
_PROMPTS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """An episode's tokens so far.

    Args:
        ids: [token] all of them.
        prefix: the beginning that it shares, or None.
        states: keys and values of the tokens after it.
    """

    ids: list[int]
    prefix: Prefix | None
    states: States


class Prefixes:
    """Keys and values worth keeping; what was not asked for longest goes first.

    Args:
        limit: bytes of all of them together.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._episodes: OrderedDict[str, Kept] = OrderedDict()
        self._shared: list[Prefix] = []  # the one that was used last stands last
        self._prompts: deque[list[int]] = deque(maxlen=_PROMPTS)

    def take(self, episode: str, prompt: Sequence[int]) -> Kept | None:
        """The episode's tokens, if the prompt continues them; they are not kept any longer."""
        found = self.forget(episode)
        if found is None or len(prompt) <= len(found.ids):
            return None
        return found if list(prompt[: len(found.ids)]) == found.ids else None

    def keep(self, episode: str, kept: Kept) -> None:
        """Keep an episode until its next turn; one without a name is not kept."""
        self.forget(episode)
        size = _bytes(kept.states)
        if not episode or size > self._limit:
            return
        self._episodes[episode] = kept
        self._size += size
        self._trim()

    def forget(self, episode: str) -> Kept | None:
        """Drop an episode; returns what was kept of it."""
        found = self._episodes.pop(episode, None)
        if found is not None:
            self._size -= _bytes(found.states)
        return found

    def longest(self, prompt: Sequence[int]) -> Prefix | None:
        """The longest beginning known that leaves something to read."""
        fitting = [p for p in self._shared if _begins(prompt, p.ids)]
        best = max(fitting, key=lambda p: len(p.ids), default=None)
        if best is not None:
            self._shared.remove(best)
            self._shared.append(best)
        return best

    def worth_sharing(self, prompts: Sequence[list[int]]) -> list[list[int]]:
        """Beginnings that are worth to be read by themselves, for the prompts that now begin.

        Args:
            prompts: [prompt][token] of episodes of which nothing is kept.

        Returns:
            The longest common beginning of each group of prompts, earlier ones among them, that
            have more in common than a beginning that is known.
        """
        groups: dict[tuple[int, ...], list[list[int]]] = {}
        new = set()
        for n, prompt in enumerate([*self._prompts, *prompts]):
            best = self.longest(prompt)
            size = _WORTH + (len(best.ids) if best else 0)
            if len(prompt) > size:
                groups.setdefault(tuple(prompt[:size]), []).append(prompt)
            if n >= len(self._prompts):
                new.add(tuple(prompt[:size]))
        self._prompts.extend(prompts)
        return [_common(group) for key, group in groups.items() if key in new and len(group) > 1]

    def share(self, prefix: Prefix) -> None:
        """Let prompts begin with it."""
        if _bytes(prefix.states) > self._limit:
            return
        self._shared.append(prefix)
        self._size += _bytes(prefix.states)
        self._trim()

    def _trim(self) -> None:
        while self._size > self._limit and len(self._episodes) > 1:
            self.forget(next(iter(self._episodes)))
        while len(self._shared) > _PREFIXES or (self._size > self._limit and self._shared):
            self._size -= _bytes(self._shared.pop(0).states)


def _begins(prompt: Sequence[int], ids: list[int]) -> bool:
    return len(prompt) > len(ids) and list(prompt[: len(ids)]) == ids


def _common(prompts: list[list[int]]) -> list[int]:
    """What all begin with and none is."""
    low, high = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
    count = next((n for n in range(most) if low[n] != high[n]), most)
    return low[:count]


def _bytes(states: States) -> int:
    return sum(part.nbytes for both in states for part in both)
