"""Tensors of two models that belong together, and the layer and module that each lies in."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from toolgym.errors import BadInputError
from toolgym.modeldiff.checkpoint import FLOATS, Checkpoint, Tensor

__all__ = ["IGNORED", "MODULES", "Place", "TensorPair", "paired", "places"]

MODULES = ("attention", "mlp", "norms", "embeddings", "head", "other")
"""Kinds of modules, in the order of tables."""

IGNORED = re.compile(
    r"(?:.*\.)?(?:rotary_emb\.inv_freq|(?:attn|attention)\.(?:masked_)?bias|position_ids)"
)
"""Names of constants that older checkpoints hold beside their weights."""

_LAYER = re.compile(r"(?P<stack>(?:^|.*?\.)(?:layers?|h|blocks?))\.(?P<number>\d+)\.(?P<rest>.+)")
_NORM = re.compile(r"(?:.*\.)?\w*(?:norm\w*|ln(?:_\w+)?|ln\d)")
_ATTENTION = re.compile(r"(?:^|.*\.)\w*att(?:n|ention)\w*\..*", re.I)
_MLP = re.compile(
    r"(?:^|.*\.)(?:\w*mlp\w*|feed_?forward|ffn|fc\d|w\d|\w*moe|experts?|intermediate|output\.dense)"
    r"(?:\..*|$)",
    re.I,
)
_EMBEDDINGS = re.compile(r"(?:.*\.)?(?:wte|wpe|\w*embed(?!_out)\w*)(?:\..*)?", re.I)
_HEAD = re.compile(r"(?:.*\.)?(?:lm_head|embed_out|output|score|classifier)", re.I)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor sits.

    Args:
        layer: counted from 0 at the input; None outside the layers.
        module: one of `MODULES`.
        kind: its own name, such as ``q_proj``.
    """

    layer: int | None
    module: str
    kind: str


def places(sizes: Mapping[str, int]) -> dict[str, Place]:
    """The place of every tensor.

    Layers are those of the largest stack: the layers of a vision tower count as ``other``.

    Args:
        sizes: number of elements by name.
    """
    found = {name: _LAYER.fullmatch(name) for name in sizes}
    stacks: Counter[str] = Counter()
    for name, match in found.items():
        if match:
            stacks[match["stack"]] += sizes[name]
    largest = stacks.most_common(1)[0][0] if stacks else ""
    placed = {}
    for name, match in found.items():
        path = name.removesuffix(".weight").removesuffix(".bias")
        kind = path.rpartition(".")[2]
        if match is None:
            placed[name] = Place(None, _outside(path), kind)
        elif match["stack"] == largest:
            inner = match["rest"].removesuffix(".weight").removesuffix(".bias")
            placed[name] = Place(int(match["number"]), _inside(inner), kind)
        else:
            placed[name] = Place(None, "other", kind)
    return placed


def _inside(path: str) -> str:
    # "post_attention_layernorm" and "self_attn.q_norm" are norms: their own name decides.
    if _NORM.fullmatch(path):
        return "norms"
    if _ATTENTION.fullmatch(path + "."):
        return "attention"
    return "mlp" if _MLP.fullmatch(path) else "other"


def _outside(path: str) -> str:
    if _NORM.fullmatch(path):
        return "norms"
    if _HEAD.fullmatch(path):
        return "head"
    return "embeddings" if _EMBEDDINGS.fullmatch(path) else "other"


_STEP = "compare models of one architecture, or leave the weights out (--no-weights)"
# Percent: between 1 and 2 a bfloat16 is 2**-7 from the next, a float16 2**-10; rounding errs by
# that over sqrt(12) in the root mean square, on numbers of about 1.45.
_ROUNDING = {"BF16": "0.16", "F16": "0.02"}


@dataclass(frozen=True, slots=True)
class TensorPair:
    """One tensor of both models.

    Args:
        name: in both.
        place: where it sits.
        before: of the base.
        after: of the tuned model.
        rows: common rows; all of them, but for grown embeddings.
    """

    name: str
    place: Place
    before: Tensor
    after: Tensor
    rows: int

    @property
    def cut(self) -> bool:
        """Whether one side has rows that the other does not have."""
        return self.before.shape != self.after.shape


def paired(before: Checkpoint, after: Checkpoint) -> tuple[list[TensorPair], list[str]]:
    """Pair the tensors of two models.

    Returns:
        The pairs in order of their names, and what a reader has to know about them.

    Raises:
        BadInputError: other architectures, tensors or shapes, or elements that are not floats.
    """
    if before.kind and after.kind and before.kind != after.kind:
        raise BadInputError(
            f"{before.name!r} is of type {before.kind!r} and {after.name!r} of type "
            f"{after.kind!r}: their weights do not correspond; {_STEP}"
        )
    sides = [
        {name: tensor for name, tensor in model.tensors.items() if not IGNORED.fullmatch(name)}
        for model in (before, after)
    ]
    sides = [_aligned(sides[0], sides[1]), _aligned(sides[1], sides[0])]
    notes = _tied(before, after, *sides)
    _same_names(before, after, *sides)
    old, new = sides
    where = places({name: math.prod(tensor.shape) for name, tensor in old.items()})
    pairs = []
    for name in sorted(old, key=lambda name: _order(name, where[name])):
        rows = _common_rows(name, where[name], old[name], new[name], before, after)
        if old[name].shape != new[name].shape:
            notes.append(
                f"{name}: {old[name].height:,} rows before and {new[name].height:,} after; the "
                f"first {rows:,} are compared"
            )
        pairs.append(TensorPair(name, where[name], old[name], new[name], rows))
    return pairs, notes + _rounding(pairs)


def _aligned(mine: dict[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without a first word such as ``transformer.`` that only this side's names begin with."""
    common = len(mine.keys() & theirs.keys())
    for first in dict.fromkeys(name.partition(".")[0] + "." for name in mine):
        bare = {name.removeprefix(first): tensor for name, tensor in mine.items()}
        if len(bare) == len(mine) and len(bare.keys() & theirs.keys()) > common:
            return bare
    return mine


def _order(name: str, place: Place) -> tuple[int, int, str]:
    last = place.module in ("head", "norms")
    layer = place.layer
    return (1, layer, name) if layer is not None else (2 if last else 0, 0, name)


def _tied(
    before: Checkpoint, after: Checkpoint, old: dict[str, Tensor], new: dict[str, Tensor]
) -> list[str]:
    """Heads that share the embeddings' tensor, taken out or put beside it; says what was done."""
    where = places({name: math.prod(t.shape) for name, t in {**old, **new}.items()})
    heads = [name for name, place in where.items() if place.module == "head"]
    tables = [n for n, p in where.items() if p.module == "embeddings" and n in old and n in new]
    notes = []
    for head in heads:
        having = [side for side in (old, new) if head in side]
        width = having[0][head].width
        table = next((n for n in tables if having[0][n].width == width), None)
        if table is None:
            continue
        if len(having) == 1:
            other = new if having[0] is old else old
            which = after if having[0] is old else before
            other[head] = other[table]
            notes.append(f"{head}: {which.name} has none of its own and uses {table} for it")
        elif all(model.config.get("tie_word_embeddings") for model in (before, after)):
            for side in (old, new):
                del side[head]
            notes.append(f"{head}: tied to {table}, counted once")
    if not heads and tables:
        notes.append("The head is tied to the embeddings: their change is its change.")
    return notes


def _same_names(
    before: Checkpoint, after: Checkpoint, old: Mapping[str, Tensor], new: Mapping[str, Tensor]
) -> None:
    for model, mine, theirs in ((before, old, new), (after, new, old)):
        only = sorted(mine.keys() - theirs.keys())
        if only:
            more = f" and {len(only) - 1} more" if len(only) > 1 else ""
            raise BadInputError(
                f"only {model.name!r} holds {only[0]!r}{more}: not the same architecture; {_STEP}"
            )
    if not old:
        raise BadInputError(f"{before.name!r} and {after.name!r} hold no tensors")


def _common_rows(
    name: str, place: Place, old: Tensor, new: Tensor, before: Checkpoint, after: Checkpoint
) -> int:
    for model, tensor in ((before, old), (after, new)):
        if tensor.dtype not in FLOATS:
            raise BadInputError(
                f"{name!r} of {model.name!r} holds {tensor.dtype}, not floats of 16 to 64 bits: "
                "compare the models before quantisation"
            )
    if old.shape == new.shape:
        return old.height
    grown = place.module in ("embeddings", "head") and old.shape[1:] == new.shape[1:]
    if not grown:
        raise BadInputError(
            f"{name!r} is {_size(old)} in {before.name!r} and {_size(new)} in {after.name!r}: not "
            f"the same architecture; {_STEP}"
        )
    return min(old.height, new.height)


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a scalar"


def _rounding(pairs: list[TensorPair]) -> list[str]:
    """A model saved in fewer bits than the other differs from it by rounding alone."""
    notes = []
    kinds = {(p.before.dtype, p.after.dtype) for p in pairs if p.before.dtype != p.after.dtype}
    for old, new in sorted(kinds):
        coarse = min((old, new), key=lambda dtype: (FLOATS[dtype], dtype != "BF16"))
        noise = _ROUNDING.get(coarse)
        tail = f": rounding alone shows as about {noise} %" if noise else ""
        notes.append(f"Saved as {old} before and {new} after{tail}.")
    return notes
