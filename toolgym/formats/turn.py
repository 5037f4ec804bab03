"""An assistant's turn as the environment reads it: what its text says, and what text cannot say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from toolgym._util.jsonl import not_json
from toolgym.formats.base import Action, Format
from toolgym.formats.json_calls import REPAIRED
from toolgym.tools.toolset import Schema
from toolgym.trajectory import Problem

__all__ = ["Turn", "read_turn"]


class Turn(str):
    """An action that says more than its text; it passes through wrappers as any string does.

    Args:
        text: the reply, as the record keeps it.
        said: what it says, where that came as a message with native calls; None: read the text.
        cut: the reply ended at the limit of its length, in the middle.
    """

    said: Action | None
    cut: bool

    def __new__(cls, text: str, said: Action | None = None, cut: bool = False) -> Turn:
        """Make one."""
        turn = super().__new__(cls, text)
        turn.said, turn.cut = said, cut
        return turn


def read_turn(action: str, codec: Format, tools: Sequence[Schema], limit: int) -> Action:
    """What a reply says, without what a record cannot hold and what a cut leaves in doubt.

    Args:
        action: the reply, perhaps a `Turn`.
        codec: reads its text.
        tools: function-calling documents.
        limit: characters that are read.
    """
    said, cut = (action.said, action.cut) if isinstance(action, Turn) else (None, False)
    read = codec.parse(action[:limit], tools) if said is None else said
    if len(action) > limit:
        text = f"it has {len(action):,} characters; only the first {limit:,} count"
        read = replace(read, problems=(Problem("too_long", text), *read.problems))
    if read.calls:
        read = _holdable(read)
    return _cut_short(read) if cut else read


def _holdable(read: Action) -> Action:
    """Without the calls whose arguments JSON cannot hold: tools and records speak JSON."""
    wrong = [not_json(call.arguments) for call in read.calls]
    if not any(wrong):
        return read
    problems = [
        Problem("bad_json", f"tool call {number} is not valid JSON (its argument {why})"[:300])
        for number, why in enumerate(wrong, 1)
        if why
    ]
    kept = tuple(call for call, why in zip(read.calls, wrong, strict=True) if not why)
    return replace(read, calls=kept, problems=(*read.problems, *problems))


def _cut_short(read: Action) -> Action:
    """What a reply that was cut says for sure: no answer, and no call that had to be completed."""
    doubtful = any(problem.kind == REPAIRED for problem in read.problems)
    problem = Problem("cut_reply", "it was cut at the limit of its length before it ended")
    calls = () if doubtful else read.calls
    return replace(read, calls=calls, answer=None, problems=(problem, *read.problems))
