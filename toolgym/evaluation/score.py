"""Rewards tried on recordings: no rollout, no change to the record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from toolgym._util.notebook import fragment
from toolgym._util.optional import require_extra
from toolgym._util.text import markdown_table, number, text_table
from toolgym.errors import BadInputError
from toolgym.evaluation.intervals import Interval, bootstrap, group
from toolgym.evaluation.plots import interval_figure
from toolgym.executors import Calls, Executor, code_of, pack
from toolgym.grading.rubric import RewardFunction, Rubric, make_rubric
from toolgym.rollouts.recording import Recording, some_episodes
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["Played", "Scorer", "Scores", "each", "rubrics_of", "score", "task_key"]

_CHUNK = 32  # episodes that are sent at once
_AHEAD = 64  # chunks that were handed over and not yet taken in

Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Scores:
    """What `score` gives.

    Args:
        rows: rubric name to the mean total reward of an episode, with its interval.
        ids: [episodes] trajectory ids, the order of all lists here.
        totals: rubric name to [episodes] summed rewards.
        parts: rubric name to ``{reward name: [episodes]}``, unweighted and summed over the steps.
    """

    rows: dict[str, Interval]
    ids: list[str]
    totals: dict[str, list[float]]
    parts: dict[str, dict[str, list[float]]]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = [
            {"rubric": name, "mean": row.value, "low": row.low, "high": row.high, "n": row.n}
            | {"interval": row.kind}
            for name, row in self.rows.items()
        ]
        return {"rows": rows, "ids": self.ids, "totals": self.totals, "parts": self.parts}

    def to_markdown(self) -> str:
        """A Markdown table."""
        return markdown_table(_HEAD, self._cells())

    def __str__(self) -> str:
        return text_table(_HEAD, self._cells())

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row an episode: its id, and a column a rubric.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return require_extra("pandas", "plot").DataFrame({"id": self.ids, **self.totals})

    def plot(self) -> Any:
        """The means with their intervals as a `matplotlib.figure.Figure`.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return interval_figure(list(self.rows.items()), "mean reward, with 95 % intervals")

    def __repr__(self) -> str:
        return f"Scores({len(self.ids)} episodes; rubrics: {', '.join(self.rows)})"

    def _repr_html_(self) -> str:
        return fragment([f"{len(self.ids)} episodes"], [("", _HEAD, self._cells())])

    def _cells(self) -> list[list[str]]:
        return [
            [name, number(row.value), number(row.low), number(row.high), str(row.n), row.kind]
            for name, row in self.rows.items()
        ]


_HEAD = ("rubric", "mean reward", "low", "high", "n", "95 % interval")


def score(
    run: Recording,
    rewards: Mapping[str, Rubric | RewardFunction | str | Mapping[str, Any]],
    *,
    seed: int = 0,
    executor: Executor | None = None,
) -> Scores:
    """Score recorded episodes with any number of rubrics.

    Args:
        run: a `Run`, the path of a run folder or of a ``.jsonl`` of trajectories, or trajectories.
        rewards: a name of yours to a rubric: ``{"accuracy": 1.0}``, a reward's name, or a function.
        seed: fixes the bootstrap of the intervals.
        executor: calls the rewards in other processes, where they compute much; see
            `toolgym.executors`.

    Returns:
        Means with intervals, and every episode's total and parts.

    Raises:
        UnknownNameError: an unknown reward.
        MissingFileError: no such run.
        BadInputError: no episodes, no rubrics, or a reward that gives not one finite float a step.
        LostWorkerError: an executor has lost its workers.
    """
    rubrics = rubrics_of(rewards)
    ids: list[str] = []
    keys: list[tuple[str, str]] = []
    totals: dict[str, list[float]] = {name: [] for name in rubrics}
    parts: dict[str, dict[str, list[float]]] = {
        name: {reward: [] for reward in rubric.functions} for name, rubric in rubrics.items()
    }
    known: dict[tuple[str, str], tuple[str, str]] = {}
    alike: dict[str, float] = {}
    for trajectory, found in each(some_episodes(run), Scorer(rubrics), executor):
        ids.append(trajectory.id)
        key = task_key(trajectory)
        keys.append(known.setdefault(key, key))
        for name, (total, summed) in found.items():
            totals[name].append(_one(alike, total))
            for reward, value in summed.items():
                parts[name][reward].append(_one(alike, value))
    ones = np.ones(len(ids))
    rows = {
        name: bootstrap(*group(keys, values, ones), seed=seed) for name, values in totals.items()
    }
    return Scores(rows, ids, totals, parts)


def _one(alike: dict[str, float], value: float) -> float:
    """One object for equal values, so that a million of them are few; -0.0 is not 0.0."""
    return alike.setdefault(repr(value), value)


def rubrics_of(rewards: Any) -> dict[str, Rubric]:
    """Rubrics by name, from whatever a user may write for each.

    Raises:
        UnknownNameError: an unknown reward.
        BadInputError: no mapping, an empty one, or something else than a reward in it.
    """
    if not isinstance(rewards, Mapping) or not rewards:
        raise BadInputError(
            f"rubrics need names, such as {{'strict': {{'exact_match': 1.0}}}}, not {rewards!r:.80}"
        )
    return {name: _rubric(name, spec) for name, spec in rewards.items()}


def _rubric(name: str, spec: Any) -> Rubric:
    if not (isinstance(spec, Rubric | str | Mapping) or callable(spec)):
        raise BadInputError(
            f"rubric {name!r} must be a reward's name, a function or a mapping, not {spec!r:.80}; "
            f"a single weighted reward is {{{name!r}: {{'accuracy': 1.0}}}}"
        )
    return make_rubric(spec)


@dataclass(frozen=True)
class Scorer:
    """Scores an episode: by rubric its total, and the sum of each of its rewards."""

    rubrics: dict[str, Rubric]

    def __call__(self, trajectory: Trajectory) -> dict[str, tuple[float, dict[str, float]]]:
        """By rubric the total, and what each reward gave, summed over the steps."""
        found = {}
        for name, rubric in self.rubrics.items():
            values = rubric.parts(trajectory.task, _detached(trajectory))
            summed = {reward: float(sum(steps)) for reward, steps in values.items()}
            found[name] = float(sum(rubric.total(values))), summed
        return found

    def code(self) -> dict[str, str]:
        """Of the reward functions, see `code_of`."""
        return code_of(*(f for rubric in self.rubrics.values() for f in rubric.functions.values()))


def each(
    episodes: Iterable[Trajectory],
    measure: Callable[[Trajectory], Measured],
    executor: Executor | None,
) -> Iterator[tuple[Trajectory, Measured]]:
    """Episodes with what is measured of each, in their order.

    Args:
        episodes: read one by one.
        measure: of one; where it has ``code()``, other processes compare it.
        executor: where it is called; None: here.

    Raises:
        LostWorkerError: the executor has lost its workers.
        Exception: what ``measure`` raised.
    """
    if executor is None:
        yield from ((trajectory, measure(trajectory)) for trajectory in episodes)
        return
    code = getattr(measure, "code", dict)
    sent = pack("scoring", _Chunks, {"rewards": measure}, {"code": code()}, _Chunks.code)
    calls = Calls[list[Trajectory], list[Any]](executor, sent, "scores", _own, _told)
    left = iter(episodes)
    chunks = iter(lambda: list(islice(left, _CHUNK)), [])
    with closing(calls.in_order(chunks, _AHEAD)) as done:
        for chunk, found in done:
            yield from zip(chunk, (measured for _, measured in found), strict=True)


class _Chunks:
    """In another process: measures chunks of episodes."""

    def __init__(self, rewards: Callable[[Trajectory], Any]) -> None:
        self._measure = rewards

    def __call__(self, chunk: list[Trajectory]) -> list[Any]:
        return [(trajectory.id, self._measure(trajectory)) for trajectory in chunk]

    def code(self) -> dict[str, Any]:
        """What is compared."""
        return {"code": getattr(self._measure, "code", dict)()}


def _own(chunk: list[Trajectory], found: list[Any]) -> bool:
    return [name for name, _ in found] == [trajectory.id for trajectory in chunk]


def _told(chunk: list[Trajectory]) -> str:
    return f"the chunk of episodes {chunk[0].id!r} to {chunk[-1].id!r}"


def _detached(trajectory: Trajectory) -> Trajectory:
    """A copy whose lists and steps a careless reward function may write to."""
    return replace(
        trajectory,
        messages=list(trajectory.messages),
        steps=[replace(s, reward_parts=dict(s.reward_parts)) for s in trajectory.steps],
        metrics=dict(trajectory.metrics),
    )


@dataclass(frozen=True, slots=True)
class Played:
    """What is held of an episode of a large run beside its figures.

    Args:
        env_id: the environment's id.
        task: its id, split, and the columns by which figures are cut.
    """

    env_id: str
    task: Task


def task_key(trajectory: Trajectory | Played) -> tuple[str, str]:
    """What makes two episodes belong to one task: environment and task id."""
    return trajectory.env_id, trajectory.task.id
