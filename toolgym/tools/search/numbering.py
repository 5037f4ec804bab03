"""Pieces of text to numbers, many at once.

A dict asked for one word after the other costs most of the time of building an index. Here words
of up to 16 bytes are read as two machine numbers and looked up together in an open table; only what
is not there (a new, a long, or a displaced word) goes through the dict.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from toolgym.tools.search.analysis import PART, parted_bytes

__all__ = ["Numbering"]

_BITS = 20  # of the table: 20 MB, where the words of most of a text fit without collision
_WORD = 8  # bytes of a machine number
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(_WORD + 1)], np.uint64)
# Odd numbers that spread neighbouring words (Knuth's multiplicative hashing).
_SPREAD_LOW, _SPREAD_HIGH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_SHIFT = np.uint64(64 - _BITS)
_SPACE = ord(" ")


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
        # No piece holds a zero byte, so that an empty slot equals none and padding is no letter.
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
