"""Local models: loaded once a process, told apart by what lies on disk."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolgym._util.optional import quiet, require_extra
from toolgym.errors import BadInputError, MissingFileError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Loaded", "cannot_load", "fingerprint", "load_model", "require_whole", "unload_models"]

_SAMPLE = 2**20  # bytes read at each end of a weight file: training changes every tensor
_WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.jinja")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to generate.

    Args:
        model: in evaluation mode on its device, with neutral generation settings.
        tokenizer: padding on the left.
        ends: ids that its saved generation settings end at.
        fingerprint: hash of the files; for a hub model of its id.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ends: set[int]
    fingerprint: str


def load_model(model: str, *, adapter: str | None, device: str | None, dtype: str) -> Loaded:
    """Load a causal model and its tokenizer.

    This happens once a process while the files stay the same; only the last model is kept.

    Args:
        model: a folder, or a hub id.
        adapter: a LoRA folder put on top, or None.
        device: such as ``cuda:1``; None: the first GPU, else the CPU.
        dtype: ``auto`` (as saved), ``float32``, ``bfloat16``, ...

    Raises:
        MissingExtraError: torch or transformers is not installed.
        MissingFileError: no such folder, and no such model in the hub's cache or on the hub.
        BadInputError: a dtype that does not exist.
    """
    torch = require_extra("torch", "train")
    require_extra("transformers", "train")
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise BadInputError(f"dtype {dtype!r} is unknown; use 'auto', 'float32' or 'bfloat16'")
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    marks = fingerprint(model) + (fingerprint(adapter) if adapter else "")
    weights, tokenizer, ends = _load(model, adapter, chosen, dtype, marks)
    return Loaded(weights, tokenizer, ends, hashlib.sha256(marks.encode()).hexdigest())


def unload_models() -> None:
    """Forget the model that is kept, for instance to make room before training."""
    _load.cache_clear()


@functools.lru_cache(maxsize=1)
def _load(model: str, adapter: str | None, device: str, dtype: str, marks: str) -> Any:
    transformers = require_extra("transformers", "train")
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(model, padding_side="left")
            loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    except (OSError, ValueError) as error:
        # OSError: missing files. ValueError: a configuration that it cannot read.
        raise cannot_load(model, error) from error
    if adapter is not None:
        loaded = require_extra("peft", "train").PeftModel.from_pretrained(loaded, adapter)
        loaded = loaded.merge_and_unload()
    ends = loaded.generation_config.eos_token_id
    # Saved settings such as a repetition penalty would be inherited and change the sampling.
    loaded.generation_config = transformers.GenerationConfig()
    listed = ends if isinstance(ends, list) else [ends]
    return loaded.to(device).eval(), tokenizer, {int(end) for end in listed if end is not None}


def cannot_load(model: str, error: Exception) -> MissingFileError:
    """The error for a model that transformers refuses to load.

    Args:
        model: a folder or a hub id.
        error: what transformers raised.
    """
    reason = next(iter(str(error).strip().splitlines()), "no reason given")
    found = "" if Path(model).exists() else f"there is no such folder{_beside(Path(model))}, and "
    return MissingFileError(
        f"model {model!r} cannot be loaded: {found}{type(error).__name__}: {reason:.200}; "
        "name a folder with config.json, weights and tokenizer, or a causal model of the hub"
    )


def require_whole(model: str) -> None:
    """Refuse what cannot be trained on, before anything is loaded.

    Raises:
        MissingFileError: a path that does not exist.
        BadInputError: a folder of LoRA adapters alone.
    """
    folder = Path(model)
    _require_folder(model)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise BadInputError(
            f"{model!r} holds LoRA adapters without the model below them; merge them first: "
            "peft.AutoPeftModelForCausalLM.from_pretrained(...).merge_and_unload()"
            ".save_pretrained(...), and save the tokenizer there, too"
        )


def _require_folder(model: str) -> None:
    folder = Path(model)
    looks_like_a_path = folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1
    if looks_like_a_path and not folder.is_dir():
        raise MissingFileError(f"model folder {model!r} does not exist{_beside(folder)}")


def _beside(folder: Path) -> str:
    names = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
    return did_you_mean(folder.name, names)


def fingerprint(model: str) -> str:
    """What changes when a model folder is written again: names, sizes, and both ends of each file.

    Args:
        model: a folder; for a hub id the id itself, whose revision transformers decides.

    Raises:
        MissingFileError: a path that does not exist.
    """
    _require_folder(model)
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for path in sorted({p for pattern in _WEIGHTS for p in folder.glob(pattern)}):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as stream:
            digest.update(stream.read(_SAMPLE))
            if size > _SAMPLE:
                stream.seek(max(_SAMPLE, size - _SAMPLE))
                digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()
