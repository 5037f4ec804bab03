"""Seeded sampling in batches, of all tokens or of those that a format's grammar allows next.

A row is sampled independent of what else is in the batch. Needs torch, and guides need llguidance:
of three libraries the one that compiles a grammar in milliseconds and knows JSON Schema, bounded
text and negation in one text (figures in docs/policies.md).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, PolicyError
from toolgym.formats.grammar import with_markers
from toolgym.policies.base import Request
from toolgym.policies.guiding import Narrow, grammar_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

__all__ = ["Guide", "Guides", "Sampler", "allowed_tokens", "uniforms"]

_MOST_GRAMMARS = 256  # compiled ones that are kept; scenarios have tools of their own each
# Signs that every text of our grammars may hold: where whole tokens of them are allowed, their
# part of the mask is copied and not computed, which is 15 times as fast.
_PLAIN = r'[^"\\\p{Cc}\p{Zl}\p{Zp}<\[\]{◁]'
_SLICES = [_PLAIN + "{1,10}", _PLAIN + "{1,30}", _PLAIN + "+"]


class Guide:
    """What one reply may go on with.

    Args:
        matcher: of llguidance, at the begin of a reply.
        ends: ids that end a reply.
    """

    def __init__(self, matcher: Any, ends: Collection[int]) -> None:
        self._matcher, self._ends = matcher, ends
        self.ended = False
        """Whether the reply is over: any token is allowed then, and none counts."""
        self.failure = ""
        """Why the grammar could not go on, or nothing."""

    def fill(self, mask: NDArray[np.int32], row: int) -> None:
        """Write which tokens may come next; only those that end a reply where nothing else may.

        Args:
            mask: [row, vocabulary / 32] bits.
            row: to write.
        """
        if self.ended:
            mask[row] = -1
        else:
            require_extra("llguidance.numpy", "guide").fill_next_token_bitmask(
                self._matcher, mask, row
            )
            self._look()

    def advance(self, token: int) -> None:
        """Go on behind a token; one that ends the reply ends the guide."""
        if self.ended:
            return
        if token not in self._ends:
            self._matcher.consume_token(token)
            self._look()
        self.ended = token in self._ends or bool(self.failure)

    def _look(self) -> None:
        """A matcher that has failed allows the end alone, and says nothing by itself."""
        if self._matcher.is_error():
            self.failure = self._matcher.get_error().partition("\n")[0][:200]


class Guides:
    """The grammars of requests, compiled for one tokenizer.

    Args:
        tokenizer: a fast one.
        ends: ids that end a reply.
        width: ids that the model knows; may be more than the tokenizer's.
        narrow: what replies hold to beside the format's grammar.

    Raises:
        MissingExtraError: llguidance is not installed.
        BadInputError: a tokenizer that it cannot read.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        ends: Collection[int],
        width: int,
        *,
        narrow: Narrow = Narrow(),  # noqa: B008 - it is frozen
    ) -> None:
        self._library = require_extra("llguidance", "guide")
        bridge = require_extra("llguidance.hf", "guide")
        self._ends, self._narrow = frozenset(ends), narrow
        try:
            self._tokenizer = bridge.from_tokenizer(
                tokenizer,
                n_vocab=max(width, len(tokenizer)),
                eos_token=sorted(self._ends),
                slices=_SLICES,
            )
        except ValueError as error:
            raise BadInputError(
                f"the tokenizer of {tokenizer.name_or_path!r} cannot be guided: {error!s:.200}; "
                "play unguided"
            ) from error
        # Markers that are one token of their own, and are shown in the text of a reply.
        self._markers = {
            token.content: f"<[{number}]>"
            for number, token in tokenizer.added_tokens_decoder.items()
            if self._tokenizer.is_special_token(number) and number not in tokenizer.all_special_ids
        }
        self._compiled: OrderedDict[str, Any] = OrderedDict()

    def guide(self, request: Request) -> Guide:
        """A guide for the reply to a request.

        Raises:
            BadInputError: the request's format has no grammar.
            PolicyError: a tool's schema says what cannot be guided.
        """
        grammar = grammar_of(request, self._narrow)
        if grammar not in self._compiled:
            self._compiled[grammar] = self._compile(grammar, request)
            if len(self._compiled) > _MOST_GRAMMARS:
                self._compiled.popitem(last=False)
        return Guide(self._compiled[grammar].deep_copy(), self._ends)

    def _compile(self, grammar: str, request: Request) -> Any:
        text = with_markers(grammar, self._markers)
        matcher = self._library.LLMatcher(self._tokenizer, text, log_level=0)
        if matcher.is_error():
            names = ", ".join(tool["function"]["name"] for tool in request.tools)
            why = matcher.get_error().partition("\n")[0]
            raise PolicyError(
                f"replies in format {request.format.name!r} with the tools {names:.200} cannot be "
                f"guided: {why:.200}; play unguided, or give the tool a simpler schema"
            )
        return matcher


def allowed_tokens(guides: Sequence[Guide | None], scores: torch.Tensor) -> torch.Tensor | None:
    """Which tokens may come next.

    Args:
        guides: [row] None: a row that is not guided.
        scores: [row, vocabulary] whose shape and device the mask gets.

    Returns:
        [row, vocabulary] bool; None where no row is guided any more.
    """
    if all(guide is None or guide.ended for guide in guides):
        return None
    torch = require_extra("torch", "train")
    rows, width = scores.shape
    mask = np.full((rows, (width + 31) // 32), -1, np.int32)
    for row, guide in enumerate(guides):
        if guide is not None:
            guide.fill(mask, row)
    bits = np.unpackbits(mask.view(np.uint8), axis=1, count=width, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_)).to(scores.device)  # type: ignore[no-any-return]


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

    def next(self, scores: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
        """Choose one token a row; guides go on behind it.

        Args:
            scores: [row, vocabulary] the model's logits.
            allowed: [row, vocabulary] bool, tokens that may be chosen; None: what the guides allow.

        Returns:
            [row] ids.
        """
        if allowed is None:
            allowed = allowed_tokens(self._guides, scores)
        offered = scores if allowed is None else scores.masked_fill(~allowed, float("-inf"))
        chosen = offered.argmax(-1) if self._temperature == 0 else self._choose(offered)
        if any(self._guides):
            for guide, token in zip(self._guides, chosen.tolist(), strict=True):
                if guide is not None:
                    guide.advance(token)
        self._position += 1
        if self._keep_logprobs:
            self._note(scores, chosen)
        return chosen

    def _choose(self, scores: torch.Tensor) -> torch.Tensor:
        uniform = self._drawn.gather(1, self._position[:, None])
        probability = (scores.float() / self._temperature).softmax(-1)
        if self._top_p >= 1:
            total = probability.cumsum(-1, dtype=self._exact)
            return _invert(total, uniform * total[:, -1:])
        # Stable, or tokens of equal probability would change places with the batch's size.
        ranked, order = probability.sort(dim=-1, descending=True, stable=True)
        total = ranked.cumsum(-1, dtype=self._exact)
        kept = ((total - ranked) < self._top_p).sum(-1, keepdim=True)
        place = _invert(total, uniform * total.gather(-1, kept - 1))
        return order.gather(-1, place[:, None].minimum(kept - 1))[:, 0]

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
