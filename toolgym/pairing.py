"""Preference pairs: a right episode that used tools well against a wrong one that used none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from toolgym.conversations import conversation, opening_length, style_of
from toolgym.errors import BadInputError, near
from toolgym.messages import Chat
from toolgym.trajectory import Trajectory

__all__ = ["PAIRINGS", "make_pairs"]

PAIRINGS = ("first_turn", "whole", "no_tool_request")


def make_pairs(
    trajectories: Sequence[Trajectory],
    right: Callable[[Trajectory], bool],
    *,
    style: str,
    pairing: str,
    per_task: int | None,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The pairs of arXiv 2502.05867 (Filtering).

    Chosen: right, called a tool, and no result is an error. Rejected: wrong, of the same question,
    and without any call. The paper looks for the word "Error" in results; here the recorded kind
    of failure decides, so that a document about errors is none.

    Args:
        trajectories: right and wrong ones.
        right: tells them apart.
        style: see `toolgym.conversations`.
        pairing: ``first_turn`` keeps the first assistant turn only, ``whole`` all after the
            question, ``no_tool_request`` is ``whole`` where chosen need not use tools.
        per_task: most pairs of one question; None = as many as both sides have.

    Returns:
        Rows of ``prompt``, ``chosen``, ``rejected`` (and ``tools``), and the number of questions
        that gave no pair, by the first condition that nothing met.

    Raises:
        BadInputError: an unknown pairing, or no pair at all; the message says which condition
            removed how many questions.
    """
    if pairing not in PAIRINGS:
        raise BadInputError(
            f"pairing must be one of {', '.join(PAIRINGS)}, not {pairing!r}"
            f"{near(str(pairing), PAIRINGS)}"
        )
    groups: dict[tuple[str, str], list[Trajectory]] = {}
    for trajectory in trajectories:
        key = trajectory.task.id, trajectory.task.question
        groups.setdefault(key, []).append(trajectory)
    rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for group in groups.values():
        chosen, rejected, missing = _sides(group, right, pairing)
        made = [] if missing else _rows(chosen, rejected, style, pairing)[:per_task]
        if not made:
            dropped[missing or "chosen and rejected read the same"] += 1
        rows += made
    if not rows:
        reasons = "; ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise BadInputError(
            f"no pair can be made from {len(groups)} questions: {reasons or 'there are none'}; "
            "record more samples per task, or export the run together with one without tools "
            "(prompt no_tool) over the same questions"
        )
    return rows, dict(dropped)


def _sides(
    group: list[Trajectory], right: Callable[[Trajectory], bool], pairing: str
) -> tuple[list[Trajectory], list[Trajectory], str]:
    """Candidates for both sides, and what is missing (empty when nothing is)."""
    chosen = [trajectory for trajectory in group if right(trajectory)]
    if not chosen:
        return [], [], "without a right episode"
    if pairing != "no_tool_request":
        chosen = [trajectory for trajectory in chosen if _calls(trajectory)]
        if not chosen:
            return [], [], "whose right episodes used no tool"
    chosen = [t for t in chosen if all(result.error is None for _, result in t.calls)]
    if not chosen:
        return [], [], "whose right episodes met a tool error"
    wrong = [trajectory for trajectory in group if not right(trajectory)]
    if not wrong:
        return [], [], "without a wrong episode"
    rejected = [trajectory for trajectory in wrong if not _calls(trajectory)]
    return chosen, rejected, "" if rejected else "whose wrong episodes all called a tool"


def _calls(trajectory: Trajectory) -> bool:
    return any(True for _ in trajectory.calls)


def _rows(
    chosen: list[Trajectory], rejected: list[Trajectory], style: str, pairing: str
) -> list[dict[str, Any]]:
    good, bad = _distinct(chosen, style, pairing), _distinct(rejected, style, pairing)
    rows = []
    for (one, opening, better, tools), (_, _, worse, _) in zip(good, bad, strict=False):
        if better == worse:
            continue
        row: dict[str, Any] = {"id": one.id, "prompt": opening, "chosen": better, "rejected": worse}
        rows.append(row if tools is None else {**row, "tools": tools})
    return rows


def _distinct(
    trajectories: list[Trajectory], style: str, pairing: str
) -> list[tuple[Trajectory, list[Chat], list[Chat], str | None]]:
    """The side's episodes as messages, each text once."""
    found: dict[str, tuple[Trajectory, list[Chat], list[Chat], str | None]] = {}
    for trajectory in trajectories:
        if opening_length(trajectory) == len(trajectory.messages):
            continue
        opening, rest, tools = conversation(trajectory, style_of(trajectory, style))
        kept = rest[:1] if pairing == "first_turn" else rest
        found.setdefault(json.dumps(kept, sort_keys=True), (trajectory, opening, kept, tools))
    return list(found.values())
