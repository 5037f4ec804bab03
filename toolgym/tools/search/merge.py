"""Blocks of postings to bm25s's files, in bounded memory, by processes that work side by side."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from toolgym.executors import Calls, Executor, Here, WorkerExecutor, pack
from toolgym.tools.search import layout
from toolgym.tools.search.layout import Recipe, write_vocabulary
from toolgym.tools.search.spill import Limits, Portion, PortionReader

__all__ = [
    *("LENGTHS", "SPILL", "Bench", "BuildPlan", "Crew", "Merge", "Range"),
    "merge_range",
]

_SAMPLE = 512  # every so-manieth term of a block tells how its terms are spread

Ints = npt.NDArray[np.int64]
Block = tuple[str, int]
"""The path of a block without its endings, as a name in the spill folder, and its first passage."""


@dataclass(frozen=True, slots=True)
class Range:
    """Consecutive terms of the result, to be gathered out of all blocks.

    Args:
        begin: number of the first term.
        starts: where the postings of each begin in the result, and the end: [terms + 1].
        rarity: inverse document frequencies: [terms].
        blocks: all of them, in the order of their passages.
        mean: terms in a passage, on average.
        offset: bytes before the first posting in the result's files.
    """

    begin: int
    starts: Ints
    rarity: npt.NDArray[np.float32]
    blocks: list[Block]
    mean: float
    offset: int


class Merge:
    """Everything but the ranges: the vocabulary, the frequencies, and the empty files.

    Args:
        spill: where the blocks are.
        blocks: in the order of their passages.
        folder: where to write.
        limits: what may be in memory.
    """

    def __init__(self, spill: Path, blocks: list[Block], folder: Path, limits: Limits) -> None:
        self._spill, self._blocks, self._folder = spill, blocks, folder
        self._limits = limits
        self.terms = write_vocabulary(folder / layout.VOCABULARY, self._numbered_terms())

    def ranges(self, lengths: npt.NDArray[np.int32]) -> Iterator[Range]:
        """Write what comes before the postings, and say how these are divided.

        Args:
            lengths: terms in each passage: [passages].
        """
        frequency = np.zeros(self.terms, np.int64)  # passages that hold a term
        for name, _ in self._blocks:
            numbers = np.fromfile(self._spill / f"{name}.numbers", np.int32)
            ends = np.fromfile(self._spill / f"{name}.ends", np.int64)
            frequency[numbers] += ends[1:] - ends[:-1]
        # One more entry than terms: the empty string, which bm25s asks for, has no postings.
        starts = np.zeros(self.terms + 2, np.int64)
        np.cumsum(frequency, out=starts[1:-1])
        starts[-1] = starts[-2]
        np.save(self._folder / layout.INDPTR, starts)
        rarity = _rarity(frequency, len(lengths))
        del frequency
        count, mean = int(starts[-1]), float(lengths.mean())
        offset = _new_array(self._folder / layout.DATA, "<f4", count)
        _new_array(self._folder / layout.INDICES, "<i4", count)
        _new_array(self._folder / layout.MAXIMA, "<f4", self.terms)
        for begin, end in _divided(starts[:-1], self._limits.postings):
            part = starts[begin : end + 1]
            yield Range(begin, part, rarity[begin:end], self._blocks, mean, offset)

    def _numbered_terms(self) -> Iterator[str]:
        """All terms in order, while the numbers of a block's terms are written beside it."""
        cuts = self._cuts()
        places = [self._places(name, cuts) for name, _ in self._blocks]
        for name, _ in self._blocks:
            (self._spill / f"{name}.numbers").write_bytes(b"")
        done = 0
        for piece in range(len(cuts) + 1):
            found = [
                self._terms(name, *ends[piece : piece + 2])
                for (name, _), ends in zip(self._blocks, places, strict=True)
            ]
            distinct = sorted(set(chain.from_iterable(found)))
            number = dict(zip(distinct, range(done, done + len(distinct)), strict=True))
            done += len(distinct)
            for (name, _), terms in zip(self._blocks, found, strict=True):
                numbers = np.fromiter(map(number.__getitem__, terms), np.int32, len(terms))
                with (self._spill / f"{name}.numbers").open("ab") as stream:
                    stream.write(numbers.data)
            yield from (term.decode() for term in distinct)

    def _cuts(self) -> list[bytes]:
        """Terms that divide those of all blocks into parts that fit into memory."""
        samples: list[bytes] = []
        for name, _ in self._blocks:
            samples += self._terms(name)[::_SAMPLE]
        samples.sort()
        step = max(self._limits.distinct // _SAMPLE, 1)
        return sorted(set(samples[step::step]))

    def _places(self, name: str, cuts: list[bytes]) -> list[int]:
        """The bytes at which each part of a block's terms begins, and the end."""
        terms = self._terms(name)
        bytes_before = np.cumsum([0, *(len(term) + 1 for term in terms)])
        inner = [int(bytes_before[bisect_left(terms, cut)]) for cut in cuts]
        return [0, *inner, int(bytes_before[-1])]

    def _terms(self, name: str, begin: int = 0, end: int | None = None) -> list[bytes]:
        with (self._spill / f"{name}.terms").open("rb") as stream:
            stream.seek(begin)
            return stream.read(-1 if end is None else end - begin).split(b"\n")[:-1]


def merge_range(part: Range, spill: Path, lengths: Path, folder: Path, recipe: Recipe) -> None:
    """Write the postings of a range of terms into their place.

    Args:
        part: which.
        spill: where the blocks are.
        lengths: file of terms in each passage, raw int32.
        folder: where the files of the result are.
        recipe: names the parameters of the scores.
    """
    passages, often = _gather(part, spill)
    gathered = np.memmap(lengths, np.int32, "r")[passages]
    # The same steps in the same precision as bm25s, so that no score differs in a bit.
    weight = recipe.k1 * ((1 - recipe.b) + recipe.b * gathered / part.mean)
    gain = often / (weight + often)
    gain *= np.repeat(part.rarity, np.diff(part.starts))
    rounded = gain.astype(np.float32)
    maxima = np.maximum.reduceat(rounded, part.starts[:-1] - part.starts[0])
    first = part.offset + 4 * int(part.starts[0])
    _put(folder / layout.INDICES, first, passages)
    _put(folder / layout.DATA, first, rounded)
    _put(folder / layout.MAXIMA, part.offset + 4 * part.begin, maxima)


def _gather(part: Range, spill: Path) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The postings of a range out of all blocks: passages and how often, by term."""
    size = int(part.starts[-1] - part.starts[0])
    passages, often = np.empty(size, np.int32), np.empty(size, np.int32)
    head = part.starts[:-1] - part.starts[0]  # where each term's next posting goes
    for name, first in part.blocks:
        numbers = np.memmap(spill / f"{name}.numbers", np.int32, "r")
        low, high = np.searchsorted(numbers, [part.begin, part.begin + len(head)]).tolist()
        if low == high:
            continue
        ends = np.array(np.memmap(spill / f"{name}.ends", np.int64, "r")[low : high + 1])
        here, counts = numbers[low:high] - part.begin, np.diff(ends)
        count = int(ends[-1] - ends[0])
        place = np.repeat(head[here] - (ends[:-1] - ends[0]), counts)
        place += np.arange(count)
        offset = int(ends[0]) * 4
        found = np.fromfile(spill / f"{name}.passages", np.int32, count, offset=offset)
        passages[place] = found + np.int32(first)
        often[place] = np.fromfile(spill / f"{name}.often", np.int32, count, offset=offset)
        head[here] += counts
    return passages, often


def _rarity(frequency: Ints, passages: int) -> npt.NDArray[np.float32]:
    """Lucene's inverse document frequency, in the steps of bm25s: [terms]."""
    different, where = np.unique(frequency, return_inverse=True)
    values = [math.log(1 + (passages - df + 0.5) / (df + 0.5)) for df in different.tolist()]
    return np.array(values, np.float32)[where]


def _divided(starts: Ints, postings: int) -> Iterable[tuple[int, int]]:
    """Consecutive ranges of terms, each with so many postings or a single term."""
    begin, last = 0, len(starts) - 1
    while begin < last:
        end = int(np.searchsorted(starts, starts[begin] + postings, "right")) - 1
        end = min(max(end, begin + 1), last)
        yield begin, end
        begin = end


def _new_array(path: Path, kind: str, size: int) -> int:
    """Make an ``.npy`` file of that many numbers, still to be filled.

    Returns:
        Bytes before the first number.
    """
    facts: dict[str, Any] = {"descr": kind, "fortran_order": False, "shape": (size,)}
    with path.open("wb") as stream:
        # Wide enough for any size, so that all files begin alike.
        np.lib.format.write_array_header_1_0(stream, facts)
        offset = stream.tell()
        stream.truncate(offset + 4 * size)
    return offset


def _put(path: Path, position: int, values: npt.NDArray[Any]) -> None:
    stream: IO[bytes]
    with path.open("r+b") as stream:
        stream.seek(position)
        stream.write(values.data)


SPILL, LENGTHS, OWNER = "spill", "lengths", "owner"


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What every process of a build knows.

    Args:
        source: the corpus.
        folder: becomes the index; holds the blocks while it is built.
        recipe: how passages become terms and scores.
        limits: what may be in memory, in each process.
    """

    source: Path
    folder: Path
    recipe: Recipe
    limits: Limits

    @property
    def spill(self) -> Path:
        """Where the blocks are."""
        return self.folder / SPILL

    @property
    def lengths(self) -> Path:
        """Terms in each passage, raw int32."""
        return self.spill / LENGTHS


class Bench:
    """What a worker can do."""

    def __init__(self, plan: BuildPlan) -> None:
        self._plan, self._alone = plan, Lock()
        self._reader = PortionReader(plan.source, plan.recipe, plan.limits)

    def read(self, lines: Sequence[tuple[int, bytes]], name: str) -> Portion:
        """Analyze a portion of the corpus; see `toolgym.tools.search.spill.Reader.read`."""
        with self._alone:  # an executor's threads share it
            return self._reader.read(lines, self._plan.spill, name)

    def merge(self, part: Range) -> None:
        """Merge a range of terms; see `toolgym.tools.search.merge.merge_range`."""
        plan = self._plan
        merge_range(part, plan.spill, plan.lengths, plan.folder, plan.recipe)

    def __call__(self, job: Job) -> tuple[str, Any]:
        """Do a job: its name, the name of a method and its arguments."""
        name, work, arguments = job
        return name, getattr(self, work)(*arguments)

    def owner(self) -> dict[str, str]:
        """Who builds in the folder, as it stands there: the disk has to be the same one."""
        file = self._plan.spill / OWNER
        return {"owner": file.read_text() if file.is_file() else "not there"}


class Crew:
    """Does jobs of a build in parallel; a context manager that ends what it began.

    Args:
        plan: for all of them.
        workers: how many child processes; 0: the jobs are done here.
        executor: does the jobs instead, on machines that share the folder.
    """

    def __init__(self, plan: BuildPlan, workers: int, executor: Executor | None) -> None:
        self._plan, self._ahead = plan, workers + 1
        self._own: WorkerExecutor | None = None
        self._bench: Bench | None = None
        if executor is None and workers:
            executor = self._own = WorkerExecutor(workers)
        elif executor is None:
            executor, self._bench = Here(), Bench(plan)
        self._executor = executor

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._own is not None:
            self._own.shutdown()

    def run(self, work: str, jobs: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """The results of jobs, in their order.

        Args:
            work: a method of `Bench`.
            jobs: its arguments; the next ones are made while the workers are busy.

        Raises:
            LostWorkerError: a worker ended, again and again.
            ToolgymError: what a job raised.
        """
        owner = {"owner": token_hex(8)}
        (self._plan.spill / OWNER).write_text(owner["owner"])
        sent = self._bench or pack("index", Bench, {"plan": self._plan}, owner, _owner_of)
        calls = Calls[Job, tuple[str, Any]](self._executor, sent, "portions", _own, _told, _LESS)
        numbered = ((f"{work} {number}", work, job) for number, job in enumerate(jobs, 1))
        with closing(calls.in_order(numbered, self._ahead)) as done:
            yield from (result for _, (_, result) in done)


Job = tuple[str, str, tuple[Any, ...]]


def _owner_of(bench: Bench) -> dict[str, str]:
    return bench.owner()


def _own(job: Job, found: tuple[str, Any]) -> bool:
    return found[0] == job[0]


def _told(job: Job) -> str:
    return f"portion {job[0]!r} of the index"


_LESS = "less memory_mb or processes=1"
