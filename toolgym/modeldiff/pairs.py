"""The tensors of two models, paired by name; what cannot be compared is refused."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolgym.data.filter import read_json
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
from toolgym.modeldiff.weights import IGNORED, Place, places

__all__ = ["Pair", "open_adapter", "paired"]

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


_STEP = "compare models of one architecture, or leave the weights out (--no-weights)"
# Percent: between 1 and 2 a bfloat16 is 2**-7 from the next, a float16 2**-10; rounding errs by
# that over sqrt(12) in the root mean square, on numbers of about 1.45.
_ROUNDING = {"BF16": "0.16", "F16": "0.02"}


@dataclass(frozen=True, slots=True)
class Pair:
    """One tensor of both models.

    Args:
        name: in both.
        place: where it sits.
        before: of the base.
        after: of the tuned model.
        rows: common rows; all of them, but for grown embeddings.
    """

    name: str
    place: Place
    before: Tensor
    after: Tensor
    rows: int

    @property
    def cut(self) -> bool:
        """Whether one side has rows that the other does not have."""
        return self.before.shape != self.after.shape


def paired(before: Checkpoint, after: Checkpoint) -> tuple[list[Pair], list[str]]:
    """Pair the tensors of two models.

    Returns:
        The pairs in order of their names, and what a reader has to know about them.

    Raises:
        BadInputError: other architectures, tensors or shapes, or elements that are no floats.
    """
    if before.kind and after.kind and before.kind != after.kind:
        raise BadInputError(
            f"{before.name!r} is of type {before.kind!r} and {after.name!r} of type "
            f"{after.kind!r}: their weights do not correspond; {_STEP}"
        )
    sides = [
        {name: tensor for name, tensor in model.tensors.items() if not IGNORED.fullmatch(name)}
        for model in (before, after)
    ]
    sides = [_aligned(sides[0], sides[1]), _aligned(sides[1], sides[0])]
    notes = _tied(before, after, *sides)
    _same_names(before, after, *sides)
    old, new = sides
    where = places({name: math.prod(tensor.shape) for name, tensor in old.items()})
    pairs = []
    for name in sorted(old, key=lambda name: _order(name, where[name])):
        rows = _common_rows(name, where[name], old[name], new[name], before, after)
        if old[name].shape != new[name].shape:
            notes.append(
                f"{name}: {old[name].height:,} rows before and {new[name].height:,} after; the "
                f"first {rows:,} are compared"
            )
        pairs.append(Pair(name, where[name], old[name], new[name], rows))
    return pairs, notes + _rounding(pairs)


def _aligned(mine: dict[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without a first word such as ``transformer.`` that only this side's names begin with."""
    common = len(mine.keys() & theirs.keys())
    for first in dict.fromkeys(name.partition(".")[0] + "." for name in mine):
        bare = {name.removeprefix(first): tensor for name, tensor in mine.items()}
        if len(bare) == len(mine) and len(bare.keys() & theirs.keys()) > common:
            return bare
    return mine


def _order(name: str, place: Place) -> tuple[int, int, str]:
    last = place.module in ("head", "norms")
    layer = place.layer
    return (1, layer, name) if layer is not None else (2 if last else 0, 0, name)


def _tied(
    before: Checkpoint, after: Checkpoint, old: dict[str, Tensor], new: dict[str, Tensor]
) -> list[str]:
    """Heads that share the embeddings' tensor, taken out or put beside it; says what was done."""
    where = places({name: math.prod(t.shape) for name, t in {**old, **new}.items()})
    heads = [name for name, place in where.items() if place.module == "head"]
    tables = [n for n, p in where.items() if p.module == "embeddings" and n in old and n in new]
    notes = []
    for head in heads:
        having = [side for side in (old, new) if head in side]
        width = having[0][head].width
        table = next((n for n in tables if having[0][n].width == width), None)
        if table is None:
            continue
        if len(having) == 1:
            other = new if having[0] is old else old
            which = after if having[0] is old else before
            other[head] = other[table]
            notes.append(f"{head}: {which.name} has none of its own and uses {table} for it")
        elif all(model.config.get("tie_word_embeddings") for model in (before, after)):
            for side in (old, new):
                del side[head]
            notes.append(f"{head}: tied to {table}, counted once")
    if not heads and tables:
        notes.append("The head is tied to the embeddings: their change is its change.")
    return notes


def _same_names(
    before: Checkpoint, after: Checkpoint, old: Mapping[str, Tensor], new: Mapping[str, Tensor]
) -> None:
    for model, mine, theirs in ((before, old, new), (after, new, old)):
        only = sorted(mine.keys() - theirs.keys())
        if only:
            more = f" and {len(only) - 1} more" if len(only) > 1 else ""
            raise BadInputError(
                f"only {model.name!r} holds {only[0]!r}{more}: not the same architecture; {_STEP}"
            )
    if not old:
        raise BadInputError(f"{before.name!r} and {after.name!r} hold no tensors")


def _common_rows(
    name: str, place: Place, old: Tensor, new: Tensor, before: Checkpoint, after: Checkpoint
) -> int:
    for model, tensor in ((before, old), (after, new)):
        if tensor.dtype not in FLOATS:
            raise BadInputError(
                f"{name!r} of {model.name!r} holds {tensor.dtype}, not floats of 16 to 64 bits: "
                "compare the models before quantisation"
            )
    if old.shape == new.shape:
        return old.height
    grown = place.module in ("embeddings", "head") and old.shape[1:] == new.shape[1:]
    if not grown:
        raise BadInputError(
            f"{name!r} is {_size(old)} in {before.name!r} and {_size(new)} in {after.name!r}: not "
            f"the same architecture; {_STEP}"
        )
    return min(old.height, new.height)


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a scalar"


def _rounding(pairs: list[Pair]) -> list[str]:
    """A model saved in fewer bits than the other differs from it by rounding alone."""
    notes = []
    kinds = {(p.before.dtype, p.after.dtype) for p in pairs if p.before.dtype != p.after.dtype}
    for old, new in sorted(kinds):
        coarse = min((old, new), key=lambda dtype: (FLOATS[dtype], dtype != "BF16"))
        noise = _ROUNDING.get(coarse)
        tail = f": rounding alone shows as about {noise} %" if noise else ""
        notes.append(f"Saved as {old} before and {new} after{tail}.")
    return notes
