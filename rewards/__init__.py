"""Verifiable rewards: deterministic, offline, model-free; a file for what they look at."""

from __future__ import annotations

from toolgym.registry import REWARDS

__all__ = ["NAMES", "register"]

_MODULES = {
    "answer": ("accuracy", "exact_match", "task_completion", "token_f1"),
    "calls": ("execution_precision",),
    "solve": ("solve_precision", "solve_rate", "solve_product", "solve_f1"),
}
NAMES = tuple(name for names in _MODULES.values() for name in names)


def register() -> None:
    """Add the built-in rewards to the registry."""
    for module, names in _MODULES.items():
        for name in names:
            REWARDS.add(name, f"toolgym.rewards.{module}:{name}")
