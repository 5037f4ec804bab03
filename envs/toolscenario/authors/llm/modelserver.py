"""A model server asked for structured replies: bounded in time and size, failures typed."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, EndpointError, ToolgymError
from toolgym.policies.client import Service
from toolgym.policies.refusals import Dialect, EndlessError, failure_of, shown, structure_of

__all__ = ["Answer", "ModelServer", "StoppedError"]

_BYTES_PER_TOKEN = 64  # of a reply's body, at most; escaped signs and reasoning included
_LEAST_LIMIT = 1 << 18  # bytes
_SHORTEST_KEY = 12  # characters; what is shorter is a word such as "none" or "EMPTY"
_SECOND_TIMEOUT = 1  # a reply that took too long is asked for once more, not as often as others


class StoppedError(ToolgymError):
    """The build was stopped while a request was under way."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Args:
        text: of the reply.
        finish_reason: such as ``stop`` or ``length``.
        usage: tokens, as the server counts them; empty where it does not say.
        seconds: from the first try to the last byte.
        tries: requests sent, the failed ones included.
    """

    text: str
    finish_reason: str
    usage: dict[str, Any]
    seconds: float
    tries: int


class ModelServer:
    """One model behind an OpenAI-compatible server.

    Requests are tried again as those of `EndpointPolicy`; parameters that the server refuses by
    name (a JSON schema, ``temperature``, ``max_tokens``) are left out or renamed from then on.

    Args:
        base_url: such as ``http://127.0.0.1:8000/v1``.
        model: the server's name for it.
        api_key_env: environment variable with the key; local servers need none.
        sampling: ``temperature``, ``max_tokens`` and other fields of the request's body.
        structured: ask for JSON of a schema.
        timeout: seconds for one try, from the request to the last byte.
        resend: further tries of one request.
        concurrency: requests under way at once.

    Raises:
        MissingExtraError: ``aiohttp`` is not installed.
        BadInputError: no http address, or a number out of range.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str,
        sampling: Mapping[str, Any],
        structured: bool,
        timeout: float,
        resend: int,
        concurrency: int,
    ) -> None:
        self._base_url, self.address, self._model = base_url, shown(base_url), model
        if not model:
            raise BadInputError(f"endpoint {self.address!r} needs the name of a model")
        require_extra("aiohttp", "endpoint")  # here, and not in the middle of a build
        self._key_env, self._sampling = api_key_env, dict(sampling)
        self._timeout, self._resend, self._concurrency = timeout, resend, concurrency
        self._limit = max(_LEAST_LIMIT, _BYTES_PER_TOKEN * int(sampling["max_tokens"]))
        self._dialect = Dialect(structured)
        self._lock = threading.Lock()
        self._service: Service | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._stopped = False

    def begin(self) -> None:
        """Answer again after `stop`."""
        with self._lock:
            self._stopped = False

    def stop(self) -> None:
        """Give up what is under way, and refuse what comes after; may be called twice."""
        with self._lock:
            self._stopped, self._service = True, None
            if self._finalizer is not None:
                self._finalizer()
                self._finalizer = None

    def ask(
        self, messages: Sequence[Mapping[str, Any]], schema: Mapping[str, Any] | None, seed: int
    ) -> Answer:
        """Send a conversation; may be called from several threads.

        Args:
            messages: chat dicts.
            schema: JSON Schema of the reply; None asks for none.
            seed: of the sampling.

        Raises:
            EndpointError: the server failed, or refused.
            EndlessError: the reply is far longer than what was asked for.
            StoppedError: `stop` was called.
        """
        wanted = {
            "model": self._model,
            "messages": list(messages),
            "seed": seed,
            **{name: value for name, value in self._sampling.items() if value is not None},
        }
        return self._run(self._answer(wanted, schema))

    def alive(self) -> bool:
        """Whether the server answers a trivial request now: then a failure is of one request."""
        chat = {"role": "user", "content": "Reply with the word OK."}
        wanted = {"model": self._model, "messages": [chat], **self._sampling, "max_tokens": 16}
        plain = {name: value for name, value in wanted.items() if value is not None}
        try:
            self._run(self._once(self._dialect.body(plain), 0))
        except StoppedError:
            raise
        except EndlessError:
            return True
        except Exception:  # whatever it is: it did not answer
            return False
        return True

    def _run(self, coroutine: Any) -> Answer:
        with self._lock:
            if self._stopped:
                coroutine.close()
                raise StoppedError("the build was stopped")
            if self._service is None:
                self._service = Service(
                    [self._base_url],
                    concurrency=self._concurrency,
                    timeout=self._timeout,
                    limit=self._limit,
                    again_after_timeout=False,
                    api_key=self._key() or "none",
                )
                self._finalizer = weakref.finalize(self, self._service.end)
            future = self._service.submit(coroutine)
        try:
            answer: Answer = future.result()
        except CancelledError as error:
            raise StoppedError("the build was stopped") from error
        finally:
            future.cancel()
        return answer

    async def _answer(self, wanted: Mapping[str, Any], schema: Mapping[str, Any] | None) -> Answer:
        began, tries, too_long = time.monotonic(), 0, 0
        structure = self._dialect.format
        while True:
            body = self._dialect.body(wanted, schema)
            tries += 1
            try:
                answer = await self._once(body, self._resend)
            except (EndlessError, StoppedError):
                raise
            except Exception as error:  # whatever comes out of a request is typed here
                if getattr(error, "kind", "") == "timeout":
                    too_long += 1
                    if too_long <= min(_SECOND_TIMEOUT, self._resend):
                        continue
                status, words = getattr(error, "status", 0), getattr(error, "words", "")
                if not status or not self._dialect.adapt(body, status, words[:2000]):
                    raise self._failed(error, structure) from None
            else:
                self._dialect.proved.add(structure_of(body))
                spent, tries = time.monotonic() - began, tries + answer.tries - 1
                return Answer(answer.text, answer.finish_reason, answer.usage, spent, tries)

    def _failed(self, error: Exception, structure: str) -> EndpointError:
        self._dialect.restore(structure)
        failure = failure_of(error, self.address)
        return EndpointError(failure.kind, self.masked(str(failure)))

    async def _once(self, body: Mapping[str, Any], retries: int) -> Answer:
        service = self._service
        if service is None:
            raise StoppedError("the build was stopped")
        got = await service.post("/chat/completions", body, retries)
        return self._completion(got.data, got.tries)

    def _completion(self, data: bytes, tries: int) -> Answer:
        try:
            read = json.loads(data)
            choice = read["choices"][0]
            text, finish = choice["message"].get("content"), choice.get("finish_reason")
            usage = read.get("usage")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            shown = self.masked(data[:200].decode("utf-8", "replace"))
            raise ValueError(f"{type(error).__name__} in {shown!r}") from error
        if text is not None and not isinstance(text, str):
            raise ValueError(f"the content is not a string: {text!r:.100}")
        counted = {
            key: value
            for key, value in (usage if isinstance(usage, dict) else {}).items()
            if key in ("prompt_tokens", "completion_tokens") and isinstance(value, int)
        }
        # Half of a surrogate pair could be neither written to a file nor sent back.
        plain = (text or "").encode("utf-8", "replace").decode()
        return Answer(self.masked(plain), str(finish or ""), counted, 0.0, tries)

    def masked(self, text: str) -> str:
        """A text without the key: what a server says is written to files and screens."""
        key = self._key()
        if len(key) < _SHORTEST_KEY:
            return text
        # Error texts are cut: half a key has to go, too.
        return re.sub(re.escape(key[:_SHORTEST_KEY]) + r"[^\s\"']*", "[key]", text)

    def _key(self) -> str:
        return os.environ.get(self._key_env, "").strip()
