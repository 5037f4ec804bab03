"""Local models: loaded once a process, told apart by what lies on disk."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolgym._util.optional import quiet, require_extra
from toolgym.errors import BadInputError, MissingFileError, did_you_mean
from toolgym.registry import MODELS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    *("DTYPES", "Loaded", "choose_device", "fingerprint", "load_model", "locate", "open_model"),
    *("require_whole", "resolve_dtype", "steady_memory", "unload_models"),
]

DTYPES = ("auto", "fast", "fastest", "bfloat16", "float16", "float32", "float64", "int8")
"""What ``dtype`` may be: ``auto`` as saved, ``fast`` bfloat16 where that is faster (a GPU, a CPU
with matrix units), else float32; ``fastest`` int8 where a CPU is fastest so, else as ``fast``. With
``int8``, for CPUs alone, linear layers multiply in 8 bits, the rest is float32. ``auto`` never
means another one: weights saved in float32 would lose precision unasked.
"""
MALLOC = "TOOLGYM_MALLOC"
# Options of mallopt(3), by the numbers of malloc.h: no blocks of their own from the system, none
# given back (-1), and 256 MiB more asked for at once than is needed.
_MALLOC_OPTIONS = ((-4, 0), (-1, -1), (-2, 2**28))
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
        model: a folder, a name of `toolgym.registry.MODELS`, or a hub id.
        adapter: a LoRA folder put on top, or None.
        device: such as ``cuda:1``; None: the first GPU, else the CPU.
        dtype: one of `DTYPES`.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        MissingFileError: no such folder, and no such model in the hub's cache or on the hub.
        BadInputError: a dtype that does not exist.
    """
    require_extra("transformers", "train")
    chosen = choose_device(device)
    dtype = resolve_dtype(dtype, chosen)
    marks = fingerprint(model) + (fingerprint(adapter) if adapter else "")
    weights, tokenizer, ends = _load(model, adapter, chosen, dtype, marks)
    return Loaded(weights, tokenizer, ends, hashlib.sha256(marks.encode()).hexdigest())


def unload_models() -> None:
    """Forget the model that is kept, for instance to make room before training."""
    _load.cache_clear()


def choose_device(device: str | None) -> str:
    """A device as it is said; None: the first GPU, else the CPU.

    Raises:
        MissingExtraError: torch is not installed.
    """
    return device or ("cuda" if require_extra("torch", "train").cuda.is_available() else "cpu")


def resolve_dtype(dtype: str, device: str | None = None) -> str:
    """The precision that ``fast`` or ``fastest`` stands for on a device; any other one as it is.

    Args:
        dtype: one of `DTYPES`.
        device: such as ``cuda:1``; None: the first GPU, else the CPU.

    Raises:
        BadInputError: there is no such dtype, or the device cannot multiply in ``int8``.
    """
    if dtype not in DTYPES:
        raise BadInputError(
            f"dtype {dtype!r} is unknown{did_you_mean(dtype, DTYPES)}; use {', '.join(DTYPES)}"
        )
    if dtype not in ("fast", "fastest", "int8"):
        return dtype
    torch = require_extra("torch", "train")
    device = choose_device(device)
    if dtype == "int8" and not (device == "cpu" and _multiplies_int8()):
        what = "this CPU has no" if device == "cpu" else f"on {device!r} it is not built for"
        raise BadInputError(f"dtype 'int8' needs a CPU with VNNI: {what} such products; use 'fast'")
    if dtype == "int8" or (
        dtype == "fastest" and device == "cpu" and _multiplies_int8() and not _multiplies_bfloat16()
    ):
        return "int8"
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if device == "cpu" and _multiplies_bfloat16() else "float32"


def _multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 faster than those of float32.

    oneDNN also takes bfloat16 where it has to compute in float32 and convert, which is slower. So
    are the dot products of AVX-512 alone: a Xeon without AMX does 125 billion operations a second
    in float32 and 72 in bfloat16, one with AMX several times as many in bfloat16.
    """
    torch = require_extra("torch", "train")
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _multiplies_int8() -> bool:
    """Whether this CPU has dot products of 8 bits that do not overflow.

    Such a Xeon without AMX does 400 billion operations a second, three times those in float32.
    """
    return bool(require_extra("torch", "train").cpu._is_vnni_supported())


def locate(model: str) -> str:
    """Where transformers finds a model: of a known name the folder in which it is kept.

    Args:
        model: a folder, a name of `toolgym.registry.MODELS`, or a hub id.

    Raises:
        MissingFileError: a known name whose model was not fetched yet.
    """
    if model not in MODELS or Path(model).is_dir():
        return model
    folder: Path = MODELS.get(model).folder(model)
    if not folder.is_dir():
        raise MissingFileError(
            f"model {model!r} is not on this machine; fetch it with: toolgym model fetch {model}"
        )
    return str(folder)


def open_model(model: str, dtype: Any, **tokenizing: Any) -> tuple[Any, Any, Any]:
    """Read a causal model from a folder, or by a name.

    Args:
        model: a folder, a name of `toolgym.registry.MODELS`, or a hub id.
        dtype: of the weights, as transformers takes it.
        tokenizing: arguments of the tokenizer.

    Returns:
        The model, its tokenizer, and the precision in which it is saved.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        MissingFileError: it cannot be read or found.
    """
    transformers = require_extra("transformers", "train")
    steady_memory()
    found = locate(model)
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(found, **tokenizing)
            saved = transformers.AutoConfig.from_pretrained(found).dtype
            loaded = transformers.AutoModelForCausalLM.from_pretrained(found, dtype=dtype)
    except (OSError, ValueError) as error:
        # OSError: missing files. ValueError: a configuration that it cannot read.
        raise _cannot_load(model, error) from error
    return loaded, tokenizer, saved


@functools.cache
def steady_memory() -> bool:
    """Let this process keep the memory that it has freed, where the C library is glibc.

    Each step of a model allocates and frees blocks of megabytes, which glibc gives back to the
    system and gets again, zeroed page by page. It happens once, as the first local model is
    loaded; the environment variable ``TOOLGYM_MALLOC`` set to 0 leaves everything as it is.

    Returns:
        Whether it was done.
    """
    said = os.environ
    own = "GLIBC_TUNABLES" in said or any(name.startswith("MALLOC_") for name in said)
    if said.get(MALLOC) == "0" or own or platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    return all(set_option(option, value) == 1 for option, value in _MALLOC_OPTIONS)


@functools.lru_cache(maxsize=1)
def _load(model: str, adapter: str | None, device: str, dtype: str, marks: str) -> Any:
    transformers = require_extra("transformers", "train")
    saved = "float32" if dtype == "int8" else dtype
    loaded, tokenizer, _ = open_model(model, saved, padding_side="left")
    if adapter is not None:
        loaded = require_extra("peft", "train").PeftModel.from_pretrained(loaded, adapter)
        loaded = loaded.merge_and_unload()
    ends = loaded.generation_config.eos_token_id
    # Saved settings such as a repetition penalty would be inherited and change the sampling.
    loaded.generation_config = transformers.GenerationConfig()
    listed = ends if isinstance(ends, list) else [ends]
    loaded = loaded.to(device).eval()
    if dtype == "int8":
        from toolgym.policies.local.int8 import to_int8

        to_int8(loaded, tokenizer)
    return loaded, tokenizer, {int(end) for end in listed if end is not None}


def _cannot_load(model: str, error: Exception) -> MissingFileError:
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
    model = locate(model)
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
        model: a folder, a known name, or a hub id; of a hub id the id itself, whose revision
            transformers decides.

    Raises:
        MissingFileError: a path that does not exist, or a known model that was not fetched.
    """
    model = locate(model)
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
