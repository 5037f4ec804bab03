"""The one scanner under all formats: reasoning, tokens that end a turn, strings, brackets, JSON.

A reply is read once from left to right. What opens a call or a field is the format's own; within a
call nothing but its own end counts, so that a delimiter in a quoted string is text.
"""

from __future__ import annotations

import functools
import json
import math
import re
from typing import Any

from toolgym.trajectory import Problem

MAX_DEPTH = 50  # levels of lists and objects in arguments
_TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels"

REASONING = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "<mm:think>": "</mm:think>",
    "[THINK]": "[/THINK]",
    "◁think▷": "◁/think▷",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|channel>thought": "<channel|>",
    "<|channel|>analysis<|message|>": "<|end|>",
}
"""What opens reasoning, in several families of models, and what closes it."""

# `<|end|>` also ends a turn: alone it closes no reasoning.
_CLOSERS = frozenset(REASONING.values()) - {"<|end|>"}
_HEADS = (
    r"\|im_start\|>assistant|\|start_header_id\|>assistant<\|end_header_id\|>|\|start\|>assistant"
    r"|\|channel\|>(?:final|commentary)[^<\n]{0,80}<\|message\|>|\|begin_of_text\|>|bos>"
    r"|\|assistant\|>|start_of_turn>model|｜begin▁of▁sentence｜>|｜Assistant｜>"
)
_ENDS = (
    r"\|(?:im_end|eot_id|eom_id|end_of_text|endoftext|end|eot|eos|return|call|endofturn|"
    r"end_of_turn|END_OF_TURN_TOKEN|END_RESPONSE|end_of_sentence|EOT|eom|eod|message_end|role_end|"
    r"im_start|start_header_id|user|observation|EOS|eoa|end_of_answer|end_of_message|end_turn)\|>|"
    r"/s>|seed:eos>|(?:eos|eot|eoa|eom|eod|EOS|EOT|EOA|EOM|EOD|end_of_utterance)>|"
    r"end_of_turn>|start_of_turn>|turn\|>|｜end▁of▁sentence｜>|｜User｜>"
)
_HEAD = re.compile(f"<(?:{_HEADS})")
_END = re.compile(rf"<(?:{_ENDS.replace('|/s>', '')})|</s>(?:\s|</?s>)*+\Z")
_LAST = (
    r"\[(?:EOS|/INST|\|endofturn\|)\](?=(?:\s|</s>)*+\Z)"  # elsewhere they are words in brackets
)
_FOLLOWING = re.compile(rf"(?:\s|<(?:\|python_tag\|>|s>|{_HEADS}|{_ENDS}))*+")
_WORDS = [re.escape(word) for pair in REASONING.items() for word in pair]
_OTHERS = "|".join(word for word in _WORDS if word[0] != "<")
_MARKS = f"<(?:{'|'.join(w[1:] for w in _WORDS if w[0] == '<')}|{_HEADS}|{_ENDS})|{_OTHERS}|{_LAST}"
_ANSWERING = re.compile(r"^[\s>#-]*\**(?:final )?answer\**[ \t]?[:：]\**\s*\S", re.I)
_WINDOW = 200  # characters of a line before a marker that are looked at


@functools.lru_cache(maxsize=256)
def marks_and(*units: str) -> re.Pattern[str]:
    """Reasoning markers and turn tokens, or what begins a format's own units.

    Args:
        units: patterns that begin with a literal sign, which is what makes the search fast, and
            hold a group that takes part in each match.
    """
    return re.compile("|".join([*units, _MARKS]))


class Scanner:
    """Reads a reply: what is visible, what was reasoning, and the units of a format.

    Formats override `unit` and `forget`. Time is linear where a unit is read in linear time.

    Args:
        text: the reply.
        pattern: of `marks_and`.
    """

    pattern: re.Pattern[str]

    def __init__(self, text: str, pattern: re.Pattern[str]) -> None:
        self.text, self.pattern = text, pattern
        self.visible: list[str] = []
        self.reasoning: list[str] = []
        self.problems: list[Problem] = []
        self.unfinished = False
        self._from = 0  # what is visible from here on is not taken yet
        self._before = 0  # all before is reasoning
        self._absent: set[str] = set()  # closers that do not come any more

    def unit(self, match: re.Match[str]) -> int | None:
        """Read what begins here.

        Returns:
            Where reading goes on; None: it is text, as all is to a scanner that knows no format.
        """
        return None

    def forget(self) -> None:
        """All before was reasoning: drop what was read."""
        self.visible.clear()

    def fresh_line(self, position: int) -> int:
        """Something invisible ended here: what follows stands at the begin of a line."""
        return position

    def resumes(self, position: int) -> bool:
        """Whether a call begins here, behind a token that ends a message."""
        return False

    def run(self) -> None:
        """Read all of it."""
        text, position = self.text, self.fresh_line(0)
        while (match := self.pattern.search(text, position)) is not None:
            mark = match[0]
            if match.lastindex is not None:
                end = self.unit(match)
                position = match.end() if end is None else end
            elif mark in REASONING:
                position = self._open(match)
            elif mark in _CLOSERS:
                position = self._close(match)
            elif _HEAD.fullmatch(mark):
                position = self.skip(match.start(), match.end())
            else:
                position = self._end(match)
        self.take(len(text))
        if self._before:
            self.reasoning.insert(0, text[: self._before])

    def take(self, until: int) -> None:
        """Count the text up to here as visible."""
        if until > self._from:
            self.visible.append(self.text[self._from : until])
            self._from = until

    def skip(self, begin: int, end: int) -> int:
        """Leave out a span; what follows begins a line of its own."""
        self.take(begin)
        self._from = end
        if self.visible:
            self.visible.append("\n")
        return self.fresh_line(end)

    def stop(self, begin: int) -> int:
        """Read nothing from here on."""
        self.take(begin)
        self._from = len(self.text)
        return self._from

    def shown(self) -> str:
        """The visible text so far."""
        return "".join(self.visible)

    def never_ends(self, match: re.Match[str]) -> int:
        """Reasoning that is not closed: all that follows belongs to it."""
        self.unfinished = True
        self.reasoning.append(self.text[match.end() :])
        return self.stop(match.start())

    def _open(self, match: re.Match[str]) -> int:
        begin, end, closer = match.start(), match.end(), REASONING[match[0]]
        if self._quoted(begin, end) or (self.unfinished and closer in self._absent):
            return end
        close = -1 if closer in self._absent else self.text.find(closer, end)
        if close >= 0:
            self.reasoning.append(self.text[end:close])
            return self.skip(begin, close + len(closer))
        self._absent.add(closer)
        line = self.text[max(0, begin - _WINDOW) : begin].rpartition("\n")[2]
        if _ANSWERING.match(line):  # an answer that speaks of the marker
            return end
        return self.never_ends(match)

    def _close(self, match: re.Match[str]) -> int:
        if self._quoted(match.start(), match.end()):
            return match.end()
        self.reasoning.clear()
        self._before = match.start()
        self.forget()
        self._from = match.end()
        return self.fresh_line(match.end())

    def _quoted(self, begin: int, end: int) -> bool:
        before = self.text[begin - 1 : begin]
        return before != "" and before in "\"'`" and self.text[end : end + 1] == before

    def _end(self, match: re.Match[str]) -> int:
        text, behind = self.text, match.end()
        following = _FOLLOWING.match(text, behind)
        position = following.end() if following is not None else behind
        between = text[behind:position]
        if match[0] == "</s>" and position < len(text) and "\n" not in between:
            return position  # struck-out text ends in it, too
        if position < len(text) and ("<|start|>assistant" in between or self.resumes(position)):
            return self.skip(match.start(), position)
        if position < len(text):
            what = f"it goes on behind {match[0]}, which ends a turn; the rest was not read"
            self.problems.append(Problem("text_after_end", what))
        return self.stop(match.start())


def before_end(text: str) -> str:
    """A text up to the first token that ends a turn, unless that is HTML's own ``</s>``."""
    match = _END.search(text) if "<" in text else None
    return text[: match.start()] if match is not None else text


def without_think(text: str) -> str:
    """A reply without its reasoning and without the tokens that end a turn."""
    scanner = Scanner(text, marks_and())
    scanner.run()
    return scanner.shown()


def reasoning_in(text: str) -> list[str]:
    """What of a reply is reasoning between marks, in order; the marks are left out."""
    if not any(mark in text for pair in REASONING.items() for mark in pair):
        return []
    scanner = Scanner(text, marks_and())
    scanner.run()
    return [part for part in scanner.reasoning if part.strip()]


def labelled(text: str, label: re.Pattern[str]) -> tuple[str, str | None]:
    """The text before the first label, and what follows the last one that has something behind it.

    Returns:
        Both stripped; the second is None without any label, and empty where none has a text.
    """
    places = [(match.start(), match.end()) for match in label.finditer(text)]
    if not places:
        return text.strip(), None
    ends = [begin for begin, _ in places[1:]] + [len(text)]
    for (_, begin), end in zip(reversed(places), reversed(ends), strict=True):
        found = text[begin:end].strip()
        if found:
            return text[: places[0][0]].strip(), found
    return text[: places[0][0]].strip(), ""


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def no_second(key: str, before: Any, value: Any) -> None:
    """Refuse a key that an object holds twice with two values: one of them would be dropped.

    Raises:
        ValueError: the values differ.
    """
    if before != value:
        raise ValueError(f"the key {key[:40]!r} stands twice, with two values")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            no_second(key, found[key], value)
    return found


_DECODER = json.JSONDecoder(
    parse_float=_finite, parse_constant=_no_number, object_pairs_hook=_object
)


def read_json(text: str) -> Any:
    """Read one JSON value that a policy wrote.

    Raises:
        ValueError: it is not JSON, holds NaN, an infinite number or a key with two values, or is
            nested deeper than `MAX_DEPTH`: what is read here is copied and written again, which
            must not exhaust the stack.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    _check_depth(text, value)
    return value


def decode_json(text: str, position: int) -> tuple[Any, int]:
    """The JSON value that begins at a place, and where it ends.

    Raises:
        ValueError: as `read_json`.
    """
    try:
        value, end = _DECODER.raw_decode(text, position)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    _check_depth(text[position:end], value)
    return value, end


def _check_depth(text: str, value: Any) -> None:
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise ValueError(_TOO_DEEP)


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return not levels or any(_is_deeper(part, levels - 1) for part in parts)


# A quoted string within an argument may hold a bracket; a mark of inches is not a quote.
_BRACKETS = re.compile(r"[\[\]]|(?<=[\s\[(=,:])\"[^\"\[\n]*\"(?!\w)")


def closing_bracket(text: str, begin: int) -> int | None:
    """Where the bracket closes that was opened before this place, or None."""
    depth = 1
    for match in _BRACKETS.finditer(text, begin):
        sign = match[0]
        if sign == "[":
            depth += 1
        elif sign == "]":
            depth -= 1
            if depth == 0:
                return match.start()
    return None


def bracket_pairs(text: str, begin: int) -> dict[int, int]:
    """Where each bracket from a place on is closed, found in one pass."""
    pairs, opened = {}, []
    for match in _BRACKETS.finditer(text, begin):
        if match[0] == "[":
            opened.append(match.start())
        elif match[0] == "]" and opened:
            pairs[opened.pop()] = match.start()
    return pairs
