"""Shards of one plan become one run, with the bytes of a run that was never cut."""

from __future__ import annotations

import contextlib
import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from toolgym._util.frames import LineFile, is_packed
from toolgym._util.jsonl import read_json, write_json
from toolgym._util.kinds import require_each
from toolgym._util.workfolder import hold, same_settings
from toolgym.errors import BadInputError, MissingFileError, RunMismatchError
from toolgym.rollouts.lines import Lines, key_of
from toolgym.rollouts.runs import SETTINGS, TRAJECTORIES, Run
from toolgym.rollouts.writing import PLAN, planned, replace_lines, write_failures, write_tools

__all__ = ["merge"]


def merge(
    runs: Sequence[Run | str | Path],
    out: str | Path,
    *,
    partial: bool = False,
    compress: bool | None = None,
) -> Run:
    """Make one run of the shards of a plan: the same bytes as of a run that was never cut.

    A merge that was killed is begun again, and shards that were gone on with can be merged into the
    same folder again.

    Args:
        runs: the folders of all shards of one plan, in any order; see `toolgym.rollout`.
        out: the folder of the run.
        partial: also where episodes are missing; a rollout into ``out`` plays those.
        compress: with zstd; None: where all shards are.

    Returns:
        The run.

    Raises:
        RunMismatchError: shards of other settings, or a folder that holds another run.
        BadInputError: a shard is missing, stands there twice, or has not all of its episodes.
        MissingFileError: a folder does not hold a shard.
    """
    folder = Path(out)
    named = require_each(runs, (Run, str, Path), "shards are a list of runs or their folders")
    parts = _shards([run if isinstance(run, Run) else Run.open(run) for run in named], folder)
    settings = _merged_settings(parts)
    plans = [_Plan(part) for part in parts]
    _require_fitting(plans)
    for plan in plans:
        plan.require_own(partial)
    _require_whole(plans, settings.get("episodes"))
    run = Run(settings, folder)
    with hold(folder, f"writing to {str(folder)!r}"):
        _require_room(run, [plan.lines for plan in plans])
        write_json(folder / SETTINGS, settings)
        failures = [row for plan in plans for row in plan.failures]
        places = {
            key: len(plans) * place + shard
            for shard, plan in enumerate(plans)
            for key, place in plan.failed.items()
        }
        write_failures(folder, failures, lambda key: places.get(key, sys.maxsize))
        packed = all(is_packed(part.file) for part in parts) if compress is None else compress
        with contextlib.ExitStack() as held:
            files = [held.enter_context(LineFile(part.file)) for part in parts]
            found = (files[part].line(plans[part].lines.at(row)[0]) for part, row in _order(plans))
            replace_lines(folder / TRAJECTORIES, found, packed)
        write_tools(folder, [part.path for part in parts if part.path is not None], packed)
    return run


class _Plan:
    """What a shard was to play, and where it stands: 24 bytes an episode beside its lines.

    Args:
        run: the shard.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.lines, self.failures = run, run.lines(), run.failures()
        self.rows, self.hashes = array("q"), array("q")
        self.failed: dict[tuple[str, int] | None, int] = {
            key_of(row["id"]): sys.maxsize for row in self.failures
        }
        self._missing, self._example = 0, ("", 0)
        for place, key in enumerate(planned(run)):
            row = self.lines.row(key)
            self.rows.append(row)
            self.hashes.append(hash(key))
            if row < 0:
                self._example = key if not self._missing else self._example
                self._missing += 1
            if key in self.failed:
                self.failed[key] = place

    def require_own(self, partial: bool) -> None:
        """Refuse a shard that lacks episodes, or has others."""
        task, sample = self._example
        if self._missing and not partial:
            raise BadInputError(
                f"{str(self.run.path)!r} has not finished {self._missing} of {len(self.rows)} "
                f"episodes, such as '{task}#{sample}': run its rollout again, or merge with "
                "partial (--partial)"
            )
        strange = bytearray(b"\1") * len(self.lines)
        for row in self.rows:
            if row >= 0:
                strange[row] = 0
        found = strange.find(1)
        if found >= 0:
            task, sample = next(islice(self.lines, found, None))
            raise BadInputError(
                f"{str(self.run.path)!r}, line {self.lines.at(found)[1]}: episode "
                f"'{task}#{sample}' is not one of this shard; remove the line"
            )


def _require_fitting(plans: Sequence[_Plan]) -> None:
    """Refuse plans that do not fit together."""
    sizes = [len(plan.rows) for plan in plans]
    for index, size in enumerate(sizes):
        own = len(range(index, sum(sizes), len(sizes)))
        if size != own:
            raise BadInputError(
                f"shard {index} of {len(sizes)} plans {size} of {sum(sizes)} episodes, not {own}: "
                f"a {PLAN} was changed"
            )


def _require_whole(plans: Sequence[_Plan], episodes: Any) -> None:
    """Refuse plans that are not those of the run."""
    hashes = np.concatenate([np.array(plan.hashes, np.int64) for plan in plans])
    different = len(np.unique(hashes))
    if different != len(hashes) or len(hashes) != episodes:
        raise BadInputError(
            f"the {len(plans)} shards plan {different} episodes in {len(hashes)} places, and the "
            f"run has {episodes}: a {PLAN} was changed"
        )


def _order(plans: Sequence[_Plan]) -> Iterator[tuple[int, int]]:
    """Shard and line of each finished episode, in the plan's order.

    The n-th job went to shard n modulo their number.
    """
    for place in range(sum(len(plan.rows) for plan in plans)):
        shard = place % len(plans)
        row = plans[shard].rows[place // len(plans)]
        if row >= 0:
            yield shard, row


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


def _require_room(run: Run, lines: Sequence[Lines]) -> None:
    """Refuse a folder that holds what a merge would lose."""
    folder = Path(run.path or "")
    if not (folder / SETTINGS).is_file():
        if run.file.exists():
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
