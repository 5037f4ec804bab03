"""``tags``: ``<think>``, ``<search>``, ``<information>``, ``<answer>``, as in Search-R1."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence

from toolgym.formats.base import NO_TEXT, Action, Format, argument_name, bound, describe_tools
from toolgym.formats.calls import Calls, NativeCall, arguments_text, json_argument, outcome
from toolgym.formats.grammar import literal, reply_grammar, text_or_object
from toolgym.formats.json_calls import OTHER_FORMAT, looks_like_call
from toolgym.formats.loose import LABEL, loose_answer
from toolgym.formats.scan import Scanner, before_end, marks_and
from toolgym.formats.strategies import sample_call
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem

__all__ = ["TagsFormat"]

ALIASES = {
    "search": "WikipediaSearch",
    "calculator": "Calculator",
    "translate": "MachineTranslator",
}
_SHORT = {name: tag for tag, name in ALIASES.items()}
_RESERVED = ("think", "answer", "information")
_SPACE = re.compile(r"\s*+")
_ANSWER = r"^[ \t>#-]*\**(?:Final )?Answer\**[ \t]?[:：]\**[ \t]*(?=\S)"
_LABELLED = re.compile(f"{LABEL.pattern}|{_ANSWER}", LABEL.flags)


class TagsFormat(Format):
    """Search-R1's tags; every tool has one: ``<search>`` and its like, else the tool's own name.

    A reply that carries an ``<information>`` block of its own is read as a transcript: calls
    before the block count as answered, and the block is a problem (``wrote_result``).
    """

    name = "tags"
    stop = ("</search>", "</answer>", "</calculator>", "</translate>")

    def instructions(self, tools: Sequence[Schema]) -> str:
        """The system text for this strategy, in our own words."""
        think = "Reason between <think> and </think> first. " if self.strategy.thought else ""
        answer = (
            "Give the final answer, a few words without explanation, between <answer> and </answer>"
        )
        if not tools:
            return f"Answer the question from what you know. {think}{answer}."
        lines = [
            f"- {self._block(sample_call(tool), tools)} calls {line}"
            for tool, line in zip(tools, describe_tools(tools), strict=True)
        ]
        turns = "once" if self.strategy.tool_turns == 1 else "as often as you want"
        return (
            f"Answer the question. {think}When you lack knowledge, call a tool with its tag:\n"
            + "\n".join(lines)
            + "\nThe results come between <information> and </information> in the next message. "
            f"You may call tools {turns}. {answer}."
        )

    def parse(self, text: str, tools: Sequence[Schema] = (), *, cut: bool = False) -> Action:
        """Read the tags; see `Format.parse`."""
        if self.strategy.tools and not cut and (simple := _simple(text, tools)) is not None:
            return simple
        scan = _Blocks(text, tools)
        scan.run()
        thought = scan.reasoning[0].strip() if scan.reasoning else ""
        missing = Problem("no_answer", "it has neither a tool call nor <answer>...</answer>")
        if not text.strip():
            missing = Problem("empty_reply", "it was empty")
        elif not scan.calls.made and scan.answer is None and looks_like_call(scan.shown(), tools):
            missing = OTHER_FORMAT
        elif not (scan.answer or scan.calls.tried or scan.unfinished or cut or scan.problems):
            known = loose_answer(scan.shown(), scan.problems, _LABELLED)
            scan.answer = known[1] or None if known is not None else scan.answer
        offered = self.strategy.tools
        return outcome(scan, scan.calls, thought, scan.answer, missing, offered=offered, cut=cut)

    def grammar(self, tools: Sequence[Schema], *, calls: bool = True, answer: bool = True) -> str:
        """Tags, each block a line; see `Format.grammar`."""

        def call(tool: Schema) -> str:
            tag = tag_of(tool, tools)
            return f"{literal(f'<{tag}>')} {text_or_object(tool)} {literal(f'</{tag}>')}"

        return reply_grammar(
            tools if calls and self.strategy.tools else (),
            call,
            thought='("<think>" LINE "</think>" "\\n")?' if self.strategy.thought else "",
            answer='"<answer>" LINE "</answer>"' if answer else "",
        )

    def write(self, action: Action, tools: Sequence[Schema] = ()) -> str:
        """The tags that parse to this action."""
        parts = [f"<think>{action.thought}</think>"] if action.thought else []
        parts += [self._block(call, tools) for call in action.calls]
        if action.answer is not None:
            parts.append(f"<answer>{action.answer}</answer>")
        return "\n".join(parts)

    def _block(self, call: ToolCall, tools: Sequence[Schema]) -> str:
        tag = _tag(call.name, tools)
        text = call.arguments.get(argument_name(call.name, tools))
        if len(call.arguments) != 1 or not isinstance(text, str) or not _plain(text, tag):
            text = arguments_text(call)
            if not isinstance(call, NativeCall):
                text = text.replace("</", "<\\/")  # closing tags also stop the writing
        return f"<{tag}>{text}</{tag}>"

    def results(
        self, calls: Sequence[ToolCall], results: Sequence[ToolResult], tools: Sequence[Schema] = ()
    ) -> list[Message]:
        """One user message with an ``<information>`` block a call."""
        blocks = (f"<information>{result.content}</information>" for result in results)
        return [Message("user", "\n".join(blocks))]


# The common reply: perhaps a thought, then a call with a bare text, or an answer. Between two tags
# no other mark counts.
_SIMPLE = re.compile(
    r"(?:<think>([^<]*)</think>\s*)?<([\w.-]+)>([^<\s{](?:[^<]*[^<\s])?)</\2>\s*\Z"
)


def _simple(text: str, tools: Sequence[Schema]) -> Action | None:
    """The action of a reply of the common kind: the scanner's reading in a fraction of its time."""
    match = _SIMPLE.match(text)
    if match is None:
        return None
    thought, tag, said = match.groups(default="")
    thought = thought.strip()
    if tag in _RESERVED:
        return Action(thought, (), said) if tag == "answer" else None
    own = any(tool["function"]["name"] == tag for tool in tools)
    name = tag if own else ALIASES.get(tag)
    if name is None or tag.startswith("call-"):
        return None
    return Action(thought, (ToolCall("call_0", name, bound(name, said, tools)),))


def _plain(text: str, tag: str) -> bool:
    """Whether a text can stand between the tags as it is and be read back the same."""
    if text in NO_TEXT or text != text.strip() or text.startswith(("{", f"<{tag}>")):
        return False
    return f"</{tag}>" not in text and not text.endswith(f"</{tag}")


def tag_of(tool: Schema, tools: Sequence[Schema]) -> str:
    """The tag that calls a tool: its short one unless another tool has that name."""
    return _tag(str(tool["function"]["name"]), tools)


def _tag(name: str, tools: Sequence[Schema]) -> str:
    short = _SHORT.get(name, name)
    if short != name and any(tool["function"]["name"] == short for tool in tools):
        short = name
    return f"call-{short}" if short in _RESERVED else short


def _finder(closing: str) -> Callable[[str, int], int | None]:
    def find(text: str, begin: int) -> int | None:
        place = text.find(closing, begin)
        return place if place >= 0 else None

    return find


@functools.lru_cache(maxsize=64)
def _names(names: tuple[str, ...]) -> tuple[dict[str, str], re.Pattern[str]]:
    """Tags to the tools that they call (short ones, own names, those made up), and all tags."""
    own = {f"call-{name}" if name in _RESERVED else name: name for name in names}
    tags = ALIASES | own
    longest_first = sorted((*tags, "answer", "information"), key=len, reverse=True)
    return tags, marks_and(f"<({'|'.join(re.escape(tag) for tag in longest_first)})>")


class _Blocks(Scanner):
    """A reply with tagged calls, answers and information."""

    def __init__(self, text: str, tools: Sequence[Schema]) -> None:
        self.tags, pattern = _names(tuple([tool["function"]["name"] for tool in tools]))
        super().__init__(text, pattern)
        self.calls, self.tools = Calls(), tools
        self.answer: str | None = None
        self._unclosed: set[str] = set()
        self._made_up = False  # within a block of information that is not closed

    def unit(self, match: re.Match[str]) -> int | None:
        """Read a block up to its closing tag; in JSON that tag is text."""
        tag, begin = match[1], match.end()
        if self.calls.exhausted:
            return self.stop(match.start())
        if tag in self._unclosed:
            return None
        if tag in self.tags:
            return None if self._made_up else self._call(tag, match)
        close = self.text.find(f"</{tag}>", begin)
        if tag == "information":
            self._information()
            if close >= 0:
                return self.skip(match.start(), close + len("</information>"))
            self._made_up = True
            self._unclosed.add(tag)
            return None
        if close < 0:
            self._unclosed.add(tag)
            self.answer = None
            self.problems.append(Problem("unclosed_answer", "<answer> has no </answer>"))
            return None
        self.answer = before_end(self.text[begin:close]).strip().removesuffix("</answer").rstrip()
        return self.skip(match.start(), close + len("</answer>"))

    def never_ends(self, match: re.Match[str]) -> int:
        """Tags go on to count: these models end their reasoning by calling a tool."""
        self.unfinished = True
        tag = self.pattern.search(self.text, match.end())
        self.reasoning.append(self.text[match.end() : tag.start() if tag else None])
        return match.end()

    def forget(self) -> None:
        """What stands in reasoning is a draft."""
        super().forget()
        self.calls.clear()
        self.answer = None

    def _information(self) -> None:
        """What stands before the block is a transcript: its calls are answered."""
        self.calls.clear()
        self.unfinished = False
        if not any(problem.kind == "wrote_result" for problem in self.problems):
            text = "it holds an <information> block, which only tools write"
            self.problems.append(Problem("wrote_result", text))

    def _call(self, tag: str, match: re.Match[str]) -> int | None:
        text, opening, closing = self.text, f"<{tag}>", f"</{tag}>"
        name, begin = self.tags[tag], match.end()
        inner = _SPACE.match(text, begin)
        begin = inner.end() if inner is not None else begin
        while text.startswith(opening, begin):
            begin += len(opening)
        if text.startswith("{", begin):
            end = re.compile(rf"\s*{re.escape(closing)}")
            value, stop = json_argument(text, begin, end, self.calls, _finder(closing))
            if stop is not None:
                if value is not None:
                    self.calls.add(name, *value)
                after = end.match(text, stop)
                return self.skip(match.start(), after.end() if after is not None else stop)
        close = text.find(closing, begin)
        if close < 0:
            self._unclosed.add(tag)
            self.calls.fail("unclosed_call", f"{opening} has no {closing}")
            return None
        argument = text[begin:close].strip().removesuffix(closing[:-1]).rstrip()
        self.calls.add(name, bound(name, argument, self.tools))
        return self.skip(match.start(), close + len(closing))
