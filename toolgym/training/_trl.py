"""The one module that touches TRL: its version, its trainer, its checkpoints."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolgym._optional import need, quiet
from toolgym.errors import MissingExtraError, MissingFileError

__all__ = ["TESTED", "Options", "check_version", "load_for_training", "run_sft"]

TESTED = ((1, 16), (2, 0))
"""TRL versions from the first, and below the second, are what this module was tested with."""

COMPLETE = "complete"  # written into a checkpoint when all else of it is on disk
LAST = 10  # steps over which the reported loss is a mean
StepProgress = Callable[[int, int, str], None]
"""Called with steps done, steps planned, and a note such as the loss."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `run_sft` is told; see `toolgym.training.sft.train_sft` for the meaning of each."""

    epochs: float
    batch_size: int
    device_batch_size: int
    learning_rate: float
    lora: int
    gradient_checkpointing: bool
    bf16: bool
    seed: int
    max_steps: int | None
    save_steps: int
    report_to: tuple[str, ...]


def check_version(installed: str | None = None) -> str:
    """The installed version of TRL, if it is one that this module was tested with.

    Args:
        installed: for tests; default: what is installed.

    Raises:
        MissingExtraError: TRL is missing, or its version is outside the tested range.
    """
    if installed is None:
        need("trl", "train")
        installed = importlib.metadata.version("trl")
    numbers = [int("".join(filter(str.isdigit, part)) or 0) for part in installed.split(".")]
    low, high = TESTED
    if not low <= (*numbers, 0)[:2] < high:
        raise MissingExtraError(
            f"trl {installed} is outside the tested range >={low[0]}.{low[1]},<{high[0]}; "
            f"install it with: pip install 'trl>={low[0]}.{low[1]},<{high[0]}'"
        )
    return installed


def load_for_training(model: str | Path, *, half: bool) -> tuple[Any, Any, Any]:
    """A causal model in training precision, its tokenizer, and the precision it was saved in.

    Args:
        model: a folder or a hub id.
        half: in bfloat16, for weights that stay as they are below adapters. Trained weights
            must be float32: steps of the usual size are below bfloat16's resolution.

    Raises:
        MissingFileError: it is neither a folder of a model nor on the hub or in its cache.
    """
    torch = need("torch", "train")
    transformers = need("transformers", "train")
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(model))
            saved = transformers.AutoConfig.from_pretrained(str(model)).dtype
            loaded = transformers.AutoModelForCausalLM.from_pretrained(
                str(model), dtype=torch.bfloat16 if half else torch.float32
            )
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), "no reason given")
        raise MissingFileError(
            f"model {str(model)!r} cannot be loaded ({type(error).__name__}: {reason:.200}); "
            "name a folder with config.json, weights and tokenizer, or a causal model of the hub"
        ) from error
    if tokenizer.pad_token_id is None:
        # Padding is masked everywhere, so that its token does not matter; the collator needs one.
        tokenizer.pad_token = tokenizer.eos_token
    return loaded, tokenizer, saved or loaded.dtype


def run_sft(
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, list[int]]],
    work: Path,
    options: Options,
    *,
    resume: bool,
    progress: StepProgress | None,
) -> tuple[Any, dict[str, float]]:
    """Train with TRL's ``SFTTrainer`` on rows of ``input_ids`` and ``labels``, taken as they are.

    Args:
        model: changed in place.
        tokenizer: the model's.
        rows: see `toolgym.training.rows.prepare`.
        work: folder of the checkpoints.
        options: what to do.
        resume: go on from the last complete checkpoint in ``work``.
        progress: called after each step.

    Returns:
        The trained model (adapters merged), and ``steps`` and ``loss``.
    """
    check_version()
    trl, transformers = need("trl", "train"), need("transformers", "train")
    dataset = need("datasets", "train").Dataset.from_list(rows)
    with warnings.catch_warnings():
        # Notes to developers of these libraries; nothing that a user could do about them.
        warnings.simplefilter("ignore")
        trainer = trl.SFTTrainer(
            model=model,
            args=_config(trl, work, options),
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=_lora(options.lora),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(_callback(transformers, progress))
        last = _last_checkpoint(work) if resume else None
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if options.lora:
        trained = trained.merge_and_unload()
    # The trainer's own mean forgets the steps before a resume; its log does not.
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    last_ones = losses[-LAST:]
    loss = sum(last_ones) / max(1, len(last_ones))
    return trained.eval(), {"steps": float(trainer.state.global_step), "loss": round(loss, 6)}


def _config(trl: Any, work: Path, options: Options) -> Any:
    torch = need("torch", "train")
    cuda = torch.cuda.is_available()
    return trl.SFTConfig(
        output_dir=str(work),
        num_train_epochs=options.epochs,
        max_steps=options.max_steps or -1,
        per_device_train_batch_size=options.device_batch_size,
        gradient_accumulation_steps=max(1, options.batch_size // options.device_batch_size),
        learning_rate=options.learning_rate,
        # The rows are tokens already, checked and cut to length.
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        gradient_checkpointing=options.gradient_checkpointing,
        bf16=options.bf16,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        seed=options.seed,
        data_seed=options.seed,
        save_strategy="steps",
        save_steps=options.save_steps,
        save_total_limit=2,
        # Longer windows of the log would lose their beginning at a resume.
        logging_steps=1,
        disable_tqdm=True,
        report_to=list(options.report_to),
    )


def _lora(rank: int) -> Any:
    if not rank:
        return None
    peft = need("peft", "train")
    return peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _callback(transformers: Any, progress: StepProgress | None) -> Any:
    class Progress(transformers.TrainerCallback):  # type: ignore[misc]
        """Tells progress, and marks checkpoints that are whole."""

        loss = ""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            """Remember the loss for the note."""
            if logs and "loss" in logs:
                self.loss = f"loss {float(logs['loss']):.3f}"

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Tell how far it is."""
            if progress is not None:
                progress(state.global_step, state.max_steps, self.loss)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """The trainer calls this when all files of the checkpoint are written."""
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / COMPLETE).touch()

    return Progress()


def _last_checkpoint(work: Path) -> Path | None:
    """The newest checkpoint that a kill has not left half written."""
    whole = [path.parent for path in work.glob(f"checkpoint-*/{COMPLETE}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
