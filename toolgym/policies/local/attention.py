"""Attention over rows of any length: tokens are read once, and nothing is padded in the network.

The fresh tokens of all rows go through the model as one packed row; only here, in the attention,
are they told apart. A row's keys and values are those of a prefix, which many rows may share, and
of its own columns in a slot. Needs torch and transformers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from toolgym._util.optional import require_extra

if TYPE_CHECKING:
    import torch

__all__ = ["Place", "Prefix", "Slots", "States", "UnfitModelError"]

_NAME = "toolgym_rows"
_COLUMNS = 64  # slots grow by so many
# Pairs of query and column that take as long as a block more: on a CPU, and elsewhere.
_CPU_PAIRS, _OTHER_PAIRS = 1 << 12, 1 << 20
# What an attention may be told beside the usual, and what ours knows nothing of.
_FOREIGN = ("softcap", "s_aux", "sliding_window", "position_bias")

States = list[tuple["torch.Tensor", "torch.Tensor"]]
"""[layer] keys and values of some tokens, each [head, token, channel]."""


class UnfitModelError(Exception):
    """A model whose attention is not the plain one."""


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A beginning that rows share.

    Args:
        ids: [token].
        states: its keys and values.
    """

    ids: list[int]
    states: States


@dataclass(slots=True, eq=False)
class Place:
    """What a row of the batch is to the attention.

    Args:
        fresh: [token] ids that the next pass reads; never empty.
        prefix: the beginning that it shares with others.
        own: tokens after the prefix that stand in its slot.
    """

    fresh: list[int]
    prefix: Prefix | None = None
    own: int = 0

    @property
    def known(self) -> int:
        """Tokens already read."""
        return self.own + (len(self.prefix.ids) if self.prefix else 0)


class Slots:
    """Keys and values of a batch's rows: row n of the batch has slot n, columns from the left."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._rows = self._width = 0

    def reserve(self, rows: int, width: int) -> None:
        """Let slots that must grow have at least so many rows and columns at once.

        Memory that was never touched costs several times what is computed on it.
        """
        self._rows, self._width = max(rows, self._rows), max(width, self._width)

    def forward(self, model: Any, places: Sequence[Place]) -> torch.Tensor:
        """Read every row's fresh tokens.

        Args:
            model: in evaluation mode.
            places: [row]; rows with one fresh token first is the fast order.

        Returns:
            [row, vocabulary] logits after each row's last token, float32.

        Raises:
            UnfitModelError: its attention is not the plain one.
        """
        now = _Pass.of(places, model.device)
        with _ours(model):
            logits = model(
                input_ids=now.ids,
                position_ids=now.positions,
                use_cache=False,
                logits_to_keep=now.last,
                rows=partial(self._attend, now),
            ).logits[0]
        for place in places:
            place.own += len(place.fresh)
        return logits.float()  # type: ignore[no-any-return]

    def put(self, row: int, states: States) -> None:
        """Give a row its own columns."""
        for layer, both in enumerate(states):
            self._room(layer, row + 1, both[0].shape[1], both)
            for slots, part in zip(self._layers[layer], both, strict=True):
                slots[row, :, : part.shape[1]] = part

    def take(self, row: int, count: int) -> States:
        """A copy of a row's first own columns."""
        return [
            (keys[row, :, :count].clone(), values[row, :, :count].clone())
            for _, (keys, values) in sorted(self._layers.items())
        ]

    def move(self, source: int, target: int, count: int) -> None:
        """Let a row's first own columns be another row's."""
        for both in self._layers.values():
            for slots in both:
                slots[target, :, :count] = slots[source, :, :count]

    def _attend(
        self,
        now: _Pass,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Write a layer's fresh keys and values, and attend to all that each token may see.

        Args:
            now: where the tokens belong.
            layer: its number.
            query: [head, token, channel].
            key: [key head, token, channel].
            value: as the key.
            scale: of the scores.

        Returns:
            [token, head, channel].
        """
        self._room(layer, now.rows, now.width, (key, value))
        keys, values = self._layers[layer]
        keys[now.slots, :, now.columns] = key.transpose(0, 1)
        values[now.slots, :, now.columns] = value.transpose(0, 1)
        heads, tokens, channels = query.shape
        group = heads // len(key)
        # Query heads that share a key head are queries of one head: keys need not be repeated.
        grouped = query.view(len(key), group, tokens, channels)
        out = query.new_empty(len(key), group, tokens, channels)
        weight = query.new_empty(len(key), group, tokens, dtype=_torch().float32)
        for block in now.blocks:
            found, total = _attention(
                grouped[:, :, block.tokens].permute(2, 0, 1, 3, 4).flatten(2, 3),
                keys[block.first : block.last, :, : block.width],
                values[block.first : block.last, :, : block.width],
                block.mask(group, query.dtype),
                scale,
            )
            shape = (len(block.tokens), len(key), group, block.tokens.shape[1])
            found, total = found.view(*shape, channels), total.reshape(shape)
            row, column = block.real
            out[:, :, block.packed] = found[row, :, :, column].permute(1, 2, 0, 3)
            weight[:, :, block.packed] = total[row, :, :, column].permute(1, 2, 0).to(weight.dtype)
        for prefix, packed in now.shared:
            asked = grouped[:, :, packed].flatten(1, 2)[None]
            old_keys, old_values = prefix.states[layer]
            found, total = _attention(asked, old_keys[None], old_values[None], None, scale)
            # Two softmaxes become one by the weights that they had.
            rise = total.reshape(len(key), group, -1).to(weight.dtype) - weight[:, :, packed]
            own = out[:, :, packed]
            old = found.reshape(own.shape)
            out[:, :, packed] = (own + (old - own) * rise.sigmoid()[..., None]).to(out.dtype)
        return out.flatten(0, 1).transpose(0, 1)

    def _room(
        self, layer: int, rows: int, width: int, like: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        """Let a layer's slots hold so many rows and columns."""
        old = self._layers.get(layer)
        if old is not None and rows <= old[0].shape[0] and width <= old[0].shape[2]:
            return
        rows, width = max(rows, self._rows), max(width, self._width)
        width = -(-width // _COLUMNS) * _COLUMNS
        made = []
        for n, part in enumerate(like):
            had = (0, 0) if old is None else (old[n].shape[0], old[n].shape[2])
            size = (max(rows, had[0]), part.shape[0], max(width, had[1]), part.shape[-1])
            # Zeros: what is masked must still be finite.
            slots = part.new_zeros(size)
            if old is not None:
                slots[: had[0], :, : had[1]] = old[n]
            made.append(slots)
        self._layers[layer] = (made[0], made[1])


@dataclass(slots=True)
class _Block:
    """Rows that are attended to together, their tokens padded on the right.

    Args:
        first: row.
        last: row after the last.
        tokens: [row, query] places in the packed row; the first token's where padded.
        seen: [row, query, column] whether a column is seen.
        real: row and query of each token that is not padding.
        packed: [token] places of the same in the packed row.
    """

    first: int
    last: int
    tokens: torch.Tensor
    seen: torch.Tensor
    real: tuple[torch.Tensor, torch.Tensor]
    packed: torch.Tensor
    _masks: dict[Any, torch.Tensor] = field(default_factory=dict)

    @property
    def width(self) -> int:
        return self.seen.shape[-1]

    def mask(self, group: int, dtype: torch.dtype) -> torch.Tensor:
        """[row, 1, group and query, column] 0 where a column is seen; the same in all layers."""
        if (group, dtype) not in self._masks:
            made = self.seen.new_zeros(self.seen.shape, dtype=dtype)
            made = made.masked_fill_(~self.seen, float("-inf"))[:, None].expand(-1, group, -1, -1)
            self._masks[group, dtype] = made.flatten(1, 2)[:, None]
        return self._masks[group, dtype]


@dataclass(frozen=True, slots=True)
class _Pass:
    """Where the tokens of one forward pass belong.

    Args:
        rows: how many.
        width: columns that the longest of them needs.
        ids: [1, token].
        positions: [1, token].
        slots: [token] row of each token.
        columns: [token] its column there.
        last: [row] place of each row's last token.
        blocks: rows with one token, and runs of the others.
        shared: each prefix with the places [token] of the tokens after it.
    """

    rows: int
    width: int
    ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    columns: torch.Tensor
    last: torch.Tensor
    blocks: list[_Block]
    shared: list[tuple[Prefix, torch.Tensor]]

    @classmethod
    def of(cls, places: Sequence[Place], device: Any) -> _Pass:
        torch = _torch()
        counts = torch.tensor([len(place.fresh) for place in places])
        own = torch.tensor([place.own for place in places])
        known = torch.tensor([place.known for place in places])
        ends = counts.cumsum(0)
        slots = torch.arange(len(places)).repeat_interleave(counts)
        within = torch.arange(int(ends[-1])) - (ends - counts)[slots]
        columns = own[slots] + within
        shared: dict[int, tuple[Prefix, list[int]]] = {}
        for row, place in enumerate(places):
            if place.prefix is not None:
                shared.setdefault(id(place.prefix), (place.prefix, []))[1].append(row)
        single = next((n for n, place in enumerate(places) if len(place.fresh) > 1), len(places))
        bounds = [(0, single), *_runs(single, places, device)]
        return cls(
            rows=len(places),
            width=int((own + counts).max()),
            ids=torch.tensor([[i for place in places for i in place.fresh]], device=device),
            positions=(known[slots] + within)[None].to(device),
            slots=slots.to(device),
            columns=columns.to(device),
            last=(ends - 1).to(device),
            blocks=[_block(a, b, counts, own, ends, device) for a, b in bounds if a < b],
            shared=[
                (prefix, torch.isin(slots, torch.tensor(rows)).nonzero()[:, 0].to(device))
                for prefix, rows in shared.values()
            ],
        )


def _runs(first: int, places: Sequence[Place], device: Any) -> list[tuple[int, int]]:
    """Rows from one on, parted into runs: padding to a run's longest costs less than a block."""
    block = _CPU_PAIRS if device.type == "cpu" else _OTHER_PAIRS
    runs: list[tuple[int, int]] = []
    most = wide = spent = 0
    for row in range(first, len(places)):
        count = len(places[row].fresh)
        width = places[row].own + count
        if runs:
            begin = runs[-1][0]
            longer, wider = max(most, count), max(wide, width)
            both = (row + 1 - begin) * longer * wider
            if both <= spent + count * width + block:
                runs[-1] = (begin, row + 1)
                most, wide, spent = longer, wider, both
                continue
        runs.append((row, row + 1))
        most, wide, spent = count, width, count * width
    return runs


def _block(first: int, last: int, counts: Any, own: Any, ends: Any, device: Any) -> _Block:
    torch = _torch()
    counts, own, begins = counts[first:last], own[first:last], (ends - counts)[first:last]
    queries = torch.arange(int(counts.max()))
    real = queries < counts[:, None]  # (row, query)
    tokens = begins[:, None] + queries * real
    columns = torch.arange(int((own + counts).max()))
    seen = columns <= (own[:, None] + queries * real)[..., None]
    row, query = real.nonzero(as_tuple=True)
    return _Block(
        first,
        last,
        tokens.to(device),
        seen.to(device),
        (row.to(device), query.to(device)),
        tokens[real].to(device),
    )


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention [row, head, query, channel], and the logarithm of each query's total weight."""
    if _on_cpu(query):
        flash = _torch().ops.aten._scaled_dot_product_flash_attention_for_cpu
        return flash(query, key, value, attn_mask=mask, scale=scale)  # type: ignore[no-any-return]
    scores = (query @ key.transpose(-1, -2)).float() * scale
    scores = scores if mask is None else scores + mask
    total = scores.logsumexp(-1)
    return (scores - total[..., None]).exp().to(value.dtype) @ value, total


def _on_cpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


def _attend(
    module: Any, query: Any, key: Any, value: Any, _mask: Any, *, rows: Any, **told: Any
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each layer, with tensors of [1, head, token, channel]."""
    foreign = [name for name in _FOREIGN if told.get(name) is not None]
    if foreign:
        raise UnfitModelError(f"the attention wants {foreign[0]}")
    scale = told.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    out = rows(module.layer_idx, query[0], key[0], value[0], scale)
    return out[None], None


@contextlib.contextmanager
def _ours(model: Any) -> Iterator[None]:
    """Our attention in the model; another user of it may want its own again."""
    transformers = require_extra("transformers", "train")
    transformers.AttentionInterface.register(_NAME, _attend)
    before = model.config._attn_implementation
    model.config._attn_implementation = _NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def _torch() -> Any:
    return require_extra("torch", "train")
