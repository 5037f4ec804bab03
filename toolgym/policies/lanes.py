"""Requests that follow from replies, in one event loop, so that each leaves as soon as it can."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from toolgym.errors import EndpointError

__all__ = ["Lanes"]

A = TypeVar("A")
T = TypeVar("T")

_AT_ONCE = 4  # replies that one round of the loop takes in: a round costs, too


class Lanes:
    """Lanes of requests, one after the other in each; all in one event loop."""

    def __init__(self) -> None:
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def run(
        self,
        ask: Callable[[A], Coroutine[Any, Any, T]],
        request: A,
        told: Callable[[T | Exception], A | None],
    ) -> None:
        """One lane.

        Args:
            ask: gives the reply to a request.
            request: the first one.
            told: takes a reply, or why there is none; its result is asked next, until it is None.
        """
        loop = asyncio.get_running_loop()
        while True:
            reply: T | Exception
            try:
                reply = await ask(request)
            except asyncio.CancelledError:
                told(EndpointError("connection", "the request was given up"))
                raise
            except Exception as error:  # what a codec raises, too, is taken as a reply
                reply = error
            # Replies often come together. What follows from a few leaves before the next ones are
            # taken in: else all would leave after the last one, and come together for ever.
            await self._gate.acquire()
            loop.call_soon(self._gate.release)  # in the next round, in which its bytes are written
            following = told(reply)
            if following is None:
                return
            request = following
