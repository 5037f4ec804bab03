"""Episodes of a policy that takes requests and answers later: stepped where replies come in.

A thread for each episode costs more than its step: hundreds of them stand in line for the
interpreter each time that replies come, and a second thread alone keeps the one that sends waiting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from toolgym._util.collecting import seldom_collecting
from toolgym.policies.base import Lane, Policy, Reply, Request
from toolgym.rollouts.plan import Job, Queue
from toolgym.rollouts.playing import Episode

__all__ = ["Asking"]

_LONG = 0.02  # seconds of a step that the replies to others shall not wait for
_RARE = 50  # where one of so many is long, as the first one of a lazy tool, they wait all the same
_ENDLESS = 0.5  # seconds of a step of which one is enough


@dataclass(slots=True)
class _Place:
    """One of the episodes that run at once; another one follows where it has ended."""

    episode: Episode | None = None


class Asking:
    """Plays jobs with a policy whose `Policy.sends` is true, in the policy's own thread.

    Where steps often take long (tools in processes, a reward that asks a model), they are made in
    threads from then on.

    Args:
        policy: asked.
        start: begins a job's episode; None where it failed at once.
        answered: takes the reply to an episode, or why there is none; says whether it goes on.
    """

    def __init__(
        self,
        policy: Policy,
        start: Callable[[Job], Episode | None],
        answered: Callable[[Episode, Reply | Exception], bool],
    ) -> None:
        self._policy, self._start, self._answered = policy, start, answered
        self._state = threading.Condition()
        self._running = self._busy = self._made = self._long = 0
        self._error: BaseException | None = None
        self._stopped = False
        self._pool: ThreadPoolExecutor | None = None

    def play(self, jobs: Queue, width: int) -> None:
        """Play all jobs, so many at once.

        Raises:
            ToolgymError: what ends the run; requests under way are given up.
        """
        self._jobs, self._width, self._running = jobs, width, width
        try:
            with seldom_collecting():
                for _ in range(width):
                    self._send(_Place())
                with self._state:
                    while self._running and self._error is None:
                        self._state.wait()
            if self._error is not None:
                raise self._error
        except BaseException:  # nobody may wait on for a server that is away
            with self._state:
                self._stopped = True
            self._policy.cancel()
            raise
        finally:
            with self._state:
                while self._busy:
                    self._state.wait()
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)

    def _send(self, place: _Place, request: Request | None = None) -> None:
        """Have the policy ask from here on, first for this request, or else for the next job's."""
        while True:
            try:
                self._policy.send([self._lane(place, request)])
                return
            except Exception as error:  # a policy may be the user's own
                request = self._step(place, error)
                if request is None:
                    return

    def _lane(self, place: _Place, first: Request | None) -> Lane:
        """What the policy calls; episodes begin there, too, each after the last one's request."""
        waiting = [] if first is None else [first]

        def lane(reply: Reply | Exception | None) -> Request | None:
            return waiting.pop() if waiting else self._came(place, reply)

        return lane

    def _came(self, place: _Place, reply: Reply | Exception | None) -> Request | None:
        """A reply has come, or none is needed to begin; what is asked next, unless that is late."""
        with self._state:
            if self._stopped:
                return None
            if self._pool is not None:
                self._pool.submit(self._elsewhere, place, reply)
                return None
        began = time.perf_counter()
        request = self._step(place, reply)
        spent = time.perf_counter() - began
        with self._state:
            self._made += 1
            self._long += (spent > _LONG) + 2 * (spent > _ENDLESS)
            if self._pool is None and self._long > 2 + self._made // _RARE:
                self._pool = ThreadPoolExecutor(self._width, thread_name_prefix="toolgym-episode")
        return request

    def _elsewhere(self, place: _Place, reply: Reply | Exception | None) -> None:
        request = self._step(place, reply)
        if request is not None:
            self._send(place, request)

    def _step(self, place: _Place, reply: Reply | Exception | None) -> Request | None:
        """Take in a reply; what is asked next: the episode's next turn, or another one's first."""
        with self._state:
            if self._stopped:
                return None
            self._busy += 1
        try:
            if place.episode is None or reply is None or not self._answered(place.episode, reply):
                place.episode = self._next()
            if place.episode is not None:
                return place.episode.request()
            with self._state:
                self._running -= 1
        except BaseException as error:  # the rollout raises it, in its own thread
            with self._state:
                self._error, self._stopped = error, True
        finally:
            with self._state:
                self._busy -= 1
                if self._stopped or not self._running:
                    self._state.notify_all()
        return None

    def _next(self) -> Episode | None:
        """The next job's episode, or None where all are played."""
        while not self._stopped:
            try:
                job = self._jobs.popleft()
            except IndexError:
                break
            episode = self._start(job)
            if episode is not None:
                return episode
        return None
