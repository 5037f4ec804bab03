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
from toolgym.trajectory import Trajectory, read_trajectories

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
    if isinstance(source, Episodes):
        return source
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
    return Episodes(
        lambda: chain.from_iterable(parts), merged, held=all(part.held for part in parts)
    )


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
    return Episodes(lambda: read_trajectories(file), origin | {"path": str(file)})
