"""``EndpointPolicy``: a model behind any OpenAI-compatible server plays."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Sequence
from typing import Any

from toolgym._util.optional import need
from toolgym.errors import BadInputError, EndpointError, PolicyError
from toolgym.policies.base import Policy, Reply, Request
from toolgym.policies.chat_api import body_of, reply_of
from toolgym.policies.client import Service
from toolgym.policies.retry import delay_before, failure_of

__all__ = ["EndpointPolicy"]


class EndpointPolicy(Policy):
    """Sends chat completions, many at a time; failures come back typed, after retries.

    Connection errors, time-outs, 429 and 5xx are tried again, with exponential backoff and jitter,
    and not before the time that ``Retry-After`` names. Everything else is final at once.

    Args:
        base_url: such as ``http://127.0.0.1:8000/v1``; ``#name`` at its end is the model, as in
            ``endpoint:http://127.0.0.1:8000/v1#my-model`` on the command line.
        model: the name under which the server knows the model.
        api_key: default: the environment variable ``OPENAI_API_KEY``; local servers need none.
        temperature: of the sampling; None leaves it to the server.
        top_p: nucleus sampling; None leaves it to the server.
        max_tokens: of one reply.
        retries: further tries after the first.
        timeout: seconds for one try, from the request to the last byte.
        concurrency: requests under way at once.
        native_tools: give the tools to the server and read its ``tool_calls``; else they stand in
            the format's own text.

    Raises:
        MissingExtraError: ``openai`` is not installed.
        BadInputError: no model, no http address, or a number out of range.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        temperature: float | None = 1.0,
        top_p: float | None = 1.0,
        max_tokens: int = 512,
        retries: int = 5,
        timeout: float = 60.0,
        concurrency: int = 16,
        native_tools: bool = False,
    ) -> None:
        address, _, named = base_url.partition("#")
        name = model or named
        if not address.startswith(("http://", "https://")):
            raise BadInputError(f"an endpoint's address begins with http:// , not {base_url!r}")
        if not name:
            raise BadInputError(
                f"endpoint {base_url!r} needs a model: pass model=..., or write {address}#name"
            )
        if timeout <= 0 or concurrency < 1 or retries < 0 or max_tokens < 1:
            raise BadInputError(
                "timeout must be above 0, concurrency and max_tokens at least 1, "
                f"retries at least 0; got {timeout!r}, {concurrency!r}, {max_tokens!r}, {retries!r}"
            )
        self._openai = need("openai", "endpoint")
        self._sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        self._address, self._name, self._native = address, name, native_tools
        self._retries, self._timeout = retries, timeout
        self._service = Service(
            self._openai,
            concurrency,
            base_url=address,
            api_key=api_key or os.environ.get("OPENAI_API_KEY") or "none",
            timeout=timeout,
            max_retries=0,
        )
        self._finalizer = weakref.finalize(self, self._service.end)

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Ask for all replies at once; may be called from several threads.

        Raises:
            PolicyError: after `close`.
        """
        if not self._finalizer.alive:
            raise PolicyError("the policy was closed: make a new one")
        futures = [self._service.submit(self._one(request)) for request in requests]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    async def _one(self, request: Request) -> Reply | Exception:
        body = body_of(request, self._name, self._sampling, native_tools=self._native)
        attempt = 0
        while True:
            try:
                async with self._service.slots:
                    completion = await asyncio.wait_for(
                        self._service.client.chat.completions.create(**body), self._timeout
                    )
                return Reply(reply_of(completion, request))
            except EndpointError as error:
                return error
            except Exception as error:  # whatever the client raises is typed here
                failure = failure_of(error, self._openai, self._address, attempt + 1)
                delay = delay_before(attempt, error, request.seed)
                if not failure.again or attempt >= self._retries:
                    return failure.error
                attempt += 1
            await asyncio.sleep(delay)

    def describe(self) -> dict[str, Any]:
        """Address, model and sampling settings; never the key."""
        return {
            "policy": "endpoint",
            "base_url": self._address,
            "model": self._name,
            **self._sampling,
            "native_tools": self._native,
        }

    def close(self) -> None:
        """Close the connections and end the thread."""
        self._finalizer()
