"""The child's side of `toolgym.tools.search.workers`; run by path."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection


def end_with_parent(parent: int) -> None:
    """A killed parent must not leave a worker that goes on writing into its folder."""
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(1)


def serve(read: int, write: int) -> None:
    """Receive the plan once, then do jobs until the parent closes its end."""
    from toolgym.tools.search.workers import Bench

    receiving, sending = Connection(read, writable=False), Connection(write, readable=False)
    bench: Bench | None = None
    while True:
        try:
            message = pickle.loads(receiving.recv_bytes())  # noqa: S301 - our parent wrote it
        except (EOFError, OSError):
            return
        if bench is None:
            bench = Bench(message)
            continue
        work, job = message
        del message
        try:
            result = getattr(bench, work)(*job)
        except Exception as error:  # raised again in the parent
            result = error
        del job
        sending.send_bytes(pickle.dumps(result, pickle.HIGHEST_PROTOCOL))
        del result


if __name__ == "__main__":
    # Run by path, this file's folder is first on sys.path; it must not shadow top-level modules.
    sys.path.pop(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends us
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    serve(int(sys.argv[1]), int(sys.argv[2]))
