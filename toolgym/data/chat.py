"""A recorded episode as chat messages to train on, in two styles.

``as_played``: the messages exactly as the policy read and wrote them, so that training equals
inference. ``native``: calls as ``tool_calls``, results as role ``tool``, for models whose chat
template knows tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from toolgym.errors import BadInputError, did_you_mean
from toolgym.formats import Action, Format, get_format
from toolgym.formats.scan import without_think
from toolgym.grading.solving import turns
from toolgym.messages import Chat, Message, to_chats
from toolgym.trajectory import Step, Trajectory

__all__ = ["STYLES", "conversation", "opening_length", "prefix_rows", "style_of"]

STYLES = ("auto", "as_played", "native")
# Formats whose calls are those of models with a tool-aware chat template.
_NATIVE_FORMATS = ("hermes", "hermes-paper", "llama3")
_REASONING = re.compile(r"<think>.*?</think>", re.DOTALL)


def style_of(trajectory: Trajectory, style: str) -> str:
    """The style that ``auto`` means for an episode: ``native`` for formats of tool-calling models.

    Raises:
        BadInputError: an unknown style.
    """
    if style not in STYLES:
        raise BadInputError(
            f"style must be one of {', '.join(STYLES)}, not {style!r}"
            f"{did_you_mean(str(style), STYLES)}"
        )
    if style != "auto":
        return style
    return "native" if trajectory.format in _NATIVE_FORMATS else "as_played"


def opening_length(trajectory: Trajectory) -> int:
    """How many messages stand before the first reply."""
    roles = [message.role for message in trajectory.messages]
    return roles.index("assistant") if "assistant" in roles else len(roles)


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
        cut = opening_length(trajectory)
        chats = to_chats(trajectory.messages)
        opening, rest = chats[:cut], chats[cut:]
        # Native calls were played as such: whoever renders them has to know the tools, too.
        native = any("tool_calls" in chat for chat in rest)
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
        return [Message("assistant", get_format("hermes").write(Action(thought, (), step.answer)))]
    complaint = [Message("user", step.observation)] if step.observation else []
    return [Message("assistant", step.action), *complaint]


def _thought(action: str, trajectory: Trajectory, codec: Format) -> str:
    """What stands before the calls or the answer, with the reasoning that formats pass over."""
    thought = codec.parse(action, trajectory.tools).thought
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
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows of ``prompt`` (all before a turn) and ``completion`` (that turn), one for each turn.

    As prompts of reinforcement learning the completion is left out; as step-level fine-tuning it is
    what is learned, which asks for a choice by ``reward`` first. Each row says what was still open
    before its turn.

    Args:
        trajectories: of any environment; equal prefixes of one task give one row.
        style: see `toolgym.data.export.export`.
        preset: how calls solve sub-answers, ``ours`` or ``paper``.
        reasoning: see `toolgym.data.export.export`.

    Returns:
        Rows of ``id`` (``task#sample@turn``, turns counted from 0), ``prompt``, ``completion``,
        ``turn``, ``reward`` of the turn, ``answer``, in native style ``tools``; and where the task
        has sub-answers ``unsolved_set`` (JSON: tool to the sub-answers still open) and
        ``solve_rate`` (share solved before). And the number of episodes and turns that gave none.

    Raises:
        BadInputError: no row can be made.
    """
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    count = silent = again = 0
    for trajectory in trajectories:
        count += 1
        if not trajectory.steps:
            silent += 1
            continue
        made = _rows(trajectory, style_of(trajectory, style), preset, reasoning)
        for row in made:
            key = json.dumps([row["prompt"], row["completion"]], sort_keys=True)
            if key in seen:
                again += 1
            else:
                seen.add(key)
                rows.append(row)
    if not rows:
        raise BadInputError(f"no row can be made: {count} episodes, {silent} without a reply")
    dropped = {"no reply": silent, "the same prefix and turn again": again}
    return rows, {reason: count for reason, count in dropped.items() if count}


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
