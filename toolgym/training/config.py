"""What every training is told, checked once: sizes, rates, precision, and how it is spread."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, MissingExtraError, MissingFileError, did_you_mean

__all__ = ["Common", "Options", "make_options", "processes", "rank", "require_positive"]

DEFAULT_RANK = 16  # arXiv 2502.05867, training
_WHOLE = ("a whole number", (int,))
_NUMBER = ("a number", (int, float))
_SWITCH = ("true or false", (bool,))
_KINDS: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "epochs": _NUMBER,
    "batch_size": _WHOLE,
    "device_batch_size": _WHOLE,
    "learning_rate": _NUMBER,
    "lora": ("a rank, or true or false", (int, bool)),
    "gradient_checkpointing": _SWITCH,
    "bf16": _SWITCH,
    "seed": _WHOLE,
    "max_steps": _WHOLE,
    "save_steps": _WHOLE,
    "report_to": ("a name, or a list of names", (str, list, tuple)),
}
_MAY_BE_NONE = {
    *("device_batch_size", "learning_rate", "gradient_checkpointing", "bf16", "max_steps")
}
_PACKAGES = {"azure_ml": "azureml-core", "comet_ml": "comet-ml", "dvclive": "dvclive"}


class Common(TypedDict, total=False):
    """Keyword arguments that all trainings share.

    Args:
        epochs: passes over the rows.
        batch_size: rows a step, over all accumulation and all processes; pairs for preferences,
            episodes for GRPO.
        device_batch_size: rows at once in a process; default: all of them on a CPU, 1 on a GPU.
        learning_rate: peak, falling linearly to 0; each training says its default.
        lora: rank of the adapters, True for 16, False for all weights. They are merged at the end.
        gradient_checkpointing: default: on a GPU.
        bf16: default: on a GPU that can.
        deepspeed: a DeepSpeed configuration file, ZeRO stage 2 at most; needs that package.
        seed: order of the rows, and all sampling.
        max_steps: so many optimiser steps, whatever ``epochs`` says.
        save_steps: steps between checkpoints.
        report_to: ``none`` or integrations of transformers such as ``tensorboard``.
    """

    epochs: float
    batch_size: int
    device_batch_size: int | None
    learning_rate: float | None
    lora: bool | int
    gradient_checkpointing: bool | None
    bf16: bool | None
    deepspeed: str | Path | None
    seed: int
    max_steps: int | None
    save_steps: int
    report_to: str | list[str]


@dataclass(frozen=True, slots=True)
class Options:
    """`Common`, with what this machine decides where nothing was said."""

    epochs: float
    batch_size: int
    device_batch_size: int
    learning_rate: float
    lora: int
    gradient_checkpointing: bool
    bf16: bool
    deepspeed: str | None
    seed: int
    max_steps: int | None
    save_steps: int
    report_to: tuple[str, ...]

    def to_row(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "report_to": list(self.report_to)}


def make_options(*, rate: float, lora_rate: float, **given: Unpack[Common]) -> Options:
    """Check what was given and fill in the rest.

    Args:
        rate: default learning rate of all weights.
        lora_rate: default learning rate of adapters.
        given: see `Common`.

    Raises:
        BadInputError: a number out of range, a value of another kind, or batch sizes that do not
            fit.
        MissingExtraError: a package of ``report_to`` is not installed.
        MissingFileError: the DeepSpeed configuration is not there.
    """
    _require_known(given)
    torch = require_extra("torch", "train")
    require_extra("transformers", "train")  # loaded now, so that it can be kept quiet
    gpu = bool(torch.cuda.is_available())
    batch_size = given.get("batch_size", 16)
    device_batch_size = given.get("device_batch_size")
    share = max(1, batch_size // processes())
    usual = 1 if gpu else share
    per_device = usual if device_batch_size is None else min(device_batch_size, share)
    epochs, save_steps = given.get("epochs", 3), given.get("save_steps", 200)
    max_steps, learning_rate = given.get("max_steps"), given.get("learning_rate")
    require_positive(
        epochs=epochs,
        batch_size=batch_size,
        device_batch_size=per_device,
        learning_rate=1.0 if learning_rate is None else learning_rate,
        save_steps=save_steps,
        max_steps=1 if max_steps is None else max_steps,
    )
    lora = given.get("lora", False)
    if lora < 0:
        raise BadInputError(f"lora must be a rank, or True or False, not {lora!r}")
    if batch_size % (per_device * processes()):
        several = f" times {processes()} processes" if processes() > 1 else ""
        raise BadInputError(
            f"batch_size {batch_size} is no multiple of device_batch_size {per_device}{several}"
        )
    rank = DEFAULT_RANK if lora is True else int(lora)
    checkpointing, bf16 = given.get("gradient_checkpointing"), given.get("bf16")
    return Options(
        epochs=epochs,
        batch_size=batch_size,
        device_batch_size=per_device,
        learning_rate=(lora_rate if rank else rate) if learning_rate is None else learning_rate,
        lora=rank,
        gradient_checkpointing=gpu if checkpointing is None else checkpointing,
        bf16=gpu and torch.cuda.is_bf16_supported() if bf16 is None else bf16,
        deepspeed=_deepspeed(given.get("deepspeed")),
        seed=given.get("seed", 0),
        max_steps=max_steps,
        save_steps=save_steps,
        report_to=_trackers(given.get("report_to", "none")),
    )


def _require_known(given: Mapping[str, Any]) -> None:
    """Refuse unknown names, and values of another kind: a text would count as true, or as above 0.

    Raises:
        BadInputError: the first that does not fit.
    """
    known = list(Common.__annotations__)
    for name, value in given.items():
        if name not in known:
            raise BadInputError(
                f"a training has no argument {name!r}"
                f"{did_you_mean(name, known)}; those that all share: "
                f"{', '.join(known)}"
            )
        kind = _KINDS.get(name)
        if kind is None or (value is None and name in _MAY_BE_NONE):
            continue
        text, kinds = kind
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise BadInputError(f"{name} must be {text}, not {value!r:.60}")


def _trackers(asked: str | list[str]) -> tuple[str, ...]:
    """The integrations to report to, each known and installed.

    Raises:
        BadInputError: transformers has none of that name.
        MissingExtraError: the package of one is not installed.
    """
    from transformers.integrations import integration_utils

    names = tuple([asked] if isinstance(asked, str) else asked)
    known = integration_utils.INTEGRATION_TO_CALLBACK
    for name in names:
        if name in ("none", "all"):
            continue
        if name not in known:
            raise BadInputError(
                f"report_to must be none or of {', '.join(sorted(known))}, not {name!r}"
                f"{did_you_mean(str(name), known)}"
            )
        there = getattr(integration_utils, f"is_{name}_available", None)
        if there is not None and not there():
            raise MissingExtraError(
                f"report_to {name!r} needs a package that is not installed: pip install "
                f"{_PACKAGES.get(name, name)}; or leave report_to out"
            )
    return names


def _deepspeed(path: str | Path | None) -> str | None:
    if path is None:
        return None
    if not Path(path).is_file():
        raise MissingFileError(f"DeepSpeed configuration {str(path)!r} does not exist")
    try:
        stage = json.loads(Path(path).read_text(encoding="utf-8"))["zero_optimization"]["stage"]
    except (ValueError, KeyError, TypeError):
        stage = 0  # deepspeed itself will say what is wrong with it
    if stage == 3:
        raise BadInputError(
            f"DeepSpeed configuration {str(path)!r} spreads the weights over processes (ZeRO "
            "stage 3), and the model is saved by one of them; use stage 2"
        )
    require_extra("deepspeed", "train")
    return str(path)


def processes() -> int:
    """How many processes train together, as ``torchrun`` and ``accelerate launch`` say it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is; the first one writes."""
    return int(os.environ.get("RANK", "0"))


def require_positive(**numbers: float) -> None:
    """Refuse numbers that are not above 0.

    Raises:
        BadInputError: the first that is not.
    """
    for name, value in numbers.items():
        if isinstance(value, bool) or not value > 0:
            raise BadInputError(f"{name} must be above 0, not {value!r}")
