"""``TransformersPolicy``: a local causal language model, in batches, seeded and token-exact."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from toolgym.errors import BadInputError, PolicyError
from toolgym.policies.base import Policy, Reply, ReplyTokens, Request, cut_at_stop
from toolgym.policies.local.chat import TokenChat, tokenizer_hash
from toolgym.policies.local.generation import Generator, Prefixes, Sampled
from toolgym.policies.local.guide import Guide, Guides
from toolgym.policies.local.models import Loaded, load_model, unload_models

__all__ = ["TransformersPolicy", "unload_models"]


@dataclass(frozen=True, slots=True)
class _Turn:
    """One request: its place among the requests, its prompt's ids, and its guide."""

    place: int
    request: Request
    prompt: list[int]
    guide: Guide | None = None


class TransformersPolicy(Policy):
    """Samples replies from any causal model that transformers loads, with its chat template.

    A reply depends on the request and its seed, not on the other requests of the batch (up to
    floating-point ties), nor on ``batch_size``. Prompts continue the ids of the turn before; see
    docs/policies.md for when they cannot.

    Args:
        model: a folder, a hub id, or a model in memory (`toolgym.policies.local.models.Loaded`).
        temperature: 0 is greedy.
        top_p: nucleus sampling; 1 = off.
        max_new_tokens: of one reply.
        max_prompt_tokens: a longer prompt loses its beginning (arXiv 2502.05867 cuts at 8192), as
            does one that leaves no room for the reply in the model's positions.
        batch_size: most requests in one batch.
        cache_gib: GiB of keys and values kept between an episode's turns, so that a turn reads
            only what is new; 0 keeps none. Models with sliding windows, recurrent states or inputs
            of their own making read every prompt anew.
        device: such as ``cuda:1``; default: the first GPU, else the CPU.
        dtype: ``auto`` (as saved), ``float32``, ``bfloat16``.
        logprobs: report each sampled token's log-probability at temperature 1, before top-p.
        pass_tools: give the tools to the chat template too (the formats write them in the text).
        adapter: a LoRA folder.
        template: further arguments of the chat template, such as ``{"enable_thinking": False}``.
        guided: every reply is one of the format's grammar: no call is malformed, arguments are
            valid under their schemas. Temperature and ``top_p`` work on what is allowed.

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
        max_new_tokens: int = 512,
        max_prompt_tokens: int = 8192,
        batch_size: int = 64,
        cache_gib: float = 1.0,
        device: str | None = None,
        dtype: str = "auto",
        logprobs: bool = False,
        pass_tools: bool = False,
        adapter: str | Path | None = None,
        template: Mapping[str, Any] | None = None,
        guided: bool = False,
    ) -> None:
        _check(
            temperature,
            top_p,
            cache_gib,
            max_new_tokens=max_new_tokens,
            max_prompt_tokens=max_prompt_tokens,
            batch_size=batch_size,
        )
        self._settings: dict[str, Any] = {
            "model": model.fingerprint if isinstance(model, Loaded) else str(model),
            "adapter": None if adapter is None else str(adapter),
            "temperature": temperature,
            "top_p": top_p,
            "max_new_tokens": max_new_tokens,
            "max_prompt_tokens": max_prompt_tokens,
            "dtype": dtype,
            "pass_tools": pass_tools,
            **({"template": dict(template)} if template else {}),
        }
        loaded = (
            model
            if isinstance(model, Loaded)
            else load_model(
                str(model), adapter=self._settings["adapter"], device=device, dtype=dtype
            )
        )
        self._weights, self._batch_size = loaded.fingerprint, batch_size
        self._longest = _room(loaded.model.config, max_prompt_tokens, max_new_tokens)
        self._chat = TokenChat(
            loaded.tokenizer, pass_tools=pass_tools, template=template, ends=loaded.ends
        )
        self.tokenizer_hash = tokenizer_hash(loaded.tokenizer)
        self._guides = _guides(loaded, self._chat) if guided else None
        self._generator: Generator | None = Generator(
            model=loaded.model,
            ends=frozenset(self._chat.end_ids),
            pad=_padding(loaded, self._chat),
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            logprobs=logprobs,
            prefixes=Prefixes(int(cache_gib * 2**30)) if cache_gib else None,
        )

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Sample a reply to each request, in batches of similar length.

        Raises:
            PolicyError: after `close`.
            BadInputError: replies are guided, and a request's format has no grammar.
        """
        if self._generator is None:
            raise PolicyError("the policy was closed: make a new one")
        prompts = self._chat.prompts(requests)
        replies: dict[int, Reply | Exception] = {}
        turns = []
        for place, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            if isinstance(prompt, Exception):
                replies[place] = prompt
            else:
                try:
                    guide = None if self._guides is None else self._guides.guide(request)
                except PolicyError as error:
                    replies[place] = error
                    continue
                ids = prompt[-self._longest :] or [self._generator.pad]
                turns.append(_Turn(place, request, ids, guide))
        turns.sort(key=lambda turn: len(turn.prompt))
        for begin in range(0, len(turns), self._batch_size):
            batch = turns[begin : begin + self._batch_size]
            replies.update(
                zip((t.place for t in batch), self._sample(self._generator, batch), strict=True)
            )
        return [replies[place] for place in range(len(requests))]

    def _sample(self, generate: Generator, batch: list[_Turn]) -> Sequence[Reply | Exception]:
        try:
            sampled = generate(
                [turn.prompt for turn in batch],
                [turn.request.seed for turn in batch],
                lambda row, ids: self._stopped(batch[row], ids),
                [turn.request.episode for turn in batch],
                [turn.guide for turn in batch] if self._guides is not None else (),
            )
        except RuntimeError as error:  # torch's own errors, out of memory among them
            failed = PolicyError(
                f"the model failed on a batch of {len(batch)} with up to {len(batch[-1].prompt)} "
                f"prompt tokens: {str(error).strip():.300}; if memory ran out, lower batch_size "
                "or cache_gib"
            )
            failed.__cause__ = error
            return [failed] * len(batch)
        return [self._reply(turn, row) for turn, row in zip(batch, sampled, strict=True)]

    def _stopped(self, turn: _Turn, ids: list[int]) -> int | None:
        """How many tokens a reply has up to its first stop text, or None without one."""
        stops = turn.request.format.stop
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

    def _reply(self, turn: _Turn, sampled: Sampled) -> Reply | Exception:
        request, guide = turn.request, turn.guide
        if guide is not None and guide.failure:
            return PolicyError(f"the guide of a reply could not go on: {guide.failure}")
        text = cut_at_stop(self._chat.decode(sampled.ids), request)
        self._chat.keep(request, sampled.ids, text)
        logprobs = sampled.logprobs if self._generator and self._generator.logprobs else None
        tokens = ReplyTokens(turn.prompt, sampled.ids, logprobs, guide is not None)
        return Reply(text, tokens, not sampled.ended)

    def describe(self) -> dict[str, Any]:
        """Model, sampling settings, and hashes of weights and tokenizer."""
        hashes = {"model_hash": self._weights, "tokenizer_hash": self.tokenizer_hash}
        held = {"guided": True} if self._guides is not None else {}
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


def _guides(loaded: Loaded, chat: TokenChat) -> Guides:
    width = loaded.model.get_output_embeddings().weight.shape[0]
    return Guides(loaded.tokenizer, chat.end_ids, width)


def _padding(loaded: Loaded, chat: TokenChat) -> int:
    padding = loaded.tokenizer.pad_token_id
    return int(padding if padding is not None else min(chat.end_ids, default=0))


def _room(config: Any, max_prompt_tokens: int, max_new_tokens: int) -> int:
    """The longest prompt, in tokens, that leaves room for a reply."""
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return max_prompt_tokens
    if positions <= max_new_tokens:
        raise BadInputError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt: the model has "
            f"{positions} positions"
        )
    return min(max_prompt_tokens, positions - max_new_tokens)
