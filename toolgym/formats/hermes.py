"""``hermes``: calls as JSON between ``<tool_call>`` tags, as Hermes and Qwen models write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from toolgym.formats.base import Action, Format
from toolgym.formats.calls import call_json
from toolgym.formats.grammar import literal
from toolgym.formats.json_calls import (
    THOUGHT,
    CallScanner,
    common_reply,
    json_grammar,
    plain_reply,
    read_reply,
    written_instructions,
)
from toolgym.formats.scan import marks_and, read_json
from toolgym.formats.strategies import sample_call
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem

__all__ = ["HermesFormat", "PaperHermesFormat"]

_TAG = "<tool_call>"
_OPEN = re.compile(rf"(?:\s*{_TAG})+")
_CLOSE = re.compile(r"\s*(?:```\s*)?(?:</?tool_call>|\Z)")
_PATTERN = marks_and("<(tool_call)>", "<(tool_response)>")
_PLAIN = re.compile(rf'{THOUGHT}{_TAG}\n\{{"name": "([\w.-]+)", "arguments": (?=\{{)')
_NEXT = re.compile(r"</?tool_call>")


class HermesFormat(Format):
    """JSON calls in tags. Tools stand in the system text: it works with any chat template."""

    name = "hermes"

    def instructions(self, tools: Sequence[Schema]) -> str:
        """The system text for this strategy, in our own words."""
        sample = call_json(sample_call(tools[0]), "arguments") if tools else ""
        calling = (
            "For each call write a JSON object with name and arguments between tags, such as\n"
            f"<tool_call>\n{sample}\n</tool_call>\nThe results come in the next message"
        )
        frame = "<tools>\n{documents}\n</tools>"
        return written_instructions(self.strategy, tools, frame, calling)

    def parse(self, text: str, tools: Sequence[Schema] = (), *, cut: bool = False) -> Action:
        """Read calls and answer; see `Format.parse`. Text without a call is the answer."""
        if self.strategy.tools and not cut and (common := _common(text)) is not None:
            return common
        scan = _Tags(text, _PATTERN, cut)
        scan.run()
        offered = self.strategy.tools
        return read_reply(scan, tools, offered=offered, cut=cut)

    def grammar(self, tools: Sequence[Schema], *, calls: bool = True, answer: bool = True) -> str:
        """JSON between tags; see `Format.grammar`."""

        def framed(call: str) -> str:
            return f'{literal(_TAG)} "\\n" {call} "\\n" "</tool_call>"'

        offered = tools if calls and self.strategy.tools else ()
        return json_grammar(self.strategy, offered, "arguments", framed, answer=answer)

    def write(self, action: Action, tools: Sequence[Schema] = ()) -> str:
        """The text that parses to this action."""
        parts = [action.thought] if action.thought else []
        for call in action.calls:
            parts.append(f"<tool_call>\n{call_json(call, 'arguments')}\n</tool_call>")
        if action.answer is not None:
            parts.append(f"Answer: {action.answer}")
        return "\n".join(parts)

    def results(
        self, calls: Sequence[ToolCall], results: Sequence[ToolResult], tools: Sequence[Schema] = ()
    ) -> list[Message]:
        """One user message with a ``<tool_response>`` block a call."""
        blocks = (f"<tool_response>\n{result.content}\n</tool_response>" for result in results)
        return [Message("user", "\n".join(blocks))]


def _common(text: str) -> Action | None:
    if (plain := plain_reply(text, _PLAIN, "}\n</tool_call>")) is not None:
        return plain
    thought, *parts = text.split(_TAG)
    bodies = []
    for part in parts:
        body, closing, behind = part.partition("</tool_call>")
        if not closing or "<" in body or (behind and not behind.isspace()):
            return None
        bodies.append(body)
    return common_reply(thought, bodies)


class _Tags(CallScanner):
    """A reply with tagged calls."""

    def unit(self, match: re.Match[str]) -> int | None:
        """Read the calls between two tags; a tag that is written twice counts once."""
        if match[2] is not None:
            what = "it holds a <tool_response>, which only tools write; it was not read from there"
            self.problems.append(Problem("wrote_result", what))
        if match[2] is not None or self.calls.exhausted:
            return self.stop(match.start())
        self.take(match.start())
        if self.thought is None:
            self.thought = self.shown().strip()
        opened = _OPEN.match(self.text, match.start())
        begin = opened.end() if opened is not None else match.end()
        end = self.calls.read(self.text, begin, _CLOSE, self.whole)
        return self.skip(match.start(), self._behind(begin if end is None else end, end is None))

    def _behind(self, position: int, failed: bool) -> int:
        closing = _NEXT.search(self.text, position)
        if closing is None:
            return len(self.text) if failed else position
        if closing[0] == "<tool_call>":
            return closing.start() if failed else position
        if not failed and self.text[position : closing.start()].strip():
            self.calls.note("words behind it were left out")
        return closing.end()

    def resumes(self, position: int) -> bool:
        """Whether a call begins here."""
        return self.text.startswith(_TAG, position)


class PaperHermesFormat(HermesFormat):
    """The parser as published with arXiv 2508.08791 for Qwen: nothing is repaired or refused.

    From the first ``<tool_call>`` on, each part before ``</tool_call>`` is a call where it begins
    with the tag and is JSON with name and arguments; all else is passed over. A reply without such
    a call ends the episode. Unlike there, arguments that are no object or hold NaN are no call.
    """

    name = "hermes-paper"

    def parse(self, text: str, tools: Sequence[Schema] = (), *, cut: bool = False) -> Action:
        """Read a reply as the paper's code does; that it was cut is a problem, no more."""
        begin = text.find(_TAG) if self.strategy.tools else -1
        parts = text[begin:].split("</tool_call>") if begin >= 0 else ()
        found = [call for part in parts if (call := _published_call(part.strip())) is not None]
        calls = tuple(ToolCall(f"call_{n}", *call) for n, call in enumerate(found))
        problems = (Problem("cut_reply", "it was cut at the limit of its length"),) if cut else ()
        if calls:
            return Action(text[:begin].strip(), calls, None, problems)
        thought, _, answer = f"\n{text}".rpartition("\nAnswer:")
        return Action(thought.strip(), (), answer.strip(), problems)


def _published_call(part: str) -> tuple[str, dict[str, Any]] | None:
    if not part.startswith(_TAG):
        return None
    try:
        value = read_json(part.lstrip(_TAG).strip())  # all signs of the tag, as published
        name, given = value["name"], value["arguments"]
        arguments = given if isinstance(given, dict) else read_json(given)
    except (LookupError, TypeError, ValueError):
        return None
    return (
        (name, arguments)
        if name and isinstance(name, str) and isinstance(arguments, dict)
        else None
    )
