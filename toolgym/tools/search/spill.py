"""Passages to sorted blocks of postings on the disk.

A block is a self-contained little index: its own terms, ascending, and for each the passages that
hold it with how often. (Single-pass in-memory indexing: Heinz and Zobel 2003, "Efficient
single-pass index construction for text databases".)
"""

from __future__ import annotations

import os
import secrets
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toolgym.tools.search.analysis import PART, Analyzer, parted_bytes, pieces
from toolgym.tools.search.corpora.passages import parse_passage, passage_line
from toolgym.tools.search.layout import Recipe

__all__ = ["BLOCK_FILES", "Limits", "Numbering", "Portion", "PortionReader"]

_BITS = 20  # of the table: 20 MB, where the words of most of a text fit without collision
_WORD = 8  # bytes of a machine number
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(_WORD + 1)], np.uint64)
# Odd numbers that spread neighbouring words (Knuth's multiplicative hashing).
_SPREAD_LOW, _SPREAD_HIGH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_SHIFT = np.uint64(64 - _BITS)
_SPACE = ord(" ")
_KEPT = "\ue000"  # before each piece of a title that has only stop words; means nothing in a text


class Numbering:
    """Numbers pieces in the order in which they are met; the sign between texts is number 0."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {PART: 0}
        self._low = np.zeros(1 << _BITS, np.uint64)
        self._high = np.zeros(1 << _BITS, np.uint64)
        self._found = np.full(1 << _BITS, -1, np.int32)

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, texts: list[str]) -> tuple[npt.NDArray[np.int32], list[bytes]]:
        """Cut texts and number their pieces.

        Args:
            texts: each of them.

        Returns:
            The pieces' numbers, a zero after each text; and the pieces that are new, in the order
            of their numbers.
        """
        raw = b" %b%b" % (parted_bytes(texts), b" " * (2 * _WORD))
        spaces = np.frombuffer(raw, np.uint8) == _SPACE
        edges = np.flatnonzero(spaces[1:] != spaces[:-1]) + 1
        begins, ends = edges[0::2], edges[1::2]
        low, high, sizes = _machine_numbers(raw, begins, ends)
        slots = (((low * _SPREAD_LOW) ^ (high * _SPREAD_HIGH)) >> _SHIFT).astype(np.int64)
        numbers = self._found[slots]
        # No piece holds a zero byte, so that an empty slot equals none and padding is not a letter.
        missed = (self._low[slots] != low) | (self._high[slots] != high) | (sizes > 2 * _WORD)
        new: list[bytes] = []
        where = np.flatnonzero(missed)
        for index, begin, end, slot in zip(
            where.tolist(),
            begins[where].tolist(),
            ends[where].tolist(),
            slots[where].tolist(),
            strict=True,
        ):
            piece = raw[begin:end]
            number = self._numbers.get(piece)
            if number is None:
                number = self._numbers[piece] = len(self._numbers)
                new.append(piece)
            numbers[index] = number
            if self._found[slot] < 0 and end - begin <= 2 * _WORD:
                self._found[slot] = number
                self._low[slot], self._high[slot] = low[index], high[index]
        return numbers, new


def _machine_numbers(
    raw: bytes, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The first and the second eight bytes of each piece, and its size: [pieces] each."""
    sizes = ends - begins
    # Every eight neighbouring bytes as one number; the text ends in enough spaces.
    words = np.ndarray((len(raw) - _WORD + 1,), "<u8", raw, 0, (1,))
    low = words[begins] & _MASKS[np.minimum(sizes, _WORD)]
    high = np.zeros(len(low), np.uint64)
    longer = np.flatnonzero(sizes > _WORD)
    high[longer] = words[begins[longer] + _WORD] & _MASKS[np.minimum(sizes[longer] - _WORD, _WORD)]
    return low, high, sizes


BLOCK_FILES = ("terms", "ends", "passages", "often")
_BASE_MB = 80  # python, numpy and this package, in each process
_TERM_BYTES = 40  # of a term in a block, with all temporary arrays
_POSTING_BYTES = 60  # of a posting in a range of the result, with all temporary arrays
_PIECE_BYTES = 400  # of a different piece with its terms
_STEP = 1 << 18  # characters that are cut at once: a list of pieces takes ten times their bytes

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is in memory at once, in each process.

    Args:
        raw: bytes of the corpus in a portion.
        terms: in a block, repeats included.
        distinct: different pieces that are remembered.
        postings: in one range of the result; a single term's may be more.
    """

    raw: int
    terms: int
    distinct: int
    postings: int

    @classmethod
    def within(cls, memory_mb: int, processes: int = 1) -> Limits:
        """Limits that keep so many processes together within so many megabytes."""
        spare = max(memory_mb // processes - _BASE_MB, 16) << 20
        return cls(
            raw=min(spare // 16, 32 << 20),
            terms=spare // 2 // _TERM_BYTES,
            distinct=spare // 4 // _PIECE_BYTES,
            postings=spare // 2 // _POSTING_BYTES,
        )


@dataclass(frozen=True, slots=True)
class Portion:
    """Consecutive lines of a corpus, analyzed.

    Args:
        stored: the lines of its passages as an index keeps them.
        ends: where each of them ends: [passages].
        lengths: terms in each passage, repeats included: [passages].
        blocks: name and first passage (counted within the portion) of each block on the disk.
    """

    stored: bytes
    ends: npt.NDArray[np.int64]
    lengths: Int32s
    blocks: list[tuple[str, int]]


class _Known:
    """Every piece that was met, with its terms by number: analyzed once, then only looked up."""

    def __init__(self, analyzer: Analyzer) -> None:
        self._analyzer = analyzer
        self._numbering = Numbering()
        self._terms: dict[str, int] = {}
        self.names: list[str] = []  # [terms]
        self._only = array("i")  # the term of a piece with one; -1: none; -2: several; [pieces]
        self._several: dict[int, list[int]] = {}
        self._only.append(-1)  # number 0 is the sign between texts

    def __len__(self) -> int:
        return len(self._numbering)

    def terms_of(self, texts: list[str]) -> tuple[Int32s, Int32s]:
        """The terms of texts, one after the other, and how many each text has.

        Args:
            texts: emptied.
        """
        found, new = self._numbering.number(texts)
        texts.clear()
        self._learn(new)
        terms = np.frombuffer(self._only, np.int32)[found]
        if terms.min(initial=0) < -1:
            found, terms = self._spread(found, terms)
        real = terms >= 0
        # A part's sign is piece 0 and has no term.
        ends = np.cumsum(real, dtype=np.int32)[np.flatnonzero(found == 0)]
        return terms[real], np.diff(ends, prepend=np.int32(0))

    def _spread(self, found: Int32s, terms: Int32s) -> tuple[Int32s, Int32s]:
        """Pieces with several terms as often as these are many, each with one of them."""
        where = np.flatnonzero(terms == -2)
        several = [self._several[piece] for piece in found[where].tolist()]
        times = np.ones(len(found), np.int64)
        times[where] = [len(numbers) for numbers in several]
        found, terms = np.repeat(found, times), np.repeat(terms, times)
        terms[terms == -2] = np.fromiter(chain.from_iterable(several), np.int32)
        return found, terms

    def _learn(self, new: list[bytes]) -> None:
        for piece in new:
            text = piece.decode("utf-8", "surrogatepass")
            kept = text.startswith(_KEPT)
            found = (
                self._analyzer.kept_terms(text[1:]) if kept else self._analyzer.piece_terms(text)
            )
            numbers = [self._term(term) for term in found]
            if len(numbers) > 1:
                self._several[len(self._only)] = numbers
            self._only.append(-2 if len(numbers) > 1 else numbers[0] if numbers else -1)

    def _term(self, term: str) -> int:
        number = self._terms.get(term)
        if number is None:
            number = self._terms[term] = len(self.names)
            self.names.append(term)
        return number


class PortionReader:
    """Analyzes portion after portion of a corpus.

    Args:
        source: the corpus, for messages.
        recipe: how passages become terms.
        limits: when a block is full.
    """

    def __init__(self, source: Path, recipe: Recipe, limits: Limits) -> None:
        self._source, self._recipe, self._limits = source, recipe, limits
        self._analyzer = recipe.analyzer()
        self._known = _Known(self._analyzer)

    def read(self, lines: Iterable[tuple[int, bytes]], folder: Path, name: str) -> Portion:
        """Analyze lines, and write the blocks of their passages.

        Args:
            lines: with their numbers in the corpus.
            folder: where the blocks go.
            name: with which the names of the blocks begin.

        Raises:
            BadInputError: a broken line.
        """
        stored: list[bytes] = []
        texts: list[str] = []
        lengths: list[Int32s] = []
        blocks: list[tuple[str, int]] = []
        block = _Block(0)
        characters = 0
        weight = self._recipe.title_weight
        for number, raw in lines:
            passage = parse_passage(raw, self._source, number)
            if passage is None:
                continue
            stored.append(passage_line(passage))
            title, text = passage.title, passage.text
            if _KEPT in title or _KEPT in text:
                title, text = title.replace(_KEPT, " "), text.replace(_KEPT, " ")
            if title and self._analyzer.only_stop_words(title):
                title = _KEPT + f" {_KEPT}".join(pieces(title))
            text = (title + " ") * weight + text
            texts.append(text)
            # A script without spaces has about two terms a character.
            characters += len(text) if text.isascii() else 4 * len(text)
            if characters >= _STEP or block.terms + characters // 2 >= self._limits.terms:
                lengths.append(block.add(*self._known.terms_of(texts)))
                characters = 0
                if self._full(block):
                    block = self._close(block, folder, name, blocks)
        if texts:
            lengths.append(block.add(*self._known.terms_of(texts)))
        self._close(block, folder, name, blocks)
        ends = np.cumsum([len(line) for line in stored], dtype=np.int64)
        counts = np.concatenate([np.zeros(0, np.int32), *lengths])
        return Portion(b"".join(stored), ends, counts, blocks)

    def _full(self, block: _Block) -> bool:
        limits = self._limits
        return block.terms >= limits.terms or len(self._known) >= limits.distinct

    def _close(
        self, block: _Block, folder: Path, name: str, blocks: list[tuple[str, int]]
    ) -> _Block:
        """Write a block, unless it is empty, and begin the next."""
        if block.terms:
            blocks.append((f"{name}-{len(blocks)}", block.first))
            block.write(folder / blocks[-1][0], self._known.names)
        if len(self._known) >= self._limits.distinct:
            self._known = _Known(self._analyzer)
        return _Block(block.first + block.passages)


class _Block:
    """The postings of consecutive passages, gathered in memory and written once.

    Args:
        first: number of its first passage in the portion.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.terms = self.passages = 0
        self._parts: list[tuple[Int32s, Int32s]] = []

    def add(self, terms: Int32s, lengths: Int32s) -> Int32s:
        """Take passages: their terms by number, and how many each has; gives back the latter."""
        self._parts.append((terms, lengths))
        self.terms += len(terms)
        self.passages += len(lengths)
        return lengths

    def write(self, path: Path, names: list[str]) -> None:
        """Write the block's four files.

        These are its ``terms``, ascending; where the postings of each end (``ends``, int64, after
        a zero); and for each posting the passage, counted within the block, and how often it has
        the term (int32).

        Args:
            path: of the files, without their endings.
            names: the terms by their numbers.
        """
        numbers = np.concatenate([part[0] for part in self._parts])
        lengths = np.concatenate([part[1] for part in self._parts])
        self._parts = []
        used = np.flatnonzero(np.bincount(numbers, minlength=len(names)))
        terms = [names[number] for number in used.tolist()]
        order = np.array(sorted(range(len(terms)), key=terms.__getitem__), np.int64)
        rank = np.zeros(len(names), np.int64)
        rank[used[order]] = np.arange(len(order)) << 32
        key = rank[numbers]
        del numbers
        key |= np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        key.sort()
        differs = np.ones(len(key), np.bool_)
        np.not_equal(key[1:], key[:-1], out=differs[1:])
        begins = np.flatnonzero(differs)
        often = np.diff(begins, append=len(key)).astype(np.int32)
        key = key[begins]
        ends = np.zeros(len(terms) + 1, np.int64)
        np.cumsum(np.bincount(key >> 32, minlength=len(terms)), out=ends[1:])
        text = "".join(f"{terms[number]}\n" for number in order.tolist())
        contents = (text.encode(), ends.data, key.astype(np.int32).data, often.data)
        for kind, content in zip(BLOCK_FILES, contents, strict=True):
            # Whole or not at all: who was taken for dead may still write the same block.
            partial = path.with_name(f"{path.name}.{kind}-{secrets.token_hex(4)}")
            with partial.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path.with_name(f"{path.name}.{kind}"))
