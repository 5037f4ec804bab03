"""What a format is: a codec that renders a conversation and parses a reply."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from toolgym._util.jsonl import copy_json
from toolgym.errors import BadInputError
from toolgym.formats.strategies import Strategy
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.registry import FORMATS, PROMPTS
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem

__all__ = ["MAX_CALLS", "Action", "Format", "argument_name", "call_schema", "get_format"]

MAX_CALLS = 64
"""Calls of one reply that are made; more are a problem."""
MARK = "\ue000"
"""Private use: stands for a text whose surroundings are wanted."""
NO_TEXT = ("", "null", "None")
"""What stands for no argument at all."""


@dataclass(frozen=True, slots=True)
class Action:
    """A reply, understood.

    Args:
        thought: reasoning before the call or answer; may be empty.
        calls: tool calls to execute, in order.
        answer: the final answer, or None. With calls in the same reply it is None.
        problems: what was wrong with the reply.
    """

    thought: str = ""
    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None
    problems: tuple[Problem, ...] = ()


class Format(ABC):
    """A codec. ``parse`` never raises and takes linear time; what is wrong is a `Problem`.

    Args:
        strategy: what the instructions ask for.
    """

    name: ClassVar[str]
    stop: ClassVar[tuple[str, ...]] = ()
    """Texts after which a policy should stop writing."""
    stop_closes: ClassVar[bool] = True
    """Whether a stop text may close what a reply says, as a closing tag does: it is kept then."""
    native: ClassVar[bool] = False
    """Whether calls stand in messages as ``tool_calls``, and the tools beside the conversation."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self._written: tuple[Strategy, list[Schema], str] | None = None

    def render(self, tools: Sequence[Schema], messages: Sequence[Message]) -> list[Message]:
        """The opening of a conversation with this format's instructions put in front.

        Args:
            tools: function-calling documents; shown unless the strategy offers no tools.
            messages: the opening, usually one user message with the question.
        """
        if not self.strategy.instructions:
            return [self.question(message) for message in messages]
        system = self._system(list(tools) if self.strategy.tools else [])
        return [Message("system", system), *(self.question(message) for message in messages)]

    def _system(self, tools: list[Schema]) -> str:
        # Every episode begins with these instructions, and they seldom change.
        written = self._written
        if written is None or written[0] is not self.strategy or written[1] != tools:
            written = self.strategy, copy_json(tools), self.instructions(tools)
            self._written = written
        return written[2]

    def question(self, message: Message) -> Message:
        """How the question stands in the first user message."""
        return Message(message.role, f"Question: {message.content}")

    @abstractmethod
    def instructions(self, tools: Sequence[Schema]) -> str:
        """The system text."""

    @abstractmethod
    def parse(self, text: str, tools: Sequence[Schema] = (), *, cut: bool = False) -> Action:
        """Read a reply.

        Args:
            text: exactly what the policy wrote.
            tools: function-calling documents; a call with one bare text is bound to the tool's
                first parameter (without documents: to ``input``).
            cut: the reply ended at a limit of its length (``finish_reason="length"``): calls that
                are whole are made, what looks like an answer is none.
        """

    def without_calls(self, action: Action, text: str) -> Action:
        """A reply of a turn in which tools may no longer be called.

        Args:
            action: what `parse` read; its calls are refused, unless a format drops them here.
            text: the reply.
        """
        return action

    def grammar(
        self, tools: Sequence[Schema], *, calls: bool = True, answer: bool = True
    ) -> str | None:
        """What a policy may write in practice, as a grammar; None: the format has none.

        The dialect is the Lark syntax of llguidance, which vLLM's ``guidance`` backend takes as it
        is; see `toolgym.formats.grammar`. `parse` finds no problem in a reply of the grammar, and
        the arguments of its calls are valid under the tools' schemas.

        Args:
            tools: function-calling documents; called only where the strategy offers tools.
            calls: whether tools may be called in this turn.
            answer: whether an answer may be given.

        Raises:
            BadInputError: nothing may be written.
        """
        return None

    @abstractmethod
    def write(self, action: Action, tools: Sequence[Schema] = ()) -> str:
        """The reply that parses to this action: for scripted policies, samples and tests."""

    @abstractmethod
    def results(
        self, calls: Sequence[ToolCall], results: Sequence[ToolResult], tools: Sequence[Schema] = ()
    ) -> list[Message]:
        """The messages that carry tool results back to the policy."""

    def complaint(self, problems: Sequence[Problem]) -> Message:
        """The message that tells a policy what was wrong with its reply."""
        text = "; ".join(problem.message for problem in problems)
        return Message("user", f"The reply could not be used: {text}.")


def get_format(name: str = "react", prompt: str = "tools_multi_step") -> Format:
    """Make a codec.

    Args:
        name: a registered format.
        prompt: a registered prompting strategy.

    Raises:
        UnknownNameError: the format or the strategy does not exist.
    """
    factory = FORMATS.get(name)
    strategy = PROMPTS.get(prompt)
    made = factory(strategy)
    if not isinstance(made, Format):
        raise BadInputError(f"format {name!r} is registered but makes no Format: {made!r:.80}")
    return made


def call_schema(name: str, tools: Sequence[Schema]) -> dict[str, Any] | None:
    """The ``function`` part of a tool's document, or None."""
    for tool in tools:
        if tool["function"]["name"] == name:
            function: dict[str, Any] = tool["function"]
            return function
    return None


def bound(name: str, text: str, tools: Sequence[Schema]) -> dict[str, Any]:
    """The arguments that a bare text means; one of `NO_TEXT` gives none where none are required."""
    if text in NO_TEXT:
        function = call_schema(name, tools)
        if function is not None and not function["parameters"].get("required"):
            return {}
    return {argument_name(name, tools): text}


def argument_name(name: str, tools: Sequence[Schema]) -> str:
    """The parameter that a call with one bare text means: the first required, else the first."""
    function = call_schema(name, tools)
    if function is None:
        return "input"
    parameters = function["parameters"]
    names = parameters.get("required") or parameters.get("properties") or ("input",)
    return str(next(iter(names)))


def results_in(
    codec: Format, calls: Sequence[ToolCall], told: Sequence[str], tools: Sequence[Schema]
) -> list[str]:
    """What `Format.results` was given, read out of the messages that it made.

    Args:
        codec: that wrote them.
        calls: that were answered.
        told: contents of the messages.
        tools: function-calling documents.

    Returns:
        As many as could be found, in the order of the calls.
    """
    marked = [ToolResult(call.id, f"{MARK}{n}{MARK}") for n, call in enumerate(calls)]
    shape = codec.results(calls, marked, tools)
    first, *fixed = MARK.join(message.content for message in shape).split(MARK)[::2]
    text = MARK.join(told)
    if not text.startswith(first):
        return []
    position, found = len(first), list[str]()
    for after in fixed:
        end = text.find(after, position) if after else len(text)
        if end < 0:
            break
        found.append(text[position:end])
        position = end + len(after)
    return found


def describe_tools(tools: Sequence[Schema]) -> list[str]:
    """One line a tool for text formats: name, parameters, what it does.

    The whole schema follows where names alone do not say what may be given: choices, parts of
    objects, and kinds that are told apart.
    """
    lines = []
    for tool in tools:
        function = tool["function"]
        parameters = function["parameters"]
        properties = parameters.get("properties", {})
        optional = set(properties) - set(parameters.get("required", ()))
        names = ", ".join(f"{name}?" if name in optional else name for name in properties)
        line = f"{function['name']}[{names}]: {function['description']}"
        if any(map(_says_more, properties.values())):
            line += f" Parameters: {json.dumps(parameters, ensure_ascii=False)}"
        lines.append(line)
    return lines


_MORE = {"enum", "const", "$ref", "allOf", "properties", "patternProperties"}


def _says_more(schema: Any) -> bool:
    """Whether a parameter's schema says more than its type, itself or for its items."""
    if not isinstance(schema, dict):
        return False
    either = schema.get("anyOf") or schema.get("oneOf") or ()
    kinds = [kind for kind in either if kind != _NULL]
    inner = (*kinds, schema.get("items"))
    return bool(_MORE & schema.keys()) or len(kinds) > 1 or any(map(_says_more, inner))


_NULL = {"type": "null"}
