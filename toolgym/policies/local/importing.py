"""Models that come as one GGUF file, made into folders that transformers reads and trainers train.

transformers reads such a file itself, unpacked to plain weights; what it leaves out or takes for
granted is put right here: how text is split before it becomes tokens, and scaled positions.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import read_json, require_file, write_json
from toolgym._util.optional import quiet, require_extra
from toolgym._util.workfolder import build_folder, move_in, same_settings
from toolgym.errors import BadInputError, RunMismatchError

__all__ = ["FORM", "Imported", "import_gguf", "made_before"]

SOURCE = "source.json"
FORM = 1
"""Of what this module writes: a folder of another form is not the same model."""
_BYTES = {"bfloat16": 2, "float32": 4}
_SPARE = 64 * 2**20  # bytes beside the weights: tokenizer, configuration
# Names that llama.cpp gives to vocabularies whose text is split at every digit. transformers splits
# these as GPT-2's, so that "\n\n3" would become other tokens than those that the model has learned.
_DIGITS_APART = {"codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder"}
_AS_GPT2 = {"gpt-2", "jais", "mpt", "olmo", "phi-2", "trillion"}


@dataclass(frozen=True)
class Imported:
    """A model folder that was made of a GGUF file.

    Args:
        path: the folder; loads with ``AutoModelForCausalLM`` and ``AutoTokenizer``.
        architecture: as the file names it.
        parameters: number of weights, tied ones once.
        dtype: of the saved weights.
        warnings: what may not be as it was in the original, each with the next step.
    """

    path: Path
    architecture: str
    parameters: int
    dtype: str
    warnings: list[str] = field(default_factory=list)


def import_gguf(file: str | Path, out: str | Path, *, dtype: str = "bfloat16") -> Imported:
    """Make an ordinary model folder of a GGUF file.

    The folder appears whole or not at all. One that was made of the same file is taken as it is.

    Args:
        file: the file; its own name does not matter.
        out: the folder.
        dtype: of the saved weights, ``bfloat16`` or ``float32``.

    Raises:
        MissingExtraError: torch, transformers or gguf is not installed.
        MissingFileError: no such file.
        BadInputError: not a GGUF file, a broken one, one of an architecture that transformers
            cannot read, or no room on the disk.
        RunMismatchError: the folder exists and was made of something else.
    """
    for module in ("torch", "transformers", "gguf"):
        require_extra(module, "train")
    if dtype not in _BYTES:
        raise BadInputError(f"dtype must be bfloat16 or float32, not {dtype!r}")
    path, target = require_file(file, "GGUF file").resolve(), Path(out)
    with path.open("rb") as stream:
        magic = stream.read(4)
        if magic != b"GGUF":
            raise BadInputError(
                f"{str(file)!r} is not a GGUF file: it begins with {magic!r}; a folder of "
                "safetensors needs no import"
            )
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    record = {"sha256": digest, "dtype": dtype, "form": FORM}
    found = made_before(target, record)
    if found is not None:
        return found
    with build_folder(target) as work:
        found = made_before(target, record)  # by a process that this one has waited for
        if found is not None:
            return found
        try:
            facts = _convert(path, work, dtype)
            write_json(work / "model" / SOURCE, record | facts)
            move_in(work / "model", target)
        except BaseException:
            for name in ("source", "model"):
                shutil.rmtree(work / name, ignore_errors=True)
            raise
    return Imported(target, dtype=dtype, **facts)


def made_before(target: Path, record: dict[str, Any]) -> Imported | None:
    """The folder, when it was made of the same file in the same way.

    Args:
        target: the folder.
        record: ``sha256`` of the file, ``dtype`` and `FORM`.

    Raises:
        RunMismatchError: something else lies there.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    if not (target / SOURCE).is_file():
        raise RunMismatchError(
            f"{str(target)!r} exists and is not a model that toolgym imported; choose another "
            "folder"
        )
    found = read_json(target / SOURCE)
    same_settings(target, {key: found.get(key) for key in record}, record)
    facts = {key: found[key] for key in ("architecture", "parameters", "warnings")}
    return Imported(target, dtype=record["dtype"], **facts)


def _convert(file: Path, work: Path, dtype: str) -> dict[str, Any]:
    """Write ``work/model``; gives the facts of `Imported`."""
    header = _Header.read(file)
    header.require_supported(file)
    count = sum(math.prod(shape) for shape in header.tensors.values())
    need, free = count * _BYTES[dtype] + _SPARE, shutil.disk_usage(work).free
    if need > free:
        raise BadInputError(
            f"no room beside {str(work)!r}: the model takes {need / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free; make room, or name another folder"
        )
    # Alone in a folder: beside another model's tokenizer transformers would take that one.
    source = work / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    (source / "model.gguf").symlink_to(file)
    tokenizer, model = _load(source, file.name, dtype)
    warnings = [*_split_digits(header, tokenizer)]
    if tokenizer.chat_template is None:
        warnings.append(
            f"{file.name!r} brings no chat template, without which no policy can be made of it; "
            "write one into chat_template.jinja of the folder"
        )
    _scale_positions(header, model.config)
    made = work / "model"
    shutil.rmtree(made, ignore_errors=True)
    try:
        with quiet():
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
    except Exception as error:  # safetensors has errors of its own for what the system says
        if isinstance(error, OSError) or "os error" not in str(error):
            raise
        raise BadInputError(
            f"the model cannot be written beside {str(work)!r}: {error!s:.200}; make room, or "
            "name another folder"
        ) from error
    shutil.rmtree(source)
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"architecture": header.architecture, "parameters": parameters, "warnings": warnings}


def _load(source: Path, name: str, dtype: str) -> tuple[Any, Any]:
    """The tokenizer and the model, as plain weights that can be saved.

    Raises:
        BadInputError: transformers cannot read it, or weights are missing in it.
    """
    torch, transformers = (require_extra(m, "train") for m in ("torch", "transformers"))
    packed: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):  # versions that would else keep weights in blocks
        packed["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        with _no_bar():
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file="model.gguf")
            model, told = transformers.AutoModelForCausalLM.from_pretrained(
                source,
                gguf_file="model.gguf",
                dtype=getattr(torch, dtype),
                output_loading_info=True,
                **packed,
            )
    except (OSError, ValueError, LookupError, NotImplementedError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), "no reason given")
        raise BadInputError(
            f"transformers cannot read {name!r}: {type(error).__name__}: {reason:.200}; take "
            "another file of this model, or its original weights"
        ) from error
    missing = sorted({*told["missing_keys"], *(key for key, *_ in told["mismatched_keys"])})
    if missing:  # transformers fills them with random numbers
        raise BadInputError(
            f"{name!r} lacks {len(missing)} of the model's weights, such as {missing[0]!r}; take "
            "another file of this model"
        )
    # A model read from GGUF counts as quantised, which refuses to be saved; these weights are not.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return tokenizer, model


@contextlib.contextmanager
def _no_bar() -> Iterator[None]:
    """`quiet`, and without the reader's own bar, which it draws on whatever stderr is."""
    shown = contextlib.nullcontext() if sys.stderr.isatty() else None
    with quiet(), shown or contextlib.redirect_stderr(io.StringIO()):
        yield


@dataclass(frozen=True)
class _Header:
    """What stands before a GGUF file's weights.

    Args:
        architecture: as llama.cpp names it.
        values: single values by key; of arrays nothing.
        tensors: shapes by name.
        scaled: factors of the positions' frequencies, where the file has them.
    """

    architecture: str
    values: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]
    scaled: list[float] | None

    @classmethod
    def read(cls, file: Path) -> _Header:
        """Read it.

        Raises:
            BadInputError: it is broken.
        """
        gguf = require_extra("gguf", "train")
        try:
            reader = gguf.GGUFReader(file)
            values = {
                key: found.contents()
                for key, found in reader.fields.items()
                if gguf.GGUFValueType.ARRAY not in found.types
            }
            tensors = {t.name: tuple(map(int, t.shape)) for t in reader.tensors}
            scaled = [t.data.tolist() for t in reader.tensors if t.name == "rope_freqs.weight"]
            architecture = str(values["general.architecture"])
        except (ValueError, LookupError, OverflowError) as error:
            raise BadInputError(
                f"GGUF file {file.name!r} is broken or cut off ({type(error).__name__}: "
                f"{error!s:.120}); fetch it again"
            ) from error
        return cls(architecture, values, tensors, scaled[0] if scaled else None)

    def require_supported(self, file: Path) -> None:
        """Refuse what is not one whole language model.

        Raises:
            BadInputError: it is a part of a model, or something beside one.
        """
        if self.values.get("split.count", 1) > 1:
            raise BadInputError(
                f"{file.name!r} is one of {self.values['split.count']} parts; join them first: "
                "llama-gguf-split --merge FIRST OUT"
            )
        kind = self.values.get("general.type", "model")
        if kind != "model":
            raise BadInputError(f"{file.name!r} holds a {kind!r}, not a model")


def _split_digits(header: _Header, tokenizer: Any) -> list[str]:
    """Split text as when the vocabulary was made; warn where the way is unknown."""
    name = header.values.get("tokenizer.ggml.pre", "default")
    if header.values.get("tokenizer.ggml.model") != "gpt2":
        return []
    pre = require_extra("tokenizers", "train").pre_tokenizers
    if name in _DIGITS_APART:
        byte_level = pre.ByteLevel(add_prefix_space=False, use_regex=True)
        parts = [pre.Digits(individual_digits=True), byte_level]
        tokenizer.backend_tokenizer.pre_tokenizer = pre.Sequence(parts)
        return []
    # transformers has put a rule of its own there for the names that it knows.
    if name in _AS_GPT2 or not isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre.ByteLevel):
        return []
    return [
        f"how text is split is named {name!r}, which is not known: it is split as GPT-2's; compare "
        "token ids with those of the original tokenizer"
    ]


def _scale_positions(header: _Header, config: Any) -> None:
    """Say in the configuration how positions are scaled; a file says it by factors or by names.

    Raises:
        BadInputError: in a way that is not that of Llama 3.1 and later.
    """
    arch, values = header.architecture, header.values
    named = values.get(f"{arch}.rope.scaling.type", "none")
    kept = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    unknown = BadInputError(
        f"its positions are scaled ({named if header.scaled is None else 'rope_freqs.weight'}) in "
        "a way that cannot be carried over; take the model's original weights"
    )
    if header.scaled is None:
        if named != "none" and kept == "default":
            raise unknown
        return
    base, factor = config.rope_parameters["rope_theta"], max(header.scaled)
    # Those of all published models of this kind; the file holds no more than what came of them.
    rule = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rule |= {"factor": factor, "original_max_position_embeddings": 8192}
    for place, found in enumerate(header.scaled):
        turns = 8192 / (2 * math.pi * base ** (place / len(header.scaled)))
        smooth = min(1.0, max(0.0, (turns - 1.0) / 3.0))
        if not math.isclose(found, 1 / ((1 - smooth) / factor + smooth), rel_tol=1e-4):
            raise unknown
    config.rope_parameters = {"rope_type": "llama3", "rope_theta": base, **rule}
