"""What the network computed in an episode's earlier turns, kept so that a turn reads only its news.

Needs torch and transformers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolgym._util.optional import need

if TYPE_CHECKING:
    import torch

__all__ = ["Prefix", "Prefixes", "joined_cache"]


@dataclass(frozen=True, slots=True)
class Prefix:
    """The attention's keys and values of a beginning.

    Args:
        ids: [token] the beginning itself.
        states: [layer and kind, head, token, channel] keys and values of each layer in turn.
    """

    ids: list[int]
    states: torch.Tensor


class Prefixes:
    """Beginnings by episode; what was not asked for longest goes first.

    Args:
        limit: bytes of all states together.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._known: OrderedDict[str, Prefix] = OrderedDict()

    def take(self, episode: str, prompt: Sequence[int]) -> Prefix | None:
        """The episode's beginning, if the prompt continues it; it is not kept any longer."""
        found = self.forget(episode)
        if found is None or len(prompt) <= len(found.ids):
            return None
        return found if list(prompt[: len(found.ids)]) == found.ids else None

    def keep(self, episode: str, ids: Sequence[int], cache: Any, row: int, mask: Any) -> None:
        """Keep a row of a batch.

        Only caches with all tokens of all layers can be continued from any place; those of sliding
        windows and of state-space models are left alone.

        Args:
            episode: whose row it is; nothing is kept without a name.
            ids: [token] prompt and reply.
            cache: of the batch, after generation.
            row: number of the row.
            mask: [row, column] 0 where the batch is padded.
        """
        if not episode or not _whole(cache):
            return
        columns = mask[row, : cache.get_seq_length()].nonzero()[: len(ids), 0]
        layers = [part[row] for layer in cache.layers for part in (layer.keys, layer.values)]
        size = sum(part.nbytes for part in layers) * len(columns) // max(1, layers[0].shape[1])
        if size > self._limit or not len(columns):
            return
        self.forget(episode)
        torch = need("torch", "train")
        states = torch.stack([part.index_select(1, columns) for part in layers])
        self._known[episode] = Prefix(list(ids[: len(columns)]), states)
        self._size += states.nbytes
        while self._size > self._limit:
            self.forget(next(iter(self._known)))

    def forget(self, episode: str) -> Prefix | None:
        """Drop an episode's beginning; returns what it was."""
        found = self._known.pop(episode, None)
        if found is not None:
            self._size -= found.states.nbytes
        return found


def _whole(cache: Any) -> bool:
    transformers = need("transformers", "train")
    layers = getattr(cache, "layers", None)
    if not layers or any(type(x) is not transformers.cache_utils.DynamicLayer for x in layers):
        return False
    parts = [part for layer in layers for part in (layer.keys, layer.values)]
    first = parts[0]
    return all(p.shape == first.shape and p.device == first.device for p in parts)


def joined_cache(prefixes: Sequence[Prefix | None]) -> tuple[Any, int]:
    """A cache for a batch, each row's beginning padded on the left.

    Args:
        prefixes: [row] None: a row without one.

    Returns:
        The cache, None when no row has a beginning; and its columns.
    """
    width = max((len(prefix.ids) for prefix in prefixes if prefix), default=0)
    first = next((prefix.states for prefix in prefixes if prefix), None)
    if first is None:
        return None, 0
    transformers = need("transformers", "train")
    layers, heads, _, channels = first.shape
    cache = transformers.DynamicCache()
    # Layer by layer: all at once would need the memory of the batch twice.
    for layer in range(0, layers, 2):
        # Zeros: what is masked must still be finite.
        pair = first.new_zeros(2, len(prefixes), heads, width, channels)
        for row, prefix in enumerate(prefixes):
            if prefix is not None:
                pair[:, row, :, width - len(prefix.ids) :] = prefix.states[layer : layer + 2]
        cache.update(pair[0], pair[1], layer // 2)
    return cache, width
