"""``llama3``: calls as bare JSON objects with ``name`` and ``parameters``, as Llama 3.1 does."""

from __future__ import annotations

import re
from collections.abc import Sequence

from toolgym.formats.base import Action, Format
from toolgym.formats.calls import Calls, call_json
from toolgym.formats.json_calls import (
    common_reply,
    json_grammar,
    read_reply,
    written_instructions,
)
from toolgym.formats.scan import Scanner, marks_and
from toolgym.formats.strategies import sample_call
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.tools.base import Schema

__all__ = ["Llama3Format"]

_TAG = "<|python_tag|>"
_KEYS = (
    r"(?:type|name|parameters|arguments|function|tool_calls"
    r"|id[\"']\s*:\s*[\"'][^\"'\n]{0,80}[\"']\s*,\s*[\"'](?:type|name|function))"
)
_OBJECT = rf"\s*(?:\{{\s*)?[\"']?{_KEYS}[\"']?\s*:"
_BEGIN = re.compile(rf"[\[{{]{_OBJECT}")
_PATTERN = marks_and(r"<(\|python_tag\|>)", rf"\{{({_OBJECT})", rf"\[({_OBJECT})")
_END = re.compile(r"\s*(?:```\s*)?(?:;(?=\s*(?:[\[{<`]|\Z))|<\||\Z)")
_WITHIN = frozenset(":,[({\"'")  # an object behind one of these is part of another one


class Llama3Format(Format):
    """JSON calls without tags, several separated by semicolons. Tools stand in the system text."""

    name = "llama3"

    def instructions(self, tools: Sequence[Schema]) -> str:
        """The system text for this strategy, in our own words."""
        sample = call_json(sample_call(tools[0]), "parameters") if tools else ""
        calling = (
            "To call one, write a JSON object with its name and parameters, such as\n"
            f"{sample}\nSeveral calls in one turn are separated by semicolons. The results come in "
            "the next message"
        )
        return written_instructions(self.strategy, tools, "{documents}", calling)

    def parse(self, text: str, tools: Sequence[Schema] = (), *, cut: bool = False) -> Action:
        """Read calls and answer; see `Format.parse`. Text without a call is the answer."""
        if self.strategy.tools and not cut and (common := _common(text)) is not None:
            return common
        scan = _Objects(text, cut)
        scan.run()
        if scan.thought is not None and not scan.calls.tried:
            scan.calls.fail("no_call", f"no JSON call follows {_TAG}")
        offered = self.strategy.tools
        return read_reply(scan, scan.calls, scan.thought, tools, offered=offered, cut=cut)

    def grammar(self, tools: Sequence[Schema], *, calls: bool = True, answer: bool = True) -> str:
        """JSON without tags; see `Format.grammar`."""
        offered = tools if calls and self.strategy.tools else ()
        return json_grammar(self.strategy, offered, "parameters", str, between="; ", answer=answer)

    def write(self, action: Action, tools: Sequence[Schema] = ()) -> str:
        """The text that parses to this action."""
        parts = [action.thought] if action.thought else []
        written = [call_json(call, "parameters") for call in action.calls]
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


def _common(text: str) -> Action | None:
    brace = text.find("{")
    if brace < 0:
        return common_reply(text, ())
    if "<" in text or not text.startswith('{"name"', brace):
        return None
    bodies = text[brace:].split("}; {")
    last = len(bodies) - 1
    whole = (f"{'{' if n else ''}{body}{'}' if n < last else ''}" for n, body in enumerate(bodies))
    return common_reply(text[:brace], list(whole))


class _Objects(Scanner):
    """A reply with bare JSON objects."""

    def __init__(self, text: str, cut: bool) -> None:
        super().__init__(text, _PATTERN)
        self.calls = Calls()
        self.thought: str | None = None
        self._whole = not cut and text.rstrip().endswith(("}", "]", "```"))

    def unit(self, match: re.Match[str]) -> int | None:
        """Read objects one behind the other, or a list of them."""
        begin = match.start()
        if self.calls.exhausted:
            return self.stop(begin)
        self.take(begin)
        if self.thought is None:
            self.thought = self.shown().removesuffix("```json\n").removesuffix("```\n").strip()
        if match[0] == _TAG:
            return self.skip(begin, match.end())
        end = self.calls.read(self.text, begin, _END, self._whole)
        return self.skip(begin, self._next(match.end()) if end is None else end)

    def _next(self, position: int) -> int:
        """Where another object begins that is not part of the one that could not be read."""
        for match in _BEGIN.finditer(self.text, position):
            before = self.text[max(0, match.start() - 40) : match.start()].rstrip()[-1:]
            if before and before not in _WITHIN:
                return match.start()
        return len(self.text)

    def forget(self) -> None:
        """Calls in reasoning are drafts."""
        super().forget()
        self.thought = None
        self.calls.clear()

    def resumes(self, position: int) -> bool:
        """Whether a call begins here."""
        return _BEGIN.match(self.text, position) is not None
