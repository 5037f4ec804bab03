"""The child's side, run by path: the channel to the parent, and the role that a child plays.

``python child.py ROLE READ WRITE ARGUMENTS``: the role is a script whose ``serve`` gets the
channel; that of this one makes a worker once and calls it for each job. Nothing here, nor in a
role, imports toolgym: a child starts quickly and holds nothing that its work does not need.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import select
import signal
import struct
import sys
import time
import traceback
from types import ModuleType
from typing import Any

__all__ = ["Channel", "end_with_parent", "load", "plain", "serve"]

_LENGTH = struct.Struct("!Q")  # bytes of the message that follows
_PIECE = 1 << 16  # bytes that are read at once: what a pipe holds
_NO_LIMIT = 1 << 40  # bytes


class Channel:
    """Framed messages over two pipes; a deadline counts where the pipes do not block.

    Args:
        reading: descriptor of the pipe that messages come from.
        writing: descriptor of the pipe that they go to.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self.reading, self.writing = reading, writing
        self._held = bytearray()  # what has come and belongs to no message yet

    def send(self, *parts: bytes, end: float | None = None) -> None:
        """Send one message.

        Args:
            parts: of the message, in order.
            end: reading of the monotonic clock at which it is given up; None: never.

        Raises:
            EOFError: the other side is gone.
            TimeoutError: the other side did not take it in time.
        """
        view = memoryview(b"".join((_LENGTH.pack(sum(map(len, parts))), *parts)))
        while view:
            try:
                view = view[os.write(self.writing, view) :]
            except BlockingIOError:
                _wait(self.writing, select.POLLOUT, end)
            except OSError as error:
                raise EOFError from error

    def receive(self, end: float | None = None, largest: int = _NO_LIMIT) -> bytes:
        """Wait for one message.

        Args:
            end: reading of the monotonic clock at which the wait is over; None: never.
            largest: bytes that a message may have.

        Raises:
            EOFError: the other side is gone.
            TimeoutError: nothing came in time.
            ValueError: what came is not a message: it is too large, or it was never completed.
        """
        held = self._held
        while True:
            if len(held) >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(held)
                if length > largest:
                    raise ValueError(f"a message of {length} bytes")
                if len(held) >= (whole := _LENGTH.size + length):
                    message = bytes(memoryview(held)[_LENGTH.size : whole])
                    del held[:whole]
                    return message
            try:
                held += self._read(end)
            except TimeoutError as error:
                if held:
                    raise ValueError("part of a message") from error
                raise

    def quiet(self) -> bool:
        """Whether nothing has come that was not asked for, and the other side is there."""
        poll = select.poll()
        poll.register(self.reading, select.POLLIN)
        return not self._held and not poll.poll(0)

    def _read(self, end: float | None) -> bytes:
        """What has come; waits for it."""
        if end is not None:
            _wait(self.reading, select.POLLIN, end)
        while True:
            try:
                part = os.read(self.reading, _PIECE)
            except BlockingIOError:
                _wait(self.reading, select.POLLIN, end)
                continue
            except OSError as error:
                raise EOFError from error
            if not part:
                raise EOFError
            return part


def _wait(descriptor: int, event: int, end: float | None) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(None if end is None else max(end - time.monotonic(), 0) * 1e3):
        raise TimeoutError


def plain(value: Any) -> tuple[str, Any]:
    """A value as JSON text, and the value that this text gives again.

    Raises:
        ValueError: JSON cannot hold it: what it is, in words. A tuple is held, as a list.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        again = json.loads(text)
        if again != value:  # mostly equal, which C code finds out
            _check_keys(value)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return text, again


def _check_keys(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r:.80} of a dict is not a string")
            _check_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)


def load(path: str) -> ModuleType:
    """Import a module by its path; its folder comes first meanwhile, for the modules beside it."""
    folder, file = os.path.split(path)
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(file.removesuffix(".py"))
    finally:
        sys.path.remove(folder)


def end_with_parent() -> None:
    """From now on, end this process and all it started when its parent has died.

    A killed parent must leave nobody behind who goes on computing, or writing into its folder.
    """
    import threading  # not for keepers, whose every fork would pay for it

    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def serve(channel: Channel) -> None:
    """Receive a function and its arguments, which make the worker; then jobs until the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    end_with_parent()
    worker: Any = None
    failed: Exception | None = None
    try:
        make, parts = pickle.loads(channel.receive())  # noqa: S301 - our parent wrote it
        worker = make(*parts)
    except Exception as error:  # a class that cannot be imported here: told with the first job
        failed = error
    while True:
        try:
            message = channel.receive()
        except EOFError:
            return
        try:
            if failed is not None:
                raise failed
            job = pickle.loads(message)  # noqa: S301 - as above
            del message
            result = worker(*job)
            del job
            reply = pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
            del result
        except Exception as error:  # raised again in the parent
            error.add_note("".join(traceback.format_exception(error)))
            reply = pickle.dumps(_portable(error))
        try:
            channel.send(reply)
        except EOFError:  # the parent was killed meanwhile
            return


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # an error that does not survive the way is told in words
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    _, _role, *_rest = sys.argv
    for _end in _rest[:2]:  # what the child starts must not hold the pipes open
        os.set_inheritable(int(_end), False)
    load(_role).serve(Channel(int(_rest[0]), int(_rest[1])), *_rest[2:])
