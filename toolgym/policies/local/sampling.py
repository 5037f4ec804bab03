"""Seeded sampling in batches, of all tokens or of those that guides allow next.

A row is sampled independent of what else is in the batch. Needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from toolgym._util.optional import require_extra
from toolgym.policies.local.guides import Guide, token_penalties

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["Sampler", "uniforms"]

_BLOCK = 256  # tokens whose probabilities are summed up first
_MOST_REFUSED = 64  # tokens of one place, before any is taken


def uniforms(seeds: Sequence[int], count: int) -> NDArray[np.float64]:
    """One number in [0, 1) a row and token position.

    Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) is counter-based:
    a row's numbers depend on its seed and the position alone.

    Args:
        seeds: [row] any integers.
        count: positions.

    Returns:
        [row, position] float64.
    """
    drawn = np.empty((len(seeds), count))
    for row, seed in enumerate(seeds):
        drawn[row] = np.random.Generator(np.random.Philox(key=seed % 2**128)).random(count)
    return drawn


class Sampler:
    """A logits processor that chooses the next token itself, so that greedy search then takes it.

    Each row is sampled by inverting its cumulative distribution at that row's uniform number:
    neither the batch's composition nor a global random state has any influence.

    Args:
        drawn: [row, position] uniform numbers; unused at temperature 0.
        temperature: 0 takes the most probable token.
        top_p: sample among the most probable tokens that together reach this probability
            (nucleus sampling, Holtzman et al., ICLR 2020).
        logprobs: keep the log-probability of each chosen token at temperature 1, before top-p and
            before what a guide allows.
        guides: [row] what each row may go on with, or None; none: no row is guided.
    """

    def __init__(
        self,
        drawn: NDArray[np.float64],
        *,
        temperature: float,
        top_p: float,
        device: torch.device,
        logprobs: bool,
        guides: Sequence[Guide | None] = (),
    ) -> None:
        loaded = require_extra("torch", "train")
        # Apple's GPUs have no float64.
        self._exact = loaded.float32 if device.type == "mps" else loaded.float64
        self._drawn: torch.Tensor = loaded.as_tensor(drawn, dtype=self._exact, device=device)
        self._temperature, self._top_p = temperature, top_p
        self._keep_logprobs = logprobs
        self._position = loaded.zeros(len(drawn), dtype=loaded.int64, device=device)
        self._guides = list(guides) or [None] * len(drawn)
        self.logprobs: list[torch.Tensor] = []  # a position: [row] float32

    def select(self, rows: torch.Tensor) -> None:
        """Keep some rows of the batch.

        Args:
            rows: [kept] indices.
        """
        self._drawn, self._position = self._drawn[rows], self._position[rows]
        self._guides = [self._guides[row] for row in rows.tolist()]

    def join(self, drawn: NDArray[np.float64], guides: Sequence[Guide | None]) -> None:
        """Let rows join the batch, behind those that are in it.

        Args:
            drawn: [row, position] uniform numbers.
            guides: [row] what each row may go on with, or None.
        """
        torch = require_extra("torch", "train")
        more = torch.as_tensor(drawn, dtype=self._exact, device=self._drawn.device)
        self._drawn = torch.cat([self._drawn, more])
        self._position = torch.cat([self._position, self._position.new_zeros(len(more))])
        self._guides += guides

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Choose one token a row.

        Args:
            input_ids: [row, length] what stands there so far; unused.
            scores: [row, vocabulary] the model's logits.

        Returns:
            [row, vocabulary] the chosen token highest.
        """
        if self._temperature == 0 and not (self._keep_logprobs or any(self._guides)):
            return scores
        return scores.new_zeros(scores.shape).scatter_(1, self.next(scores)[:, None], 1.0)

    def next(self, scores: torch.Tensor, penalties: torch.Tensor | None = None) -> torch.Tensor:
        """Choose one token a row; guides go on behind it.

        Args:
            scores: [row, vocabulary] the model's logits.
            penalties: [row, vocabulary] -inf for tokens that may not be chosen, else 0; None: those
                of the guides.

        Returns:
            [row] ids.
        """
        if penalties is None:
            penalties = token_penalties(self._guides, scores)
        offered = scores if penalties is None else scores + penalties
        uniform = self._drawn.gather(1, self._position[:, None]) if self._temperature else None
        chosen = self._choose(offered, uniform)
        if any(self._guides):
            self._follow(offered, chosen, uniform)
        self._position += 1
        if self._keep_logprobs:
            self._note(scores, chosen)
        return chosen

    def _follow(
        self, offered: torch.Tensor, chosen: torch.Tensor, uniform: torch.Tensor | None
    ) -> None:
        """Let guides go on; a row whose token is refused is drawn again among the others.

        Args:
            offered: [row, vocabulary] logits, -inf where a token may not be chosen.
            chosen: [row] ids; written where another one is taken.
            uniform: [row, 1] what the rows were drawn by; None at temperature 0.
        """
        first = chosen.tolist()
        asked = [(n, guide) for n, guide in enumerate(self._guides) if guide is not None]
        for _ in range(_MOST_REFUSED):
            asked = [(n, guide) for n, guide in asked if not guide.take(int(chosen[n]))]
            rows = [n for n, _ in asked]
            if not rows:
                return
            offered[rows, chosen[rows]] = float("-inf")
            left = offered[rows].isfinite().any(-1).tolist()
            for (n, guide), some in zip(asked, left, strict=True):
                if not some:
                    guide.insist(first[n])
                    chosen[n] = first[n]
            asked = [pair for pair, some in zip(asked, left, strict=True) if some]
            rows = [n for n, _ in asked]
            if not rows:
                return
            if uniform is not None:
                uniform[rows] = _another(uniform[rows])
            chosen[rows] = self._choose(offered[rows], None if uniform is None else uniform[rows])
        for n, guide in asked:
            guide.insist(first[n])
            chosen[n] = first[n]

    def _choose(self, scores: torch.Tensor, uniform: torch.Tensor | None) -> torch.Tensor:
        """One token a row."""
        if uniform is None:
            return scores.argmax(-1)
        scores = scores.float()
        if self._temperature != 1:
            scores = scores / self._temperature
        probability = scores.softmax(-1)
        if self._top_p >= 1:
            return self._among_all(probability, uniform)
        # Stable, or tokens of equal probability would change places with the batch's size.
        ranked, order = probability.sort(dim=-1, descending=True, stable=True)
        total = ranked.cumsum(-1, dtype=self._exact)
        kept = ((total - ranked) < self._top_p).sum(-1, keepdim=True)
        aim = uniform * total.gather(-1, kept - 1)
        place = _invert(total, aim).minimum(kept[:, 0] - 1)
        return order.gather(-1, place[:, None])[:, 0]

    def _among_all(self, probability: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """As `_choose`: first a block of tokens, then one in it, so that few sums run."""
        torch = require_extra("torch", "train")
        count = probability.shape[1]
        blocks = probability
        if gap := -count % _BLOCK:
            blocks = torch.nn.functional.pad(probability, (0, gap))
        blocks = blocks.view(len(blocks), -1, _BLOCK)
        total = blocks.sum(-1).cumsum(-1, dtype=self._exact)
        aim = uniform * total[:, -1:]
        block = _invert(total, aim)
        before = torch.nn.functional.pad(total, (1, 0)).gather(-1, block[:, None])
        inside = blocks[torch.arange(len(blocks), device=blocks.device), block]
        return block * _BLOCK + _invert(inside.cumsum(-1, dtype=self._exact), aim - before)

    def _note(self, scores: torch.Tensor, chosen: torch.Tensor) -> None:
        logprobs = scores.float().log_softmax(-1)
        self.logprobs.append(logprobs.gather(-1, chosen[:, None])[:, 0])


def _invert(total: torch.Tensor, aim: torch.Tensor) -> torch.Tensor:
    """The first place whose cumulative probability exceeds a number.

    Args:
        total: [row, vocabulary] cumulative probabilities, not normalised.
        aim: [row, 1] numbers in [0, total].

    Returns:
        [row] places.
    """
    # Rounding may lift the number to the total, which no place exceeds.
    below = total[:, -1:] * (1 - (2.0**-51 if aim.element_size() == 8 else 2.0**-22))
    return (total <= aim.minimum(below)).sum(-1).clamp(max=total.shape[-1] - 1)


def _another(uniform: torch.Tensor) -> torch.Tensor:
    """Numbers in [0, 1) that depend on those before alone, mixed by SplitMix64.

    (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.) Where a
    number lies within the token that it fell on would be uniform, too, but of an improbable token
    it shows rounding errors alone, which depend on what else is in the batch.

    Args:
        uniform: [row, 1] numbers in [0, 1).

    Returns:
        [row, 1] numbers.
    """
    torch = require_extra("torch", "train")
    bits = (uniform.double().cpu().numpy() * 2.0**53).astype(np.uint64)
    bits += np.uint64(0x9E3779B97F4A7C15)  # arrays wrap around
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return torch.from_numpy((bits >> np.uint64(11)) * 2.0**-53).to(uniform)  # type: ignore[no-any-return]
