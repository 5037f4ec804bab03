"""A run: the recorded episodes of one policy in one environment, as a folder or in memory."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from toolgym._util.jsonl import append_line, append_row, drop_torn_line, read_rows, write_json
from toolgym.errors import BadInputError, MissingFileError, RunMismatchError, did_you_mean
from toolgym.trajectory import Trajectory, read_trajectories

__all__ = ["Run", "RunWriter"]

SETTINGS, TRAJECTORIES, FAILURES = "run.json", "trajectories.jsonl", "failures.jsonl"


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
            raise MissingFileError(f"{str(folder)!r} holds no {SETTINGS}: it is no run folder")
        return cls(_read_settings(folder), folder)

    def trajectories(self) -> list[Trajectory]:
        """All finished episodes, ordered by task id and sample: the same order everywhere."""
        if self.path is None:
            found = list(self._recorded)
        elif (self.path / TRAJECTORIES).is_file():
            found = list(read_trajectories(self.path / TRAJECTORIES, torn=True))
        else:
            found = []
        return sorted(found, key=lambda trajectory: (trajectory.task.id, trajectory.sample))

    def failures(self) -> list[dict[str, Any]]:
        """Infrastructure failures of all attempts so far; those episodes are not scored."""
        if self.path is None:
            return list(self._failures)
        file = self.path / FAILURES
        if not file.is_file():
            return []
        return [row for _, row in read_rows(file, "failures file", torn=True)]

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self.trajectories())

    def __len__(self) -> int:
        return len(self.trajectories())

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
        self._lock: BinaryIO | None = None
        self.finished: set[str] = set()
        if run.path is None:
            return
        run.path.mkdir(parents=True, exist_ok=True)
        self._take_lock(run.path)
        try:
            self._begin(run.path)
        except BaseException:
            self.close()
            raise

    def _take_lock(self, folder: Path) -> None:
        self._lock = (folder / ".lock").open("wb")
        try:
            # The kernel drops the lock when the process dies, however it dies.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            self._lock = None
            raise RunMismatchError(
                f"another process is writing to {str(folder)!r}: wait for it, or use another folder"
            ) from error

    def _begin(self, folder: Path) -> None:
        if (folder / SETTINGS).is_file():
            _check_same(_read_settings(folder), self.run.settings, folder)
        write_json(folder / SETTINGS, self.run.settings)
        for name in (TRAJECTORIES, FAILURES):
            drop_torn_line(folder / name)
            self._streams[name] = (folder / name).open("ab", buffering=0)
        if self._streams[TRAJECTORIES].tell():
            self.finished = {row["id"] for _, row in read_rows(folder / TRAJECTORIES)}

    def add(self, trajectory: Trajectory) -> None:
        """Record a finished episode; once this returns, a kill does not lose it.

        Raises:
            BadInputError: the record cannot be held; nothing was written.
        """
        line = trajectory.to_line()
        if self.run.path is None:
            self.run._recorded.append(trajectory)
        else:
            append_line(self._streams[TRAJECTORIES], line)
        self.finished.add(trajectory.id)

    def fail(self, row: dict[str, Any]) -> None:
        """Record an infrastructure failure."""
        if self.run.path is None:
            self.run._failures.append(row)
        else:
            append_row(self._streams[FAILURES], row)

    def close(self) -> None:
        """Bring everything to disk and let others write."""
        for stream in self._streams.values():
            os.fsync(stream.fileno())
            stream.close()
        self._streams = {}
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInputError(f"{str(folder / SETTINGS)!r} is not valid JSON: {error}") from error
    if not isinstance(settings, dict):
        raise BadInputError(f"{str(folder / SETTINGS)!r} must hold a JSON object")
    return settings


# What may differ when a run is resumed: more episodes, and versions (recorded, not compared).
_MAY_DIFFER = ("episodes", "versions")


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    now = json.loads(json.dumps(now))
    for key in sorted(set(before) | set(now)):
        if key not in _MAY_DIFFER and before.get(key) != now.get(key):
            raise RunMismatchError(
                f"{str(folder)!r} was begun with {key} = {json.dumps(before.get(key))[:200]}, "
                f"now it is {json.dumps(now.get(key))[:200]}; choose another folder, or remove it"
            )
