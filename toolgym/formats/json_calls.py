"""Replies of formats whose calls are JSON objects and where text without a call is the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from toolgym.formats.base import MAX_CALLS, Action
from toolgym.formats.calls import KEYS, Calls, outcome
from toolgym.formats.grammar import arguments, literal, reply_grammar
from toolgym.formats.loose import LABEL, first_paragraph, loose_answer
from toolgym.formats.scan import Scanner, labelled, read_json
from toolgym.formats.strategies import Strategy
from toolgym.messages import ToolCall
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem

__all__ = [
    *("OTHER_FORMAT", "common_reply", "json_grammar", "looks_like_call", "read_reply"),
    "written_instructions",
]

_SIGNS = re.compile(r"[<\[{(◁]|[Aa]ction")  # without these a text holds no mark and no call


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


def read_reply(
    scan: Scanner,
    calls: Calls,
    thought: str | None,
    tools: Sequence[Schema],
    *,
    offered: bool,
    cut: bool,
) -> Action:
    """A reply in a format where text without a call is the answer.

    Args:
        scan: over the whole reply, done.
        calls: of it.
        thought: the text before the first call, or None without one.
        tools: function-calling documents.
        offered: whether the strategy offers tools.
        cut: whether the reply was cut.
    """
    visible = scan.shown()
    before, answer = labelled(visible, _ANSWER)
    if thought is not None:
        return outcome(scan, calls, thought, answer or None, _EMPTY, offered=offered, cut=cut)
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
