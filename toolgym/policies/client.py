"""Talking to model servers: which service is meant, and when a request is sent again."""

from __future__ import annotations

import asyncio
import email.utils
import random
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from toolgym.errors import EndpointError

__all__ = ["Failure", "Service", "delay_before", "failure_of"]

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


_FIRST = 0.5  # seconds before the second try; doubled each time
_LONGEST = 30.0  # seconds
_LONGEST_ASKED = 120.0  # seconds: what a server may ask for by Retry-After


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed try.

    Args:
        error: typed.
        again: whether another try may help.
    """

    error: EndpointError
    again: bool


def failure_of(error: Exception, openai: Any, address: str, tries: int) -> Failure:
    """Type an exception of the client.

    Args:
        error: what the client raised.
        openai: the module.
        address: for the message.
        tries: so far.
    """
    tail = f" ({tries} tries)" if tries > 1 else ""
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return _failure("timeout", f"no reply from {address} in time{tail}; raise timeout")
    if isinstance(error, openai.APIStatusError):
        return _status(error.status_code, f"{address}: {_detail(error)}{tail}")
    if isinstance(error, openai.APIResponseValidationError | ValueError):
        # json.JSONDecodeError is a ValueError: the body was no JSON.
        return _failure("bad_reply", f"{address} sent what is no chat completion: {error!s:.200}")
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        why = f"{type(cause).__name__}: {cause}".rstrip(": ")
        return _failure("connection", f"{address} cannot be reached ({why}){tail}; is it running?")
    return _failure("bad_reply", f"{address}: {type(error).__name__}: {error!s:.200}")


def delay_before(attempt: int, error: Exception, seed: int) -> float:
    """Seconds to wait before the next try.

    Args:
        attempt: tries before the one that failed.
        error: its failure, whose response may name a time.
        seed: of the request; decides the jitter.
    """
    jitter = random.Random(f"{seed}/{attempt}").uniform(0.5, 1.0)
    backoff: float = min(_LONGEST, _FIRST * 2**attempt) * jitter
    response = getattr(error, "response", None)
    asked = _asked(response.headers.get("retry-after")) if response is not None else 0.0
    return max(backoff, min(asked, _LONGEST_ASKED))


def _asked(header: str | None) -> float:
    """Seconds that ``Retry-After`` names, as a number or as a date (RFC 9110, section 10.2.3)."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0


def _status(code: int, text: str) -> Failure:
    if code == 429:
        return _failure("rate_limit", f"{text}; lower concurrency or wait")
    if code >= 500:
        return _failure("server", text)
    return Failure(EndpointError("refused", f"{text}; the request itself is wrong"), again=False)


def _failure(kind: str, text: str) -> Failure:
    return Failure(EndpointError(kind, text), again=kind != "bad_reply")


def _detail(error: Any) -> str:
    """The status and the server's own words, on one line."""
    body = error.response.text if error.body is None else error.body
    words = body.get("message", body) if isinstance(body, dict) else body
    return " ".join(f"HTTP {error.status_code} {words}".split())[:300]
