"""Checkers of tools, rewards, formats and environments, for everybody who writes one."""

from __future__ import annotations

from toolgym.checks.contracts import check_env, check_format, check_reward, check_tool
from toolgym.checks.probes import ProbeReport, probe_reward

__all__ = [
    "ProbeReport",
    "check_env",
    "check_format",
    "check_reward",
    "check_tool",
    "probe_reward",
]
