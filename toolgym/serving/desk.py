"""The desk that gives each client an episode of a plan, and records what it played.

Here the rollout is turned around: the client decides when the next turn comes. Plan, seeds, records
and resuming are those of `toolgym.rollout`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolgym.errors import BadInputError, EpisodeEndedError, in_words
from toolgym.formats.base import Action
from toolgym.formats.turn import Turn
from toolgym.policies.base import Policy, Reply, Request
from toolgym.policies.requests import read_native
from toolgym.rollouts.plan import Job, Plan, Queue, make_plan
from toolgym.rollouts.playing import Opened, Playing
from toolgym.rollouts.runs import Run
from toolgym.rollouts.writing import RunWriter

__all__ = ["Desk", "Said", "Seat", "plan_for_clients"]


class _Client(Policy):
    """What a run says of a policy that plays from outside.

    Args:
        kind: of the protocol.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Refused: a client is not asked, it comes by itself.

        Raises:
            BadInputError: always.
        """
        raise BadInputError("a client plays from outside and cannot be asked for replies")

    def describe(self) -> dict[str, Any]:
        """Plain data for ``run.json``."""
        return {"policy": "client", "name": self.kind}


def plan_for_clients(
    opened: Opened, kind: str, episodes: int | None, samples: int, seed: int, task: str | None
) -> Plan:
    """The episodes that clients are given.

    Args:
        opened: the environment.
        kind: of the protocol.
        episodes: how many in all; default: each task ``samples`` times.
        samples: episodes of each task.
        seed: fixes the order of tasks and the seed of every episode.
        task: id of the only task, or None.

    Raises:
        BadInputError: counts that do not fit the tasks, or no task of that id.
    """
    if task is None:
        return make_plan(opened, _Client(kind), episodes, samples, seed)
    number = opened.env.tasks.index_of(task)
    whole = make_plan(opened, _Client(kind), None, samples, seed)
    first = next(place for place, job in enumerate(whole.jobs) if job.task == number)
    jobs = whole.jobs[first : first + samples]
    count = len(jobs) if episodes is None else episodes
    if not 1 <= count <= len(jobs):
        raise BadInputError(
            f"episodes must be from 1 to {len(jobs)} for one task, not {count}; raise the samples "
            "per task for more"
        )
    return Plan(jobs[:count], whole.settings | {"episodes": count})


@dataclass(frozen=True, slots=True)
class Said:
    """What a client is told after a turn.

    Args:
        text: the result of its call, or what comes after its answer.
        failed: the call failed.
        ended: the episode has ended.
    """

    text: str
    failed: bool = False
    ended: bool = False


class Desk:
    """Gives out the episodes of a plan, each to one client at a time; for all threads.

    Args:
        opened: the environment.
        plan: of all episodes.
        out: the run folder, which is gone on with where it exists; None: nothing is kept.
        tell_reward: whether a client is told the reward of its episode.
        keep_left: whether an episode whose client leaves after a turn is recorded as truncated;
            else it is a failure, and another client gets it.
        progress: called with finished and planned episodes.

    Raises:
        RunMismatchError: the folder was begun with other settings, or is being written.
    """

    def __init__(
        self,
        opened: Opened,
        plan: Plan,
        out: Path | None,
        *,
        tell_reward: bool = False,
        keep_left: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.run = Run(plan.settings, out)
        self._opened, self._plan, self._progress = opened, plan, progress
        self._tell, self._keep_left = tell_reward, keep_left
        self._writer, self._lock = RunWriter(self.run), threading.Lock()
        self._jobs, self._again = Queue(plan.jobs, self._writer.before), deque[Job]()
        self._seats: set[Seat] = set()

    @property
    def complete(self) -> bool:
        """Whether every episode is recorded."""
        with self._lock:
            return not (self._jobs or self._again or self._seats)

    @property
    def counts(self) -> tuple[int, int]:
        """Finished and planned episodes."""
        return self._writer.finished, len(self._plan.jobs)

    def seat(self) -> Seat | None:
        """The next episode, begun; None where none is left.

        Raises:
            ToolgymError: the environment cannot begin it; it stays in the plan.
        """
        with self._lock:
            if not (self._jobs or self._again):
                return None
            job = self._again.popleft() if self._again else self._jobs.popleft()
        try:
            seat = Seat(self, self._opened.play(), job)
        except BaseException as error:
            self._fail(job, 0, error, "environment")
            raise
        with self._lock:
            self._seats.add(seat)
        return seat

    def close(self) -> None:
        """Take what is still played as left, and put the run in order."""
        for seat in list(self._seats):
            seat.leave()
        try:
            self._writer.settle(self._plan.jobs.ranks())
        finally:
            self._writer.close()

    def finished(self, seat: Seat) -> str:
        """Record an episode that has ended; what its client is told of it."""
        record = seat.record()
        with self._lock:
            self._seats.discard(seat)
            self._writer.add(record)
            if self._progress is not None:
                self._progress(*self.counts)
        return f"Reward: {record.reward:g}." if self._tell else ""

    def left(self, seat: Seat, error: BaseException, boundary: str) -> None:
        """Take back an episode that will not be finished."""
        with self._lock:
            self._seats.discard(seat)
        self._fail(seat.job, seat.turns, error, boundary)

    def keeps(self, seat: Seat) -> bool:
        """Whether an episode that is left stays as it is, cut."""
        return self._keep_left and seat.turns > 0

    def _fail(self, job: Job, turns: int, error: BaseException, boundary: str) -> None:
        with self._lock:
            self._again.append(job)
            if turns or boundary != "policy":  # who only looked has not failed
                row = {"id": job.key, "boundary": boundary, "kind": type(error).__name__}
                self._writer.fail(row | {"message": in_words(error), "turn": turns})


class ClientLeftError(Exception):
    """A client went away in the middle of its episode."""


class Seat:
    """One client's episode; its turns are played one after the other.

    Args:
        desk: that gave it.
        playing: a fresh environment.
        job: of the plan.
    """

    def __init__(self, desk: Desk, playing: Playing, job: Job) -> None:
        self.job, self.turns, self._desk, self._playing = job, 0, desk, playing
        self._info = playing.reset(job.task, job.sample, job.seed)
        self._over, self._lock = False, threading.Lock()

    @property
    def question(self) -> str:
        """What is asked."""
        return self._playing.env.tasks[self.job.task].question

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Function-calling documents of the tools that can be called now."""
        found: list[dict[str, Any]] = self._info["tools"]
        return found

    def call(self, name: str, arguments: dict[str, Any]) -> Said:
        """Call a tool: one turn.

        Args:
            name: of the tool.
            arguments: plain JSON.

        Raises:
            EpisodeEndedError: the episode has ended.
            PolicyError: it is not a call.
        """
        function = {"name": name, "arguments": arguments}
        message = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
        codec = self._playing.env.format
        request = Request(self._info["messages"], self.tools, codec, episode=self.job.key)
        return self._step(read_native(message, request, own_ids=False).turn)

    def answer(self, text: str) -> Said:
        """Give the answer, which ends the episode unless the user has more to say.

        Args:
            text: the answer.

        Raises:
            EpisodeEndedError: the episode has ended.
        """
        said = Action("", (), text, ())
        return self._step(Turn(self._playing.env.format.write(said, self.tools), said))

    def leave(self) -> None:
        """The client is gone; an episode that has not ended is taken back or cut."""
        with self._lock:
            if self._over:
                return
            self._over = True
            try:
                if self._desk.keeps(self):
                    last = self._playing.env.trajectory.steps[-1]
                    self._playing.env.amend(last.observation, last.reward, False, True)
                    self._desk.finished(self)
                else:
                    why = ClientLeftError(f"the client left after {self.turns} turns")
                    self._desk.left(self, why, "policy")
            finally:
                self._playing.outer.close()

    def record(self) -> Any:
        """The trajectory, as it is now."""
        return self._playing.record(self._info)

    def _step(self, turn: str) -> Said:
        with self._lock:
            if self._over:
                raise EpisodeEndedError("the episode has ended; connect again for another one")
            try:
                outcome = self._playing.outer.step(turn)
                self._info, _ = self._playing.take(outcome, self.turns, turn)
            except BaseException as error:
                self._over = True
                self._desk.left(self, error, "environment")
                self._playing.outer.close()
                raise
            self.turns += 1
            said = self._told()
            if not self._playing.env.ended:
                return said
            self._over = True
            told = [said.text, "The episode has ended.", self._desk.finished(self)]
            self._playing.outer.close()
            return replace(said, text="\n".join(filter(None, told)), ended=True)

    def _told(self) -> Said:
        """What the last turn gave: the result of its call, or what is said next."""
        step = self._playing.env.trajectory.steps[-1]
        if not step.results:
            return Said(step.observation, failed=bool(step.problems))
        (result,) = step.results
        notes = [problem.message for problem in step.problems]
        text = "\n".join([result.seen, *(f"Note: {note}." for note in notes)])
        return Said(text, failed=result.error is not None)
