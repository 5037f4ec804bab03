"""A sequence that may be longer than memory: of many items the lines stand on disk."""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import IO, Generic, Self, TypeVar, overload

__all__ = ["MOST_HELD", "Spool"]

Item = TypeVar("Item")

MOST_HELD = 1000
"""Items that a spool holds as they are."""


class Spool(Sequence[Item], Generic[Item]):
    """Items that are appended one by one and read any number of times.

    Up to `MOST_HELD` they are the objects that were given. With one more all go to a file without a
    name (in ``$TMPDIR``), and each reading makes new ones; the file goes with the spool.

    Args:
        dump: an item as a line.
        load: an item from what `dump` gave.
        most: items that are held; None: all, whatever comes.
    """

    def __init__(
        self,
        dump: Callable[[Item], str],
        load: Callable[[bytes], Item],
        most: int | None = MOST_HELD,
    ) -> None:
        self._dump, self._load, self._most = dump, load, most
        self._held: list[Item] = []
        self._ends = array("q")
        self._file: IO[bytes] | None = None

    def append(self, item: Item) -> None:
        """Add an item at the end.

        Raises:
            BadInputError: it goes to disk, and JSON cannot hold it.
        """
        if self._file is None and (self._most is None or len(self._held) < self._most):
            self._held.append(item)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - goes with the spool
            weakref.finalize(self, self._file.close)
        for each in (*self._held, item):
            self._write(self._file, self._dump(each).encode("utf-8"))
        self._held.clear()

    def _write(self, file: IO[bytes], line: bytes) -> None:
        file.write(line)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(line))

    @property
    def held(self) -> Sequence[Item]:
        """The items, where they are in memory; none where they are on disk."""
        return self._held

    def _line(self, file: IO[bytes], place: int) -> bytes:
        begin = self._ends[place - 1] if place else 0
        return os.pread(file.fileno(), self._ends[place] - begin, begin)

    def lines(self) -> Iterator[str]:
        """Each item as a line, without being read where it is on disk."""
        if self._file is None:
            yield from map(self._dump, self._held)
            return
        self._file.flush()
        for place in range(len(self)):
            yield self._line(self._file, place).decode("utf-8")

    def only(self, places: Sequence[int]) -> Self:
        """A spool of some of the items.

        Args:
            places: of the items, in the order in which they are to stand.
        """
        found = copy(self)
        found._held, found._ends, found._file = [], array("q"), None
        for place in places:
            found._take(self, place)
        return found

    def _take(self, other: Self, place: int) -> None:
        if self._file is None or other._file is None:
            self.append(other[place])
        else:
            self._write(self._file, other._line(other._file, place))

    def __len__(self) -> int:
        return len(self._held) if self._file is None else len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        """One item, or a list of several."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if self._file is None:
            return self._held[index]
        self._file.flush()
        return self._load(self._line(self._file, range(len(self))[index]))

    def __iter__(self) -> Iterator[Item]:
        return (self[place] for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list | Spool):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Spool({len(self)} items, {'in memory' if self._file is None else 'on disk'})"
