"""What all trainers share: TRL's tested versions, loading, whole checkpoints, progress, the log."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from toolgym._util.optional import require_extra
from toolgym._util.progress import shown
from toolgym._util.spool import Spool
from toolgym.errors import MissingExtraError
from toolgym.policies.local.models import open_model, require_whole
from toolgym.training.config import Resolved, processes, rank
from toolgym.training.output import explained

__all__ = [
    "TESTED",
    "Result",
    "StepProgress",
    "arguments",
    "check_version",
    "dataset_of",
    "load_for_training",
    "lora",
    "missing_rows",
    "train_loop",
    "whole_batches",
]

TESTED = ((1, 16), (2, 0))
"""TRL versions from the first, and below the second, are what this room was tested with."""
COMPLETE = "complete"  # written into a checkpoint when all else of it is on disk
LAST = 10  # steps over which the reported loss is a mean
StepProgress = Callable[[int, int, str], None] | bool
"""Called with steps done, steps planned, and a note such as the loss; False: nobody is told."""


@dataclass
class Result:
    """What a trainer leaves.

    Args:
        model: trained, adapters merged, in evaluation mode.
        steps: optimiser steps.
        loss: mean over the last ten steps.
        log: the trainer's own, one row a step.
    """

    model: Any
    steps: int
    loss: float
    log: list[dict[str, Any]]

    def means(self, names: dict[str, str]) -> dict[str, float]:
        """Means over the last ten steps, where the log has them.

        Args:
            names: the log's names to those in the result.
        """
        last = self.log[-LAST:]
        found = {new: [float(row[old]) for row in last if old in row] for old, new in names.items()}
        return {name: round(sum(v) / len(v), 6) for name, v in found.items() if v}


def check_version(installed: str | None = None) -> str:
    """The installed version of TRL, if it is one that this room was tested with.

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


def dataset_of(
    rows: Sequence[dict[str, list[int]]], work: Path, more: Sequence[dict[str, list[int]]] = ()
) -> Any:
    """Rows as a data set of ``datasets``; those that lie on disk stay there, as an Arrow file.

    Args:
        rows: of tokens.
        work: folder of the checkpoints, which goes when training has ended.
        more: rows behind them.
    """
    datasets = require_extra("datasets", "train")
    if not isinstance(rows, Spool) or rows.held:
        return datasets.Dataset.from_list([*rows, *more])
    writer = require_extra("datasets.arrow_writer", "train")
    work.mkdir(parents=True, exist_ok=True)
    file = str(work / f"rows-{rank()}.arrow")
    with writer.ArrowWriter(path=file) as stream:
        for row in chain(rows, more):
            stream.write(row)
        stream.finalize()
    return datasets.Dataset.from_file(file)


def load_for_training(model: str | Path, settings: Resolved) -> tuple[Any, Any, Any]:
    """A causal model in training precision, its tokenizer, and the precision it was saved in.

    Args:
        model: a folder, a known name, or a hub id.
        settings: of the training.

    Raises:
        MissingFileError: it is neither a folder of a model nor on the hub or in its cache.
        BadInputError: a folder of LoRA adapters, or a model that memory cannot hold.
    """
    require_whole(str(model))
    # Weights that stay as they are below adapters may be bfloat16. Trained ones must be float32:
    # updates of the usual size are below bfloat16's resolution.
    half = settings.bf16 and settings.lora > 0
    torch = require_extra("torch", "train")
    with explained("loading the model", "use a smaller one, or lora with bf16"):
        dtype = torch.bfloat16 if half else torch.float32
        loaded, tokenizer, saved = open_model(str(model), dtype)
    if tokenizer.pad_token_id is None:
        # Padding is masked everywhere, so that its token does not matter; the collator needs one.
        tokenizer.pad_token = tokenizer.eos_token
    return loaded, tokenizer, saved or loaded.dtype


def train_loop(
    make: Callable[[], Any],
    work: Path,
    options: Resolved,
    resume: bool,
    progress: StepProgress | None,
) -> Result:
    """Train to the end, or on from the last complete checkpoint.

    Args:
        make: the trainer.
        work: folder of the checkpoints.
        options: what to do.
        resume: whether to go on.
        progress: called after each step.
    """
    transformers = require_extra("transformers", "train")
    # TRL's own lines on standard error; what matters of them is in the log and in the result.
    notices = logging.getLogger("trl")
    level = notices.level
    what = f"training in {str(work)!r}"
    with warnings.catch_warnings(), _learned_alone(), explained(what, _lighter(options)):
        # Notes to developers of these libraries; nothing that a user could do about them.
        warnings.simplefilter("ignore")
        notices.setLevel(logging.ERROR)
        try:
            trainer = make()
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.add_callback(_callback(transformers, progress))
            last = _last_checkpoint(work) if resume else None
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
        finally:
            notices.setLevel(level)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if options.lora:
        trained = trained.merge_and_unload()
    # The trainer's own mean forgets the steps before a resume; its log does not.
    log = [dict(entry) for entry in trainer.state.log_history if "loss" in entry]
    last_ones = [float(entry["loss"]) for entry in log][-LAST:]
    loss = sum(last_ones) / max(1, len(last_ones))
    return Result(trained.eval(), int(trainer.state.global_step), round(loss, 6), log)


@contextlib.contextmanager
def _learned_alone() -> Iterator[None]:
    """Let TRL compute the vocabulary's scores for learned tokens alone on a CPU, too.

    Of episodes nine in ten tokens are read and not learned. TRL leaves them out where it has
    Triton, and else scores all of them, for devices that compile anew for each count: a third of
    the time of training SmolLM2 on a CPU.
    """
    helpers = require_extra("trl.trainer.utils", "train")
    before = getattr(helpers, "_use_triton", None)
    if before is not None:
        helpers._use_triton = lambda device: device.type == "cpu" or before(device)
    try:
        yield
    finally:
        if before is not None:
            helpers._use_triton = before


def arguments(work: Path, options: Resolved) -> dict[str, Any]:
    """What all of TRL's configurations take."""
    cuda = require_extra("torch", "train").cuda.is_available()
    return {
        "output_dir": str(work),
        "num_train_epochs": options.epochs,
        "max_steps": options.max_updates or -1,
        "per_device_train_batch_size": options.device_batch_size,
        "gradient_accumulation_steps": max(
            1, options.batch_size // (options.device_batch_size * processes())
        ),
        "learning_rate": options.learning_rate,
        "gradient_checkpointing": options.gradient_checkpointing,
        "bf16": options.bf16,
        "deepspeed": options.deepspeed,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "seed": options.seed,
        "data_seed": options.seed,
        "save_strategy": "steps",
        "save_steps": options.save_every,
        "save_total_limit": 2,
        # Longer windows of the log would lose their beginning at a resume.
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": list(options.report_to),
    }


def lora(rank: int) -> Any:
    """Adapters of a rank on all linear layers, or None for all weights."""
    if not rank:
        return None
    peft = require_extra("peft", "train")
    return peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def missing_rows(count: int, settings: Resolved) -> int:
    """How many rows several processes lack, which take equally many.

    Where the last batch is not full accelerate repeats rows of the beginning. Silent rows, put
    there, leave the updates those of a single process.

    Args:
        count: of the rows.
        settings: of the training.
    """
    return -count % (settings.device_batch_size * processes()) if processes() > 1 else 0


def whole_batches(base: Any, count: int, missing: int, seed: int) -> Any:
    """A trainer that takes rows in the order of a single process, and silent ones last.

    Args:
        base: a trainer of transformers.
        count: rows that are learned; they are shuffled anew each epoch, as accelerate does it.
        missing: silent ones behind them, see `missing_rows`.
        seed: of the order.
    """
    if not missing:
        return base
    torch = require_extra("torch", "train")
    loader = require_extra("accelerate.data_loader", "train")
    shuffled = loader.SeedableRandomSampler(range(count), data_seed=seed)
    sampler: Any = torch.utils.data.Sampler

    class Order(sampler):  # type: ignore[misc]
        def __len__(self) -> int:
            return count + missing

        def __iter__(self) -> Iterator[int]:
            yield from shuffled
            yield from range(count, count + missing)

        def set_epoch(self, epoch: int) -> None:
            shuffled.set_epoch(epoch)

    class Whole(base):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return Order()

        def get_train_dataloader(self) -> Any:
            """Also known as its sampler where batches are skipped, which a resumed epoch does."""
            found = super().get_train_dataloader()
            found.set_sampler(Order())
            return found

    return Whole


def _callback(transformers: Any, progress: StepProgress | None) -> Any:
    told = shown(False if progress is None and rank() else progress, "updates")

    class Progress(transformers.TrainerCallback):  # type: ignore[misc]
        """Tells progress, and marks checkpoints that are whole."""

        note = ""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            """Remember what tells how it goes: the reward where there is one, else the loss."""
            name = "reward" if logs and "reward" in logs else "loss"
            if logs and name in logs:
                self.note = f"{name} {float(logs[name]):.3f}"
                if logs.get("frac_reward_zero_std") == 1:
                    self.note += ", equal in every group"

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Tell how far it is."""
            if told is not None:
                told(state.global_step, state.max_steps, self.note)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """The trainer calls this when all files of the checkpoint are written."""
            if not rank():
                folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                (folder / COMPLETE).touch()

    return Progress()


def _lighter(options: Resolved) -> str:
    """What takes less memory than what was asked for."""
    ways = []
    if options.device_batch_size > 1:
        ways.append(f"device_batch_size below {options.device_batch_size}")
    if not options.gradient_checkpointing:
        ways.append("gradient_checkpointing=true")
    going = f"set {' or '.join(ways)}, with which the same folder goes on; or " if ways else ""
    anew = "a smaller max_length" if options.lora else "lora or a smaller max_length"
    return f"{going}take {anew} and another folder"


def _last_checkpoint(work: Path) -> Path | None:
    """The newest checkpoint that a kill has not left half written."""
    whole = [path.parent for path in work.glob(f"checkpoint-*/{COMPLETE}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
