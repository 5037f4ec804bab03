"""Where in the network a tensor sits, read from its name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["IGNORED", "MODULES", "Place", "places"]

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
