"""How many rows a CPU takes at once, where nobody says so: no more than memory holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from toolgym._util.optional import require_extra
from toolgym.training.config import GrpoConfig, Resolved, TrainConfig, processes
from toolgym.training.memory import Memory, Shape, TrainingSize, shape_of_model, training_memory

__all__ = ["bounded", "installed_memory", "rows_that_fit"]

_SHARE: Final = 0.5  # of the memory; other programs, the page cache and fragments have the rest
# What a container may use, which the kernel does not count as the machine's.
_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def installed_memory() -> int:
    """Bytes of memory of this machine, or of the container that this process runs in."""
    found = int(require_extra("psutil", "train").virtual_memory().total)
    for name in _LIMITS:
        limit = Path(name)
        if limit.is_file() and (text := limit.read_text("ascii").strip()).isdecimal():
            found = min(found, int(text))
    return found


def rows_that_fit(
    method: str, model: Any, longest: int, asked: TrainConfig, settings: Resolved
) -> Resolved:
    """Settings that take no more rows at once than half of the memory is estimated to hold.

    Rows at once do not decide what is learned. What was said about them stays, and so does one row
    at once on a GPU.

    Args:
        method: ``sft``, ``dpo`` or ``grpo``.
        model: that is trained.
        longest: tokens of the longest row; for DPO of prompt and one side.
        asked: the settings as they were given.
        settings: what they came to.
    """
    if asked.device_batch_size is not None or require_extra("torch", "train").cuda.is_available():
        return settings
    most = settings.device_batch_size
    shape, room = shape_of_model(model, "loaded"), _SHARE * installed_memory() / processes()
    reference = method == "dpo"
    if isinstance(asked, GrpoConfig):
        longest = min(longest, asked.max_prompt_tokens + asked.max_new_tokens)
        reference = asked.beta > 0
    size = TrainingSize(
        method,
        most,
        min(longest, shape.positions or longest),
        lora=settings.lora,
        checkpointing=settings.gradient_checkpointing,
        half=settings.bf16,
        reference=reference,
    )
    rows = next(
        rows
        for rows in range(most, 0, -1)
        if most % rows == 0
        and (rows == 1 or training_memory(shape, replace(size, rows=rows)).total <= room)
    )
    return settings.model_copy(update={"device_batch_size": rows})


def bounded(shape: Shape, size: TrainingSize) -> Memory:
    """What a training takes at most where `rows_that_fit` chooses the rows.

    Args:
        shape: of the model.
        size: with all rows of a batch at once.
    """
    whole, least = (training_memory(shape, replace(size, rows=n)) for n in (size.rows, 1))
    over = whole.total - max(least.total, _SHARE * installed_memory())
    return replace(whole, activations=whole.activations - max(0.0, over))
