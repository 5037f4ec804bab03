"""Filtering: which recorded episodes are kept, and what became of the others."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import value_hash, write_json, write_rows
from toolgym.data.conditions import compared_names, measure, read_conditions
from toolgym.errors import BadInputError, did_you_mean
from toolgym.rollouts.runs import SELECTION, SETTINGS, TRAJECTORIES, Recording, open_recording
from toolgym.trajectory import Trajectory

__all__ = ["Selection", "select"]


@dataclass
class Selection:
    """Kept episodes, and the count of the others by reason.

    Args:
        kept: in the order of the run: by task and sample.
        dropped: ``{reason: episodes}``, in the order in which the filters were applied.
        settings: the filters as plain data.
        origin: what was filtered: environment, task source, policy, path.
    """

    kept: list[Trajectory]
    dropped: dict[str, int]
    settings: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Episodes that were looked at: kept and dropped."""
        return len(self.kept) + sum(self.dropped.values())

    def __len__(self) -> int:
        return len(self.kept)

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self.kept)

    def trajectories(self) -> list[Trajectory]:
        """The kept episodes."""
        return list(self.kept)

    def provenance(self) -> dict[str, Any]:
        """The origin of what was filtered, with the counts and filters under ``selection``."""
        summary = self.summary()
        return {**summary.pop("origin"), "selection": summary}

    def summary(self) -> dict[str, Any]:
        """Counts and filters as plain data: what ``selection.json`` holds."""
        tasks = len({trajectory.task.id for trajectory in self.kept})
        counts = {"total": self.total, "kept": len(self.kept), "kept_tasks": tasks}
        return {**counts, "dropped": self.dropped, "settings": self.settings, "origin": self.origin}

    def write(self, path: str | Path) -> Path:
        """Write the kept trajectories, and ``selection.json`` beside them.

        Args:
            path: a ``.jsonl`` file, or a folder that gets a ``trajectories.jsonl``.

        Returns:
            The file of trajectories.

        Raises:
            BadInputError: a run lies there, whose episodes would be lost.
        """
        target = Path(path)
        if target.suffix != ".jsonl":
            target = target / TRAJECTORIES
        if target.name == TRAJECTORIES and (target.parent / SETTINGS).is_file():
            raise BadInputError(
                f"{str(target.parent)!r} is a run, whose episodes a selection would replace; name "
                "another folder"
            )
        write_rows(target, (trajectory.to_row() for trajectory in self.kept))
        write_json(target.parent / SELECTION, self.summary())
        return target


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
    kept: list[Trajectory] = []
    # In the order of the filters, whichever drops the first episode.
    dropped = Counter({reason: 0 for reason, _ in tests})
    for trajectory in episodes:
        reason = next((reason for reason, holds in tests if not holds(trajectory)), None)
        if reason is None:
            kept.append(trajectory)
        else:
            dropped[reason] += 1
    dropped = Counter({reason: count for reason, count in dropped.items() if count})
    if best_of is not None:
        kept = _best(kept, best_of, by or (compared_names(where) or ["reward"])[0], dropped)
    if per_task is not None:
        kept = _capped(kept, per_task, seed, dropped)
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
    seen: set[str] = set()

    def first(trajectory: Trajectory) -> bool:
        key = value_hash([trajectory.task.id, _content(trajectory, way)])
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


def _by_task(trajectories: list[Trajectory]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, trajectory in enumerate(trajectories):
        places.setdefault(trajectory.task.id, []).append(place)
    return places


def _best(
    trajectories: list[Trajectory], count: int, name: str, dropped: Counter[str]
) -> list[Trajectory]:
    value = measure(name, trajectories)
    chosen: set[int] = set()
    for places in _by_task(trajectories).values():
        ranked = sorted(places, key=lambda place: -value(trajectories[place]))
        chosen.update(ranked[:count])
    dropped_here = len(trajectories) - len(chosen)
    if dropped_here:
        dropped[f"not among the best {count} of its task by {name}"] += dropped_here
    return [trajectories[place] for place in sorted(chosen)]


def _capped(
    trajectories: list[Trajectory], cap: int, seed: int, dropped: Counter[str]
) -> list[Trajectory]:
    chosen: set[int] = set()
    for task, places in _by_task(trajectories).items():
        # By task, so that one task's episodes do not decide what is drawn of another's.
        rng = random.Random(f"{seed}-{task}")
        chosen.update(places if len(places) <= cap else rng.sample(places, cap))
    dropped_here = len(trajectories) - len(chosen)
    if dropped_here:
        dropped[f"over the cap of {cap} a task"] += dropped_here
    return [trajectories[place] for place in sorted(chosen)]


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
