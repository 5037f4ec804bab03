"""The folder of a trained model: whole or not at all, and never two trainings in one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import read_json, write_json, write_rows
from toolgym._util.optional import require_extra
from toolgym._util.workfolder import LOCK, hold, move_in, same_settings
from toolgym.data.lineage import LINKS, Origins, ancestry, seal
from toolgym.errors import BadInputError, RunMismatchError, ToolgymError
from toolgym.training.config import processes, rank

__all__ = ["FREE", "LOG", "RECORD", "Outcome", "Trained", "explained", "hand_over"]

# torch and safetensors report these as errors of their own kinds; the text is all there is.
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
_NO_PEER = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
_NO_SPACE = ("no space left", "os error 28", "pytorchstreamwriter failed")


@contextmanager
def explained(what: str, lighter: str) -> Iterator[None]:
    """Turn "out of memory", "disk full" and a lost process of any library into one line.

    Args:
        what: was being done.
        lighter: the next step where memory ran out.

    Raises:
        BadInputError: memory or disk were too small for what was asked.
        ToolgymError: one of several processes that train together has ended.
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
    if processes() > 1 and any(part in folded for part in _NO_PEER):
        raise ToolgymError(
            f"another process of this training has ended ({what}: {text:.80}); run the same "
            "command again to go on from the last whole checkpoint"
        ) from error


RECORD = "training.json"
LOG = "training_log.jsonl"
FREE = ("*.device_batch_size", "*.gradient_checkpointing", "*.report_to")
"""Settings of where the work is done, not of what is computed: they may change at a resume."""


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
        source: path of the rows or episodes, for the model's lineage; anything else is in memory.
        origins: of rows that were made in memory, for the same.
    """

    def __init__(
        self,
        target: Path,
        record: dict[str, Any],
        source: Any = None,
        origins: Origins | None = None,
    ) -> None:
        self.target, self.record, self._source = target, record, source
        self._origins, self._lineage = origins, dict[str, Any]()
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
                f"{str(self.target)!r} exists and is not a model that toolgym trained; "
                "choose another folder"
            )
        found = read_json(self.target / RECORD)
        before = {key: found.get(key) for key in self.record}
        same_settings(self.target, before, self.record, free=FREE)
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
        with hold(self.work, f"training into {str(self.target)!r}"):
            if not resume:
                self._clear()
            if (self.work / RECORD).is_file():
                before = read_json(self.work / RECORD)
                same_settings(self.work, before, self.record, free=FREE)
            write_json(self.work / RECORD, self.record)
            # Now: hours later something else may lie where the rows were.
            self._lineage = ancestry(
                self.target, self.work, self.record, self._source, self._origins
            )
            self._origins = None  # their rows are on disk
            yield

    def _clear(self) -> None:
        for path in self.work.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
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
        if "learned" in self._lineage:
            os.replace(self.work / LINKS, made / LINKS)
        write_json(made / RECORD, record)
        seal(made, self._lineage)
        move_in(made, self.target)
        return _trained(self.target, record)


def hand_over(
    model: Any, tokenizer: Any, folder: Path, dtype: Any, *, scrambled: bool = False
) -> None:
    """Write a model in the middle of its training, for a server to read.

    Its files appear one by one, each whole; adapters are added to the weights that are written, and
    the model itself stays as it is. Output weights that are the input's are written a second time,
    as ones of their own: a server of vLLM (0.32) that loads weights anew in place leaves tied ones
    as they were.

    Args:
        model: with or without adapters.
        tokenizer: the model's.
        folder: that is written, or written over.
        dtype: of the weights there.
        scrambled: each number times one between -1 and 1: for a server that has to show that it
            can load all of them anew.
    """
    made = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(made, ignore_errors=True)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    with explained(f"handing the model over in {str(folder)!r}", "use a machine with more"):
        weights = _weights(base, dtype, scrambled)
        base.save_pretrained(made, state_dict=dict(weights))  # it takes tied ones out
        tokenizer.save_pretrained(made)
        said = read_json(made / "config.json") | {"dtype": str(dtype).removeprefix("torch.")}
        write_json(made / "config.json", said | _untied(base, weights, made))
        folder.mkdir(parents=True, exist_ok=True)
        for file in made.iterdir():
            os.replace(file, folder / file.name)
    made.rmdir()


def _untied(model: Any, weights: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write output weights that are the input's as ones of their own; what the config says then."""
    output = model.get_output_embeddings()
    tied = output is not None and output.weight is model.get_input_embeddings().weight
    if not tied:
        return {}
    stored = require_extra("safetensors.torch", "train")
    name = next(f"{name}.weight" for name, module in model.named_modules() if module is output)
    index, file = folder / "model.safetensors.index.json", folder / "model.safetensors"
    found = {name: weights[name].clone().contiguous()}
    if index.is_file():
        file, listed = folder / "model-output.safetensors", read_json(index)
        listed["weight_map"][name] = file.name
        write_json(index, listed)
    else:
        found = stored.load_file(file) | found
    stored.save_file(found, file, metadata={"format": "pt"})
    return {"tie_word_embeddings": False}


def _weights(model: Any, dtype: Any, scrambled: bool) -> dict[str, Any]:
    """All weights by name, adapters added to those that they change."""
    torch = require_extra("torch", "train")
    found = {
        name.replace(".base_layer.", "."): tensor.detach().to(dtype)
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer"):
            weight = module.base_layer.weight.detach()
            for adapter in module.active_adapters:
                weight = weight + module.get_delta_weight(adapter).detach().to(weight.dtype)
            found[f"{name}.weight"] = weight.to(dtype)
    if not scrambled:
        return found
    state = torch.get_rng_state()  # training draws on from here
    changed: dict[int, Any] = {}  # tied weights stay tied
    for tensor in found.values():
        factors = 2 * torch.rand(tensor.shape) - 1
        changed.setdefault(tensor.data_ptr(), tensor * factors.to(tensor))
    torch.set_rng_state(state)
    return {name: changed[tensor.data_ptr()] for name, tensor in found.items()}


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
