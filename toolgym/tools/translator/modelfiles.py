"""Model files of the translator: where they come from, and their conversion for CTranslate2."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from toolgym._util.hashes import value_hash
from toolgym._util.optional import quiet, require_extra
from toolgym._util.workfolder import build_folder, cache_folder, move_in
from toolgym.errors import BadInputError, MissingFileError

__all__ = ["MODELS", "ModelFiles", "convert", "converted_folder", "converted_model", "find_model"]

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
    hub = require_extra("huggingface_hub", "translate")
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


FORM = 1  # of what this module writes; part of a folder's name


def converted_folder(files: ModelFiles, quantization: str) -> Path:
    """Where the converted model is kept; its name is a hash of all that decides its content."""
    key = value_hash([files.identity, quantization, FORM])[:24]
    name = files.folder.name if not files.name else files.name.rstrip("/").rsplit("/", 1)[-1]
    return cache_folder("translators") / f"{name[:40]}-{quantization}-{key}"


def converted_model(files: ModelFiles, quantization: str) -> Path:
    """The folder of the converted model, which is made when it is not there yet.

    Args:
        files: of a model in transformers' form; one in CTranslate2's form is taken as it is.
        quantization: ``float32``, ``float16``, ``bfloat16``, ``int8`` or ``int8_float16``.

    Raises:
        BadInputError: the model cannot be converted; with the converter's last words.
    """
    if files.is_converted:
        return files.folder
    out = converted_folder(files, quantization)
    if out.is_dir():
        return out
    if importlib.util.find_spec("torch") is None:
        require_extra("torch", "translate")  # raises: the child needs it, this process does not
    path = os.pathsep.join(p for p in sys.path if p)
    ended = subprocess.run(
        [sys.executable, "-P", "-m", __name__, str(files.folder), str(out), quantization],
        env={**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if ended.returncode or not out.is_dir():
        said = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        raise BadInputError(
            f"model {files.name!r} could not be converted for CTranslate2: {said[:300]}; "
            "engine='transformers' runs it as it is"
        )
    return out


def convert(model: Path, out: Path, quantization: str) -> None:
    """Convert in this process; whoever comes second waits and finds it done.

    Args:
        model: folder of a model in transformers' form.
        out: folder to make.
        quantization: see `converted_model`.
    """
    with build_folder(out) as work:
        if out.is_dir():
            return
        made = work / "model"
        shutil.rmtree(made, ignore_errors=True)  # what a kill left
        converter = require_extra("ctranslate2.converters", "translate").TransformersConverter(
            str(model), low_cpu_mem_usage=True
        )
        converter.convert(str(made), quantization=quantization)
        move_in(made, out)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
