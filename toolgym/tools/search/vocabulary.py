"""The vocabulary file: JSON that bm25s loads whole, in sorted lines that can be searched unread."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["SORTED", "open_vocabulary", "write_vocabulary"]

SORTED = "sorted lines"
"""What the header of an index says about a file that `write_vocabulary` wrote."""
_WHOLE = 4 << 20  # bytes; a smaller file is read into a dict within some 50 ms
_MEMO_TERMS = 50_000
_LAST = b'\n"": '


def write_vocabulary(path: Path, terms: Iterable[str]) -> int:
    """Write ``{term: number}``, one term a line.

    Args:
        path: the file.
        terms: distinct, ascending by code point, without quotes, backslashes and control signs.

    Returns:
        How many terms there are. The empty string, which bm25s asks for, gets that number.
    """
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write("{\n")
        for term in terms:
            stream.write(f'"{term}": {count},\n')
            count += 1
        stream.write(f'"": {count}}}\n')
    return count


def open_vocabulary(path: Path, *, ordered: bool) -> Callable[[str], int | None]:
    """The function from a term to its number, None for an unknown one.

    Args:
        path: the file.
        ordered: `write_vocabulary` wrote it, so that a large one can stay on the disk.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON object.
    """
    if not ordered or path.stat().st_size < _WHOLE:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(numbers, dict):
            raise ValueError("the vocabulary is no JSON object")
        return numbers.get
    return _SortedLines(path)


class _SortedLines:
    """Bisection in a memory map: opens at once at any size, some 20 microseconds a new term."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._end = self._bytes.rfind(_LAST) + 1
        if not self._end:
            raise ValueError("the vocabulary has no last line")
        self._memo: dict[str, int | None] = {}

    def __call__(self, term: str) -> int | None:
        try:
            return self._memo[term]
        except KeyError:
            if len(self._memo) >= _MEMO_TERMS:
                self._memo = {}
            number = self._memo[term] = self._find(term.encode("utf-8", "replace"))
            return number

    def _find(self, wanted: bytes) -> int | None:
        data, low, high = self._bytes, 2, self._end
        while low < high:
            middle = (low + high) // 2
            begin = max(data.rfind(b"\n", low, middle) + 1, low)
            end = data.find(b"\n", middle, high)
            term, _, number = data[begin + 1 : end].partition(b'": ')
            if term == wanted:
                return int(number[:-1])
            if term < wanted:
                low = end + 1
            else:
                high = begin
        return None
