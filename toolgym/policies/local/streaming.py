"""Requests to a local model and its replies, as rows of a batch that they join and leave."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from functools import partial

from toolgym._util.optional import require_extra
from toolgym.errors import PolicyError
from toolgym.policies.base import Reply, ReplyTokens, Request, Stream, cut_at_stop
from toolgym.policies.local.chat import TokenChat
from toolgym.policies.local.generation import Generator, Row
from toolgym.policies.local.guide import Guides

__all__ = ["RowStream"]

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
            rows.append(Row(key, ids, request.seed, stopped, request.episode, guide))
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
