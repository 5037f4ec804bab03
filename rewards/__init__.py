"""Verifiable rewards, one a file: deterministic, offline, model-free."""

from __future__ import annotations

from toolgym.registry import REWARDS

__all__ = ["NAMES", "register"]

NAMES = (
    *("accuracy", "exact_match", "execution_precision", "task_completion", "token_f1"),
    *("solve_precision", "solve_rate", "solve_product", "solve_f1"),
)


def register() -> None:
    """Add the built-in rewards to the registry."""
    for name in NAMES:
        REWARDS.add(name, f"toolgym.rewards.{name}:{name}")
