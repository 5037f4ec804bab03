"""Supervised fine-tuning on recorded episodes: the loss falls on the policy's own tokens only."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolgym._jsonl import value_hash, write_json
from toolgym._optional import need, quiet
from toolgym.errors import BadInputError, RunMismatchError
from toolgym.filtering import read_json
from toolgym.training import _trl
from toolgym.training.rows import Prepared, Trainable, prepare

__all__ = ["RECORD", "Trained", "train_sft"]

RECORD = "training.json"
DEFAULT_RANK = 16  # arXiv 2502.05867, training


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Args:
        path: folder of the model and its tokenizer; loads with ``from_pretrained``.
        steps: optimiser steps.
        loss: mean over the last ten steps, in nats per trained token.
        counts: rows by how they were used or why they were left out.
        trained_tokens: tokens that the loss fell on, in one epoch.
    """

    path: Path
    steps: int
    loss: float
    counts: dict[str, int]
    trained_tokens: int


def train_sft(
    source: Trainable,
    model: str | Path,
    out: str | Path,
    *,
    epochs: float = 3,
    batch_size: int = 16,
    device_batch_size: int | None = None,
    learning_rate: float | None = None,
    max_length: int = 8192,
    lora: bool | int = False,
    gradient_checkpointing: bool | None = None,
    bf16: bool | None = None,
    seed: int = 0,
    max_steps: int | None = None,
    save_steps: int = 200,
    resume: bool = True,
    report_to: str | list[str] = "none",
    progress: _trl.StepProgress | None = None,
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
        epochs: passes over the rows.
        batch_size: rows a step, over all accumulation.
        device_batch_size: rows at once; default: all of them on a CPU, 1 on a GPU.
        learning_rate: peak, falling linearly to 0; default 2e-5, with LoRA 2e-4.
        max_length: longer rows are left out, in tokens.
        lora: rank of the adapters, True for 16, False for all weights. They are merged at the end.
        gradient_checkpointing: default: on a GPU.
        bf16: default: on a GPU that can.
        seed: order of the rows.
        max_steps: at most so many optimiser steps.
        save_steps: steps between checkpoints.
        resume: go on from the last checkpoint of the same training; False begins anew.
        report_to: ``none`` or integrations of transformers such as ``tensorboard``.
        progress: called with steps done, steps planned and a note.

    Returns:
        The trained model and what it was trained on. A folder that this same training has finished
        is returned as it is.

    Raises:
        MissingExtraError: torch, transformers or TRL is missing, or TRL is of an untested version.
        MissingFileError: the model or the source does not exist.
        TemplateError: the chat template cannot be trained on.
        BadInputError: a number out of range, or no row to train on.
        RunMismatchError: ``out`` holds something else, or was begun with other rows or settings.
    """
    _trl.check_version()
    _check(max_length=max_length)
    options = _options(
        epochs=epochs,
        batch_size=batch_size,
        device_batch_size=device_batch_size,
        learning_rate=learning_rate,
        lora=lora,
        gradient_checkpointing=gradient_checkpointing,
        bf16=bf16,
        seed=seed,
        max_steps=max_steps,
        save_steps=save_steps,
        report_to=report_to,
    )
    with quiet():
        return _train(source, str(model), Path(out), options, max_length, resume, progress)


def _options(
    *,
    epochs: float,
    batch_size: int,
    device_batch_size: int | None,
    learning_rate: float | None,
    lora: bool | int,
    gradient_checkpointing: bool | None,
    bf16: bool | None,
    seed: int,
    max_steps: int | None,
    save_steps: int,
    report_to: str | list[str],
) -> _trl.Options:
    """Checked numbers, and what this machine decides where nothing was said."""
    torch = need("torch", "train")
    gpu = bool(torch.cuda.is_available())
    usual = 1 if gpu else batch_size
    per_device = usual if device_batch_size is None else min(device_batch_size, batch_size)
    _check(
        epochs=epochs,
        batch_size=batch_size,
        device_batch_size=per_device,
        learning_rate=1.0 if learning_rate is None else learning_rate,
        save_steps=save_steps,
        max_steps=1 if max_steps is None else max_steps,
    )
    if lora < 0:
        raise BadInputError(f"lora must be a rank, or True or False, not {lora!r}")
    if batch_size % per_device:
        raise BadInputError(
            f"batch_size {batch_size} is no multiple of device_batch_size {per_device}"
        )
    rank = DEFAULT_RANK if lora is True else int(lora)
    return _trl.Options(
        epochs=epochs,
        batch_size=batch_size,
        device_batch_size=per_device,
        learning_rate=(2e-4 if rank else 2e-5) if learning_rate is None else learning_rate,
        lora=rank,
        gradient_checkpointing=gpu if gradient_checkpointing is None else gradient_checkpointing,
        bf16=gpu and torch.cuda.is_bf16_supported() if bf16 is None else bf16,
        seed=seed,
        max_steps=max_steps,
        save_steps=save_steps,
        report_to=tuple([report_to] if isinstance(report_to, str) else report_to),
    )


def _train(
    source: Trainable,
    model: str,
    target: Path,
    options: _trl.Options,
    max_length: int,
    resume: bool,
    progress: _trl.StepProgress | None,
) -> Trained:
    half = options.bf16 and options.lora > 0
    loaded, tokenizer, saved = _trl.load_for_training(model, half=half)
    prepared = prepare(source, tokenizer, max_length=max_length)
    record = _record(model, prepared, options)
    finished = _finished(target, record)
    if finished is not None:
        return finished
    work = target.with_name(target.name + ".partial")
    _begin(work, record, resume)
    loaded, figures = _trl.run_sft(
        loaded, tokenizer, prepared.rows, work, options, resume=resume, progress=progress
    )
    record |= {"steps": int(figures["steps"]), "loss": figures["loss"]}
    _save(loaded.to(saved), tokenizer, work, target, record)
    return _trained(target, record)


def _record(model: str, prepared: Prepared, options: _trl.Options) -> dict[str, Any]:
    return {
        "model": model,
        "rows": prepared.fingerprint(),
        "counts": prepared.counts,
        "trained_tokens": prepared.trained_tokens,
        "options": {**asdict(options), "report_to": list(options.report_to)},
    }


def _finished(target: Path, record: dict[str, Any]) -> Trained | None:
    """The model, if this very training has finished before."""
    if not target.exists():
        return None
    if not (target / RECORD).is_file():
        raise RunMismatchError(
            f"{str(target)!r} exists and is no model that toolgym trained; choose another folder"
        )
    found = read_json(target / RECORD)
    _same({key: found.get(key) for key in record}, record, target)
    return _trained(target, found)


def _begin(work: Path, record: dict[str, Any], resume: bool) -> None:
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    if (work / RECORD).is_file():
        _same(read_json(work / RECORD), record, work)
    write_json(work / RECORD, record)


def _same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    for key, value in now.items():
        if before.get(key) != value:
            raise RunMismatchError(
                f"{str(folder)!r} was begun with other {key} ({value_text(before.get(key))}, now "
                f"{value_text(value)}); choose another folder, or remove it"
            )


def value_text(value: Any) -> str:
    """A value in a message: short ones as they are, long ones by their hash."""
    text = repr(value)
    return text if len(text) <= 120 else f"hash {value_hash(value)[:12]}"


def _save(model: Any, tokenizer: Any, work: Path, target: Path, record: dict[str, Any]) -> None:
    """Write beside the checkpoints, then move: a kill leaves no half model at ``target``."""
    made = work / "model"
    shutil.rmtree(made, ignore_errors=True)
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    write_json(made / RECORD, record)
    os.replace(made, target)
    shutil.rmtree(work, ignore_errors=True)


def _trained(target: Path, record: dict[str, Any]) -> Trained:
    return Trained(
        path=target,
        steps=int(record["steps"]),
        loss=float(record["loss"]),
        counts=dict(record["counts"]),
        trained_tokens=int(record["trained_tokens"]),
    )


def _check(**numbers: float) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not value > 0:
            raise BadInputError(f"{name} must be above 0, not {value!r}")
