"""The fields of ``react`` as they are read, and its calls as they are written."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from toolgym.formats.base import NO_TEXT, argument_name, bound
from toolgym.formats.calls import Calls, arguments_text, json_argument
from toolgym.formats.loose import in_lines, in_parentheses, loose_answer
from toolgym.formats.repair import read_value
from toolgym.formats.scan import Scanner, bracket_pairs, closing_bracket, marks_and
from toolgym.formats.strategies import sample_call
from toolgym.messages import ToolCall
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem

__all__ = ["FIELD", "Fields", "call_text"]

_COLON = r"\**[ \t]?[:：]\**[ \t]*"
FIELD = rf"[ \t>#-]*\**(?i:(?:Final (?=Answer))?(Thought|Action|Rationale|Answer)){_COLON}"
_LABEL = re.compile(FIELD)
_LABELS = marks_and(rf"\n{FIELD}", r"\n(Response from tool )")
_CALLING = marks_and(
    rf"\n{FIELD}",
    r"\n(Response from tool )",
    r"\[(?<=[^\s\[\](){},;:]\[)(?!/?THINK\])()",
    r"\((?<=[^\s\[\](){},;:]\()()",
)
_NAMES = {name: name for name in ("Thought", "Action", "Rationale", "Answer")}
_NAME = re.compile(r"\w[\w.-]*\Z")
_LONGEST_NAME = 64  # characters; also what keeps the search for names linear
_CLOSING = re.compile(r"\s*\]")
_STRAY = re.compile(r"\][ \t]*+[^\[\]\s][^\[\]\n]*+\]")  # words, and a bracket that closes nothing
_QUOTED = re.compile(r"\"|'[^'\\\n]*+'\s*\]")


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
        and argument not in NO_TEXT
        and argument[0] not in "{\"'"
        and not _LINE_BREAK.search(argument)
        and (
            ("[" not in argument and "]" not in argument)
            or closing_bracket(argument + "]", 0) == len(argument)
        )
    )


_LINE_BREAK = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


class Fields(Scanner):
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
        action = ""
        if self.tools:
            action = f"'Action: {call_text(sample_call(self.tools[0]), self.tools)}' or "
        return Problem("no_fields", f"write {action}'Answer: ...' on its own line")

    def said(self) -> tuple[str, str] | None:
        """The thought and the one answer of a reply without the label of one."""
        found = loose_answer("\n".join("".join(t).strip() for _, t in self._fields), self.problems)
        return None if found is None else (self.first("Thought") or found[0], found[1])

    def read_lines(self) -> None:
        """Read Action fields whose lines are names and inputs, where no call was found."""
        fields = ("".join(parts) for name, parts in self._fields if name == "Action")
        for field in fields:
            for name, arguments in in_lines(field, self.tools, self.calls.budget):
                self.calls.add_loose(name, arguments, f"{name}[...]")

    def unit(self, match: re.Match[str]) -> int | None:
        """Read a label, or a call in an Action field."""
        if match[0] == "[":
            return self._call(match.start())
        if match[0] == "(":
            return self._call_of_python(match.start())
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

    def _call_of_python(self, parenthesis: int) -> int | None:
        names = [tool["function"]["name"] for tool in self.tools]
        # Most parentheses follow no tool's name: then the name need not be cut out.
        if not self.text.endswith(tuple(names), self._from, parenthesis):
            return None
        name = self._name(max(self._from, parenthesis - _LONGEST_NAME), parenthesis)
        if name not in names:
            return None
        arguments, stop = in_parentheses(
            self.text, parenthesis + 1, name, self.tools, self.calls.budget
        )
        if stop is None:
            self.calls.fail("unclosed_call", f"the call {name}( is not closed: {name}[...]")
            self.pattern = _LABELS
            return None
        if arguments is None:
            what = f"the call {name}(...) has no single reading: write {name}[...]"
            self.calls.fail("bad_call", what)
        else:
            self.calls.add_loose(name, arguments, f"{name}[...]")
        self.take(parenthesis - len(name))
        self._from = stop + 1
        return self.stop(self._from) if self.calls.exhausted else self._from

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
