"""``react``: the first paper's fields ``Thought: Action: Rationale: Answer:``, and its parser."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import replace

from toolgym.formats.base import Action, Format, argument_name, bound, describe_tools
from toolgym.formats.calls import Calls, arguments_text, json_argument, outcome
from toolgym.formats.grammar import bare_text, literal, reply_grammar, text_or_object
from toolgym.formats.json_calls import OTHER_FORMAT, looks_like_call
from toolgym.formats.repair import read_value
from toolgym.formats.scan import Scanner, bracket_pairs, closing_bracket, marks_and
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem

__all__ = ["PaperReactFormat", "ReactFormat"]

_RESPONSE = "\nResponse from tool "
_FIELD = r"[ \t]*\**(?i:(?:Final (?=Answer))?(Thought|Action|Rationale|Answer)\**:)\**[ \t]*"
_LABEL = re.compile(_FIELD)
_LABELS = marks_and(rf"\n{_FIELD}", r"\n(Response from tool )")
_CALLING = marks_and(
    rf"\n{_FIELD}", r"\n(Response from tool )", r"\[(?<=[^\s\[\](){},;:]\[)(?!/?THINK\])()"
)
_NAMES = {name: name for name in ("Thought", "Action", "Rationale", "Answer")}
_NOTHING = {"", "none", "n/a", "no action", "none."}
_NAME = re.compile(r"\w[\w.-]*\Z")
_LONGEST_NAME = 64  # characters; also what keeps the search for names linear
_CLOSING = re.compile(r"\s*\]")
_STRAY = re.compile(r"\][ \t]*+[^\[\]\s][^\[\]\n]*+\]")  # words, and a bracket that closes nothing
_BRACKETS = r"\[\]"  # in a class of a regular expression
_QUOTED = re.compile(r"\"|'[^'\\\n]*+'\s*\]")


class ReactFormat(Format):
    """The paper's fields, our parser: nested brackets, quotes, JSON arguments, typed problems."""

    name = "react"
    stop = (_RESPONSE,)

    def instructions(self, tools: Sequence[Schema]) -> str:
        """The system text for this strategy, in our own words."""
        strategy = self.strategy
        if not strategy.tools:
            if not strategy.thought:
                return "Answer the question from what you know, in a few words and nothing else."
            return (
                "Answer the question from what you know. Let's think step by step.\n"
                "Write exactly these two fields, each on a line of its own:\n"
                "Thought: your reasoning\nAnswer: the answer in a few words"
            )
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
            "Thought: what you know and what you still need. Let's think step by step.\n"
            "Action: the tool calls as ToolName[input], several if needed; empty if none\n"
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
        scan = _Fields(text, tools)
        scan.run()
        thought = scan.first("Thought") or scan.first("")
        answer = scan.last("Answer")
        offered = self.strategy.tools
        if offered and not scan.calls.tried and scan.last("Action").lower() not in _NOTHING:
            scan.problems.append(Problem("no_call", "no tool call found after Action"))
        missing = scan.missing()
        if not (answer or scan.calls.tried) and looks_like_call(scan.first(""), tools):
            missing = OTHER_FORMAT
        elif not offered and not (answer or scan.calls.tried or scan.labels):
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
        return [Message("user", "\n".join(lines))]


def call_text(call: ToolCall, tools: Sequence[Schema]) -> str:
    """``Name[text]`` where one plain text is all there is to say, else ``Name[{...}]``."""
    if len(call.arguments) == 1:
        ((key, value),) = call.arguments.items()
        if key == argument_name(call.name, tools) and isinstance(value, str) and plain(value):
            return f"{call.name}[{value}]"
    return f"{call.name}[{arguments_text(call)}]"


def plain(argument: str) -> bool:
    """Whether a text can stand in brackets as it is and be read back the same."""
    return (
        argument == argument.strip()
        and bool(argument)
        and argument[0] not in "{\"'"
        and not _LINE_BREAK.search(argument)
        and (
            ("[" not in argument and "]" not in argument)
            or closing_bracket(argument + "]", 0) == len(argument)
        )
    )


_LINE_BREAK = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


# The common reply: a thought, then one plain call or an answer in a line.
_SIMPLE = re.compile(
    r"(?:Thought:([^<[◁]*)\n)?"
    r"(?:Action:[ \t]*(\w[\w.-]{0,63})\[(?![ \t]*[{\"'])([^][]+)\]\s*"
    r"(?:\nRationale:\s*)?(?:\nAnswer:\s*)?|Answer:([^<[◁\n]*))\Z"
)
_LINE_LABEL = re.compile(rf"\n(?:{_FIELD}|Response from tool )")


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
        return Action(thought.strip(), (), answer) if answer else None
    call = ToolCall("call_0", name, bound(name, argument.strip(), tools))
    return Action(thought.strip(), (call,))


class _Fields(Scanner):
    """A reply as fields; brackets count in its Action fields only."""

    def __init__(self, text: str, tools: Sequence[Schema]) -> None:
        super().__init__(text, _LABELS)
        self.calls, self.tools = Calls(), tools
        self._fields: list[tuple[str, list[str]]] = [("", self.visible)]
        self._pairs: dict[int, int] | None = None

    @property
    def labels(self) -> bool:
        """Whether any field has a label."""
        return len(self._fields) > 1

    def first(self, label: str) -> str:
        """The text of the first field of that label, or nothing."""
        return next(("".join(parts).strip() for name, parts in self._fields if name == label), "")

    def last(self, label: str) -> str:
        """The text of the last field of that label that has any, or nothing."""
        texts = ("".join(parts).strip() for name, parts in self._fields[::-1] if name == label)
        return next((text for text in texts if text), "")

    def missing(self) -> Problem:
        """What to say of a reply without call and answer."""
        if not self.text.strip():
            return Problem("empty_reply", "it was empty")
        if self.labels:
            return Problem("no_answer", "it has neither a tool call nor an answer")
        text = "write 'Action: ToolName[input]' or 'Answer: ...' on its own line"
        return Problem("no_fields", text)

    def unit(self, match: re.Match[str]) -> int | None:
        """Read a label, or a call in an Action field."""
        if match[0] == "[":
            return self._call(match.start())
        if match[1] is not None:
            return self._label(match, match[1])
        self.problems.append(Problem("wrote_result", "tool responses are written by tools only"))
        return self.stop(match.start())

    def fresh_line(self, position: int) -> int:
        """A label may stand directly behind reasoning."""
        match = _LABEL.match(self.text, position)
        return position if match is None else self._label(match, match[1])

    def forget(self) -> None:
        """Fields in reasoning are drafts."""
        self.visible = []
        self._fields, self.pattern = [("", self.visible)], _LABELS
        self.calls.clear()

    def _label(self, match: re.Match[str], name: str) -> int:
        begin = match.start()
        if begin > self._from:
            self.take(begin)
        self._from = match.end()
        label = _NAMES.get(name) or name.capitalize()
        self.visible = []
        self._fields.append((label, self.visible))
        self.pattern = _CALLING if label == "Action" and not self.calls.exhausted else _LABELS
        return match.end()

    def _call(self, bracket: int) -> int | None:
        text = self.text
        name = self._name(max(self._from, bracket - _LONGEST_NAME), bracket)
        if not name:
            return None
        begin, stop = bracket + 1, None
        while text[begin : begin + 1] in (" ", "\t"):
            begin += 1
        if text.startswith("{", begin):
            value, stop = json_argument(
                text, begin, _CLOSING, self.calls, lambda *_: self._closing(bracket)
            )
            if value is not None:
                self.calls.add(name, *value)
        elif (quoted := _QUOTED.match(text, begin)) is not None:
            stop = self._quoted_argument(name, quoted)
        if stop is None:
            stop = self._closing(bracket)
            if stop is None:
                what = f"the call {name}[ has no closing bracket: {name}[...]"
                self.calls.fail("unclosed_call", what)
                self.pattern = _LABELS
                return None
            if _STRAY.match(text, stop):
                what = f"the call {name}[ holds a ']' that closes nothing: put its text in quotes"
                self.calls.fail("bad_call", what)
            else:
                self.calls.add(name, bound(name, text[begin:stop].strip(), self.tools))
        self.take(bracket - len(name))
        closing = _CLOSING.match(text, stop)
        self._from = closing.end() if closing is not None else stop
        if self.calls.exhausted:
            return self.stop(self._from)
        return self._from

    def _closing(self, bracket: int) -> int | None:
        """Where a bracket closes; behind the first that does not, all are looked up at once."""
        if self._pairs is not None:
            return self._pairs.get(bracket)
        found = closing_bracket(self.text, bracket + 1)
        if found is None:
            self._pairs = bracket_pairs(self.text, bracket + 1)
        return found

    def _quoted_argument(self, name: str, quoted: re.Match[str]) -> int | None:
        """One string in quotes, which may hold an object that was encoded twice."""
        try:
            value, stop, notes = read_value(
                self.text, quoted.start(), _CLOSING, complete=False, budget=self.calls.budget
            )
        except ValueError:
            return None
        if not isinstance(value, str) or _CLOSING.match(self.text, stop) is None:
            return None
        if value.lstrip().startswith("{") and "}" in value:
            self.calls.add_arguments(name, value, notes)
        else:
            notes = [note for note in notes if note != "single quotes"]
            self.calls.add(name, bound(name, value, self.tools), notes)
        return stop

    def _name(self, begin: int, bracket: int) -> str:
        """The name before a bracket; tools may have names of several words."""
        match = _NAME.search(self.text[begin:bracket])
        found = match[0] if match is not None else ""
        if self.tools and self.text[begin:bracket].strip() != found:
            odd = _odd_names(tuple(tool["function"]["name"] for tool in self.tools))
            for name in odd:
                if self.text.endswith(name, self._from, bracket):
                    return name
        return found


@functools.lru_cache(maxsize=64)
def _odd_names(names: tuple[str, ...]) -> list[str]:
    odd = (name for name in names if not _NAME.fullmatch(name))
    return sorted(odd, key=len, reverse=True)


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
        return text + (hints + own if self.strategy.tools else "")

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
