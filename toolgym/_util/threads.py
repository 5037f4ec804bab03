"""How the threads of OpenMP, which torch computes with, wait for each other."""

from __future__ import annotations

import os

__all__ = ["wait_briefly"]

_SPINS = "4000"  # of GNU's OpenMP: about a tenth of a millisecond


def wait_briefly() -> None:
    """Let threads look for a moment whether the others are done, and then sleep.

    By default they look for many milliseconds, and beside any other program two threads then train
    four to ten times slower than one. If they sleep at once, waking them takes longer than many an
    operation of a small model. What the environment says already is kept. It must be called before
    torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if os.environ["OMP_WAIT_POLICY"].upper() == "PASSIVE":
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
