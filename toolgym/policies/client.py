"""Talking to model servers: one client with real deadlines, and what its failures mean.

A request is sent again after connection errors, time-outs, 408, 409, 425, 429 and 5xx, with
exponential backoff, and not before the time that ``Retry-After`` names, up to two minutes. A server
that has answered before and cannot be reached any more is waited for instead, or another one asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, EndpointError
from toolgym.policies.refusals import (
    AWAY,
    Dialect,
    EndlessError,
    RefusedError,
    refusal_of,
    shown,
    unreachable,
)

__all__ = ["Dialect", "EndlessError", "Received", "Service"]

T = TypeVar("T")

_FIRST_DELAY, _MOST_DELAY = 0.5, 8.0  # seconds before another try
_MOST_PAUSE = 5.0  # seconds between two looks at a server that is away
_CONNECT = 10.0  # seconds for a connection: a machine that is switched off says nothing
_HERE = ("localhost", "::1")  # a proxy would look for them on its own machine
_IDLE = 4.0  # seconds that a connection is kept; uvicorn, under vLLM and SGLang, closes after 5


@dataclass(frozen=True, slots=True)
class Received:
    """A server's answer of status 200.

    Args:
        data: its body.
        tries: requests sent for it, the failed ones included.
        address: of the server, as messages show it.
    """

    data: bytes
    tries: int
    address: str

    def json(self) -> Any:
        """The body read as JSON.

        Raises:
            EndpointError: it is not JSON.
        """
        try:
            return json.loads(self.data)
        except (ValueError, RecursionError) as error:
            text = f"{self.address} sent what is not a chat completion: {error!s:.200}"
            raise EndpointError("bad_reply", text) from error


@dataclass(eq=False, slots=True)
class _Server:
    """One server: its load, and since when it is away."""

    url: SplitResult
    headers: dict[str, str]
    address: str
    proxy: str | None = None
    episodes: int = 0
    busy: int = 0
    answered: bool = False
    since: float | None = None
    again: float = 0.0
    routes: dict[str, str] = field(default_factory=dict)

    def route(self, name: str) -> str:
        """The address of a route such as ``/chat/completions``; a query stays at its end."""
        if name not in self.routes:
            self.routes[name] = self.url._replace(path=self.url.path.rstrip("/") + name).geturl()
        return self.routes[name]

    def seems_away(self, asked: float = 0.0) -> None:
        """It could not be reached: look again after a while, less and less often."""
        now = time.monotonic()
        self.since = now if self.since is None else self.since
        pause = min(_MOST_PAUSE, _FIRST_DELAY + (now - self.since) / 8)
        self.again = now + max(pause, asked)


class Service:
    """A thread with an event loop that owns the connections; what it runs ends at real deadlines.

    Args:
        addresses: of the servers; all serve the same model.
        api_key: sent to all of them, but for those with a name and password in the address.
        timeout: seconds of one try, from the request to the last byte.
        limit: bytes of a reply.
        concurrency: tries under way at once, None for any number; who waits holds no place.
        again_after_timeout: whether a try that took too long is made again.
        patience: seconds that servers which have answered before are waited for.

    Raises:
        MissingExtraError: ``aiohttp`` is not installed.
        BadInputError: an address that cannot be read.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        api_key: str,
        timeout: float,
        limit: int,
        concurrency: int | None = None,
        again_after_timeout: bool = True,
        patience: float = 0.0,
    ) -> None:
        self._http = require_extra("aiohttp", "endpoint")
        self._servers = [_server(address, api_key) for address in addresses]
        self._own: dict[str, _Server] = {}
        self._ending: asyncio.Task[Any] | None = None
        self._lock = threading.Lock()
        self._timeout, self._limit = timeout, limit
        self._again_after_timeout, self._patience = again_after_timeout, patience
        slots = asyncio.Semaphore(concurrency) if concurrency else None
        self._slots: contextlib.AbstractAsyncContextManager[Any] = slots or contextlib.nullcontext()
        self._opened: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="toolgym-endpoint", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> str:
        """What is waited for, in words; empty where every server is there."""
        now = time.monotonic()
        away = [(server.address, server.since) for server in self._servers]
        gone = [(address, now - since) for address, since in away if since is not None]
        return ", ".join(f"waiting for {address} since {spent:.0f} s" for address, spent in gone)

    def expect(self) -> None:
        """The servers are known to be right: each is waited for, also before its first answer."""
        for server in self._servers:
            server.answered = True

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the thread, soon; what it raises is reported by the loop."""
        self._loop.call_soon_threadsafe(function)

    def forget(self, episode: str) -> None:
        """The episode has ended: its server has one less."""
        with self._lock:
            server = self._own.pop(episode, None)
            if server is not None:
                server.episodes -= 1

    async def post(
        self, route: str, body: Mapping[str, Any], retries: int, episode: str = ""
    ) -> Received:
        """Send a request until there is an answer, or no hope of one.

        Args:
            route: such as ``/chat/completions``.
            body: any fields.
            retries: further tries after the first.
            episode: whose requests go to one server; "" to any.

        Raises:
            RefusedError: the last try's failure.
            EndlessError: the reply has more bytes than the limit.
        """
        data = json.dumps(body).encode()
        tries = failed = 0
        while True:
            server = await self._free(episode)
            tries += 1
            try:
                answer = await self._try(server, route, data)
                server.answered = True
                return Received(answer, tries, server.address)
            except RefusedError as error:
                if error.away and self._can_wait(server, error.after):
                    continue
                if not error.again or failed >= retries:
                    raise error.told(failed + 1) from error.__cause__
                delay = min(_MOST_DELAY, _FIRST_DELAY * 2**failed) * (1 - random.random() / 4)
                delay, failed = max(delay, error.after), failed + 1
            await asyncio.sleep(delay)

    def cancel(self) -> None:
        """Cancel what is under way."""

        def each() -> None:
            for task in asyncio.all_tasks() - {self._ending}:
                task.cancel()

        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing is under way
            self._loop.call_soon_threadsafe(each)

    def end(self) -> None:
        """Cancel what is under way, close the connections and end the thread."""
        if threading.current_thread() is self._thread:
            # The garbage collector came by here: waiting for oneself would never end.
            task = self._loop.create_task(self._wind_up())
            task.add_done_callback(lambda _: self._loop.stop())
            return
        asyncio.run_coroutine_threadsafe(self._wind_up(), self._loop).result(timeout=5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()

    async def _wind_up(self) -> None:
        self._ending = asyncio.current_task()
        tasks = asyncio.all_tasks() - {self._ending}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._opened is not None:
            await self._opened.close()

    def _session(self) -> Any:
        if self._opened is None:
            http = self._http
            self._opened = http.ClientSession(
                connector=http.TCPConnector(limit=0, keepalive_timeout=_IDLE),
                timeout=http.ClientTimeout(total=None, sock_connect=_CONNECT),
                # A reply that is not compressed cannot grow a thousandfold when it is read.
                headers={"Accept-Encoding": "identity", "Content-Type": "application/json"},
                auto_decompress=False,
                cookie_jar=http.DummyCookieJar(),
            )
        return self._opened

    async def _free(self, episode: str) -> _Server:
        """The episode's server, or the one with the least to do, once one of them is there."""
        while True:
            now = time.monotonic()
            ready = [one for one in self._servers if one.since is None or one.again <= now]
            if ready:
                break
            await asyncio.sleep(min(one.again for one in self._servers) - now)
        with self._lock:
            chosen = self._own.get(episode)
            if chosen not in ready:
                if chosen is not None:
                    chosen.episodes -= 1
                chosen = min(ready, key=lambda one: (one.episodes, one.busy))
                if episode:
                    chosen.episodes += 1
                    self._own[episode] = chosen
        if chosen.since is not None:
            chosen.seems_away()  # this request looks; the others go elsewhere, or wait
        return chosen

    def _can_wait(self, server: _Server, asked: float) -> bool:
        """Note that a server is away; says whether another one is there, or worth waiting for."""
        new = server.since is None
        server.seems_away(asked)
        away = [one.since for one in self._servers if one.since is not None]
        if len(away) < len(self._servers):
            return True
        known = any(one.answered for one in self._servers)
        if not known or time.monotonic() - max(away) >= self._patience:
            return False
        if new:
            warnings.warn(
                f"{server.address} is away: waiting for it, {self._patience:.0f} s at most",
                RuntimeWarning,
                stacklevel=2,
            )
        return True

    async def _try(self, server: _Server, route: str, data: bytes) -> bytes:
        http, where = self._http, server.address
        async with self._slots:
            server.busy += 1
            try:
                async with (
                    asyncio.timeout(self._timeout),
                    self._session().post(
                        server.route(route),
                        data=data,
                        headers=server.headers,
                        proxy=server.proxy,
                        allow_redirects=False,
                    ) as response,
                ):
                    body = await _body(response, self._limit, where)
            except http.ClientSSLError as error:
                raise unreachable(
                    where, error, "; is its certificate known?", again=False
                ) from error
            except (http.ClientConnectorError, http.ConnectionTimeoutError) as error:
                raise unreachable(where, error, away=True) from error
            except TimeoutError as error:
                raise RefusedError(
                    "timeout",
                    f"no reply from {where} in time",
                    "; raise timeout",
                    again=self._again_after_timeout,
                ) from error
            except (http.ClientError, OSError) as error:
                raise unreachable(where, error) from error
            finally:
                server.busy -= 1
        if response.status != AWAY:
            server.since = None
        if not 200 <= response.status < 300:
            raise refusal_of(where, response.status, response.headers, body)
        return body


def _server(address: str, api_key: str) -> _Server:
    """An address taken apart.

    Raises:
        BadInputError: it cannot be read.
    """
    place = shown(address)
    url = urlsplit(address)
    # The client makes its own header of a name and password.
    headers = {} if url.username else {"Authorization": f"Bearer {api_key}"}
    return _Server(url._replace(fragment=""), headers, place, _proxy(url))


def _proxy(url: SplitResult) -> str | None:
    """What the environment names as the proxy for an address; once, not for each request.

    Raises:
        BadInputError: a proxy of another kind than http.
    """
    named = getproxies()
    proxy = named.get(url.scheme) or named.get("all")
    host = url.hostname or ""
    if not proxy or host in _HERE or host.startswith("127.") or proxy_bypass(host):
        return None
    if not proxy.startswith(("http://", "https://")):
        raise BadInputError(
            f"proxies for endpoints are http:// ones, not {proxy.partition(':')[0]!r}: unset it, "
            f"or name {url.hostname} in no_proxy"
        )
    return proxy


async def _body(response: Any, limit: int, where: str) -> bytes:
    """All bytes of a response, unpacked by our own bounded reader where it is packed.

    Raises:
        EndlessError: there are more than the limit.
    """
    packed = response.headers.get("Content-Encoding", "") in ("gzip", "x-gzip", "deflate")
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32) if packed else None
    data = bytearray()
    async for piece in response.content.iter_any():
        data += unpack.decompress(piece, limit + 1 - len(data)) if unpack else piece
        if len(data) > limit:
            raise EndlessError("bad_reply", f"{where}: the reply has more than {limit:,} bytes")
    return bytes(data)
