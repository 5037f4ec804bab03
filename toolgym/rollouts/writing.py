"""Run folders are written: one writer at a time, whole lines, in the end in the plan's order."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from toolgym._util.frames import SUFFIX, LineFile, is_packed, standing
from toolgym._util.jsonl import (
    append_line,
    append_row,
    appending,
    check_json,
    exact_line,
    parse_line,
    read_json,
    read_lines,
    write_json,
    write_raw,
    write_rows,
)
from toolgym._util.workfolder import hold, same_settings
from toolgym.errors import BadInputError
from toolgym.rollouts.lines import Lines, key_of
from toolgym.rollouts.runs import FAILURES, MAY_DIFFER, SETTINGS, TRAJECTORIES, Run
from toolgym.sequential.until import Decided
from toolgym.trajectory import TOOLS, Documents, Trajectory

__all__ = ["PLAN", "RunWriter", "planned", "replace_lines", "write_failures", "write_tools"]

PLAN = "plan.jsonl"
"""The ids of a shard's episodes in the plan's order; only shards have it, for `merge`."""


class RunWriter:
    """The writing side of a run: one writer at a time, whole lines, safe against signal 9.

    The documents of tools are written before the first episode that refers to them.

    Args:
        run: where to write; its folder is made when it does not exist.
        compress: with zstd; None: as the folder is, a new one is not.

    Raises:
        RunMismatchError: the folder was begun with other settings, or is being written right now.
        MissingExtraError: zstandard is needed and not installed.
    """

    def __init__(self, run: Run, compress: bool | None = None) -> None:
        self.run, self._compress = run, compress
        self._streams: dict[str, BinaryIO] = {}
        self._held = contextlib.ExitStack()
        self._known: set[int] = set()
        self._last = "", ""
        self.before, self.finished, self._added = Lines(), 0, 0
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
            same_settings(folder, before, now, free=MAY_DIFFER)
        self.before = Run(before, folder).checked_lines()
        self.finished = len(self.before)
        # A run that is resumed with fewer episodes keeps what it has.
        planned = [found for each in (before, now) if (found := each.get("episodes"))]
        now |= {"episodes": max(planned)} if planned else {}
        write_json(folder / SETTINGS, self.run.settings)
        self._known = Documents(folder).known()
        for name in (TOOLS, TRAJECTORIES, FAILURES):
            file = standing(folder / name)
            fresh = not file.exists() or not file.stat().st_size
            if fresh and self._compress and name != FAILURES:
                file.unlink(missing_ok=True)
                file = folder / (name + SUFFIX)
            self._streams[name] = held.enter_context(appending(file))

    def keep_plan(self, keys: Iterable[str], count: int) -> None:
        """Write down which episodes a shard has; `merge` needs them.

        Args:
            keys: their ids in the plan's order. Of a longer plan that stands there they are the
                beginning, and it stays.
            count: how many.
        """
        if self.run.path is None:
            return
        file = self.run.path / PLAN
        if not file.is_file() or sum(1 for _ in planned(self.run)) < count:
            write_rows(file, ({"id": key} for key in keys))

    def add(self, trajectory: Trajectory) -> None:
        """Record a finished episode; once this returns, a kill does not lose it.

        Raises:
            BadInputError: the record cannot be held; nothing was written.
        """
        if self.run.path is None:
            check_json(trajectory.to_row())
            self.run._recorded.append(trajectory)
        else:
            text = Documents.text_of(trajectory.tools)
            name = self._last[1] if text == self._last[0] else Documents.name_of(text)
            line, self._last = trajectory.to_line(name), (text, name)
            if Documents.key_of(name) not in self._known:
                self._add_tools(name, exact_line({"id": name, "tools": trajectory.tools}))
            append_line(self._streams[TRAJECTORIES], line)
        self._count()

    def _add_tools(self, name: str, line: str) -> None:
        key = Documents.key_of(name)
        if key not in self._known:
            append_line(self._streams[TOOLS], line)
            self._known.add(key)

    def _count(self) -> None:
        self.finished += 1
        self._added += 1

    def add_lines(self, lines: Iterable[str], tools: Mapping[str, str]) -> None:
        """As `add`, for episodes that were played elsewhere.

        Args:
            lines: of `Trajectory.to_line`.
            tools: the lines of the documents that they refer to, by name.
        """
        for name, line in tools.items():
            if self.run.path is not None:
                self._add_tools(name, line)
        for line in lines:
            if self.run.path is None:
                row = json.loads(line)
                row["tools"] = json.loads(tools[row["tools"]])["tools"]
                self.run._recorded.append(Trajectory.from_row(row))
            else:
                append_line(self._streams[TRAJECTORIES], line)
            self._count()

    def fail(self, row: dict[str, Any]) -> None:
        """Record an infrastructure failure."""
        if self.run.path is None:
            self.run._failures.append(row)
        else:
            append_row(self._streams[FAILURES], row)

    def settle(
        self, rank: Callable[[tuple[str, int]], int], decided: Decided | None = None
    ) -> None:
        """Put what was recorded into the plan's order: the same bytes however it was played.

        Nothing can be recorded after it. A kill in the middle leaves the old order.

        Args:
            rank: the place of a task id and sample in the plan; what is not in it stays at the end.
            decided: what the run has found of its figure; where that was enough, only the episodes
                that it took are part of the run.
        """
        self._streams.clear()
        if decided is not None and decided.reached:
            self._drop(lambda key: key is None or rank(key) < decided.episodes)
        if decided is not None:
            self._tell({"decided": decided.to_dict()})
        if self.run.path is None:
            self.run._recorded.sort(key=lambda each: rank((each.task.id, each.sample)))
            return
        file, lines = self.run.file, self.run.lines()
        ranks = np.fromiter(map(rank, lines), np.int64, len(lines))
        order = array("q", np.argsort(ranks, kind="stable").tobytes())
        packed = is_packed(file) if self._compress is None else self._compress
        same = packed == is_packed(file) and not (packed and self._added)
        if not same or bool((np.diff(ranks) < 0).any()):
            with LineFile(file) as source:
                found = (source.line(lines.at(row)[0]) for row in order)
                replace_lines(self.run.path / TRAJECTORIES, found, packed)
        documents = Documents(self.run.path)
        if packed != is_packed(documents.file) or not documents.in_order():
            write_tools(self.run.path, [self.run.path], packed)
        write_failures(self.run.path, self.run.failures(), rank)

    def _drop(self, wanted: Callable[[tuple[str, int] | None], bool]) -> None:
        """Leave out episodes that are no part of the run, and tools that only they had."""
        run = self.run
        failures = [row for row in run.failures() if wanted(key_of(row.get("id")))]
        if run.path is None:
            run._recorded[:] = [each for each in run._recorded if wanted(key_of(each.id))]
            run._failures[:] = failures
            return
        write_rows(run.path / FAILURES, failures)
        file, lines = run.file, run.lines()
        kept = array("q", (row for row, key in enumerate(lines) if wanted(key)))
        if len(kept) == len(lines):
            return
        with LineFile(file) as source:
            found = (source.line(lines.at(row)[0]) for row in kept)
            replace_lines(run.path / TRAJECTORIES, found, is_packed(file))
        named = {
            parse_line(raw, file, n, "trajectory file").get("tools")
            for n, _, raw in read_lines(run.file, "trajectory file")
        }
        documents = Documents(run.path)
        packed = is_packed(documents.file)
        tools = (raw for raw in Documents.merged([documents]) if json.loads(raw)["id"] in named)
        replace_lines(run.path / TOOLS, tools, packed)
        documents.close()

    def _tell(self, facts: Mapping[str, Any]) -> None:
        """Write down what the run has found out about itself."""
        self.run.settings |= facts
        if self.run.path is not None:
            write_json(self.run.path / SETTINGS, self.run.settings)

    def close(self) -> None:
        """Bring everything to disk and let others write."""
        self._held.close()


def replace_lines(target: Path, lines: Iterable[bytes], packed: bool) -> None:
    """Write a file of lines, compressed or not, in place of the one that is there."""
    other = target.with_name(target.name + SUFFIX)
    write_raw(other if packed else target, lines)
    (target if packed else other).unlink(missing_ok=True)


def write_tools(folder: Path, parts: Sequence[Path], packed: bool) -> None:
    """Write the documents of all parts, each list once, in an order that nothing else decides."""
    found = [Documents(part) for part in parts]
    replace_lines(folder / TOOLS, Documents.merged(found), packed)
    for part in found:
        part.close()


def write_failures(
    folder: Path, rows: list[dict[str, Any]], rank: Callable[[tuple[str, int]], int]
) -> None:
    """Write failures in the plan's order, those of one episode as they happened."""

    def place(row: dict[str, Any]) -> int:
        key = key_of(row.get("id"))
        return sys.maxsize if key is None else rank(key)

    order = sorted(rows, key=place)
    if order != rows or not (folder / FAILURES).is_file():
        write_rows(folder / FAILURES, order)


def planned(run: Run) -> Iterator[tuple[str, int]]:
    """Task id and sample of a shard's episodes, in the plan's order."""
    file, what = Path(run.path or "") / PLAN, "plan of a shard"
    for number, _, raw in read_lines(file, what, torn=True):
        plain = _PLANNED.match(raw)
        if plain:
            yield plain[1].decode("ascii"), int(plain[2])
            continue
        row = parse_line(raw, file, number, what)
        key = key_of(row.get("id"))
        if key is None:
            raise BadInputError(
                f"{str(file)!r}, line {number}: an id is 'task#sample', not {row.get('id')!r}"
            )
        yield key


# Most lines need not be parsed, which matters to a plan of a million.
_PLANNED = re.compile(rb'\{"id": "([ !$-\[\]-~]*)#(\d{1,9})"\}')
