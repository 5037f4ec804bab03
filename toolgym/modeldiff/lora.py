"""LoRA adapters: what they add to each weight (Hu et al. 2021, arXiv 2106.09685, section 4.1)."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toolgym._util.jsonl import read_json
from toolgym.errors import BadInputError, MissingFileError
from toolgym.modeldiff.checkpoint import (
    ADAPTER,
    FLOATS,
    Checkpoint,
    Floats,
    Rows,
    Tensor,
    read_pickle,
    read_safetensors,
)

__all__ = ["open_adapter"]

_PREFIX = "base_model.model."
_PAIR = re.compile(r"(?P<module>.+)\.lora_(?:embedding_)?(?P<side>[AB])(?:\.weight)?")
_MERGE = "merge it with peft's merge_and_unload() and save the result, then compare that"


def open_adapter(name: str, folder: Path, base: Checkpoint) -> Checkpoint:
    """An adapter folder of peft on top of a model.

    Args:
        name: what the user called it.
        folder: with ``adapter_config.json``.
        base: the whole model below.

    Raises:
        MissingFileError: no adapter weights.
        BadInputError: no LoRA, a kind of it that cannot be added up here, or one of another model.
    """
    config = read_json(folder / ADAPTER)
    kind = str(config.get("peft_type", "LORA")).upper()
    if kind != "LORA" or config.get("use_dora") or config.get("lora_bias"):
        kind = "DoRA" if config.get("use_dora") else "LoRA with biases" if kind == "LORA" else kind
        raise BadInputError(f"adapter {name!r} is of type {kind}, not plain LoRA: {_MERGE}")
    pairs: dict[str, dict[str, Tensor]] = {}
    tensors, deltas = dict(base.tensors), {}
    for saved, tensor in _stored(name, folder).items():
        key = saved.removeprefix(_PREFIX).replace(".base_layer.", ".")
        match = _PAIR.fullmatch(key)
        if match:
            pairs.setdefault(match["module"], {})[match["side"]] = tensor
        elif key in base.tensors:
            tensors[key] = tensor  # modules_to_save, and trained biases: whole
        else:
            raise BadInputError(
                f"adapter {name!r} holds {key!r}, which is no LoRA pair and no tensor of "
                f"{base.name!r}: {_MERGE}"
            )
    for module, pair in pairs.items():
        weight = f"{module}.weight"
        if weight not in base.tensors or pair.keys() != {"A", "B"}:
            raise BadInputError(
                f"adapter {name!r} changes {module!r}, which {base.name!r} does not hold: name the "
                f"model that it was trained on ({config.get('base_model_name_or_path')!r}), or "
                f"{_MERGE}"
            )
        below = tensors[weight]
        add = _delta(name, module, below, pair, config)
        tensors[weight] = _sum(below, add, (str(folder.resolve()), weight))
        if below is base.tensors[weight]:
            deltas[weight] = add
    return Checkpoint(name, folder, base.config, tensors, base, deltas)


def _stored(name: str, folder: Path) -> dict[str, Tensor]:
    for file, read in (
        (folder / "adapter_model.safetensors", read_safetensors),
        (folder / "adapter_model.bin", read_pickle),
    ):
        if file.is_file():
            return read(file)
    raise MissingFileError(f"adapter {name!r} has no adapter_model.safetensors")


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = config.get("lora_alpha", 8)
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = own
            break
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _delta(
    name: str,
    module: str,
    below: Tensor,
    pair: Mapping[str, Tensor],
    config: Mapping[str, Any],
) -> Rows:
    """``scale * B @ A``, and its transpose for embeddings and for layers stored [in, out]."""
    sides = [pair[side] for side in "BA"]
    if any(len(side.shape) != 2 or side.dtype not in FLOATS for side in sides):
        raise BadInputError(f"adapter {name!r}: {module!r} is no plain LoRA pair: {_MERGE}")
    rank = sides[1].shape[0]
    scale, shape = _scale(config, module, rank), (sides[0].shape[0], sides[1].shape[1])
    # Embeddings, [vocabulary, width], and layers stored [in, out]; of a square one the setting
    # tells.
    turned = shape != below.shape or (shape[0] == shape[1] and config.get("fan_in_fan_out"))
    if (shape[::-1] if turned else shape) != below.shape or sides[0].shape[1] != rank:
        raise BadInputError(
            f"adapter {name!r}: {module!r} is {shape}, the model's {below.shape}; it was trained "
            f"on another model ({config.get('base_model_name_or_path')!r})"
        )

    def add(first: int, last: int) -> Floats:
        left, right = (_whole(side) for side in sides)  # [out, rank], [rank, in]
        if turned:
            left, right = right.T, left.T
        return np.asarray(scale * (left[first:last] @ right), np.float64)

    return add


@functools.lru_cache(maxsize=2)
def _whole(side: Tensor) -> Floats:
    """One side of a pair, kept while the rows of its module are asked for and no longer."""
    return side.read(0, side.height)


def _sum(below: Tensor, add: Rows, source: tuple[str, str]) -> Tensor:
    def read(first: int, last: int) -> Floats:
        return np.asarray(below.read(first, last) + add(first, last), np.float64)

    return Tensor(source, below.shape, below.dtype, read)
