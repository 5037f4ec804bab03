"""Two engines that run an NLLB model: CTranslate2 and transformers. Same token ids in, same out."""

from __future__ import annotations

import ctypes
import os
import re
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from toolgym._util.optional import quiet, require_extra
from toolgym.errors import BadInputError, MissingExtraError, did_you_mean
from toolgym.tools.translator.modelfiles import ModelFiles, converted_model

__all__ = [
    *("ENGINES", "CTranslate2Engine", "Engine", "OutOfTimeError", "Tokens", "TransformersEngine"),
]

_CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
_END, _PAD, _UNKNOWN = "</s>", "<pad>", "<unk>"


class Tokens:
    """Text to token ids and back. It keeps no state between calls.

    Args:
        files: the model's, with a tokenizer.

    Raises:
        BadInputError: there is no tokenizer, or none of an NLLB model.
        MissingExtraError: ``tokenizers`` is not installed.
    """

    def __init__(self, files: ModelFiles) -> None:
        self._tokenizer: Any = _load(files)
        vocabulary = self._tokenizer.get_vocab()
        self.codes = frozenset(token for token in vocabulary if _CODE.fullmatch(token))
        if not self.codes or not {_END, _PAD, _UNKNOWN} <= set(vocabulary):
            raise BadInputError(
                f"model {files.name!r} has no language tokens such as 'fra_Latn'; the nllb back "
                "end runs NLLB-200 models and those fine-tuned from them"
            )
        self.end, self.pad = vocabulary[_END], vocabulary[_PAD]
        self._unknown: int = vocabulary[_UNKNOWN]

    def encode(self, text: str) -> list[int]:
        """Ids of a text alone, without language and end of sentence; of any length."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def names(self, ids: Sequence[int]) -> list[str]:
        """Tokens of ids."""
        return [self._tokenizer.id_to_token(number) for number in ids]

    def ids(self, names: Sequence[str]) -> list[int]:
        """Ids of tokens; what fills up a model's vocabulary and has no name here is unknown."""
        found = (self._tokenizer.token_to_id(name) for name in names)
        return [self._unknown if number is None else number for number in found]


def _load(files: ModelFiles) -> Any:
    path = files.folder / "tokenizer.json"
    try:
        if path.is_file():
            loaded = require_extra("tokenizers", "translate").Tokenizer.from_file(str(path))
        else:  # transformers makes one of a sentencepiece model
            with quiet():
                loaded = require_extra("transformers", "translate").AutoTokenizer.from_pretrained(
                    files.folder, local_files_only=True
                )
            loaded = loaded.backend_tokenizer
    except MissingExtraError:
        raise
    except Exception as error:  # tokenizers raises plain exceptions with the reason
        raise BadInputError(
            f"the tokenizer of model {files.name!r} cannot be read: {str(error)[:200]}"
        ) from error
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


DEVICES = ("auto", "cpu", "cuda")


class OutOfTimeError(Exception):
    """The deadline passed in the middle of a batch."""


class Engine(Protocol):
    """What an engine does with a batch."""

    def generate(
        self, rows: Sequence[Sequence[int]], targets: Sequence[int], limit: int, until: float,
        beams: int = 1,
    ) -> list[list[int]]:  # fmt: skip
        """Continue each row; the most likely token at each step, or beam search.

        Args:
            rows: token ids of each text, source language first and end of sentence last.
            targets: the language token that each output begins with.
            limit: new tokens at most, the language token not counted.
            until: on `time.monotonic`'s clock; it ends a greedy search at the next token, beam
                search of CTranslate2 only after the batch.
            beams: width of the beam search.

        Returns:
            New token ids of each row, without language token and end of sentence.

        Raises:
            OutOfTimeError: the time was over.
        """
        ...


class CTranslate2Engine:
    """A model converted for CTranslate2; neither torch nor transformers' model code is loaded.

    Args:
        files: the model.
        precision: ``int8``, ``float32``, ... of weights and arithmetic.
        device: ``cpu`` or ``cuda``.
        tokens: which this engine takes by name.
    """

    def __init__(self, files: ModelFiles, precision: str, device: str, tokens: Tokens) -> None:
        library = require_extra("ctranslate2", "translate")
        folder = str(converted_model(files, precision))
        self._tokens = tokens
        # In a list, so that it can be let go while others still hold this object: destroyed later
        # than at the end of the program, CTranslate2's threads abort the process.
        self._held: list[Any] = [library.Translator(folder, device=device, compute_type=precision)]
        weakref.finalize(self, _let_go, self._held, os.getpid())

    def generate(
        self, rows: Sequence[Sequence[int]], targets: Sequence[int], limit: int, until: float,
        beams: int = 1,
    ) -> list[list[int]]:  # fmt: skip
        """See `Engine.generate`."""
        late = False

        def stop(step: Any) -> bool:
            nonlocal late
            late = late or time.monotonic() > until
            return late

        results = self._held[0].translate_batch(
            [self._tokens.names(row) for row in rows],
            target_prefix=[[token] for token in self._tokens.names(targets)],
            beam_size=beams,
            max_input_length=0,  # its own limit would cut without a word
            max_decoding_length=limit + 1,  # it counts the language token
            callback=stop if beams == 1 else None,
        )
        if late or time.monotonic() > until:
            raise OutOfTimeError
        return [self._tokens.ids(result.hypotheses[0][1:]) for result in results]


def _let_go(held: list[Any], owner: int) -> None:
    if owner == os.getpid():
        held.clear()
    else:  # its threads did not come along through the fork, so waiting for them would never end
        for model in held:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(model))


class TransformersEngine:
    """The model as transformers runs it.

    Args:
        files: the model.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        device: ``cpu`` or ``cuda``.
        tokens: for the ids of padding and end of sentence.
    """

    def __init__(self, files: ModelFiles, precision: str, device: str, tokens: Tokens) -> None:
        self._torch: Any = require_extra("torch", "translate")
        self._library: Any = require_extra("transformers", "translate")
        with quiet():
            self.model: Any = self._library.AutoModelForSeq2SeqLM.from_pretrained(
                files.folder, dtype=getattr(self._torch, precision), local_files_only=True
            )
        self.model.to(device).eval()
        self._start = int(self.model.config.decoder_start_token_id)
        self._end, self._pad = tokens.end, tokens.pad
        # Penalties and limits that a model's own settings may hold would differ between engines.
        self.model.generation_config = self._settings(num_beams=1)

    def _settings(self, **options: Any) -> Any:
        return self._library.GenerationConfig(
            do_sample=False,
            decoder_start_token_id=self._start,
            eos_token_id=self._end,
            pad_token_id=self._pad,
            **options,
        )

    def generate(
        self, rows: Sequence[Sequence[int]], targets: Sequence[int], limit: int, until: float,
        beams: int = 1,
    ) -> list[list[int]]:  # fmt: skip
        """See `Engine.generate`."""
        torch, width = self._torch, max(map(len, rows))
        padded = [[*row, *[self._pad] * (width - len(row))] for row in rows]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        device = self.model.device

        def over(ids: Any, scores: Any, **_: Any) -> Any:
            return torch.full((len(ids),), time.monotonic() > until, device=ids.device)

        with torch.inference_mode():
            output = self.model.generate(
                input_ids=torch.tensor(padded, device=device),  # (texts, tokens)
                attention_mask=torch.tensor(mask, device=device),
                # (texts, 2): the language token is given, not chosen
                decoder_input_ids=torch.tensor([[self._start, t] for t in targets], device=device),
                generation_config=self._settings(max_new_tokens=limit, num_beams=beams),
                stopping_criteria=[over],
            )
        if time.monotonic() > until:
            raise OutOfTimeError
        return [self._before_end(row[2:]) for row in output.tolist()]

    def _before_end(self, ids: list[int]) -> list[int]:
        for number, token in enumerate(ids):
            if token == self._end:
                return ids[:number]
        return ids


ENGINES: dict[str, tuple[Callable[[ModelFiles, str, str, Tokens], Engine], tuple[str, ...]]] = {
    "ctranslate2": (CTranslate2Engine, ("int8", "float32", "float16", "bfloat16", "int8_float16")),
    "transformers": (TransformersEngine, ("float32", "bfloat16", "float16")),
}
"""Names of the engines, and the precisions that each knows."""


def choose(engine: str, precision: str | None, device: str) -> tuple[str, str]:
    """The precision and the device that are meant.

    Args:
        engine: a name of `ENGINES`.
        precision: None means ``int8`` on the CPU and ``float16`` on CUDA with CTranslate2, and
            ``float32`` on the CPU and ``float16`` on CUDA with transformers.
        device: ``auto`` takes CUDA where the engine sees it.

    Raises:
        BadInputError: one of them is unknown, or the device cannot compute in this precision.
        MissingExtraError: the engine is not installed.
    """
    for what, value, known in (
        ("engine", engine, tuple(ENGINES)),
        ("device", device, DEVICES),
        ("precision", precision, ENGINES[engine][1] if engine in ENGINES else ()),
    ):
        if value not in known and not (what == "precision" and value is None):
            raise BadInputError(
                f"unknown translator {what} {value!r}{did_you_mean(str(value), known)}; "
                f"known: {', '.join(known)}"
            )
    return _here(engine, precision, device)


def _here(engine: str, precision: str | None, device: str) -> tuple[str, str]:
    if engine == "transformers":
        cuda = bool(require_extra("torch", "translate").cuda.is_available())
    else:
        library = require_extra("ctranslate2", "translate")
        cuda = library.get_cuda_device_count() > 0
    if device == "auto":
        device = "cuda" if cuda else "cpu"
    if device == "cuda" and not cuda:
        raise BadInputError(f"engine {engine!r} sees no CUDA device; use device='cpu'")
    if precision is None:
        slow = "int8" if engine == "ctranslate2" else "float32"
        precision = "float16" if device == "cuda" else slow
    if engine == "ctranslate2":
        able = library.get_supported_compute_types(device)
        if precision not in able:
            raise BadInputError(
                f"CTranslate2 cannot compute in {precision!r} on this {device}; "
                f"it can in: {', '.join(sorted(able))}"
            )
    return precision, device
