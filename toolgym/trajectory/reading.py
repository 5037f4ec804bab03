"""Recorded episodes as lines of a file, read one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from toolgym._util.jsonl import dump_line, parse_line, read_lines
from toolgym._util.spool import MOST_HELD, Spool
from toolgym.errors import BadInputError
from toolgym.trajectory.record import Trajectory

__all__ = ["parse_trajectory", "read_trajectories", "spool_for"]


def read_trajectories(path: str | Path, *, torn: bool = False) -> Iterator[Trajectory]:
    """Stream the trajectories of a ``.jsonl`` file; a line that stands there again counts once.

    Args:
        path: the file.
        torn: leave out a last line that a writer has not finished.

    Raises:
        MissingFileError: no such file.
        BadInputError: a broken line, see `parse_trajectory`; its number is named.
    """
    seen: set[bytes] = set()
    for number, _, raw in read_lines(path, "trajectory file", torn=torn):
        digest = blake2b(raw.strip(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield parse_trajectory(raw, path, number)


def parse_trajectory(raw: bytes, path: str | Path, number: int) -> Trajectory:
    """The trajectory of one line.

    Args:
        raw: the line.
        path: of the file, for messages.
        number: of the line, counted from 1.

    Raises:
        BadInputError: it is not JSON, no trajectory, has no step, an id other than that of its
            task and sample, or a reward or metric that is not a finite number.
    """
    row = parse_line(raw, path, number, "trajectory file", finite=True)
    try:
        found = Trajectory.from_row(row)
        if not isinstance(found.sample, int) or row.get("id") != found.id:
            raise BadInputError(
                f"the id of an episode is 'task#sample', here {found.id!r}, not {row.get('id')!r}; "
                "remove the line"
            )
        if not found.steps:
            raise BadInputError(
                f"episode {found.id!r} has no step, so nothing was played; remove the line"
            )
        for values in (
            found.metrics,
            *({"reward": s.reward} | s.reward_parts for s in found.steps),
        ):
            for name, value in values.items():
                if not isinstance(value, int | float):
                    raise BadInputError(f"{name} is {value!r}, not a number; remove the line")
    except BadInputError as error:
        raise BadInputError(f"{str(path)!r}, line {number}: {error}") from error
    return found


def spool_for(held: bool = False) -> Spool[Trajectory]:
    """Where episodes are kept that were read: on disk when they are many.

    Args:
        held: they stand in memory anyway, and stay there.
    """
    return Spool(
        lambda trajectory: dump_line(trajectory.to_row()),
        lambda line: Trajectory.from_row(json.loads(line)),
        None if held else MOST_HELD,
    )
