"""Shards of one plan become one run, with the bytes of a run that was never cut."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from toolgym._util.frames import LineFile, is_packed
from toolgym._util.jsonl import read_json, write_json
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
    parts = _shards([run if isinstance(run, Run) else Run.open(run) for run in runs], folder)
    settings = _merged_settings(parts)
    sizes = _sizes(parts)
    lines = [_own_lines(part, partial) for part in parts]
    run = Run(settings, folder)
    with hold(folder, f"writing to {str(folder)!r}"):
        _require_room(run, lines)
        order = _order(parts, sizes, lines, settings.get("episodes"))
        write_json(folder / SETTINGS, settings)
        failures = [row for part in parts for row in part.failures()]
        places = {key_of(row["id"]): 0 for row in failures}
        places |= {key: n for n, key in enumerate(_across(parts, sizes)) if key in places}
        write_failures(folder, failures, lambda key: places[key])
        packed = all(is_packed(part.file) for part in parts) if compress is None else compress
        with contextlib.ExitStack() as held:
            files = [held.enter_context(LineFile(part.file)) for part in parts]
            found = (files[part].line(lines[part].at(row)[0]) for part, row in order)
            replace_lines(folder / TRAJECTORIES, found, packed)
        write_tools(folder, [part.path for part in parts if part.path is not None], packed)
    return run


def _order(
    parts: Sequence[Run], sizes: Sequence[int], lines: Sequence[Lines], episodes: Any
) -> Iterator[tuple[int, int]]:
    """Shard and line of each finished episode, in the plan's order.

    Raises:
        BadInputError: the plans do not fit together, or not the run.
    """
    hashes = array("q")
    rows = array("q")
    for place, key in enumerate(_across(parts, sizes)):
        hashes.append(hash(key))
        rows.append(lines[place % len(parts)].row(key))
    different = len(np.unique(np.frombuffer(hashes, np.int64))) if hashes else 0
    if different != len(hashes) or len(hashes) != episodes:
        raise BadInputError(
            f"the {len(parts)} shards plan {different} episodes in {len(hashes)} places, and the "
            f"run has {episodes}: a {PLAN} was changed"
        )
    return ((place % len(parts), row) for place, row in enumerate(rows) if row >= 0)


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


def _sizes(parts: Sequence[Run]) -> list[int]:
    """How many episodes each shard plans.

    Raises:
        BadInputError: the plans do not fit together.
    """
    sizes = [sum(1 for _ in planned(part)) for part in parts]
    for index, size in enumerate(sizes):
        own = len(range(index, sum(sizes), len(sizes)))
        if size != own:
            raise BadInputError(
                f"shard {index} of {len(sizes)} plans {size} of {sum(sizes)} episodes, not {own}: "
                f"a {PLAN} was changed"
            )
    return sizes


def _across(parts: Sequence[Run], sizes: Sequence[int]) -> Iterator[tuple[str, int]]:
    """The ids of all shards in the plan's order: the n-th job went to shard n modulo their number.

    Args:
        parts: the shards.
        sizes: of their plans, see `_sizes`.
    """
    plans = [planned(part) for part in parts]
    for place in range(sum(sizes)):
        yield next(plans[place % len(plans)])


def _own_lines(run: Run, partial: bool) -> Lines:
    """Where a shard's episodes stand; all of them, and no other."""
    lines = run.lines()
    own, total, missing = bytearray(len(lines)), 0, []
    for key in planned(run):
        row, total = lines.row(key), total + 1
        if row >= 0:
            own[row] = 1
        else:
            missing.append(key)
    if missing and not partial:
        raise BadInputError(
            f"{str(run.path)!r} has not finished {len(missing)} of {total} episodes, such as "
            f"'{missing[0][0]}#{missing[0][1]}': run its rollout again, or merge with partial "
            "(--partial)"
        )
    strange = own.find(0)
    if strange >= 0:
        task, sample = next(islice(lines, strange, None))
        raise BadInputError(
            f"{str(run.path)!r}, line {lines.at(strange)[1]}: episode '{task}#{sample}' is not one "
            "of this shard; remove the line"
        )
    return lines


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
