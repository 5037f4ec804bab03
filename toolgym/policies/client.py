"""Talking to model servers: one client with real deadlines, and what its failures mean.

When a request is sent again is the client library's affair: after connection errors, time-outs,
408, 409, 429 and 5xx, with exponential backoff, and not before the time that ``Retry-After`` names,
up to two minutes. What the library lacks stands here: a deadline for a whole try where it has one
for each read, a bound for the reply's size, and no redirects, which turn a POST into a GET.
"""

from __future__ import annotations

import asyncio
import importlib
import re
import threading
import warnings
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from toolgym.errors import EndpointError

__all__ = ["Dialect", "EndlessError", "Service", "failure_of", "structure_of"]

T = TypeVar("T")


class EndlessError(EndpointError):
    """A reply with many more bytes than the tokens that were asked for."""


class Service:
    """A thread with an event loop that owns the client; what it runs ends at real deadlines.

    Args:
        openai: the module.
        concurrency: tries under way at once; who waits for the next try holds no place.
        timeout: seconds of one try, from the request to the last byte.
        limit: bytes of a reply.
        retry_timeouts: whether the library tries again after a try that took too long; else a
            `TimeoutError` comes out.
        client: arguments of ``openai.AsyncOpenAI``.
    """

    def __init__(
        self,
        openai: Any,
        *,
        concurrency: int,
        timeout: float,
        limit: int,
        retry_timeouts: bool = True,
        **client: Any,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="toolgym-endpoint", daemon=True)
        self._thread.start()
        slots = asyncio.Semaphore(concurrency)
        base = openai.DefaultAsyncHttpxClient
        http = _bounded_client(base, slots, timeout, limit, retry_timeouts)
        self.client = openai.AsyncOpenAI(http_client=http, timeout=None, **client)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def complete(self, body: Mapping[str, Any], retries: int) -> Any:
        """The library's raw response to a chat completion.

        Args:
            body: any fields, also those that the library does not know.
            retries: further tries after the first.
        """
        rest = dict(body)
        known = {name: rest.pop(name) for name in ("model", "messages")}
        client = self.client.with_options(max_retries=retries)
        return await client.chat.completions.with_raw_response.create(**known, extra_body=rest)

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


def _bounded_client(
    base: Any, slots: asyncio.Semaphore, timeout: float, limit: int, again: bool
) -> Any:
    """The library's own HTTP client with the bounds that it lacks; see `Service`."""
    names = (kind.__module__.partition(".")[0] for kind in base.__mro__)
    http = importlib.import_module(next(name for name in names if name.startswith("httpx")))

    class Bounded(base):  # type: ignore[misc]
        async def send(self, request: Any, **options: Any) -> Any:
            async with slots:
                try:
                    async with asyncio.timeout(timeout):
                        response = await super().send(request, **{**options, "stream": True})
                        try:
                            data = await _body(response, limit)
                        finally:
                            await response.aclose()
                except TimeoutError as error:
                    if not again:
                        raise
                    raise http.ReadTimeout(f"{timeout:g} seconds", request=request) from error
            plain = [(k, v) for k, v in response.headers.items() if k != "content-encoding"]
            if response.status_code == 425:  # "too early", which the library takes for final
                plain.append(("x-should-retry", "true"))
            return http.Response(response.status_code, headers=plain, content=data, request=request)

    # A reply that is not compressed cannot grow a thousandfold when it is read.
    return Bounded(follow_redirects=False, headers={"Accept-Encoding": "identity"})


async def _body(response: Any, limit: int) -> bytes:
    data = bytearray()
    async for piece in response.aiter_bytes():
        data += piece
        if len(data) > limit:
            raise EndlessError("bad_reply", f"the reply has more than {limit:,} bytes")
    return bytes(data)


def failure_of(error: Exception, openai: Any, address: str) -> EndpointError:
    """Type an exception of the client.

    Args:
        error: what the client raised.
        openai: the module.
        address: for the message.
    """
    if isinstance(error, EndpointError):
        return type(error)(error.kind, f"{address}: {error}")
    request = getattr(error, "request", None)
    tries = 1 + int(request.headers.get("x-stainless-retry-count", 0)) if request is not None else 1
    tail = f" ({tries} tries)" if tries > 1 else ""
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return EndpointError("timeout", f"no reply from {address} in time{tail}; raise timeout")
    if isinstance(error, openai.APIStatusError):
        return _status(error, f"{address}: {_detail(error)}{tail}")
    if isinstance(error, openai.APIResponseValidationError | ValueError):
        # json.JSONDecodeError is a ValueError: the body was not JSON.
        text = f"{address} sent what is not a chat completion: {error!s:.200}"
        return EndpointError("bad_reply", text)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        why = f"{type(cause).__name__}: {cause}".rstrip(": ")
        text = f"{address} cannot be reached ({why}){tail}; is it running?"
        return EndpointError("connection", text)
    return EndpointError("bad_reply", f"{address}: {type(error).__name__}: {error!s:.200}")


def _status(error: Any, text: str) -> EndpointError:
    code = error.status_code
    if code == 429:
        return EndpointError("rate_limit", f"{text}; lower concurrency or wait")
    if code >= 500 or code in (408, 409, 425):
        return EndpointError("server", text)
    if code < 400:
        there = error.response.headers.get("location", "elsewhere")
        return EndpointError("refused", f"{text}; it redirects to {there!r:.200}: name that")
    return EndpointError("refused", f"{text}; the request itself is wrong")


def _detail(error: Any) -> str:
    """The status and the server's own words, on one line."""
    body = error.response.text if error.body is None else error.body
    words = body.get("message", body) if isinstance(body, dict) else body
    return " ".join(f"HTTP {error.status_code} {words}".split())[:300]


_REFUSALS = (400, 415, 422, 500, 501)
_STRUCTURE = ("response_format", "json_schema", "json_object", "grammar", "guided")
_SPARED = ("temperature", "top_p", "seed", "stop")
_UNKNOWN = re.compile(
    "not support|unsupported|deprecated|unknown|unrecogni|unexpected|not permitted|not allowed"
    "|extra|no such"
)


class Dialect:
    """The request's body as the server has been found to take it; begins with everything.

    Args:
        structured: ask for JSON of a schema.
    """

    def __init__(self, structured: bool = False) -> None:
        self.format = "json_schema" if structured else ""
        self.limit = "max_tokens"
        self.without: frozenset[str] = frozenset()
        self.proved: set[str] = set()  # the structures with which a reply has come

    def body(
        self, wanted: Mapping[str, Any], schema: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A request's body.

        Args:
            wanted: its fields, as the interface was first documented.
            schema: JSON Schema of the reply, or None.
        """
        made = {key: value for key, value in wanted.items() if key not in self.without}
        if "max_tokens" in made:
            made[self.limit] = made.pop("max_tokens")
        if schema and self.format == "json_schema":
            named = {"name": "reply", "schema": schema, "strict": False}
            made["response_format"] = {"type": "json_schema", "json_schema": named}
        elif schema and self.format:
            made["response_format"] = {"type": "json_object"}
        return made

    def adapt(self, body: Mapping[str, Any], status: int, refusal: str) -> bool:
        """Learn from a refusal; what is left out from then on is said by a warning.

        Args:
            body: that was refused.
            status: of HTTP.
            refusal: what the server said.

        Returns:
            Whether another body may be accepted.
        """
        if status not in _REFUSALS:
            return False
        said = refusal.casefold()
        kind = structure_of(body)
        named = {name for name in _SPARED if name in said and name in body}
        if "max_tokens" in body and "max_completion_tokens" in said:
            self.limit = "max_completion_tokens"
        elif named and _UNKNOWN.search(said):
            self.without = self.without | named
            warnings.warn(
                f"the server takes no {', '.join(sorted(named))} ({said:.120}): left out",
                RuntimeWarning,
                stacklevel=2,
            )
        elif kind and (
            any(word in said for word in _STRUCTURE) or (status < 500 and kind not in self.proved)
        ):
            if self.format == kind:
                self.format = "json_object" if kind == "json_schema" else ""
        else:
            return False
        return True

    def restore(self, structure: str) -> None:
        """Ask for this structure again where a lower one has brought no reply either.

        Args:
            structure: what was asked for before.
        """
        if self.format not in self.proved:
            self.format = structure


def structure_of(body: Mapping[str, Any]) -> str:
    """What a body asks for: ``json_schema``, ``json_object`` or nothing."""
    return str(body.get("response_format", {}).get("type", ""))
