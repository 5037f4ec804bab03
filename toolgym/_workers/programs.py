"""Programs of others as child processes: each in a group of its own, none of which outlives us."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from toolgym._workers.pool import Child

__all__ = ["Program"]

_SECONDS = 5.0  # for a message to the warden, which only waits for messages


class Program:
    """A program, pipes to its standard streams, and whatever it starts in its group.

    Its standard streams do not block. A warden process ends it where this process is killed. It is
    reaped only by `end`, so that the number of its group is not used again before.

    Args:
        command: the program and its arguments.
        environment: all environment variables that it gets.
        folder: its working folder; None is ours.

    Attributes:
        input: descriptor of the pipe to its standard input.
        output: of the one from its standard output.
        errors: of the one from its standard error.

    Raises:
        OSError: it cannot be started.
        ValueError: an argument or a variable that the system cannot take.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str | Path | None
    ) -> None:
        self.process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
            bufsize=0,
        )
        pipes = (self.process.stdin, self.process.stdout, self.process.stderr)
        self.input, self.output, self.errors = (pipe.fileno() for pipe in pipes if pipe)
        for descriptor in (self.input, self.output, self.errors):
            os.set_blocking(descriptor, False)
        self.input_closed, self.owner = False, os.getpid()
        self._lock = threading.Lock()
        try:
            with _lock:
                _watch(self)
        except BaseException:  # no warden: it would outlive us
            self.end()
            raise

    def signal(self, number: int) -> None:
        """Send a signal to the program and to all that it started; from any thread."""
        with self._lock:
            if self.process.returncode is None and self.owner == os.getpid():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.process.pid, number)

    def exited(self) -> bool:
        """Whether the program itself has ended; it may have left others behind."""
        done = os.WEXITED | os.WNOHANG | os.WNOWAIT  # it is reaped by `end`
        with self._lock:
            if self.process.returncode is not None:
                return True
            return os.waitid(os.P_PID, self.process.pid, done) is not None

    def close_input(self) -> None:
        """Close its standard input, at which most programs end."""
        self.input_closed = True
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def end(self) -> int:
        """End it and all that it started, and reap it; its exit code, below 0 by a signal."""
        self.signal(signal.SIGKILL)
        with self._lock:
            code = self.process.wait()
        with _lock:
            if self in _running:
                _running.discard(self)
                _told(b"-", self)
        self.close_input()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return code

    def disown(self) -> None:
        """After a fork of this process: let go of a program that is the parent's."""
        self.process.returncode = 0  # not ours to wait for, nor to be warned about


_running: set[Program] = set()
_warden: Child | None = None
_lock = threading.RLock()


def _watch(program: Program) -> None:
    """Let the warden end a program after us; a new one, where somebody ended it, all of them."""
    global _warden
    _running.add(program)
    watched = [program]
    for _ in range(2):
        if _warden is None:
            _warden = Child("warden_child", environment={}, options=("-s", "-S", "-B"), folder="/")
            watched = list(_running)
        if all(_told(b"+", one) for one in watched):
            return


def _told(sign: bytes, program: Program) -> bool:
    """Tell the warden of a program; False: it has been ended, and there is none now."""
    global _warden
    if _warden is not None:
        try:
            message = sign + str(program.process.pid).encode()
            _warden.send(message, end=time.monotonic() + _SECONDS)
            return True
        except (EOFError, TimeoutError):
            _warden.kill()
            _warden = None
    return False


def _end_all() -> None:
    global _warden
    for program in list(_running):
        program.end()
    with _lock:
        if _warden is not None:
            _warden.kill()
            _warden = None


def _forget() -> None:
    """After a fork of this process: programs and warden are the parent's."""
    global _lock, _warden
    _lock = threading.RLock()  # a thread that is not here may have held it
    for program in _running:
        program.disown()
    _running.clear()
    if _warden is not None:
        _warden.disown()
        _warden = None


os.register_at_fork(after_in_child=_forget)
atexit.register(_end_all)
