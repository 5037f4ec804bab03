"""The optimizers of the miniature's pre-training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolgym._util.optional import need
from toolgym.miniature.settings import BaseSettings

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM


class Optimizers:
    """Muon on the hidden matrices, AdamW elsewhere: a third of the steps of AdamW alone.

    Args:
        model: what to train.
        settings: its peak learning rates.
    """

    def __init__(self, model: LlamaForCausalLM, settings: BaseSettings) -> None:
        optim = need("torch.optim", "train")
        matrices: list[torch.Tensor] = []
        others: list[torch.Tensor] = []
        for name, parameter in model.named_parameters():
            inner = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
            (matrices if inner else others).append(parameter)
        self._parameters = matrices + others
        self._optimizers = [
            optim.Muon(matrices, lr=settings.muon_rate, weight_decay=0.0),
            optim.AdamW(
                others, lr=settings.adam_rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True
            ),
        ]
        self._peaks = (settings.muon_rate, settings.adam_rate)

    def step(self, loss: torch.Tensor, factor: float) -> None:
        """One update at `factor` times the peak rates, with gradients clipped to norm 1."""
        loss.backward()
        need("torch.nn.utils", "train").clip_grad_norm_(self._parameters, 1.0)
        for optimizer, peak in zip(self._optimizers, self._peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:
        """What both optimizers have gathered, for a checkpoint."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Bring back what `state` gave."""
        for optimizer, kept in zip(self._optimizers, state, strict=True):
            optimizer.load_state_dict(kept)
