"""``react``: the first paper's fields ``Thought: Action: Rationale: Answer:``, and its parser."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from toolgym.formats.base import Action, Format, argument_name, bound, describe_tools
from toolgym.formats.calls import outcome
from toolgym.formats.fields import FIELD, Fields, call_text
from toolgym.formats.grammar import bare_text, literal, reply_grammar, text_or_object
from toolgym.formats.json_calls import OTHER_FORMAT, looks_like_call
from toolgym.formats.loose import LABEL, first_paragraph
from toolgym.formats.strategies import sample_call
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem

__all__ = ["PaperReactFormat", "ReactFormat"]

_RESPONSE = "\nResponse from tool "
_NOTHING = {"", "none", "n/a", "no action", "none."}
_BRACKETS = r"\[\]"  # in a class of a regular expression


class ReactFormat(Format):
    """The paper's fields, our parser: nested brackets, quotes, JSON arguments, typed problems."""

    name = "react"
    stop = (_RESPONSE,)
    stop_closes = False

    def instructions(self, tools: Sequence[Schema]) -> str:
        """The system text for this strategy, in our own words."""
        strategy = self.strategy
        if not (strategy.tools and tools):
            if not (strategy.thought or strategy.tools):
                return "Answer the question from what you know, in a few words and nothing else."
            step, thought = "", ""
            if strategy.thought:
                step, thought = " Let's think step by step.", "Thought: your reasoning\n"
            return (
                f"Answer the question from what you know.{step}\n"
                "Write exactly these fields, each on a line of its own:\n"
                f"{thought}Answer: the answer in a few words"
            )
        thought = "Thought: what you know and what you still need. Let's think step by step.\n"
        sample = call_text(sample_call(tools[0]), tools)
        rationale = "Rationale: what the tool responses tell you (empty until they have come)\n"
        turns = (
            "You may call tools in one turn only; then you must answer."
            if strategy.tool_turns == 1
            else "You may call tools in as many turns as you want."
        )
        return (
            "Answer the question. These tools can help you:\n"
            + "".join(f"- {line}\n" for line in describe_tools(tools))
            + "Write these fields, each beginning on a line of its own:\n"
            + (thought if strategy.thought else "")
            + f"Action: a tool call such as {sample}, several if needed; empty if none\n"
            + (rationale if strategy.rationale else "")
            + "Answer: the final answer in a few words (empty until you know it)\n"
            f"After an action, stop: the responses come in the next message. {turns}"
        )

    def parse(self, text: str, tools: Sequence[Schema] = (), *, cut: bool = False) -> Action:
        """Read the fields; see `Format.parse`.

        What follows a tool response that the policy made up is not read.
        """
        if self.strategy.tools and not cut and (simple := _simple(text, tools)) is not None:
            return simple
        scan = Fields(text, tools)
        scan.run()
        offered = self.strategy.tools
        acting = scan.last("Action").partition("\n")[0].strip().lower() not in _NOTHING
        if offered and acting and not scan.calls.tried and not (cut or scan.unfinished):
            scan.read_lines()
        if offered and acting and not scan.calls.tried:
            scan.problems.append(Problem("no_call", "no tool call found after Action"))
        thought = scan.first("Thought") or scan.first("")
        answer, missing = scan.last("Answer"), scan.missing()
        if answer:
            answer = first_paragraph(answer, scan.problems)
            if not scan.calls.tried and looks_like_call(scan.first(""), tools):
                scan.problems.append(OTHER_FORMAT)
        elif scan.calls.tried:
            pass
        elif looks_like_call(scan.first(""), tools):
            missing = OTHER_FORMAT
        elif not (acting or cut or scan.unfinished) and (said := scan.said()) is not None:
            thought, answer = said
        elif not (offered or scan.labels):
            thought, answer = "", scan.shown().strip()
        return outcome(scan, scan.calls, thought, answer or None, missing, offered=offered, cut=cut)

    def grammar(self, tools: Sequence[Schema], *, calls: bool = True, answer: bool = True) -> str:
        """Fields, each a line; see `Format.grammar`."""
        return reply_grammar(
            tools if calls and self.strategy.tools else (),
            self._call_piece,
            thought='("Thought: " LINE "\\n")?' if self.strategy.thought else "",
            answer='"Answer: " LINE' if answer else "",
            around=("Action: ", " ", ""),
            barred=_BRACKETS,
        )

    def _call_piece(self, tool: Schema) -> str:
        opening = literal(tool["function"]["name"] + "[")
        return f'{opening} {text_or_object(tool)} "]"'

    def write(self, action: Action, tools: Sequence[Schema] = ()) -> str:
        """The fields that parse to this action."""
        if not (self.strategy.tools or action.calls):
            return f"Answer: {action.answer}"
        lines = [f"Thought: {action.thought}"] if action.thought else []
        if action.calls:
            lines.append("Action: " + " ".join(call_text(call, tools) for call in action.calls))
        if action.answer is not None:
            lines.append(f"Answer: {action.answer}")
        return "\n".join(lines)

    def results(
        self, calls: Sequence[ToolCall], results: Sequence[ToolResult], tools: Sequence[Schema] = ()
    ) -> list[Message]:
        """One user message, one line a call, as in the paper."""
        lines = [
            f"Response from tool {call_text(call, tools)} are: {result.content}"
            for call, result in zip(calls, results, strict=True)
        ]
        return [Message("user", "\n".join(lines) + self._after())]

    def _after(self) -> str:
        return self.strategy.following("another Action", "Answer: with a few words")


# The common reply: a thought, then one plain call or an answer in a line.
_SIMPLE = re.compile(
    r"(?:Thought:([^<[◁]*)\n)?"
    r"(?:Action:[ \t]*(\w[\w.-]{0,63})\[(?![ \t]*[{\"'])([^][]+)\]\s*"
    r"(?:\nRationale:\s*)?(?:\nAnswer:\s*)?|Answer:([^<[◁\n]*))\Z"
)
_LINE_LABEL = re.compile(rf"\n(?:{FIELD}|Response from tool )")


def _simple(text: str, tools: Sequence[Schema]) -> Action | None:
    """The action of a reply of the common kind: the scanner's reading in a fraction of its time."""
    match = _SIMPLE.match(text)
    if match is None:
        return None
    thought, name, argument, answer = match.groups(default="")
    if "\n" in thought and _LINE_LABEL.search(thought):
        return None
    if not name:
        answer = answer.strip()
        plain_answer = answer and LABEL.match(answer) is None
        return Action(thought.strip(), (), answer) if plain_answer else None
    call = ToolCall("call_0", name, bound(name, argument.strip(), tools))
    return Action(thought.strip(), (call,))


class PaperReactFormat(ReactFormat):
    """The parser as published with arXiv 2502.05867.

    Calls are flat ``Name[text]`` between the first ``Action:`` at the begin of a line that is not
    the first line, and ``Rationale:``; the answer stands between the first and the second such
    ``Answer:``; without one the reply is an answer as a whole. Under a strategy that allows tools
    in one turn, the next reply is the answer, calls in it or not.
    """

    name = "react-paper"
    _call = re.compile(r"\b(\w++)\[([^\[\]]++)\]")
    _hints = (
        ("Calculator", "the input is one arithmetic expression, such as 2*(3+4)"),
        ("WikipediaSearch", "the input is what to look up: a name or a topic"),
        ("MachineTranslator", "the input is the text to be translated into English"),
    )

    def instructions(self, tools: Sequence[Schema]) -> str:
        """The paper's prompts in our words: hints for each tool, and leave to do without."""
        text = super().instructions(tools)
        names = {tool["function"]["name"] for tool in tools}
        hints = "".join(f"\n{name}: {hint}." for name, hint in self._hints if name in names)
        own = "\nYou may also use what you know yourself, instead of a tool or beside it."
        return text + (hints + own if self.strategy.tools and tools else "")

    def _after(self) -> str:
        return ""  # as published

    def parse(self, text: str, tools: Sequence[Schema] = (), *, cut: bool = False) -> Action:
        """Read a reply exactly as the paper's code does; that it was cut is a problem, no more."""
        calls: list[ToolCall] = []
        fields = text.split("\nAction:", 2) if self.strategy.tools else ()
        if len(fields) > 1:
            block = fields[1].split("\nRationale:", 1)[0]
            for name, argument in self._call.findall(block):
                call_id = f"call_{len(calls)}"
                calls.append(ToolCall(call_id, name, {argument_name(name, tools): argument}))
        problems = (Problem("cut_reply", "it was cut at the limit of its length"),) if cut else ()
        answer = None if calls else _published_answer(text)
        thought = _PAPER_THOUGHT.search(text)
        return Action(thought[1].strip() if thought else "", tuple(calls), answer, problems)

    def grammar(self, tools: Sequence[Schema], *, calls: bool = True, answer: bool = True) -> str:
        """As the paper's code reads it: a thought is always there, and calls hold bare text."""
        bare = not (self.strategy.tools or self.strategy.thought)
        return reply_grammar(
            tools if calls and self.strategy.tools else (),
            self._call_piece,
            thought="" if bare else '"Thought: " LINE? "\\n"',
            answer=("LINE" if bare else '"Answer: " LINE') if answer else "",
            around=("Action: ", " ", ""),
            barred=_BRACKETS,
        )

    def _call_piece(self, tool: Schema) -> str:
        name, text = tool["function"]["name"], bare_text(tool)
        return f'{literal(name + "[")} {text} "]"' if text and re.fullmatch(r"\w+", name) else ""

    def without_calls(self, action: Action, text: str) -> Action:
        """The second reply under ``tools_single_step``: its answer counts, whatever it holds."""
        return replace(action, calls=(), answer=_published_answer(text))

    def write(self, action: Action, tools: Sequence[Schema] = ()) -> str:
        """The fields that parse to this action; a thought comes first, empty or not."""
        if not (self.strategy.tools or self.strategy.thought):
            return str(action.answer)
        lines = [f"Thought: {action.thought}"]
        if action.calls:
            lines.append("Action: " + " ".join(call_text(call, tools) for call in action.calls))
        if action.answer is not None:
            lines.append(f"Answer: {action.answer}")
        return "\n".join(lines)


_PAPER_THOUGHT = re.compile(r"^Thought:(.*?)(?=^(?:Action|Rationale|Answer):|\Z)", re.M | re.S)


def _published_answer(text: str) -> str:
    fields = text.split("\nAnswer:", 2)
    return fields[1].strip() if len(fields) > 1 else text
