"""The pool of keepers: idle child interpreters that fork a jailed runner for each call."""

from __future__ import annotations

import atexit
import json
import os
import struct
import threading
from pathlib import Path

from toolgym._workers.process import Child

__all__ = ["Keepers", "keepers_of", "shared"]

_SCRIPT = Path(__file__).parent.parent / "sandbox" / "_child.py"
# As in _child.py, which is run by path and shares no module with this one.
_HEADER = struct.Struct("!dIIB")
_RULES, _FLAGS = 1, {"limits": 2, "seccomp": 4}
# No site packages, no user folder, no folder of the script in front: only the standard library.
_OPTIONS = ("-s", "-S", "-B", "-P")
_KEPT = 8  # idle keepers at least: as many calls as one turn runs at once; starting one takes 40 ms
_GRACE = 10.0  # seconds after the deadline at which the keeper itself is taken for broken


class Keepers:
    """Idle keepers; each call takes one or starts one.

    A keeper runs nothing of what a model wrote, so keepers are shared by all sandboxes.

    Args:
        hash_seed: sets are walked in the same order in every run of one seed.
    """

    def __init__(self, hash_seed: int = 0) -> None:
        self._environment = {"PYTHONHASHSEED": str(hash_seed)}
        self._idle: list[Child] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._layers: tuple[str, ...] | None = None
        atexit.register(self.close)

    def layers(self) -> tuple[str, ...]:
        """Layers of the operating system that stand around a runner here, as a runner found."""
        if self._layers is None:
            reply = self.call(b"", 60.0, 64, 1_000, rules=False)
            known = reply is not None and reply[:1] == b"v"
            self._layers = tuple(json.loads(reply[1:])) if reply and known else ()
        return self._layers

    def call(
        self, request: bytes, timeout: float, memory: int, limit: int, *, rules: bool
    ) -> bytes | None:
        """One call in a runner of its own.

        Args:
            request: JSON of name, source and arguments; empty asks for the layers.
            timeout: seconds.
            memory: MiB that the runner may have beyond what an empty one has.
            limit: characters of the answer.
            rules: whether the rules of the language are checked.

        Returns:
            One letter for the kind of the answer and its text in UTF-8; None: the keeper died.
        """
        # A layer that stood at the first try has to stand each time.
        flags = sum(_FLAGS[layer] for layer in self._layers or ()) + _RULES * rules
        return self.ask(_HEADER.pack(timeout, memory, limit, flags) + request, timeout)

    def ask(self, message: bytes, timeout: float) -> bytes | None:
        """The reply of an idle keeper to a message; None: the keeper died.

        Args:
            message: header and request.
            timeout: seconds after which the keeper itself ends the work.
        """
        try:
            keeper = self._take()
        except EOFError:
            return None
        try:
            reply = keeper.ask(message, timeout + _GRACE)
        except EOFError:
            reply = None
        except BaseException:  # Ctrl-C in the middle: the keeper is in an unknown state
            keeper.kill()
            raise
        if reply is None:
            keeper.kill()
            return None
        with self._lock:
            if len(self._idle) < max(_KEPT, os.cpu_count() or 1):
                self._idle.append(keeper)
                return reply
        keeper.kill()
        return reply

    def _take(self) -> Child:
        with self._lock:
            if self._owner != os.getpid():  # after a fork the parent's keepers are not ours
                for keeper in self._idle:
                    keeper.disown()
                self._idle, self._owner = [], os.getpid()
            if self._idle:
                return self._idle.pop()
        return self.start()

    def start(self) -> Child:
        """A new keeper; `toolgym.tools.calculator.symbolic` has keepers of another kind.

        Raises:
            EOFError: it ended at once.
        """
        return Child(_SCRIPT, self._environment, _OPTIONS, "/")

    def close(self) -> None:
        """Kill all idle keepers; the pool can be used again afterwards."""
        with self._lock:
            idle, self._idle = self._idle, []
        if self._owner == os.getpid():
            for keeper in idle:
                keeper.kill()


shared = Keepers()
_others: dict[int, Keepers] = {}
_others_lock = threading.Lock()


def keepers_of(hash_seed: int) -> Keepers:
    """The pool of one hash seed: a second one shows which functions depend on the order of sets."""
    if hash_seed == 0:
        return shared
    with _others_lock:
        return _others.setdefault(hash_seed, Keepers(hash_seed))
