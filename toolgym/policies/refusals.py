"""What model servers say instead of a reply: typed errors, and what to learn from a refusal."""

from __future__ import annotations

import contextlib
import json
import re
import time
import warnings
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from toolgym.errors import BadInputError, EndpointError

__all__ = [
    "Dialect",
    "EndlessError",
    "RefusedError",
    "failure_of",
    "refusal_of",
    "shown",
    "structure_of",
    "unreachable",
]

_MOST_ASKED = 120.0  # seconds that a server may ask to wait for
_LATER = (408, 409, 425, 429)
AWAY = 503
"""Status of a server that loads its model, or of a gateway without one."""


class EndlessError(EndpointError):
    """A reply with many more bytes than the tokens that were asked for."""


class RefusedError(EndpointError):
    """A try that failed.

    Args:
        kind: as of `EndpointError`.
        message: what happened.
        advice: what to do; follows the number of tries.
        status: of HTTP; 0 where nothing came.
        words: the server's own.
        again: whether another try may succeed.
        after: seconds that the server asks to wait.
        away: the server is not there.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        advice: str = "",
        *,
        status: int = 0,
        words: str = "",
        again: bool = True,
        after: float = 0.0,
        away: bool = False,
    ) -> None:
        super().__init__(kind, message)
        self.advice, self.status, self.words = advice, status, words
        self.again, self.after, self.away = again, after, away

    def told(self, tries: int) -> RefusedError:
        """The same with the number of tries and the advice in its message."""
        tail = f" ({tries} tries)" if tries > 1 else ""
        return RefusedError(
            self.kind, f"{self}{tail}{self.advice}", status=self.status, words=self.words
        )


def shown(address: str) -> str:
    """An address without a user's name and password, and without query.

    Raises:
        BadInputError: it is not an http address.
    """
    if not address.startswith(("http://", "https://")):
        raise BadInputError(f"an endpoint's address begins with http:// , not {address!r}")
    try:
        parts = urlsplit(address)
        known = parts.hostname and parts.port != 0
    except ValueError as error:
        raise BadInputError(f"an endpoint's address cannot be read: {error}") from error
    if not known:
        raise BadInputError("an endpoint's address needs a host, as http://127.0.0.1:8000/v1 has")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def unreachable(
    where: str,
    error: Exception,
    advice: str = "; is it running?",
    *,
    again: bool = True,
    away: bool = False,
) -> RefusedError:
    """A server that could not be reached, or hung up.

    Args:
        where: its address.
        error: what the client raised.
        advice: what to do.
        again: whether another try may succeed.
        away: nothing was there.
    """
    why = f"{type(error).__name__}: {error}".rstrip(": ")
    text = f"{where} cannot be reached ({' '.join(why.split())})"
    return RefusedError("connection", text, advice, again=again, away=away)


def refusal_of(where: str, status: int, headers: Mapping[str, str], body: bytes) -> RefusedError:
    """A status that is not 200 as an error.

    Args:
        where: the server's address.
        status: of HTTP.
        headers: of the answer.
        body: of the answer.
    """
    words = body[:4000].decode("utf-8", "replace")
    text = f"{where}: {_detail(status, body)}"
    after = _asked_to_wait(headers)
    again = {"true": True, "false": False}.get(
        headers.get("x-should-retry", ""), status >= 500 or status in _LATER
    )
    kind, advice = "refused", "; the request itself is wrong"
    if status == 429:
        kind, advice = "rate_limit", "; lower concurrency or wait"
    elif status >= 500 or status in _LATER:
        kind, advice = "server", ""
    elif status < 400:
        advice = f"; it redirects to {headers.get('location', 'elsewhere')!r:.200}: name that"
    return RefusedError(
        kind,
        text,
        advice,
        status=status,
        words=words,
        again=again and after <= _MOST_ASKED,
        after=after,
        away=status == AWAY and after <= _MOST_ASKED,
    )


def _detail(status: int, body: bytes) -> str:
    """The status and the server's own words, on one line."""
    said: Any = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        said = json.loads(said)
    for name in ("error", "message"):
        said = said.get(name, said) if isinstance(said, dict) else said
    return " ".join(f"HTTP {status} {said}".split())[:300]


def _asked_to_wait(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait; 0 where it says nothing that is a time."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        said = headers.get(name, "")
        try:
            seconds = float(said) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(said).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if 0 < seconds < float("inf"):
            return seconds
    return 0.0


def failure_of(error: Exception, address: str) -> EndpointError:
    """Type whatever came out of a request.

    Args:
        error: what was raised.
        address: for the message.
    """
    if isinstance(error, EndpointError):
        return error
    return EndpointError("bad_reply", f"{address}: {type(error).__name__}: {error!s:.200}")


_REFUSALS = (400, 415, 422, 500, 501)
_STRUCTURE = ("response_format", "json_schema", "json_object", "grammar", "guided")
_SPARED = (
    *("temperature", "top_p", "seed", "stop", "logprobs"),
    *("return_token_ids", "return_prompt_token_ids", "return_meta_info"),
)
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
