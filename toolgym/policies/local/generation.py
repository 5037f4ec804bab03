"""Generation in spans: rows that have ended leave the batch, so that no long reply holds it up.

Needs torch and transformers.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from toolgym._util.optional import require_extra
from toolgym.policies.local.guide import Guide
from toolgym.policies.local.sampling import Sampler, uniforms

__all__ = ["Generator", "Prefix", "Prefixes", "Sampled", "joined_cache"]

if TYPE_CHECKING:
    import torch


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
        torch = require_extra("torch", "train")
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
    transformers = require_extra("transformers", "train")
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
    transformers = require_extra("transformers", "train")
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


if TYPE_CHECKING:
    import torch


_SPAN = 16  # tokens between two looks at which rows have ended


@dataclass(slots=True)
class Sampled:
    """What was sampled for one prompt.

    Args:
        ids: [reply] the end token included.
        logprobs: [reply] at temperature 1; empty when not asked for.
        ended: by an end token or a stop text; else it was cut.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Generator:
    """Seeded sampling with a model, prompts in, token ids out.

    Args:
        model: a causal model in evaluation mode.
        ends: ids that end a reply.
        pad: id to fill short prompts with.
        temperature: 0 is greedy.
        top_p: nucleus sampling; 1 = off.
        max_new_tokens: of one reply.
        logprobs: whether to keep them.
        prefixes: what episodes' earlier turns left; None: every prompt is read from its beginning.
    """

    model: Any
    ends: frozenset[int]
    pad: int
    temperature: float
    top_p: float
    max_new_tokens: int
    logprobs: bool = False
    prefixes: Prefixes | None = None

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        stopped: Callable[[int, list[int]], int | None],
        episodes: Sequence[str] = (),
        guides: Sequence[Guide | None] = (),
    ) -> list[Sampled]:
        """Sample one batch.

        Args:
            prompts: [row][prompt] ids, none empty.
            seeds: [row].
            stopped: takes a row and its reply so far; says how many of its tokens count when a stop
                text is in it, else None.
            episodes: [row] names under which `prefixes` are kept; none: nothing is kept.
            guides: [row] what replies may go on with, or None; none: no row is guided.

        Returns:
            [row].
        """
        torch = require_extra("torch", "train")
        device = self.model.device
        sampler = Sampler(
            uniforms(seeds, self.max_new_tokens if self.temperature else 0),
            temperature=self.temperature,
            top_p=self.top_p,
            device=device,
            logprobs=self.logprobs,
            guides=guides,
        )
        done = [Sampled() for _ in prompts]
        live, written = list(range(len(prompts))), 0
        prefixes = self.prefixes if episodes and _is_plain(self.model) else None
        with torch.inference_mode():
            ids, mask, cache = self._begin(prompts, episodes, prefixes, device)
            while live:
                span = self._span(self.max_new_tokens - written)
                longer, cache = self._run(ids, mask, cache, sampler, span)
                width = longer.shape[1] - ids.shape[1]
                written += width
                self._collect(done, live, longer[:, ids.shape[1] :], sampler)
                kept = [
                    n
                    for n, row in enumerate(live)
                    if not self._ended(done[row], row, stopped) and written < self.max_new_tokens
                ]
                mask = torch.cat([mask, mask.new_ones(len(live), width)], 1)
                ids = longer
                if prefixes is not None:
                    for n in set(range(len(live))).difference(kept):
                        said = [*prompts[live[n]], *done[live[n]].ids]
                        prefixes.keep(episodes[live[n]], said, cache, n, mask)
                if len(kept) < len(live) and kept:
                    rows = torch.tensor(kept, device=device)
                    ids, mask = ids[rows], mask[rows]
                    cache.batch_select_indices(rows)
                    sampler.select(rows)
                live = [live[n] for n in kept]
        return done

    def _begin(
        self,
        prompts: Sequence[Sequence[int]],
        episodes: Sequence[str],
        prefixes: Prefixes | None,
        device: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Ids and mask [row, column] of the prompts, and a cache of the columns already read."""
        torch = require_extra("torch", "train")
        found: list[Prefix | None] = [None] * len(prompts)
        if prefixes is not None:
            pairs = zip(episodes, prompts, strict=True)
            found = [prefixes.take(episode, prompt) for episode, prompt in pairs]
        cache, width = joined_cache(found)
        known = [len(prefix.ids) if prefix else 0 for prefix in found]
        fresh = [prompt[count:] for prompt, count in zip(prompts, known, strict=True)]
        ids, mask = self._padded(fresh, device)
        if not width:
            return ids, mask, None
        old = [prompt[:count] for prompt, count in zip(prompts, known, strict=True)]
        old_ids, old_mask = self._padded(old, device)
        return torch.cat([old_ids, ids], 1), torch.cat([old_mask, mask], 1), cache

    def _padded(
        self, prompts: Sequence[Sequence[int]], device: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        torch = require_extra("torch", "train")
        longest = max(len(prompt) for prompt in prompts)
        gaps = [longest - len(prompt) for prompt in prompts]
        ids = [[self.pad] * gap + list(p) for gap, p in zip(gaps, prompts, strict=True)]
        mask = [[0] * gap + [1] * (longest - gap) for gap in gaps]
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _span(self, left: int) -> int:
        """How many tokens to go; all where a cache cannot lose rows (state-space models)."""
        return left if getattr(self.model, "_is_stateful", False) else min(left, _SPAN)

    def _run(
        self, ids: Any, mask: Any, cache: Any, sampler: Sampler, span: int
    ) -> tuple[torch.Tensor, Any]:
        """All ids [row, column] after at most so many new tokens, and the cache."""
        if _is_plain(self.model):
            return self._steps(ids, mask, cache, sampler, span)
        out = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            logits_processor=[sampler],
            generation_config=self._config(span),
        )
        return out.sequences, out.past_key_values

    def _steps(
        self, ids: Any, mask: Any, cache: Any, sampler: Sampler, span: int
    ) -> tuple[torch.Tensor, Any]:
        """What ``generate`` does, less what it does for other ways to generate."""
        torch = require_extra("torch", "train")
        if cache is None:
            cache = require_extra("transformers", "train").DynamicCache(config=self.model.config)
        ends = torch.tensor(sorted(self.ends), dtype=ids.dtype, device=ids.device)
        ended = ids.new_zeros(len(ids), dtype=torch.bool)
        padded = not bool(mask.all())
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, cache.get_seq_length() :]
        fresh = ids[:, cache.get_seq_length() :]
        for _ in range(span):
            logits = self.model(
                input_ids=fresh,
                # Without padding no mask has to be made of it.
                attention_mask=mask if padded else None,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
            fresh = sampler.next(logits[:, -1].float())[:, None]
            positions = positions[:, -1:] + 1
            ids, mask = torch.cat([ids, fresh], 1), torch.cat([mask, mask[:, -1:]], 1)
            ended |= torch.isin(fresh[:, 0], ends)
            if ended.all():
                break
        return ids, cache

    def _config(self, span: int) -> Any:
        transformers = require_extra("transformers", "train")
        return transformers.GenerationConfig(
            max_new_tokens=span,
            do_sample=False,
            eos_token_id=sorted(self.ends) or None,
            pad_token_id=self.pad,
            return_dict_in_generate=True,
            use_cache=True,
        )

    def _collect(
        self, done: list[Sampled], live: list[int], fresh: torch.Tensor, sampler: Sampler
    ) -> None:
        for row, ids in zip(live, fresh.tolist(), strict=True):
            done[row].ids += ids
        if self.logprobs:
            torch = require_extra("torch", "train")
            columns = torch.stack(sampler.logprobs, 1).tolist()
            for row, values in zip(live, columns, strict=True):
                done[row].logprobs += values
        sampler.logprobs = []

    def _ended(
        self, sampled: Sampled, row: int, stopped: Callable[[int, list[int]], int | None]
    ) -> bool:
        first = next((n for n, i in enumerate(sampled.ids) if i in self.ends), None)
        count = None if first is None else first + 1
        stop = stopped(row, sampled.ids[:count])
        count = count if stop is None else stop
        if count is None:
            return False
        del sampled.ids[count:], sampled.logprobs[count:]
        sampled.ended = True
        return True


def _is_plain(model: Any) -> bool:
    """Whether a step needs no more than ids, mask, positions and a cache of keys and values."""
    transformers = require_extra("transformers", "train")
    prepared = getattr(type(model), "prepare_inputs_for_generation", None)
    if prepared is not transformers.GenerationMixin.prepare_inputs_for_generation:
        return False
    wanted = {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"}
    # ALiBi counts columns of the mask, so that padding between the turns would shift it.
    if getattr(model, "_is_stateful", False) or getattr(model.config, "alibi", False):
        return False
    return wanted <= inspect.signature(type(model).forward).parameters.keys()
