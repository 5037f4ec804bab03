"""What guided replies may go on with: tokens that a format's grammar allows and that spell well.

Guides need llguidance: of three libraries the one that compiles a grammar in milliseconds and knows
JSON Schema, bounded text and negation in one text (figures in docs/policies.md).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, PolicyError
from toolgym.formats.grammar import with_markers
from toolgym.policies.base import Request
from toolgym.policies.guiding import Narrow, grammar_of
from toolgym.policies.local.canonical import Canonical

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

__all__ = ["Guide", "Guides", "token_penalties"]

_MOST_GRAMMARS = 256  # compiled ones that are kept; scenarios have tools of their own each
# Signs that every text of our grammars may hold: where whole tokens of them are allowed, their
# part of the mask is copied and not computed, which is 15 times as fast.
_PLAIN = r'[^"\\\p{Cc}\p{Zl}\p{Zp}<\[\]{◁]'
_SLICES = [_PLAIN + "{1,10}", _PLAIN + "{1,30}", _PLAIN + "+"]
_FEW = 1024  # where more tokens may follow, one of them is taken to be canonical;
_SHARE = 4  # in a small vocabulary, where more than one in so many may
# [byte, bit] the penalties of eight tokens, the lowest bit first.
_EIGHTS = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], 1, bitorder="little"), 0, -np.inf
)
_MOST_LOOKED = 64  # beginnings of a reply that are tried in search of a canonical one


class Guide:
    """What one reply may go on with.

    Args:
        matcher: of llguidance, at the begin of a reply.
        ends: ids that end a reply.
        width: ids that the model knows.
        canonical: what tells whether tokens are those that the tokenizer itself would write; None:
            any are taken.
    """

    def __init__(
        self,
        matcher: Any,
        ends: frozenset[int],
        width: int,
        canonical: Canonical | None = None,
    ) -> None:
        self._matcher, self._ends, self._canonical = matcher, ends, canonical
        self._width = width
        self._ids: list[int] = []
        self._next: NDArray[np.int32] | None = None  # the mask, where it is known already
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
        elif self._next is not None:
            mask[row] = self._next[0]
        else:
            require_extra("llguidance.numpy", "guide").fill_next_token_bitmask(
                self._matcher, mask, row
            )
            self._look()

    def take(self, token: int) -> bool:
        """Go on behind a token that the mask allows, unless it is not how the text is written.

        Refused is a token with which the reply is not canonical, and one behind which nothing may
        come with which it would stay so.

        Args:
            token: the next one.
        """
        if self._canonical is None or self.ended or token in self._ends:
            self.advance(token)
            return True
        ids = [*self._ids, token]
        if not self._canonical(ids):
            return False
        self.advance(token)
        mask = self._following()
        if self._leads_on(ids, mask, itertools.count()):
            self._next = mask
            return True
        self._matcher.rollback(1)
        self._ids.pop()
        return False

    def _following(self) -> NDArray[np.int32]:
        """The mask of what may come next, as one row."""
        mask = np.full((1, (self._width + 31) // 32), -1, np.int32)
        self.fill(mask, 0)
        return mask

    def _leads_on(self, ids: list[int], mask: NDArray[np.int32], looked: Iterator[int]) -> bool:
        """Whether something may come with which a canonical reply stays so, up to its next choice.

        Args:
            ids: of the reply so far, which the matcher has read.
            mask: what may come next.
            looked: counts the beginnings that were looked at.
        """
        bits = np.unpackbits(mask[0].view(np.uint8), count=self._width, bitorder="little")
        if np.count_nonzero(bits) > min(_FEW, self._width // _SHARE) or next(looked) > _MOST_LOOKED:
            return True
        follow = bits.nonzero()[0].tolist()
        if not self._ends.isdisjoint(follow):
            return True
        for token in reversed(follow):  # long tokens have high numbers, and lead on soonest
            if self._canonical is not None and not self._canonical([*ids, token]):
                continue
            self._matcher.consume_token(token)
            on = self._leads_on([*ids, token], self._following(), looked)
            self._matcher.rollback(1)
            if on:
                return True
        return False

    def advance(self, token: int) -> None:
        """Go on behind a token; one that ends the reply ends the guide."""
        if self.ended:
            return
        self._next = None
        if token not in self._ends:
            self._matcher.consume_token(token)
            self._ids.append(token)
            self._look()
        self.ended = token in self._ends or bool(self.failure)

    def insist(self, token: int) -> None:
        """Go on behind a token that was refused, where all are; from then on any are taken."""
        self._canonical = None
        self.advance(token)

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
        self._width = width
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
        canonical = Canonical(tokenizer)
        self._canonical = canonical if canonical.known else None
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
        return Guide(self._compiled[grammar].deep_copy(), self._ends, self._width, self._canonical)

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


def token_penalties(guides: Sequence[Guide | None], scores: torch.Tensor) -> torch.Tensor | None:
    """What the scores of next tokens are to be lowered by.

    Args:
        guides: [row] None: a row that is not guided.
        scores: [row, vocabulary] whose shape, precision and device the penalties get.

    Returns:
        [row, vocabulary] 0 where a token may come next, else -inf; None where no row is guided
        any more.
    """
    if all(guide is None or guide.ended for guide in guides):
        return None
    torch = require_extra("torch", "train")
    rows, width = scores.shape
    mask = np.full((rows, (width + 31) // 32), -1, np.int32)
    for row, guide in enumerate(guides):
        if guide is not None:
            guide.fill(mask, row)
    # Eight tokens at once are looked up by their byte: faster than to choose between two numbers.
    eights = torch.from_numpy(mask.view(np.uint8)).to(scores.device).int()
    table = torch.from_numpy(_EIGHTS).to(scores)
    return torch.nn.functional.embedding(eights, table).flatten(1)[:, :width]  # type: ignore[no-any-return]
