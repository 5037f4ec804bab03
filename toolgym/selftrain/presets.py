"""Two ready settings: the miniature, which needs nothing but a CPU, and the paper's job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolgym.selftrain.settings import (
    EnvironmentSettings,
    FilterSettings,
    MiniatureSettings,
    SamplingSettings,
    SelfTrainSettings,
)
from toolgym.training.config import SftConfig

__all__ = ["default_settings", "miniature_environments", "paper_settings"]


def default_settings(*, seed: int = 0) -> SelfTrainSettings:
    """The embedded default: a Llama of a million parameters, built and trained on a CPU.

    Args:
        seed: of world, base model, practice and training.
    """
    return SelfTrainSettings(
        model="miniature",
        rounds=2,
        samples_per_task=8,
        seed=seed,
        sampling=SamplingSettings(max_new_tokens=48, batch_size=128, concurrency=256),
        filter=FilterSettings(per_task=4, dedupe="tokens"),
        train=SftConfig(epochs=2, batch_size=32, learning_rate=1e-3, max_length=512),
        miniature=MiniatureSettings(seed=seed),
    )


def paper_settings(
    model: str = "meta-llama/Meta-Llama-3-8B-Instruct", *, corpus: str | None = None
) -> SelfTrainSettings:
    """The job of arXiv 2502.05867: practise on TriviaQA and GSM8K, evaluate on these and two more.

    LoRA of rank 16, 3 epochs, batches of 16, temperature 0.6, top-p 0.9, 512 new tokens, one round.
    Needs a GPU, the hub (or its cache), and a corpus for the search.

    Args:
        model: a folder or a hub id.
        corpus: what the search looks in: an index folder or a ``.jsonl`` of passages; None is the
            bundled encyclopedia, far too small for these questions (the report says so).
    """
    shared: dict[str, Any] = {"tasks": "hub", "prompt": "tools_multi_step", "format": "react"}
    shared |= {} if corpus is None else {"corpus": corpus}
    search = {"name": "WikipediaSearch", "k": 1}
    translate = {"name": "MachineTranslator", "backend": "nllb", "source": "eng_Latn"}
    shared["tools"] = ["Calculator", search, translate]
    train, test = {"split": "train"}, {"split": "test"}
    names = ("TriviaQA", "GSM8K", "PopQA", "NQOpen")
    environments = [
        EnvironmentSettings(
            id=f"ToolQA-{name}-v0",
            name=name.lower(),
            args=shared,
            train=train if name in ("TriviaQA", "GSM8K") else None,
            test=test,
        )
        for name in names
    ]
    return SelfTrainSettings(
        model=model,
        environments=environments,
        rounds=1,
        samples_per_task=1,
        sampling=SamplingSettings(temperature=0.6, top_p=0.9, max_new_tokens=512, batch_size=16),
        filter=FilterSettings(per_task=None),
        train=SftConfig(epochs=3, batch_size=16, max_length=8192, lora=16),
    )


def miniature_environments(world: Path) -> list[EnvironmentSettings]:
    """The real environments of the miniature, over the files of its world.

    Args:
        world: folder that `toolgym.miniature.world.World.write` wrote.
    """
    shared = {"prompt": "bare", "format": "react", "max_steps": 4}
    search = {"corpus": str(world / "passages.jsonl"), "tools": ["WikipediaSearch", "Calculator"]}
    return [
        EnvironmentSettings(
            id=env_id,
            name=name,
            args=shared | extra,
            train={"tasks": str(world / f"{name}-train.jsonl")},
            test={"tasks": str(world / f"{name}-test.jsonl")},
        )
        for name, env_id, extra in (
            ("arithmetic", "ToolQA-GSM8K-v0", search),
            ("entities", "ToolQA-PopQA-v0", search),
            # Trained in together they need one reward: here the final answer's.
            ("scenarios", "ToolScenario-v0", {"reward": {"accuracy": 1.0}}),
        )
    ]
