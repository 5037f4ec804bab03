"""The tokens of an NLLB model, read with `tokenizers` alone: no torch, no second of imports."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from toolgym._util.optional import need, quiet
from toolgym.errors import BadInputError, MissingExtraError
from toolgym.tools.translator.modelfiles import ModelFiles

__all__ = ["Tokens"]

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
            loaded = need("tokenizers", "translate").Tokenizer.from_file(str(path))
        else:  # transformers makes one of a sentencepiece model
            with quiet():
                loaded = need("transformers", "translate").AutoTokenizer.from_pretrained(
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
