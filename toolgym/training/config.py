"""What a training is told: one model behind Python, settings files and the command line.

A new option is a field here. The functions of `toolgym.training` take it by name, settings files
validate against it, and ``toolgym train`` has an option for it, with the description as its help.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from toolgym._util.optional import require_extra
from toolgym.errors import (
    BadInputError,
    MissingExtraError,
    MissingFileError,
    did_you_mean,
    explain,
)
from toolgym.policies.local.models import resolve_dtype

__all__ = [
    "RIGHT",
    "DpoConfig",
    "GroupConfig",
    "GrpoConfig",
    "Resolved",
    "Sampling",
    "SftConfig",
    "TrainConfig",
    "configure",
    "processes",
    "rank",
]

RIGHT = "accuracy>=1"  # which episodes are right where nobody says it
DEFAULT_RANK = 16  # arXiv 2502.05867, training
_PACKAGES = {"azure_ml": "azureml-core", "comet_ml": "comet-ml", "dvclive": "dvclive"}


class _Strict(BaseModel):
    # Strict: a text would count as true, or as above 0, and True as 1.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True
    )


class TrainConfig(_Strict):
    """What all trainings share."""

    RATES: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    """Default learning rates: of all weights, of adapters."""

    epochs: float = Field(default=3, gt=0, description="Passes over the rows or starting points.")
    batch_size: int = Field(
        default=16,
        ge=1,
        description="Rows an update, over all accumulation and processes; pairs for DPO, episodes "
        "for GRPO.",
    )
    device_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Rows at once in a process; default: 1 on a GPU, what fits on a CPU.",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="Peak, falling linearly to 0; default: see docs/training.md.",
    )
    max_length: int = Field(
        default=8192,
        ge=1,
        description="Tokens: longer rows are left out, episodes of GRPO end after the turn that "
        "passes them.",
    )
    lora: bool | Annotated[int, Field(ge=0)] = Field(
        default=False, description="Rank of LoRA adapters, merged at the end; the paper's is 16."
    )
    gradient_checkpointing: bool | None = Field(
        default=None, description="Compute activations again, for less memory; default: on a GPU."
    )
    bf16: bool | Literal["fast"] | None = Field(
        default=None,
        description="Compute in bfloat16; default: on a GPU that can; 'fast': also on a CPU that "
        "is faster so.",
    )
    deepspeed: str | None = Field(
        default=None, description="DeepSpeed configuration file, ZeRO stage 2 at most."
    )
    max_updates: int | None = Field(
        default=None,
        ge=1,
        description="So many updates (optimiser steps), whatever the epochs say.",
    )
    save_every: int = Field(default=200, ge=1, description="Updates between checkpoints.")
    report_to: str | list[str] = Field(
        default="none", description="'none', or integrations of transformers such as 'tensorboard'."
    )
    seed: int | None = Field(
        default=None,
        description="Fixes the order of the rows and all sampling; default: 0, in self-training "
        "the run's.",
    )

    @field_validator("deepspeed", "report_to", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        """Paths and tuples, as Python code has them."""
        if isinstance(value, tuple):
            return list(value)
        return str(value) if isinstance(value, Path) else value

    def resolve(self) -> Resolved:
        """With what this machine decides where nothing was said.

        Raises:
            BadInputError: batch sizes that do not fit, weights that would be spread over
                processes, or an unknown name in ``report_to``.
            MissingExtraError: a package of ``report_to``, or ``deepspeed``, is not installed.
            MissingFileError: the DeepSpeed configuration is not there.
        """
        torch = require_extra("torch", "train")
        require_extra("transformers", "train")  # loaded now, so that it can be kept quiet
        _require_whole_weights(self.deepspeed)
        gpu = bool(torch.cuda.is_available())
        share = max(1, self.batch_size // processes())
        at_once = self.device_batch_size
        at_once = (1 if gpu else share) if at_once is None else min(at_once, share)
        if self.batch_size % (at_once * processes()):
            several = f" times {processes()} processes" if processes() > 1 else ""
            raise BadInputError(
                f"batch_size {self.batch_size} is not a multiple of device_batch_size {at_once}"
                f"{several}"
            )
        rank = DEFAULT_RANK if self.lora is True else int(self.lora)
        checkpointing, bf16 = self.gradient_checkpointing, self.bf16
        if bf16 == "fast":
            bf16 = resolve_dtype("fast") == "bfloat16"
        rate = self.RATES[rank > 0] if self.learning_rate is None else self.learning_rate
        decided = {
            "device_batch_size": at_once,
            "learning_rate": rate,
            "lora": rank,
            "gradient_checkpointing": gpu if checkpointing is None else checkpointing,
            "bf16": gpu and torch.cuda.is_bf16_supported() if bf16 is None else bf16,
            "report_to": _trackers(self.report_to),
            "seed": self.seed or 0,
        }
        return Resolved(**self.model_dump(include=set(TrainConfig.model_fields)) | decided)


class Resolved(TrainConfig):
    """`TrainConfig` with nothing left open."""

    device_batch_size: int
    learning_rate: float
    lora: int
    gradient_checkpointing: bool
    bf16: bool
    report_to: list[str]
    seed: int

    def record(self) -> dict[str, Any]:
        """What is remembered of a training; the rows themselves say how long they are."""
        return self.model_dump(exclude={"max_length"})


class SftConfig(TrainConfig):
    """What `toolgym.training.sft.train_sft` is told."""

    RATES = (2e-5, 2e-4)


class DpoConfig(TrainConfig):
    """What `toolgym.training.dpo.train_dpo` is told."""

    pairing: str = Field(default="first_turn", description="How runs are paired; see `export dpo`.")
    where: str | None = Field(
        default=None,
        description=f"Which episodes are right; default: {RIGHT}, in self-training the filter's.",
    )
    per_task: int | None = Field(default=None, ge=1, description="Most pairs of one question.")
    beta: float = Field(
        default=0.5, gt=0, description="How near the reference it stays; the paper's is 0.5."
    )
    sft_weight: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the chosen side's own likelihood, as a second loss.",
    )

    @field_validator("pairing")
    @classmethod
    def _known(cls, value: str) -> str:
        from toolgym.data.pairs import PAIRINGS  # the command line starts without it

        if value not in PAIRINGS:
            near = did_you_mean(value, PAIRINGS)
            raise ValueError(f"must be one of {', '.join(PAIRINGS)}, not {value!r}{near}")
        return value


class GroupConfig(TrainConfig):
    """What a training by groups of episodes is told, beside how the model writes."""

    epochs: float = Field(default=1, gt=0, description="Passes over the starting points.")
    batch_size: int = Field(default=64, ge=1, description="Episodes an update, whole groups.")
    save_every: int = Field(default=50, ge=1, description="Updates between checkpoints.")
    credit: Literal["episode", "turn"] | None = Field(
        default=None,
        description="'episode' sums the rewards to the end, 'turn' plays one turn for its own; "
        "default: 'turn' with prefixes.",
    )
    generations: int = Field(default=8, ge=2, description="Episodes of a group.")
    branch_after: int = Field(
        default=0, ge=0, description="Turns of a group that are played once, before it branches."
    )
    beta: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the KL divergence from the first model; 0 saves memory.",
    )
    baseline: Literal["grpo", "rloo", "reinforce++"] = Field(
        default="grpo",
        description="What a group's advantages are divided by; see docs/training.md.",
    )
    loss: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = Field(
        default="dapo", description="How tokens are averaged, as TRL has them."
    )
    record_episodes: bool = Field(
        default=False, description="Keep all that was played, a file an update, in OUT/episodes."
    )

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.batch_size % self.generations:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of generations "
                f"{self.generations}: an update plays whole groups"
            )
        return self


class Sampling(_Strict):
    """How a model writes, see `toolgym.policies.local.transformers.TransformersPolicy`."""

    temperature: float = Field(default=1.0, gt=0, description="Of sampling, and of the losses.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Nucleus sampling.")
    max_new_tokens: int = Field(default=512, ge=1, description="Of a reply.")
    max_prompt_tokens: int = Field(
        default=8192, ge=1, description="Longer prompts lose their beginning."
    )
    cache_gib: float = Field(
        default=1.0, ge=0, description="GiB of keys and values kept between an episode's turns."
    )
    template: dict[str, Any] = Field(
        default_factory=dict,
        description="Arguments of the chat template, such as {'enable_thinking': false}.",
    )


class GrpoConfig(GroupConfig, Sampling):
    """What `toolgym.training.grpo.train_grpo` is told."""

    sampling_batch_size: int = Field(default=64, ge=1, description="Replies sampled at once.")


C = TypeVar("C", bound=TrainConfig)


def configure(
    kind: type[C], config: TrainConfig | Mapping[str, Any] | None, given: Mapping[str, Any]
) -> C:
    """One checked model from a model or plain data, and from arguments, which win.

    Args:
        kind: the model that a training takes.
        config: one of that kind (or with more fields), its fields as plain data, or nothing.
        given: single fields by name.

    Raises:
        BadInputError: an unknown name (near ones are named) or a value that does not fit.
    """
    if isinstance(config, TrainConfig):
        if not set(kind.model_fields) <= set(type(config).model_fields):
            raise BadInputError(
                f"config must be of the kind {kind.__name__}, not {type(config).__name__}"
            )
        config = config.model_dump(include=set(kind.model_fields))
    elif config is not None and not isinstance(config, Mapping):
        raise BadInputError(f"config must be a {kind.__name__} or a mapping, not {config!r:.60}")
    try:
        return kind.model_validate({**(config or {}), **given})
    except ValidationError as error:
        raise BadInputError(explain(error, kind, "option")) from error


def _trackers(asked: str | list[str]) -> list[str]:
    """The integrations to report to, each known and installed."""
    from transformers.integrations import integration_utils

    names = [asked] if isinstance(asked, str) else asked
    known = integration_utils.INTEGRATION_TO_CALLBACK
    for name in names:
        if name in ("none", "all"):
            continue
        if name not in known:
            raise BadInputError(
                f"report_to must be none or of {', '.join(sorted(known))}, not {name!r}"
                f"{did_you_mean(name, known)}"
            )
        there = getattr(integration_utils, f"is_{name}_available", None)
        if there is not None and not there():
            raise MissingExtraError(
                f"report_to {name!r} needs a package that is not installed: pip install "
                f"{_PACKAGES.get(name, name)}; or leave report_to out"
            )
    return names


# What accelerate's launcher says for ways of training that spread one model's weights.
_SPREAD = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or sequence parallelism",
}
_TORCHRUN = "torchrun --nproc_per_node N -m toolgym.cli train ..."


def _require_whole_weights(deepspeed: str | None) -> None:
    """Refuse what would quietly be another training than the one that was asked for.

    One process saves the model, so that each must hold all weights; and where `accelerate launch`
    finds no GPU it starts a single process, however many it was asked for.

    Raises:
        BadInputError: the weights would be spread, or there is one process instead of several.
        MissingExtraError: DeepSpeed is asked for and not installed.
        MissingFileError: its configuration is not there.
    """
    said = os.environ
    for name, what in _SPREAD.items():
        if said.get(name, "").lower() in ("true", "1", "yes"):
            raise BadInputError(
                f"{what} spreads the weights over processes, and the model is saved by one of "
                f"them; start with plain data parallelism (accelerate launch --multi_gpu, or "
                f"{_TORCHRUN}), or DeepSpeed up to ZeRO stage 2"
            )
    # The launcher names an address when it was asked for several processes; its way for a
    # single one then starts only that one, without saying which of how many it is.
    if "ACCELERATE_USE_CPU" in said and "MASTER_ADDR" in said and processes() == 1:
        raise BadInputError(
            "accelerate launch was asked for several processes and started one: without GPUs it "
            f"starts no more; use {_TORCHRUN}, or for one process leave accelerate launch out"
        )
    configured = said.get("ACCELERATE_DEEPSPEED_CONFIG_FILE") or None
    launched = said.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    stage = said.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "") if launched else ""
    for path in filter(None, (deepspeed, configured if launched else None)):
        if not Path(path).is_file():
            raise MissingFileError(f"DeepSpeed configuration {path!r} does not exist")
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))["zero_optimization"]["stage"]
            found = int(found)
        except (ValueError, KeyError, TypeError):
            found = 0  # deepspeed itself will say what is wrong with it
        stage = stage if stage == "3" else str(found)
    if stage == "3":
        raise BadInputError(
            f"DeepSpeed ZeRO stage 3 ({deepspeed or configured or 'accelerate launch'}) spreads "
            "the weights over processes, and the model is saved by one of them; use stage 2"
        )
    if (deepspeed is not None or launched) and importlib.util.find_spec("deepspeed") is None:
        raise MissingExtraError(
            "'deepspeed' is not installed, and the extra 'train' does not bring it; install it "
            "with: pip install 'toolgym[deepspeed]', or leave the option deepspeed out"
        )


def processes() -> int:
    """How many processes train together, as ``torchrun``, ``accelerate launch`` or MPI say it."""
    return _said("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", usual=1)


def rank() -> int:
    """Which of them this is; the first one writes."""
    return _said("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", usual=0)


def _said(*names: str, usual: int) -> int:
    """The first of some environment variables that is set; accelerate reads the same ones."""
    return next((int(os.environ[name]) for name in names if name in os.environ), usual)
