"""A child interpreter started from a script by path, asked over two pipes.

A fresh interpreter holds nothing of its parent: neither memory nor open files, but the two pipes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

__all__ = ["Child"]


class Child:
    """One child process and the two pipes to it.

    Args:
        script: run by path; its two arguments are the descriptors it reads from and writes to.
        environment: all environment variables of the child.
        options: of the interpreter, such as ``-S``.
        folder: the child's working folder; None is ours.
    """

    def __init__(
        self,
        script: Path,
        environment: Mapping[str, str],
        options: Sequence[str] = (),
        folder: str | None = None,
    ) -> None:
        here_read, child_write = os.pipe()
        child_read, here_write = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, *options, str(script), str(child_read), str(child_write)],
            pass_fds=(child_read, child_write),
            stdin=subprocess.DEVNULL,
            env=dict(environment),
            cwd=folder,
        )
        os.close(child_read)
        os.close(child_write)
        self.receiving = Connection(here_read, writable=False)
        self.sending = Connection(here_write, readable=False)

    def ask(self, request: bytes | None, timeout: float) -> bytes | None:
        """Send a request, if there is one, and wait for the reply; None: the time is over.

        Args:
            request: one message; None only waits for the child's next one.
            timeout: seconds.

        Raises:
            EOFError: the child died.
        """
        try:
            if request is not None:
                self.sending.send_bytes(request)
            return self.receiving.recv_bytes() if self.receiving.poll(timeout) else None
        except OSError as error:  # BrokenPipeError, ConnectionResetError
            raise EOFError from error

    def disown(self) -> None:
        """After a fork of this process: let go of a child that is the parent's."""
        self.process.returncode = 0  # not ours to wait for, nor to be warned about
        self.receiving.close()
        self.sending.close()

    def kill(self) -> None:
        """End the child at once and reap it."""
        self.process.kill()
        self.process.wait()
        self.receiving.close()
        self.sending.close()
