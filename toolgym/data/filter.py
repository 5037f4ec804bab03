"""Filtering: which recorded episodes are kept, and what became of the others."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from toolgym._util.frames import SUFFIX, is_packed
from toolgym._util.hashes import value_hash
from toolgym._util.jsonl import dump_line, write_json, write_lines
from toolgym._util.notebook import fragment
from toolgym._util.spool import Spool
from toolgym.data.conditions import compared_names, measure, read_conditions
from toolgym.errors import BadInputError, did_you_mean
from toolgym.rollouts.parts import Ordered
from toolgym.rollouts.recording import Recording, open_recording
from toolgym.rollouts.runs import SELECTION, SETTINGS, TRAJECTORIES
from toolgym.rollouts.tables import counts
from toolgym.trajectory import TOOLS, EpisodeSpool, Trajectory

__all__ = ["Selection", "select"]


@dataclass
class Selection(Ordered):
    """Kept episodes, and the count of the others by reason.

    Args:
        kept: in the order of the run: by task and sample. Many episodes of a folder lie on disk,
            and are read when they are looked at.
        dropped: ``{reason: episodes}``, in the order in which the filters were applied.
        settings: the filters as plain data.
        origin: what was filtered: environment, task source, policy, path.
    """

    kept: Sequence[Trajectory]
    dropped: dict[str, int]
    settings: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Selection({len(self.kept)} of {self.total} episodes kept)"

    def _repr_html_(self) -> str:
        lines = [f"dropped: {counts(self.dropped) or 'none'}"]
        return fragment(lines, [self.glance()], title=repr(self))

    @cached_property
    def kept_tasks(self) -> int:
        """Tasks of the kept episodes."""
        return len({trajectory.task.id for trajectory in self.kept})

    @property
    def total(self) -> int:
        """Episodes that were looked at: kept and dropped."""
        return len(self.kept) + sum(self.dropped.values())

    def __len__(self) -> int:
        return len(self.kept)

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self.kept)

    def at(self, places: Iterable[int]) -> Iterator[Trajectory]:
        """The kept episodes at these places."""
        return (self.kept[place] for place in places)

    def trajectories(self) -> Sequence[Trajectory]:
        """The kept episodes."""
        return self.kept if isinstance(self.kept, Spool) else list(self.kept)

    def provenance(self) -> dict[str, Any]:
        """The origin of what was filtered, with the counts and filters under ``selection``."""
        summary = self.summary()
        return {**summary.pop("origin"), "selection": summary}

    def summary(self) -> dict[str, Any]:
        """Counts and filters as plain data: what ``selection.json`` holds."""
        counts = {"total": self.total, "kept": len(self.kept), "kept_tasks": self.kept_tasks}
        return {**counts, "dropped": self.dropped, "settings": self.settings, "origin": self.origin}

    def write(self, path: str | Path, compress: bool = False) -> Path:
        """Write the kept trajectories, and ``selection.json`` beside them.

        Args:
            path: a ``.jsonl`` file (``.jsonl.zst``: compressed), in which each line is whole; or a
                folder that gets a ``trajectories.jsonl``, and ``tools.jsonl`` with their tools.
            compress: the files of a folder, with zstd.

        Returns:
            The file of trajectories.

        Raises:
            BadInputError: a run lies there, whose episodes would be lost.
        """
        target = Path(path)
        folder = not target.name.endswith((".jsonl", ".jsonl" + SUFFIX))
        if folder:
            target = target / (TRAJECTORIES + (SUFFIX if compress else ""))
        if target.name.startswith(TRAJECTORIES) and (target.parent / SETTINGS).is_file():
            raise BadInputError(
                f"{str(target.parent)!r} is a run, whose episodes a selection would replace; name "
                "another folder"
            )
        if folder:
            self._write_folder(target)
        else:
            write_lines(target, (dump_line(trajectory.to_row()) for trajectory in self.kept))
        write_json(target.parent / SELECTION, self.summary())
        return target

    def _write_folder(self, target: Path) -> None:
        """The trajectories, and before them the tools that they refer to."""
        kept = self.kept
        if not isinstance(kept, EpisodeSpool):
            kept = EpisodeSpool(held=True)
            for trajectory in self.kept:
                kept.append(trajectory)
        for trajectory in kept.held:
            kept.names.add(trajectory.tools)
        write_lines(
            target.with_name(TOOLS + (SUFFIX if is_packed(target) else "")), kept.names.lines()
        )
        write_lines(target, kept.lines())
        for name in (TOOLS, TRAJECTORIES):  # what an earlier one has left
            other = name if is_packed(target) else name + SUFFIX
            target.with_name(other).unlink(missing_ok=True)


def select(
    run: Recording,
    *,
    where: str | tuple[str, float] | None = "accuracy>=1",
    tools: str = "any",
    best_of: int | None = None,
    by: str | None = None,
    per_task: int | None = None,
    dedupe: str | None = "text",
    seed: int = 0,
    may_be_empty: bool = False,
) -> Selection:
    """Keep the episodes that are worth training on.

    The filters are applied in this order: where, tools, dedupe, best_of, per_task.

    Args:
        run: a run, the path of one, or trajectories.
        where: conditions on episode totals such as ``accuracy>=1 and calls<=2``, or ``(name, least
            value)``; names are registered rewards, recorded metrics, and `conditions.MEASURES`.
        tools: ``any``, or ``only``: at least one tool call (arXiv 2502.05867, "tools only").
        best_of: keep the best n of each task by ``by``; the earlier sample wins a tie.
        by: what ``best_of`` ranks by; default: the first name of ``where``.
        per_task: most episodes of one task; which ones is drawn by ``seed``.
        dedupe: ``text`` drops episodes of a task whose messages read the same, ``tokens`` those
            whose token ids are the same, None drops none.
        seed: for ``per_task``.
        may_be_empty: give back a selection of nothing, too.

    Returns:
        The selection; kept and dropped add up to all episodes.

    Raises:
        UnknownNameError: no reward, metric or measure has that name.
        BadInputError: a condition that cannot be read, or nothing was kept (the message says why).
        MissingFileError: the path holds no episodes.
    """
    if isinstance(where, tuple):
        where = f"{where[0]}>={where[1]!r}"
    _check_options(tools, dedupe, best_of, per_task)
    episodes = open_recording(run)
    tests = [(f"not {text}", holds) for text, holds in read_conditions(where, episodes)]
    if tools == "only":
        tests.append(("no tool call", lambda t: any(True for _ in t.calls)))
    if dedupe:
        tests.append((f"same {dedupe} as another of its task", _first_of_its_kind(dedupe)))
    kept, tasks = EpisodeSpool(episodes.held), list[str]()
    # In the order of the filters, whichever drops the first episode.
    dropped = Counter({reason: 0 for reason, _ in tests})
    for trajectory in episodes:
        reason = next((reason for reason, holds in tests if not holds(trajectory)), None)
        if reason is None:
            kept.append(trajectory)
            tasks.append(sys.intern(trajectory.task.id))
        else:
            dropped[reason] += 1
    places: Sequence[int] = range(len(kept))
    if best_of is not None:
        name = by or (compared_names(where) or ["reward"])[0]
        places = _best(kept, _by_task(tasks, places), best_of, name)
        dropped[f"not among the best {best_of} of its task by {name}"] += len(kept) - len(places)
    if per_task is not None:
        before, places = len(places), _capped(_by_task(tasks, places), per_task, seed)
        dropped[f"over the cap of {per_task} a task"] += before - len(places)
    if len(places) < len(kept):
        kept = kept.only(places)
    dropped = Counter({reason: count for reason, count in dropped.items() if count})
    settings = {"where": where, "tools": tools, "best_of": best_of, "by": by}
    settings |= {"per_task": per_task, "dedupe": dedupe, "seed": seed}
    selection = Selection(kept, dict(dropped), settings, episodes.origin)
    if not kept and not may_be_empty:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise BadInputError(
            f"none of {selection.total} episodes was kept: {reasons or 'there were none'}; "
            "loosen the filter, or record more samples per task"
        )
    return selection


def _first_of_its_kind(way: str) -> Callable[[Trajectory], bool]:
    seen: set[bytes] = set()

    def first(trajectory: Trajectory) -> bool:
        # Half of a SHA-256: a run of a million episodes remembers a million of them.
        key = bytes.fromhex(value_hash([trajectory.task.id, _content(trajectory, way)])[:32])
        fresh = key not in seen
        seen.add(key)
        return fresh

    return first


def _content(trajectory: Trajectory, way: str) -> Any:
    if way == "text":
        return [message.to_chat() for message in trajectory.messages]
    if trajectory.tokens is None:
        raise BadInputError(
            f"episode {trajectory.id!r} was recorded without tokens: use dedupe='text'"
        )
    return [trajectory.tokens.prompt_ids, trajectory.tokens.completion_ids]


def _by_task(tasks: Sequence[str], places: Iterable[int]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place in places:
        found.setdefault(tasks[place], []).append(place)
    return found


def _best(
    kept: Sequence[Trajectory], by_task: dict[str, list[int]], count: int, name: str
) -> list[int]:
    value = measure(name, kept)
    chosen: list[int] = []
    for places in by_task.values():
        chosen += sorted(places, key=lambda place: -value(kept[place]))[:count]
    return sorted(chosen)


def _capped(by_task: dict[str, list[int]], cap: int, seed: int) -> list[int]:
    chosen: list[int] = []
    for task, places in by_task.items():
        # By task, so that one task's episodes do not decide what is drawn of another's.
        rng = random.Random(f"{seed}-{task}")
        chosen += places if len(places) <= cap else rng.sample(places, cap)
    return sorted(chosen)


def _check_options(
    tools: str, dedupe: str | None, best_of: int | None, per_task: int | None
) -> None:
    for name, value, known in (
        ("tools", tools, ("any", "only")),
        ("dedupe", dedupe, ("text", "tokens", None)),
    ):
        if value not in known:
            options = [str(option) for option in known if option]
            raise BadInputError(
                f"{name} must be one of {', '.join(options)}, not {value!r}"
                f"{did_you_mean(str(value), options)}"
            )
    for name, count in (("best_of", best_of), ("per_task", per_task)):
        if count is not None and (isinstance(count, bool) or count < 1):
            raise BadInputError(f"{name} must be at least 1, not {count!r}")
