"""Requests that follow from replies, in one event loop, so that each leaves as soon as it can."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from toolgym.errors import EndpointError

__all__ = ["Lanes"]

A = TypeVar("A")
T = TypeVar("T")

_UNTIL_SENT = 2  # rounds of the loop: a request is made, and its bytes are written


class Lanes:
    """Lanes of requests, one after the other in each; all in one event loop."""

    def __init__(self) -> None:
        self._gate = asyncio.Lock()

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
        going = asyncio.create_task(ask(request))
        while True:
            reply: T | Exception
            try:
                reply = await going
            except asyncio.CancelledError:
                told(EndpointError("connection", "the request was given up"))
                raise
            except Exception as error:  # what a codec raises, too, is taken as a reply
                reply = error
            # Replies often come together. What follows from one leaves before another one is taken
            # in: else all would leave after the last one, and come together for ever.
            async with self._gate:
                following = told(reply)
                if following is None:
                    return
                going = asyncio.create_task(ask(following))
                for _ in range(_UNTIL_SENT):
                    await asyncio.sleep(0)
