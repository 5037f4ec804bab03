"""A run that stops when its figure is known: decided in the plan's order, whoever plays faster."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np

from toolgym.rollouts.lines import key_of
from toolgym.rollouts.plan import Jobs, Queue
from toolgym.rollouts.remote import Outcome
from toolgym.sequential.until import Decided, Until, figure
from toolgym.trajectory import Trajectory

__all__ = ["Deciding"]


class Deciding:
    """Takes in episodes as they end, and closes the queue of jobs when it is decided.

    A task counts when all before it in the plan have counted, so that the same seed stops at the
    same task with any number of workers. Episodes that ended meanwhile beyond that task are no part
    of the run.

    A task with an episode that failed for reasons outside it is passed over for now, so that a
    server that was away does not make the whole plan be played. The run is then unfinished; when it
    is resumed that episode is retried first, and nothing is decided without it.

    Args:
        until: when to stop.
        jobs: all of the plan.
        queue: those that are still to be played.
        samples: of each task.
        recorded: what was played before.
    """

    def __init__(
        self, until: Until, jobs: Jobs, queue: Queue, samples: int, recorded: Iterable[Trajectory]
    ) -> None:
        self._until, self._queue, self._samples = until, queue, samples
        self._rank, self._read = jobs.ranks(), figure(until.metric)
        self._figures = np.full(len(jobs), np.nan)
        self._failed: set[int] = set()
        self._passed: int | None = None  # the first task that was passed over
        self._next, self._sequence = 0, until.sequence()
        self._stopped = False
        for trajectory in recorded:
            self._keep(trajectory)
        self._advance()

    def take(self, trajectory: Trajectory) -> None:
        """An episode has ended.

        Raises:
            BadInputError: its figure is not from 0 to 1.
        """
        self._keep(trajectory)
        self._advance()

    def take_outcome(self, outcome: Outcome) -> None:
        """As `take`, for what was played elsewhere, its failures too."""
        for line in outcome.lines:
            row = json.loads(line)
            row["tools"] = json.loads(outcome.tools[row["tools"]])["tools"]
            self._keep(Trajectory.from_row(row))
        for failure in outcome.failures:
            self._failed.add(self._place(failure["id"]) // self._samples)
        self._advance()

    def fail(self, key: str) -> None:
        """An episode could not be played."""
        self._failed.add(self._place(key) // self._samples)
        self._advance()

    @property
    def decided(self) -> Decided | None:
        """What is known of the figure; None where the run has to be resumed first."""
        complete = self._stopped or self._next * self._samples >= len(self._figures)
        if self._passed is not None or not complete:
            return None
        episodes = min(self._next * self._samples, len(self._figures))
        return self._until.decided(self._sequence, episodes, self._stopped)

    def _place(self, key: str) -> int:
        return self._rank(key_of(key) or ("", 0))

    def _keep(self, trajectory: Trajectory) -> None:
        place = self._place(trajectory.id)
        if place < len(self._figures):  # else it is of a longer plan
            self._figures[place] = self._read(trajectory)

    def _advance(self) -> None:
        while not self._stopped and self._next * self._samples < len(self._figures):
            begin = self._next * self._samples
            known = self._figures[begin : begin + self._samples]
            if np.isnan(known).any():
                if self._next not in self._failed:
                    return
                self._passed = self._next if self._passed is None else self._passed
            else:
                self._sequence.add(float(known.mean()))
                self._stopped = self._until.reached(self._sequence)
            self._next += 1
        if self._stopped:
            self._queue.close()
