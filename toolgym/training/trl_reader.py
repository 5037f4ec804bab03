"""Replies and results of a native conversation as steps, and its answer."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolgym._util.jsonl import not_json
from toolgym.env import ToolEnv
from toolgym.formats import Action, get_format
from toolgym.formats.base import argument_name
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.tools.base import Schema
from toolgym.trajectory import MALFORMED_CALLS, Problem, Step

__all__ = ["NATIVE", "Chats", "Made", "Reader", "tool_turns"]

NATIVE = ("hermes", "llama3")
"""Formats of models whose chat template knows tools; both read an answer alike."""

Chats = Sequence[Mapping[str, Any]]


def tool_turns(env: ToolEnv) -> int:
    """In how many turns tools are called at most, so that one turn is left for the answer."""
    allowed = env.format.strategy.tool_turns
    return env.max_steps - 1 if allowed is None else min(env.max_steps - 1, allowed)


@dataclass(frozen=True, slots=True)
class Made:
    """A call that reached the tools, and the sessions' state after it."""

    name: str
    arguments: dict[str, Any]
    result: ToolResult
    seconds: float
    state: Any = None


@dataclass
class _Turn:
    """A reply and the texts of its results by tool."""

    reply: Mapping[str, Any]
    told: list[tuple[str, str]]


class Reader:
    """Turns of a conversation as steps.

    Args:
        env: whose format reads the answer.
        schemas: of the tools.
        made: the calls that reached them, in order.
        state: of the sessions at the beginning; None without any.
    """

    def __init__(
        self, env: ToolEnv, schemas: list[Schema], made: Sequence[Made], state: Any = None
    ) -> None:
        self._env, self._schemas, self._made = env, schemas, deque(made)
        self.state = state
        self._names = {schema["function"]["name"] for schema in schemas}
        self._count = 0
        self.messages: list[Message] = []

    def steps(self, completion: Chats) -> Iterator[Step]:
        """One for each reply, up to the end that the environment sets."""
        left, turns = tool_turns(self._env), list(_turns(completion))
        for place, turn in enumerate(turns, 1):
            calls, text = self._calls(turn.reply), _text(turn.reply)
            self.messages.append(Message("assistant", text, calls))
            if not calls:
                yield self._remembered(self._last(text), self.state)
                return
            written = self._env.format.write(Action(text, calls), self._schemas)
            # Results that found no room are missing from the last turn only; calls without any
            # in an earlier one were never made.
            made = turn.told or (self._made and place == len(turns))
            if left == 0 or not made:
                note = Problem("not_executed", "the episode ended before its calls")
                yield self._remembered(Step(action=written, problems=(note,)), self.state)
                return
            left -= 1
            yield self._executed(written, calls, turn)

    def _calls(self, reply: Mapping[str, Any]) -> tuple[ToolCall, ...]:
        calls = []
        for item in reply.get("tool_calls") or ():
            function = item.get("function", item)
            arguments = function.get("arguments")
            name = str(function.get("name"))
            if not isinstance(arguments, Mapping) or not_json(dict(arguments)):
                arguments = {argument_name(name, self._schemas): str(arguments)}
            calls.append(ToolCall(f"call_{self._count}", name, dict(arguments)))
            self._count += 1
        return tuple(calls)

    def _executed(self, written: str, calls: tuple[ToolCall, ...], turn: _Turn) -> Step:
        texts: defaultdict[str, deque[str]] = defaultdict(deque)
        for name, text in turn.told:
            texts[name].append(text)
        results, seconds, state = [], 0.0, self.state
        for call in calls:
            text = texts[call.name].popleft() if texts[call.name] else ""
            if turn.told:
                self.messages.append(Message("tool", text, (), call.id, call.name))
            made = self._made[0] if self._made else None
            if made is not None and (made.name, made.arguments) == (call.name, call.arguments):
                self._made.popleft()
                found, seconds, state = made.result, seconds + made.seconds, made.state
                results.append(replace(found, call_id=call.id))
            else:
                results.append(ToolResult(call.id, text, self._refusal(call.name, text)))
        step = Step(
            action=written,
            calls=calls,
            results=tuple(results),
            observation="\n\n".join(text for _, text in turn.told),
            seconds=round(seconds, 6),
        )
        return self._remembered(step, state)

    def _remembered(self, step: Step, state: Any) -> Step:
        if self.state is not None:
            step.remember(self.state, state)
            self.state = state
        return step

    def _refusal(self, name: str, text: str) -> str | None:
        """Why a call did not reach our tools; None: it reached a tool of the user's own."""
        if name in self._names:
            return "invalid_arguments"
        if text == str({"error": f"Tool {name} not found."}) or not text:
            return "unknown_tool"
        return "tool_error" if text.startswith("{'error':") else None

    def _last(self, text: str) -> Step:
        limit = self._env.max_reply_chars
        read = text[:limit]
        if self._env.format.strategy.tools:
            unread = self._unread(read)
            if unread:
                return Step(action=text, problems=unread)
        parsed = self._env.format.parse(read, self._schemas)
        return Step(action=text, problems=parsed.problems, answer=parsed.answer)

    def _unread(self, text: str) -> tuple[Problem, ...]:
        """What is wrong with calls that the chat template could not read; it leaves them as text.

        Without this a broken call would count as the answer, with all that it holds.
        """
        own = self._env.format.name
        for name in NATIVE:
            if name != own and not any(tool in text for tool in self._names):
                continue  # any JSON object with a name looks like a call to the other format
            parsed = get_format(name).parse(text, self._schemas)
            problems = tuple(p for p in parsed.problems if p.kind in MALFORMED_CALLS)
            if parsed.calls and not problems:
                problems = (Problem("bad_json", "the chat template could not read its call"),)
            if problems:
                return problems
        return ()


def _turns(completion: Chats) -> Iterator[_Turn]:
    turn: _Turn | None = None
    for message in completion:
        if message.get("role") == "tool":
            if turn is not None:
                turn.told.append((str(message.get("name")), str(message.get("content"))))
            continue
        if turn is not None:
            yield turn
        turn = _Turn(message, [])
    if turn is not None:
        yield turn


def _text(reply: Mapping[str, Any]) -> str:
    """A reply as it was written, its reasoning included."""
    content = str(reply.get("content") or "")
    thought = reply.get("reasoning_content") or reply.get("thinking")
    return f"<think>\n{thought}\n</think>\n\n{content}" if thought else content
