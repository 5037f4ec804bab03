"""Translation with an NLLB model through transformers (extra ``translate``)."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any

from toolgym._optional import need
from toolgym.errors import BadInputError, MissingFileError, near

__all__ = ["NllbTranslator", "load_nllb"]

MAX_INPUT_TOKENS = 512  # the model was trained on sentences; the rest of a longer text is cut off
MAX_NEW_TOKENS = 256
BATCH = 16


class NllbTranslator:
    """A loaded model with its tokenizer; safe to use from several threads, one batch at a time.

    Args:
        model: hub id, or a folder with weights and tokenizer.

    Raises:
        MissingExtraError: transformers or torch is not installed.
        MissingFileError: the model is neither a folder, nor cached, nor reachable.
    """

    def __init__(self, model: str) -> None:
        self.name = model
        self._torch = need("torch", "translate")
        transformers = need("transformers", "translate")
        try:
            # What is in the cache is taken as it is: no request, no change of revision in a run.
            self._load(transformers, local_files_only=True)
        except OSError:
            try:
                self._load(transformers, local_files_only=False)
            except OSError as error:
                raise MissingFileError(
                    f"translation model {model!r} is neither a folder with a model, nor in the "
                    "hub's cache, nor reachable; connect once to fetch it, name a local folder "
                    "with model=..., or use backend='phrasebook' for the bundled sample"
                ) from error
        self.model.to("cuda" if self._torch.cuda.is_available() else "cpu").eval()
        self._lock = threading.Lock()  # the source language is a state of the tokenizer

    def _load(self, transformers: Any, *, local_files_only: bool) -> None:
        options = {"local_files_only": local_files_only}
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(self.name, **options)
        auto = transformers.AutoModelForSeq2SeqLM
        self.model: Any = auto.from_pretrained(self.name, **options)

    @property
    def revision(self) -> str:
        """The hub's commit, or an empty text for a folder."""
        return str(getattr(self.model.config, "_commit_hash", None) or "")

    def language_id(self, code: str) -> int:
        """The id of a language token such as ``fra_Latn``.

        Raises:
            BadInputError: the model has no such token.
        """
        found = self.tokenizer.convert_tokens_to_ids(code)
        if found is None or found == self.tokenizer.unk_token_id:
            codes = [word for word in self.tokenizer.all_special_tokens if "_" in word]
            raise BadInputError(
                f"{self.name!r} has no language {code!r}{near(code, codes)}; "
                "codes look like 'fra_Latn'"
            )
        return int(found)

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Translate texts of one language; greedy, so that equal batches give equal texts.

        Args:
            texts: each is cut after 512 tokens.
            source: language code of all of them.
            target: language code to translate into.

        Raises:
            BadInputError: an unknown language code.
        """
        self.language_id(source)
        target_id = self.language_id(target)
        translated: list[str] = []
        with self._lock:
            self.tokenizer.src_lang = source
            for start in range(0, len(texts), BATCH):
                translated += self._batch(list(texts[start : start + BATCH]), target_id)
        return translated

    def _batch(self, texts: list[str], target_id: int) -> list[str]:
        # input_ids, attention_mask: (texts, tokens)
        inputs = self.tokenizer(
            texts,
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=MAX_INPUT_TOKENS,
        ).to(self.model.device)
        with self._torch.inference_mode():
            output = self.model.generate(
                **inputs,
                forced_bos_token_id=target_id,
                max_new_tokens=MAX_NEW_TOKENS,
                num_beams=1,
                do_sample=False,
            )
        decoded: list[str] = self.tokenizer.batch_decode(output, skip_special_tokens=True)
        return [text.strip() for text in decoded]


@functools.lru_cache(maxsize=2)
def load_nllb(model: str) -> NllbTranslator:
    """The model, loaded once per process; see `NllbTranslator`."""
    return NllbTranslator(model)
