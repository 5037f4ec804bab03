"""A model in CTranslate2's form, converted once and kept in the user's cache.

The conversion runs in a process of its own, so that torch and a second copy of the weights are gone
when it ends. That process holds a lock, writes into a folder of its own and renames it when all is
written: a kill at any moment leaves nothing that could be taken for a model.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from toolgym._util.cachefolder import cache_folder
from toolgym._util.jsonl import value_hash
from toolgym._util.optional import need
from toolgym.errors import BadInputError
from toolgym.tools.translator.modelfiles import ModelFiles

__all__ = ["convert", "converted_folder", "converted_model"]

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
        need("torch", "translate")  # raises: the child needs it, this process does not
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
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f".{out.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, also by a kill
        if out.is_dir():
            return
        partial = out.parent / f".{out.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # what a kill left
        converter = need("ctranslate2.converters", "translate").TransformersConverter(
            str(model), low_cpu_mem_usage=True
        )
        converter.convert(str(partial), quantization=quantization)
        partial.rename(out)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
