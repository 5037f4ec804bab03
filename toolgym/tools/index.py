"""Search indexes in a folder: built with bm25s, opened by memory map, searched exactly with numpy.

The folder holds bm25s's own files (so bm25s opens it too), the passages, and a header that says how
it was made. Scores are bm25s's defaults: BM25 as Lucene computes it, k1 = 1.5, b = 0.75.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import secrets
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toolgym._jsonl import dump_line, require_file, value_hash, write_json
from toolgym.errors import BadInputError, MissingFileError
from toolgym.tools.analysis import ANALYZER, Analyzer
from toolgym.tools.passages import Passage, read_passages

__all__ = ["HEADER", "Hit", "Index", "build_index", "open_index"]

HEADER = "toolgym-index.json"
KIND, FORMAT = "toolgym-bm25", 1
TITLE_WEIGHT = 2
"""A title counts as twice its words: on 500 PopQA questions over 20 051 real passages a search for
the subject then puts a supporting passage first in 94 of 100 cases, with the title once in 93, with
the text alone in 87."""
MAX_QUERY_CHARS = 10_000  # what is beyond is not read: a query's cost stays bounded

_DATA, _INDICES, _INDPTR = (f"{name}.csc.index.npy" for name in ("data", "indices", "indptr"))
_VOCABULARY, _PARAMS = "vocab.index.json", "params.index.json"
_PASSAGES, _OFFSETS = "passages.jsonl", "offsets.npy"
_FILES = (_DATA, _INDICES, _INDPTR, _VOCABULARY, _PARAMS, _PASSAGES, _OFFSETS)
_AGAIN = "build it again with `toolgym index build`"

Progress = Callable[[int, int], None]
"""Told (bytes read, bytes in all) of the corpus."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One found passage.

    Args:
        passage: what was found.
        score: its BM25 score, positive.
    """

    passage: Passage
    score: float


class Index:
    """An opened index; safe to search from several threads.

    Args:
        folder: where `build_index` wrote it.

    Raises:
        MissingFileError: there is no such folder.
        BadInputError: it holds no index, a damaged one, or one that this version cannot search.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.header = _read_header(self.folder)
        try:
            # (postings,) float32, (postings,) int32, (terms + 1,) int
            self._data = np.asarray(np.load(self.folder / _DATA, mmap_mode="r"))
            self._documents = np.asarray(np.load(self.folder / _INDICES, mmap_mode="r"))
            self._starts = np.asarray(np.load(self.folder / _INDPTR)).tolist()
            self._offsets = np.asarray(np.load(self.folder / _OFFSETS, mmap_mode="r"))
            self._vocabulary: dict[str, int] = json.loads(
                (self.folder / _VOCABULARY).read_text(encoding="utf-8")
            )
        except (OSError, ValueError, EOFError) as error:
            raise BadInputError(f"index {str(folder)!r} is damaged ({error}); {_AGAIN}") from error
        if not len(self._data) == len(self._documents) == self._starts[-1]:
            raise BadInputError(f"index {str(folder)!r} is damaged (sizes disagree); {_AGAIN}")
        with (self.folder / _PASSAGES).open("rb") as stream:
            self._passages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._analyzer = Analyzer()
        self._local = threading.local()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def fingerprint(self) -> str:
        """Hash of the passages and of everything that decides the order of hits."""
        return str(self.header["fingerprint"])

    def passage(self, number: int) -> Passage:
        """The passage with that number, counted from 0 in the order of the corpus."""
        start, end = int(self._offsets[number]), int(self._offsets[number + 1])
        row = json.loads(self._passages[start:end])
        return Passage(row["id"], row["title"], row["text"])

    def search(self, query: str, k: int = 1) -> list[Hit]:
        """The best passages, best first; equal scores in the order of the corpus.

        Args:
            query: any text; its first 10 000 characters are read. A word counts as often as it
                stands there.
            k: at most so many hits; fewer when fewer passages hold a word of the query.
        """
        numbers, scores = self.ranking(query, k)
        return [Hit(self.passage(int(n)), float(s)) for n, s in zip(numbers, scores, strict=True)]

    def ranking(self, query: str, k: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
        """`search` without reading the passages.

        Returns:
            Passage numbers and scores: [hits] each.
        """
        counts: dict[int, int] = {}
        for term in self._analyzer.terms(query[:MAX_QUERY_CHARS]):
            number = self._vocabulary.get(term)
            if number is not None:
                counts[number] = counts.get(number, 0) + 1
        if not counts or k < 1:
            return np.empty(0, np.intp), np.empty(0, np.float32)
        scores = self._scores(counts)
        return _top(scores, k, self._rarest(counts))

    def _scores(self, counts: dict[int, int]) -> npt.NDArray[np.float32]:
        scores: npt.NDArray[np.float32] | None = getattr(self._local, "scores", None)
        if scores is None:
            scores = self._local.scores = np.zeros(len(self), np.float32)  # [passages]
        else:
            scores.fill(0.0)
        for number, count in counts.items():
            start, end = self._starts[number], self._starts[number + 1]
            gain = self._data[start:end]
            # A passage stands once in a term's postings, so plain indexing adds correctly.
            scores[self._documents[start:end]] += gain if count == 1 else gain * np.float32(count)
        return scores

    def _rarest(self, counts: dict[int, int]) -> npt.NDArray[np.int32]:
        number = min(counts, key=lambda n: self._starts[n + 1] - self._starts[n])
        found: npt.NDArray[np.int32]
        found = self._documents[self._starts[number] : self._starts[number + 1]]
        return found


def _top(
    scores: npt.NDArray[np.float32], k: int, likely: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """The exact k best positive scores without sorting all of them.

    The k-th best among the passages that hold the rarest term is a lower bound of the k-th best of
    all; few passages reach it, and only those are compared.

    Args:
        scores: [passages].
        k: how many.
        likely: passage numbers that probably score well.
    """
    bound = 0.0
    if len(likely) >= k:
        bound = float(np.partition(scores[likely], len(likely) - k)[len(likely) - k])
    numbers = np.flatnonzero(scores >= bound) if bound > 0.0 else np.flatnonzero(scores > 0.0)
    values = scores[numbers]
    if len(values) > k:
        least = np.partition(values, len(values) - k)[len(values) - k]
        above = numbers[values > least]
        numbers = np.concatenate([above, numbers[values == least][: k - len(above)]])
        values = scores[numbers]
    order = np.lexsort((numbers, -values))
    return numbers[order], values[order]


def open_index(folder: str | Path) -> Index:
    """Open an index folder; see `Index` for what it raises."""
    return Index(folder)


def build_index(corpus: str | Path, out: str | Path, *, progress: Progress | None = None) -> Path:
    """Index the passages of a JSON-lines file. A kill leaves the old index or none, never a half.

    Args:
        corpus: see `toolgym.tools.passages.read_passages`.
        out: the folder to write; an index that is there is replaced.
        progress: told (bytes read, bytes in all) now and then.

    Returns:
        The folder.

    Raises:
        MissingFileError: no such corpus.
        BadInputError: a broken line, no passage, or ``out`` holds something else than an index.
    """
    source, target = require_file(corpus, "corpus"), Path(out)
    replaces = target.exists()
    if replaces and not (target / HEADER).is_file() and (target.is_file() or any(target.iterdir())):
        raise BadInputError(
            f"{str(target)!r} exists and is no index; name an empty or a new folder"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(target)
    partial.mkdir()
    try:
        _write(source, partial, progress)
        if replaces:
            old = target.replace(_beside(target))
            partial.replace(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _beside(target: Path) -> Path:
    """A free name in the same folder, from which a rename is atomic."""
    return target.with_name(f".{target.name}-{os.getpid()}-{secrets.token_hex(4)}")


def _write(source: Path, folder: Path, progress: Progress | None) -> None:
    import bm25s  # half a second: only building needs it

    vocabulary: dict[str, int] = {}
    documents: list[list[int]] = []
    offsets, digest = [0], hashlib.sha256()
    analyzer = Analyzer()
    with (folder / _PASSAGES).open("wb") as stream:
        for passage in _reported(source, progress):
            line = dump_line({"id": passage.id, "title": passage.title, "text": passage.text})
            encoded = line.encode()
            stream.write(encoded)
            digest.update(encoded)
            offsets.append(offsets[-1] + len(encoded))
            words = analyzer.terms(passage.title) * TITLE_WEIGHT + analyzer.terms(passage.text)
            documents.append([vocabulary.setdefault(word, len(vocabulary)) for word in words])
    if not documents:
        raise BadInputError(f"corpus {str(source)!r} holds no passage")
    if not vocabulary:
        raise BadInputError(f"corpus {str(source)!r} holds no word")
    np.save(folder / _OFFSETS, np.array(offsets, np.int64))
    index = bm25s.BM25(backend="numpy")
    index.index((documents, vocabulary), show_progress=False)
    index.save(folder, show_progress=False)
    settings = {"format": FORMAT, "analyzer": ANALYZER, "title_weight": TITLE_WEIGHT}
    made_with = {name: version(name) for name in ("toolgym", "bm25s", "PyStemmer")}
    content = digest.hexdigest()
    write_json(
        folder / HEADER,
        {
            "kind": KIND,
            **settings,
            "bm25": {"k1": index.k1, "b": index.b, "method": index.method},
            "passages": len(documents),
            "terms": len(vocabulary),
            "content_sha256": content,
            "fingerprint": value_hash([content, settings, made_with["PyStemmer"]]),
            "versions": made_with,
            "files": {name: (folder / name).stat().st_size for name in _FILES},
        },
    )


def _reported(source: Path, progress: Progress | None) -> Iterator[Passage]:
    size, last = source.stat().st_size, 0
    for passage, done in read_passages(source):
        yield passage
        if progress is not None and done - last >= 1 << 20:
            last = done
            progress(done, size)
    if progress is not None:
        progress(size, size)


def _read_header(folder: Path) -> dict[str, Any]:
    name = repr(str(folder))
    if not folder.is_dir():
        raise MissingFileError(f"index folder {name} does not exist; {_AGAIN}")
    header: Any = None
    with contextlib.suppress(OSError, ValueError):
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise BadInputError(
            f"folder {name} holds no toolgym index; name one that `toolgym index build` wrote"
        )
    if header.get("format") != FORMAT or header.get("analyzer") != ANALYZER:
        raise BadInputError(f"index {name} was built by another version of toolgym; {_AGAIN}")
    files = header.get("files")
    for file, size in files.items() if isinstance(files, dict) else [("its file list", -1)]:
        path = folder / file
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            raise BadInputError(
                f"index {name} is damaged: {file} has {actual} bytes instead of {size}; {_AGAIN}"
            )
    built, here = header["versions"]["PyStemmer"], version("PyStemmer")
    if built.split(".")[0] != here.split(".")[0]:
        warnings.warn(
            f"index {name} was stemmed with PyStemmer {built}, this is {here}: some words may be "
            f"missed; {_AGAIN}",
            RuntimeWarning,
            stacklevel=4,
        )
    return header


def disk_name(corpus: Path) -> str:
    """A name that changes with the corpus's bytes and with everything that decides its index."""
    with corpus.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    made_with = [version("bm25s"), version("PyStemmer"), FORMAT, ANALYZER, TITLE_WEIGHT]
    return f"{corpus.stem[:40]}-{value_hash([content, made_with])[:24]}"


def cache_folder() -> Path:
    """Where indexes of plain corpora are kept: ``$TOOLGYM_CACHE``, else the user's cache."""
    named = os.environ.get("TOOLGYM_CACHE")
    if named:
        return Path(named) / "indexes"
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "toolgym" / "indexes"
