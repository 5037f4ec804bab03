"""Verifiable rewards: deterministic, offline, model-free; a file for what they look at."""

from __future__ import annotations

from toolgym.registry import REWARDS

__all__ = ["NAMES", "register"]

_MODULES = {
    "answer": {
        "accuracy": "the answer says a gold answer, and nothing beside it",
        "exact_match": "the answer is a gold answer",
        "task_completion": "how right and how complete the answer is, from 0 to 1",
        "token_f1": "words shared with the nearest gold answer",
    },
    "state": {
        "goal_reached": "the tools' state is what the task asks for, and nothing else was changed",
        "state_progress": "share of the goal's predicates that hold, minus harm",
        "no_harm": "takes 1 where something else was changed, or a rule was broken",
    },
    "solve": {
        "calls": "minus 1 for each tool call: a cost",
        "execution_precision": "calls that did not fail, of all that were tried",
        "solve_precision": "sub-answers found, by calls made",
        "solve_rate": "sub-answers found, of all",
        "solve_product": "solve_precision times solve_rate",
        "solve_f1": "both as one: 2 found / (calls + sub-answers)",
    },
}
NAMES = tuple(name for names in _MODULES.values() for name in names)


def register() -> None:
    """Add the built-in rewards to the registry."""
    for module, names in _MODULES.items():
        for name, about in names.items():
            REWARDS.add(name, f"toolgym.rewards.{module}:{name}", about=about)
