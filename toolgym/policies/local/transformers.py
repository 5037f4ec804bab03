"""``TransformersPolicy``: a local causal language model, in batches, seeded and token-exact."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, PolicyError
from toolgym.policies.base import Lockstep, Policy, Reply, ReplyTokens, Request, Stream, cut_at_stop
from toolgym.policies.guiding import Narrow
from toolgym.policies.local.chat import TokenChat, tokenizer_hash
from toolgym.policies.local.generation import Generator, Row
from toolgym.policies.local.guides import Guides
from toolgym.policies.local.models import (
    Loaded,
    choose_device,
    load_model,
    resolve_dtype,
    unload_models,
)
from toolgym.policies.local.prefixes import Prefixes

__all__ = ["RowStream", "TransformersPolicy", "room_for_prompts", "unload_models"]

_STEPS = 8  # between two beats of a stream in which no reply ends


class RowStream(Stream):
    """Requests as rows of a batch.

    Args:
        chat: of the tokenizer.
        generator: how to sample.
        longest: tokens of a prompt; a longer one loses its beginning.
        guides: what replies may be; None: anything.
    """

    def __init__(
        self, chat: TokenChat, generator: Generator, longest: int, guides: Guides | None
    ) -> None:
        self._chat, self._generator, self._longest = chat, generator, longest
        self._guides = guides
        self._batch = generator.batch()
        self._waiting: deque[Row] = deque()
        self._requests: dict[Hashable, Request] = {}
        self._refused: dict[Hashable, Exception] = {}
        self.written = 0

    def begin(self, requests: Mapping[Hashable, Request]) -> None:
        """Render them; episodes that are under way are served before those that begin.

        Raises:
            BadInputError: replies are guided, and a request's format has no grammar.
        """
        rows = []
        prompts = self._chat.prompts(list(requests.values()))
        for (key, request), prompt in zip(requests.items(), prompts, strict=True):
            if isinstance(prompt, Exception):
                self._refused[key] = prompt
                continue
            try:
                guide = None if self._guides is None else self._guides.guide(request)
            except PolicyError as error:
                self._refused[key] = error
                continue
            self._requests[key] = request
            ids = prompt[-self._longest :] or [self._generator.pad]
            stopped = partial(self._stopped, request.format.stop)
            row = Row(key, ids, request.seed, stopped, request.episode, guide)
            row.limit = request.tokens_left
            rows.append(row)
        later = [row for row in rows if self._requests[row.key].turn]
        self._waiting.extendleft(reversed(later))
        self._waiting.extend(row for row in rows if not self._requests[row.key].turn)

    def advance(self) -> Mapping[Hashable, Reply | Exception]:
        """Sample until a reply has ended, or for a few tokens."""
        if self._refused:
            refused, self._refused = self._refused, {}
            return refused
        for _ in range(_STEPS):
            before = len(self._batch.rows)
            try:
                with require_extra("torch", "train").inference_mode():
                    self._batch.join(self._waiting)
                    counts = {row.key: len(row.ids) for row in self._batch.rows}
                    ended = self._batch.step() if counts else []
            except RuntimeError as error:  # torch's own errors, out of memory among them
                # Where rows were there before, it was the new ones that were too much.
                joined = len(self._batch.rows) > before > 0
                return self._failed(self._batch.drop(before if joined else 0), error)
            rows = [*self._batch.rows, *ended]
            self.written += sum(len(row.ids) - counts[row.key] for row in rows)
            if ended or not rows:
                return {row.key: self._reply(row) for row in ended}
        return {}

    def _failed(self, rows: list[Row], error: RuntimeError) -> dict[Hashable, Exception]:
        longest = max(len(row.prompt) for row in rows)
        failed = PolicyError(
            f"the model failed on a batch of {len(rows)} with up to {longest} prompt tokens: "
            f"{str(error).strip():.300}; if memory ran out, lower batch_size or cache_gib"
        )
        failed.__cause__ = error
        for row in rows:
            del self._requests[row.key]
        return {row.key: failed for row in rows}

    def _stopped(self, stops: Sequence[str], ids: list[int]) -> int | None:
        """How many tokens a reply has up to its first stop text, or None without one."""
        if not stops or not any(stop in self._chat.decode(ids) for stop in stops):
            return None
        # The shortest beginning that holds a stop text: once there it stays.
        return (
            bisect.bisect_left(
                range(1, len(ids) + 1),
                True,
                key=lambda count: any(stop in self._chat.decode(ids[:count]) for stop in stops),
            )
            + 1
        )

    def _reply(self, row: Row) -> Reply | Exception:
        request = self._requests.pop(row.key)
        if row.guide is not None and row.guide.failure:
            return PolicyError(f"the guide of a reply could not go on: {row.guide.failure}")
        text = cut_at_stop(self._chat.decode(row.ids), request)
        self._chat.keep(request, row.ids, text)
        logprobs = row.logprobs if self._generator.logprobs else None
        tokens = ReplyTokens(row.prompt, row.ids, logprobs, row.guide is not None)
        return Reply(text, tokens, not row.ended)


class TransformersPolicy(Policy):
    """Samples replies from any causal model that transformers loads, with its chat template.

    Requests join the batch, and replies leave it, at any token. A reply depends on the request and
    its seed, not on the other requests of the batch (up to floating-point ties), nor on
    ``batch_size``. Prompts continue the ids of the turn before; see
    docs/policies.md for when they cannot.

    Args:
        model: a folder, a hub id, or a model in memory (`toolgym.policies.local.models.Loaded`).
        temperature: 0 is greedy.
        top_p: nucleus sampling; 1 = off.
        max_new_tokens: of one reply; default: 512, on a CPU 128, so that a model that does not end
            its replies shows it within a minute.
        max_prompt_tokens: a longer prompt loses its beginning (arXiv 2502.05867 cuts at 8192), as
            does one that leaves no room for the reply in the model's positions.
        batch_size: most requests that are answered at once; default: 64, on a CPU 32.
        cache_gib: GiB of keys and values kept of what episodes share (instructions, tools, worked
            examples) and between their turns, so that a prompt is read where it is new; 0 keeps
            none. Models with sliding windows, recurrent states or inputs of their own making read
            every prompt anew.
        device: such as ``cuda:1``; default: the first GPU, else the CPU.
        dtype: ``auto`` (as saved), ``fast`` (bfloat16 on GPUs and CPUs that are faster so, else
            float32), ``float32``, ``bfloat16``.
        logprobs: report each sampled token's log-probability at temperature 1, before top-p.
        pass_tools: give the tools to the chat template too (the formats write them in the text).
        adapter: a LoRA folder.
        template: further arguments of the chat template, such as ``{"enable_thinking": False}``.
        guided: every reply is one of the format's grammar: no call is malformed, arguments are
            valid under their schemas. Temperature and ``top_p`` work on what is allowed.
        narrow: what guided replies hold to beside it, see `toolgym.policies.guiding.Narrow`.

    Raises:
        MissingExtraError: torch or transformers is not installed, or llguidance for ``guided``.
        MissingFileError: the model cannot be found.
        TemplateError: the tokenizer has no usable chat template.
        BadInputError: a number that is out of range.
    """

    batched: ClassVar[bool] = True

    def __init__(
        self,
        model: str | Path | Loaded,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int | None = None,
        max_prompt_tokens: int = 8192,
        batch_size: int | None = None,
        cache_gib: float = 1.0,
        device: str | None = None,
        dtype: str = "auto",
        logprobs: bool = False,
        pass_tools: bool = False,
        adapter: str | Path | None = None,
        template: Mapping[str, Any] | None = None,
        guided: bool = False,
        narrow: Narrow | Mapping[str, Any] | None = None,
    ) -> None:
        on_cpu = choose_device(device) == "cpu"
        self._narrow = Narrow.read(narrow, guided)
        max_new_tokens = max_new_tokens if max_new_tokens is not None else 128 if on_cpu else 512
        batch_size = batch_size if batch_size is not None else 32 if on_cpu else 64
        self._concurrency = 32 if on_cpu else super().concurrency
        limits = {"max_new_tokens": max_new_tokens, "max_prompt_tokens": max_prompt_tokens}
        _check(temperature, top_p, cache_gib, batch_size=batch_size, **limits)
        adapter_folder = None if adapter is None else str(adapter)
        self._settings: dict[str, Any] = {
            "model": model.fingerprint if isinstance(model, Loaded) else str(model),
            "adapter": adapter_folder,
            "temperature": temperature,
            "top_p": top_p,
            **limits,
            "dtype": resolve_dtype(dtype, device),
            "pass_tools": pass_tools,
            **({"template": dict(template)} if template else {}),
        }
        loaded = model
        if not isinstance(loaded, Loaded):
            loaded = load_model(str(model), adapter=adapter_folder, device=device, dtype=dtype)
        self._weights = loaded.fingerprint
        self._longest = room_for_prompts(loaded.model.config, max_prompt_tokens, max_new_tokens)
        self._chat = TokenChat(
            loaded.tokenizer, pass_tools=pass_tools, template=template, ends=loaded.ends
        )
        self.tokenizer_hash = tokenizer_hash(loaded.tokenizer)
        self._guides = _guides(loaded, self._chat, self._narrow) if guided else None
        self._generator: Generator | None = Generator(
            model=loaded.model,
            ends=frozenset(self._chat.end_ids),
            pad=_padding(loaded, self._chat),
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            logprobs=logprobs,
            prefixes=Prefixes(int(cache_gib * 2**30)) if cache_gib else None,
        )

    @property
    def concurrency(self) -> int:
        """Few on a CPU, where a turn of many episodes takes minutes."""
        return self._concurrency

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Sample a reply to each request.

        Raises:
            PolicyError: after `close`.
            BadInputError: replies are guided, and a request's format has no grammar.
        """
        stream, replies = self._rows(), dict[Any, Any]()
        stream.begin(dict(enumerate(requests)))
        while len(replies) < len(requests):
            replies.update(stream.advance())
        return [replies[n] for n in range(len(requests))]

    def stream(self) -> Stream:
        """Replies as they end; the batch takes in new requests at any step.

        Raises:
            PolicyError: after `close`.
        """
        if type(self).act is not TransformersPolicy.act:
            return Lockstep(self.act)  # a class of the user's own, whose `act` must be called
        return self._rows()

    def _rows(self) -> RowStream:
        return RowStream(self._chat, self._open(), self._longest, self._guides)

    def _open(self) -> Generator:
        if self._generator is None:
            raise PolicyError("the policy was closed: make a new one")
        return self._generator

    def describe(self) -> dict[str, Any]:
        """Model, sampling settings, and hashes of weights and tokenizer."""
        hashes = {"model_hash": self._weights, "tokenizer_hash": self.tokenizer_hash}
        held: dict[str, Any] = {"guided": True} if self._guides is not None else {}
        held |= {"narrow": said} if (said := self._narrow.said) else {}
        return {"policy": "transformers", **self._settings, **held, **hashes}

    def forget(self, episode: str) -> None:
        """Drop what was kept of an ended episode."""
        self._chat.forget(episode)
        if self._generator is not None and self._generator.prefixes is not None:
            self._generator.prefixes.forget(episode)

    def close(self) -> None:
        """Let go of the model; it stays loaded for the next policy until `unload_models`."""
        self._generator = None


def _check(temperature: float, top_p: float, cache_gib: float, **counts: int) -> None:
    if not 0 <= temperature < float("inf"):
        raise BadInputError(f"temperature must be at least 0, not {temperature!r}")
    if not 0 < top_p <= 1:
        raise BadInputError(f"top_p must be above 0 and at most 1, not {top_p!r}")
    if not 0 <= cache_gib < float("inf"):
        raise BadInputError(f"cache_gib must be at least 0, not {cache_gib!r}")
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise BadInputError(f"{name} must be a whole number of at least 1, not {count!r}")


def _guides(loaded: Loaded, chat: TokenChat, narrow: Narrow) -> Guides:
    width = loaded.model.get_output_embeddings().weight.shape[0]
    return Guides(loaded.tokenizer, chat.end_ids, width, narrow=narrow)


def _padding(loaded: Loaded, chat: TokenChat) -> int:
    padding = loaded.tokenizer.pad_token_id
    return int(padding if padding is not None else min(chat.end_ids, default=0))


def room_for_prompts(config: Any, max_prompt_tokens: int, max_new_tokens: int) -> int:
    """The longest prompt, in tokens, that leaves room for a reply.

    Args:
        config: of the model.
        max_prompt_tokens: what is wanted at most.
        max_new_tokens: of the reply.

    Raises:
        BadInputError: there is none.
    """
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return max_prompt_tokens
    if positions <= max_new_tokens:
        raise BadInputError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt: the model has "
            f"{positions} positions"
        )
    return min(max_prompt_tokens, positions - max_new_tokens)
