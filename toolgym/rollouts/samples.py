"""Runs that ship with the package, small enough to play with."""

from __future__ import annotations

import gzip
from importlib.resources import files

from toolgym._util.jsonl import parse_line
from toolgym.errors import UnknownNameError
from toolgym.rollouts.runs import Run
from toolgym.trajectory import Trajectory

__all__ = ["SAMPLES", "sample_run"]

SAMPLES = ("lookup", "random", "spam")
"""An honest policy of rules, one that guesses, and one that offers all that it has read."""


def sample_run(name: str = SAMPLES[0]) -> Run:
    """A bundled run: 20 questions of the bundled sample, three episodes each.

    Every command and function that reads a run takes ``sample:NAME`` for it, too. How the runs were
    made stands in ``benchmarks/sample_runs.py``.

    Args:
        name: ``lookup`` (looks it up, reads, answers), ``random`` (guesses a name that it has read)
            or ``spam`` (offers every name that it has read).

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in SAMPLES:
        raise UnknownNameError("sample run", name, SAMPLES)
    where = files("toolgym.rollouts") / "samples" / f"{name}.jsonl.gz"
    lines = gzip.decompress(where.read_bytes()).splitlines()
    rows = [parse_line(raw, f"{name}.jsonl", n, "sample run") for n, raw in enumerate(lines, 1)]
    settings, shared, *episodes = rows
    recorded = [Trajectory.from_row(row | {"tools": shared["tools"]}) for row in episodes]
    return Run(settings, recorded=recorded)
