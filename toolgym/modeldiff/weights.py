"""The change of the weights: per tensor, layer and kind of module."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from toolgym._util.jsonl import read_json
from toolgym.errors import BadInputError
from toolgym.modeldiff.checkpoint import (
    ADAPTER,
    Checkpoint,
    find_folder,
    is_adapter,
    open_adapter,
    open_weights,
)
from toolgym.modeldiff.pairs import MODULES, Place, TensorPair, paired

__all__ = ["THIRDS", "Change", "TensorChange", "WeightChange", "open_models", "weight_change"]

THIRDS = ("lower", "middle", "upper")
_CHUNK = 1 << 17  # elements held at once, of each model: 1 MB, which fits a cache
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Change:
    """How far weights moved. Changes of several tensors add up.

    Args:
        elements: how many were compared.
        changed: how many are not equal.
        moved: sum of the squared differences.
        size: sum of the squares before.
    """

    elements: int = 0
    changed: int = 0
    moved: float = 0.0
    size: float = 0.0

    def __add__(self, other: Change) -> Change:
        return Change(
            self.elements + other.elements,
            self.changed + other.changed,
            self.moved + other.moved,
            self.size + other.size,
        )

    @property
    def relative(self) -> float | None:
        """``||after - before|| / ||before||`` (Frobenius); None where all was zero before."""
        return math.sqrt(self.moved / self.size) if self.size else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "elements": self.elements,
            "changed": self.changed,
            "squared_change": self.moved,
            "squared_norm": self.size,
            "relative": self.relative,
        }


@dataclass(frozen=True, slots=True)
class TensorChange:
    """One tensor.

    Args:
        name: in the checkpoint.
        place: where it sits.
        shape: of what was compared.
        change: how far it moved.
    """

    name: str
    place: Place
    shape: tuple[int, ...]
    change: Change


@dataclass(frozen=True, slots=True)
class WeightChange:
    """What `weight_change` gives.

    Args:
        tensors: from the input to the output.
        layers: how many the model has.
        notes: what a reader has to know, such as grown embeddings.
    """

    tensors: list[TensorChange]
    layers: int
    notes: list[str] = field(default_factory=list)

    @property
    def total(self) -> Change:
        """The whole model."""
        return _sum(tensor.change for tensor in self.tensors)

    def by(self, key: Callable[[Place], _Key]) -> dict[_Key, Change]:
        """Changes summed over groups of places, in order of first appearance."""
        found: dict[_Key, Change] = {}
        for tensor in self.tensors:
            name = key(tensor.place)
            found[name] = found.get(name, Change()) + tensor.change
        return found

    def third(self, layer: int) -> str:
        """Which of `THIRDS` a layer belongs to."""
        return THIRDS[3 * layer // self.layers]

    def thirds(self) -> dict[tuple[str, str], Change]:
        """By third of the layers and kind of module, attention and MLP first."""
        found = self.by(lambda p: None if p.layer is None else (self.third(p.layer), p.module))
        order = [(third, module) for third in THIRDS for module in MODULES]
        return {key: found[key] for key in order if key in found}

    def modules(self) -> dict[str, Change]:
        """By kind of module, over all layers."""
        found = self.by(lambda place: place.module)
        return {module: found[module] for module in MODULES if module in found}

    def share(self, change: Change) -> float:
        """Part of the model's summed squared change, from 0 to 1."""
        whole = self.total.moved
        return change.moved / whole if whole else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""

        def row(change: Change) -> dict[str, Any]:
            return change.to_dict() | {"share_of_change": self.share(change)}

        cells = self.by(lambda place: (place.layer, place.module))
        return {
            "layers": self.layers,
            "notes": self.notes,
            "total": row(self.total),
            "modules": {name: row(change) for name, change in self.modules().items()},
            "thirds": [
                {"third": third, "module": module} | row(change)
                for (third, module), change in self.thirds().items()
            ],
            "by_layer": [
                {"layer": layer, "module": module} | row(change)
                for (layer, module), change in cells.items()
                if layer is not None
            ],
            "tensors": [
                {"name": t.name, "layer": t.place.layer, "module": t.place.module}
                | {"kind": t.place.kind, "shape": list(t.shape)}
                | row(t.change)
                for t in self.tensors
            ],
        }


def _sum(changes: Iterable[Change]) -> Change:
    return sum(changes, start=Change())


def open_models(
    base: str | Path, tuned: str | Path, *, weights: bool = True
) -> tuple[Checkpoint, Checkpoint]:
    """Both models, with adapters put on the model below them; no weight is read yet.

    Args:
        base: a folder, a hub id in the cache, or an adapter folder.
        tuned: the same; an adapter stands on ``base``, or on its own model where ``base`` is an
            adapter, too.
        weights: False: only the folders are looked for, so that a model of any kind will do.

    Raises:
        MissingFileError: a model that is not there.
        BadInputError: the same model twice, or one that cannot be compared.
        MissingExtraError: ``.bin`` files, and the extra ``train`` is not installed.
    """
    folders = [find_folder(base), find_folder(tuned)]
    if folders[0].resolve() == folders[1].resolve():
        raise BadInputError(
            f"{str(base)!r} and {str(tuned)!r} are the same folder: name the model before and the "
            "one after training"
        )
    open_whole = open_weights if weights else _without_weights
    before = _open(str(base), folders[0], None, open_whole)
    below = before if before.base is None else None
    return before, _open(str(tuned), folders[1], below, open_whole)


def _without_weights(name: str, folder: Path) -> Checkpoint:
    return Checkpoint(name, folder, {}, {})


def _open(
    name: str,
    folder: Path,
    below: Checkpoint | None,
    open_whole: Callable[[str, Path], Checkpoint],
) -> Checkpoint:
    if not is_adapter(folder):
        return open_whole(name, folder)
    if below is None:
        said = read_json(folder / ADAPTER).get("base_model_name_or_path")
        if not said:
            raise BadInputError(f"adapter {name!r} does not say which model it stands on")
        below = open_whole(str(said), find_folder(str(said)))
    if open_whole is _without_weights:
        return Checkpoint(name, folder, {}, {}, below)
    return open_adapter(name, folder, below)


def weight_change(
    base: str | Path | Checkpoint,
    tuned: str | Path | Checkpoint,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> WeightChange:
    """Compare the weights of two models, in memory that does not depend on their size.

    Args:
        base: a folder, a hub id in the cache, or an adapter folder.
        tuned: the same.
        progress: called with tensors compared so far and in all.

    Raises:
        MissingFileError: a model that is not there.
        BadInputError: the same model twice, models of different architectures, quantised weights,
            or weights that are not finite.
        MissingExtraError: ``.bin`` files, and the extra ``train`` is not installed.
    """
    if isinstance(base, Checkpoint) and isinstance(tuned, Checkpoint):
        before, after = base, tuned
    else:
        before, after = open_models(str(base), str(tuned))
    pairs, notes = paired(before, after)
    tensors: list[TensorChange] = []
    for pair in pairs:
        change = _changed(pair, before, after)
        if not math.isfinite(change.moved + change.size):
            raise BadInputError(
                f"{pair.name!r} of {before.name!r} or {after.name!r} holds NaN or infinite values: "
                "that training broke down; take an earlier checkpoint"
            )
        shape = (pair.rows, *pair.before.shape[1:]) if pair.cut else pair.before.shape
        tensors.append(TensorChange(pair.name, pair.place, shape, change))
        if progress is not None:
            progress(len(tensors), len(pairs))
    layers = 1 + max((p.place.layer for p in pairs if p.place.layer is not None), default=-1)
    return WeightChange(tensors, layers, notes)


def _changed(pair: TensorPair, before: Checkpoint, after: Checkpoint) -> Change:
    height = max(1, _CHUNK // max(1, pair.before.width))
    # What an adapter adds to this very tensor is known; so is that it left one alone.
    added = after.deltas.get(pair.name) if after.base is before else None
    same = pair.before.source == pair.after.source
    changed, moved, size = 0, 0.0, 0.0
    for first in range(0, pair.rows, height):
        last = min(pair.rows, first + height)
        old = pair.before.read(first, last).ravel()
        size += float(old @ old)
        if same:
            continue
        difference = added(first, last) if added else pair.after.read(first, last).ravel() - old
        difference = np.ravel(difference)
        moved += float(difference @ difference)
        changed += int(np.count_nonzero(difference))
    return Change(pair.rows * pair.before.width, changed, moved, size)
