"""A saved model as its tensors by name: whole or in shards, or a LoRA adapter on top of another.

What an adapter adds to each weight: Hu et al. 2021, arXiv 2106.09685, section 4.1.
"""

from __future__ import annotations

import functools
import math
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolgym._util.jsonl import read_json
from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, MissingExtraError, MissingFileError, did_you_mean
from toolgym.policies.local.models import locate

__all__ = [
    *("ADAPTER", "FLOATS", "Checkpoint", "Floats", "Rows", "Tensor", "find_folder", "is_adapter"),
    *("open_adapter", "open_weights"),
]

Floats = NDArray[np.float64]
Rows = Callable[[int, int], Floats]
"""Takes the first row and the row after the last; gives [rows, width]."""
FLOATS = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
"""Bytes of each element type that can be compared."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that stays in its file until rows of it are asked for.

    Args:
        source: file and name: equal for two tensors that are the same bytes.
        shape: all dimensions.
        dtype: as safetensors calls it: ``BF16``, ``F32``, ...
        read: gives rows of it.
    """

    source: tuple[str, str]
    shape: tuple[int, ...]
    dtype: str
    read: Rows

    @property
    def width(self) -> int:
        """Elements of a row: the last dimension, or 1 for vectors."""
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def height(self) -> int:
        """Rows: all dimensions but the last; elements of a vector."""
        return math.prod(self.shape[:-1] if len(self.shape) > 1 else self.shape)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, read by the format's own library.

    Its reader for torch maps the file; the one for numpy knows no bfloat16.

    Raises:
        MissingExtraError: safetensors or torch is not installed.
        BadInputError: it is not a safetensors file, or it is cut off.
    """
    library, torch = require_extra("safetensors", "train"), require_extra("torch", "train")
    try:
        opened = library.safe_open(file, framework="pt")
    except library.SafetensorError as error:
        if "not fully covered" in str(error):
            text = f"{str(file)!r} is cut off, or longer than it says; copy or save it again"
            raise BadInputError(text) from error
        with file.open("rb") as stream:
            pointer = stream.read(8) == b"version "
        hint = " (a Git LFS pointer: run `git lfs pull`)" if pointer else ""
        raise BadInputError(f"{str(file)!r} is not a safetensors file{hint}") from error

    def tensor(name: str) -> Tensor:
        about = opened.get_slice(name)

        def read(first: int, last: int) -> Floats:
            return _rows(opened.get_tensor(name), first, last, torch)

        shape, dtype = tuple(about.get_shape()), about.get_dtype()
        return Tensor((str(file.resolve()), name), shape, dtype, read)

    return {name: tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is not a mapping


def _rows(value: Any, first: int, last: int, torch: Any) -> Floats:
    """Some rows of a tensor of torch, which is not read or converted as a whole."""
    width = value.shape[-1] if value.ndim > 1 else 1
    rows: Floats = value.reshape(-1, width)[first:last].to(torch.float64).numpy()
    return rows


def read_pickle(file: Path) -> dict[str, Tensor]:
    """The tensors of a ``pytorch_model.bin`` by name; nothing but tensors is unpickled.

    Raises:
        MissingExtraError: torch is not installed.
        BadInputError: torch refuses the file.
    """
    torch = require_extra("torch", "train")
    names = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
    names |= {torch.float64: "F64"}
    try:
        # Before 2020 torch wrote no zip files; those cannot be mapped.
        mapped = zipfile.is_zipfile(file)
        state = torch.load(file, map_location="cpu", mmap=mapped, weights_only=True)
    except Exception as error:  # torch raises its own, pickle's and the zip reader's
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise BadInputError(f"{str(file)!r} cannot be read by torch: {reason:.200}") from error

    def tensor(name: str, value: Any) -> Tensor:
        dtype = names.get(value.dtype, str(value.dtype).removeprefix("torch."))

        def read(first: int, last: int) -> Floats:
            return _rows(value, first, last, torch)

        return Tensor((str(file.resolve()), name), tuple(value.shape), dtype, read)

    return {name: tensor(name, value) for name, value in state.items() if torch.is_tensor(value)}


ADAPTER = "adapter_config.json"
_WEIGHTS = (
    *("model.safetensors.index.json", "model.safetensors", "*.safetensors"),
    *("pytorch_model.bin.index.json", "pytorch_model*.bin"),
)


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk.

    Args:
        name: what the user called it.
        folder: where it lies.
        config: its ``config.json``; empty when it has none.
        tensors: by name.
        base: what an adapter stands on; None for a whole model.
        deltas: what an adapter adds, by tensor: exact, where the difference of two merged models in
            bfloat16 would carry their rounding.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    base: Checkpoint | None = field(default=None, repr=False)
    deltas: Mapping[str, Rows] = field(default_factory=dict, repr=False)

    @property
    def kind(self) -> str:
        """The architecture, such as ``llama``; empty when that is not recorded."""
        return str(self.config.get("model_type") or "")


def find_folder(model: str | Path) -> Path:
    """The folder of a model.

    Args:
        model: a folder, or a hub id whose files are in the hub's cache; nothing is fetched.

    Raises:
        MissingFileError: it is neither.
    """
    folder = Path(locate(str(model))).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise MissingFileError(f"{str(model)!r} is a file; name the folder of the model")
    name, parent = str(model), folder.parent
    siblings = [p.name for p in parent.iterdir()] if parent.is_dir() else []
    hint = did_you_mean(folder.name, siblings)
    path = folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if path or (parent != Path() and siblings):
        raise MissingFileError(f"model folder {name!r} does not exist{hint}")
    if (cached := _cached(name)) is not None:
        return cached
    raise MissingFileError(
        f"model {name!r} is not a folder{hint}, and the hub's cache does not hold it; "
        f"fetch it with: hf download {name}"
    )


def _cached(name: str) -> Path | None:
    """The newest snapshot of a hub model on this disk; None without one."""
    try:
        hub = require_extra("huggingface_hub", "train")
    except MissingExtraError:  # then nothing was ever fetched
        return None
    for file in ("config.json", ADAPTER):
        try:
            found = hub.try_to_load_from_cache(name, file)
        except ValueError:  # no valid hub id
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter instead of a model."""
    whole = ("model*.safetensors", "pytorch_model*.bin")
    return (folder / ADAPTER).is_file() and not any(any(folder.glob(name)) for name in whole)


def open_weights(name: str, folder: Path) -> Checkpoint:
    """A whole model; no weight is read yet.

    Args:
        name: what the user called it.
        folder: of the model.

    Raises:
        MissingFileError: no weight files, or one that the index names is missing.
        BadInputError: a file that cannot be read, or quantised weights.
        MissingExtraError: ``.bin`` files, and torch is not installed.
    """
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if config.get("quantization_config"):
        raise BadInputError(
            f"{name!r} is quantised: its numbers are codes, not weights; compare the models before "
            "quantisation"
        )
    tensors: dict[str, Tensor] = {}
    for file in _files(name, folder):
        tensors |= read_safetensors(file) if file.suffix == ".safetensors" else read_pickle(file)
    return Checkpoint(name, folder, config, tensors)


def _files(name: str, folder: Path) -> list[Path]:
    for pattern in _WEIGHTS:
        files = sorted(folder.glob(pattern))
        if files and files[0].name.endswith(".index.json"):
            shards = read_json(files[0]).get("weight_map")
            if not isinstance(shards, dict):
                raise BadInputError(f"{str(files[0])!r} has no 'weight_map'")
            files = [folder / shard for shard in sorted({str(v) for v in shards.values()})]
            for file in files:
                if not file.is_file():
                    raise MissingFileError(
                        f"{name!r} is incomplete: {file.name} is missing; copy or fetch it again"
                    )
        if files:
            return files
    raise MissingFileError(
        f"{str(folder)!r} holds no weights (*.safetensors or pytorch_model*.bin); name the folder "
        "of a saved model"
    )


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
                f"adapter {name!r} holds {key!r}, which is not a LoRA pair and no tensor of "
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
        raise BadInputError(f"adapter {name!r}: {module!r} is not a plain LoRA pair: {_MERGE}")
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
