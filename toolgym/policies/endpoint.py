"""``EndpointPolicy``: a model behind any OpenAI-compatible server plays."""

from __future__ import annotations

import asyncio
import os
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, EndpointError, PolicyError, did_you_mean
from toolgym.formats.grammar import with_markers
from toolgym.policies.base import Policy, Reply, Request, cut_at_stop, grammar_of, with_stop
from toolgym.policies.client import Dialect, Service, failure_of
from toolgym.policies.requests import read_native, with_text_arguments

__all__ = ["EndpointPolicy", "body_of", "reply_of"]

_GUIDES = ("structured_outputs", "guided_grammar", "grammar", "ebnf")
_MOST_STOPS = 4  # what the interface allows
_GIVEN_UP = ("abort", "error")  # finish reasons of vLLM and SGLang: what came is no reply
_PAUSE = 0.5  # seconds before a reply is asked for again that held nothing
_BYTES_PER_TOKEN = 4096  # of a reply's body, at most; probabilities of other tokens included
_LEAST_LIMIT, _MOST_LIMIT = 1 << 20, 1 << 24  # bytes


class NothingError(EndpointError):
    """A reply without text or calls: no turn of the model, but a failure of its server."""


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
        "messages": [with_text_arguments(chat) for chat in request.messages],
        "seed": request.seed % 2**31,  # servers differ in how large a seed may be
        **{name: value for name, value in sampling.items() if value is not None},
    }
    if request.format.stop:
        body["stop"] = list(request.format.stop[:_MOST_STOPS])
    if native_tools and request.tools:
        body["tools"] = request.tools
    return body


def reply_of(completion: Any, request: Request) -> Reply:
    """A completion as a reply, native calls written in the request's format, too.

    Raises:
        EndpointError: it is not a chat completion.
        NothingError: it holds neither text nor calls, or the server ended it in the middle.
    """
    choices = getattr(completion, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise EndpointError(
            "bad_reply", f"the server sent what is not a chat completion: {completion!r:.200}"
        )
    choice = choices[0]
    if choice.finish_reason in _GIVEN_UP:
        raise NothingError("bad_reply", f"the server gave the reply up ({choice.finish_reason!r})")
    told = any(getattr(choice.message, field, None) for field in ("tool_calls", "refusal"))
    if choice.message.content is None and not told:
        raise NothingError(
            "bad_reply",
            f"the reply holds neither text nor calls (finish_reason {choice.finish_reason!r}): a "
            "reasoning model may need a higher max_tokens",
        )
    try:
        reply = read_native(completion, request, own_ids=False)
    except PolicyError as error:
        raise EndpointError("bad_reply", f"the server sent what is not a reply: {error}") from error
    if reply.said is not None:
        return reply
    text = cut_at_stop(reply.text, request)
    if any(stop in reply.text for stop in request.format.stop):
        return Reply(text)  # a server that passes over stop texts writes on until it is cut
    if choice.finish_reason == "stop":
        return Reply(with_stop(text, _stops(choice, request), request))
    return reply


def _stops(choice: Any, request: Request) -> tuple[str, ...]:
    """Servers leave the stop text out of the reply; vLLM says which one it was."""
    extra = choice.model_extra or {}
    if "stop_reason" not in extra:
        return request.format.stop
    reason = extra["stop_reason"]
    return (reason,) if isinstance(reason, str) else ()


class EndpointPolicy(Policy):
    """Sends chat completions, many at a time; failures come back typed, after retries.

    Connection errors, time-outs, 408, 409, 425, 429 and 5xx are tried again, with exponential
    backoff and jitter, and not before the time that ``Retry-After`` names (up to two minutes; more
    is final); a reply that holds nothing is asked for again, too. Everything else is final at
    once. A sampling parameter that the server says it does not know is left out from then on, with
    a warning; ``max_tokens`` becomes ``max_completion_tokens`` where the server asks for it.

    Args:
        base_url: such as ``http://127.0.0.1:8000/v1``; ``#name`` at its end is the model, as in
            ``endpoint:http://127.0.0.1:8000/v1#my-model`` on the command line.
        model: the name under which the server knows the model.
        api_key: default: the environment variable ``OPENAI_API_KEY``; local servers need none.
        temperature: of the sampling; None leaves it to the server.
        top_p: nucleus sampling; None leaves it to the server.
        max_tokens: of one reply; None leaves it to the server.
        extra_body: further fields of the request, such as ``{"max_completion_tokens": 512,
            "chat_template_kwargs": {"enable_thinking": False}, "seed": None}``; None leaves a field
            out that would be sent.
        retries: further tries after the first.
        timeout: seconds for one try, from the request to the last byte.
        concurrency: requests under way at once.
        native_tools: give the tools to the server and read its ``tool_calls``; else they stand in
            the format's own text.
        guided: send the grammar of the format, in llguidance's Lark dialect, in this field: True or
            ``structured_outputs`` for vLLM, ``guided_grammar`` for vLLM before 0.12, ``grammar``
            for llama.cpp's server, ``ebnf`` for SGLang.
        guided_markers: marks of the format that are one token of the model's, such as
            ``("<tool_call>", "</tool_call>")`` for ``hermes`` with Qwen's.

    Raises:
        MissingExtraError: ``openai`` is not installed.
        BadInputError: no model, no http address, a number out of range, an unknown field for the
            grammar, or one with ``native_tools``.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        temperature: float | None = 1.0,
        top_p: float | None = 1.0,
        max_tokens: int | None = 512,
        extra_body: Mapping[str, Any] | None = None,
        retries: int = 5,
        timeout: float = 60.0,
        concurrency: int = 16,
        native_tools: bool = False,
        guided: bool | str = False,
        guided_markers: Sequence[str] = (),
        call_first: bool = False,
    ) -> None:
        address, _, named = base_url.partition("#")
        name = model or named
        if not address.startswith(("http://", "https://")):
            raise BadInputError(f"an endpoint's address begins with http:// , not {base_url!r}")
        if not name:
            raise BadInputError(
                f"endpoint {base_url!r} needs a model: pass model=..., or write {address}#name"
            )
        least = 1 if max_tokens is None else max_tokens
        if timeout <= 0 or concurrency < 1 or retries < 0 or least < 1:
            raise BadInputError(
                "timeout must be above 0, concurrency and max_tokens at least 1, "
                f"retries at least 0; got {timeout!r}, {concurrency!r}, {max_tokens!r}, {retries!r}"
            )
        if extra_body is not None and not isinstance(extra_body, Mapping):
            raise BadInputError(f"extra_body is a mapping of fields, not {extra_body!r:.80}")
        self._guide = _guide_field(guided, native_tools)
        self._markers = {text: text for text in guided_markers}
        if call_first and not self._guide:
            raise BadInputError("call_first is for guided replies: pass guided=True, too")
        self._call_first = call_first
        self._passed_over = False  # whether a reply came that is not of the grammar
        self._openai = require_extra("openai", "endpoint")
        self._extra, self._dialect = dict(extra_body or {}), Dialect()
        self._sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        self._address, self._name, self._native = address, name, native_tools
        self._retries = retries
        self._service = Service(
            self._openai,
            concurrency=concurrency,
            timeout=timeout,
            limit=min(_MOST_LIMIT, max(_LEAST_LIMIT, _BYTES_PER_TOKEN * (max_tokens or 4096))),
            base_url=address,
            api_key=api_key or os.environ.get("OPENAI_API_KEY") or "none",
        )
        self._finalizer = weakref.finalize(self, self._service.end)

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Ask for all replies at once; may be called from several threads.

        Raises:
            PolicyError: after `close`.
            BadInputError: replies are guided, and a request's format has no grammar.
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
        wanted = body_of(request, self._name, self._sampling, native_tools=self._native)
        if self._guide:
            grammar = with_markers(grammar_of(request, self._call_first), self._markers)
            nested = self._guide == _GUIDES[0]
            wanted[self._guide] = {"grammar": grammar} if nested else grammar
        wanted = {k: v for k, v in {**wanted, **self._extra}.items() if v is not None}
        left = self._retries
        while True:
            body = self._dialect.body(wanted)
            try:
                response = await self._service.complete(body, left)
                reply = reply_of(response.parse(), request)
                self._look(reply, request)
                return reply
            except NothingError as error:
                if left < 1:
                    return failure_of(error, self._openai, self._address)
                left -= 1
                await asyncio.sleep(_PAUSE)
            except self._openai.APIStatusError as error:
                words = error.response.text if error.body is None else str(error.body)
                if not self._dialect.adapt(body, error.status_code, words[:2000]):
                    failure = failure_of(error, self._openai, self._address)
                    return self._ungrammatical(failure, words)
            except Exception as error:  # whatever the client raises is typed here
                return failure_of(error, self._openai, self._address)

    def _ungrammatical(self, failure: EndpointError, words: str) -> EndpointError:
        """What a refusal means that speaks of the grammar."""
        said = words.casefold()
        if not self._guide or not any(w in said for w in (self._guide, "grammar", "guided")):
            return failure
        others = ", ".join(name for name in _GUIDES if name != self._guide)
        return EndpointError(
            failure.kind,
            f"{failure}; it refuses guided={self._guide!r}: serve with llguidance (vLLM: "
            f"--structured-outputs-config.backend guidance), name another field ({others}), or "
            "play unguided",
        )

    def _look(self, reply: Reply, request: Request) -> None:
        """Say once that a server takes the grammar and does not hold to it."""
        if self._passed_over or not self._guide or reply.cut:
            return
        problems = request.format.parse(reply.text, request.tools).problems
        self._passed_over = bool(problems)
        if problems:
            warnings.warn(
                f"{self._address} seems to pass over the field {self._guide!r}: a guided reply is "
                f"malformed ({problems[0].kind}); the run is recorded as guided",
                RuntimeWarning,
                stacklevel=2,
            )

    def describe(self) -> dict[str, Any]:
        """Address, model and sampling settings; never the key."""
        return {
            "policy": "endpoint",
            "base_url": self._address,
            "model": self._name,
            **self._sampling,
            "native_tools": self._native,
            **({"extra_body": self._extra} if self._extra else {}),
            **({"guided": self._guide} if self._guide else {}),
            **({"call_first": True} if self._call_first else {}),
        }

    def close(self) -> None:
        """Close the connections and end the thread."""
        self._finalizer()


def _guide_field(guided: bool | str, native_tools: bool) -> str:
    """The request's field that carries the grammar, or nothing."""
    field = _GUIDES[0] if guided is True else guided or ""
    if field and field not in _GUIDES:
        raise BadInputError(
            f"guided is True or a field of the request, not {guided!r}"
            f"{did_you_mean(str(guided), _GUIDES)}; known: {', '.join(_GUIDES)}"
        )
    if field and native_tools:
        raise BadInputError(
            "guided replies are texts of the format, which native_tools takes out of it: "
            "choose one of both"
        )
    return field
