"""The record of an episode and its versioned JSONL form."""

from toolgym.trajectory.reading import (
    TOOLS,
    Documents,
    EpisodeSpool,
    Names,
    parse_trajectory,
    read_trajectories,
)
from toolgym.trajectory.record import (
    MALFORMED_CALLS,
    SCHEMA,
    Problem,
    Step,
    Tokens,
    Trajectory,
)
from toolgym.trajectory.showing import glance, summary_row

__all__ = [
    "MALFORMED_CALLS",
    "SCHEMA",
    "TOOLS",
    "Documents",
    "EpisodeSpool",
    "Names",
    "Problem",
    "Step",
    "Tokens",
    "Trajectory",
    "glance",
    "parse_trajectory",
    "read_trajectories",
    "summary_row",
]
