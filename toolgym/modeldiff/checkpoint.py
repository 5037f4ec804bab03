"""A saved model as its tensors by name: whole or in shards, or a LoRA adapter on top of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolgym._util.optional import need
from toolgym.data.filter import read_json
from toolgym.errors import BadInputError, MissingExtraError, MissingFileError, near
from toolgym.modeldiff.tensorfiles import Rows, Tensor, read_pickle, read_safetensors

__all__ = ["ADAPTER", "Checkpoint", "find_folder", "is_adapter", "open_weights"]

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
    hint = near(folder.name, siblings)
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
        hub = need("huggingface_hub", "train")
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
