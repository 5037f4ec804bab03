"""Rows that begin alike are read together up to where they differ, while they are trained on a CPU.

Rows of one environment begin with the same instructions. The loss and its gradients are those of
rows that are read one by one, but for rounding: what is kept of the beginning, its keys and values,
takes part in the graph once, with the gradients of all rows that follow it.
"""

from __future__ import annotations

from typing import Any

from toolgym._util.optional import require_extra
from toolgym.data.export import IGNORED
from toolgym.training.config import Resolved, processes

__all__ = ["read_once"]

_LEAST = 32  # tokens: for fewer a pass of their own is not worth it


def read_once(base: Any, model: Any, settings: Resolved) -> Any:
    """A trainer that reads the common beginning of the rows of a batch once.

    Args:
        base: TRL's trainer for SFT, or a class derived from it.
        model: that is trained.
        settings: of the training.

    Returns:
        ``base`` itself where that would not be exact, or is not known to be faster: on GPUs, in
        several processes, with checkpoints of activations or dropout, in models of more than text
        or whose layers keep anything else than all keys and values.
    """
    cache = require_extra("transformers.cache_utils", "train")
    torch = require_extra("torch", "train")
    config = model.config
    kept = cache.DynamicCache(config=config).layers
    dropouts = [part.p for part in model.modules() if isinstance(part, torch.nn.Dropout)]
    if (
        torch.cuda.is_available()
        or processes() > 1
        or settings.deepspeed is not None
        or settings.gradient_checkpointing
        or settings.device_batch_size < 2
        or config.get_text_config() is not config
        or not kept
        or any(type(layer) is not cache.DynamicLayer for layer in kept)
        or any(dropouts)
        or any(getattr(config, name, 0.0) for name in ("attention_dropout", "router_aux_loss_coef"))
    ):
        return base

    class ReadOnce(base):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **more: Any) -> Any:
            """As the base's, of rows whose beginning has been read."""
            length = _common(inputs) if model.training else 0
            if length >= _LEAST:
                read = cache.DynamicCache(config=config)
                model(
                    input_ids=inputs["input_ids"][:1, :length],
                    past_key_values=read,
                    use_cache=True,
                    logits_to_keep=1,
                )
                if read.get_seq_length() == length:  # else the model has a cache of its own
                    inputs = _behind(inputs, length, read)
            return super().compute_loss(model, inputs, *args, **more)

    return ReadOnce


def _common(inputs: dict[str, Any]) -> int:
    """How many tokens all rows begin with; the last of them does not say what is learned."""
    ids, labels, mask = (inputs.get(name) for name in ("input_ids", "labels", "attention_mask"))
    if ids is None or labels is None or mask is None or len(ids) < 2:
        return 0
    alike = (ids == ids[:1]) & (mask != 0) & (labels == IGNORED)
    # What is learned first is told by the token before it, which has to be read with its row.
    return max(0, int(alike.all(0).long().cumprod(0).sum()) - 1)


def _behind(inputs: dict[str, Any], length: int, read: Any) -> dict[str, Any]:
    """The rows without their beginning, and what was read of it."""
    count = len(inputs["input_ids"])
    for layer in read.layers:
        layer.keys = layer.keys.expand(count, -1, -1, -1)
        layer.values = layer.values.expand(count, -1, -1, -1)
    cut = {name: inputs[name][:, length:] for name in ("input_ids", "labels")}
    return {**inputs, **cut, "past_key_values": read}
