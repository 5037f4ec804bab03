"""What lies in an index folder, and the names and numbers that its writer and its reader share."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

from toolgym._util.jsonl import value_hash
from toolgym.tools.search.recipe import Recipe

__all__ = ["FORMAT", "HEADER", "KIND", "disk_name"]

HEADER = "toolgym-index.json"
KIND, FORMAT = "toolgym-bm25", 2
DATA, INDICES, INDPTR = (f"{name}.csc.index.npy" for name in ("data", "indices", "indptr"))
VOCABULARY, PARAMS = "vocab.index.json", "params.index.json"
PASSAGES, OFFSETS = "passages.jsonl", "offsets.npy"
MAXIMA = "maxima.npy"  # the largest score of each term, so that a search can pass over postings
FILES = (DATA, INDICES, INDPTR, MAXIMA, VOCABULARY, PARAMS, PASSAGES, OFFSETS)
AGAIN = "build it again with `toolgym index build`"


def disk_name(corpus: Path, recipe: Recipe) -> str:
    """A name that changes with the corpus's bytes and with everything that decides its index."""
    with corpus.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    made_with = [version("bm25s"), version("PyStemmer"), FORMAT, recipe.header()]
    return f"{corpus.stem[:40]}-{value_hash([content, made_with])[:24]}"
