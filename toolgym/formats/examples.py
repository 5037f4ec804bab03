"""Worked examples: questions that were answered before, shown as earlier turns of the chat.

The format itself writes them, so that they are well-formed in every format. They are nobody's
replies: no loss and no figure counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolgym.errors import BadInputError, did_you_mean
from toolgym.formats.base import Action, Format
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.tools.base import Schema

__all__ = ["Document", "Example", "ExampleCall", "ExampleTurn", "opening"]


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExampleCall(_Data):
    """One call, with what its tool answered.

    Args:
        name: of the tool.
        arguments: by parameter name.
        result: what the policy read.
    """

    name: str = Field(min_length=1)
    arguments: dict[str, Any] = Field(default_factory=dict)
    result: str


class ExampleTurn(_Data):
    """One reply of an example: calls, or the answer.

    Args:
        thought: what comes first; left out under a strategy that asks for no thoughts.
        calls: made together.
        answer: in the last turn.
        text: the reply word by word; None: the format writes it.
    """

    thought: str = ""
    calls: list[ExampleCall] = Field(default_factory=list)
    answer: str | None = None
    text: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> ExampleTurn:
        if bool(self.calls) == (self.answer is not None):
            raise ValueError("a turn has either calls or an answer")
        return self

    def write(self, codec: Format, tools: Sequence[Schema], first: int) -> tuple[str, Action]:
        """The reply as text, and what it says.

        Args:
            codec: of the policy's text.
            tools: function-calling documents.
            first: number of its first call in the conversation.
        """
        calls = [
            ToolCall(f"example_{n}", c.name, c.arguments) for n, c in enumerate(self.calls, first)
        ]
        thought = self.thought if codec.strategy.thought else ""
        action = Action(thought, tuple(calls), self.answer)
        if self.text is not None:
            return self.text, action
        if codec.native and codec.strategy.reasoning and thought:
            action = replace(action, thought=f"<think>\n{thought}\n</think>\n")
        text = codec.write(action, tools)
        if codec.strategy.reasoning and thought and "<think>" not in text:
            rest = codec.write(replace(action, thought=""), tools)
            text = f"<think>\n{thought}\n</think>\n{rest}"
        return text, action


class _Function(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(min_length=1)
    description: str = ""
    parameters: dict[str, Any]


class Document(_Data):
    """A tool's function-calling document."""

    type: str = "function"
    function: _Function


class Example(_Data):
    """A question with the turns that answered it.

    Args:
        question: as a task words it.
        turns: those with calls, then the one with the answer.
        tools: function-calling documents of its own, where it uses others than the environment's;
            they are shown with the question.
    """

    question: str = Field(min_length=1)
    turns: list[ExampleTurn] = Field(min_length=1)
    tools: list[Document] | None = None

    @model_validator(mode="after")
    def _ends(self) -> Example:
        *before, last = [turn.answer is not None for turn in self.turns]
        if any(before) or not last:
            raise ValueError("the last turn, and no other, has the answer")
        return self

    @property
    def documents(self) -> list[Schema] | None:
        """Its own tools, as plain data."""
        return None if self.tools is None else [tool.model_dump() for tool in self.tools]

    def describe(self) -> dict[str, Any]:
        """Plain data for ``run.json``."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def messages(self, codec: Format, tools: Sequence[Schema], first: int = 0) -> list[Message]:
        """The example as a chat. Where no tool is offered, it is answered at once.

        Args:
            codec: writes it.
            tools: the environment's; the example's own go before.
            first: number of its first call in the conversation.
        """
        asked, offered = Message("user", self.question), codec.strategy.tools and len(tools) > 0
        own = self.documents
        if own is None or not offered:
            found = [codec.question(asked)]
        else:
            tools, shown = own, codec.render(own, [asked])
            found = [Message("user", "\n\n".join([message.content for message in shown]))]
        # What a thought says of results makes no sense without them.
        alone = self.turns[-1].model_copy(update={"thought": ""})
        for turn in self.turns if offered else [alone]:
            text, action = turn.write(codec, tools, first)
            said = action.calls if codec.native else ()
            found.append(Message("assistant", action.thought if said else text, said))
            if action.calls:
                pairs = zip(action.calls, turn.calls, strict=True)
                results = [ToolResult(call.id, made.result) for call, made in pairs]
                found += codec.results(action.calls, results, tools)
                first += len(results)
        return found

    def check(self, codec: Format, tools: Sequence[Schema] | None) -> None:
        """Refuse what the format cannot write so that it reads the same, and unknown tools.

        Args:
            codec: of the policy's text.
            tools: the environment's; None: they differ by task.

        Raises:
            BadInputError: what it is stands in the message.
        """
        own, limit = self.documents, codec.strategy.tool_turns
        offered = tools if own is None else own
        if not codec.strategy.tools or offered == []:
            return
        if offered is None:
            if any(turn.calls for turn in self.turns):
                raise BadInputError(
                    "each task has tools of its own here: an example that calls some needs their "
                    "documents in 'tools'"
                )
            offered = []
        names = [str(document["function"]["name"]) for document in offered]
        for call in (call for turn in self.turns for call in turn.calls):
            if call.name not in names:
                listed = ", ".join(names) or "(none)"
                raise BadInputError(
                    f"it calls {call.name!r}, which is not among the tools {listed}"
                    f"{did_you_mean(call.name, names)}"
                )
            known = offered[names.index(call.name)]["function"]["parameters"]
            given, needed = call.arguments.keys(), set(known.get("required", ()))
            if not needed <= given <= known.get("properties", {}).keys():
                raise BadInputError(
                    f"its call of {call.name!r} has the arguments {sorted(given)}; the tool has "
                    f"{sorted(known.get('properties', {}))} and needs {sorted(needed)}"
                )
        if limit is not None and len(self.turns) - 1 > limit:
            raise BadInputError(
                f"it calls tools in {len(self.turns) - 1} turns, and prompt "
                f"{codec.strategy.name!r} allows {limit}"
            )
        for number, turn in enumerate(self.turns, 1):
            text, wanted = turn.write(codec, offered, 0)
            read = codec.parse(text, offered)
            if read.problems or _said(read) != _said(wanted):
                why = "; ".join(problem.message for problem in read.problems)
                raise BadInputError(
                    f"turn {number} cannot be read back in format {codec.name!r}"
                    f"{f' ({why})' if why else ''}: {text!r:.120}"
                )


def _said(action: Action) -> Any:
    return [(call.name, call.arguments) for call in action.calls], action.answer


def opening(
    codec: Format, tools: Sequence[Schema], question: str, examples: Sequence[Example] = ()
) -> list[Message]:
    """The beginning of a conversation: instructions, worked examples, the question.

    Args:
        codec: writes it.
        tools: function-calling documents.
        question: of the task.
        examples: between the instructions and the question.
    """
    messages = codec.render(tools, [Message("user", question)])
    shown: list[Message] = []
    calls = 0
    for example in examples:
        shown += example.messages(codec, tools, calls)
        calls += sum(len(turn.calls) for turn in example.turns)
    return [*messages[:-1], *shown, messages[-1]] if shown else messages
