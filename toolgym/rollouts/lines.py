"""Where the episodes of a run stand in its file: an index that is small for a million of them."""

from __future__ import annotations

import json
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from toolgym._util.frames import LineFile, standing
from toolgym._util.hashes import value_hash
from toolgym._util.jsonl import parse_line, read_lines
from toolgym.errors import BadInputError
from toolgym.trajectory import Documents, Trajectory, parse_trajectory

__all__ = ["Book", "Lines", "key_in", "key_of", "line_hash", "refuse", "task_hash"]

Key = tuple[str, int]
"""Task id and sample."""

_SAMPLE = 32  # bits of a sample's number in a key; the task's number stands above them


class Lines(Mapping[Key, tuple[int, int]]):
    """Position in bytes and number of each line of a run, by task id and sample, in file order.

    Of a million lines this takes 50 MB and what the ids of the tasks take, each once.

    Args:
        file: of the trajectories; a line that a writer has not finished is left out, and one that
            stands there again counts once.
        planned: how many episodes there may be; None: any number.

    Raises:
        BadInputError: a line without an id, two lines of one id, or more episodes than planned.
    """

    def __init__(self, file: Path | None = None, planned: int | None = None) -> None:
        self._tasks: dict[str, int] = {}
        self._keys, self._digests = array("Q"), bytearray()
        self._positions, self._numbers = array("q"), array("q")
        if file is not None:
            try:
                for number, position, raw in read_lines(file, "trajectory file", torn=True):
                    self._add(key_in(raw, file, number), position, number, raw)
            finally:
                self._settle(file, planned)  # whatever is wrong is told of the first such line
        self._sort()

    def _add(self, key: Key, position: int, number: int, raw: bytes) -> None:
        task = self._tasks.setdefault(key[0], len(self._tasks))
        self._keys.append(task << _SAMPLE | key[1])
        self._positions.append(position)
        self._numbers.append(number)
        self._digests += blake2b(raw, digest_size=16).digest()

    def _settle(self, file: Path, planned: int | None) -> None:
        """Drop lines that stand there again, and refuse those that cannot belong there."""
        keys = np.frombuffer(self._keys, np.uint64)
        _, first, which = np.unique(keys, return_index=True, return_inverse=True)
        if len(first) == len(keys) and (planned is None or len(keys) <= planned):
            return
        digests = np.frombuffer(self._digests, np.uint64).reshape(-1, 2)
        other = (digests != digests[first[which]]).any(axis=1)
        wrong = int(other.argmax()) if other.any() else len(keys)
        firsts = np.sort(first)
        beyond = int(firsts[planned]) if planned is not None and len(first) > planned else len(keys)
        if wrong < beyond:
            before = self._numbers[first[which[wrong]]]
            why = f"line {before} is another record of {self._id(wrong)!r}"
            refuse(file, self._numbers[wrong], why)
        if beyond < len(keys):
            why = f"it has {planned} episodes without {self._id(beyond)!r}"
            refuse(file, self._numbers[beyond], why)
        self._keys = array("Q", keys[firsts].tobytes())
        for name in ("_positions", "_numbers"):
            values = np.frombuffer(getattr(self, name), np.int64)[firsts]
            setattr(self, name, array("q", values.tobytes()))
        self._digests = bytearray()

    def _sort(self) -> None:
        self._digests = bytearray()  # they were for lines that stand there twice
        self._names = list(self._tasks)
        keys = np.frombuffer(self._keys, np.uint64)
        order = np.argsort(keys)
        self._sorted, self._rows = array("Q", keys[order].tobytes()), array("q", order.tobytes())

    def _key_at(self, row: int) -> Key:
        key = self._keys[row]
        return self._names[key >> _SAMPLE], key & ((1 << _SAMPLE) - 1)

    def _id(self, row: int) -> str:
        self._names = list(self._tasks)
        return "{}#{}".format(*self._key_at(row))

    def row(self, key: Key) -> int:
        """Which of the episodes a key is, in file order; -1 where it is none."""
        task = self._tasks.get(key[0])
        if task is None:
            return -1
        wanted = task << _SAMPLE | key[1]
        place = bisect_left(self._sorted, wanted)
        found = place < len(self._sorted) and self._sorted[place] == wanted
        return self._rows[place] if found else -1

    def at(self, row: int) -> tuple[int, int]:
        """Position and number of one of the lines, counted in file order."""
        return self._positions[row], self._numbers[row]

    def in_order(self) -> Iterator[tuple[int, int]]:
        """Position and number of each line, ordered by task id and sample."""
        names = sorted(range(len(self._names)), key=self._names.__getitem__)
        ranks: NDArray[np.uint64] = np.empty(len(names), np.uint64)
        ranks[names] = np.arange(len(names), dtype=np.uint64)
        keys = np.frombuffer(self._keys, np.uint64)
        shift = np.uint64(_SAMPLE)
        wanted = ranks[(keys >> shift).astype(np.int64)] << shift | keys & np.uint64(0xFFFFFFFF)
        order = array("q", np.argsort(wanted).astype(np.int64).tobytes())
        return (self.at(row) for row in order)

    def __getitem__(self, key: Key) -> tuple[int, int]:
        row = self.row(key)
        if row < 0:
            raise KeyError(key)
        return self.at(row)

    def __iter__(self) -> Iterator[Key]:
        return map(self._key_at, range(len(self._keys)))

    def __len__(self) -> int:
        return len(self._keys)


def line_hash(raw: bytes) -> str:
    """SHA-256 of a line without the blanks around it, hexadecimal."""
    return sha256(raw.strip()).hexdigest()


def task_hash(raw: bytes) -> tuple[str, str]:
    """Id and hash of the task in the line of an episode that was read before."""
    head = _BEFORE_TASK.match(raw)
    # Only that part is read: a line with tokens may be of a megabyte.
    task = _JSON.raw_decode(raw[head.end() :].decode())[0] if head else json.loads(raw)["task"]
    return str(task["id"]), value_hash(task)


class Book:
    """The lines of recorded episodes by the ids of these; of a million it holds 16 MB.

    Args:
        place: a run folder, or a file of trajectories.

    Raises:
        MissingFileError: there are none.
        BadInputError: a line without an id; its number is named.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.file = standing(place / "trajectories.jsonl") if place.is_dir() else place
        keys, positions = array("Q"), array("q")
        for number, position, raw in read_lines(self.file, "trajectory file", torn=True):
            keys.append(_short(key_in(raw, self.file, number)))
            positions.append(position)
        order = np.argsort(np.array(keys, np.uint64), kind="stable")
        self._keys = array("Q", np.array(keys, np.uint64)[order].tobytes())
        self._positions = array("q", np.array(positions, np.int64)[order].tobytes())
        self._lines = LineFile(self.file)
        self._documents = Documents(self.file.parent)

    def __len__(self) -> int:
        return len(self._keys)

    def of(self, name: str) -> Iterator[tuple[int, bytes]]:
        """Number and content of each line of an episode: one in a run, several in a selection.

        Args:
            name: id of the episode.
        """
        key = _short(key_of(name))
        place = bisect_left(self._keys, key)
        while place < len(self._keys) and self._keys[place] == key:
            yield place, self._lines.line(self._positions[place])
            place += 1

    def same(self, trajectory: Trajectory, line: bytes | None) -> bytes | None:
        """The line that holds the same episode; None: there is none.

        Args:
            trajectory: the episode.
            line: that it stands in elsewhere, where it does.
        """
        for _, raw in self.of(trajectory.id):
            alike = line is not None and raw.strip() == line.strip()
            if alike or parse_trajectory(raw, self.file, 2, self._documents) == trajectory:
                return raw
        return None


def _short(key: tuple[str, int] | None) -> int:
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest())


# The ids are found without reading a whole line: it may be of a megabyte.
_HEAD = re.compile(rb'\{"schema": \d+, "id": ("(?:[^"\\]|\\.)*")')
_BEFORE_TASK = re.compile(
    rb'\{"schema": \d+(?:, "(?:id|env_id|format)": "(?:[^"\\]|\\.)*")*, "task": '
)
_JSON = json.JSONDecoder()
_PLAIN = re.compile(rb'\{"schema": \d+, "id": "([ !$-\[\]-~]*)#(\d{1,9})"')


def key_in(raw: bytes, file: Path, number: int) -> Key:
    """Task id and sample of the episode in a line.

    Raises:
        BadInputError: it has no such id.
    """
    plain = _PLAIN.match(raw)
    if plain:
        return plain[1].decode("ascii"), int(plain[2])
    head = _HEAD.match(raw)
    row = parse_line(b'{"id": %s}' % head[1] if head else raw, file, number, "trajectory file")
    key = key_of(row.get("id"))
    if key is None:
        raise BadInputError(
            f"{str(file)!r}, line {number}: the id of an episode is 'task#sample', not "
            f"{row.get('id')!r}; remove the line"
        )
    return key


def key_of(name: Any) -> Key | None:
    """Task id and sample of an episode's id; None where it is not one."""
    task, found, sample = name.rpartition("#") if isinstance(name, str) else ("", "", "")
    return (task, int(sample)) if found and sample.isdecimal() and len(sample) < 10 else None


def refuse(file: Path, number: int, why: str) -> NoReturn:
    """Raise what a line that is not of this run deserves."""
    raise BadInputError(
        f"{str(file)!r}, line {number}: not an episode of this run ({why}); remove the line"
    )
