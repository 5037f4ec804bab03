"""Memory that playing and training will need, computed before anything is loaded.

docs/recipes.md has the formulas with their assumptions, and how far they were off where they were
measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from toolgym.selftrain.sizes import Shape

__all__ = [
    "GPUS",
    "PARTS",
    "Memory",
    "TrainingSize",
    "fitting",
    "playing_memory",
    "training_memory",
]

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
