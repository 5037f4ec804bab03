"""Rows that begin alike are read together up to where they differ, while they are trained on a CPU.

Rows of one environment begin with the same instructions. The loss and its gradients are those of
rows that are read one by one, but for rounding: what is kept of the beginning, its keys and values,
takes part in the graph once, with the gradients of all rows that follow it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from toolgym._util.optional import require_extra
from toolgym.data.export import IGNORED
from toolgym.training.config import Resolved, processes

__all__ = ["read_once"]

_LEAST = 32  # tokens: for fewer a pass of their own is not worth it


def read_once(base: Any, model: Any, settings: Resolved) -> Any:
    """A trainer that reads the common beginning of the rows of a batch once.

    Args:
        base: TRL's trainer for SFT or of preferences, or a class derived from it.
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
        or config.get_text_config() is not config
        or not kept
        or any(type(layer) is not cache.DynamicLayer for layer in kept)
        or any(dropouts)
        or any(getattr(config, name, 0.0) for name in ("attention_dropout", "router_aux_loss_coef"))
        or not _keeps(model, cache.DynamicCache(config=config))
    ):
        return base

    class ReadOnce(base):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **more: Any) -> Any:
            """As the base's, of rows whose beginning has been read."""
            length = _common(inputs) if model.training else 0
            if length < _LEAST:
                return super().compute_loss(model, inputs, *args, **more)
            beginning = inputs["input_ids"][:1, :length]
            with contextlib.ExitStack() as hooks:
                # A preference's reference model reads the same rows with weights of its own.
                for reader in (model, getattr(self, "ref_model", None)):
                    if reader is not None:
                        hooks.enter_context(_reading(reader, beginning, cache.DynamicCache, config))
                return super().compute_loss(model, _behind(inputs, length), *args, **more)

    return ReadOnce


def _keeps(model: Any, cache: Any) -> bool:
    """Whether the model leaves what it has read in a cache that it is given."""
    torch = require_extra("torch", "train")
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 2, dtype=torch.long), past_key_values=cache, use_cache=True)
    return bool(cache.get_seq_length() == 2)


def _common(inputs: dict[str, Any]) -> int:
    """How many tokens all rows begin with; the last of them does not say what is learned."""
    ids, mask = (inputs.get(name) for name in ("input_ids", "attention_mask"))
    learned = inputs["labels"] != IGNORED if "labels" in inputs else inputs.get("completion_mask")
    if ids is None or mask is None or learned is None or len(ids) < 2:
        return 0
    alike = (ids == ids[:1]) & (mask != 0) & (learned == 0)
    # What is learned first is told by the token before it, which has to be read with its row.
    return max(0, int(alike.all(0).long().cumprod(0).sum()) - 1)


def _behind(inputs: dict[str, Any], length: int) -> dict[str, Any]:
    """The rows without their beginning; the mask of what is attended to keeps it."""
    cut = {"input_ids", "labels", "completion_mask"} & inputs.keys()
    return {**inputs, **{name: inputs[name][:, length:] for name in cut}}


@contextlib.contextmanager
def _reading(model: Any, beginning: Any, cache: Any, config: Any) -> Iterator[None]:
    """While it lasts, the model reads the beginning before the rows that it is given.

    Args:
        model: with whatever adapters are on at that moment.
        beginning: tokens, of shape [1, length].
        cache: what keys and values are kept in.
        config: the model's.
    """
    within = False

    def read(_: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        nonlocal within
        if within:
            return None
        within = True
        try:
            kept = cache(config=config)
            model(input_ids=beginning, past_key_values=kept, use_cache=True, logits_to_keep=1)
        finally:
            within = False
        count = len(given["input_ids"])
        for layer in kept.layers:
            layer.keys = layer.keys.expand(count, -1, -1, -1)
            layer.values = layer.values.expand(count, -1, -1, -1)
        return args, {**given, "past_key_values": kept}

    hook = model.register_forward_pre_hook(read, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
