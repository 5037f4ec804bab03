"""Run folders are written: one writer at a time, whole lines, in the end in the plan's order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from toolgym._util.jsonl import (
    append_line,
    append_row,
    appending,
    check_json,
    read_json,
    read_rows,
    write_json,
    write_rows,
)
from toolgym._util.workfolder import hold, publish, same_settings
from toolgym.errors import BadInputError, MissingFileError, RunMismatchError
from toolgym.rollouts.runs import FAILURES, SETTINGS, TRAJECTORIES, Lines, Run, key_of
from toolgym.trajectory import Trajectory

__all__ = ["PLAN", "RunWriter", "merge"]

PLAN = "plan.jsonl"
"""The ids of a shard's episodes in the plan's order; only shards have it, for `merge`."""


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

    def keep_plan(self, keys: Sequence[str]) -> None:
        """Write down which episodes a shard has; `merge` needs them.

        Args:
            keys: their ids in the plan's order. Of a longer plan that stands there they are the
                beginning, and it stays.
        """
        if self.run.path is None:
            return
        file = self.run.path / PLAN
        if not file.is_file() or len(_planned(self.run)) < len(keys):
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
            append_line(self._streams[TRAJECTORIES], trajectory.to_line())
        self.finished.add(trajectory.id)

    def add_line(self, line: str) -> None:
        """As `add`, for an episode that was played elsewhere.

        Args:
            line: of `Trajectory.to_line`.
        """
        row = json.loads(line)
        if self.run.path is None:
            self.run._recorded.append(Trajectory.from_row(row))
        else:
            append_line(self._streams[TRAJECTORIES], line)
        self.finished.add(row["id"])

    def fail(self, row: dict[str, Any]) -> None:
        """Record an infrastructure failure."""
        if self.run.path is None:
            self.run._failures.append(row)
        else:
            append_row(self._streams[FAILURES], row)

    def settle(self, keys: Sequence[str]) -> None:
        """Put what was recorded into the plan's order: the same bytes however it was played.

        Nothing can be recorded after it. A kill in the middle leaves the old order.

        Args:
            keys: all ids of the plan, in its order; what is not among them stays at the end.
        """
        self._streams.clear()
        if self.run.path is None:
            return
        lines, rank = self.run.lines(), {key: place for place, key in enumerate(keys)}
        standing = list(lines)
        order = sorted(standing, key=lambda key: rank.get(f"{key[0]}#{key[1]}", len(rank)))
        if order != standing:
            file = self.run.path / TRAJECTORIES
            _write_lines(file, ((file, lines[key][0]) for key in order))
        _write_failures(self.run.path, self.run.failures(), rank)

    def close(self) -> None:
        """Bring everything to disk and let others write."""
        self._held.close()


# What may differ when a run is resumed: more episodes, and versions (recorded, not compared).
_MAY_DIFFER = ("episodes", "versions", "shard_versions")


def _write_lines(target: Path, places: Iterable[tuple[Path, int]]) -> None:
    """Write a file of lines that stand in others, atomically.

    Args:
        target: the file.
        places: file and position in bytes of each line.
    """
    with publish(target) as partial, partial.open("wb") as stream:
        source, name = None, None
        try:
            for path, position in places:
                if source is None or path != name:
                    if source is not None:  # as many files as there are shards may be too many
                        source.close()
                    source, name = path.open("rb"), path
                source.seek(position)
                stream.write(source.readline())
        finally:
            if source is not None:
                source.close()


def _write_failures(folder: Path, rows: list[dict[str, Any]], rank: dict[str, int]) -> None:
    """Write failures in the plan's order, those of one episode as they happened."""
    order = sorted(rows, key=lambda row: rank.get(row["id"], len(rank)))
    if order != rows or not (folder / FAILURES).is_file():
        write_rows(folder / FAILURES, order)


def merge(runs: Sequence[Run | str | Path], out: str | Path, *, partial: bool = False) -> Run:
    """Make one run of the shards of a plan: the same bytes as of a run that was never cut.

    A merge that was killed is begun again, and shards that were gone on with can be merged into the
    same folder again.

    Args:
        runs: the folders of all shards of one plan, in any order; see `toolgym.rollout`.
        out: the folder of the run.
        partial: also where episodes are missing; a rollout into ``out`` plays those.

    Returns:
        The run.

    Raises:
        RunMismatchError: shards of other settings, or a folder that holds another run.
        BadInputError: a shard is missing, stands there twice, or has not all of its episodes.
        MissingFileError: a folder does not hold a shard.
    """
    folder = Path(out)
    parts = _shards([run if isinstance(run, Run) else Run.open(run) for run in runs], folder)
    settings = _merged_settings(parts)
    plans = [_planned(part) for part in parts]
    keys = list(_across(plans))
    lines = [_own_lines(part, plan, partial) for part, plan in zip(parts, plans, strict=True)]
    rank = {key: place for place, key in enumerate(keys)}
    if len(rank) != len(keys) or len(keys) != settings.get("episodes"):
        raise BadInputError(
            f"the {len(parts)} shards plan {len(rank)} episodes in {len(keys)} places, and the run "
            f"has {settings.get('episodes')}: a {PLAN} was changed"
        )
    run = Run(settings, folder)
    with hold(folder, f"writing to {str(folder)!r}"):
        _require_room(run, lines)
        write_json(folder / SETTINGS, settings)
        failures = [row for part in parts for row in part.failures()]
        _write_failures(folder, failures, rank)
        _write_lines(folder / TRAJECTORIES, _places(parts, lines, keys))
    return run


def _places(
    parts: Sequence[Run], lines: Sequence[Lines], keys: Iterable[str]
) -> Iterator[tuple[Path, int]]:
    """File and position of each finished episode, in the plan's order."""
    files = [Path(part.path or "") / TRAJECTORIES for part in parts]
    for place, name in enumerate(keys):
        shard, key = place % len(parts), key_of(name)
        if key is not None and key in lines[shard]:
            yield files[shard], lines[shard][key][0]


def _shards(runs: Sequence[Run], out: Path) -> list[Run]:
    """The shards in their order, each once and none missing."""
    found: dict[int, Run] = {}
    for run in runs:
        shard = run.settings.get("shard")
        if shard is None or run.path is None or not (run.path / PLAN).is_file():
            raise MissingFileError(
                f"{run} is not a shard of a run: `merge` takes folders of `rollout --shard`"
            )
        if run.path.resolve() == out.resolve():
            raise BadInputError(f"{str(out)!r} is one of the shards: name another folder")
        index, count = shard
        twin = found.setdefault(index, run)
        if twin is not run:
            raise BadInputError(
                f"{str(twin.path)!r} and {str(run.path)!r} are both shard {index}/{count}"
            )
    if not found:
        raise BadInputError("merge needs the folders of all shards of a run, and none is named")
    count = next(iter(found.values())).settings["shard"][1]
    parts = [found[index] for index in sorted(found)]
    for part in parts:
        if part.settings["shard"][1] != count:
            raise BadInputError(
                f"{str(part.path)!r} is one of {part.settings['shard'][1]} shards and "
                f"{str(parts[0].path)!r} one of {count}: they are not of one plan"
            )
    missing = [f"{index}/{count}" for index in range(count) if index not in found]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise BadInputError(
            f"{len(missing)} of {count} shards are not named: {', '.join(missing[:3])}{more}"
        )
    return parts


def _merged_settings(parts: Sequence[Run]) -> dict[str, Any]:
    """What ``run.json`` would have said without shards; versions that differ are told beside it."""
    first, versions = parts[0].settings, {}
    for part in parts[1:]:
        then = f"it is no shard of the plan of {str(parts[0].path)!r}: play it again like that one"
        free = ("shard", "versions")
        same_settings(str(part.path), part.settings, first, free=free, then=then)
        if part.settings.get("versions") != first.get("versions"):
            versions["/".join(map(str, part.settings["shard"]))] = part.settings.get("versions")
    settings = {name: value for name, value in first.items() if name != "shard"}
    return settings | ({"shard_versions": versions} if versions else {})


def _planned(run: Run) -> list[str]:
    file = Path(run.path or "") / PLAN
    return [str(row.get("id")) for _, row in read_rows(file, "plan of a shard", torn=True)]


def _across(plans: Sequence[list[str]]) -> Iterator[str]:
    """The ids of all shards in the plan's order: the n-th job went to shard n modulo their number.

    Raises:
        BadInputError: the plans do not fit together.
    """
    total = sum(map(len, plans))
    for index, plan in enumerate(plans):
        if len(plan) != len(range(index, total, len(plans))):
            raise BadInputError(
                f"shard {index} of {len(plans)} plans {len(plan)} of {total} episodes, not "
                f"{len(range(index, total, len(plans)))}: a {PLAN} was changed"
            )
    for row in range(len(plans[0])):
        yield from (plan[row] for plan in plans if row < len(plan))


def _own_lines(run: Run, plan: Sequence[str], partial: bool) -> Lines:
    """Where a shard's episodes stand; all of them, and no other."""
    lines, own = run.lines(), {key_of(key) for key in plan}
    missing = [key for key in plan if key_of(key) not in lines]
    if missing and not partial:
        raise BadInputError(
            f"{str(run.path)!r} has not finished {len(missing)} of {len(plan)} episodes, such as "
            f"{missing[0]!r}: run its rollout again, or merge with partial (--partial)"
        )
    strange = next((key for key in lines if key not in own), None)
    if strange is not None:
        raise BadInputError(
            f"{str(run.path)!r}, line {lines[strange][1]}: episode '{strange[0]}#{strange[1]}' is "
            "not one of this shard; remove the line"
        )
    return lines


def _require_room(run: Run, lines: Sequence[Lines]) -> None:
    """Refuse a folder that holds what a merge would lose."""
    folder = Path(run.path or "")
    if not (folder / SETTINGS).is_file():
        if (folder / TRAJECTORIES).exists():
            raise RunMismatchError(f"{str(folder)!r} holds other episodes: name another folder")
        return
    before = read_json(folder / SETTINGS)
    same_settings(folder, before, run.settings, free=("versions", "shard_versions"))
    for key in Run(before, folder).lines():
        if not any(key in found for found in lines):
            raise RunMismatchError(
                f"{str(folder)!r} has an episode '{key[0]}#{key[1]}' that no shard has finished: "
                "name another folder"
            )
