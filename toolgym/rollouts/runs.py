"""Runs, as folders or in memory, and the one reader of "a run, or the path of one"."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b, sha256
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol, runtime_checkable

from toolgym._util.jsonl import (
    append_line,
    append_row,
    appending,
    check_json,
    parse_line,
    read_json,
    read_lines,
    read_rows,
    require_file,
    write_json,
)
from toolgym._util.workfolder import hold, same_settings
from toolgym.errors import BadInputError, MissingFileError, did_you_mean
from toolgym.trajectory import Trajectory, parse_trajectory, read_trajectories

__all__ = [
    "SELECTION",
    "Episodes",
    "Recorded",
    "Recording",
    "Run",
    "RunWriter",
    "episode_seed",
    "open_recording",
    "read_recording",
    "some_episodes",
]

SETTINGS, TRAJECTORIES, FAILURES = "run.json", "trajectories.jsonl", "failures.jsonl"
SELECTION = "selection.json"


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
        lines = self.lines()
        if not lines:
            return
        file = self.path / TRAJECTORIES
        with file.open("rb") as stream:
            for _, (number, position, _) in sorted(lines.items()):
                stream.seek(position)
                trajectory = parse_trajectory(stream.readline(), file, number)
                self._require_own(trajectory, file, number)
                yield trajectory

    def __len__(self) -> int:
        return len(self._recorded if self.path is None else self.lines())

    def lines(self) -> dict[tuple[str, int], tuple[int, int, bytes]]:
        """Line, position in bytes and hash of each episode in the folder, by task id and sample.

        A line that a writer has not finished is left out, and one that stands there again counts
        once.

        Raises:
            BadInputError: a line without an id, two lines of one id, or more episodes than the run
                was to have.
        """
        found: dict[tuple[str, int], tuple[int, int, bytes]] = {}
        if self.path is None or not (file := self.path / TRAJECTORIES).is_file():
            return found
        planned = self.settings.get("episodes")
        for number, position, raw in read_lines(file, torn=True):
            key = _key(raw, file, number)
            digest = blake2b(raw, digest_size=16).digest()
            first, _, known = found.setdefault(key, (number, position, digest))
            if known != digest:
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


class RunWriter:
    """The writing side of a run: one writer at a time, whole lines, safe against signal 9.

    Args:
        run: where to write; its folder is made when it does not exist.

    Raises:
        RunMismatchError: the folder was begun with other settings, or is being written right now.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._streams: dict[str, BinaryIO] = {}
        self._held = contextlib.ExitStack()
        self.finished: set[str] = set()
        if run.path is None:
            return
        with contextlib.ExitStack() as held:
            doing = f"writing to {str(run.path)!r}"
            held.enter_context(hold(run.path, doing, "wait for it, or use another folder"))
            self._begin(run.path, held)
            self._held = held.pop_all()

    def _begin(self, folder: Path, held: contextlib.ExitStack) -> None:
        before = now = self.run.settings
        if (folder / SETTINGS).is_file():
            before = read_json(folder / SETTINGS)
            same_settings(folder, before, now, free=_MAY_DIFFER)
        self.finished = {trajectory.id for trajectory in Run(before, folder)}
        # A run that is resumed with fewer episodes keeps what it has.
        planned = [found for each in (before, now) if (found := each.get("episodes"))]
        now |= {"episodes": max(planned)} if planned else {}
        write_json(folder / SETTINGS, self.run.settings)
        for name in (TRAJECTORIES, FAILURES):
            self._streams[name] = held.enter_context(appending(folder / name))

    def add(self, trajectory: Trajectory) -> None:
        """Record a finished episode; once this returns, a kill does not lose it.

        Raises:
            BadInputError: the record cannot be held; nothing was written.
        """
        if self.run.path is None:
            check_json(trajectory.to_row())
            self.run._recorded.append(trajectory)
        else:
            append_line(self._streams[TRAJECTORIES], trajectory.to_line())
        self.finished.add(trajectory.id)

    def fail(self, row: dict[str, Any]) -> None:
        """Record an infrastructure failure."""
        if self.run.path is None:
            self.run._failures.append(row)
        else:
            append_row(self._streams[FAILURES], row)

    def close(self) -> None:
        """Bring everything to disk and let others write."""
        self._held.close()


# What may differ when a run is resumed: more episodes, and versions (recorded, not compared).
_MAY_DIFFER = ("episodes", "versions")
# The ids are found without reading a whole line: it may be of a megabyte.
_HEAD = re.compile(rb'\{"schema": \d+, "id": ("(?:[^"\\]|\\.)*")')


def _key(raw: bytes, file: Path, number: int) -> tuple[str, int]:
    head = _HEAD.match(raw)
    row = parse_line(b'{"id": %s}' % head[1] if head else raw, file, number, "trajectory file")
    name = row.get("id")
    task, found, sample = name.rpartition("#") if isinstance(name, str) else ("", "", "")
    if not found or not sample.isdecimal():
        raise BadInputError(
            f"{str(file)!r}, line {number}: the id of an episode is 'task#sample', not {name!r}; "
            "remove the line"
        )
    return task, int(sample)


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
    """

    def __init__(self, read: Callable[[], Iterable[Trajectory]], origin: dict[str, Any]) -> None:
        self._read, self.origin = read, origin

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
        return Episodes(source.__iter__ if isinstance(source, Run) else source.trajectories, origin)
    if not isinstance(source, Iterable):
        raise _wrong(source)
    items = list(source)
    if items and not any(isinstance(item, Trajectory) for item in items):
        return _together(items)
    for item in items:
        if not isinstance(item, Trajectory):
            raise _wrong(item)
    return Episodes(lambda: items, {})


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

    return Episodes(read, opened.origin)


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
    return Episodes(lambda: chain.from_iterable(parts), merged)


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
