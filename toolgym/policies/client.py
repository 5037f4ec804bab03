"""The connection to a model server that several threads share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["Service"]

T = TypeVar("T")


class Service:
    """A thread with an event loop that owns the client; what it runs ends at real deadlines.

    Args:
        openai: the module.
        concurrency: size of ``slots``, which whoever sends a request holds meanwhile.
        client: arguments of ``openai.AsyncOpenAI``.
    """

    def __init__(self, openai: Any, concurrency: int, **client: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="toolgym-endpoint", daemon=True)
        self._thread.start()
        self.slots = asyncio.Semaphore(concurrency)
        self.client = openai.AsyncOpenAI(**client)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def end(self) -> None:
        """Cancel what is under way, close the connections and end the thread."""
        if threading.current_thread() is self._thread:
            # The garbage collector came by here: waiting for oneself would never end.
            self._loop.stop()
            return
        asyncio.run_coroutine_threadsafe(self._wind_up(), self._loop).result(timeout=5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()

    async def _wind_up(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.close()
