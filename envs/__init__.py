"""Environment families, one a file; registered as strings, imported when they are made."""

from __future__ import annotations

import gymnasium as gym

from toolgym.registry import AUTHORS, COMMANDS, CORPORA, POLICIES, VIEWERS, Resource

__all__ = ["IDS", "register"]

_FAMILIES = {
    "ToolQA-PopQA-v0": "toolqa.popqa",
    "ToolQA-TriviaQA-v0": "toolqa.triviaqa",
    "ToolQA-GSM8K-v0": "toolqa.gsm8k",
    "ToolQA-NQOpen-v0": "toolqa.nqopen",
    "ToolScenario-v0": "toolscenario.environment",
}
IDS = tuple(_FAMILIES)


def register() -> None:
    """Add the environment ids to gymnasium, and what belongs to them to the registries."""
    for env_id, module in _FAMILIES.items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point=f"toolgym.envs.{module}:make",
                vector_entry_point=f"toolgym.envs.{module}:make_vector",
            )
    CORPORA.add("sample", Resource("toolgym.envs.toolqa", "samples/encyclopedia_sample.jsonl"))
    CORPORA.add("phrasebook", Resource("toolgym.envs.toolqa", "samples/phrasebook_sample.jsonl"))
    AUTHORS.add("offline", "toolgym.envs.toolscenario.authors.template.author:OfflineAuthor")
    AUTHORS.add("endpoint", "toolgym.envs.toolscenario.authors.llm.author:EndpointAuthor")
    COMMANDS.add("scenarios", "toolgym.envs.toolscenario.compiler.cli:app")
    VIEWERS.add("scenario", "toolgym.envs.toolscenario.viewer:describe_row")
    POLICIES.add("lookup", "toolgym.envs.toolqa.baseline.lookup:LookupPolicy")
    for name, policy in (
        ("scenario-oracle", "OraclePolicy"),
        ("scenario-random", "RandomCallPolicy"),
        ("scenario-no-call", "NoCallPolicy"),
        ("scenario-spam", "SpamPolicy"),
    ):
        POLICIES.add(name, f"toolgym.envs.toolscenario.policies:{policy}")
