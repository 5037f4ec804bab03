"""A model's linear layers in 8 bits: CPUs multiply such numbers several times as fast.

Weights have a scale for each output channel, inputs one for each token, so that a token's result
does not depend on what else is read with it. Channels that stand out are evened out first, between
inputs and weights (SmoothQuant: Xiao et al., ICML 2023, arXiv 2211.10438, equation 4 with
alpha = 0.5). Needs torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["to_int8"]

# What inputs look like is seen on this text: prose, names, numbers, tool calls, other scripts.
_TEXT = """Ada Lovelace (born in London, 10 December 1815) was an English mathematician and writer.
The capital of France is Paris; it has 2,102,650 inhabitants (2023). Question: In what city was
Alan Turing born? Action: WikipediaSearch[Alan Turing]
Response from tool WikipediaSearch[Alan Turing] are: Alan Mathison Turing was an English computer
scientist, born in Maida Vale. Answer: London
{"name": "calculator", "arguments": {"expression": "3 * (17.5 - 4) / 9"}}
Der Rhein fließt durch Köln. Токио — столица Японии. 東京は日本の首都です。 القاهرة عاصمة مصر."""
_NARROW = 16  # fewer input channels gain nothing; with one torch._int_mm of torch 2.13 is wrong
_LEVELS = 127.0  # of one sign; -128 is not used
_LEAST = 1e-12  # of a scale: a row of zeros stays one


def to_int8(model: Any, tokenizer: Any) -> None:
    """Let a model on the CPU multiply in 8 bits; embeddings and the layer over words stay.

    Args:
        model: in float32; its linear layers are replaced.
        tokenizer: of the model.
    """
    seen = _Seen(model.get_output_embeddings())
    hooks = [
        layer.register_forward_pre_hook(seen.look)
        for layer in model.modules()
        if type(layer) is nn.Linear and layer.in_features >= _NARROW
    ]
    with torch.inference_mode():
        model(input_ids=torch.tensor([tokenizer(_TEXT)["input_ids"]]), use_cache=False)
    for hook in hooks:
        hook.remove()
    last, made = _Last(), dict[nn.Module, nn.Module]()
    for found in seen.inputs:
        narrowed = found.narrowed()
        made |= {layer: _Int8Linear(layer, narrowed, last) for layer in found.layers}
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if layer in made:
                setattr(parent, name, made[layer])


class _Input:
    """What several layers read, such as the projections of an attention.

    Args:
        peak: [channel] the greatest sizes seen.
    """

    def __init__(self, peak: torch.Tensor) -> None:
        self.peak = peak
        self.layers: list[nn.Linear] = []

    def narrowed(self) -> torch.Tensor:
        """[channel] by what inputs are multiplied, and weights divided."""
        weights = [layer.weight.detach().float().abs().amax(0) for layer in self.layers]
        widest = torch.stack(weights).amax(0)
        return (widest.clamp(min=1e-5) / self.peak.clamp(min=1e-5)).sqrt()


class _Seen:
    """Looks at what linear layers read.

    Args:
        head: the layer over words, which is left alone.
    """

    def __init__(self, head: Any) -> None:
        self.inputs: list[_Input] = []
        self._head = head
        self._value: torch.Tensor | None = None

    def look(self, layer: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        """Layers that read the same tensor one after the other have one input."""
        if layer is self._head or not isinstance(layer, nn.Linear):
            return
        if given[0] is not self._value:
            self._value = given[0]
            self.inputs.append(_Input(given[0].flatten(0, -2).abs().amax(0).float()))
        self.inputs[-1].layers.append(layer)


class _Last:
    """The input that was rounded last, for the other layers that read it."""

    def __init__(self) -> None:
        self._kept: tuple[torch.Tensor, ...] = ()

    def rounded(
        self, value: torch.Tensor, narrowed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[token, channel] in 8 bits, and [token, 1] their scales."""
        if self._kept and self._kept[0] is value and self._kept[1] is narrowed:
            return self._kept[2], self._kept[3]
        even = value.flatten(0, -2) * narrowed
        scale = even.abs().amax(-1, keepdim=True).clamp_(min=_LEAST).div_(_LEVELS)
        rows = even.div_(scale).round_().to(torch.int8)
        self._kept = (value, narrowed, rows, scale)
        return rows, scale


class _Int8Linear(nn.Module):
    """A linear layer in 8 bits.

    Args:
        layer: the same in float32.
        narrowed: [input channel] by what its inputs are multiplied.
        last: what was rounded last.
    """

    def __init__(self, layer: nn.Linear, narrowed: torch.Tensor, last: _Last) -> None:
        super().__init__()
        weight = layer.weight.detach().float() / narrowed
        scale = weight.abs().amax(1, keepdim=True).clamp(min=_LEAST) / _LEVELS
        self._weight = (weight / scale).round().to(torch.int8).contiguous().t()
        self._scale, self._narrowed = scale[:, 0], narrowed
        self._bias = None if layer.bias is None else layer.bias.detach()
        self._last = last

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """As the layer, [..., input channel] to [..., output channel]."""
        rows, scale = self._last.rounded(value, self._narrowed)
        # Sums of products of 8 bits are exact in 32.
        out = torch._int_mm(rows, self._weight).float().mul_(scale).mul_(self._scale)
        if self._bias is not None:
            out += self._bias
        return out.view(*value.shape[:-1], -1).to(value.dtype)
