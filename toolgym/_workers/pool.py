"""Child processes and the pools of them: for tools and for keepers that fork.

A child is a fresh interpreter in a process group of its own: it holds nothing of its parent but two
pipes, and whatever it starts is ended with it. A thread cannot be stopped and a signal does not
reach blocking C code; a process can be killed.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cloudpickle

from toolgym._workers.child import Channel
from toolgym.errors import BadInputError

__all__ = ["Child", "Idle", "Keepers", "WorkerPool"]

_FOLDER = Path(__file__).parent
_START_SECONDS = 60.0  # a child may have to import its work's own libraries first
_LARGEST_REPLY = 64 << 20  # bytes of a tool's reply, which is cut to a part of that
_TOKEN = 8  # bytes that a reply repeats, so that nothing stray is taken for one


class Child(Channel):
    """One child process and the channel to it.

    Args:
        role: name of a script beside this file.
        arguments: of the role.
        environment: all environment variables of the child; None: ours, and our import path.
        options: of the interpreter, such as ``-S``.
        folder: the child's working folder; None is ours.
        given: further descriptors that the child gets, under the same numbers.

    Raises:
        OSError: the system starts no further process.
    """

    def __init__(
        self,
        role: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        folder: str | None = None,
        given: Sequence[int] = (),
    ) -> None:
        here_read, child_write = os.pipe()
        child_read, here_write = os.pipe()
        super().__init__(here_read, here_write)
        scripts = [str(_FOLDER / "child.py"), str(_FOLDER / f"{role}.py")]
        pipes = (str(child_read), str(child_write))
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", *options, *scripts, *pipes, *arguments],
                pass_fds=(child_read, child_write, *given),
                stdin=subprocess.DEVNULL,
                env=inherited() if environment is None else dict(environment),
                cwd=folder,
                process_group=0,
            )
        except OSError:
            self._close()
            raise
        finally:
            os.close(child_read)
            os.close(child_write)
        for descriptor in (here_read, here_write):
            os.set_blocking(descriptor, False)

    def disown(self) -> None:
        """After a fork of this process: let go of a child that is the parent's."""
        self.process.returncode = 0  # not ours to wait for, nor to be warned about
        self._close()

    def end(self) -> None:
        """End the child, and all that it started, at once; `kill` has to follow."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def kill(self) -> int:
        """End the child and all that it started, and reap it; its exit code."""
        self.end()
        code = self.process.wait()
        self._close()
        return code

    def _close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


def inherited() -> dict[str, str]:
    """Our environment for a child that finds the modules that we find."""
    path = os.pathsep.join(os.path.abspath(part) for part in sys.path)
    return {**os.environ, "PYTHONPATH": path}


class Idle:
    """Children that wait for work, and the process whose children they are."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def put(self, child: Child, most: int | None = None) -> None:
        """Keep a child for later; it is ended where so many wait already."""
        with self._lock:
            if most is None or len(self.children) < most:
                self.children.append(child)
                return
        child.kill()

    def take(self) -> Child | None:
        """One that waits, if there is any; those that have ended meanwhile are passed over."""
        with self._lock:
            if self._owner != os.getpid():  # after a fork the parent's children are not ours
                for child in self.children:
                    child.disown()
                self.children, self._owner = [], os.getpid()
            while self.children:
                child = self.children.pop()
                if child.process.poll() is None and child.quiet():  # its forks may hold the pipes
                    return child
                child.kill()
        return None

    def end(self) -> None:
        """Kill all that wait."""
        with self._lock:
            children, self.children = self.children, []
        ours = self._owner == os.getpid()  # after a fork they are the parent's
        for child in children:
            child.kill() if ours else child.disown()


class WorkerPool:
    """The children of one tool's function: each call takes an idle one or starts one.

    They end with the pool: when it is closed, when nobody holds it any more, and with this process.
    The function travels once (cloudpickle: also functions of notebooks and closures), then every
    call costs two small messages. This is for trusted tools: it is not a sandbox.

    Args:
        function: called with keyword arguments in the child; its result comes back as text.
        name: for messages.
        shared: what the function keeps from call to call is left as it is.
    """

    def __init__(self, function: Callable[..., Any], name: str, shared: bool = False) -> None:
        self._function, self._name, self._shared = function, name, shared
        self._payload: bytes | None = None
        self._idle, self._lock = Idle(), threading.Lock()
        weakref.finalize(self, self._idle.end)

    def call(self, arguments: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Run the function in a child.

        Args:
            arguments: keyword arguments; anything that pickles.
            timeout: seconds; at its end the child is killed, with what it started.

        Returns:
            ``{"text": ...}``, or ``{"error": kind, "text": ..., "detail": traceback}``.

        Raises:
            BadInputError: the function or its arguments cannot be sent to a child.
        """
        request = cloudpickle.dumps(dict(arguments))
        child = self._idle.take() or self._start()
        token, end = os.urandom(_TOKEN), time.monotonic() + timeout
        try:
            child.send(token, request, end=end)
            reply = child.receive(end, _LARGEST_REPLY)
            if reply[:_TOKEN] != token:
                raise ValueError("not the reply to this call")
            answer: dict[str, Any] = json.loads(reply[_TOKEN:])
            self._idle.put(child)
            return answer
        except BaseException as error:  # also Ctrl-C: the child is in an unknown state
            code = child.kill()
            if isinstance(error, TimeoutError):
                return self._failed("timeout", f"was ended after {timeout:g} seconds")
            if isinstance(error, EOFError):
                return self._failed("bug", f"ended its process (exit code {code})")
            if isinstance(error, ValueError):
                why = "wrote something into the pipe of its own process, which was ended"
                return self._failed("bug", why)
            raise

    def _failed(self, kind: str, why: str) -> dict[str, Any]:
        return {"error": kind, "text": f"Error: {self._name} {why}."}

    def _start(self) -> Child:
        with self._lock:
            if self._payload is None:
                try:
                    self._payload = cloudpickle.dumps((self._function, self._shared))
                except Exception as error:  # pickling runs arbitrary __reduce__ methods
                    raise self._refused(f"cannot be sent to a worker process ({error})") from error
        child = Child("tool_child")
        why = "its process ended or did not start"
        try:
            end = time.monotonic() + _START_SECONDS
            child.send(self._payload, end=end)
            started = json.loads(child.receive(end, _LARGEST_REPLY))
            if "error" not in started:
                return child
            why = started["text"]
        except (EOFError, TimeoutError, ValueError):
            pass
        except BaseException:
            child.kill()
            raise
        child.kill()
        raise self._refused(f"could not start in a worker process: {why}")

    def _refused(self, why: str) -> BadInputError:
        return BadInputError(
            f"tool {self._name!r} {why}; if it always ends by itself, declare it with "
            "@tool(inline=True)"
        )

    def close(self) -> None:
        """Kill all idle children; the pool can be used again afterwards."""
        self._idle.end()


class Keepers:
    """Idle keepers of one work module; each call takes one or starts one.

    A keeper forks a runner for each call, see `toolgym._workers.fork_child`; it runs nothing of it.

    Args:
        work: path of the module.
        bare: no environment variables and only the standard library; else ours, and our path.
        hash_seed: sets are walked in the same order in every run of one seed.
    """

    _HEADER = struct.Struct("!dII")  # as in the role, which shares no module with this one
    _KEPT = 8  # idle ones at least: as many calls as one turn runs at once; a start takes 40 ms
    _GRACE = 10.0  # seconds after the deadline at which the keeper itself is taken for broken

    def __init__(self, work: Path, *, bare: bool, hash_seed: int = 0) -> None:
        self._work, self._bare = str(work), bare
        self._seed = {"PYTHONHASHSEED": str(hash_seed)}
        self.idle = Idle()
        atexit.register(self.close)

    def ask(self, request: bytes, seconds: float, memory: int, largest: int) -> bytes | None:
        """One call in a runner of its own.

        Args:
            request: what the work module understands.
            seconds: after which the runner is killed.
            memory: MiB that the runner may have beyond what an empty one has.
            largest: bytes of an answer.

        Returns:
            The work's answer, or one letter: ``t`` the time is over, ``o`` too long an answer,
            ``d`` none, ``m`` and a text no memory, ``e`` and a text an exception. None: the keeper
            died.
        """
        try:
            keeper = self.idle.take() or self._start()
        except EOFError:
            return None
        try:
            keeper.send(self._HEADER.pack(seconds, memory, largest), request)
            reply = keeper.receive(time.monotonic() + seconds + self._GRACE)
        except (EOFError, TimeoutError, ValueError):
            keeper.kill()
            return None
        except BaseException:  # Ctrl-C in the middle: the keeper is in an unknown state
            keeper.kill()
            raise
        self.idle.put(keeper, max(self._KEPT, os.cpu_count() or 1))
        return reply

    def _start(self) -> Child:
        environment = self._seed if self._bare else inherited() | self._seed
        # No site packages, no user folder and no cached bytecode written.
        options = ("-s", "-S", "-B") if self._bare else ()
        keeper = Child(
            "fork_child", self._work, environment=environment, options=options, folder="/"
        )
        try:
            keeper.receive(time.monotonic() + _START_SECONDS)
        except BaseException as error:
            keeper.kill()
            if isinstance(error, TimeoutError):
                raise EOFError from error
            raise
        return keeper

    def close(self) -> None:
        """Kill all idle keepers; they are started again when they are needed."""
        self.idle.end()
