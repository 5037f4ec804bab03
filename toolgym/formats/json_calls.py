"""``llama3``, and what formats share whose calls are JSON and whose plain text is the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from toolgym.formats.base import MAX_CALLS, Action, Format
from toolgym.formats.calls import KEYS, Calls, call_json, outcome
from toolgym.formats.grammar import arguments, literal, reply_grammar
from toolgym.formats.loose import LABEL, first_paragraph, loose_answer
from toolgym.formats.scan import Scanner, decode_json, labelled, marks_and, read_json
from toolgym.formats.strategies import Strategy, sample_call
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem

__all__ = [
    "OTHER_FORMAT",
    "THOUGHT",
    "CallScanner",
    "Llama3Format",
    "common_reply",
    "json_grammar",
    "looks_like_call",
    "plain_reply",
    "read_reply",
    "written_instructions",
]

_SIGNS = re.compile(r"[<\[{(◁]|[Aa]ction")  # without these a text holds no mark and no call


# A line of letters, digits and a few signs is read alike by all rules, but for its first words.
_LINE = r"[^\W_][\w .,;'\"%$€£&/+?!-]*"
THOUGHT = rf"(?:(?!(?i:answer|final)\b)({_LINE})\n)?"
"""A thought that is one plain line, or nothing: the begin of a pattern for `plain_reply`."""
_ANSWER_ALONE = re.compile(rf"{THOUGHT}Answer: (?!(?i:the|so|therefore|thus|hence)\b)({_LINE})\Z")


def plain_reply(text: str, opening: re.Pattern[str], closing: str) -> Action | None:
    """One call or one answer as the format itself writes it, perhaps behind a plain line.

    This too is the scanner's reading; None leaves it to `common_reply` and the scanner.

    Args:
        text: the reply.
        opening: `THOUGHT`, and a call up to the brace of its arguments, with its name as a group.
        closing: what stands behind the arguments.
    """
    call = opening.match(text)
    if call is None:
        answer = _ANSWER_ALONE.match(text)
        return answer and Action((answer[1] or "").rstrip(), (), answer[2].rstrip())
    begin = call.end()
    try:
        arguments, end = decode_json(text, begin)
    except ValueError:
        return None
    if text[end:] != closing or "\\" in text or text.find("<", begin, end) >= 0:
        return None
    return Action((call[1] or "").rstrip(), (ToolCall("call_0", call[2], arguments),))


def common_reply(thought: str, bodies: Sequence[str]) -> Action | None:
    """The action of a reply of the common kind: calls in plain JSON, or an answer in plain text.

    This is the scanner's reading, found in a fraction of its time; None leaves it to the scanner.

    Args:
        thought: the text before the calls, or all of it.
        bodies: the objects of the calls.
    """
    if thought and _SIGNS.search(thought) is not None:
        return None
    before, answer = labelled(thought, _ANSWER) if thought else ("", None)
    if not bodies:
        found = before if answer is None else answer
        if not found or (LABEL.search if answer is None else LABEL.match)(found):
            return None
        if answer is None:
            return Action("", (), before)
        return Action(before, (), answer) if first_paragraph(answer, []) == answer else None
    if answer is not None or len(bodies) > MAX_CALLS:
        return None
    calls = []
    for number, body in enumerate(bodies):
        try:
            value = read_json(body) if "\\" not in body else None
        except ValueError:
            return None
        if not isinstance(value, dict) or value.keys() not in KEYS:
            return None
        name, arguments = value["name"], value.get("arguments", value.get("parameters"))
        if not (
            isinstance(name, str) and isinstance(arguments, dict) and name == name.strip() != ""
        ):
            return None
        calls.append(ToolCall(f"call_{number}", name, arguments))
    return Action(before, tuple(calls))


OTHER_FORMAT = Problem("no_call", "it seems to call a tool, but not in this format")
_EMPTY = Problem("empty_reply", "it holds no answer")
_ANSWER = re.compile(r"^[ \t>#-]*\**(?:Final )?Answer\**[ \t]?[:：]\**[ \t]*", re.M | re.I)
# Calls in the manner of other formats: such a text is an attempt, never an answer.
_FOREIGN = re.compile(
    r"</?tool_call>|<(?:search|calculator|translate)>|<\|tool_call|\[TOOL_CALLS\]|<function=|<｜tool▁call"
    r"|<function_calls?>|<invoke |<start_function_call>|\bto=functions\."
    r"|<\|python_tag\|>|\bfunctools\[|^Action Input:"
    r"|^[ \t>#*-]*(?:\d+[.)][ \t]*)?[Aa]ction(?:[ \t]*\d+)?\**[ \t]?[:：]\**[ \t]*"
    r"(?!(?i:none\b|n/a|no action|\**Answer))\**[^\s*]"
    r"|[\"']type[\"']\s*:\s*[\"']function[\"']"
    r"|\{\s*[\"'](?:name|function|tool|tool_name|tool_calls|type|action|recipient_name)[\"']\s*:"
    r"[^{}]*[\"'](?:arguments|parameters|function|args|input|tool_input|action_input)[\"']\s*:",
    re.M,
)
_AT_START = re.compile(r"\s*+(?:```\w*+\s*+)?[<\[]?\s*+([\w.-]++)\s*+[\[(>]")


class CallScanner(Scanner):
    """Over a reply with calls in JSON.

    Args:
        text: the reply.
        pattern: see `Scanner`.
        cut: whether the reply was cut.

    Attributes:
        calls: that were read.
        thought: the text before the first, or None without one.
        whole: whether the reply ends as JSON does.
    """

    def __init__(self, text: str, pattern: re.Pattern[str], cut: bool) -> None:
        super().__init__(text, pattern)
        self.calls = Calls()
        self.thought: str | None = None
        self.whole = not cut and text.rstrip().endswith(("}", "]", "```"))

    def forget(self) -> None:
        """Calls in reasoning are drafts."""
        super().forget()
        self.thought = None
        self.calls.clear()


def read_reply(scan: CallScanner, tools: Sequence[Schema], *, offered: bool, cut: bool) -> Action:
    """A reply in a format where text without a call is the answer.

    Args:
        scan: over the whole reply, done.
        tools: function-calling documents.
        offered: whether the strategy offers tools.
        cut: whether the reply was cut.
    """
    visible, calls = scan.shown(), scan.calls
    before, answer = labelled(visible, _ANSWER)
    if scan.thought is not None:
        return outcome(scan, calls, scan.thought, answer or None, _EMPTY, offered=offered, cut=cut)
    if not (calls.tried or scan.unfinished) and looks_like_call(before, tools):
        scan.problems.append(OTHER_FORMAT)
        return outcome(scan, calls, before, answer or None, _EMPTY, offered=offered, cut=cut)
    if answer:
        answer = first_paragraph(answer, scan.problems)
    elif answer is None and before:
        known = None if cut or scan.unfinished else loose_answer(before, scan.problems)
        before, answer = known or ("", before)
    return outcome(scan, calls, before, answer or None, _EMPTY, offered=offered, cut=cut)


def looks_like_call(text: str, tools: Sequence[Schema]) -> bool:
    """Whether a text tries to call a tool in the manner of any format."""
    if any(sign in text for sign in ("<", "[", "{", "ction")) and _FOREIGN.search(text):
        return True
    match = _AT_START.match(text)
    return match is not None and any(tool["function"]["name"] == match[1] for tool in tools)


def written_instructions(
    strategy: Strategy, tools: Sequence[Schema], frame: str, calling: str
) -> str:
    """The system text for a strategy, in our own words.

    Args:
        strategy: what is asked for.
        tools: function-calling documents; none: tools are not spoken of.
        frame: how the documents stand, with ``{documents}`` in it.
        calling: how a call is written.
    """
    answer = (
        f"{strategy.thinking()} the final answer, in a few words, on a last line 'Answer: ...'."
    )
    if not tools:
        return f"Answer the question from what you know. {answer}"
    documents = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    turns = "in one turn only" if strategy.tool_turns == 1 else "in as many turns as you want"
    return (
        f"Answer the question. You may call functions {turns}. Their signatures:\n"
        f"{frame.replace('{documents}', documents)}\n{calling}. When you know it: {answer}"
    )


def json_grammar(
    strategy: Strategy,
    offered: Sequence[Schema],
    key: str,
    framed: Callable[[str], str],
    *,
    answer: bool,
    between: str = "\n",
) -> str:
    """The grammar of a format whose calls are JSON objects; see `Format.grammar`.

    Args:
        strategy: what is asked for.
        offered: tools that may be called.
        key: under which a call's arguments stand.
        framed: puts a call between the format's marks.
        answer: whether an answer may be given.
        between: what stands between two calls.
    """

    def call(tool: Schema) -> str:
        head = f'{{"name": {json.dumps(tool["function"]["name"], ensure_ascii=False)}, "{key}": '
        return framed(f'{literal(head)} {arguments(tool)} "}}"')

    thought = ""
    if strategy.reasoning:
        thought = '("<think>" LINE "</think>" "\\n")?'
    elif strategy.thought:
        thought = '(THOUGHT "\\n")?'
    return reply_grammar(
        offered,
        call,
        thought=thought,
        answer='"Answer: " LINE' if answer else "",
        around=("", between, ""),
    )


_TAG = "<|python_tag|>"
_KEYS = (
    r"(?:type|name|parameters|arguments|function|tool_calls"
    r"|id[\"']\s*:\s*[\"'][^\"'\n]{0,80}[\"']\s*,\s*[\"'](?:type|name|function))"
)
_OBJECT = rf"\s*(?:\{{\s*)?[\"']?{_KEYS}[\"']?\s*:"
_BEGIN = re.compile(rf"[\[{{]{_OBJECT}")
_PATTERN = marks_and(r"<(\|python_tag\|>)", rf"\{{({_OBJECT})", rf"\[({_OBJECT})")
_END = re.compile(r"\s*(?:```\s*)?(?:;(?=\s*(?:[\[{<`]|\Z))|<\||\Z)")
_PLAIN = re.compile(THOUGHT + r'\{"name": "([\w.-]+)", "parameters": (?=\{)')
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
        scan = _Objects(text, _PATTERN, cut)
        scan.run()
        if scan.thought is not None and not scan.calls.tried:
            scan.calls.fail("no_call", f"no JSON call follows {_TAG}")
        offered = self.strategy.tools
        return read_reply(scan, tools, offered=offered, cut=cut)

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
    if (plain := plain_reply(text, _PLAIN, "}")) is not None:
        return plain
    brace = text.find("{")
    if brace < 0:
        return common_reply(text, ())
    if "<" in text or "`" in text[:brace] or not text.startswith('{"name"', brace):
        return None
    bodies = text[brace:].split("}; {")
    last = len(bodies) - 1
    whole = (f"{'{' if n else ''}{body}{'}' if n < last else ''}" for n, body in enumerate(bodies))
    return common_reply(text[:brace], list(whole))


class _Objects(CallScanner):
    """A reply with bare JSON objects."""

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
        end = self.calls.read(self.text, begin, _END, self.whole)
        return self.skip(begin, self._next(match.end()) if end is None else end)

    def _next(self, position: int) -> int:
        """Where another object begins that is not part of the one that could not be read."""
        for match in _BEGIN.finditer(self.text, position):
            before = self.text[max(0, match.start() - 40) : match.start()].rstrip()[-1:]
            if before and before not in _WITHIN:
                return match.start()
        return len(self.text)

    def resumes(self, position: int) -> bool:
        """Whether a call begins here."""
        return _BEGIN.match(self.text, position) is not None
