"""Worked examples: questions that were answered before, shown as earlier turns of the chat.

The format itself writes them, so that they are well-formed in every format. They are nobody's
replies: no loss and no figure counts them.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from toolgym._util.jsonl import read_rows, require_file
from toolgym.errors import BadInputError, did_you_mean, explain
from toolgym.formats.base import MARK, Action, Format, results_in
from toolgym.formats.strategies import TOOLS_MULTI_STEP
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.registry import Resource
from toolgym.tools.base import Schema
from toolgym.tools.toolset import Toolset

__all__ = ["Example", "ExampleTurn", "opening", "read_examples"]

_WHAT = "example file"


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
        text = codec.write(action, tools)
        if codec.strategy.reasoning and thought and "<think>" not in text:
            rest = codec.write(replace(action, thought=""), tools)
            text = f"<think>\n{thought}\n</think>\n{rest}"
        return text, action


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
    tools: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _ends(self) -> Example:
        *before, last = [turn.answer is not None for turn in self.turns]
        if any(before) or not last:
            raise ValueError("the last turn, and no other, has the answer")
        return self

    @property
    def called(self) -> set[str]:
        """Names of the tools that it calls."""
        return {call.name for turn in self.turns for call in turn.calls}

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
        if self.tools is None or not offered:
            found = [codec.question(asked)]
        else:
            tools, shown = self.tools, codec.render(self.tools, [asked])
            found = [Message("user", "\n\n".join([message.content for message in shown]))]
        # What a thought says of results makes no sense without them.
        alone = self.turns[-1].model_copy(update={"thought": ""})
        for turn in self.turns if offered else [alone]:
            text, action = turn.write(codec, tools, first)
            found.append(Message("assistant", text))
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
        offered, limit = self.tools if self.tools is not None else tools, codec.strategy.tool_turns
        if not codec.strategy.tools or offered == []:
            return
        if offered is None:
            if self.called:
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


def read_examples(
    given: Any, codec: Format, toolset: Toolset | None, bundled: Resource | None = None
) -> tuple[Example, ...]:
    """The worked examples that an environment is told to show.

    Args:
        given: how many of the bundled ones; the path of a ``.json`` or ``.jsonl`` file; or a list
            of chat messages, of `Example`, or of rows of one.
        codec: writes and reads them.
        toolset: the environment's; None: tools differ by task.
        bundled: the environment's own.

    Raises:
        MissingFileError: no such file.
        BadInputError: fewer are bundled, or one cannot be read or calls a tool that is not there;
            its line or number is named.
    """
    if given == 0 and given is not False:
        return ()
    tools = None if toolset is None else toolset.schemas()
    if isinstance(given, int) and not isinstance(given, bool):
        return _first(given, codec, tools, bundled)
    if isinstance(given, str | Path):
        items = list(_of_file(Path(given)))
    elif isinstance(given, Sequence):
        items = [(f"examples, item {number}", item) for number, item in enumerate(given, 1)]
    else:
        raise BadInputError(
            "examples are a number, the path of a file, or a list of messages or examples, not "
            f"{given!r:.80}"
        )
    if not codec.strategy.tools:  # calls are left out, but have to be read as such
        codec = copy.copy(codec)
        codec.strategy = TOOLS_MULTI_STEP
        tools = None if tools is None else []
    chats = [_is_chat(item) for _, item in items]
    if any(chats) and not all(chats):
        where = items[chats.index(not chats[0])][0]
        raise BadInputError(f"{where}: give either messages or whole examples, not both in turn")
    return tuple((_of_chat if any(chats) else _of_items)(items, codec, tools))


def _first(
    count: int, codec: Format, tools: Sequence[Schema] | None, bundled: Resource | None
) -> tuple[Example, ...]:
    if count < 0:
        raise BadInputError(f"examples must be a number of at least 0, not {count}")
    fitting: list[Example] = []
    for example in _bundled(bundled) if bundled is not None else ():
        try:
            example.check(codec, tools)
            fitting.append(example)
        except BadInputError:  # it calls a tool that is not offered, or in too many turns
            continue
    if count > len(fitting):
        names = ", ".join(str(tool["function"]["name"]) for tool in tools or ()) or "of this task"
        raise BadInputError(
            f"examples={count}: {len(fitting)} bundled examples fit the tools {names}, format "
            f"{codec.name!r} and prompt {codec.strategy.name!r}; ask for at most so many, or name "
            "a file of your own"
        )
    return tuple(fitting[:count])


@functools.lru_cache(maxsize=16)
def _bundled(resource: Resource) -> tuple[Example, ...]:
    return tuple(Example.model_validate(row) for _, row in read_rows(resource.path(), _WHAT))


def _of_file(path: Path) -> Iterator[tuple[str, Any]]:
    where = f"{_WHAT} {str(path)!r}"
    if path.suffix != ".json":
        found = [(f"{where}, line {number}", row) for number, row in read_rows(path, _WHAT)]
    else:
        try:
            value = json.loads(require_file(path, _WHAT).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise BadInputError(f"{where} is not valid JSON: {error}") from error
        items = value if isinstance(value, list) else [value]
        found = [(f"{where}, item {number}", item) for number, item in enumerate(items, 1)]
    if not found:
        raise BadInputError(f"{where} is empty: it needs at least one example")
    yield from found


def _is_chat(item: Any) -> bool:
    return isinstance(item, Message) or (isinstance(item, Mapping) and "role" in item)


def _of_items(
    items: Sequence[tuple[str, Any]], codec: Format, tools: Sequence[Schema] | None
) -> Iterator[Example]:
    for where, item in items:
        if isinstance(item, Mapping) and isinstance(item.get("messages"), list):
            own = item.get("tools", None)
            chats = [(f"{where}, message {n}", chat) for n, chat in enumerate(item["messages"], 1)]
            for example in _of_chat(chats, codec, tools if own is None else own):
                yield example if own is None else example.model_copy(update={"tools": own})
            continue
        if not isinstance(item, Mapping | Example):
            raise BadInputError(f"{where}: an example or a message is needed, not {item!r:.80}")
        try:
            example = item if isinstance(item, Example) else Example.model_validate(item)
        except ValidationError as error:
            raise BadInputError(f"{where}: {explain(error, Example)}") from error
        _check(example, where, codec, tools)
        yield example


def _check(example: Example, where: str, codec: Format, tools: Sequence[Schema] | None) -> None:
    try:
        example.check(codec, tools)
    except BadInputError as error:
        raise BadInputError(f"{where}: {error}") from error


def _of_chat(
    chats: Sequence[tuple[str, Any]], codec: Format, tools: Sequence[Schema] | None
) -> Iterator[Example]:
    """Examples out of one conversation: each question up to its answer."""
    reader: _Reader | None = None
    for where, chat in chats:
        try:
            message = chat if isinstance(chat, Message) else Message.from_chat(chat)
            reader = reader or _Reader(codec, tools or (), where)
            example = reader.take(message)
        except BadInputError as error:
            raise BadInputError(f"{where}: {error}") from error
        if example is not None:
            _check(example, reader.where, codec, tools)
            yield example
            reader = None
    if reader is not None:
        raise BadInputError(f"{reader.where}: the question is not answered: add the last reply")


class _Reader:
    """Reads the messages of one example."""

    def __init__(self, codec: Format, tools: Sequence[Schema], where: str) -> None:
        self.codec, self.tools, self.where = codec, tools, where
        self._question = ""
        self._turns: list[dict[str, Any]] = []
        self._calls: tuple[ToolCall, ...] = ()
        self._told: list[str] = []

    def take(self, message: Message) -> Example | None:
        """Take in a message; gives the example with its answer."""
        if message.role == "system":
            raise BadInputError("the system message is the environment's own: leave it out")
        if message.role == "assistant":
            return self._reply(message)
        if self._calls:
            self._result(message)
        elif self._question:
            raise BadInputError(f"a reply is needed before this message of role {message.role!r}")
        else:
            shape = self.codec.question(Message("user", MARK)).content
            before, _, after = shape.partition(MARK)
            self._question = message.content.strip().removeprefix(before).removesuffix(after)
        return None

    def _reply(self, message: Message) -> Example | None:
        if not self._question or self._calls:
            missing = "the results of the calls" if self._calls else "a question of the user"
            raise BadInputError(f"{missing} must stand before this reply")
        if message.tool_calls:
            turn, self._calls = {"thought": message.content.strip()}, message.tool_calls
        else:
            read = self.codec.parse(message.content, self.tools)
            turn = {"text": message.content}
            if read.problems or (not read.calls and read.answer is None):
                why = "; ".join(p.message for p in read.problems) or "neither a call nor an answer"
                raise BadInputError(
                    f"the reply cannot be read in format {self.codec.name!r} ({why}): "
                    f"{message.content!r:.120}"
                )
            if read.answer is not None:
                turns = [*self._turns, {**turn, "answer": read.answer}]
                return Example.model_validate({"question": self._question, "turns": turns})
            self._calls = read.calls
        self._turns.append(turn)
        return None

    def _result(self, message: Message) -> None:
        if message.role == "tool":
            self._told.append(message.content)
        else:
            found = results_in(self.codec, self._calls, [message.content], self.tools)
            if len(found) != len(self._calls):
                if len(self._calls) > 1:
                    raise BadInputError(
                        f"it does not hold the results of {len(self._calls)} calls as format "
                        f"{self.codec.name!r} writes them: give each as a message of role 'tool'"
                    )
                found = [message.content]
            self._told += found
        if len(self._told) >= len(self._calls):
            pairs = zip(self._calls, self._told, strict=False)
            calls = [{"name": c.name, "arguments": c.arguments, "result": r} for c, r in pairs]
            self._turns[-1]["calls"] = calls
            self._calls, self._told = (), []
