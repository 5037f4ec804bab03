"""``EndpointPolicy``: a model behind any OpenAI-compatible server plays."""

from __future__ import annotations

import asyncio
import os
import re
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import NoneType
from typing import Any

from toolgym._util.jsonl import not_json
from toolgym._util.kinds import require, require_each
from toolgym.errors import BadInputError, EndpointError, PolicyError, did_you_mean
from toolgym.formats.grammar import with_markers
from toolgym.policies.base import Lane, Policy, Reply, ReplyTokens, Request
from toolgym.policies.client import Service
from toolgym.policies.completions import (
    NothingError,
    body_of,
    reasoning_of,
    reply_of,
    tokens_of,
)
from toolgym.policies.guiding import Narrow, grammar_of
from toolgym.policies.lanes import Lanes
from toolgym.policies.refusals import Dialect, RefusedError, failure_of, shown
from toolgym.policies.requests import at

__all__ = ["EndpointPolicy"]

_GUIDES = ("structured_outputs", "guided_grammar", "grammar", "ebnf")
_EPISODES = 16  # that a rollout runs at once for each server, where nobody says how many
_TOKENS = ("return_token_ids", "logprobs", "return_prompt_token_ids", "return_meta_info")
_CLOSED = "the policy was closed: make a new one"
_PAUSE = 0.5  # seconds before a reply is asked for again that held nothing
_BYTES_PER_TOKEN = 4096  # of a reply's body, at most; probabilities of other tokens included
_MANY = 1 << 31
_LEAST_LIMIT, _MOST_LIMIT = 1 << 20, 1 << 24  # bytes


class EndpointPolicy(Policy):
    """Sends chat completions, many at a time; failures come back typed, after retries.

    Connection errors, time-outs, 408, 409, 425, 429 and 5xx are tried again, with exponential
    backoff and jitter, and not before the time that ``Retry-After`` names (up to two minutes; more
    is final); a reply that holds nothing is asked for again, too. Everything else is final at
    once. A server that has answered before and is away (nobody listens, or 503) costs no tries:
    another one is asked, or it is waited for. A sampling parameter that the server says it does
    not know is left out from then on, with a warning; ``max_tokens`` becomes
    ``max_completion_tokens`` where the server asks for it.

    Args:
        base_url: such as ``http://127.0.0.1:8000/v1``; ``#name`` at its end is the model, as in
            ``endpoint:http://127.0.0.1:8000/v1#my-model`` on the command line. Several, in a list
            or with commas between them, share the work: an episode stays with one of them, the one
            that had the fewest when it began.
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
        concurrency: requests under way at once, and episodes that a rollout runs where it is not
            told; default: as many as there are episodes, 16 a server.
        patience: seconds that servers which have answered before are waited for while none of them
            can be reached; 0 counts an outage as failed tries.
        tokens: ask for the token ids and log-probabilities of each turn, for `Trajectory.tokens`.
        native_tools: give the tools to the server and read its ``tool_calls``; else they stand in
            the format's own text. With the format ``native`` it is always so.
        guided: send the grammar of the format, in llguidance's Lark dialect, in this field: True or
            ``structured_outputs`` for vLLM, ``guided_grammar`` for vLLM before 0.12, ``grammar``
            for llama.cpp's server, ``ebnf`` for SGLang.
        guided_markers: marks of the format that are one token of the model's, such as
            ``("<tool_call>", "</tool_call>")`` for ``hermes`` with Qwen's.
        narrow: what guided replies hold to beside the grammar, see
            `toolgym.policies.guiding.Narrow`.

    Raises:
        MissingExtraError: ``aiohttp`` is not installed.
        BadInputError: no model, no http address, a number out of range, an unknown field for the
            grammar, or one with ``native_tools``.
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        *,
        model: str | None = None,
        api_key: str | None = None,
        temperature: float | None = 1.0,
        top_p: float | None = 1.0,
        max_tokens: int | None = 512,
        extra_body: Mapping[str, Any] | None = None,
        retries: int = 5,
        timeout: float = 60.0,
        concurrency: int | None = None,
        patience: float = 600.0,
        native_tools: bool = False,
        guided: bool | str = False,
        guided_markers: Sequence[str] = (),
        narrow: Narrow | Mapping[str, Any] | None = None,
        tokens: bool = False,
    ) -> None:
        addresses, name = _addresses(base_url, model)
        for name_of, value in {"temperature": temperature, "top_p": top_p}.items():
            require(value, (int, float, NoneType), f"{name_of} is a number, or None")
        least = 1 if max_tokens is None else max_tokens
        at_once = 1 if concurrency is None else concurrency
        if timeout <= 0 or at_once < 1 or retries < 0 or least < 1 or not patience >= 0:
            raise BadInputError(
                "timeout must be above 0, concurrency and max_tokens at least 1, "
                f"retries at least 0, patience, too; got {timeout!r}, {concurrency!r}, "
                f"{max_tokens!r}, {retries!r}, {patience!r}"
            )
        if extra_body is not None and not isinstance(extra_body, Mapping):
            raise BadInputError(f"extra_body is a mapping of fields, not {extra_body!r:.80}")
        why = not_json(dict(extra_body or {}))
        if why:
            raise BadInputError(f"extra_body cannot be sent as JSON: it {why}")
        self._guide = _guide_field(guided, native_tools)
        self._markers = {text: text for text in guided_markers}
        self._narrow = Narrow.read(narrow, bool(self._guide))
        self._passed_over = False  # whether a reply came that is not of the grammar
        self._extra, self._dialect = dict(extra_body or {}), Dialect()
        self._sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        self._addresses, self._name, self._native = [*map(shown, addresses)], name, native_tools
        self._retries, self._concurrency, self._tokens = retries, concurrency, tokens
        self._reasoning = ""  # the field in which the server gives it
        self._told_of_tokens = False
        self._service = Service(
            addresses,
            concurrency=concurrency,
            timeout=timeout,
            patience=patience,
            limit=min(_MOST_LIMIT, max(_LEAST_LIMIT, _BYTES_PER_TOKEN * (max_tokens or 4096))),
            api_key=api_key or os.environ.get("OPENAI_API_KEY") or "none",
        )
        self._lanes = Lanes()
        self._finalizer = weakref.finalize(self, self._service.end)

    @property
    def concurrency(self) -> int:
        """As many as were named, else some for each server."""
        return self._concurrency or _EPISODES * len(self._addresses)

    @property
    def guided(self) -> bool:
        """Whether a grammar holds the replies."""
        return bool(self._guide)

    @property
    def notice(self) -> str:
        """Which servers are waited for."""
        return self._service.waiting

    def expect(self) -> None:
        """The servers are known to be right: each is waited for, also before its first answer."""
        self._service.expect()

    def forget(self, episode: str) -> None:
        """The episode has ended: its server may get another one."""
        self._service.forget(episode)

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Ask for all replies at once; may be called from several threads.

        Raises:
            PolicyError: after `close`.
            BadInputError: replies are guided, and a request's format has no grammar.
        """
        if not self._finalizer.alive:
            raise PolicyError(_CLOSED)
        futures = [self._service.submit(self._one(request)) for request in requests]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    @property
    def sends(self) -> bool:
        """Unless a subclass answers in its own way."""
        return type(self).act is EndpointPolicy.act

    def send(self, lanes: Sequence[Lane]) -> None:
        """Ask what these lanes ask for, all at once, and do not wait for it.

        Raises:
            PolicyError: after `close`.
        """
        if not self._finalizer.alive:
            raise PolicyError(_CLOSED)
        for lane in lanes:
            self._service.call(partial(self._lanes.begin, self._one, lane))

    async def _one(self, request: Request) -> Reply | Exception:
        where, left = self._addresses[0], self._retries
        try:
            route, wanted = self.wanted(request)
        except PolicyError as error:
            return error
        more = dict.fromkeys(_TOKENS, True) if self._tokens else {}
        wanted = {k: v for k, v in {**more, **wanted, **self._extra}.items() if v is not None}
        try:
            while True:
                body = self._dialect.body(wanted)
                try:
                    got = await self._service.post(route, body, left, request.episode)
                    where = got.address
                    return self.read(got.json(), request, body)
                except NothingError as error:
                    if left < 1:
                        return NothingError(error.kind, f"{where}: {error}")
                    left -= 1
                    await asyncio.sleep(_PAUSE)
                except RefusedError as error:
                    if not self._dialect.adapt(body, error.status, error.words[:2000]):
                        return self._ungrammatical(error, error.words)
        except Exception as error:  # whatever a reply holds is typed here
            return failure_of(error, where)

    def wanted(self, request: Request) -> tuple[str, dict[str, Any]]:
        """The route for a request, and the fields of its body.

        Raises:
            PolicyError: it cannot be sent.
            BadInputError: replies are guided, and the request's format has no grammar.
        """
        sampling = dict(self._sampling)
        if request.tokens_left is not None:
            sampling["max_tokens"] = min(sampling["max_tokens"] or _MANY, request.tokens_left)
        fields = body_of(
            request,
            self._name,
            sampling,
            native_tools=self._native or request.format.native,
            reasoning=self._reasoning,
        )
        if self._guide:
            grammar = with_markers(grammar_of(request, self._narrow), self._markers)
            nested = self._guide == _GUIDES[0]
            fields[self._guide] = {"grammar": grammar} if nested else grammar
        return "/chat/completions", fields

    def read(self, completion: Any, request: Request, body: Mapping[str, Any]) -> Reply:
        """A reply of what came for a body.

        Raises:
            EndpointError: it is not a completion.
            NothingError: it holds nothing.
        """
        count = at(at(completion, "usage"), "completion_tokens")
        reply = replace(
            reply_of(completion, request), count=count if isinstance(count, int) else None
        )
        self._look(reply, request)
        message = at(at(at(completion, "choices"), 0), "message")
        self._reasoning = reasoning_of(message)[1] or self._reasoning
        if not self._tokens or _shortened(at(message, "content"), reply, request):
            return reply
        return replace(reply, tokens=self._said(completion))

    def _said(self, completion: Any) -> ReplyTokens | None:
        """The tokens of a completion; a server that says none is told of once."""
        tokens = tokens_of(completion)
        if tokens is None and not self._told_of_tokens:
            self._told_of_tokens = True
            warnings.warn(
                f"{self._addresses[0]} does not say its token ids: these trajectories have no "
                "tokens, and training will tokenise their texts again",
                RuntimeWarning,
                stacklevel=2,
            )
        return tokens and replace(tokens, guided=self.guided)

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
                f"{self._addresses[0]} seems to pass over the field {self._guide!r}: a guided "
                f"reply is malformed ({problems[0].kind}); the run is recorded as guided",
                RuntimeWarning,
                stacklevel=2,
            )

    def describe(self) -> dict[str, Any]:
        """Address, model and sampling settings; never the key."""
        return {
            "policy": "endpoint",
            "base_url": self._addresses[0] if len(self._addresses) == 1 else self._addresses,
            "model": self._name,
            **self._sampling,
            "native_tools": self._native,
            **({"extra_body": self._extra} if self._extra else {}),
            **({"guided": self._guide} if self._guide else {}),
            **({"narrow": said} if (said := self._narrow.said) else {}),
            **({"tokens": True} if self._tokens else {}),
        }

    def cancel(self) -> None:
        """Give up all requests that are under way, or wait for a server that is away."""
        self._service.cancel()

    def close(self) -> None:
        """Close the connections and end the thread."""
        self._finalizer()


def _shortened(content: Any, reply: Reply, request: Request) -> bool:
    """Whether a server passed over a stop text and sampled on: its tokens are not the reply's."""
    if not isinstance(content, str) or not any(stop in content for stop in request.format.stop):
        return False
    return not reply.text.endswith(content)


def _addresses(base_url: str | Sequence[str], model: str | None) -> tuple[list[str], str]:
    """Addresses of servers, and the name of the model that all of them serve.

    Raises:
        BadInputError: there is no address, or none of them names the model, or they differ in it.
    """
    meant = "base_url is an address or a list of some"
    several = re.split(r",\s*(?=https?:)", base_url) if isinstance(base_url, str) else base_url
    listed = require_each(several, str, meant)
    if not listed:
        raise BadInputError(f"{meant}, not {base_url!r:.80}")
    require(model, (str, NoneType), "a model is named by a string")
    parts = [address.strip().partition("#") for address in listed]
    addresses = [*dict.fromkeys(address for address, _, _ in parts)]
    places = [*map(shown, addresses)]
    names = {model} if model else {name for _, _, name in parts if name}
    if not names:
        raise BadInputError(
            f"endpoint {places[0]!r} needs a model: pass model=..., or write {places[0]}#name"
        )
    if len(names) > 1:
        raise BadInputError(f"several servers serve one model, not {sorted(names)!r:.200}")
    return addresses, names.pop()


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
