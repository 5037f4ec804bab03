"""Runs, as folders or in memory."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

from toolgym._util.frames import LineFile, standing
from toolgym._util.jsonl import read_json, read_lines, read_rows
from toolgym._util.kinds import require
from toolgym._util.notebook import fragment
from toolgym.errors import BadInputError, MissingFileError, did_you_mean
from toolgym.rollouts.lines import Lines, key_of, refuse
from toolgym.rollouts.parts import Ordered
from toolgym.trajectory import Documents, Trajectory, parse_trajectory, read_trajectories

__all__ = ["SELECTION", "Lines", "Run", "episode_seed", "key_of"]

SETTINGS, TRAJECTORIES, FAILURES = "run.json", "trajectories.jsonl", "failures.jsonl"
MAY_DIFFER = ("episodes", "versions", "shard_versions", "decided")
"""Settings of a run that is resumed: it may get more episodes; versions are recorded only."""
SELECTION = "selection.json"
SAMPLE = "sample:"
"""Before the name of a bundled run, see `toolgym.sample_run`."""


class Run(Ordered):
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
        require(settings, Mapping, "settings of a run are by name (Run.open opens a folder)")
        self.settings, self.path = dict(settings), path
        self._recorded = recorded if recorded is not None else []
        self._failures: list[dict[str, Any]] = []
        self._kept: tuple[Any, Lines, array[int]] = None, Lines(), array("q")

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run folder, or a bundled run by ``sample:NAME``.

        Raises:
            MissingFileError: no such folder, or it holds no run.
            BadInputError: ``run.json`` cannot be read.
            UnknownNameError: no bundled run has that name.
        """
        if str(path).startswith(SAMPLE):
            from toolgym.rollouts.samples import sample_run

            return sample_run(str(path).removeprefix(SAMPLE))
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

    @property
    def planned(self) -> int:
        """How many episodes the run is to have; of a shard, how many of them are its own.

        A run that was decided has those that decided it.
        """
        decided = self.settings.get("decided") or {}
        if decided.get("reached"):
            return int(decided["episodes"])
        index, count = self.settings.get("shard") or (0, 1)
        return len(range(index, self.settings.get("episodes", 0), count))

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
            return iter(sorted(self._recorded, key=lambda t: (t.task.id, t.sample)))
        return (trajectory for _, trajectory in self.with_lines())

    def with_lines(self) -> Iterator[tuple[bytes, Trajectory]]:
        """As `__iter__` of a run in a folder, each with the line that it stands in.

        Raises:
            BadInputError: see `__iter__`; or the run is in memory.
        """
        file = self.file
        if not file.is_file():
            return
        with LineFile(file) as lines:
            found = self.lines()
            if not os.path.samestat(os.fstat(lines.stream.fileno()), file.stat()):
                yield from self.with_lines()  # its writer has put it into the plan's order just now
                return
            documents = Documents(file.parent)
            for position, number in found.in_order():
                raw = lines.line(position)
                yield raw, self._read(raw, file, number, documents)

    def in_file_order(self) -> Iterator[Trajectory]:
        """The finished episodes as they stand in the file: of a finished run, in the plan's order.

        Raises:
            BadInputError: see `__iter__`.
        """
        if self.path is None:
            yield from list(self._recorded)
        elif self.file.is_file():
            yield from read_trajectories(self.file, torn=True)

    def at(self, places: Iterable[int]) -> Iterator[Trajectory]:
        """The episodes at these places of the order of `trajectories`, read one at a time."""
        if self.path is None:
            ordered = list(self)
            yield from (ordered[place] for place in places)
            return
        (_, order), file, documents = self._index(), self.file, Documents(self.path)
        with LineFile(file) as lines:
            for place in places:
                position, number = order[2 * place : 2 * place + 2]
                yield self._read(lines.line(position), file, number, documents)

    def _index(self) -> tuple[Lines, array[int]]:
        """The lines, and the position and number of each in the order of `trajectories`.

        They are kept until the file is another: of a million episodes they take 70 MB.
        """
        found = self.file.stat() if self.file.is_file() else None
        mark = found and (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._kept[0] != mark or mark is None:
            lines = self.lines()
            self._kept = mark, lines, array("q", chain.from_iterable(lines.in_order()))
        return self._kept[1:]

    def place_of(self, name: str) -> int:
        """Where an episode stands in the order of `trajectories`, by its id; -1: nowhere."""
        key = key_of(name)
        if self.path is None or key is None:
            return super().place_of(name)
        lines, order = self._index()
        row = lines.row(key)
        return order[0::2].index(lines.at(row)[0]) if row >= 0 else -1

    def _read(self, raw: bytes, file: Path, number: int, documents: Documents) -> Trajectory:
        """An episode of the run from its line."""
        trajectory = parse_trajectory(raw, file, number, documents)
        self._require_own(trajectory, file, number)
        return trajectory

    @property
    def file(self) -> Path:
        """Of the trajectories, in the run's folder; it may be compressed (``.zst``).

        Raises:
            BadInputError: a run in memory has none.
        """
        if self.path is None:
            raise BadInputError("a run in memory has no file: give rollout an `out`")
        return standing(self.path / TRAJECTORIES)

    def __len__(self) -> int:
        return len(self._recorded if self.path is None else self._index()[0])

    def lines(self) -> Lines:
        """Where the episodes stand in the folder's file, by task id and sample.

        Raises:
            BadInputError: see `Lines`.
        """
        if self.path is None or not self.file.is_file():
            return Lines()
        planned = self.settings.get("episodes")
        return Lines(self.file, planned if isinstance(planned, int) else None)

    def checked_lines(self) -> Lines:
        """As `lines`, after each of them was read.

        Raises:
            BadInputError: see `Lines`; or one of them cannot be read.
        """
        found = self.lines()
        if self.path is not None and found:
            documents, file = Documents(self.path), self.file
            for number, _, raw in read_lines(file, "trajectory file", torn=True):
                self._read(raw, file, number, documents)
        return found

    def _require_own(self, trajectory: Trajectory, file: Path, number: int) -> None:
        """Refuse an episode that this run's settings cannot have given."""
        env = str(self.settings.get("env", {}).get("id") or "").rpartition(":")[2]
        played = trajectory.env_id
        # An id without its version stands for the newest one.
        if env and played and played != env and not played.startswith(f"{env}-v"):
            refuse(file, number, f"{trajectory.id!r} was played in {played!r}, not in {env!r}")
        seed = self.settings.get("seed")
        if seed is not None and trajectory.seed not in (None, episode_seed(seed, trajectory.id)):
            refuse(file, number, f"{trajectory.id!r} was played with another seed")
        samples = self.settings.get("samples_per_task")
        if isinstance(samples, int) and trajectory.sample >= samples:
            refuse(file, number, f"{trajectory.id!r} is not one of {samples} samples of its task")

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else str(self.path)
        env = self.settings.get("env", {}).get("id", "?")
        planned = f" of {self.planned}" if self.planned > len(self) else ""
        return f"Run({env}, {len(self)}{planned} episodes, {where})"

    def _repr_html_(self) -> str:
        policy, failed = self.settings.get("policy", {}), len(self.failures())
        lines = [f"Policy: {policy.get('policy', '?') if isinstance(policy, dict) else policy}"]
        lines += [f"Tasks: {self.settings.get('task_source', 'not recorded')}"]
        lines += [f"Failed attempts: {failed}"] if failed else []
        return fragment(lines, [self.glance()], title=repr(self))


def episode_seed(*parts: object) -> int:
    """The seed of an episode, from the run's seed and the episode's id; of a turn, from those.

    31 bits of a hash: the same on every machine, whatever ran before.
    """
    return int.from_bytes(sha256(repr(parts).encode()).digest()[:4], "big") >> 1
