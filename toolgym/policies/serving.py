"""Model servers that a run starts by itself: on a folder, for as long as it needs them.

A server is started, waited for, watched, started again where it dies, and ended with all that it
has started: at the end of the part of the run that it serves, at Ctrl-C, at an error, and also when
this process is killed. The memory that it held is free for what follows.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import secrets
import shlex
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolgym._workers.pool import Child
from toolgym.errors import BadInputError, EndpointError, did_you_mean
from toolgym.policies.base import Policy
from toolgym.policies.requests import at

__all__ = ["VLLM", "VLLM_RELOADABLE", "VLLM_RELOADS", "ModelServer", "check_command"]

VLLM = (
    *("vllm", "serve", "{model}", "--served-model-name", "{name}"),
    *("--host", "127.0.0.1", "--port", "{port}", "--dtype", "{dtype}"),
    *("--max-model-len", "{max_length}", "--max-num-seqs", "{batch_size}"),
    # Saved settings, such as a repetition penalty, would change the sampling.
    *("--generation-config", "vllm", "--disable-uvicorn-access-log"),
)
"""The command of vLLM's server; its first word may be the path of another installation."""

VLLM_RELOADS = ({"route": "/collective_rpc", "body": {"method": "reload_weights"}},
                {"route": "/reset_prefix_cache"})  # fmt: skip
"""What makes it read the weights of its folder anew, and forget what it knew by the old ones."""
VLLM_RELOADABLE = {"VLLM_SERVER_DEV_MODE": "1"}
"""Environment variables with which it takes these requests."""

Tell = Callable[[str], None]
"""Called with what a server does, in words."""

_PORTS = (20_000, 32_768)  # below those that systems give to outgoing connections
_TRIES = 5  # ports, where other programs were quicker
_LOOK = 0.2  # seconds between two looks at a server
_TELL = 1.0  # seconds between two words about one that starts
_LAST_LINES, _LAST_CHARS = 5, 600  # of its log, in a message
_STOP = 20.0  # seconds until a guard that does not end its server is ended itself
_MOST_PAUSE = 30.0  # seconds before a server that keeps dying is started again
_REPLY = 1 << 20  # bytes of the list of models
_ANSWER = 600.0  # seconds for a request to the server itself
_JSON = {"Content-Type": "application/json"}
_PLACE = re.compile(r"\{(\w+)\}")


class _ClashError(Exception):
    """Another program took the port before the server could."""


def check_command(command: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a command that cannot serve a folder on a port.

    Args:
        command: words, with places such as ``{model}`` and ``{port}``.
        known: the places that can be filled.

    Raises:
        BadInputError: it is empty, lacks one of these two places, or has an unknown one.
    """
    places = {place for word in command for place in _PLACE.findall(word)}
    for place in sorted(places - set(known)):
        raise BadInputError(
            f"the server's command has an unknown place {{{place}}}{did_you_mean(place, known)}; "
            f"known: {', '.join(f'{{{one}}}' for one in known)}"
        )
    for place in ("model", "port"):
        if place not in places:
            raise BadInputError(
                f"the server's command {shlex.join(command)!r:.200} needs the place {{{place}}}, "
                "as in: my-server {model} --port {port}"
            )


class ModelServer:
    """One model server: a command that serves a folder under OpenAI's routes on a port.

    It is ready when ``GET /v1/models`` names its model. Where the command has a place ``{name}``
    the name is one that no other server has, so that a stranger on the port is never taken for it.

    Args:
        command: words, with the places ``{model}`` and ``{port}``, and ``{name}`` and others of
            ``values`` where they are wanted; see `VLLM`.
        values: what stands in the places; ``model`` among them.
        environment: further environment variables of the server.
        start_seconds: within which it must be ready.
        restarts: how often it is started again where it dies; policies find it at the same port.
        log: file to which it writes; default: one of its own in the system's temporary folder.
        tell: called with what it does, about every second while it is waited for.

    Raises:
        BadInputError: see `check_command`.
    """

    def __init__(
        self,
        command: Sequence[str],
        values: Mapping[str, Any],
        *,
        environment: Mapping[str, str] | None = None,
        start_seconds: float = 900.0,
        restarts: int = 3,
        log: str | Path | None = None,
        tell: Tell | None = None,
    ) -> None:
        check_command(command, (*values, "port", "name"))
        self._command, self.values = tuple(command), {k: str(v) for k, v in values.items()}
        self._environment, self._start_seconds = dict(environment or {}), start_seconds
        self._restarts, self._tell = restarts, tell or (lambda _: None)
        self.log = Path(log or f"{tempfile.mkdtemp(prefix='toolgym-server-')}/server.log")
        self.name = f"{Path(self.values['model']).name or 'model'}-{secrets.token_hex(4)}"
        """Under which the server knows the model."""
        self.port = self.pid = self.deaths = 0
        self.failure: EndpointError | None = None
        """Why there is no server any more, once it has died for good."""
        self._named = any("{name}" in word for word in command)
        self.users: weakref.WeakSet[Policy] = weakref.WeakSet()
        """Policies that are closed once it has died for good, so that nobody waits for them."""
        self._stop, self._up = threading.Event(), threading.Event()
        self._seen, self._begun_at = "", 0
        self._guard: Child | None = None
        self._watcher: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address for policies."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> ModelServer:
        """Start it and wait until it is ready."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.stop()

    def start(self) -> ModelServer:
        """Start it, and wait until it is ready.

        Raises:
            EndpointError: of kind ``ended``: it could not be started, it ended, or it was not ready
                in time; its last lines are in the message.
        """
        self.log.unlink(missing_ok=True)
        for _ in range(_TRIES):
            self.port = _free_port()
            with contextlib.suppress(_ClashError):
                self._begin("starting")
                break
        else:
            raise EndpointError("ended", f"{_TRIES} free ports were taken before the server could")
        self._watcher = threading.Thread(target=self._watch, name="toolgym-server", daemon=True)
        self._watcher.start()
        return self

    def ask(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Send requests to the server itself, all of them again where it dies meanwhile.

        Args:
            requests: each a ``route`` and perhaps a ``body``; strings may hold the places of the
                command.

        Raises:
            EndpointError: it refuses one, or there is no server any more.
        """
        while True:
            while not self._up.wait(_LOOK):
                if self.failure is not None:
                    raise self.failure
            try:
                for request in requests:
                    self._ask(self._put(request["route"]), self._put(request.get("body") or {}))
                return
            except (OSError, http.client.HTTPException) as error:
                if self._stop.wait(_TELL):
                    raise EndpointError("ended", "the server was ended by us") from error

    def _ask(self, route: str, body: Mapping[str, Any], tries: int = 10) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER)
        try:
            connection.request("POST", route, json.dumps(body), _JSON)
            answer = connection.getresponse()
            said = answer.read(_REPLY).decode("utf-8", "replace")
        finally:
            connection.close()
        busy = re.search(r'"success":\s*false', said)  # with what it has just answered, perhaps
        if busy and tries > 1 and not self._stop.wait(_LOOK):
            self._ask(route, body, tries - 1)
        elif answer.status != 200 or busy:
            words = f"HTTP {answer.status} {' '.join(said.split()):.200}"
            raise EndpointError("refused", f"the server answers to {route}: {words}")

    def stop(self) -> None:
        """End it with all that it has started; it is gone afterwards, and so is what it held."""
        self._stop.set()
        try:
            if self._watcher not in (None, threading.current_thread()):
                self._watcher.join()
        finally:
            self._end()

    def _begin(self, doing: str) -> None:
        """Start the server and wait for it; it is ended where that does not succeed.

        Raises:
            EndpointError: it could not be started, ended, or was not ready in time.
            _ClashError: it ended, and another program has its port.
        """
        begun, told, self._seen = time.monotonic(), 0.0, ""
        self._begun_at = self.log.stat().st_size if self.log.exists() else 0
        guard = self._guard = Child(
            *("server_child", str(self.log), *self._filled()),
            environment={**os.environ, **self._environment},
            options=("-s", "-S", "-B"),
        )
        ready = False
        try:
            said = guard.receive(begun + self._start_seconds).decode()
            if not said.isdigit():
                raise EndpointError("ended", f"{self._shown()} cannot be started: {said}")
            self.pid = int(said)
            while not (ready := self._answers()):
                spent = time.monotonic() - begun
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = guard.process.wait(_LOOK)
                    if not _is_free(self.port):
                        raise _ClashError
                    text = f"ended {_exit(code)} before it was ready ({spent:.0f} s)"
                    raise self._failed(text)
                if self._stop.is_set():
                    raise EndpointError("ended", f"{self._shown()} was ended while it started")
                if spent > self._start_seconds:
                    raise self._failed(
                        f"was not ready after {self._start_seconds:g} s "
                        f"({self._seen or 'nothing answers'} at /v1/models); raise start_seconds"
                    )
                if spent - told >= _TELL:
                    told = spent
                    self._tell(f"{doing}, {spent:.0f} s")
            self._up.set()
            self._tell(f"up after {time.monotonic() - begun:.0f} s")
        except (EOFError, TimeoutError, ValueError) as error:
            raise self._failed("cannot be watched: its guard has ended") from error
        finally:
            if not ready:
                self._end()

    def _watch(self) -> None:
        """Start the server again where it dies; in a thread of its own."""
        while True:
            guard = self._guard
            while guard is not None and guard.process.poll() is None:
                if self._stop.wait(_LOOK):
                    return
            why = self._failed(f"ended {_exit(guard.process.returncode if guard else 0)}")
            try:
                if self._again(why):
                    continue
            except Exception as error:  # whatever it is, nobody may wait for ever
                self.failure = self.failure or EndpointError("ended", f"{self._shown()}: {error}")
            if self.failure is not None:
                for user in list(self.users):
                    user.close()
            return

    def _again(self, why: EndpointError) -> bool:
        """Start it again, several times if need be; whether it is there."""
        self._end()
        while self.deaths < self._restarts:
            self.deaths += 1
            times = f"{self.deaths} of {self._restarts}"
            self._tell(f"{why}; starting it again ({times})")
            try:
                self._begin(f"starting again ({times})")
                return True
            except _ClashError:
                why = self._failed(f"cannot be started again: port {self.port} is taken")
            except EndpointError as error:
                why = error
            if self._stop.wait(min(_MOST_PAUSE, 2.0**self.deaths)):
                return False
        times = f"{self.deaths} restarts are all that there may be"
        self.failure = EndpointError("ended", f"{why}; {times}")
        self._tell(str(self.failure))
        return False

    def _end(self) -> None:
        self._up.clear()
        guard, self._guard = self._guard, None
        if guard is None:
            return
        try:
            if guard.process.poll() is None:
                with contextlib.suppress(EOFError, TimeoutError):
                    guard.send(b"end", end=time.monotonic() + _LOOK)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    guard.process.wait(_STOP)
        finally:  # also at a second Ctrl-C
            guard.kill()

    def _answers(self) -> bool:
        """Whether the server names its model."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/v1/models")
            answer = connection.getresponse()
            self._seen = f"HTTP {answer.status}"
            data = at(json.loads(answer.read(_REPLY)), "data") if answer.status == 200 else None
        except (OSError, http.client.HTTPException, ValueError, RecursionError):
            return False
        finally:
            connection.close()
        names = [at(one, "id") for one in data] if isinstance(data, list) else []
        if self._named:
            self._seen = "another server" if names and self.name not in names else self._seen
            return self.name in names
        self.name = next((name for name in names if isinstance(name, str)), self.name)
        return bool(names)

    def _filled(self) -> list[str]:
        """The command with its places filled."""
        return [self._put(word) for word in self._command]

    def _put(self, value: Any) -> Any:
        """Plain data with the places in its strings filled."""
        if isinstance(value, Mapping):
            return {key: self._put(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self._put(part) for part in value]
        if not isinstance(value, str):
            return value
        values = {**self.values, "port": str(self.port), "name": self.name}
        return _PLACE.sub(lambda place: values.get(place[1], place[0]), value)

    def _shown(self) -> str:
        return f"the server {shlex.join(self._filled())!r:.300}"

    def _failed(self, text: str) -> EndpointError:
        """An error with the server's own last lines."""
        lines: list[str] = []
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(self._begun_at, file.seek(0, os.SEEK_END) - 16_384))
            whole = file.read().decode("utf-8", "replace")
            lines = [" ".join(line.split()) for line in whole.splitlines() if line.strip()]
        said = " | ".join(lines[-_LAST_LINES:])[-_LAST_CHARS:] or "nothing"
        return EndpointError(
            "ended", f"{self._shown()} {text}; its last lines: {said} (all of them: {self.log})"
        )


def _free_port() -> int:
    """A port that nobody listens on now; who is quicker than the server is found out later."""
    places = random.SystemRandom().sample(range(*_PORTS), 200)
    port = next(filter(_is_free, places), None)
    if port is None:
        raise EndpointError("ended", "there is no free port for a server")
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
        except OSError:
            return False
    return True


def _exit(code: int) -> str:
    """An exit code in words; that of a signal is 128 and its number, or the number below 0."""
    signal = code - 128 if code > 128 else -code
    return f"with exit code {code}" if 0 <= code <= 128 else f"by signal {signal}"
