"""A recorded episode as chat messages to train on, in two styles.

``as_played``: the messages exactly as the policy read and wrote them, so that training equals
inference. ``native``: calls as ``tool_calls``, results as role ``tool``, for models whose chat
template knows tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import blake2b
from itertools import takewhile
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from toolgym._util.jsonl import dump_line
from toolgym._util.spool import Spool
from toolgym.errors import BadInputError, did_you_mean, explain
from toolgym.formats import Action, Format, get_format
from toolgym.formats.scan import without_think
from toolgym.grading.solving import turns
from toolgym.messages import Chat, Message, to_chats
from toolgym.registry import PROMPTS
from toolgym.trajectory import Step, Trajectory

__all__ = [
    "STYLES",
    "LearnAs",
    "conversation",
    "learned",
    "prefix_rows",
    "row_spool",
    "spooled",
    "style_of",
]

STYLES = ("auto", "as_played", "native")
# Formats whose calls are those of models with a tool-aware chat template.
_MESSAGES = "native"  # the format whose messages have calls as such, in rows as they were played
_NATIVE_FORMATS = ("hermes", "hermes-paper", "llama3")
_REASONING = re.compile(r"<think>.*?</think>", re.DOTALL)


def style_of(trajectory: Trajectory, style: str, learn_as: LearnAs | None = None) -> str:
    """The style that ``auto`` means for an episode: ``native`` for formats of tool-calling models.

    Args:
        trajectory: the episode.
        style: one of `STYLES`.
        learn_as: with another prompt, ``auto`` is ``as_played``.

    Raises:
        BadInputError: an unknown style; or another prompt in native rows, which hold none.
    """
    if learn_as is not None and style == "native":
        raise BadInputError(
            "native rows hold neither instructions nor worked examples, so that learn_as says "
            "nothing of them: leave it out, or take style 'as_played'"
        )
    if learn_as is not None and style == "auto":
        return "as_played"
    if style not in STYLES:
        raise BadInputError(
            f"style must be one of {', '.join(STYLES)}, not {style!r}"
            f"{did_you_mean(str(style), STYLES)}"
        )
    if style != "auto":
        return style
    return "native" if trajectory.format in _NATIVE_FORMATS else "as_played"


class LearnAs(BaseModel):
    """The prompt under which episodes are learned, where it is not the one of their practice.

    Args:
        prompt: the strategy whose instructions take the place of those that were played.
        examples: 0 leaves the worked examples out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str | None = None
    examples: Literal[0] | None = None

    @classmethod
    def read(cls, given: LearnAs | Mapping[str, Any] | None) -> LearnAs | None:
        """From plain data; None and an empty mapping change nothing.

        Raises:
            BadInputError: an unknown key, or a value that does not fit.
            UnknownNameError: there is no such strategy.
        """
        try:
            made = cls.model_validate({} if given is None else given)
        except ValidationError as error:
            raise BadInputError(f"learn_as: {explain(error, cls)}") from error
        if made.prompt is not None:
            PROMPTS.get(made.prompt)
        return made if made != cls() else None

    def __str__(self) -> str:
        said = self.model_dump(exclude_none=True)
        return ", ".join(f"{name}={value}" for name, value in said.items())


def learned(trajectory: Trajectory, learn_as: LearnAs | None) -> tuple[Trajectory, str]:
    """An episode with another opening; its replies stay as they were written.

    Args:
        trajectory: an episode.
        learn_as: the prompt that its opening is written in anew.

    Returns:
        The episode, and what was done to it. Where its opening is another one it has no tokens any
        more: those that were recorded belong to what was played. Else it is itself, and nothing
        was done.

    Raises:
        BadInputError: the prompt offers no tools, and the episode calls some.
        UnknownNameError: the episode's format, or the strategy, does not exist.
    """
    before, after = (
        trajectory.messages[: trajectory.opening],
        trajectory.messages[trajectory.opening :],
    )
    head = list(takewhile(lambda message: message.role == "system", before))
    if learn_as is None or not trajectory.steps or len(head) == len(before):
        return trajectory, ""
    shown, asked = before[len(head) : -1], before[-1]
    examples = trajectory.examples if learn_as.examples is None else 0
    if learn_as.prompt is not None:
        codec = get_format(trajectory.format, learn_as.prompt)
        if not codec.strategy.tools and any(step.calls for step in trajectory.steps):
            raise BadInputError(
                f"learn_as: prompt {learn_as.prompt!r} offers no tools, and episode "
                f"{trajectory.id!r} calls some: choose a prompt with tools, or filter first"
            )
        question = Message("user", trajectory.task.question)
        *head, asked = codec.render(trajectory.tools, [question])
    opening = [*head, *(shown if examples or not trajectory.examples else ()), asked]
    if opening == before:
        return trajectory, ""
    fewer = f" from examples={trajectory.examples}" if examples != trajectory.examples else ""
    note = f"re-rendered{fewer} to {learn_as}"
    made = replace(trajectory, messages=[*opening, *after], examples=examples, tokens=None)
    return made, note


def conversation(
    trajectory: Trajectory, style: str, reasoning: bool = True
) -> tuple[list[Chat], list[Chat], str | None]:
    """An episode as an opening, what followed, and the tools column.

    Args:
        trajectory: with at least one step.
        style: ``as_played`` or ``native``.
        reasoning: keep what the replies hold between marks such as ``<think>``.

    Returns:
        The opening's chat dicts; those from the first reply to the last one (what came after the
        last reply is left out: nothing is learned from it); and where there are native calls the
        function-calling documents as a JSON string, since Arrow would fill up their schemas with
        None.
    """
    if style == "as_played":
        cut = trajectory.opening
        chats = to_chats(trajectory.messages)
        opening, rest = chats[:cut], chats[cut:]
        # Native calls were played as such: whoever renders them has to know the tools, too.
        native = trajectory.format == _MESSAGES or any("tool_calls" in chat for chat in rest)
        tools = json.dumps(trajectory.tools, ensure_ascii=False) if native else None
    else:
        opening = [Message("user", trajectory.task.question).to_chat()]
        codec = get_format(trajectory.format)
        rest = to_chats([m for step in trajectory.steps for m in _native(step, trajectory, codec)])
        tools = json.dumps(trajectory.tools, ensure_ascii=False)
    while rest and rest[-1]["role"] != "assistant":
        rest.pop()
    if not reasoning:
        rest = [_without_reasoning(chat) if chat["role"] == "assistant" else chat for chat in rest]
    return opening, rest, tools


def _without_reasoning(chat: Chat) -> Chat:
    return {**chat, "content": without_think(chat["content"]).strip()}


def _native(step: Step, trajectory: Trajectory, codec: Format) -> list[Message]:
    """One turn and its results. A reply with neither call nor answer stays as it was written."""
    if step.calls:
        thought = _thought(step.action, trajectory, codec)
        answers = [
            Message("tool", result.seen, (), call.id, call.name)
            for call, result in zip(step.calls, step.results, strict=True)
        ]
        return [Message("assistant", thought, step.calls), *answers]
    if step.answer is not None:
        thought = _thought(step.action, trajectory, codec)
        said = get_format("hermes").write(Action(thought, (), step.answer))
        heard = [Message("user", step.observation)] if step.user is not None else []
        return [Message("assistant", said), *heard]
    complaint = [Message("user", step.observation)] if step.observation else []
    return [Message("assistant", step.action), *complaint]


def _thought(action: str, trajectory: Trajectory, codec: Format) -> str:
    """What stands before the calls or the answer, with the reasoning that formats pass over."""
    thought = codec.parse(action, trajectory.documents).thought
    if codec.native:
        return thought
    shown = without_think(action).strip()
    begin = action.rfind(shown) if shown else len(action)
    # Reasoning between visible words has no one place: then its blocks are put in front.
    before = action[:begin] if begin >= 0 else "\n".join(_REASONING.findall(action)) + "\n"
    # Formats whose thought is the reasoning itself have it already.
    return (before + thought if thought in shown else before).strip()


def prefix_rows(
    trajectories: Iterable[Trajectory],
    *,
    style: str = "auto",
    preset: str = "ours",
    reasoning: bool = True,
    learn_as: LearnAs | None = None,
    rows: Spool[dict[str, Any]] | None = None,
) -> tuple[Spool[dict[str, Any]], dict[str, int]]:
    """Rows of ``prompt`` (all before a turn) and ``completion`` (that turn), one for each turn.

    As prompts of reinforcement learning the completion is left out; as step-level fine-tuning it is
    what is learned, which asks for a choice by ``reward`` first. Each row says what was still open
    before its turn.

    Args:
        trajectories: of any environment; equal prefixes of one task give one row.
        style: see `toolgym.data.export.export`.
        preset: how calls solve sub-answers, ``ours`` or ``paper``.
        reasoning: see `toolgym.data.export.export`.
        learn_as: see `learned`.
        rows: an empty spool for them; None: a new one.

    Returns:
        Rows of ``id`` (``task#sample@turn``, turns counted from 0), ``prompt``, ``completion``,
        ``turn``, ``reward`` of the turn, ``answer``, in native style ``tools``; and where the task
        has sub-answers ``unsolved_set`` (JSON: tool to the sub-answers still open) and
        ``solve_rate`` (share solved before). And the number of episodes and turns that gave none.

    Raises:
        BadInputError: no row can be made.
    """
    rows = row_spool() if rows is None else rows
    seen: set[bytes] = set()
    count = silent = again = 0
    for trajectory in trajectories:
        count += 1
        if not trajectory.steps:
            silent += 1
            continue
        played, note = learned(trajectory, learn_as)
        chosen = style_of(trajectory, style, learn_as)
        for row in _rows(played, chosen, preset, reasoning):
            if note:
                row["learn_as"] = note
            text = json.dumps([row["prompt"], row["completion"]], sort_keys=True)
            key = blake2b(text.encode(), digest_size=16).digest()
            if key in seen:
                again += 1
            else:
                seen.add(key)
                rows.append(row)
    if not rows:
        raise BadInputError(f"no row can be made: {count} episodes, {silent} without a reply")
    dropped = {"no reply": silent, "the same prefix and turn again": again}
    return rows, {reason: count for reason, count in dropped.items() if count}


def row_spool() -> Spool[dict[str, Any]]:
    """Where training rows are kept: on disk when they are many."""
    return Spool(dump_line, json.loads)


def spooled(rows: Iterable[dict[str, Any]]) -> Spool[dict[str, Any]]:
    """Rows in such a place."""
    found = row_spool()
    for row in rows:
        found.append(row)
    return found


def _rows(trajectory: Trajectory, style: str, preset: str, reasoning: bool) -> list[dict[str, Any]]:
    opening, rest, tools = conversation(trajectory, style, reasoning)
    places = [place for place, chat in enumerate(rest) if chat["role"] == "assistant"]
    entries = trajectory.task.sub_answers
    played = turns(trajectory.task, trajectory.steps, preset) if entries else []
    rows = []
    for number, (place, step) in enumerate(zip(places, trajectory.steps, strict=True)):
        row: dict[str, Any] = {
            "id": f"{trajectory.id}@{number}",
            "prompt": opening + rest[:place],
            "completion": [rest[place]],
            "turn": number,
            "reward": step.reward,
            "answer": trajectory.task.target,
        }
        if entries:
            still_open = played[number].open
            unsolved: dict[str, list[str]] = {}
            for entry in still_open:
                unsolved.setdefault(entry.tool, []).append(entry.answer)
            row["unsolved_set"] = json.dumps(unsolved, ensure_ascii=False)
            row["solve_rate"] = 1 - len(still_open) / len(entries)
        rows.append(row if tools is None else {**row, "tools": tools})
    return rows
