"""Every prefix of an episode as one training example (arXiv 2508.08791, trajectory data)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from toolgym.data.chat import conversation, style_of
from toolgym.errors import BadInputError
from toolgym.grading.solving import sub_answers, turns
from toolgym.trajectory import Trajectory

__all__ = ["prefix_rows"]


def prefix_rows(
    trajectories: Sequence[Trajectory], *, style: str = "auto", preset: str = "ours"
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows of ``prompt`` (all before a turn) and ``completion`` (that turn), one for each turn.

    As prompts of reinforcement learning the completion is left out; as step-level fine-tuning it is
    what is learned, which asks for a choice by ``reward`` first. Each row says what was still open
    before its turn.

    Args:
        trajectories: of any environment; equal prefixes of one task give one row.
        style: see `toolgym.data.export.export`.
        preset: how calls solve sub-answers, ``ours`` or ``paper``.

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
    silent = again = 0
    for trajectory in trajectories:
        if not trajectory.steps:
            silent += 1
            continue
        made = _rows(trajectory, style_of(trajectory, style), preset)
        for row in made:
            key = json.dumps([row["prompt"], row["completion"]], sort_keys=True)
            if key in seen:
                again += 1
            else:
                seen.add(key)
                rows.append(row)
    if not rows:
        raise BadInputError(
            f"no row can be made: {len(trajectories)} episodes, {silent} without a reply"
        )
    dropped = {"no reply": silent, "the same prefix and turn again": again}
    return rows, {reason: count for reason, count in dropped.items() if count}


def _rows(trajectory: Trajectory, style: str, preset: str) -> list[dict[str, Any]]:
    opening, rest, tools = conversation(trajectory, style)
    places = [place for place, chat in enumerate(rest) if chat["role"] == "assistant"]
    entries = sub_answers(trajectory.task)
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
