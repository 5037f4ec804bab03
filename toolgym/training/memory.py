"""Memory that playing and training will need, computed before anything is loaded.

docs/recipes.md has the formulas with their assumptions, and how far they were off where they were
measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from toolgym._util.optional import quiet, require_extra
from toolgym.policies.local.models import locate

__all__ = [
    "GPUS",
    "KNOWN",
    "PARTS",
    "Memory",
    "Shape",
    "TrainingSize",
    "find_shape",
    "fitting",
    "playing_memory",
    "shape_of",
    "shape_of_model",
    "training_memory",
]

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
    "smollm2": _known(
        {"model_type": "llama", "vocab_size": 49152, "num_key_value_heads": 3},
        *(30, 576, 1536, 9),
        max_position_embeddings=8192,
        tie_word_embeddings=True,
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
        model: a folder, a name of `toolgym.registry.MODELS`, or a hub id.

    Returns:
        None where nothing is known of it.
    """
    transformers = require_extra("transformers", "train")
    try:
        with quiet():
            found = locate(model)
            config = transformers.AutoConfig.from_pretrained(found, local_files_only=True)
    except (OSError, ValueError):  # a known name that was not fetched, too
        known = KNOWN.get(_plain(model))
        if known is None:
            return None
        fields = {key: value for key, value in known.items() if key != "model_type"}
        config = transformers.AutoConfig.for_model(known["model_type"], **fields, dtype="bfloat16")
        return shape_of(config, "known architecture")
    return shape_of(config, "folder" if Path(found).is_dir() else "hub cache")


def shape_of(config: Any, source: str) -> Shape:
    """The shape of a configuration; the network is made without memory for its weights.

    Args:
        config: of a causal model.
        source: see `Shape`.
    """
    torch = require_extra("torch", "train")
    transformers = require_extra("transformers", "train")
    with torch.device("meta"), quiet():
        model = transformers.AutoModelForCausalLM.from_config(config)
    return shape_of_model(model, source)


def shape_of_model(model: Any, source: str) -> Shape:
    """The shape of a causal model.

    Args:
        model: loaded, or without memory for its weights.
        source: see `Shape`.
    """
    torch = require_extra("torch", "train")
    head, config = model.get_output_embeddings(), model.config
    ends = {id(w): w.numel() for w in (model.get_input_embeddings().weight, head.weight)}
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None) or 1
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
        inner=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
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


GPUS = (16, 24, 40, 48, 80, 96, 140, 180)
"""Memory of usual GPUs, in GiB."""

_USABLE = 0.9  # of a GPU; the rest is lost to fragments
_RUNTIME = 0.8e9  # bytes of Python and its libraries; a GPU's own context is about as large
_FULL, _HALF = 4, 2  # bytes of a float32, of a bfloat16
_TILE_TOKENS, _TILE_WORDS = 4096, 32768  # logits are made in tiles (trl 1.16, fused head)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by what takes them.

    Args:
        weights: of the model, adapters included.
        gradients: of what is trained.
        optimizer: two moments of what is trained.
        reference: a second model, for DPO and for the KL divergence of GRPO.
        cast: bfloat16 copies of float32 weights.
        activations: kept for the backward pass, or the largest layer while playing.
        cache: keys and values of the replies being written.
        runtime: of the process itself.
    """

    weights: float = 0
    gradients: float = 0
    optimizer: float = 0
    reference: float = 0
    cast: float = 0
    activations: float = 0
    cache: float = 0
    runtime: float = _RUNTIME

    @property
    def total(self) -> float:
        """Their sum."""
        return float(sum(asdict(self).values()))


PARTS = tuple(each.name for each in fields(Memory))


@dataclass(frozen=True, slots=True)
class TrainingSize:
    """What a training's memory depends on, beside the model.

    Args:
        method: ``sft``, ``dpo`` or ``grpo``.
        rows: at once on the device; pairs for DPO.
        length: tokens of a row; for DPO of prompt and one side.
        lora: rank, 0 for all weights.
        checkpointing: whether activations inside layers are computed again.
        half: computed in bfloat16.
        reference: whether a first model is kept; see `Memory`.
    """

    method: str
    rows: int
    length: int
    lora: int = 0
    checkpointing: bool = True
    half: bool = True
    reference: bool = False


def training_memory(shape: Shape, size: TrainingSize) -> Memory:
    """Peak of one training step.

    Args:
        shape: of the model.
        size: of the training.
    """
    trained = shape.adapters(size.lora) if size.lora else shape.parameters
    frozen = shape.parameters if size.lora else 0
    # Weights that are trained are float32; those below adapters may be bfloat16.
    held = frozen * (_HALF if size.half else _FULL) + trained * _FULL
    matrices = shape.parameters - shape.embeddings
    return Memory(
        weights=held,
        gradients=_FULL * trained,
        optimizer=2 * _FULL * trained,
        # Adapters are switched off to get the first model back.
        reference=_FULL * shape.parameters if size.reference and not size.lora else 0,
        cast=_HALF * matrices if size.half and not size.lora else 0,
        activations=_activations(shape, size),
    )


def playing_memory(
    shape: Shape,
    rows: int,
    prompt: int,
    reply: int,
    *,
    width: int,
    kept: float = 0.0,
    beside: Memory | None = None,
) -> Memory:
    """Peak of sampling a batch of replies.

    Args:
        shape: of the model.
        rows: replies at once.
        prompt: tokens of the longest prompt.
        reply: most tokens of a reply.
        width: bytes of a number in computation.
        kept: most bytes of keys and values that wait for an episode's next turn.
        beside: what stays in memory meanwhile when the model is being trained.
    """
    cache = 2.0 * shape.layers * shape.keys * width * rows * (prompt + reply) + kept
    # Reading the prompts is the peak: a layer's feed-forward part, over all of them at once.
    inside = rows * prompt * (3 * shape.inner + 3 * shape.hidden) * width
    logits = rows * shape.vocabulary * (width + 4 * _FULL)
    activations = float(inside + logits)
    if beside is None:
        return Memory(weights=shape.parameters * width, cache=cache, activations=activations)
    parts = asdict(beside) | {"activations": activations, "cache": cache}
    return Memory(**parts)


def _activations(shape: Shape, size: TrainingSize) -> float:
    """Bytes that autograd keeps, and one layer of gradients beside them."""
    tokens = size.length * size.rows * (2 if size.method == "dpo" else 1)
    number = _HALF if size.half else _FULL
    # With float32 weights the residual stream and the norms stay float32 under autocast.
    stream = _HALF if size.half and size.lora else _FULL
    # Two norms: input, normed, output; queries, keys, values, result; gate, its activation, up,
    # their product. Adapters keep nothing wide: their inputs are these.
    layer = 6 * shape.hidden * stream
    layer += (3 * shape.queries + 3 * shape.keys + 4 * shape.inner) * number
    backward = (2 * shape.inner + 2 * shape.hidden) * number
    if size.checkpointing:
        kept = shape.layers * shape.hidden * stream + layer
    else:
        kept = shape.layers * layer
    # Logits, their exponentials and gradients, and the head's own tile.
    tile = 4 * min(tokens, _TILE_TOKENS) * min(shape.vocabulary, _TILE_WORDS) * _FULL
    return float(tokens * (kept + backward + 3 * shape.hidden * stream) + tile)


def fitting(total: float, gpus: Sequence[int] = GPUS) -> int | None:
    """The smallest GPU of a list, in GiB, that has room for so many bytes."""
    return next((gpu for gpu in gpus if total <= _USABLE * gpu * 2**30), None)
