"""Whether tokens are those that a tokenizer itself writes their text with.

A text can be written in many sequences of tokens, of which models read one in training: the
canonical one. A guide makes the others probable: where the tokens that a model wants are barred,
single signs are what is left of a word, and who learns from such replies forgets how to copy.
Chatzi et al., "Canonical Autoregressive Generation", arXiv 2506.06446: a sequence can only become a
canonical one where each beginning of it is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Canonical"]

_LEAD = "\n"  # replies begin a line; some tokenizers write the begin of a text in a way of its own
_INCOMPLETE = "�"  # what bytes that are not yet a sign are shown as


class Canonical:
    """Says of the beginning of a reply whether the tokenizer would write it so.

    Args:
        tokenizer: of one that is not a fast one nothing can be told.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        # Tokenizers of others, written in Python, have none.
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._lead = self._encode(_LEAD)
        self.known = bool(self._lead) and self._same(self._lead)
        """False: the tokenizer changes what it reads, or is not a fast one: nothing can be told."""

    def __call__(self, ids: Sequence[int]) -> bool:
        """Whether the tokenizer writes these tokens' text with them.

        Args:
            ids: of a reply, from its beginning. Where a sign is not complete yet, the answer is
                yes.
        """
        return self._same([*self._lead, *ids])

    def written(self, ids: Sequence[int]) -> list[int]:
        """The tokens that the tokenizer writes the text of these with; themselves where in doubt.

        Args:
            ids: of a whole reply.
        """
        text = self._decode([*self._lead, *ids])
        found, lead = self._encode(text), len(self._lead)
        told = self.known and _INCOMPLETE not in text and found[:lead] == self._lead
        return found[lead:] if told and self._decode(found) == text else list(ids)

    def _same(self, ids: list[int]) -> bool:
        text = self._decode(ids)
        return text.endswith(_INCOMPLETE) or self._encode(text) == ids

    def _decode(self, ids: list[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=False)) if self._backend else ""

    def _encode(self, text: str) -> list[int]:
        if self._backend is None:
            return []
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids
