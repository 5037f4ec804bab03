"""``llama3``: calls as bare JSON objects with ``name`` and ``parameters``, as Llama 3.1 does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from toolgym.formats.base import Action, Format
from toolgym.formats.json_calls import call_of, read_answer, read_call, written_instructions
from toolgym.formats.scan import decode_json, without_think
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem

__all__ = ["Llama3Format"]

_TAG = "<|python_tag|>"
_BEGIN = re.compile(
    r'[\[{]\s*(?:\{\s*)?["\']?(?:type|name|parameters|arguments|function)["\']?\s*:'
)
_BETWEEN = re.compile(r"[\s;,]*")


class Llama3Format(Format):
    """JSON calls without tags, several separated by semicolons. Tools stand in the system text."""

    name = "llama3"

    def instructions(self, tools: Sequence[Schema]) -> str:
        """The system text for this strategy, in our own words."""
        calling = (
            "To call one, write a JSON object with its name and parameters:\n"
            '{"name": "function name", "parameters": {"parameter": "value"}}\n'
            "Several calls in one turn are separated by semicolons. The results come in the next "
            "message"
        )
        return written_instructions(self.strategy, tools, "{documents}", calling)

    def parse(self, text: str, tools: Sequence[Schema] = ()) -> Action:
        """Read calls and answer; see `Format.parse`. Text without a call is the answer."""
        content = without_think(text)
        found = self._calls(content) if self.strategy.tools else None
        if found is not None:
            begin, calls, problems = found
            thought = content[:begin].replace(_TAG, "").strip()
            return Action(thought, tuple(calls), None, tuple(problems))
        return read_answer(content.replace(_TAG, ""))

    def _calls(self, content: str) -> tuple[int, list[ToolCall], list[Problem]] | None:
        tag = content.find(_TAG)
        start = tag + len(_TAG) if tag >= 0 else 0
        match = _BEGIN.search(content, start)
        if match is None:
            if tag < 0:
                return None
            return tag, [], [Problem("no_call", f"no JSON call follows {_TAG}")]
        begin = match.start() if tag < 0 else tag
        calls: list[ToolCall] = []
        problems: list[Problem] = []
        for read, notes in _objects(content, match.start()):
            if isinstance(read, ToolCall):
                calls.append(read)
            else:
                problems.append(read)
            problems += notes
        return begin, calls, problems

    def write(self, action: Action, tools: Sequence[Schema] = ()) -> str:
        """The text that parses to this action."""
        parts = [action.thought] if action.thought else []
        bodies = ({"name": call.name, "parameters": call.arguments} for call in action.calls)
        written = [json.dumps(body, ensure_ascii=False, default=str) for body in bodies]
        parts += ["; ".join(written)] if written else []
        if action.answer is not None:
            parts.append(f"Answer: {action.answer}")
        return "\n".join(parts)

    def results(
        self, calls: Sequence[ToolCall], results: Sequence[ToolResult], tools: Sequence[Schema] = ()
    ) -> list[Message]:
        """One user message with a line a call."""
        lines = (
            f"Result of {call.name}: {result.content}"
            for call, result in zip(calls, results, strict=True)
        )
        return [Message("user", "\n".join(lines))]


def _objects(text: str, position: int) -> Iterator[tuple[ToolCall | Problem, list[Problem]]]:
    """Calls from a place on: objects one after the other, or a list of them."""
    number = 0
    while position < len(text):
        if text[position] not in "{[":
            return  # words behind the calls are no calls
        try:
            value, end = decode_json(text, position)
        except ValueError:
            rest = text[position:]
            # No tag says whether the model had finished; a bracket at the end does.
            yield read_call(rest, number, complete=rest.rstrip().endswith(("}", "]")))
            return
        for item in value if isinstance(value, list) else [value]:
            yield call_of(item, number)
            number += 1
        between = _BETWEEN.match(text, end)
        position = between.end() if between is not None else end
