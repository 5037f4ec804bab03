"""The role of the warden: when its parent is gone, it ends the process groups that were left.

A message is ``+`` or ``-`` and a number: this group is watched, or no longer. A parent that is
killed cannot end what it started, and programs of others need not notice that it is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolgym._workers.child import Channel

__all__ = ["serve"]


def serve(channel: Channel) -> None:
    """Watch until the channel closes."""
    groups: set[int] = set()
    while True:
        try:
            message = channel.receive()
        except EOFError:
            break
        number = int(message[1:])
        (groups.add if message[:1] == b"+" else groups.discard)(number)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
