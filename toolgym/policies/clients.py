"""Clients of model services as policies: OpenAI's, Anthropic's, LiteLLM's."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, EndpointError, in_words
from toolgym.messages import Chat
from toolgym.policies.base import Policy, Reply, Request
from toolgym.policies.completions import MOST_STOPS, body_of, reply_of
from toolgym.policies.refusals import Dialect
from toolgym.policies.requests import at
from toolgym.tools.base import Schema

__all__ = ["AnthropicPolicy", "ClientPolicy", "LiteLLMPolicy", "OpenAIPolicy", "policy_of_client"]

_MOST_TOKENS = 4096  # of a reply, where an interface demands a number and nobody gives one
_ENDS = {"end_turn": "stop", "max_tokens": "length", "refusal": "stop"}


class ClientPolicy(Policy):
    """Asks a client, a request at a time, in as many threads as there are episodes.

    The client is used as it was made: its address, key, retries and time-outs are its own.

    Args:
        client: of the service; one with ``async`` methods is run in a thread of its own.
        model: the service's name for it.
        own: whether the client is closed with the policy.
        native_tools: give the tools to the service and read its ``tool_calls``; with the format
            ``native`` it is always so.
        sampling: ``temperature``, ``top_p``, ``max_tokens``, and whatever else the client's method
            takes; None values are left out.

    Raises:
        BadInputError: no model.
    """

    name: ClassVar[str]

    def __init__(
        self, client: Any, model: str, own: bool, native_tools: bool, sampling: Mapping[str, Any]
    ) -> None:
        if not isinstance(model, str) or not model:
            raise BadInputError(
                f"which model? name it, as policy_args={{'model': ...}} or {self.name}:MODEL"
            )
        self._client, self._model, self._own, self._native = client, model, own, native_tools
        self._sampling = {key: value for key, value in sampling.items() if value is not None}

    @abstractmethod
    def ask(self, request: Request, sampling: dict[str, Any]) -> Any:
        """Ask for a turn; returns a chat completion as a dict, or an awaitable of what came.

        Args:
            request: of the turn.
            sampling: settings of the request.
        """

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Ask for each turn; what the client raises is an `EndpointError` with its kind."""
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Reply | Exception:
        sampling = dict(self._sampling)
        if request.tokens_left is not None:
            most = sampling.get("max_tokens", request.tokens_left)
            sampling["max_tokens"] = min(most, request.tokens_left)
        try:
            completion = self.ask(request, sampling)
            reply = reply_of(completion, request)
        except EndpointError as error:
            return error
        except Exception as error:  # whatever a client raises is typed here
            return _failure(error)
        count = at(at(completion, "usage"), "completion_tokens")
        return replace(reply, count=count if isinstance(count, int) else None)

    def finished(self, value: Any) -> Any:
        """What a client's method gave, awaited where it has to be."""
        if not inspect.isawaitable(value):
            return value
        return asyncio.run_coroutine_threadsafe(_wait(value), _loop(os.getpid())).result()

    def describe(self) -> dict[str, Any]:
        """Model, address and sampling settings; never the key."""
        address = getattr(self._client, "base_url", None)
        return {
            "policy": self.name,
            "model": self._model,
            **({"base_url": str(address)} if address is not None else {}),
            **self._sampling,
            "native_tools": self._native,
        }

    def close(self) -> None:
        """Close the client, where it is the policy's own."""
        if self._own and callable(getattr(self._client, "close", None)):
            self.finished(self._client.close())


@functools.lru_cache(maxsize=1)
def _loop(_process: int) -> asyncio.AbstractEventLoop:
    """The loop of a process for all asynchronous clients: each belongs to the first it is used in.

    It runs in a thread of its own, until the process ends.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="toolgym-clients", daemon=True).start()
    return loop


async def _wait(value: Any) -> Any:
    return await value


def _failure(error: Exception) -> EndpointError:
    """A client's error by what it says of itself."""
    status, name = getattr(error, "status_code", None), type(error).__name__
    kind = "bad_reply"
    if "Timeout" in name or isinstance(error, TimeoutError):
        kind = "timeout"
    elif "Connection" in name or isinstance(error, OSError):
        kind = "connection"
    elif isinstance(status, int):
        kind = "rate_limit" if status == 429 else "server" if status >= 500 else "refused"
    raised = EndpointError(kind, f"{name}: {in_words(error)[:300]}")
    raised.__cause__ = error
    return raised


class OpenAIPolicy(ClientPolicy):
    """Chat completions through OpenAI's client, of any address.

    A parameter that the service says it does not know is left out from then on, with a warning.

    Args:
        model: its name.
        client: an ``openai.OpenAI`` or ``openai.AsyncOpenAI``; default: one is made.
        base_url: of a client that is made; default: ``OPENAI_BASE_URL``, or OpenAI's.
        native_tools: see `ClientPolicy`.
        sampling: see `ClientPolicy`.

    Raises:
        MissingExtraError: a client has to be made, and ``openai`` is not installed.
        BadInputError: no model, or no key.
    """

    name = "openai"

    def __init__(
        self,
        model: str,
        *,
        client: Any = None,
        base_url: str | None = None,
        native_tools: bool = False,
        **sampling: Any,
    ) -> None:
        own = client is None
        if own:
            openai = require_extra("openai", "openai")
            client = _made(openai.OpenAI, base_url)
        super().__init__(client, model, own, native_tools, sampling)
        self._dialect = Dialect()

    def ask(self, request: Request, sampling: dict[str, Any]) -> Any:
        """Ask for a turn, again where the service has said what it does not take."""
        native = self._native or request.format.native
        wanted = body_of(request, self._model, sampling, native_tools=native)
        while True:
            body = self._dialect.body(wanted)
            try:
                return _dumped(self.finished(self._client.chat.completions.create(**body)))
            except Exception as error:  # of any version of the client
                status = getattr(error, "status_code", None)
                if not status or not self._dialect.adapt(body, status, str(error)[:2000]):
                    raise


class LiteLLMPolicy(ClientPolicy):
    """Chat completions through ``litellm.completion``, of any provider that it knows.

    Args:
        model: as LiteLLM names it, such as ``anthropic/NAME`` or ``ollama/NAME``.
        native_tools: see `ClientPolicy`.
        sampling: see `ClientPolicy`; also ``api_base``.

    Raises:
        MissingExtraError: ``litellm`` is not installed.
        BadInputError: no model.
    """

    name = "litellm"

    def __init__(self, model: str, *, native_tools: bool = False, **sampling: Any) -> None:
        client = require_extra("litellm", "litellm")
        super().__init__(client, model, False, native_tools, sampling)

    def ask(self, request: Request, sampling: dict[str, Any]) -> Any:
        """Ask for a turn; providers differ in whether they take a seed, so none is sent."""
        native = self._native or request.format.native
        body = body_of(request, self._model, sampling, native_tools=native)
        del body["seed"]
        return _dumped(self._client.completion(**body))


class AnthropicPolicy(ClientPolicy):
    """Messages through Anthropic's client, written and read as chat completions are.

    Args:
        model: its name.
        client: an ``anthropic.Anthropic`` or ``anthropic.AsyncAnthropic``; default: one is made.
        base_url: of a client that is made.
        native_tools: see `ClientPolicy`.
        sampling: see `ClientPolicy`; ``max_tokens`` is 4096 where it is not given.

    Raises:
        MissingExtraError: a client has to be made, and ``anthropic`` is not installed.
        BadInputError: no model, or no key.
    """

    name = "anthropic"

    def __init__(
        self,
        model: str,
        *,
        client: Any = None,
        base_url: str | None = None,
        native_tools: bool = False,
        **sampling: Any,
    ) -> None:
        own = client is None
        if own:
            anthropic = require_extra("anthropic", "anthropic")
            client = _made(anthropic.Anthropic, base_url)
        super().__init__(client, model, own, native_tools, {"max_tokens": _MOST_TOKENS} | sampling)

    def ask(self, request: Request, sampling: dict[str, Any]) -> Any:
        """Ask for a turn."""
        system, messages = anthropic_messages(request.messages)
        body: dict[str, Any] = {"model": self._model, "messages": messages, **sampling}
        body |= {"system": system} if system else {}
        stops = [stop for stop in request.format.stop if stop.strip()][:MOST_STOPS]
        body |= {"stop_sequences": stops} if stops else {}
        if (self._native or request.format.native) and request.tools:
            body["tools"] = [_anthropic_tool(tool) for tool in request.tools]
        return as_completion(_dumped(self.finished(self._client.messages.create(**body))))


def anthropic_messages(chats: Sequence[Chat]) -> tuple[str, list[dict[str, Any]]]:
    """A conversation as Anthropic's interface has it: turns alternate, results are the user's.

    Args:
        chats: as `toolgym.messages.Message.to_chat` writes them.

    Returns:
        The system text, and the messages.
    """
    system: list[str] = []
    found: list[dict[str, Any]] = []
    for chat in chats:
        if chat["role"] == "system":
            system.append(chat["content"])
            continue
        role = "assistant" if chat["role"] == "assistant" else "user"
        if found and found[-1]["role"] == role:
            found[-1]["content"] += _parts(chat)
        else:
            found.append({"role": role, "content": _parts(chat)})
    return "\n\n".join(system), [one for one in found if one["content"]]


def _parts(chat: Chat) -> list[dict[str, Any]]:
    if chat["role"] == "tool":
        known = {"tool_use_id": chat["tool_call_id"], "content": chat["content"]}
        return [{"type": "tool_result", **known}]
    text = [{"type": "text", "text": chat["content"]}] if chat["content"].strip() else []
    calls = [
        {
            "type": "tool_use",
            "id": call["id"],
            "name": call["function"]["name"],
            "input": call["function"]["arguments"],
        }
        for call in chat.get("tool_calls", ())
    ]
    return [*text, *calls]


def _anthropic_tool(tool: Schema) -> dict[str, Any]:
    function = tool["function"]
    told = {"name": function["name"], "description": function["description"]}
    return {**told, "input_schema": function["parameters"]}


def as_completion(message: Any) -> dict[str, Any]:
    """A message of Anthropic's as a chat completion; its reasoning is left out.

    Args:
        message: as ``model_dump()`` gives it.

    Raises:
        EndpointError: it is not such a message.
    """
    parts = at(message, "content")
    if not isinstance(parts, list):
        raise EndpointError("bad_reply", f"the service sent what is no message: {message!r:.200}")
    text = "".join(str(at(part, "text") or "") for part in parts if at(part, "type") == "text")
    calls = [
        {
            "id": at(part, "id"),
            "function": {"name": at(part, "name"), "arguments": json.dumps(at(part, "input"))},
        }
        for part in parts
        if at(part, "type") == "tool_use"
    ]
    reason, stop = at(message, "stop_reason"), at(message, "stop_sequence")
    said = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
    choice = {"message": said, "finish_reason": _ENDS.get(str(reason), "stop"), "stop_reason": stop}
    count = at(at(message, "usage"), "output_tokens")
    return {"choices": [choice], "usage": {"completion_tokens": count}}


def _made(kind: Any, base_url: str | None) -> Any:
    try:
        return kind(**({} if base_url is None else {"base_url": base_url}))
    except Exception as error:  # no key, which each version says in its own way
        raise BadInputError(f"{kind.__name__} cannot be made: {in_words(error)[:200]}") from error


def _dumped(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else value


def policy_of_client(client: Any, options: Mapping[str, Any]) -> ClientPolicy | None:
    """A policy of a client, or None where it is none that is known.

    Args:
        client: whatever was given for a policy.
        options: ``model``, and the sampling.

    Raises:
        BadInputError: no model is named.
    """
    chat = getattr(getattr(client, "chat", None), "completions", None)
    model, more = options.get("model", ""), {k: v for k, v in options.items() if k != "model"}
    if callable(getattr(chat, "create", None)):
        return OpenAIPolicy(model, client=client, **more)
    if callable(getattr(getattr(client, "messages", None), "create", None)):
        return AnthropicPolicy(model, client=client, **more)
    return None
