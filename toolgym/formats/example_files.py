"""Worked examples as users give them: how many, a file, chat messages, or rows."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from toolgym._util.jsonl import read_rows, require_file
from toolgym.errors import BadInputError, explain
from toolgym.formats.base import MARK, Format, results_in
from toolgym.formats.examples import Document, Example
from toolgym.formats.strategies import TOOLS_MULTI_STEP
from toolgym.messages import Message, ToolCall
from toolgym.registry import Resource
from toolgym.tools.base import Schema
from toolgym.tools.toolset import Toolset

__all__ = ["read_examples"]

_WHAT = "example file"
_DOCUMENTS = TypeAdapter(list[Document] | None)


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
    chats = [
        isinstance(item, Message) or (isinstance(item, Mapping) and "role" in item)
        for _, item in items
    ]
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


def _of_items(
    items: Sequence[tuple[str, Any]], codec: Format, tools: Sequence[Schema] | None
) -> Iterator[Example]:
    for where, item in items:
        if isinstance(item, Mapping) and isinstance(item.get("messages"), list):
            own = _documents(item.get("tools"), where)
            chats = [(f"{where}, message {n}", chat) for n, chat in enumerate(item["messages"], 1)]
            if not chats:
                raise BadInputError(f"{where}: its messages are empty")
            yield from _of_chat(chats, codec, tools, own)
            continue
        if not isinstance(item, Mapping | Example):
            raise BadInputError(f"{where}: an example or a message is needed, not {item!r:.80}")
        try:
            example = item if isinstance(item, Example) else Example.model_validate(item)
        except ValidationError as error:
            raise BadInputError(f"{where}: {explain(error, Example)}") from error
        with _at(where):
            example.check(codec, tools)
        yield example


def _documents(given: Any, where: str) -> list[Document] | None:
    try:
        return _DOCUMENTS.validate_python(given)
    except ValidationError as error:
        raise BadInputError(
            f"{where}: tools are function-calling documents, each with a name and parameters under "
            f"'function', not {given!r:.80}"
        ) from error


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Say in every error where it is."""
    try:
        yield
    except BadInputError as error:
        raise BadInputError(f"{where}: {error}") from error


def _of_chat(
    chats: Sequence[tuple[str, Any]],
    codec: Format,
    tools: Sequence[Schema] | None,
    own: list[Document] | None = None,
) -> Iterator[Example]:
    """Examples out of one conversation: each question up to its answer."""
    reader: _Reader | None = None
    known = tools or [] if own is None else [tool.model_dump() for tool in own]
    for where, chat in chats:
        if not isinstance(chat, Message | Mapping):
            raise BadInputError(f"{where}: a message is needed, not {chat!r:.80}")
        with _at(where):
            message = chat if isinstance(chat, Message) else Message.from_chat(chat)
            reader = reader or _Reader(codec, known, where)
            example = reader.take(message)
        if example is not None:
            example = example.model_copy(update={"tools": own})
            with _at(reader.where):
                example.check(codec, tools)
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
