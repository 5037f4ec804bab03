"""Tensors of weight files, read in pieces: memory stays small however large the model is.

``safetensors.safe_open`` maps its file, and the pages of a 16 GB model then count as resident; it
also knows no bfloat16 without torch. The format is a JSON header and plain bytes, so the pieces are
read from the file directly, and comparing weights needs no torch.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolgym._util.optional import need
from toolgym.errors import BadInputError

__all__ = ["FLOATS", "Floats", "Rows", "Tensor", "read_pickle", "read_safetensors"]

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
    torch = need("torch", "train")
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
