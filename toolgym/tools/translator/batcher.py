"""Requests of several threads answered together: who waits for a batch is in the next one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Gatherer"]

Ask = TypeVar("Ask")
Reply = TypeVar("Reply")


class _Request(Generic[Ask, Reply]):
    def __init__(self, items: Sequence[Ask]) -> None:
        self.items = items
        self.replies: list[Reply] | None = None
        self.error: BaseException | None = None


class Gatherer(Generic[Ask, Reply]):
    """Runs one batch at a time, made of everything that has come in meanwhile.

    Nobody waits for others to come: a request that finds the worker free is run at once.

    Args:
        work: answers any number of items, in order.
    """

    def __init__(self, work: Callable[[list[Ask]], Sequence[Reply]]) -> None:
        self._work = work
        self._busy, self._guard = threading.Lock(), threading.Lock()
        self._waiting: list[_Request[Ask, Reply]] = []

    def ask(self, items: Sequence[Ask]) -> list[Reply]:
        """Replies to items, in order; whatever the work raises is raised in each waiting thread."""
        mine: _Request[Ask, Reply] = _Request(items)
        with self._guard:
            self._waiting.append(mine)
        with self._busy:
            if mine.replies is None and mine.error is None:
                with self._guard:
                    requests, self._waiting = self._waiting, []
                self._run(requests)
        if mine.error is not None:
            raise mine.error
        return mine.replies or []

    def _run(self, requests: list[_Request[Ask, Reply]]) -> None:
        try:
            replies = list(self._work([item for request in requests for item in request.items]))
        except BaseException as error:
            for request in requests:
                request.error = error
            raise
        position = 0
        for request in requests:
            request.replies = replies[position : position + len(request.items)]
            position += len(request.items)
