"""The folder of a build: one file a stage, what was rejected, and the settings."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from toolgym._util.jsonl import (
    append_row,
    drop_torn_line,
    parse_line,
    read_rows,
    write_json,
    write_rows,
)
from toolgym.envs.toolscenario.compiler.making import MADE, Outcome
from toolgym.envs.toolscenario.records import STAGES
from toolgym.errors import BadInputError, RunMismatchError

__all__ = ["BuildFolder"]

SETTINGS, REJECTED = "build.json", "rejected.jsonl"
_MAY_DIFFER = ("count", "versions")


class BuildFolder:
    """The writing side of a build: one writer at a time, whole lines, safe against signal 9.

    Scenarios are added in the order of their questions. A scenario is finished when its line
    stands in ``verification.jsonl`` or ``rejected.jsonl``, which are written last; the lines of
    one that a kill cut short are taken up where they end.

    Args:
        path: the folder; made when it does not exist.
        settings: what decides the result.
        from_stage: run this stage and the later ones again, with these settings.

    Raises:
        RunMismatchError: begun with other settings, or being written right now.
        BadInputError: a broken file.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], from_stage: str | None) -> None:
        self.path = path
        self._streams: dict[str, BinaryIO] = {}
        self._places: dict[str, dict[str, int]] = {}
        path.mkdir(parents=True, exist_ok=True)
        self._lock: BinaryIO | None = self._take_lock()
        try:
            self._begin(settings, from_stage)
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> BinaryIO:
        stream = (self.path / ".lock").open("wb")
        try:
            # The kernel drops the lock when the process dies, however it dies.
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.close()
            raise RunMismatchError(
                f"another process is building in {str(self.path)!r}: wait for it, or use another "
                "--out"
            ) from error
        return stream

    def _begin(self, settings: Mapping[str, Any], from_stage: str | None) -> None:
        before = self._settings()
        if before is None and from_stage not in (None, STAGES[0]):
            raise BadInputError(
                f"{str(self.path)!r} holds no build whose stage {from_stage!r} could be run again"
            )
        if before is not None and from_stage is None:
            _check_same(before, settings, self.path)
        again = from_stage or (before or {}).get("again")
        if again is not None:  # said first, so that a kill in between is finished by the next run
            write_json(self.path / SETTINGS, {**settings, "again": again})
            self._forget(again)
        write_json(self.path / SETTINGS, settings)
        for name in (*STAGES, "rejected"):
            file = self._file(name)
            drop_torn_line(file)
            self._places[name] = dict(_places(file))
            self._streams[name] = file.open("ab", buffering=0)

    def _settings(self) -> dict[str, Any] | None:
        file = self.path / SETTINGS
        if not file.is_file():
            return None
        try:
            read = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadInputError(f"{str(file)!r} is not valid JSON: {error}") from error
        if not isinstance(read, dict):
            raise BadInputError(f"{str(file)!r} must hold a JSON object")
        return read

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.jsonl"

    def _forget(self, stage: str) -> None:
        later = STAGES[STAGES.index(stage) :]
        for name in later:
            self._file(name).unlink(missing_ok=True)
        self._file("verification").unlink(missing_ok=True)
        rejected = self._file("rejected")
        if rejected.is_file():
            drop_torn_line(rejected)
            kept = [row for _, row in read_rows(rejected) if row["stage"] not in later]
            write_rows(rejected, kept)

    def finished(self, name: str) -> bool | None:
        """Whether a question became a scenario (True), was rejected (False), or is open (None)."""
        if name in self._places["verification"]:
            return True
        return False if name in self._places["rejected"] else None

    def known(self, name: str) -> tuple[str, dict[str, Any]] | None:
        """The last stage that an open question has a row of, and that row."""
        last = None
        for stage in MADE:
            if name not in self._places[stage]:
                break
            last = stage
        return None if last is None else (last, self.row(last, name))

    def row(self, stage: str, name: str) -> dict[str, Any]:
        """The row of one scenario in the file of a stage, or in ``rejected``."""
        return parse_line(self._line(stage, name), self._file(stage), 2, "stage file")

    def _line(self, stage: str, name: str) -> bytes:
        with self._file(stage).open("rb") as stream:
            stream.seek(self._places[stage][name])
            return stream.readline()

    def add(self, outcome: Outcome, rejected: Mapping[str, Any] | None) -> None:
        """Record a finished question; once this returns, a kill does not lose it.

        Args:
            outcome: of all its stages.
            rejected: stage, reason and message, or None when the scenario passed.
        """
        for stage, row in outcome.made.items():
            self._append(stage, outcome.id, row)
        if rejected is None:
            self._append("verification", outcome.id, {"id": outcome.id, **outcome.facts})
            return
        last = self.known(outcome.id)
        record = {} if last is None else {"record": last[1]}
        self._append("rejected", outcome.id, {"id": outcome.id, **rejected, **record})

    def _append(self, name: str, key: str, row: Mapping[str, Any]) -> None:
        stream = self._streams[name]
        self._places[name][key] = stream.tell()
        append_row(stream, row)

    def rejections(self) -> Iterator[dict[str, Any]]:
        """The rows of what was rejected, in order."""
        return (row for _, row in read_rows(self._file("rejected")))

    def publish(self, out: Path, count: int) -> int:
        """Write the finished scenarios to one file, atomically.

        Args:
            out: the file.
            count: at most so many, the first ones.

        Returns:
            How many there are.
        """
        partial = out.with_name(out.name + ".partial")
        names = list(self._places["verification"])[:count]
        with partial.open("wb") as target, self._file("deployment").open("rb") as source:
            for name in names:
                source.seek(self._places["deployment"][name])
                target.write(source.readline())
            target.flush()
            os.fsync(target.fileno())
        partial.replace(out)
        return len(names)

    def close(self) -> None:
        """Bring everything to disk and let others write."""
        for stream in self._streams.values():
            os.fsync(stream.fileno())
            stream.close()
        self._streams = {}
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _places(file: Path) -> Iterator[tuple[str, int]]:
    """Ids of a file's rows, and where they begin."""
    if not file.is_file():
        return
    position = 0
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            row = parse_line(raw, file, number, "stage file")
            yield str(row.get("id")), position
            position += len(raw)


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    now = json.loads(json.dumps(now))
    for key in sorted((set(before) | set(now)) - {"again"}):
        if key not in _MAY_DIFFER and before.get(key) != now.get(key):
            raise RunMismatchError(
                f"{str(folder)!r} was begun with {key} = {json.dumps(before.get(key))[:200]}, "
                f"now it is {json.dumps(now.get(key))[:200]}; choose another --out, remove the "
                "folder, or name the stage from which to run again (--from-stage)"
            )
