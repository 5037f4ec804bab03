"""Local models: loaded once a process, told apart by what lies on disk."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolgym._optional import need, quiet
from toolgym.errors import BadInputError, MissingFileError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Loaded", "fingerprint", "load_model", "unload_models"]

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
    torch = need("torch", "train")
    need("transformers", "train")
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
    transformers = need("transformers", "train")
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(model, padding_side="left")
            loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    except (OSError, ValueError) as error:
        # OSError: missing files. ValueError: a configuration that it cannot read.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise MissingFileError(
            f"model {model!r} cannot be loaded ({type(error).__name__}: {reason:.200}); "
            "name a folder with config.json, weights and tokenizer, or a causal model of the hub"
        ) from error
    if adapter is not None:
        loaded = need("peft", "train").PeftModel.from_pretrained(loaded, adapter)
        loaded = loaded.merge_and_unload()
    ends = loaded.generation_config.eos_token_id
    # Saved settings such as a repetition penalty would be inherited and change the sampling.
    loaded.generation_config = transformers.GenerationConfig()
    listed = ends if isinstance(ends, list) else [ends]
    return loaded.to(device).eval(), tokenizer, {int(end) for end in listed if end is not None}


def fingerprint(model: str) -> str:
    """What changes when a model folder is written again: names, sizes, and both ends of each file.

    Args:
        model: a folder; for a hub id the id itself, whose revision transformers decides.

    Raises:
        MissingFileError: a path that does not exist.
    """
    folder = Path(model)
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
            raise MissingFileError(f"model folder {model!r} does not exist")
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
