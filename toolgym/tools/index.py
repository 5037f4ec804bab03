"""Search indexes in a folder: opened by memory map, searched exactly with numpy.

The folder holds bm25s's own files (so bm25s opens it too), the passages, and a header that says how
it was made; `toolgym.tools.building` writes it. Scores are bm25s's defaults: BM25 as Lucene has it,
k1 = 1.5, b = 0.75.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import threading
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toolgym.errors import BadInputError, MissingFileError
from toolgym.tools import layout
from toolgym.tools.analysis import ANALYZER, Analyzer
from toolgym.tools.building import build_index
from toolgym.tools.layout import HEADER, cache_folder, disk_name
from toolgym.tools.passages import Passage
from toolgym.tools.vocabulary import SORTED, open_vocabulary

__all__ = [
    "HEADER",
    "Hit",
    "Index",
    "build_index",
    "cache_folder",
    "disk_name",
    "open_index",
]

_LISTED = 500_000  # terms
MAX_QUERY_CHARS = 10_000  # what is beyond is not read: a query's cost stays bounded


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
            # (postings,) float32, (postings,) int32, (terms + 1 or 2,) int
            self._data = np.asarray(np.load(self.folder / layout.DATA, mmap_mode="r"))
            self._documents = np.asarray(np.load(self.folder / layout.INDICES, mmap_mode="r"))
            starts = np.asarray(np.load(self.folder / layout.INDPTR, mmap_mode="r"))
            self._offsets = np.asarray(np.load(self.folder / layout.OFFSETS, mmap_mode="r"))
            self._number = open_vocabulary(
                self.folder / layout.VOCABULARY, ordered=self.header.get("vocabulary") == SORTED
            )
        except (OSError, ValueError, EOFError) as error:
            raise BadInputError(
                f"index {str(folder)!r} is damaged ({error}); {layout.AGAIN}"
            ) from error
        # Numbers of a list are read faster; a large one would cost memory and time at opening.
        self._starts: list[int] | npt.NDArray[np.int64]
        self._starts = starts.tolist() if len(starts) <= _LISTED else starts
        if not len(starts) or not len(self._data) == len(self._documents) == starts[-1]:
            raise BadInputError(
                f"index {str(folder)!r} is damaged (sizes disagree); {layout.AGAIN}"
            )
        with (self.folder / layout.PASSAGES).open("rb") as stream:
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
            number = self._number(term)
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


def _read_header(folder: Path) -> dict[str, Any]:
    name = repr(str(folder))
    if not folder.is_dir():
        raise MissingFileError(f"index folder {name} does not exist; {layout.AGAIN}")
    header: Any = None
    with contextlib.suppress(OSError, ValueError):
        header = json.loads((folder / layout.HEADER).read_text(encoding="utf-8"))
    if not isinstance(header, dict) or header.get("kind") != layout.KIND:
        raise BadInputError(
            f"folder {name} holds no toolgym index; name one that `toolgym index build` wrote"
        )
    if header.get("format") != layout.FORMAT or header.get("analyzer") != ANALYZER:
        raise BadInputError(f"index {name} was built by another version of toolgym; {layout.AGAIN}")
    files = header.get("files")
    for file, size in files.items() if isinstance(files, dict) else [("its file list", -1)]:
        path = folder / file
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            raise BadInputError(
                f"index {name} is damaged: {file} has {actual} bytes instead of {size}; "
                f"{layout.AGAIN}"
            )
    built, here = header["versions"]["PyStemmer"], version("PyStemmer")
    if built.split(".")[0] != here.split(".")[0]:
        warnings.warn(
            f"index {name} was stemmed with PyStemmer {built}, this is {here}: some words may be "
            f"missed; {layout.AGAIN}",
            RuntimeWarning,
            stacklevel=4,
        )
    return header
