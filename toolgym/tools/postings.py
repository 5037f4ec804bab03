"""BM25 postings in bounded memory: sorted blocks on the disk, then merged.

A block is a self-contained little index: its own terms, ascending, and for each the passages that
hold it with how often. Merging numbers all terms in their order, so that any range of terms lies in
one piece in every block and in the result: everything is read and written front to back, and what
is in memory is one block or one range of the result. (Single-pass in-memory indexing: Heinz and
Zobel 2003, "Efficient single-pass index construction for text databases".)
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from toolgym.tools import layout
from toolgym.tools.analysis import Analyzer, pieces, terms_at_most
from toolgym.tools.vocabulary import write_vocabulary

__all__ = ["K1", "B", "Block", "Limits", "merge_blocks"]

K1, B = 1.5, 0.75
"""bm25s's defaults."""
_BASE_MB = 160  # python, numpy and this package
_BYTES = 60  # a term in a block, or a posting in a range, with all temporary arrays
_READ = 8192  # bytes of a block's term list at once; there may be thousands of blocks

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is in memory at once.

    Args:
        terms: in a block, repeats included.
        distinct: different words in a block.
        postings: in one range of the result; a single term's may be more.
    """

    terms: int
    distinct: int
    postings: int

    @classmethod
    def within(cls, memory_mb: int) -> Limits:
        """Limits that keep the process within so many megabytes."""
        spare = (memory_mb - _BASE_MB) << 20
        return cls(spare * 3 // 4 // _BYTES, spare // 4 // 400, spare // 2 // _BYTES)


class _Numbers(dict[str, int]):
    """Numbers pieces in the order in which they are met."""

    def __missing__(self, piece: str) -> int:
        number = self[piece] = len(self)
        return number


class Block:
    """The postings of consecutive passages, gathered in memory and written once.

    Pieces of text are only numbered while passages come in; each different piece is analyzed once,
    when the block is written.

    Args:
        first: number of its first passage.
        limits: when it is full.
    """

    FILES = ("terms", "ends", "passages", "often")

    def __init__(self, first: int, limits: Limits) -> None:
        self.first = first
        self._limits = limits
        self._numbers = _Numbers()
        self._pieces = array("i")  # (pieces,)
        self._lengths = array("i")  # (passages,) in pieces
        self._terms = 0

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def full(self) -> bool:
        """Whether it should be written before the next passage."""
        return self._terms >= self._limits.terms or len(self._numbers) >= self._limits.distinct

    def add(self, title: str, text: str, title_weight: int) -> None:
        """Take the next passage."""
        number = self._numbers.__getitem__
        heading, body = pieces(title), pieces(text)
        for _ in range(title_weight):
            self._pieces.extend(map(number, heading))
        self._pieces.extend(map(number, body))
        self._lengths.append(title_weight * len(heading) + len(body))
        self._terms += title_weight * terms_at_most(title, len(heading))
        self._terms += terms_at_most(text, len(body))

    def write(self, folder: Path, name: str, analyzer: Analyzer) -> npt.NDArray[np.int32]:
        """Write the block's four files.

        These are its ``terms``, ascending; where the postings of each end (``ends``, int64, after
        a zero); and for each posting the passage and how often it has the term (int32).

        Returns:
            Terms in each passage, repeats included: [passages].
        """
        terms, flat, counts = self._analyzed(analyzer)
        found = np.frombuffer(self._pieces, np.int32)
        passages = np.repeat(
            np.arange(len(self), dtype=np.int32), np.frombuffer(self._lengths, np.int32)
        )
        each = counts[found]  # terms of each piece: mostly one, none for a stop word
        starts = np.cumsum(counts, dtype=np.int64) - counts
        key = np.repeat(passages, each).astype(np.int64)
        lengths = np.bincount(key, minlength=len(self)).astype(np.int32)
        if each.max(initial=0) <= 1:
            numbers = flat[starts[found[each > 0]]]
        else:
            within = np.arange(len(key)) - np.repeat(np.cumsum(each, dtype=np.int64) - each, each)
            numbers = flat[np.repeat(starts[found], each) + within]
        del passages, each, found
        key |= numbers.astype(np.int64) << 32
        del numbers
        key.sort()
        begins = np.flatnonzero(np.diff(key, prepend=-1))
        often = np.diff(begins, append=len(key)).astype(np.int32)
        key = key[begins]
        (key.astype(np.int32) + np.int32(self.first)).tofile(folder / f"{name}.passages")
        often.tofile(folder / f"{name}.often")
        ends = np.zeros(len(terms) + 1, np.int64)
        np.cumsum(np.bincount(key >> 32, minlength=len(terms)), out=ends[1:])
        ends.tofile(folder / f"{name}.ends")
        with (folder / f"{name}.terms").open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(f"{term}\n" for term in terms)
        return lengths

    def _analyzed(
        self, analyzer: Analyzer
    ) -> tuple[list[str], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """The terms in order; the terms of all pieces, one after the other; how many each has."""
        per_piece = [analyzer.terms(piece) for piece in self._numbers]
        counts = np.fromiter(map(len, per_piece), np.int32, len(per_piece))
        terms = sorted(set(chain.from_iterable(per_piece)))
        rank = {term: number for number, term in enumerate(terms)}
        flat = np.fromiter(
            (rank[term] for found in per_piece for term in found), np.int32, int(counts.sum())
        )
        return terms, flat, counts


def merge_blocks(
    spill: Path,
    names: list[str],
    lengths: npt.NDArray[np.int32],
    folder: Path,
    limits: Limits,
) -> int:
    """Write bm25s's postings and vocabulary files.

    Args:
        spill: where the blocks are.
        names: of the blocks, in the order of their passages.
        lengths: terms in each passage: [passages].
        folder: where to write.
        limits: how many postings at once.

    Returns:
        Number of terms.
    """
    terms = _number_terms(spill, names, folder)
    frequency = np.zeros(terms, np.int64)  # passages that hold a term
    for name in names:
        ends = np.fromfile(spill / f"{name}.ends", np.int64)
        frequency[np.fromfile(spill / f"{name}.numbers", np.int32)] += np.diff(ends)
    # One more entry than terms: the empty string, which bm25s asks for, has no postings.
    starts = np.zeros(terms + 2, np.int64)
    np.cumsum(frequency, out=starts[1:-1])
    starts[-1] = starts[-2]
    np.save(folder / layout.INDPTR, starts)
    rarity = _rarity(frequency, len(lengths))
    del frequency
    weight = K1 * ((1 - B) + B * lengths / lengths.mean())  # [passages] float64
    with (
        _new_array(folder / layout.DATA, "<f4", int(starts[-1])) as data,
        _new_array(folder / layout.INDICES, "<i4", int(starts[-1])) as indices,
    ):
        for begin, end in _ranges(starts[:-1], limits.postings):
            passages, often = _gather(spill, names, begin, starts[begin : end + 1])
            indices.write(passages.data)
            # The same steps in the same precision as bm25s, so that no score differs in a bit.
            gain = often / (weight[passages] + often)
            gain *= np.repeat(rarity[begin:end], np.diff(starts[begin : end + 1]))
            data.write(gain.astype(np.float32).data)
    return terms


def _number_terms(spill: Path, names: list[str], folder: Path) -> int:
    """Write the vocabulary, and beside each block the numbers of its terms, ascending."""
    numbers = [array("i") for _ in names]
    files = [spill / f"{name}.numbers" for name in names]
    for file in files:
        file.write_bytes(b"")

    def told(block: int, batch: int = 4096) -> None:
        if len(numbers[block]) >= batch:
            with files[block].open("ab") as stream:
                numbers[block].tofile(stream)
            numbers[block] = array("i")

    def distinct() -> Iterator[str]:
        last, number = "", -1  # no term is empty
        for term, block in heapq.merge(*(_terms(spill, name, b) for b, name in enumerate(names))):
            if term != last:
                last = term
                number += 1
                yield term
            numbers[block].append(number)
            told(block)

    count = write_vocabulary(folder / layout.VOCABULARY, distinct())
    for block in range(len(names)):
        told(block, 1)
    return count


def _terms(spill: Path, name: str, block: int) -> Iterator[tuple[str, int]]:
    """The terms of a block without keeping its file open."""
    position, rest = 0, b""
    while True:
        with (spill / f"{name}.terms").open("rb") as stream:
            stream.seek(position)
            read = stream.read(_READ)
        if not read:
            return
        position += len(read)
        *whole, rest = (rest + read).split(b"\n")
        for term in whole:
            yield term.decode(), block


def _rarity(frequency: Ints, passages: int) -> npt.NDArray[np.float32]:
    """Lucene's inverse document frequency, in the steps of bm25s: [terms]."""
    different, where = np.unique(frequency, return_inverse=True)
    values = [math.log(1 + (passages - df + 0.5) / (df + 0.5)) for df in different.tolist()]
    return np.array(values, np.float32)[where]


def _ranges(starts: Ints, postings: int) -> Iterable[tuple[int, int]]:
    """Consecutive ranges of terms, each with so many postings or a single term."""
    begin, last = 0, len(starts) - 1
    while begin < last:
        end = int(np.searchsorted(starts, starts[begin] + postings, "right")) - 1
        end = min(max(end, begin + 1), last)
        yield begin, end
        begin = end


def _gather(
    spill: Path, names: list[str], begin: int, starts: Ints
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The postings of a range of terms out of all blocks: passages and how often, by term.

    Args:
        spill: where the blocks are.
        names: of the blocks.
        begin: the first term's number.
        starts: where each term's postings begin in the result, and the end: [terms + 1].
    """
    size = int(starts[-1] - starts[0])
    passages, often = np.empty(size, np.int32), np.empty(size, np.int32)
    head = starts[:-1] - starts[0]  # where each term's next posting goes
    for name in names:
        numbers = np.memmap(spill / f"{name}.numbers", np.int32, "r")
        low, high = np.searchsorted(numbers, [begin, begin + len(head)]).tolist()
        if low == high:
            continue
        ends = np.array(np.memmap(spill / f"{name}.ends", np.int64, "r")[low : high + 1])
        here, counts = numbers[low:high] - begin, np.diff(ends)
        count = int(ends[-1] - ends[0])
        place = np.repeat(head[here] - (ends[:-1] - ends[0]), counts)
        place += np.arange(count)
        for result, kind in ((passages, "passages"), (often, "often")):
            file = spill / f"{name}.{kind}"
            result[place] = np.fromfile(file, np.int32, count, offset=int(ends[0]) * 4)
        head[here] += counts
    return passages, often


def _new_array(path: Path, kind: str, size: int) -> IO[bytes]:
    """A file that begins as an ``.npy`` of that many numbers, to be filled front to back."""
    facts: dict[str, Any] = {"descr": kind, "fortran_order": False, "shape": (size,)}
    stream = path.open("wb")
    np.lib.format.write_array_header_1_0(stream, facts)
    return stream
