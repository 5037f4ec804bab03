"""The job of arXiv 2502.05867: practise on TriviaQA and GSM8K, evaluate on these and two more."""

from __future__ import annotations

from typing import Any

from toolgym.selftrain.sampling import SamplingSettings
from toolgym.selftrain.settings import (
    EnvironmentSettings,
    FilterSettings,
    Preset,
    SelfTrainSettings,
)
from toolgym.training.config import SftConfig

__all__ = ["PaperPreset"]


class PaperPreset(Preset):
    """LoRA of rank 16, 3 epochs, batches of 16, temperature 0.6, top-p 0.9, one round.

    Needs a GPU, the hub (or its cache), and a corpus for the search.
    """

    def settings(
        self, model: str | None = None, *, corpus: str | None = None, seed: int = 0
    ) -> SelfTrainSettings:
        """The settings of the job.

        Args:
            model: a folder or a hub id; None: the paper's own.
            corpus: what the search looks in: an index folder or a ``.jsonl`` of passages; None is
                the bundled encyclopedia, far too small for these questions (the report says so).
            seed: of everything that is drawn.
        """
        shared: dict[str, Any] = {"tasks": "hub", "prompt": "tools_multi_step", "format": "react"}
        shared |= {} if corpus is None else {"corpus": corpus}
        search = {"name": "WikipediaSearch", "k": 1}
        translate = {"name": "MachineTranslator", "backend": "nllb", "source": "eng_Latn"}
        shared["tools"] = ["Calculator", search, translate]
        practised = ("TriviaQA", "GSM8K")
        environments = [
            EnvironmentSettings(
                id=f"ToolQA-{name}-v0",
                name=name.lower(),
                args=shared,
                train={"split": "train"} if name in practised else None,
                test={"split": "test"},
            )
            for name in (*practised, "PopQA", "NQOpen")
        ]
        return SelfTrainSettings(
            model=model or "meta-llama/Meta-Llama-3-8B-Instruct",
            environments=environments,
            rounds=1,
            samples_per_task=1,
            seed=seed,
            sampling=SamplingSettings(
                temperature=0.6, top_p=0.9, max_new_tokens=512, batch_size=16
            ),
            filter=FilterSettings(where="accuracy_paper_filter>=1", per_task=None),
            train=SftConfig(epochs=3, batch_size=16, max_length=8192, lora=16),
        )
