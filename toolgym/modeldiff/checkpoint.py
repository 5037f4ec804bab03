"""A saved model as its tensors by name: whole or in shards, or a LoRA adapter on top of another."""

from __future__ import annotations

import json
import math
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

__all__ = [
    "ADAPTER",
    "FLOATS",
    "Checkpoint",
    "Floats",
    "Rows",
    "Tensor",
    "find_folder",
    "is_adapter",
    "open_weights",
    "read_pickle",
    "read_safetensors",
]

Floats = NDArray[np.float64]
Rows = Callable[[int, int], Floats]
"""Takes the first row and the row after the last; gives [rows, width]."""
FLOATS = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
"""Bytes of each element type that can be compared."""

_PLAIN = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
_LONGEST_HEADER = 100_000_000  # bytes; the limit that the format's own library sets


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
    """The tensors of a safetensors file by name.

    Raises:
        BadInputError: it is no safetensors file, or it is cut off.
    """
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        header = stream.read(length) if length <= _LONGEST_HEADER else b""
    try:
        entries: dict[str, Any] = json.loads(header.decode("utf-8"))
        entries.pop("__metadata__", None)
        found = {name: _entry(file, name, 8 + length, entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        pointer = " (a Git LFS pointer: run `git lfs pull`)" if start == b"version " else ""
        raise BadInputError(f"{str(file)!r} is no safetensors file{pointer}") from error
    ends = [8 + length + int(entry["data_offsets"][1]) for entry in entries.values()]
    if (needed := max(ends, default=0)) > (size := file.stat().st_size):
        raise BadInputError(
            f"{str(file)!r} is cut off: {size:,} of {needed:,} bytes; copy or save it again"
        )
    return found


def _entry(file: Path, name: str, start: int, entry: dict[str, Any]) -> Tensor:
    shape, dtype = tuple(int(n) for n in entry["shape"]), str(entry["dtype"])
    begin, end = (int(offset) for offset in entry["data_offsets"])
    size = FLOATS.get(dtype, 0)
    if size and end - begin != size * math.prod(shape):
        raise ValueError(f"{name}: {end - begin} bytes")
    width = shape[-1] if len(shape) > 1 else 1

    def read(first: int, last: int) -> Floats:
        with file.open("rb") as stream:
            stream.seek(start + begin + first * width * size)
            return _decode(stream.read((last - first) * width * size), dtype).reshape(-1, width)

    return Tensor((str(file.resolve()), name), shape, dtype, read)


def _decode(raw: bytes, dtype: str) -> Floats:
    if dtype == "BF16":  # the upper half of a float32
        upper = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
        return upper.view(np.float32).astype(np.float64)
    return np.frombuffer(raw, _PLAIN[dtype]).astype(np.float64)


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
        width = value.shape[-1] if value.ndim > 1 else 1

        def read(first: int, last: int) -> Floats:
            rows: Floats = value.reshape(-1, width)[first:last].to(torch.float64).numpy()
            return rows

        dtype = names.get(value.dtype, str(value.dtype).removeprefix("torch."))
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
    folder = Path(model).expanduser()
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
        f"model {name!r} is no folder{hint}, and the hub's cache does not hold it; fetch it with: "
        f"hf download {name}"
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
