"""The folder of a trained model: whole or not at all, and never two trainings in one."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import value_hash, write_json, write_rows
from toolgym.data.filter import read_json
from toolgym.errors import BadInputError, RunMismatchError, ToolgymError
from toolgym.training.config import rank

__all__ = ["FREE", "LOG", "RECORD", "Outcome", "Trained", "explained", "held"]

# torch and safetensors report these as errors of their own kinds; the text is all there is.
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
_NO_SPACE = ("no space left", "os error 28", "pytorchstreamwriter failed")


@contextmanager
def explained(what: str, lighter: str) -> Iterator[None]:
    """Turn "out of memory" and "disk full" of any library into one line.

    Args:
        what: was being done.
        lighter: the next step where memory ran out.

    Raises:
        BadInputError: memory or disk were too small for what was asked.
    """
    try:
        yield
    except Exception as error:
        _explain(error, what, lighter)
        raise


def _explain(error: Exception, what: str, lighter: str) -> None:
    if isinstance(error, ToolgymError):
        return
    text = " ".join(str(error).split())
    folded = text.casefold()
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or any(part in folded for part in _NO_SPACE):
        raise BadInputError(
            f"the disk is full ({what}: {text:.160}); make room and run the same again: it goes on "
            "from the last whole checkpoint"
        ) from error
    if isinstance(error, MemoryError) or any(part in folded for part in _NO_MEMORY):
        raise BadInputError(f"out of memory ({what}: {text:.160}); {lighter}") from error


RECORD = "training.json"
LOG = "training_log.jsonl"
_LOCK = ".lock"
FREE = ("device_batch_size", "gradient_checkpointing", "report_to")
"""Settings of where the work is done, not of what is computed: they may change at a resume."""


@contextmanager
def held(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder, which is made if it is not there: two processes would write the same files.

    Args:
        folder: what is held.
        doing: in words, for whoever comes second.

    Raises:
        RunMismatchError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("wb") as stream:
        try:
            # The kernel drops the lock when the process dies, however it dies.
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunMismatchError(
                f"another process is {doing}; wait for it, or choose another folder"
            ) from error
        yield


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Args:
        path: folder of the model and its tokenizer; loads with ``from_pretrained``.
        steps: optimiser steps.
        loss: mean over the last ten steps; for SFT in nats per trained token.
        counts: rows by how they were used or why they were left out.
        trained_tokens: tokens that the loss fell on, in one epoch; for GRPO in all steps.
        figures: what else the method measures, such as the reward of its last steps.
        warnings: why the model may not be what was wanted, each with the next step.
    """

    path: Path
    steps: int
    loss: float
    counts: dict[str, int]
    trained_tokens: int
    figures: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class Outcome:
    """Where a training writes, and what it was begun with.

    Args:
        target: folder of the trained model. Checkpoints lie beside it in ``<target>.partial``.
        record: plain data that decides the result: model, rows, settings.
    """

    def __init__(self, target: Path, record: dict[str, Any]) -> None:
        self.target, self.record = target, record
        self.work = target.with_name(target.name + ".partial")

    def finished(self) -> Trained | None:
        """The model, if this very training has finished before.

        Raises:
            RunMismatchError: something else lies there.
        """
        if not self.target.exists():
            return None
        if not (self.target / RECORD).is_file():
            raise RunMismatchError(
                f"{str(self.target)!r} exists and is no model that toolgym trained; choose another "
                "folder"
            )
        found = read_json(self.target / RECORD)
        _same({key: found.get(key) for key in self.record}, self.record, self.target)
        return _trained(self.target, found)

    @contextmanager
    def begin(self, resume: bool) -> Iterator[None]:
        """Make the folder of checkpoints, or compare with what it was begun with; hold it.

        Raises:
            RunMismatchError: it was begun with other rows or settings, or another process trains
                there right now.
        """
        if rank():
            yield
            return
        with held(self.work, f"training into {str(self.target)!r}"):
            if not resume:
                self._clear()
            if (self.work / RECORD).is_file():
                _same(read_json(self.work / RECORD), self.record, self.work)
            write_json(self.work / RECORD, self.record)
            yield

    def _clear(self) -> None:
        for path in self.work.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()

    def finish(
        self,
        model: Any,
        tokenizer: Any,
        facts: dict[str, Any],
        log: list[dict[str, Any]],
        folders: Sequence[Path] = (),
    ) -> Trained:
        """Write beside the checkpoints, then move: a kill leaves no half model at the target.

        Of several processes the first one writes.

        Args:
            model: in the precision to be saved.
            tokenizer: the model's.
            facts: ``steps``, ``loss`` and what else `Trained` holds.
            log: one row a step, with the parts of the reward by name.
            folders: of the work, to be kept beside the model.
        """
        record = self.record | facts
        if rank():
            return _trained(self.target, record)
        made = self.work / "model"
        shutil.rmtree(made, ignore_errors=True)
        with explained(f"saving the model in {str(made)!r}", "use a machine with more"):
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
            write_rows(made / LOG, log)
        for folder in folders:
            os.replace(folder, made / folder.name)
        write_json(made / RECORD, record)
        os.replace(made, self.target)
        shutil.rmtree(self.work, ignore_errors=True)
        return _trained(self.target, record)


def _same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    for key, value in now.items():
        found = before.get(key)
        if isinstance(value, dict) and isinstance(found, dict):
            # The first part that differs says more than the whole.
            parts = [part for part in value if part not in FREE and found.get(part) != value[part]]
            if not parts:
                continue
            key, found, value = f"{key}: {parts[0]}", found.get(parts[0]), value[parts[0]]
        if found != value:
            raise RunMismatchError(
                f"{str(folder)!r} was begun with other {key} ({_shown(found)}, now "
                f"{_shown(value)}); choose another folder, or remove it"
            )


def _shown(value: Any) -> str:
    """A value in a message: short ones as they are, long ones by their hash."""
    text = repr(value)
    return text if len(text) <= 120 else f"hash {value_hash(value)[:12]}"


def _trained(target: Path, record: dict[str, Any]) -> Trained:
    return Trained(
        path=target,
        steps=int(record["steps"]),
        loss=float(record["loss"]),
        counts=dict(record["counts"]),
        trained_tokens=int(record["trained_tokens"]),
        figures=dict(record.get("figures", {})),
        warnings=list(record.get("warnings", [])),
    )
