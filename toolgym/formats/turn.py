"""An assistant's turn as the environment reads it: what its text says, and what text cannot say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from toolgym._util.jsonl import not_json
from toolgym.formats.base import Action, Format
from toolgym.formats.calls import REPAIRED
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem

__all__ = ["Begun", "Turn", "begin_turn"]


class Turn(str):
    """An action that says more than its text; it passes through wrappers as any string does.

    Args:
        text: the reply, as the record keeps it.
        said: what it says, where that came as a message with native calls; None: read the text.
        cut: the reply ended at the limit of its length, in the middle.
        written: tokens that the policy wrote for it, where it says them.
    """

    said: Action | None
    cut: bool
    written: int | None

    def __new__(
        cls,
        text: str,
        said: Action | None = None,
        cut: bool = False,
        written: int | None = None,
    ) -> Turn:
        """Make one."""
        turn = super().__new__(cls, text)
        turn.said, turn.cut, turn.written = said, cut, written
        return turn


@dataclass(slots=True)
class Begun:
    """A step between its halves: the reply, and what it says.

    Args:
        action: the reply, as the record keeps it.
        parsed: what it says, its calls numbered through the episode.
        native: its calls under the ids that came with them, where they came as such.
        cut: the reply ended at the limit of its length.
        refused: whether its calls may not be made.
        allowed: how many of its calls may be made; None: all.
        why: no more of them are.
        tokens: that it counts in a budget of tokens.
        estimated: whether that number is an estimate.
    """

    action: str
    parsed: Action
    native: tuple[ToolCall, ...] = ()
    cut: bool = False
    refused: bool = False
    allowed: int | None = None
    why: str = ""
    tokens: int = 0
    estimated: bool = False

    @property
    def made(self) -> list[ToolCall]:
        """Its calls that are made."""
        return [] if self.refused else list(self.parsed.calls[: self.allowed])

    def messages(
        self, results: Sequence[ToolResult], codec: Format, tools: Sequence[Schema], limit: int
    ) -> list[Message]:
        """The reply as a message, and what the policy reads next; nothing after an answer.

        Args:
            results: one for each call.
            codec: writes them.
            tools: function-calling documents.
            limit: characters of the reply that the policy reads again.
        """
        written = self.parsed.thought if self.native else self.action
        said, parsed = Message("assistant", written[:limit], self.native), self.parsed
        if parsed.answer is not None:
            return [said]
        if not parsed.calls:
            return [said, codec.complaint(parsed.problems)]
        if self.native:
            both = zip(self.native, results, strict=True)
            told = [Message("tool", r.seen, (), call.id, call.name) for call, r in both]
        else:
            seen = [replace(r, content=r.seen, shown=None) if r.shown else r for r in results]
            told = codec.results(parsed.calls, seen, tools)
        if parsed.problems:
            note = "; ".join(problem.message for problem in parsed.problems)
            told[-1] = replace(told[-1], content=f"{told[-1].content}\nNote: {note}.")
        return [said, *told]


def begin_turn(
    action: str, codec: Format, tools: Sequence[Schema], limit: int, first: int, refused: bool
) -> Begun:
    """Read a reply, without what a record cannot hold and what a cut leaves in doubt.

    Args:
        action: the reply, perhaps a `Turn`.
        codec: reads its text.
        tools: function-calling documents.
        limit: characters that are read.
        first: number of its first call in the episode.
        refused: whether tools may no longer be called.
    """
    said, cut = (action.said, action.cut) if isinstance(action, Turn) else (None, False)
    read = _cut_short(said) if said is not None and cut else said
    if read is None:
        # Codecs of others may not know of cuts.
        shown = action[:limit]
        read = codec.parse(shown, tools, cut=True) if cut else codec.parse(shown, tools)
    if len(action) > limit:
        text = f"it has {len(action):,} characters; only the first {limit:,} count"
        read = replace(read, problems=(Problem("too_long", text), *read.problems))
    if read.calls:
        read = _holdable(read)
    if read.calls and refused and said is None:
        read = codec.without_calls(read, action[:limit])
    if not read.calls:
        return Begun(str(action), read, cut=cut)
    ids = [f"call_{number}" for number in range(first, first + len(read.calls))]
    if said is None and [call.id for call in read.calls] == ids:
        return Begun(str(action), read, read.calls if codec.native else (), cut, refused)
    both = zip(ids, read.calls, strict=True)
    calls = [ToolCall(number, call.name, call.arguments) for number, call in both]
    native: tuple[ToolCall, ...] = tuple(calls) if codec.native else ()
    if said is not None:
        own = zip(calls, [call.id for call in read.calls], strict=True)
        native = tuple(ToolCall(given or c.id, c.name, c.arguments) for c, given in own)
    parsed = Action(read.thought, tuple(calls), read.answer, read.problems)
    return Begun(str(action), parsed, native, cut, refused)


def _holdable(read: Action) -> Action:
    """Without the calls whose arguments JSON cannot hold: tools and records speak JSON."""
    wrong = [not_json(call.arguments) for call in read.calls]
    if wrong.count("") == len(wrong):
        return read
    problems = [
        Problem("bad_json", f"tool call {number} is not valid JSON (its argument {why})"[:300])
        for number, why in enumerate(wrong, 1)
        if why
    ]
    kept = tuple(call for call, why in zip(read.calls, wrong, strict=True) if not why)
    return replace(read, calls=kept, problems=(*read.problems, *problems))


def _cut_short(read: Action) -> Action:
    """What native calls that were cut say for sure: none that had to be repaired."""
    doubtful = any(problem.kind == REPAIRED for problem in read.problems)
    problem = Problem("cut_reply", "it was cut at the limit of its length: write less")
    calls = () if doubtful else read.calls
    return replace(read, calls=calls, problems=(*read.problems, problem))
