"""How large a model is, without its weights: from its configuration alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from toolgym._util.optional import need, quiet

__all__ = ["KNOWN", "Shape", "find_shape", "shape_of"]

_LLAMA3: Final = {"model_type": "llama", "vocab_size": 128256, "num_key_value_heads": 8}
_QWEN3: Final = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
}


def _known(
    family: Mapping[str, Any], layers: int, hidden: int, inner: int, heads: int, **more: Any
) -> dict[str, Any]:
    return {
        **family,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        **more,
    }


KNOWN: Final[dict[str, dict[str, Any]]] = {
    "Meta-Llama-3-8B": _known(_LLAMA3, 32, 4096, 14336, 32, max_position_embeddings=8192),
    "Meta-Llama-3-70B": _known(_LLAMA3, 80, 8192, 28672, 64, max_position_embeddings=8192),
    "Llama-3.1-8B": _known(_LLAMA3, 32, 4096, 14336, 32, max_position_embeddings=131072),
    "Llama-3.2-1B": _known(
        _LLAMA3, 16, 2048, 8192, 32, max_position_embeddings=131072, tie_word_embeddings=True
    ),
    "Llama-3.2-3B": _known(
        _LLAMA3, 28, 3072, 8192, 24, max_position_embeddings=131072, tie_word_embeddings=True
    ),
    "Qwen3-0.6B": _known(_QWEN3, 28, 1024, 3072, 16, tie_word_embeddings=True),
    "Qwen3-1.7B": _known(_QWEN3, 28, 2048, 6144, 16, tie_word_embeddings=True),
    "Qwen3-4B": _known(_QWEN3, 36, 2560, 9728, 32, tie_word_embeddings=True),
    "Qwen3-8B": _known(_QWEN3, 36, 4096, 12288, 32),
    "Qwen3-14B": _known(_QWEN3, 40, 5120, 17408, 40),
    "Qwen3-32B": _known(_QWEN3, 64, 5120, 25600, 64),
}
"""Architectures by the name of the published model, for machines that have neither."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What memory depends on.

    Args:
        name: of the architecture's class.
        source: where its configuration was found.
        parameters: exact number of weights, tied ones once.
        embeddings: weights of embeddings and output head, tied ones once.
        linears: ``(in, out)`` of every linear layer but the output head.
        layers: blocks.
        hidden: width of the residual stream.
        inner: width of the feed-forward layer.
        queries: width of all query heads together.
        keys: width of all key heads together.
        vocabulary: tokens.
        positions: the longest sequence, in tokens, or None.
        saved: bytes of a weight as it is saved.
    """

    name: str
    source: str
    parameters: int
    embeddings: int
    linears: tuple[tuple[int, int], ...]
    layers: int
    hidden: int
    inner: int
    queries: int
    keys: int
    vocabulary: int
    positions: int | None
    saved: int

    def adapters(self, rank: int) -> int:
        """Weights of LoRA adapters of a rank on all linear layers but the output head."""
        return sum(rank * (inputs + outputs) for inputs, outputs in self.linears)


def find_shape(model: str) -> Shape | None:
    """The shape of a model folder, of a hub id in the local cache, or of a known name.

    Reads configurations only, and never asks the hub.

    Args:
        model: a folder or a hub id.

    Returns:
        None where nothing is known of it.
    """
    transformers = need("transformers", "train")
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError):
        found = KNOWN.get(_plain(model))
        if found is None:
            return None
        fields = {key: value for key, value in found.items() if key != "model_type"}
        config = transformers.AutoConfig.for_model(found["model_type"], **fields, dtype="bfloat16")
        return shape_of(config, "known architecture")
    return shape_of(config, "folder" if Path(model).is_dir() else "hub cache")


def shape_of(config: Any, source: str) -> Shape:
    """The shape of a configuration; the network is made without memory for its weights.

    Args:
        config: of a causal model.
        source: see `Shape`.
    """
    torch = need("torch", "train")
    transformers = need("transformers", "train")
    with torch.device("meta"), quiet():
        model = transformers.AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    ends = {id(w): w.numel() for w in (model.get_input_embeddings().weight, head.weight)}
    text = config.get_text_config()
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    dtype = getattr(config, "dtype", None) or torch.float32
    return Shape(
        name=type(model).__name__,
        source=source,
        parameters=sum(weight.numel() for weight in model.parameters()),
        embeddings=sum(ends.values()),
        linears=tuple(
            (module.in_features, module.out_features)
            for module in model.modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        ),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        inner=text.intermediate_size,
        queries=width * heads,
        keys=width * (getattr(text, "num_key_value_heads", None) or heads),
        vocabulary=text.vocab_size,
        positions=getattr(text, "max_position_embeddings", None),
        saved=torch.empty(0, dtype=dtype).element_size(),
    )


def _plain(model: str) -> str:
    """The published name without its owner and what marks the instruct version."""
    name = model.rpartition("/")[2].removesuffix("-Instruct").removesuffix("-Base")
    return name.replace("Meta-Llama-3.1", "Llama-3.1")
