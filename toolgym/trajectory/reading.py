"""Recorded episodes as lines of a file, read one by one, and the tools that many of them share."""

from __future__ import annotations

import heapq
import json
import re
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from hashlib import blake2b, sha256
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from toolgym._util.frames import LineFile, standing
from toolgym._util.jsonl import dump_line, parse_line, read_lines
from toolgym._util.spool import MOST_HELD, Spool
from toolgym.errors import BadInputError
from toolgym.trajectory.record import Trajectory

__all__ = [
    *("TOOLS", "Documents", "EpisodeSpool", "Names", "parse_trajectory", "read_trajectories"),
    "with_lines",
]

TOOLS = "tools.jsonl"
"""Beside the trajectories of a run or a selection: the documents of tools, each list once."""

_HEAD = re.compile(rb'\{"id": "sha256:([0-9a-f]{64})"')
_OPENED = 256  # lists of documents that are held as they are
_MOST = 4096  # that are named in a selection: more than that differ by episode anyway


class Documents:
    """Lists of tool documents by their hash, from the ``tools.jsonl`` beside some trajectories.

    A line is ``{"id": "sha256:...", "tools": [...]}``, and the hash is that of the list as ASCII
    JSON without spaces, keys in their order. Of a million different lists no more is held than
    where each stands.

    Args:
        folder: where the file stands; it is read when it is first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._size = folder, -1
        self._keys, self._places = array("Q"), array("q")
        self._lines: LineFile | None = None
        self._opened: OrderedDict[str, list[dict[str, Any]]] = OrderedDict()

    @property
    def file(self) -> Path:
        """The file, whether it is there or not."""
        return standing(self._folder / TOOLS)

    @staticmethod
    def text_of(tools: list[dict[str, Any]]) -> str:
        """Documents as the text whose hash is their name.

        Raises:
            BadInputError: JSON cannot hold them.
        """
        try:
            return json.dumps(tools, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            raise BadInputError(f"JSON cannot hold the tools of this episode: {error}") from error

    @staticmethod
    def name_of(text: str) -> str:
        """The name by which trajectories refer to documents.

        Args:
            text: from `text_of`.
        """
        return f"sha256:{sha256(text.encode()).hexdigest()}"

    def find(self, name: str) -> list[dict[str, Any]]:
        """The documents of a name; episodes that name the same share them.

        Raises:
            BadInputError: they are not there, or were changed.
        """
        found = self._opened.get(name)
        if found is None:
            found = self._read(name)
            self._opened[name] = found
            if len(self._opened) > _OPENED:
                self._opened.popitem(last=False)
        return found

    def _read(self, name: str) -> list[dict[str, Any]]:
        file = self.file
        if file.is_file() and file.stat().st_size != self._size:
            self._index(file)  # it may have grown since, where its run is being played
        key = _key(name.removeprefix("sha256:"))
        place = bisect_left(self._keys, key)
        while self._lines is not None and place < len(self._keys) and self._keys[place] == key:
            row = parse_line(self._lines.line(self._places[place]), file, 2, "file of tools")
            if row.get("id") == name:
                tools: list[dict[str, Any]] = row.get("tools", [])
                if not isinstance(tools, list) or self.name_of(self.text_of(tools)) != name:
                    raise BadInputError(f"the tools {name!r} in {str(file)!r} were changed")
                return tools
            place += 1
        raise BadInputError(
            f"its tools {name!r} do not stand in {str(file)!r}: copy that file of its run there"
        )

    def _index(self, file: Path) -> LineFile:
        if self._lines is not None:
            self._lines.close()
        self._size, self._lines = file.stat().st_size, LineFile(file)
        keys, places = array("Q"), array("q")
        for key, _, position in self._heads(file):
            keys.append(key)
            places.append(position)
        order = np.argsort(np.array(keys, np.uint64), kind="stable")
        self._keys = array("Q", (keys[place] for place in order))
        self._places = array("q", (places[place] for place in order))
        return self._lines

    def _heads(self, file: Path) -> Iterator[tuple[int, str, int]]:
        for number, position, raw in read_lines(file, "file of tools", torn=True):
            head = _HEAD.match(raw)
            if head is None:
                raise BadInputError(
                    f"file of tools {str(file)!r}, line {number}: it begins {raw[:40]!r}, not with "
                    "the id of a list of tools; remove the line"
                )
            name = head[1].decode()
            yield _key(name), name, position

    def known(self) -> set[int]:
        """What `key_of` gives for each name in the file."""
        file = self.file
        return {key for key, _, _ in self._heads(file)} if file.is_file() else set()

    @staticmethod
    def key_of(name: str) -> int:
        """A name as a number of 64 bits."""
        return _key(name.removeprefix("sha256:"))

    def in_order(self) -> bool:
        """Whether the file has each list once, ordered by name, as `merged` gives them."""
        names = (name for _, name, _ in self._heads(self.file)) if self.file.is_file() else ()
        return all(before < after for before, after in pairwise(names))

    def sorted_lines(self) -> Iterator[tuple[bytes, bytes]]:
        """Name and line of each list, ordered by name."""
        if not self.file.is_file():
            return
        lines = self._index(self.file)
        for place in self._places:
            raw = lines.line(place)
            yield raw[:81], raw

    def close(self) -> None:
        """Close the file."""
        if self._lines is not None:
            self._lines.close()
            self._lines, self._size = None, -1

    @staticmethod
    def merged(parts: Iterable[Documents]) -> Iterator[bytes]:
        """The lines of several files, each once, ordered by name: in whatever order they came."""
        lines = heapq.merge(*(part.sorted_lines() for part in parts))
        return (next(same)[1] for _, same in groupby(lines, itemgetter(0)))


def _key(digits: str) -> int:
    try:
        return int(digits[:16], 16)
    except ValueError:
        return 0


def read_trajectories(path: str | Path, *, torn: bool = False) -> Iterator[Trajectory]:
    """Stream the trajectories of a ``.jsonl`` file; a line that stands there again counts once.

    Args:
        path: the file, also one that zstd has compressed (``.jsonl.zst``).
        torn: leave out a last line that a writer has not finished.

    Raises:
        MissingFileError: no such file.
        BadInputError: a broken line, see `parse_trajectory`; its number is named.
        MissingExtraError: a compressed file without the extra ``zstd``.
    """
    return (trajectory for _, trajectory in with_lines(path, torn=torn))


def with_lines(path: str | Path, *, torn: bool = False) -> Iterator[tuple[bytes, Trajectory]]:
    """As `read_trajectories`, each with the line that it stands in."""
    seen: set[bytes] = set()
    documents = Documents(Path(path).parent)
    for number, _, raw in read_lines(path, "trajectory file", torn=torn):
        digest = blake2b(raw.strip(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield raw, parse_trajectory(raw, path, number, documents)


def parse_trajectory(
    raw: bytes, path: str | Path, number: int, documents: Documents | None = None
) -> Trajectory:
    """The trajectory of one line.

    Args:
        raw: the line.
        path: of the file, for messages.
        number: of the line, counted from 1.
        documents: where the tools stand that it refers to; default: beside the file.

    Raises:
        BadInputError: it is not JSON, no trajectory, has no step, an id other than that of its
            task and sample, a reward or metric that is not a finite number, or tools that are not
            where they should be.
    """
    row = parse_line(raw, path, number, "trajectory file", finite=True)
    try:
        if isinstance(row.get("tools"), str):
            row["tools"] = (documents or Documents(Path(path).parent)).find(row["tools"])
        found = Trajectory.from_row(row)
        if not isinstance(found.sample, int) or row.get("id") != found.id:
            raise BadInputError(
                f"the id of an episode is 'task#sample', here {found.id!r}, not {row.get('id')!r}; "
                "remove the line"
            )
        if not found.steps:
            raise BadInputError(
                f"episode {found.id!r} has no step, so nothing was played; remove the line"
            )
        for values in (
            found.metrics,
            *({"reward": s.reward} | s.reward_parts for s in found.steps),
        ):
            for name, value in values.items():
                if not isinstance(value, int | float):
                    raise BadInputError(f"{name} is {value!r}, not a number; remove the line")
    except BadInputError as error:
        raise BadInputError(f"{str(path)!r}, line {number}: {error}") from error
    return found


class EpisodeSpool(Spool[Trajectory]):
    """Episodes that were read: on disk when they are many, with the tools that they share once.

    Args:
        held: they stand in memory anyway, and stay there.
    """

    def __init__(self, held: bool = False) -> None:
        self.names = names = Names()
        super().__init__(
            lambda trajectory: dump_line(trajectory.to_row(names.add(trajectory.tools))),
            lambda line: Trajectory.from_row(names.resolved(json.loads(line))),
            None if held else MOST_HELD,
        )


class Names:
    """Tools by the name that rows refer to them by; beyond `_MOST` lists rows hold their own."""

    def __init__(self) -> None:
        self._known: dict[str, list[dict[str, Any]]] = {}
        self._last: tuple[str, str | None] = "", None

    def add(self, tools: list[dict[str, Any]]) -> str | None:
        """The name for a row; None where the row has to hold them.

        Raises:
            BadInputError: JSON cannot hold them.
        """
        text = Documents.text_of(tools)
        if text != self._last[0]:
            name = Documents.name_of(text)
            if len(self._known) < _MOST:
                self._known.setdefault(name, json.loads(text))
            self._last = text, name if name in self._known else None
        return self._last[1]

    def resolved(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with its tools in place."""
        return row | {"tools": self._known[row["tools"]]} if isinstance(row["tools"], str) else row

    def lines(self) -> Iterator[str]:
        """For a ``tools.jsonl``, see `Documents`."""
        return (dump_line({"id": name, "tools": self._known[name]}) for name in sorted(self._known))
