"""The miniature as a job: how large it is, how it is trained, where it practises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolgym.errors import BadInputError, explain
from toolgym.selftrain.settings import (
    EnvironmentSettings,
    FilterSettings,
    OwnModel,
    SamplingSettings,
    SelfTrainSettings,
)
from toolgym.training.config import SftConfig

__all__ = ["BaseSettings", "MiniaturePreset"]


@dataclass(frozen=True, slots=True)
class BaseSettings:
    """Everything beside the seed that decides what the base model becomes.

    Attributes:
        hidden: width of the residual stream.
        layers: number of blocks.
        heads: attention heads.
        vocabulary: tokens, at most.
        batch: conversations a step.
        muon_rate: peak learning rate of the hidden matrices.
        adam_rate: peak learning rate of the embeddings and norms.
        drill_loss: the copying drill ends when its loss (nats a token, mean of 20 steps) is below
            this.
        drill_cap: most steps of the drill; not being there by then is an error.
        target: the demonstrations settle once the probe of `pretrain.tool_accuracy` reaches this.
        settle_steps: steps over which the learning rates then fall to a tenth.
        demonstration_cap: most steps of the demonstrations, settling included.
        required: least probe after the demonstrations; less is an error.
    """

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    vocabulary: int = 800
    batch: int = 32
    muon_rate: float = 0.01
    adam_rate: float = 3e-3
    drill_loss: float = 0.8
    drill_cap: int = 800
    target: float = 0.25
    settle_steps: int = 300
    demonstration_cap: int = 1200
    required: float = 0.4

    @classmethod
    def tiny(cls) -> BaseSettings:
        """A model of a few steps, for tests: it has the right shape and has learned nothing."""
        return cls(
            hidden=32,
            layers=2,
            heads=2,
            vocabulary=400,
            batch=8,
            drill_loss=100.0,
            drill_cap=2,
            settle_steps=1,
            demonstration_cap=2,
            required=0.0,
        )


class _Build(BaseModel):
    """Options of the preset.

    Args:
        seed: of its world and its training.
        train: questions to practise on, over all environments.
        test: held-out questions, over all environments.
        base: sizes and steps, as in `BaseSettings`; ``{"tiny": true}`` is a model of a few steps
            for trying the chain.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    train: int = Field(default=500, ge=5)
    test: int = Field(default=500, ge=5)
    base: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def read(cls, build: Mapping[str, Any]) -> _Build:
        try:
            return cls.model_validate(dict(build))
        except ValidationError as error:
            raise BadInputError(f"build: {explain(error, cls)}") from error

    @property
    def sizes(self) -> BaseSettings:
        options = dict(self.base)
        try:
            return BaseSettings.tiny() if options.pop("tiny", False) else BaseSettings(**options)
        except TypeError as error:
            raise BadInputError(f"build.base: {error}") from error


class MiniaturePreset(OwnModel):
    """The embedded default: a Llama of a million parameters, built and trained on a CPU."""

    caution = (
        "The miniature's world is generated: its people and entities are invented. Held-out "
        "questions have other numbers and entities than those of practice, in the same few "
        "phrasings, and the base model was shown right tool use in part of its pre-training. The "
        "figures show that the chain works. They say nothing about questions that people ask, or "
        "about larger models."
    )

    def settings(
        self, model: str | None = None, *, corpus: str | None = None, seed: int = 0
    ) -> SelfTrainSettings:
        """Two rounds of SFT on its own world.

        Raises:
            BadInputError: a model or a corpus, which it makes itself.
        """
        if model is not None or corpus is not None:
            raise BadInputError("the miniature makes its model and its corpus itself: name neither")
        return SelfTrainSettings(
            model="miniature",
            rounds=2,
            samples_per_task=8,
            seed=seed,
            sampling=SamplingSettings(max_new_tokens=48, batch_size=128, concurrency=256),
            filter=FilterSettings(per_task=4, dedupe="tokens"),
            train=SftConfig(epochs=2, batch_size=32, learning_rate=1e-3, max_length=512),
            build={"seed": seed} if seed else {},
        )

    def check(self, build: Mapping[str, Any]) -> None:
        """See `OwnModel.check`."""
        _ = _Build.read(build).sizes

    def build(
        self, build: Mapping[str, Any], folder: Path, tell: Callable[[str, int, int, str], None]
    ) -> tuple[str, str]:
        """See `OwnModel.build`; minutes on two cores."""
        from toolgym.miniature.base import build_base
        from toolgym.miniature.world import World

        def told(done: Any) -> None:
            tell(done.stage, done.step, done.steps, f"loss {done.loss:.2f}")

        chosen = _Build.read(build)
        World(chosen.seed).write(folder / "world", train=chosen.train, test=chosen.test)
        model = build_base(folder, seed=chosen.seed, settings=chosen.sizes, progress=told)
        return model.name, "world"

    def environments(self, world: Path) -> list[EnvironmentSettings]:
        """Real environments, over the files of its world."""
        shared = {"prompt": "bare", "format": "react", "max_steps": 4}
        corpus = str(world / "passages.jsonl")
        search = {"corpus": corpus, "tools": ["WikipediaSearch", "Calculator"]}
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

    def tasks(self, build: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """See `OwnModel.tasks`."""
        from toolgym.miniature.world import parts

        chosen = _Build.read(build)
        trained, tested = parts(chosen.train), parts(chosen.test)
        return {label: (trained[label], tested[label]) for label in trained}

    def configuration(self, build: Mapping[str, Any]) -> Any:
        """See `OwnModel.configuration`."""
        from toolgym.miniature.model import configuration

        sizes = _Build.read(build).sizes
        return configuration(
            sizes.vocabulary, hidden=sizes.hidden, layers=sizes.layers, heads=sizes.heads
        )
