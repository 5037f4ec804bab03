"""Runs, as folders or in memory, and the one reader of "a run, or the path of one"."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b, sha256
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

from toolgym._util.jsonl import (
    parse_line,
    read_json,
    read_lines,
    read_rows,
    require_file,
)
from toolgym.errors import BadInputError, MissingFileError, did_you_mean
from toolgym.trajectory import Trajectory, parse_trajectory, read_trajectories

__all__ = [
    "SELECTION",
    "Episodes",
    "Lines",
    "Recorded",
    "Recording",
    "Run",
    "episode_seed",
    "key_of",
    "open_recording",
    "read_recording",
    "some_episodes",
]

SETTINGS, TRAJECTORIES, FAILURES = "run.json", "trajectories.jsonl", "failures.jsonl"
SELECTION = "selection.json"


class Lines(Mapping[tuple[str, int], tuple[int, int]]):
    """Position in bytes and number of each line of a run, by task id and sample, in file order.

    Of a million lines this takes about 250 MB, a third of what a dict of tuples would.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int], int] = {}
        self._places, self._digests = array("q"), bytearray()

    def add(self, key: tuple[str, int], position: int, number: int, digest: bytes) -> int:
        """Take in a line.

        Args:
            key: task id and sample.
            position: in bytes, of its begin.
            number: counted from 1.
            digest: [16] hash of the line.

        Returns:
            The number of an earlier line of the same key and another hash; 0 where there is none.
        """
        row = self._rows.setdefault(key, len(self._rows))
        if row * 16 == len(self._digests):
            self._places.extend((position, number))
            self._digests += digest
        return 0 if self._digests[16 * row : 16 * row + 16] == digest else self[key][1]

    def __getitem__(self, key: tuple[str, int]) -> tuple[int, int]:
        row = self._rows[key]
        return self._places[2 * row], self._places[2 * row + 1]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class Run:
    """Recorded episodes. Make one with `toolgym.rollout` or `Run.open`.

    Args:
        settings: what ``run.json`` holds: environment, policy, sampling, seeds, versions, hashes.
        path: the folder, or None for a run in memory.
        recorded: the episodes of a run in memory.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        path: Path | None = None,
        recorded: list[Trajectory] | None = None,
    ) -> None:
        self.settings, self.path = dict(settings), path
        self._recorded = recorded if recorded is not None else []
        self._failures: list[dict[str, Any]] = []

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run folder.

        Raises:
            MissingFileError: no such folder, or it holds no run.
            BadInputError: ``run.json`` cannot be read.
        """
        folder = Path(path)
        if not folder.is_dir():
            names = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
            hint = did_you_mean(folder.name, names)
            raise MissingFileError(f"run folder {str(folder)!r} does not exist{hint}")
        if not (folder / SETTINGS).is_file():
            raise MissingFileError(f"{str(folder)!r} holds no {SETTINGS}: it is not a run folder")
        return cls(read_json(folder / SETTINGS), folder)

    def trajectories(self) -> list[Trajectory]:
        """All finished episodes, ordered by task id and sample: the same order everywhere."""
        return list(iter(self))  # the length alone would read the file once more

    def provenance(self) -> dict[str, Any]:
        """Where the episodes come from, as plain data: what cards and reports say of it."""
        names = ("env", "task_source", "task_family", "policy", "samples_per_task", "seed")
        found = {
            name: self.settings[name] for name in (*names, "versions") if name in self.settings
        }
        return found | ({"path": str(self.path)} if self.path is not None else {})

    @property
    def planned(self) -> int:
        """How many episodes the run is to have; of a shard, how many of them are its own."""
        index, count = self.settings.get("shard") or (0, 1)
        return len(range(index, self.settings.get("episodes", 0), count))

    def failures(self) -> list[dict[str, Any]]:
        """Infrastructure failures of all attempts so far; those episodes are not scored."""
        if self.path is None:
            return list(self._failures)
        file = self.path / FAILURES
        if not file.is_file():
            return []
        return [row for _, row in read_rows(file, "failures file", torn=True)]

    def __iter__(self) -> Iterator[Trajectory]:
        """The finished episodes in the order of `trajectories`, of which one is held at a time.

        Raises:
            BadInputError: a line that cannot be read, or is not of this run; its number is named.
        """
        if self.path is None:
            yield from sorted(self._recorded, key=lambda t: (t.task.id, t.sample))
            return
        file = self.path / TRAJECTORIES
        if not file.is_file():
            return
        with file.open("rb") as stream:
            found = self.lines()
            if not os.path.samestat(os.fstat(stream.fileno()), file.stat()):
                yield from self  # its writer has put it into the plan's order just now
                return
            for key in sorted(found):
                position, number = found[key]
                stream.seek(position)
                trajectory = parse_trajectory(stream.readline(), file, number)
                self._require_own(trajectory, file, number)
                yield trajectory

    def __len__(self) -> int:
        return len(self._recorded if self.path is None else self.lines())

    def lines(self) -> Lines:
        """Where the episodes stand in the folder's file, by task id and sample.

        A line that a writer has not finished is left out, and one that stands there again counts
        once.

        Raises:
            BadInputError: a line without an id, two lines of one id, or more episodes than the run
                was to have.
        """
        found = Lines()
        if self.path is None or not (file := self.path / TRAJECTORIES).is_file():
            return found
        planned = self.settings.get("episodes")
        for number, position, raw in read_lines(file, torn=True):
            key = _key(raw, file, number)
            first = found.add(key, position, number, blake2b(raw, digest_size=16).digest())
            if first:
                _refuse(file, number, f"line {first} is another record of {_id(key)!r}")
            if isinstance(planned, int) and len(found) > planned:
                _refuse(file, number, f"it has {planned} episodes without {_id(key)!r}")
        return found

    def _require_own(self, trajectory: Trajectory, file: Path, number: int) -> None:
        """Refuse an episode that this run's settings cannot have given."""
        env = str(self.settings.get("env", {}).get("id") or "").rpartition(":")[2]
        played = trajectory.env_id
        # An id without its version stands for the newest one.
        if env and played and played != env and not played.startswith(f"{env}-v"):
            _refuse(file, number, f"{trajectory.id!r} was played in {played!r}, not in {env!r}")
        seed = self.settings.get("seed")
        if seed is not None and trajectory.seed not in (None, episode_seed(seed, trajectory.id)):
            _refuse(file, number, f"{trajectory.id!r} was played with another seed")
        samples = self.settings.get("samples_per_task")
        if isinstance(samples, int) and trajectory.sample >= samples:
            _refuse(file, number, f"{trajectory.id!r} is not one of {samples} samples of its task")

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else str(self.path)
        return f"Run({self.settings.get('env', {}).get('id', '?')}, {where})"


# The ids are found without reading a whole line: it may be of a megabyte.
_HEAD = re.compile(rb'\{"schema": \d+, "id": ("(?:[^"\\]|\\.)*")')


def _key(raw: bytes, file: Path, number: int) -> tuple[str, int]:
    head = _HEAD.match(raw)
    row = parse_line(b'{"id": %s}' % head[1] if head else raw, file, number, "trajectory file")
    key = key_of(row.get("id"))
    if key is None:
        raise BadInputError(
            f"{str(file)!r}, line {number}: the id of an episode is 'task#sample', not "
            f"{row.get('id')!r}; remove the line"
        )
    return key


def key_of(name: Any) -> tuple[str, int] | None:
    """Task id and sample of an episode's id; None where it is not one."""
    task, found, sample = name.rpartition("#") if isinstance(name, str) else ("", "", "")
    return (task, int(sample)) if found and sample.isdecimal() else None


def _id(key: tuple[str, int]) -> str:
    return f"{key[0]}#{key[1]}"


def _refuse(file: Path, number: int, why: str) -> NoReturn:
    raise BadInputError(
        f"{str(file)!r}, line {number}: not an episode of this run ({why}); remove the line"
    )


def episode_seed(*parts: object) -> int:
    """The seed of an episode, from the run's seed and the episode's id; of a turn, from those.

    31 bits of a hash: the same on every machine, whatever ran before.
    """
    return int.from_bytes(sha256(repr(parts).encode()).digest()[:4], "big") >> 1


@runtime_checkable
class Recorded(Protocol):
    """What holds episodes: a run, a selection, or an object of your own.

    It may also have ``provenance()``, or ``settings``: plain data on where they come from.
    """

    def trajectories(self) -> Iterable[Trajectory]:
        """The episodes."""


Recording = Recorded | str | Path | Iterable[Any]
"""A run, a selection, the folder or ``.jsonl`` file of either, trajectories, or a list of runs."""


class Episodes:
    """Recorded episodes, read when they are iterated over: one at a time, and each time anew.

    Args:
        read: begins to read.
        origin: plain data on where they come from: ``env``, ``task_source``, ``policy``, ``path``,
            and for a selection its counts.
        held: they stand in memory, whether they are read or not.
    """

    def __init__(
        self, read: Callable[[], Iterable[Trajectory]], origin: dict[str, Any], held: bool = False
    ) -> None:
        self._read, self.origin, self.held = read, origin, held

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self._read())


def open_recording(source: Recording) -> Episodes:
    """Episodes and their origin; nothing is held, so that any number of them can be read.

    Args:
        source: see `Recording`.

    Raises:
        MissingFileError: no such file or folder, or a folder without episodes.
        BadInputError: something else than episodes. While they are read: a broken line, or one of
            another run; its number is named.
    """
    if isinstance(source, Trajectory):
        raise BadInputError("a list of trajectories is needed, not a single one: [trajectory]")
    if isinstance(source, str | Path):
        return _open_path(Path(source))
    if isinstance(source, Recorded):
        said = getattr(source, "provenance", None)
        origin = said() if said else dict(getattr(source, "settings", None) or {})
        if isinstance(source, Run):
            return Episodes(source.__iter__, origin, held=source.path is None)
        return Episodes(source.trajectories, origin)
    if not isinstance(source, Iterable):
        raise _wrong(source)
    items = list(source)
    if items and not any(isinstance(item, Trajectory) for item in items):
        return _together(items)
    for item in items:
        if not isinstance(item, Trajectory):
            raise _wrong(item)
    return Episodes(lambda: items, {}, held=True)


def some_episodes(source: Recording) -> Episodes:
    """As `open_recording`, but where there is no episode reading them says so.

    Raises:
        MissingFileError: no such file or folder.
        BadInputError: something else than episodes. While they are read: there is none, or a broken
            line.
    """
    opened = open_recording(source)

    def read() -> Iterator[Trajectory]:
        empty = True
        for trajectory in opened:
            empty = False
            yield trajectory
        if empty:
            where = f" in {str(source)!r}" if isinstance(source, str | Path) else ""
            raise BadInputError(f"no finished episode{where}: play some with toolgym.rollout first")

    return Episodes(read, opened.origin, opened.held)


def read_recording(source: Recording) -> tuple[list[Trajectory], dict[str, Any]]:
    """At least one episode, held in memory, and the origin of all; see `some_episodes`.

    Raises:
        MissingFileError: no such file or folder.
        BadInputError: no episode in it, a broken line, or something else than episodes.
    """
    opened = some_episodes(source)
    return list(opened), opened.origin


def _wrong(item: Any) -> BadInputError:
    return BadInputError(
        f"runs, paths or trajectories are needed, not {type(item).__name__}: {item!r:.80}"
    )


def _together(items: list[Any]) -> Episodes:
    """Several runs as one, such as one with tools and one without."""
    for item in items:
        if not isinstance(item, Recorded | str | Path):
            raise _wrong(item)
    parts = [open_recording(item) for item in items]
    origins = [part.origin for part in parts]
    merged: dict[str, Any] = {}
    for name in ("task_source", "task_family"):
        values = sorted({str(origin[name]) for origin in origins if name in origin})
        # A sample among several sources must stay visible as one.
        merged |= {name: "sample" if "sample" in values else " and ".join(values)} if values else {}
    for name in ("env", "policy", "selection", "path"):
        merged[name] = [origin.get(name) for origin in origins]
    return Episodes(
        lambda: chain.from_iterable(parts), merged, held=all(part.held for part in parts)
    )


def _open_path(path: Path) -> Episodes:
    folder = path if path.is_dir() else path.parent
    own = path.is_dir() or path.name == TRAJECTORIES
    if own and (folder / SETTINGS).is_file():
        return open_recording(Run.open(folder))
    file = path / TRAJECTORIES if path.is_dir() else path
    if not file.exists() and path.suffix != ".jsonl":
        Run.open(path)  # raises, with the near names of what stands beside it
    require_file(file, "trajectory file")
    origin: dict[str, Any] = {}
    if (folder / SELECTION).is_file():
        summary = read_json(folder / SELECTION)
        origin = {**summary.pop("origin", {}), "selection": summary}
    elif (folder / SETTINGS).is_file():
        origin = Run.open(folder).provenance()
    return Episodes(lambda: read_trajectories(file), origin | {"path": str(file)})
