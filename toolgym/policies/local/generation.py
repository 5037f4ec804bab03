"""Generation in batches that rows join and leave at any step. Needs torch and transformers.

A row joins when there is room, and leaves with the token that ends its reply. The first pass that
it takes part in reads its prompt, beside the single tokens of the rows that were there before.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from toolgym._util.optional import require_extra
from toolgym.policies.local.attention import Place, Prefix, Slots, UnfitModelError
from toolgym.policies.local.guides import Guide
from toolgym.policies.local.prefixes import Kept, Prefixes
from toolgym.policies.local.sampling import Sampler, uniforms

if TYPE_CHECKING:
    import torch

__all__ = ["Batch", "Generator", "PackedBatch", "Row"]

_SPAN = 16  # tokens between two looks at which rows have ended, where `generate` makes the steps
_LOOK = 4  # tokens between two looks for a stop text
_AHEAD = 128  # tokens of a reply for which memory is made when it begins
_READ = 8192  # tokens of prompts that join at one step


@dataclass(slots=True, eq=False)
class Row:
    """One prompt, and what has been sampled for it.

    Args:
        key: whose it is.
        prompt: [token] never empty.
        seed: of its sampling.
        stopped: takes the reply so far; says how many of its tokens count when a stop text is in
            it, else None.
        episode: under which its keys and values are kept for the next turn; without one they are
            not.
        guide: what its reply may go on with, or None.
        ids: [reply] sampled, the end token included.
        logprobs: [reply] at temperature 1; empty when not asked for.
        ended: by an end token or a stop text; else it was cut.
        place: in the batch.
        limit: of its tokens, where it is below the batch's.
    """

    key: Hashable
    prompt: list[int]
    seed: int
    stopped: Callable[[list[int]], int | None]
    episode: str = ""
    guide: Guide | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False
    place: Place = field(default_factory=lambda: Place([]))
    limit: int | None = None

    def most(self, limit: int) -> int:
        """Tokens that its reply may have at most, in a batch with that limit."""
        return limit if self.limit is None else min(limit, self.limit)


@dataclass(frozen=True, slots=True)
class Generator:
    """Seeded sampling with a model, prompts in, token ids out.

    Args:
        model: a causal model in evaluation mode.
        ends: ids that end a reply.
        pad: id to fill short prompts with.
        temperature: 0 is greedy.
        top_p: nucleus sampling; 1 = off.
        max_new_tokens: of one reply.
        batch_size: most rows at once.
        logprobs: whether to keep them.
        prefixes: what has been read already; None: every prompt is read from its beginning.
    """

    model: Any
    ends: frozenset[int]
    pad: int
    temperature: float
    top_p: float
    max_new_tokens: int
    batch_size: int
    logprobs: bool = False
    prefixes: Prefixes | None = None

    def batch(self) -> Batch:
        """An empty batch of the kind that the model allows."""
        return PackedBatch(self) if _is_plain(self.model) else _GenerateBatch(self)


class Batch(ABC):
    """Rows that are being sampled, in torch's inference mode.

    Args:
        settings: what is the same for all rows.
    """

    def __init__(self, settings: Generator) -> None:
        self.settings = settings
        self.rows: list[Row] = []
        self._sampler = self._new_sampler([])

    @abstractmethod
    def join(self, waiting: deque[Row]) -> None:
        """Take rows from the left, as many as there is room for."""

    @abstractmethod
    def step(self) -> list[Row]:
        """Sample on, at least one token; returns the rows that have ended, which have left."""

    def drop(self, first: int = 0) -> list[Row]:
        """Let rows go, from one on, as after an error."""
        gone = self.rows[first:]
        self._reorder(list(range(first)))
        return gone

    def _new_sampler(self, rows: Sequence[Row]) -> Sampler:
        return Sampler(
            self._drawn(rows),
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            device=self.settings.model.device,
            logprobs=self.settings.logprobs,
            guides=[row.guide for row in rows],
        )

    def _drawn(self, rows: Sequence[Row]) -> Any:
        count = self.settings.max_new_tokens if self.settings.temperature else 0
        return uniforms([row.seed for row in rows], count)

    def _reorder(self, order: list[int]) -> None:
        torch = require_extra("torch", "train")
        self.rows = [self.rows[n] for n in order]
        self._sampler.select(torch.tensor(order, dtype=torch.int64, device=self._device))

    @property
    def _device(self) -> Any:
        return self.settings.model.device

    def _ended(self, row: Row) -> bool:
        """Whether a row's reply is complete; what stands after its end is cut off."""
        ends, limit = self.settings.ends, row.most(self.settings.max_new_tokens)
        del row.ids[limit:], row.logprobs[limit:]
        first = next((n for n, i in enumerate(row.ids) if i in ends), None)
        count = None if first is None else first + 1
        stop = row.stopped(row.ids[:count])
        count = count if stop is None else stop
        if count is not None:
            del row.ids[count:], row.logprobs[count:]
            row.ended = True
        return row.ended or len(row.ids) >= limit


class PackedBatch(Batch):
    """Our own steps: one pass reads whatever is fresh in each row."""

    def __init__(self, settings: Generator) -> None:
        super().__init__(settings)
        self._slots = Slots()

    def join(self, waiting: deque[Row]) -> None:
        """Take rows from the left, as many as there is room for."""
        if not self.rows:
            self._slots = Slots()  # lets go of the memory of longer ones
        before, read = len(self.rows), 0
        while waiting and len(self.rows) < self.settings.batch_size and read < _READ:
            self.rows.append(waiting.popleft())
            read += len(self.rows[-1].prompt)
        joined = self.rows[before:]
        if not joined:
            return
        self._sampler.join(self._drawn(joined), [row.guide for row in joined])
        limit = self.settings.max_new_tokens
        known = self._known(joined)
        for n, (row, kept) in enumerate(zip(joined, known, strict=True), before):
            prefix = kept.prefix if kept else self._longest(row.prompt)
            row.place = Place(row.prompt[len(prefix.ids) if prefix else 0 :], prefix)
            if kept is not None:
                self._slots.put(n, kept.states)
                row.place.own = len(kept.ids) - (len(prefix.ids) if prefix else 0)
                row.place.fresh = row.prompt[len(kept.ids) :]
        self._slots.reserve(
            min(self.settings.batch_size, len(self.rows) + len(waiting)),
            max(
                row.place.own + len(row.place.fresh) + min(row.most(limit), _AHEAD)
                for row in joined
            ),
        )

    def _known(self, rows: Sequence[Row]) -> list[Kept | None]:
        """What is kept of each row's episode; what the others share is read."""
        prefixes = self.settings.prefixes
        if prefixes is None:
            return [None] * len(rows)
        known = [prefixes.take(row.episode, row.prompt) for row in rows]
        begun = [row.prompt for row, kept in zip(rows, known, strict=True) if kept is None]
        torch = require_extra("torch", "train")
        for ids in prefixes.worth_sharing(begun) if begun else ():
            shorter, slots = prefixes.longest(ids), Slots()
            place = Place(ids[len(shorter.ids) if shorter else 0 :], shorter)
            slots.forward(self.settings.model, [place])
            states = slots.take(0, place.own)
            if shorter is not None:
                pairs = zip(shorter.states, states, strict=True)
                states = [
                    (torch.cat([a[0], b[0]], 1), torch.cat([a[1], b[1]], 1)) for a, b in pairs
                ]
            prefixes.share(Prefix(ids, states))
        return known

    def _longest(self, prompt: list[int]) -> Prefix | None:
        return self.settings.prefixes.longest(prompt) if self.settings.prefixes else None

    def step(self) -> list[Row]:
        """One token a row."""
        scores = self._slots.forward(self.settings.model, [row.place for row in self.rows])
        chosen = self._sampler.next(scores).tolist()
        logprobs = [column.tolist() for column in self._sampler.logprobs]
        self._sampler.logprobs = []
        ended = []
        for n, (row, token) in enumerate(zip(self.rows, chosen, strict=True)):
            row.ids.append(token)
            row.place.fresh = [token]
            row.logprobs += [column[n] for column in logprobs]
            most = row.most(self.settings.max_new_tokens)
            look = token in self.settings.ends or len(row.ids) == most
            if (look or len(row.ids) % _LOOK == 0) and self._ended(row):
                ended.append(n)
        return self._leave(ended) if ended else []

    def _leave(self, ended: list[int]) -> list[Row]:
        gone = [self.rows[n] for n in ended]
        for n, row in zip(ended, gone, strict=True):
            if self.settings.prefixes is not None and row.episode:
                # The last token was not read, nor is what stands after a stop text any longer said.
                ids = [*row.prompt, *row.ids][: row.place.known]
                own = len(ids) - (row.place.known - row.place.own)
                states = self._slots.take(n, own)
                self.settings.prefixes.keep(row.episode, Kept(ids, row.place.prefix, states))
        order = list(range(len(self.rows)))
        for n in reversed(ended):  # the last row moves into the gap, so that none is left
            last = order.pop()
            if n < len(order):
                self._slots.move(len(order), n, self.rows[last].place.own)
                order[n] = last
        self._reorder(order)
        return gone


class _GenerateBatch(Batch):
    """Steps of ``generate``, for models that need more than ids and positions.

    Rows join when none is left, and leave after a span. What they read is not kept.
    """

    def join(self, waiting: deque[Row]) -> None:
        """Take rows from the left, once all others have left."""
        if self.rows or not waiting:
            return
        torch = require_extra("torch", "train")
        count = min(len(waiting), self.settings.batch_size)
        self.rows = [waiting.popleft() for _ in range(count)]
        self._sampler = self._new_sampler(self.rows)
        longest = max(len(row.prompt) for row in self.rows)
        gaps = [longest - len(row.prompt) for row in self.rows]
        pairs = list(zip(gaps, self.rows, strict=True))
        ids = [[self.settings.pad] * gap + row.prompt for gap, row in pairs]
        mask = [[0] * gap + [1] * (longest - gap) for gap in gaps]
        self._ids = torch.tensor(ids, device=self._device)
        self._mask = torch.tensor(mask, device=self._device)
        self._cache: Any = None

    def step(self) -> list[Row]:
        """A span of tokens."""
        torch = require_extra("torch", "train")
        out = self.settings.model.generate(
            input_ids=self._ids,
            attention_mask=self._mask,
            past_key_values=self._cache,
            logits_processor=[self._sampler],
            generation_config=self._config(),
        )
        fresh = out.sequences[:, self._ids.shape[1] :]
        self._ids, self._cache = out.sequences, out.past_key_values
        self._mask = torch.cat([self._mask, self._mask.new_ones(fresh.shape)], 1)
        self._collect(fresh)
        ended = [n for n, row in enumerate(self.rows) if self._ended(row)]
        gone = [self.rows[n] for n in ended]
        kept = [n for n in range(len(self.rows)) if n not in ended]
        if ended and kept:
            rows = torch.tensor(kept, device=self._device)
            self._ids, self._mask = self._ids[rows], self._mask[rows]
            self._cache.batch_select_indices(rows)
        self._reorder(kept)
        return gone

    def _collect(self, fresh: torch.Tensor) -> None:
        for row, ids in zip(self.rows, fresh.tolist(), strict=True):
            row.ids += ids
        if self.settings.logprobs:
            torch = require_extra("torch", "train")
            columns = torch.stack(self._sampler.logprobs, 1).tolist()
            for row, values in zip(self.rows, columns, strict=True):
                row.logprobs += values
        self._sampler.logprobs = []

    def _config(self) -> Any:
        transformers = require_extra("transformers", "train")
        left = self.settings.max_new_tokens - len(self.rows[0].ids)
        # A cache of recurrent states cannot lose rows: all at once.
        stateful = getattr(self.settings.model, "_is_stateful", False)
        return transformers.GenerationConfig(
            max_new_tokens=left if stateful else min(left, _SPAN),
            do_sample=False,
            eos_token_id=sorted(self.settings.ends) or None,
            pad_token_id=self.settings.pad,
            return_dict_in_generate=True,
            use_cache=True,
        )


_PLAIN: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _is_plain(model: Any) -> bool:
    """Whether our own steps give the model's own logits; tried once on a few tokens."""
    if model not in _PLAIN:
        _PLAIN[model] = _seems_plain(model) and _agrees(model)
    return _PLAIN[model]


def _seems_plain(model: Any) -> bool:
    """Whether a step needs no more than ids, positions, and keys and values of all tokens."""
    transformers = require_extra("transformers", "train")
    prepared = getattr(type(model), "prepare_inputs_for_generation", None)
    if prepared is not transformers.GenerationMixin.prepare_inputs_for_generation:
        return False
    if getattr(model, "_is_stateful", False) or getattr(model.config, "alibi", False):
        return False
    if not getattr(model, "_supports_attention_backend", False) or model.config.sub_configs:
        return False
    layers = transformers.DynamicCache(config=model.config).layers
    if any(type(layer) is not transformers.cache_utils.DynamicLayer for layer in layers):
        return False
    wanted = {"position_ids", "use_cache", "logits_to_keep"}
    return wanted <= inspect.signature(type(model).forward).parameters.keys()


def _agrees(model: Any) -> bool:
    """Whether our attention and the model's own give the same logits for a few tokens."""
    torch = require_extra("torch", "train")
    ids = [n % model.config.vocab_size for n in range(3, 12)]
    with torch.inference_mode():
        whole = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
        expected = whole.logits[0, -1].float()
        beginning, slots, place = Slots(), Slots(), Place(ids[:4])
        try:
            beginning.forward(model, [place])
            prefix = Prefix(ids[:4], beginning.take(0, 4))
            places = [Place(ids[4:5], prefix), Place(ids[:-1])]
            slots.forward(model, places)
            places[0].fresh, places[1].fresh = ids[5:], ids[-1:]
            found = slots.forward(model, places)
        except (UnfitModelError, TypeError, IndexError):
            # It hands other things to its attention than we take.
            return False
    # bfloat16 has eight bits; another way to attend is far off.
    return bool(((found - expected).abs().amax() <= 0.05 * expected.abs().amax()).item())
