"""Generation in spans: rows that have ended leave the batch, so that no long reply holds it up.

Needs torch and transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from toolgym._optional import need
from toolgym.policies._sampling import Sampler, uniforms

if TYPE_CHECKING:
    import torch

__all__ = ["Generator", "Sampled"]

_SPAN = 16  # tokens between two looks at which rows have ended


@dataclass(slots=True)
class Sampled:
    """What was sampled for one prompt.

    Args:
        ids: [reply] the end token included.
        logprobs: [reply] at temperature 1; empty when not asked for.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


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
    """

    model: Any
    ends: frozenset[int]
    pad: int
    temperature: float
    top_p: float
    max_new_tokens: int
    logprobs: bool = False

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        stopped: Callable[[int, list[int]], int | None],
    ) -> list[Sampled]:
        """Sample one batch.

        Args:
            prompts: [row][prompt] ids, none empty.
            seeds: [row].
            stopped: takes a row and its reply so far; says how many of its tokens count when a stop
                text is in it, else None.

        Returns:
            [row].
        """
        torch = need("torch", "train")
        device = self.model.device
        sampler = Sampler(
            uniforms(seeds, self.max_new_tokens if self.temperature else 0),
            temperature=self.temperature,
            top_p=self.top_p,
            device=device,
            logprobs=self.logprobs,
        )
        done = [Sampled() for _ in prompts]
        live, cache, written = list(range(len(prompts))), None, 0
        ids, mask = self._padded(prompts, device)
        with torch.inference_mode():
            while live:
                span = self._span(self.max_new_tokens - written)
                out = self._run(ids, mask, cache, sampler, span)
                cache, width = out.past_key_values, out.sequences.shape[1] - ids.shape[1]
                written += width
                self._collect(done, live, out.sequences[:, ids.shape[1] :], sampler)
                kept = [
                    n
                    for n, row in enumerate(live)
                    if not self._ended(done[row], row, stopped) and written < self.max_new_tokens
                ]
                mask = torch.cat([mask, mask.new_ones(len(live), width)], 1)
                ids = out.sequences
                if len(kept) < len(live) and kept:
                    rows = torch.tensor(kept, device=device)
                    ids, mask = ids[rows], mask[rows]
                    cache.batch_select_indices(rows)
                    sampler.select(rows)
                live = [live[n] for n in kept]
        return done

    def _padded(
        self, prompts: Sequence[Sequence[int]], device: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        torch = need("torch", "train")
        longest = max(len(prompt) for prompt in prompts)
        gaps = [longest - len(prompt) for prompt in prompts]
        ids = [[self.pad] * gap + list(p) for gap, p in zip(gaps, prompts, strict=True)]
        mask = [[0] * gap + [1] * (longest - gap) for gap in gaps]
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _span(self, left: int) -> int:
        """How many tokens to go; all where a cache cannot lose rows (state-space models)."""
        return left if getattr(self.model, "_is_stateful", False) else min(left, _SPAN)

    def _run(self, ids: Any, mask: Any, cache: Any, sampler: Sampler, span: int) -> Any:
        return self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            logits_processor=[sampler],
            generation_config=self._config(span),
        )

    def _config(self, span: int) -> Any:
        transformers = need("transformers", "train")
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
            torch = need("torch", "train")
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
        return True
