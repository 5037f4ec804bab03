"""The child's side of `workers`: makes scenarios until its parent is gone."""

from __future__ import annotations

import pickle
import signal
import sys
import traceback
from multiprocessing.connection import Connection


def serve(read: int, write: int) -> None:
    """Receive the maker once, then answer questions until the parent closes its end."""
    receiving, sending = Connection(read, writable=False), Connection(write, readable=False)
    try:
        maker = pickle.loads(receiving.recv_bytes())  # noqa: S301 - our parent wrote it
        failed: BaseException | None = None
    except Exception as error:  # an author whose class cannot be imported here
        maker, failed = None, error
    while True:
        try:
            question, known = pickle.loads(receiving.recv_bytes())  # noqa: S301 - as above
        except (EOFError, OSError):
            return
        try:
            if failed is not None:
                raise failed
            reply = pickle.dumps(maker.make(question, known))
        except Exception as error:  # told to the parent, which raises it
            error.add_note("".join(traceback.format_exception(error)))
            reply = pickle.dumps(_portable(error))
        try:
            sending.send_bytes(reply)
        except OSError:  # the parent was killed meanwhile
            return


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # an error that does not survive the way is told in words
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    serve(int(sys.argv[1]), int(sys.argv[2]))
