"""The record of an episode and its versioned JSONL form."""

from toolgym.trajectory.reading import (
    TOOLS,
    Documents,
    parse_trajectory,
    read_trajectories,
    spool_for,
)
from toolgym.trajectory.record import (
    MALFORMED_CALLS,
    SCHEMA,
    Problem,
    Step,
    Tokens,
    Trajectory,
)

__all__ = [
    "MALFORMED_CALLS",
    "SCHEMA",
    "TOOLS",
    "Documents",
    "Problem",
    "Step",
    "Tokens",
    "Trajectory",
    "parse_trajectory",
    "read_trajectories",
    "spool_for",
]
