"""The role of a child that does jobs: it makes its worker once and calls it for each job."""

from __future__ import annotations

import pickle
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolgym._workers.child import Channel


def serve(channel: Channel) -> None:
    """Receive a function and its arguments, which make the worker; then jobs until the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    sys.modules["__main__"].end_with_parent()
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
