"""What is not written in the format and yet has one reading: it is taken, and is a typed problem.

An answer behind "The answer is:", a call in parentheses or behind a colon. What has two readings,
or was cut, is left unread: no answer is ever made up here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from toolgym.formats.base import call_schema
from toolgym.formats.repair import Budget, read_value
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem

__all__ = ["ANSWER_IS", "LABEL", "first_paragraph", "in_lines", "in_parentheses", "loose_answer"]

ANSWER_IS = (
    r"\**(?:(?:so|therefore|thus|hence),?[ \t]+)?the[ \t]+(?:final[ \t]+|correct[ \t]+)?answer"
    r"(?:[ \t]+to[ \t]+(?:the|this|your)[ \t]+question)?[ \t]+is"
)
"""A regular expression, in Rust's syntax too; case does not matter."""
LABEL = re.compile(
    rf"(?:^[ \t]*|(?<=[.!?:] )){ANSWER_IS}"
    r"(?:\**[:：]\**[ \t]*(?=\S)|[ \t]+(?=[-−]?[$€£]?\d[\d.,]*+%?\**[ \t]*$))",
    re.M | re.I,
)
_FURTHER = r"[ \t>#-]*\**(?:Thought|Rationale|(?:Final )?Answer)\**[ \t]?[:：]"
_FIELD = re.compile(rf"\s*{_FURTHER}", re.I)
_ANSWER_END = re.compile(
    rf"\n(?:[ \t\r]*+\n|(?={_FURTHER}|[ \t>#-]*\**(?:Action|Observation)\**[ \t]?[:：]))", re.I
)
_KEYWORD = re.compile(r"\s*([A-Za-z_]\w*)\s*=(?!=)\s*")
_AFTER_VALUE = re.compile(r"[ \t]*[,)]")
_CLOSING = re.compile(r"[ \t]*\)")
_WHOLE = re.compile(r"\s*\Z")
_INPUT = re.compile(r"\n\s*\**Action Input\**:\**[ \t]*", re.I)
_LEAD = re.compile(r"\s*(?:(?:[-*]|\d+[.)])[ \t]+)?([`*]*)")
_MOST_LINES = 64
_PARENTHESES = re.compile(r"[()\n]|\"[^\"\n]*\"|(?<=[(=,\s])'[^'\n]*'(?=\s*[,)])")


def first_paragraph(answer: str, problems: list[Problem]) -> str:
    """An answer up to its first empty line or a further field, without "The answer is:" before it.

    Args:
        answer: all that follows its label, stripped.
        problems: is told of text that follows, unless that is a further field, and of the words.
    """
    if answer.endswith("\n```") and answer.count("```") % 2:
        answer = answer[:-4].rstrip()  # the fence was opened before the label
    end = _ANSWER_END.search(answer)
    if end is not None:
        rest, answer = answer[end.end() :].strip(), answer[: end.start()].rstrip()
        if rest and _FIELD.match(rest) is None:
            what = "an answer ends at an empty line or a field: what follows was not read"
            problems.append(Problem("text_after_answer", what))
    label = LABEL.match(answer)
    if label is not None:
        answer = answer[label.end() :].strip()
        problems.append(_told(label[0]))
    return answer


def loose_answer(
    text: str, problems: list[Problem], label: re.Pattern[str] = LABEL
) -> tuple[str, str] | None:
    """The one answer that a text without the format's own label gives.

    Args:
        text: visible text of the reply.
        problems: is told what was read, or that several answers were given.
        label: what an answer stands behind.

    Returns:
        The text before the first label, and the answer, which is empty where several differ; None
        without any label.
    """
    found = list(label.finditer(text))
    if not found:
        return None
    ends = [match.start() for match in found[1:]] + [len(text)]
    told: list[Problem] = []
    answers = [
        first_paragraph(text[match.end() : end].strip(), told)
        for match, end in zip(found, ends, strict=True)
    ]
    before = text[: found[0].start()].strip()
    if len({answer.strip(" .*").casefold() for answer in answers}) > 1:
        problems.append(Problem("no_answer", "it gives several answers: write one"))
        return before, ""
    problems += [_told(found[0][0]), *(p for p in told if p.kind == "text_after_answer")][:2]
    return before, answers[0]


def _told(label: str) -> Problem:
    shown = label.strip(" \t*")
    return Problem("loose_answer", f"the answer was read behind {shown!r}, which is no field")


def in_parentheses(
    text: str, begin: int, name: str, tools: Sequence[Schema], budget: Budget
) -> tuple[dict[str, Any] | None, int | None]:
    """The arguments of a call as Python writes it, in one line.

    Args:
        text: the reply.
        begin: behind the parenthesis that opens.
        name: of a known tool.
        tools: function-calling documents.
        budget: of the reply.

    Returns:
        The arguments, None where they have no single reading; and where the parenthesis closes,
        None where it does not.
    """
    close = _closed(text, begin)
    if close is None:
        return None, None
    properties, sole = _parameters(name, tools)
    inner = text[begin:close].strip()
    if not inner:
        return (None if sole or properties else {}), close
    found = _keywords(text, begin, properties, budget)
    if found is not None:
        return found
    if inner[0] in "{\"'":
        return _one_value(text, begin, close, sole, budget)
    word = _KEYWORD.match(inner)
    if word is not None and word[1] in properties:
        only = properties.keys() == {word[1]}
        return ({word[1]: inner[word.end() :]} if only and inner[word.end() :] else None), close
    return ({sole: inner} if sole and (len(properties) < 2 or "," not in inner) else None), close


def _one_value(
    text: str, begin: int, close: int, sole: str, budget: Budget
) -> tuple[dict[str, Any] | None, int]:
    begin += len(text[begin:close]) - len(text[begin:close].lstrip())
    try:
        value, stop, _ = read_value(text, begin, _CLOSING, complete=False, budget=budget)
    except ValueError:
        return None, close
    if _CLOSING.match(text, stop) is None or "\n" in text[begin:stop]:
        return None, close
    close = text.index(")", stop)
    if isinstance(value, dict):
        return value, close
    return ({sole: value} if sole and isinstance(value, str) else None), close


def _keywords(
    text: str, position: int, properties: Mapping[str, Any], budget: Budget
) -> tuple[dict[str, Any], int] | None:
    """``a="x", b=3)``; None unless each value is a literal and each name a parameter, once."""
    found: dict[str, Any] = {}
    while (word := _KEYWORD.match(text, position)) is not None:
        if word[1] not in properties or word[1] in found:
            return None
        try:
            value, position, _ = read_value(
                text, word.end(), _AFTER_VALUE, complete=False, budget=budget
            )
        except ValueError:
            return None
        found[word[1]] = value
        after = _AFTER_VALUE.match(text, position)
        if after is None:
            return None
        if after[0].endswith(")"):
            return found, after.end() - 1
        position = after.end()
    return None


def in_lines(
    field: str, tools: Sequence[Schema], budget: Budget
) -> list[tuple[str, dict[str, Any]]]:
    """The calls of an Action field whose every line is a tool's name and its input.

    ``Name: input``, ``Name`` and ``Action Input: input`` in the next line, ``Name [input]``, and
    ``Name`` alone where nothing is required.

    Args:
        field: its text.
        tools: function-calling documents.
        budget: of the reply.

    Returns:
        Names and arguments; nothing where a line has another or no single reading.
    """
    lines = [line for line in _INPUT.sub(": ", field).splitlines() if line.strip()]
    if len(lines) > _MOST_LINES:
        return []
    names = sorted((str(tool["function"]["name"]) for tool in tools), key=len, reverse=True)
    found = []
    for line in lines:
        lead = _LEAD.match(line)
        said = line[lead.end() if lead else 0 :].rstrip()
        said = said.rstrip("`*") if lead and lead[1] else said
        name = next((name for name in names if said.startswith(name)), "")
        arguments = _input(said[len(name) :], name, tools, budget) if name else None
        if arguments is None:
            return []
        found.append((name, arguments))
    return found


def _input(rest: str, name: str, tools: Sequence[Schema], budget: Budget) -> dict[str, Any] | None:
    _, sole = _parameters(name, tools)
    said = rest.lstrip("`* \t")
    if not said:
        return None if sole or _required(name, tools) else {}
    if said[0] == ":":
        said = said[1:].strip("* \t")
    elif not (said[0] in "[{" and rest[0] != said[0]):
        return None
    if said[:1] == "[" and said.endswith("]") and "[" not in said[1:]:
        said = said[1:-1].strip()
    if not said:
        return None
    if said[0] in "{\"'":
        try:
            value, end, _ = read_value(said, 0, _WHOLE, complete=False, budget=budget)
        except ValueError:
            return None
        if _WHOLE.match(said, end) is None:
            return None
        return value if isinstance(value, dict) else {sole: value} if sole else None
    word = re.match(r"(\w+)\s*[=:]\s*(?=\S)", said)
    if word is not None and word[1] == sole:
        said = said[word.end() :].strip("\"'")
    return {sole: said} if sole else None


def _closed(text: str, begin: int) -> int | None:
    depth = 1
    for match in _PARENTHESES.finditer(text, begin):
        if match[0] == "\n":
            return None
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def _required(name: str, tools: Sequence[Schema]) -> bool:
    function = call_schema(name, tools)
    return function is None or bool(function["parameters"].get("required"))


def _parameters(name: str, tools: Sequence[Schema]) -> tuple[Mapping[str, Any], str]:
    """All parameters of a tool, and the one that a bare text means, if that is clear."""
    function = call_schema(name, tools)
    parameters = function["parameters"] if function is not None else {}
    properties = parameters.get("properties") or {}
    needed = list(parameters.get("required") or properties)
    return properties, str(needed[0]) if len(needed) == 1 else ""
