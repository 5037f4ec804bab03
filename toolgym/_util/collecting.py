"""Fewer passes of the garbage collector while many requests are under way."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

__all__ = ["seldom_collecting"]

_THRESHOLDS = (20_000, 20, 20)  # new objects, passes over them, passes over what these have left
_lock = threading.Lock()
_inside = 0
_before: tuple[int, int, int] | None = None
_frozen = False


@contextlib.contextmanager
def seldom_collecting() -> Iterator[None]:
    """Within, the collector looks at new objects alone, and seldom.

    A pass over everything that was ever imported holds all replies up for 40 to 90 ms. What the
    user has set, or frozen, stays as it is; so it does afterwards.
    """
    global _inside, _before, _frozen
    with _lock:
        _inside += 1
        if _inside == 1:
            found = gc.get_threshold()
            # Zero: the user has turned it off. Higher: he has made it calmer himself.
            _before = found if 0 < found[0] < _THRESHOLDS[0] else None
            _frozen = gc.get_freeze_count() == 0
            if _before is not None:
                gc.set_threshold(*_THRESHOLDS)
            if _frozen:
                gc.freeze()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                if _frozen:
                    gc.unfreeze()
                if _before is not None and gc.get_threshold() == _THRESHOLDS:
                    gc.set_threshold(*_before)
