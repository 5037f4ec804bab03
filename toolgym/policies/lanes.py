"""Requests that follow from replies, in one event loop, so that each leaves as soon as it can."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from toolgym.errors import EndpointError

__all__ = ["Lanes"]

A = TypeVar("A")
T = TypeVar("T")

_AT_ONCE = 4  # steps of lanes that one round of the loop makes: a round costs, too


class Lanes:
    """Lanes of requests, one after the other in each; all in one event loop."""

    def __init__(self) -> None:
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._going = set[asyncio.Task[None]]()

    def begin(
        self,
        ask: Callable[[A], Coroutine[Any, Any, T]],
        lane: Callable[[T | Exception | None], A | None],
    ) -> None:
        """Begin a lane; called in the loop.

        Args:
            ask: gives the reply to a request.
            lane: called with None it gives the first request, then for the reply to each, or why
                there is none, the next one, until that is None.
        """
        task = asyncio.get_running_loop().create_task(self._run(ask, lane))
        self._going.add(task)
        # Also of a task that is cancelled before it has begun.
        task.add_done_callback(partial(self._ended, lane))

    async def _run(
        self,
        ask: Callable[[A], Coroutine[Any, Any, T]],
        lane: Callable[[T | Exception | None], A | None],
    ) -> None:
        loop = asyncio.get_running_loop()
        reply: T | Exception | None = None
        while True:
            # Replies often come together, and lanes begin together. What follows from a few leaves
            # before the next ones are taken in: else all would leave after the last one, and come
            # together for ever.
            await self._gate.acquire()
            loop.call_soon(self._gate.release)  # in the next round, in which its bytes are written
            request = lane(reply)
            if request is None:
                return
            try:
                reply = await ask(request)
            except Exception as error:  # what a codec raises, too, is taken as a reply
                reply = error

    def _ended(
        self, lane: Callable[[T | Exception | None], A | None], task: asyncio.Task[None]
    ) -> None:
        """A task is over: where it was cancelled, all that its lane still asks for is given up."""
        self._going.discard(task)
        given_up = EndpointError("connection", "the request was given up")
        while task.cancelled() and lane(given_up) is not None:
            pass
