"""The folder of a build: one file a stage, what was rejected, and the settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from toolgym._util.jsonl import (
    append_row,
    appending,
    drop_torn_line,
    parse_line,
    read_json,
    read_lines,
    read_rows,
    row_at,
    write_json,
    write_rows,
)
from toolgym._util.workfolder import hold, publish, same_settings
from toolgym.envs.toolscenario.compiler.making import MADE, Outcome
from toolgym.envs.toolscenario.records import STAGES
from toolgym.errors import BadInputError

__all__ = ["BuildFolder"]

SETTINGS, REJECTED = "build.json", "rejected.jsonl"
_MAY_DIFFER = ("count", "versions", "again")


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
        with contextlib.ExitStack() as held:
            doing = f"building in {str(path)!r}"
            held.enter_context(hold(path, doing, "wait for it, or use another --out"))
            self._begin(settings, from_stage, held)
            self._held = held.pop_all()

    def _begin(
        self, settings: Mapping[str, Any], from_stage: str | None, held: contextlib.ExitStack
    ) -> None:
        file = self.path / SETTINGS
        before = read_json(file) if file.is_file() else None
        if before is None and from_stage not in (None, STAGES[0]):
            raise BadInputError(
                f"{str(self.path)!r} holds no build whose stage {from_stage!r} could be run again"
            )
        if before is not None and from_stage is None:
            then = (
                "choose another --out, remove the folder, or name the stage from which to run "
                "again (--from-stage)"
            )
            same_settings(self.path, before, settings, free=_MAY_DIFFER, then=then)
        again = from_stage or (before or {}).get("again")
        if again is not None:  # said first, so that a kill in between is finished by the next run
            write_json(self.path / SETTINGS, {**settings, "again": again})
            self._forget(again)
        write_json(self.path / SETTINGS, settings)
        for name in (*STAGES, "rejected"):
            file = self._file(name)
            self._streams[name] = held.enter_context(appending(file))
            self._places[name] = {
                str(parse_line(raw, file, number, "stage file").get("id")): position
                for number, position, raw in read_lines(file)
            }

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
        return row_at(self._file(stage), self._places[stage][name], "stage file")

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
        names = list(self._places["verification"])[:count]
        with (
            publish(out) as partial,
            partial.open("wb") as target,
            self._file("deployment").open("rb") as source,
        ):
            for name in names:
                source.seek(self._places["deployment"][name])
                target.write(source.readline())
        return len(names)

    def close(self) -> None:
        """Bring everything to disk and let others write."""
        self._held.close()
