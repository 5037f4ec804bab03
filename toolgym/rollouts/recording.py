"""The one reader of "a run, or the path of one", a selection, or trajectories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from toolgym._util.frames import SUFFIX, standing
from toolgym._util.jsonl import read_json, require_file
from toolgym.errors import BadInputError
from toolgym.rollouts.runs import SAMPLE, SELECTION, SETTINGS, TRAJECTORIES, Run
from toolgym.trajectory import Trajectory
from toolgym.trajectory.reading import with_lines

__all__ = [
    "Episodes",
    "Recorded",
    "Recording",
    "in_plan_order",
    "open_recording",
    "read_recording",
    "some_episodes",
]


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
        read: begins to read: each episode, and the line that it stands in; None: it is in memory.
        origin: plain data on where they come from: ``env``, ``task_source``, ``policy``, ``path``,
            and for a selection its counts.
        held: they stand in memory, whether they are read or not.
        place: the run folder, or the file, that the lines stand in; None: they stand in none.
    """

    def __init__(
        self,
        read: Callable[[], Iterable[tuple[bytes | None, Trajectory]]],
        origin: dict[str, Any],
        held: bool = False,
        place: Path | None = None,
    ) -> None:
        self._read, self.origin, self.held, self.place = read, origin, held, place

    @classmethod
    def in_memory(
        cls, read: Callable[[], Iterable[Trajectory]], origin: dict[str, Any], held: bool = False
    ) -> Episodes:
        """Episodes that stand in no file; or in one that nobody reads here."""
        return cls(lambda: ((None, trajectory) for trajectory in read()), origin, held)

    def __iter__(self) -> Iterator[Trajectory]:
        return (trajectory for _, _, trajectory in self.with_lines())

    def with_lines(self) -> Iterator[tuple[Episodes, bytes | None, Trajectory]]:
        """Each with the source that it is read from, and the line that it stands in there."""
        return ((self, line, trajectory) for line, trajectory in self._read())


class _Several(Episodes):
    """Sources one after the other.

    Args:
        parts: the sources.
        origin: see `Episodes`.
        empty: what is wrong where they hold no episode; empty: nothing.
    """

    def __init__(self, parts: list[Episodes], origin: dict[str, Any], empty: str = "") -> None:
        super().__init__(tuple, origin, held=all(part.held for part in parts))
        self._parts, self._empty = parts, empty

    def with_lines(self) -> Iterator[tuple[Episodes, bytes | None, Trajectory]]:
        empty = True
        for found in chain.from_iterable(part.with_lines() for part in self._parts):
            empty = False
            yield found
        if empty and self._empty:
            raise BadInputError(self._empty)


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
    if isinstance(source, Episodes):
        return source
    if isinstance(source, str | Path):
        return _open_path(Path(source))
    if isinstance(source, Recorded):
        said = getattr(source, "provenance", None)
        origin = said() if said else dict(getattr(source, "settings", None) or {})
        if isinstance(source, Run):
            if source.path is not None:
                return Episodes(source.with_lines, origin, place=source.path)
            return Episodes.in_memory(source.__iter__, origin, held=True)
        return Episodes.in_memory(source.trajectories, origin)
    if not isinstance(source, Iterable):
        raise _wrong(source)
    items = list(source)
    if items and not any(isinstance(item, Trajectory) for item in items):
        return _together(items)
    for item in items:
        if not isinstance(item, Trajectory):
            raise _wrong(item)
    return Episodes.in_memory(lambda: items, {}, held=True)


def some_episodes(source: Recording) -> Episodes:
    """As `open_recording`, but where there is no episode reading them says so.

    Raises:
        MissingFileError: no such file or folder.
        BadInputError: something else than episodes. While they are read: there is none, or a broken
            line.
    """
    opened = open_recording(source)
    where = f" in {str(source)!r}" if isinstance(source, str | Path) else ""
    empty = f"no finished episode{where}: play some with toolgym.rollout first"
    return _Several([opened], opened.origin, empty)


def in_plan_order(source: Recording) -> Iterator[Trajectory]:
    """At least one episode; those of a finished run in the order of its plan.

    Raises:
        MissingFileError: no such file or folder.
        BadInputError: no episode, a broken line, or something else than episodes.
    """
    if isinstance(source, str | Path) and (Path(source) / SETTINGS).is_file():
        source = Run.open(source)
    if isinstance(source, Run) and len(source):
        return source.in_file_order()
    return iter(some_episodes(source))


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
    return _Several(parts, merged)


def _open_path(path: Path) -> Episodes:
    if str(path).startswith(SAMPLE):
        return open_recording(Run.open(path))
    folder = path if path.is_dir() else path.parent
    own = path.is_dir() or path.name in (TRAJECTORIES, TRAJECTORIES + SUFFIX)
    if own and (folder / SETTINGS).is_file():
        return open_recording(Run.open(folder))
    file = standing(path / TRAJECTORIES if path.is_dir() else path)
    if not file.exists() and path.suffix not in (".jsonl", SUFFIX):
        Run.open(path)  # raises, with the near names of what stands beside it
    require_file(file, "trajectory file")
    origin: dict[str, Any] = {}
    if (folder / SELECTION).is_file():
        summary = read_json(folder / SELECTION)
        origin = {**summary.pop("origin", {}), "selection": summary}
    elif (folder / SETTINGS).is_file():
        origin = Run.open(folder).provenance()
    return Episodes(lambda: with_lines(file), origin | {"path": str(file)}, place=file)
