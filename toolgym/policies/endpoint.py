"""``EndpointPolicy``: a model behind any OpenAI-compatible server plays."""

from __future__ import annotations

import asyncio
import json
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, EndpointError, PolicyError
from toolgym.formats import Action
from toolgym.formats.calls import native_call
from toolgym.messages import Chat, ToolCall
from toolgym.policies.base import Policy, Reply, Request, cut_at_stop, with_stop
from toolgym.policies.client import Service, delay_before, failure_of

__all__ = ["EndpointPolicy", "body_of", "reply_of"]

_MOST_STOPS = 4  # what the interface allows


def body_of(
    request: Request, model: str, sampling: Mapping[str, Any], *, native_tools: bool
) -> dict[str, Any]:
    """The request's body.

    Args:
        request: of one turn.
        model: the server's name for it.
        sampling: settings; None values are left out.
        native_tools: whether the tools are sent as such.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [_sent(chat) for chat in request.messages],
        "seed": request.seed % 2**31,  # servers differ in how large a seed may be
        **{name: value for name, value in sampling.items() if value is not None},
    }
    if request.format.stop:
        body["stop"] = list(request.format.stop[:_MOST_STOPS])
    if native_tools and request.tools:
        body["tools"] = request.tools
    return body


def reply_of(completion: Any, request: Request) -> str:
    """The text of a completion, native calls written in the request's format.

    Raises:
        EndpointError: it is no chat completion.
    """
    choices = getattr(completion, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise EndpointError(
            "bad_reply", f"the server sent what is no chat completion: {completion!r:.200}"
        )
    choice = choices[0]
    text, calls = choice.message.content or "", choice.message.tool_calls or ()
    if not isinstance(text, str):
        raise EndpointError("bad_reply", f"the reply's content is no text: {text!r:.200}")
    if calls:
        read = tuple(_call(call, number) for number, call in enumerate(calls))
        return request.format.write(Action(text.strip(), read), request.tools)
    cut = cut_at_stop(text, request)
    if cut != text or choice.finish_reason != "stop":
        return cut
    return with_stop(text, _stops(choice, request), request)


def _stops(choice: Any, request: Request) -> tuple[str, ...]:
    """Servers leave the stop text out of the reply; vLLM says which one it was."""
    extra = choice.model_extra or {}
    if "stop_reason" not in extra:
        return request.format.stop
    reason = extra["stop_reason"]
    return (reason,) if isinstance(reason, str) else ()


def _call(call: Any, number: int) -> ToolCall:
    function = getattr(call, "function", None)
    if function is None or not isinstance(function.name, str):
        raise EndpointError("bad_reply", f"tool call {number + 1} has no function: {call!r:.200}")
    return native_call(function.name, function.arguments, number)


def _sent(chat: Chat) -> Chat:
    """A message as servers want it: arguments of calls as JSON text."""
    if "tool_calls" not in chat:
        return chat
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for call in chat["tool_calls"]
    ]
    return {**chat, "tool_calls": calls}


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
        self._openai = require_extra("openai", "endpoint")
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
