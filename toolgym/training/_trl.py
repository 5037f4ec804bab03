"""The one module that touches TRL: its version, its trainers, what they are given."""

from __future__ import annotations

import copy
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolgym._util.optional import require_extra
from toolgym.errors import MissingExtraError
from toolgym.training.config import Options
from toolgym.training.loop import Result, StepProgress, arguments, lora, train_loop

__all__ = [
    "TESTED",
    "GroupOptions",
    "Played",
    "PreferenceOptions",
    "check_version",
    "run_dpo",
    "run_grpo",
    "run_sft",
]

TESTED = ((1, 16), (2, 0))
"""TRL versions from the first, and below the second, are what this module was tested with."""

SCALES = {"grpo": "group", "rloo": "none", "reinforce++": "batch"}
"""What the advantage of a reply, its reward less its group's mean, is divided by."""


@dataclass(frozen=True, slots=True)
class PreferenceOptions:
    """What `run_dpo` is told beside `Options`; see `toolgym.training.dpo.train_dpo`."""

    beta: float
    sft_weight: float


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """What `run_grpo` is told beside `Options`; see `toolgym.training.grpo.train_grpo`."""

    generations: int
    beta: float
    temperature: float
    max_tokens: int
    baseline: str
    loss: str
    weights: dict[str, float]


@dataclass
class Played:
    """Episodes as TRL takes them, one entry a row.

    Args:
        prompt_ids: [row][prompt] before the first token that counts.
        completion_ids: [row][completion] replies and tool output.
        mask: [row][completion] 1 = written by the policy.
        logprobs: [row][completion] at temperature 1, 0.0 where the mask is 0.
        parts: [row] unweighted rewards by name; None leaves the row out of the loss.
    """

    prompt_ids: list[list[int]] = field(default_factory=list)
    completion_ids: list[list[int]] = field(default_factory=list)
    mask: list[list[int]] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)
    parts: list[dict[str, float] | None] = field(default_factory=list)


Play = Callable[[Any, Sequence[str], int], Played]
"""Takes the model, the keys of the starting points (each repeated for its group) and the step."""


def check_version(installed: str | None = None) -> str:
    """The installed version of TRL, if it is one that this module was tested with.

    Args:
        installed: for tests; default: what is installed.

    Raises:
        MissingExtraError: TRL is missing, or its version is outside the tested range.
    """
    if installed is None:
        require_extra("trl", "train")
        installed = importlib.metadata.version("trl")
    numbers = [int("".join(filter(str.isdigit, part)) or 0) for part in installed.split(".")]
    low, high = TESTED
    if not low <= (*numbers, 0)[:2] < high:
        raise MissingExtraError(
            f"trl {installed} is outside the tested range >={low[0]}.{low[1]},<{high[0]}; "
            f"install it with: pip install 'trl>={low[0]}.{low[1]},<{high[0]}'"
        )
    return installed


def run_sft(
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, list[int]]],
    work: Path,
    options: Options,
    *,
    resume: bool,
    progress: StepProgress | None,
) -> Result:
    """Train with TRL's ``SFTTrainer`` on rows of ``input_ids`` and ``labels``, taken as they are.

    Args:
        model: changed in place.
        tokenizer: the model's.
        rows: see `toolgym.training.sft.prepare`.
        work: folder of the checkpoints.
        options: what to do.
        resume: go on from the last complete checkpoint in ``work``.
        progress: called after each step.
    """
    check_version()
    trl, datasets = require_extra("trl", "train"), require_extra("datasets", "train")

    def make() -> Any:
        config = trl.SFTConfig(
            # The rows are tokens already, checked and cut to length.
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            **arguments(work, options),
        )
        return trl.SFTTrainer(
            model=model,
            args=config,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora(options.lora),
        )

    return train_loop(make, work, options, resume, progress)


def run_dpo(
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, list[int]]],
    work: Path,
    options: Options,
    preference: PreferenceOptions,
    *,
    resume: bool,
    progress: StepProgress | None,
) -> Result:
    """Train with TRL's ``DPOTrainer`` on pairs of tokens, tool results masked on both sides.

    Args:
        model: changed in place.
        tokenizer: the model's.
        rows: ``prompt_ids``, ``chosen_ids``, ``rejected_ids``, ``chosen_mask``, ``rejected_mask``.
        work: folder of the checkpoints.
        options: what to do.
        preference: beta and losses.
        resume: go on from the last complete checkpoint in ``work``.
        progress: called after each step.
    """
    check_version()
    trl, datasets = require_extra("trl", "train"), require_extra("datasets", "train")
    losses = {"sigmoid": 1.0} | ({"sft": preference.sft_weight} if preference.sft_weight else {})

    base: Any = trl.DPOTrainer

    class TokenTrainer(base):  # type: ignore[misc]
        """Takes rows of tokens as they are."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    def make() -> Any:
        config = trl.DPOConfig(
            beta=preference.beta,
            loss_type=list(losses),
            loss_weights=list(losses.values()),
            max_length=None,
            remove_unused_columns=False,
            **arguments(work, options),
        )
        return TokenTrainer(
            model=model,
            # With adapters the model below them is the reference.
            ref_model=None if options.lora else copy.deepcopy(model),
            args=config,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            data_collator=masked_collator(tokenizer.pad_token_id),
            peft_config=lora(options.lora),
        )

    return train_loop(make, work, options, resume, progress)


def masked_collator(pad: int) -> Any:
    """TRL's collator of pairs, less the tokens that the policy did not write."""
    torch = require_extra("torch", "train")
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    class Masked(DataCollatorForPreference):
        """Zeroes the completion mask where ``chosen_mask`` or ``rejected_mask`` is 0."""

        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            """A batch: the chosen rows, then the rejected ones."""
            batch: dict[str, Any] = super().torch_call(examples)
            sides = [(e["prompt_ids"], e["chosen_mask"]) for e in examples]
            sides += [(e["prompt_ids"], e["rejected_mask"]) for e in examples]
            for row, (prompt, mask) in enumerate(sides):
                place = slice(len(prompt), len(prompt) + len(mask))
                batch["completion_mask"][row, place] *= torch.tensor(mask)
            return batch

    return Masked(pad_token_id=pad)


def run_grpo(
    model: Any,
    tokenizer: Any,
    keys: Sequence[str],
    play: Play,
    work: Path,
    options: Options,
    group: GroupOptions,
    *,
    resume: bool,
    progress: StepProgress | None,
) -> Result:
    """Train with TRL's ``GRPOTrainer`` on episodes that ``play`` plays.

    Args:
        model: changed in place.
        tokenizer: the model's.
        keys: of the starting points; what each means is the player's affair.
        play: plays a batch of episodes with the current model.
        work: folder of the checkpoints.
        options: what to do.
        group: size of groups, beta, advantages, and the weights of the rewards.
        resume: go on from the last complete checkpoint in ``work``.
        progress: called after each step.
    """
    check_version()
    # Its warning tells developers that the interface may change; this module pins the version.
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    trl, datasets = require_extra("trl", "train"), require_extra("datasets", "train")

    def make() -> Any:
        config = trl.GRPOConfig(
            num_generations=group.generations,
            beta=group.beta,
            temperature=group.temperature,
            max_completion_length=group.max_tokens,
            scale_rewards=SCALES[group.baseline],
            loss_type=group.loss,
            reward_weights=list(group.weights.values()),
            **arguments(work, options),
        )
        return trl.GRPOTrainer(
            model=model,
            reward_funcs=[_part(name, n == 0) for n, name in enumerate(group.weights)],
            args=config,
            train_dataset=datasets.Dataset.from_dict({"prompt": list(keys)}),
            processing_class=tokenizer,
            rollout_func=_rollout(play, options.bf16),
            peft_config=lora(options.lora),
        )

    return train_loop(make, work, options, resume, progress)


def _part(name: str, first: bool) -> Callable[..., list[float | None]]:
    def read(
        *, parts: list[dict[str, float] | None], log_metric: Any = None, **_: Any
    ) -> list[float | None]:
        if first and log_metric is not None:
            log_metric("excluded", sum(found is None for found in parts) / len(parts))
        return [None if found is None else found[name] for found in parts]

    read.__name__ = name
    return read


def _rollout(play: Play, bf16: bool) -> Callable[[list[str], Any], dict[str, Any]]:
    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        torch = require_extra("torch", "train")
        transformers = require_extra("transformers", "train")
        model = trainer.accelerator.unwrap_model(trainer.model)
        was_training, saved = model.training, model.generation_config
        model.eval()
        # Saved settings such as a repetition penalty would change the sampling.
        model.generation_config = transformers.GenerationConfig()
        half = torch.autocast(model.device.type, torch.bfloat16) if bf16 else nullcontext()
        try:
            with half:
                played = play(model, prompts, trainer.state.global_step)
        finally:
            model.generation_config = saved
            model.train(was_training)
        return {
            "prompt_ids": played.prompt_ids,
            "completion_ids": played.completion_ids,
            "env_mask": played.mask,
            "logprobs": played.logprobs,
            "parts": played.parts,
        }

    return rollout
