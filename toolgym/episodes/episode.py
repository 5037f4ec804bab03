"""One episode while it is played: its record, its tools and what they remember, its user."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from toolgym._util.jsonl import copy_json
from toolgym.episodes.users import User, UserTurn
from toolgym.errors import BadInputError
from toolgym.formats import Format
from toolgym.formats.turn import Begun
from toolgym.messages import Message, ToolCall, ToolResult, to_chats
from toolgym.tools.base import Schema
from toolgym.tools.toolset import Toolset
from toolgym.trajectory import Step, Trajectory

__all__ = ["Episode", "Moment"]

Info = dict[str, Any]
Moment = tuple["Episode", dict[str, Any]]
"""An episode as it was, and what its sessions need to go on from there."""


class Episode:
    """What one episode holds.

    Args:
        record: with its task, and nothing played.
        tools: opened for this episode, those of the user among them.
        hidden: names of tools that the policy may not call yet.
        user: who speaks after its answers, or None.

    Raises:
        BadInputError: the state of a session is not JSON.
    """

    def __init__(
        self, record: Trajectory, tools: Toolset, hidden: Sequence[str], user: User | None
    ) -> None:
        self.record, self.every, self.user = record, tools, user
        self._hidden = frozenset(hidden)
        self.tools = tools.without(self._hidden)
        # What the policy is told is not what parses and records: it may change its documents.
        self.schemas, self.told = self.tools.schemas(), self.tools.schemas()
        self.begun: Begun | None = None
        self.tool_turns = self.call_count = self.tokens = 0
        record.state = tools.state()

    def add(
        self, begun: Begun, results: Sequence[ToolResult], seconds: float, codec: Format, limit: int
    ) -> Step:
        """Record a turn of the policy, ask the user, and look at what the sessions remember.

        Args:
            begun: the turn.
            results: one for each of its calls.
            seconds: that the tools took.
            codec: writes what is read next.
            limit: characters of the reply that the policy reads again.

        Raises:
            BadInputError: the state of a session is not JSON, or the user names no hidden tool.
        """
        record, parsed = self.record, begun.parsed
        self.tool_turns += bool(parsed.calls)
        self.call_count += len(parsed.calls)
        if begun.tokens:
            self.tokens += begun.tokens
            record.metrics["tokens_written"] = float(self.tokens)
        if begun.estimated:
            before_it = record.metrics.get("tokens_estimated", 0.0)
            record.metrics["tokens_estimated"] = before_it + begun.tokens
        before = len(record.messages)
        record.messages += begun.messages(results, codec, self.schemas, limit)
        step = Step(
            action=begun.action,
            calls=parsed.calls,
            results=tuple(results),
            problems=parsed.problems,
            answer=parsed.answer,
            seconds=round(sum([result.added_seconds for result in results], seconds), 6),
            cut=begun.cut,
        )
        record.steps.append(step)
        record.terminated = parsed.answer is not None
        if record.terminated and self.user is not None:
            self._ask(self.user, step)
        if record.state is not None:
            # Nothing but a call changes what is remembered.
            called = step.calls or step.user_calls
            after = self.every.state() if called else record.state
            step.remember(record.state, after)
            record.state = after
        step.observation = "\n\n".join([m.content for m in record.messages[before + 1 :]])
        return step

    def _ask(self, user: User, step: Step) -> None:
        """The user's turn, where he has more to say: then the answer does not end the episode."""
        said = user.reply(self.record)
        if said is None:
            return
        turn = said if isinstance(said, UserTurn) else UserTurn(said)
        self.record.terminated = False
        step.user, text = turn.text, turn.text
        if turn.tools:
            step.appeared = tuple(self._appear(turn.tools))
            lines = [json.dumps(document["function"]) for document in step.appeared]
            text = "\n".join([text, "Tools that can be called from now on:", *lines])
        if turn.calls:
            numbered = [
                ToolCall(f"user_{n}", c.name, c.arguments)
                for n, c in enumerate(turn.calls, sum(len(s.user_calls) for s in self.record.steps))
            ]
            step.user_calls = tuple(numbered)
            episodes = [self.record.id] * len(numbered)
            step.user_results = tuple(self.every.execute(numbered, episodes))
        self.record.messages.append(Message("user", text))

    def _appear(self, names: Sequence[str]) -> list[Schema]:
        for name in names:
            if name not in self._hidden:
                raise BadInputError(f"the user shows tool {name!r}, which is not a hidden one")
        self._hidden -= set(names)
        self.tools = self.every.without(self._hidden)
        found = [s for s in self.tools.schemas() if s["function"]["name"] in names]
        self.schemas = [*self.schemas, *found]
        self.told = [*self.told, *copy_json(found)]
        return found

    def info(self) -> Info:
        """What stands beside an observation."""
        record = self.record
        info: Info = {
            "messages": to_chats(record.messages),
            "tools": self.told,
            "task_id": record.task.id,
            "step": len(record.steps),
        } | ({"examples": record.examples} if record.examples else {})
        for step in record.steps[-1:]:
            info["problems"] = [problem.kind for problem in step.problems]
            info["tool_errors"] = [result.error or "" for result in step.results]
            info |= {f"reward/{name}": value for name, value in step.reward_parts.items()}
        return info

    def moment(self, ended: bool) -> Moment:
        """This moment, for `at`; it is not touched by what happens from here on.

        Args:
            ended: the episode has ended, and its sessions with it.

        Raises:
            BadInputError: a session cannot be copied.
        """
        return self._copied(self.every), {} if ended else self.every.snapshot()

    @staticmethod
    def at(moment: Moment, tools: Toolset) -> Episode:
        """An episode that goes on from a moment.

        Args:
            moment: of `moment`; it can be used again.
            tools: opened for the task of that episode, and not used by another one; not opened
                where the episode had ended.
        """
        held, sessions = moment
        tools.restore(sessions)
        return held._copied(tools)

    def _copied(self, tools: Toolset) -> Episode:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.record, twin.every, twin.tools = self.record.copy(), tools, tools.without(self._hidden)
        twin.user, twin.begun = copy.deepcopy(self.user), copy.deepcopy(self.begun)
        twin.told = copy_json(self.told)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """All but the tools, which the process that reads it has its own of."""
        return {**self.__dict__, "every": Toolset(), "tools": Toolset()}
