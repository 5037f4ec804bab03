"""Supervised fine-tuning on recorded episodes: the loss falls on the policy's own tokens only."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from toolgym._util.optional import quiet
from toolgym.training import _trl
from toolgym.training.config import Common, make_options, require_positive
from toolgym.training.loop import StepProgress, load_for_training
from toolgym.training.output import Outcome, Trained
from toolgym.training.sft_rows import Trainable, prepare

__all__ = ["train_sft"]


def train_sft(
    source: Trainable,
    model: str | Path,
    out: str | Path,
    *,
    max_length: int = 8192,
    resume: bool = True,
    progress: StepProgress | None = None,
    **common: Unpack[Common],
) -> Trained:
    """Fine-tune a model on recorded episodes with TRL.

    Episodes recorded with tokens are trained on as these tokens; others are tokenised with the
    model's chat template, and training does not start unless the trained tokens decode to what the
    assistant said. Defaults are those of arXiv 2502.05867 where it states them.

    Args:
        source: a run, a selection, exported rows, the path of one of them, or trajectories.
        model: a folder or a hub id.
        out: folder of the trained model; it appears whole or not at all. Checkpoints lie beside it
            in ``<out>.partial`` until then.
        max_length: longer rows are left out, in tokens.
        resume: go on from the last checkpoint of the same training; False begins anew.
        progress: called with steps done, steps planned and a note.
        common: see `toolgym.training.config.Common`; the learning rate is 2e-5 by default, with
            LoRA 2e-4.

    Returns:
        The trained model and what it was trained on. A folder that this same training has finished
        is returned as it is.

    Raises:
        MissingExtraError: torch, transformers or TRL is missing, or TRL is of an untested version.
        MissingFileError: the model or the source does not exist.
        TemplateError: the chat template cannot be trained on.
        BadInputError: a number out of range, an unknown argument, or no row to train on.
        RunMismatchError: ``out`` holds something else, or was begun with other rows or settings.
    """
    _trl.check_version()
    require_positive(max_length=max_length)
    options = make_options(rate=2e-5, lora_rate=2e-4, **common)
    with quiet():
        loaded, tokenizer, saved = load_for_training(model, half=options.bf16 and options.lora > 0)
        prepared = prepare(source, tokenizer, max_length=max_length)
        record = {
            "method": "sft",
            "model": str(model),
            "rows": prepared.fingerprint(),
            "counts": prepared.counts,
            "trained_tokens": prepared.trained_tokens,
            "options": options.to_row(),
        }
        outcome = Outcome(Path(out), record)
        finished = outcome.finished()
        if finished is not None:
            return finished
        with outcome.begin(resume):
            made = _trl.run_sft(
                loaded,
                tokenizer,
                prepared.rows,
                outcome.work,
                options,
                resume=resume,
                progress=progress,
            )
            facts = {"steps": made.steps, "loss": made.loss, "warnings": prepared.warnings}
            return outcome.finish(made.model.to(saved), tokenizer, facts, made.log)
