"""Replies that come as messages with native calls: of clients, of servers, of chat dicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toolgym._util.jsonl import not_json
from toolgym.errors import PolicyError
from toolgym.formats import Action
from toolgym.formats.calls import REPAIRED
from toolgym.formats.repair import repaired
from toolgym.formats.scan import read_json
from toolgym.messages import Chat, Message, ToolCall
from toolgym.policies.base import Reply, Request
from toolgym.trajectory import Problem

__all__ = ["read_native", "with_text_arguments", "wrote_text_arguments"]

_CUT = ("length", "max_tokens", "model_length")  # OpenAI and vLLM; Anthropic; Mistral
_FIELDS = ("content", "tool_calls", "function_call")  # one of them makes a mapping a message
_BLANK = "\ue000"  # private use: stands where a broken call is put back as it was written


def read_native(value: Any, request: Request, *, own_ids: bool = True) -> Reply:
    """A message as a reply, whoever's class it is.

    Read are `Message`, chat dicts, the message objects and completions of OpenAI's client and what
    their ``model_dump()`` gives, LangChain's ``AIMessage``, and whatever has the same fields.

    Args:
        value: the message.
        request: which it answers.
        own_ids: keep the ids of its calls; else the environment numbers them, so that a server's
            random ones do not stand in the record.

    Raises:
        PolicyError: it is not a message of the assistant.
    """
    value, cut = _unwrapped(value)
    known = (
        any(field in value for field in _FIELDS)
        if isinstance(value, Mapping)
        else hasattr(value, "content")
    )
    if not known:
        raise PolicyError(
            "a policy returns a string, a Message, a chat dict or a client's message object, not "
            f"{type(value).__name__}"
        )
    role = _field(value, "role")
    if role not in (None, "assistant"):
        raise PolicyError(f"the policy returned a message of role {str(role)!r:.80}, not assistant")
    text = _text(_field(value, "content") or _field(value, "refusal"))
    calls = _calls(value)
    if not calls:
        return Reply(text, cut=cut)
    thought = text.strip()
    read, problems, written = [], list[Problem](), list[tuple[ToolCall, str]]()
    taken: set[str] = set()
    for number, (call_id, name, given) in enumerate(calls):
        known = own_ids and isinstance(call_id, str) and call_id not in taken
        taken.add(call_id if known else "")  # the same id twice cannot tell calls apart
        try:
            arguments, notes = _arguments(given, complete=not cut)
        except ValueError as error:
            problems.append(Problem("bad_json", f"tool call {number + 1}: {error}"[:300]))
            blank = f"{_BLANK}{number}"
            written.append((ToolCall("", name, {blank: blank}), _as_text(given)))
            continue
        problems += [
            Problem(REPAIRED, f"tool call {number + 1} was not valid JSON and was repaired: {note}")
            for note in notes
        ]
        read.append(ToolCall(call_id if known else "", name, arguments))
        written.append((read[-1], ""))
    whole = request.format.write(Action(thought, tuple(call for call, _ in written)), request.tools)
    for call, raw in written:
        if raw:
            whole = whole.replace(json.dumps(call.arguments, ensure_ascii=False), raw)
    said = Action(thought, tuple(read), None, tuple(problems))
    return Reply(whole, cut=cut, said=said)


def _unwrapped(value: Any) -> tuple[Any, bool]:
    """The message, taken out of a completion, and whether it was cut."""
    choices = _field(value, "choices")
    if isinstance(choices, list | tuple) and choices:
        return _field(choices[0], "message"), _was_cut(choices[0])
    return value, _was_cut(value) or _was_cut(_field(value, "response_metadata"))


def _was_cut(holder: Any) -> bool:
    """Whether a choice or a message says that it ended at the limit of its length."""
    reasons = (_field(holder, "finish_reason"), _field(holder, "stop_reason"))
    return any(isinstance(reason, str) and reason in _CUT for reason in reasons)


def wrote_text_arguments(value: Any) -> bool:
    """Whether the calls of a policy's message come as clients send them: arguments as JSON text."""
    if isinstance(value, Message):
        return False
    value, _ = _unwrapped(value)
    return not isinstance(value, Mapping) or any(isinstance(a, str) for *_, a in _calls(value))


def with_text_arguments(chat: Chat) -> Chat:
    """A chat dict as clients and servers send it: arguments of calls as JSON text."""
    if "tool_calls" not in chat:
        return chat
    calls = []
    for call in chat["tool_calls"]:
        function = call["function"]
        text = json.dumps(function["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**function, "arguments": text}})
    return {**chat, "tool_calls": calls}


def _field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def _text(content: Any) -> str:
    """The text of a message whose content is a string or a list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list | tuple) and all(
        isinstance(part, str | Mapping) or hasattr(part, "type") for part in content
    ):
        parts = [part if isinstance(part, str) else _field(part, "text") for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    raise PolicyError(
        f"the policy returned a message whose content is not a string: {content!r:.80}"
    )


def _calls(value: Any) -> list[tuple[Any, str, Any]]:
    """Id, name and arguments of each call, as they came."""
    listed: list[Any] = []
    for field in ("tool_calls", "invalid_tool_calls"):
        items = _field(value, field) or ()
        if not isinstance(items, list | tuple):
            raise PolicyError(f"the policy returned {field} that are not a list: {items!r:.80}")
        listed += items
    if not listed and _field(value, "function_call"):
        listed = [{"function": _field(value, "function_call")}]
    found = []
    for number, item in enumerate(listed, 1):
        function = _field(item, "function") or item
        name, arguments = _field(function, "name"), _field(function, "arguments")
        if not isinstance(name, str):
            raise PolicyError(
                f"the policy returned tool call {number} without a name: {item!r:.200}"
            )
        found.append(
            (_field(item, "id"), name, _field(item, "args") if arguments is None else arguments)
        )
    return found


def _arguments(given: Any, *, complete: bool) -> tuple[dict[str, Any], list[str]]:
    """Arguments as an object, and what had to be repaired, as in calls that are written as text.

    Raises:
        ValueError: they have no one reading.
    """
    notes: list[str] = []
    for level in range(3):
        if given is None or (isinstance(given, str) and not given.strip()):
            return {}, notes
        if isinstance(given, Mapping):
            why = not_json(dict(given))
            if why:
                raise ValueError(f"it is not valid JSON (its argument {why})")
            return dict(given), notes
        if isinstance(given, list | tuple) and len(given) == 1:
            given = given[0]
            notes.append("a list around the arguments")
        elif isinstance(given, str):
            notes += ["arguments encoded as text"] if level else []
            given, more = _decoded(given, complete)
            notes += more
        else:
            break
    raise ValueError(f"its arguments must be an object, not of type {type(given).__name__}")


def _decoded(text: str, complete: bool) -> tuple[Any, list[str]]:
    try:
        return read_json(text), []
    except ValueError as error:
        try:
            return repaired(text, complete=complete)
        except ValueError:
            raise ValueError(f"its arguments are not valid JSON ({error})") from error


def _as_text(given: Any) -> str:
    if isinstance(given, str):
        return given
    try:
        return json.dumps(given, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        return "(what JSON cannot hold)"
