"""Messages, tool calls and tool results: the words of an episode."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from toolgym._util.jsonl import copy_json
from toolgym.errors import BadInputError

__all__ = [
    *("Chat", "Message", "Role", "ToolCall", "ToolResult", "cut_after", "opening_length"),
    "to_chats",
]

Role = Literal["system", "user", "assistant", "tool"]
Chat = dict[str, Any]
"""One message as chat templates and OpenAI-compatible servers read it."""

_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool.

    Args:
        id: unique within the episode; ties the result to the call.
        name: the tool's name, as the policy wrote it.
        arguments: by parameter name.
    """

    id: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def copy(self) -> ToolCall:
        """A copy whose arguments can be changed apart."""
        return ToolCall(self.id, self.name, copy_json(self.arguments))

    def to_chat(self) -> Chat:
        """The call as it stands in an assistant message's ``tool_calls``."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came back from one call.

    Args:
        call_id: the call's id.
        content: the text that the policy reads, also when the call failed.
        error: None, or the kind of failure: ``unknown_tool``, ``invalid_arguments``,
            ``tool_error``, ``timeout``, ``bug`` (an exception that the tool's author did not
            intend); ``refused`` or ``over_budget`` (not made: its turn, or the episode, may have no
            more); ``injected_timeout`` or ``injected_tool_error`` (`toolgym.tools.service`).
        detail: for the record only, never shown to the policy: the traceback of a bug.
        fault: the kind of the fault that was put between tool and policy, or None.
        added_seconds: latency that a fault adds to the record, though nobody waited for it.
        shown: characters of the content that the policy reads, or None: all of them.
        empty: the tool said that it found nothing (`toolgym.errors.NothingFoundError`).
    """

    call_id: str
    content: str
    error: str | None = None
    detail: str | None = None
    fault: str | None = None
    added_seconds: float = 0.0
    shown: int | None = None
    empty: bool = False

    @property
    def passed(self) -> bool:
        """Whether the call gave something: neither an error nor nothing."""
        return self.error is None and not self.empty and bool(self.content.strip())

    @property
    def seen(self) -> str:
        """The content as the policy reads it: cut after ``shown`` characters, with a mark."""
        return self.content if self.shown is None else cut_after(self.content, self.shown)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Args:
        role: ``system``, ``user``, ``assistant`` or ``tool``.
        content: the text, possibly empty.
        tool_calls: native calls of an assistant message (formats that call in text leave it empty).
        tool_call_id: for role ``tool``: the call that is answered.
        name: for role ``tool``: the tool's name.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    def copy(self) -> Message:
        """A copy whose calls can be changed apart; without calls nothing can, and it is itself."""
        if not self.tool_calls:
            return self
        return replace(self, tool_calls=tuple(call.copy() for call in self.tool_calls))

    def to_chat(self) -> Chat:
        """A fresh chat dict; keys without a value are left out, since some templates print None."""
        chat: Chat = {"role": self.role, "content": self.content}
        if self.tool_calls:
            chat["tool_calls"] = [call.to_chat() for call in self.tool_calls]
        if self.tool_call_id is not None:
            chat["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            chat["name"] = self.name
        return chat

    @classmethod
    def from_chat(cls, chat: Mapping[str, Any]) -> Message:
        """Read a chat dict.

        Raises:
            BadInputError: no known role, or content that is not a string.
        """
        role, content = chat.get("role"), chat.get("content")
        if role not in _ROLES:
            raise BadInputError(f"message role {role!r} is none of {', '.join(_ROLES)}")
        if content is not None and not isinstance(content, str):
            raise BadInputError(f"message content must be text, not {type(content).__name__}")
        calls = tuple(_call(item, n) for n, item in enumerate(chat.get("tool_calls") or ()))
        return cls(role, content or "", calls, chat.get("tool_call_id"), chat.get("name"))


def _call(item: Mapping[str, Any], number: int) -> ToolCall:
    function = item.get("function", item)
    name, arguments = function.get("name"), function.get("arguments")
    if isinstance(arguments, str):  # as clients send them
        with contextlib.suppress(ValueError, RecursionError):  # the message below shows them
            arguments = json.loads(arguments) if arguments.strip() else None
    if not isinstance(name, str) or not isinstance(arguments, Mapping | None):
        raise BadInputError(
            f"tool call {number} needs a name and a dict of arguments: {item!r:.200}"
        )
    found = item.get("id")
    return ToolCall(
        found if isinstance(found, str) else f"call_{number}", name, dict(arguments or {})
    )


def cut_after(content: str, shown: int) -> str:
    """A text's beginning, and how long it was.

    Args:
        content: longer than ``shown``.
        shown: characters that stay.
    """
    return f"{content[:shown]} [cut: {len(content):,} characters]"


def to_chats(messages: Sequence[Message]) -> list[Chat]:
    """A conversation as fresh chat dicts."""
    return [message.to_chat() for message in messages]


def opening_length(roles: Sequence[str], replies: int, examples: int) -> int:
    """How many messages of a conversation stand before the policy's own first reply.

    Args:
        roles: of all messages.
        replies: how many of them are the policy's own.
        examples: worked examples before the question, whose replies are nobody's own.
    """
    places = [place for place, role in enumerate(roles) if role == "assistant"]
    if examples:
        places = places[-replies:] if replies else []
    return places[0] if places else len(roles)
