"""Environment families, one a file; registered as strings, imported when they are made."""

from __future__ import annotations

import gymnasium as gym

from toolgym.registry import CORPORA, Resource

__all__ = ["IDS", "register"]

_FAMILIES = {
    "ToolQA-PopQA-v0": "popqa",
    "ToolQA-TriviaQA-v0": "triviaqa",
    "ToolQA-GSM8K-v0": "gsm8k",
    "ToolQA-NQOpen-v0": "nqopen",
}
IDS = tuple(_FAMILIES)


def register() -> None:
    """Add the environment ids to gymnasium and the bundled texts to the registries."""
    for env_id, module in _FAMILIES.items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point=f"toolgym.envs.{module}:make",
                vector_entry_point=f"toolgym.envs.{module}:make_vector",
            )
    CORPORA.add("sample", Resource("toolgym.envs", "encyclopedia_sample.jsonl"))
    CORPORA.add("phrasebook", Resource("toolgym.envs", "phrasebook_sample.jsonl"))
