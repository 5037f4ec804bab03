"""Conversations as tokens, and the loss on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from toolgym._util.optional import need
from toolgym.miniature.demonstrations import Chat

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

IGNORED: Final = -100


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation in tokens.

    Attributes:
        ids: all tokens.
        mask: 1 where the assistant wrote the token, the ending token of its turns included.
    """

    ids: list[int]
    mask: list[int]


def encode(tokenizer: PreTrainedTokenizerFast, chats: Sequence[Chat]) -> list[Row]:
    """Conversations as tokens, with the assistant's tokens marked by the chat template."""
    encoded: Any = tokenizer.apply_chat_template(
        list(chats), return_dict=True, return_assistant_tokens_mask=True
    )
    pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    return [Row(ids, mask) for ids, mask in pairs]


def collate(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded tokens and labels, both [rows, longest] int64.

    A label is `IGNORED` where nothing is to be learned. Which token pads on the right is of no
    matter, because causal attention never looks there.
    """
    torch = need("torch", "train")
    longest = max(len(row.ids) for row in rows)
    inputs = torch.zeros((len(rows), longest), dtype=torch.int64)
    labels = torch.full((len(rows), longest), IGNORED)
    for place, row in enumerate(rows):
        ids = torch.tensor(row.ids)
        inputs[place, : len(row.ids)] = ids
        labels[place, : len(row.ids)] = torch.where(torch.tensor(row.mask) == 1, ids, IGNORED)
    return inputs, labels


def loss_of(model: LlamaForCausalLM, rows: Sequence[Row]) -> tuple[torch.Tensor, int]:
    """Summed negative log-likelihood (nats) of the assistant's tokens, and how many they are."""
    functional = need("torch.nn.functional", "train")
    inputs, labels = collate(rows)
    # Padding stands on the right, so no attention mask is needed.
    hidden = model.model(input_ids=inputs).last_hidden_state[:, :-1]  # (row, position, hidden)
    learned = labels[:, 1:] != IGNORED
    # Only the positions that count are projected on the vocabulary, which halves the cost of a
    # step.
    loss: torch.Tensor = functional.cross_entropy(
        model.lm_head(hidden[learned]), labels[:, 1:][learned], reduction="sum"
    )
    return loss, int(learned.sum())
