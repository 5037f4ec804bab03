"""Environments of ours in verl: an agent loop that plays them in tokens, and rows for its trainer.

Importing this module imports verl, which the extra `verl` brings, and makes the loop known to it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from toolgym._util.optional import require_extra
from toolgym.bridges.episode import COLUMN, BridgedEpisode, Turn, task_rows
from toolgym.messages import Chat
from toolgym.policies.local.chat import TokenChat

__all__ = ["NAME", "VerlLoop", "verl_rows", "write_verl"]

_loops = require_extra("verl.experimental.agent_loop.agent_loop", "verl")
_builders = require_extra("verl.utils.tokenizer.continuous_token", "verl")
AgentLoopBase: Any = _loops.AgentLoopBase

NAME = "toolgym"
"""Of the agent loop, as the rows say in ``agent_name``."""


@dataclass
class _Stream:
    """The tokens of an episode so far.

    Args:
        ids: [prompt + response] all of them.
        mask: [response] 1 = written by the policy.
        logprobs: [response] 0.0 where the mask is 0; None once a reply came without.
        turns: what came of each reply.
        fields: that the server said of its replies.
    """

    ids: list[int]
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] | None = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def add(self, ids: list[int]) -> None:
        """Tokens that the policy did not write."""
        self.ids = self.ids + ids
        self.mask = self.mask + [0] * len(ids)
        if self.logprobs is not None:
            self.logprobs = self.logprobs + [0.0] * len(ids)


@_loops.register(NAME)
class VerlLoop(AgentLoopBase):  # type: ignore[misc]  # known at run time only
    """Plays one episode: verl's server writes the replies, an environment of ours answers them.

    Tokens are verl's own continuous ones: what was sampled is never tokenised again. Where a reply
    was cut before its end token, and where verl knows no builder of the model's family, what the
    chat template puts behind a reply is added, as `toolgym.rollout` does it.
    """

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> Any:
        """Play the episode of a row.

        Args:
            sampling_params: for the server.
            row: of the data set, made by `verl_rows`.

        Returns:
            An ``AgentLoopOutput``: ``response_mask`` is 1 on the policy's own tokens,
            ``reward_score`` the sum over the turns, which stand in ``turn_scores``.

        Raises:
            UnknownNameError: no environment has the row's id.
            BadInputError: the row was not made by `verl_rows`, or its task does not exist.
        """
        episode = await self._apart(BridgedEpisode, row.get("extra_info") or {})
        try:
            return await self._play(episode, dict(sampling_params))
        finally:
            await self._apart(episode.close)

    async def _play(self, episode: BridgedEpisode, sampling: dict[str, Any]) -> Any:
        messages = await self._apart(episode.begin)
        stream = _Stream(await self.ct_build_initial_tokens(messages))
        if episode.stop and self._reads_texts():
            sampling["stop"] = [*(sampling.get("stop") or ()), *episode.stop]
        request, limit = uuid4().hex, int(self.rollout_config.response_length)
        metrics: dict[str, float] = {}
        chat = _chat(self.tokenizer, json.dumps(dict(self.apply_chat_template_kwargs)))
        while True:
            with _loops.simple_timer("generate_sequences", metrics):
                said = await self.server_manager.generate(
                    request_id=request, prompt_ids=stream.ids, sampling_params=sampling
                )
            await self._take_reply(stream, said)
            text = chat.decode(said.token_ids)
            with _loops.simple_timer("tool_calls", metrics):
                turn = await self._apart(episode.step, text)
            stream.turns.append(turn)
            if turn.done or len(stream.mask) >= limit:
                break
            messages = [*messages, {"role": "assistant", "content": text}]
            await self._take_messages(stream, chat, messages, turn.messages)
            messages = [*messages, *turn.messages]
            if len(stream.mask) >= limit:
                break
        return self._output(episode, stream, metrics, limit)

    async def _take_reply(self, stream: _Stream, said: Any) -> None:
        logprobs = list(said.log_probs) if said.log_probs else None
        before = stream.logprobs if logprobs is not None else None
        merged, stream.mask, stream.logprobs = await self.ct_merge_assistant_token(
            stream.ids,
            list(said.token_ids),
            stream.mask,
            before,
            assistant_logprobs=logprobs if before is not None else None,
        )
        stream.ids = merged.token_ids
        known = {**stream.fields, **(said.extra_fields or {})}
        if "min_global_steps" in stream.fields:
            known["min_global_steps"] = stream.fields["min_global_steps"]
        stream.fields = known

    async def _take_messages(
        self, stream: _Stream, chat: TokenChat, before: list[Chat], new: list[Chat]
    ) -> None:
        stream.add(self._unwritten(chat, stream.ids[-1]))
        merged, stream.mask, stream.logprobs = await self.ct_merge_context_msg(
            before, [*before, *new], stream.ids, stream.mask, stream.logprobs
        )
        stream.ids = merged.token_ids

    def _unwritten(self, chat: TokenChat, last: int) -> list[int]:
        """What the template has behind a reply, and neither the policy nor verl has written."""
        if not chat.closing or chat.closing[0] not in chat.end_ids:
            return []
        generic = type(self.continuous_token_builder) is _builders.ContinuousTokenBuilder
        whole = chat.closing if generic else chat.closing[:1]
        return whole[1:] if last == whole[0] else whole

    def _reads_texts(self) -> bool:
        """Whether the server takes stop texts, for which it needs a tokenizer."""
        name = getattr(self.rollout_config, "name", None)
        blind = getattr(self.rollout_config, "skip_tokenizer_init", None)
        return bool(name == "vllm" or (name == "sglang" and not blind))

    def _output(
        self, episode: BridgedEpisode, stream: _Stream, metrics: dict[str, float], limit: int
    ) -> Any:
        record, prompt = episode.trajectory, len(stream.ids) - len(stream.mask)
        parts = {
            name: sum(turn.parts.get(name, 0.0) for turn in stream.turns)
            for name in (stream.turns[-1].parts if stream.turns else ())
        }
        told = {
            "turn_scores": [turn.reward for turn in stream.turns],
            "tool_rewards": [],
            "reward_extra_info": {
                "answered": float(record.terminated),
                "replies": float(len(stream.turns)),
            },
            COLUMN: {"task": record.task.id, "sample": record.sample, "parts": parts},
        }
        return _loops.AgentLoopOutput(
            prompt_ids=stream.ids[:prompt],
            response_ids=stream.ids[prompt:][:limit],
            response_mask=stream.mask[:limit],
            response_logprobs=stream.logprobs[:limit] if stream.logprobs else None,
            reward_score=sum(turn.reward for turn in stream.turns),
            num_turns=2 * len(stream.turns),
            metrics=_loops.AgentLoopMetrics(**metrics),
            extra_fields={**stream.fields, **told},
        )

    async def _apart(self, function: Any, *given: Any) -> Any:
        """Call in a thread: tools may take their time, and other episodes go on meanwhile."""
        return await self.loop.run_in_executor(None, function, *given)


@functools.lru_cache(maxsize=4)
def _chat(tokenizer: Any, template: str) -> TokenChat:
    """Made once for all episodes; it is asked for texts and for what the template writes only."""
    return TokenChat(tokenizer, template=json.loads(template))


def verl_rows(
    env: str, env_args: Mapping[str, Any] | None = None, *, split: str | None = None
) -> list[dict[str, Any]]:
    """Rows for verl's ``data.train_files`` and ``data.val_files``, a row for each task.

    Args:
        env: id of an environment.
        env_args: its keyword arguments; they must be JSON.
        split: tasks of this one only.

    Returns:
        ``prompt``, ``agent_name`` (this loop), ``data_source`` (the id, by which verl's validation
        groups), ``reward_model`` with the first gold answer, and ``extra_info``.

    Raises:
        UnknownNameError: no environment has that id.
        BadInputError: arguments that it does not take, or no task in the split.
    """
    return [
        {
            "prompt": [{"role": chat["role"], "content": chat["content"]} for chat in opening],
            "agent_name": NAME,
            "data_source": env,
            "reward_model": {"style": "rule", "ground_truth": next(iter(task.answers), "")},
            "extra_info": {"index": number, "split": task.split, COLUMN: place},
        }
        for number, (task, opening, place) in enumerate(task_rows(env, env_args, split))
    ]


def write_verl(path: str | Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as the Parquet file that verl reads.

    Args:
        path: that ends in ``.parquet``.
        rows: of `verl_rows`, perhaps of several environments.

    Returns:
        The path.
    """
    table = require_extra("pyarrow", "verl").Table.from_pylist(rows)
    require_extra("pyarrow.parquet", "verl").write_table(table, str(path))
    return Path(path)
