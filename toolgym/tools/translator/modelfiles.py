"""Where a translation model's files lie, fetched once from the hub, and what identifies them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from toolgym._util.jsonl import value_hash
from toolgym._util.optional import need, quiet
from toolgym.errors import MissingFileError

__all__ = ["MODELS", "ModelFiles", "find_model"]

MODELS = {
    "distilled-600M": "facebook/nllb-200-distilled-600M",
    "distilled-1.3B": "facebook/nllb-200-distilled-1.3B",
    "1.3B": "facebook/nllb-200-1.3B",
    "3.3B": "facebook/nllb-200-3.3B",
}
"""Short names of the published NLLB-200 models."""

_SMALL = ["*.json", "*.model", "*.txt"]
_WEIGHTS = ["*.safetensors", "pytorch_model*.bin"]  # the second is fetched only without the first
_CONVERTED = ["model.bin"]
_BLOCK, _BLOCKS = 4096, 1024


@dataclass(frozen=True)
class ModelFiles:
    """A model on this disk.

    Args:
        name: what the user called it.
        folder: with weights, configuration and tokenizer.
        identity: the hub's commit, or a hash of a folder's files.
    """

    name: str
    folder: Path
    identity: str

    @property
    def is_converted(self) -> bool:
        """Whether the folder holds a model in CTranslate2's own form already."""
        return any(self.folder.glob("model.bin")) and any(self.folder.glob("*vocabulary*"))


def find_model(name: str) -> ModelFiles:
    """Find a model in a folder or in the hub's cache, or fetch it.

    What is in the cache is taken as it is, without a request: no revision changes during a run.

    Args:
        name: a folder, a hub id, or a short name of `MODELS`.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        MissingFileError: the model is neither here nor reachable.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not _has(folder, [*_WEIGHTS, *_CONVERTED]):
            raise MissingFileError(
                f"folder {name!r} holds no model weights ({', '.join(_WEIGHTS)}); name the folder "
                "that `save_pretrained` wrote"
            )
        return ModelFiles(name, folder, _content(folder))
    hub_id = MODELS.get(name.removeprefix("nllb-200-"), name)
    found = _from_hub(hub_id) if hub_id.count("/") == 1 and hub_id[0] not in "./~" else None
    if found is None:
        raise MissingFileError(
            f"translation model {name!r} is neither a folder with a model, nor in the hub's cache, "
            "nor reachable; connect once to fetch it, name a local folder with model=..., or use "
            "backend='phrasebook' for the bundled sample"
        )
    return ModelFiles(name, found, found.name)


def _has(folder: Path, patterns: list[str]) -> bool:
    return any(path for pattern in patterns for path in folder.glob(pattern))


def _from_hub(hub_id: str) -> Path | None:
    hub = need("huggingface_hub", "translate")
    with quiet():
        for offline in (True, False):
            for patterns in ([*_SMALL, _WEIGHTS[0]], [*_SMALL, _WEIGHTS[1]]):
                try:
                    found = hub.snapshot_download(
                        hub_id, allow_patterns=patterns, local_files_only=offline
                    )
                except (OSError, ValueError):  # not there, or no name that the hub could know
                    break
                if _has(Path(found), _WEIGHTS):
                    return Path(found)
    return None


def _content(folder: Path) -> str:
    """A hash of a folder's files: small ones whole, of weights 1 024 blocks and the size.

    Training changes all of a tensor's bytes, so blocks tell models apart, in milliseconds.
    """
    patterns = [*_SMALL, *_WEIGHTS, *_CONVERTED]
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return value_hash([[path.name, path.stat().st_size, _blocks(path)] for path in paths])


def _blocks(path: Path) -> str:
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as stream:
        if size <= _BLOCK * _BLOCKS:
            digest.update(stream.read())
        else:
            for number in range(_BLOCKS):
                stream.seek(number * (size - _BLOCK) // (_BLOCKS - 1))
                digest.update(stream.read(_BLOCK))
    return digest.hexdigest()
