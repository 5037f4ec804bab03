"""``LookupPolicy``: searches for the subject and reads the answer off; no model at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from toolgym._util.text import MONTHS
from toolgym.envs.toolqa.reading import DEMONYMS, READERS, names
from toolgym.formats import Action
from toolgym.formats.base import argument_name
from toolgym.messages import ToolCall
from toolgym.policies.base import Policy, Reply, Request, past_results, question_of
from toolgym.tools.base import Schema

__all__ = ["Inquiry", "LookupPolicy", "guess", "inquiry_of", "read"]

# PopQA's sixteen templates (Mallen et al., ACL 2023) and near wordings of the same relations.
_RELATIONS: tuple[tuple[str, str], ...] = (
    ("occupation", r"what (?:is|was) (?P<s>.+?)['’]s? (?:occupation|profession|job)"),
    ("occupation", r"what (?:is|was) the (?:occupation|profession) of (?P<s>.+)"),
    (
        "birthplace",
        r"(?:in|at) what (?:city|place|town|village|country) (?:was|were) (?P<s>.+) born",
    ),
    ("birthplace", r"where (?:was|were) (?P<s>.+) born"),
    ("birthplace", r"what is (?P<s>.+?)['’]s? (?:place of birth|birthplace)"),
    ("birthplace", r"what is the (?:place of birth|birthplace) of (?P<s>.+)"),
    ("genre", r"what (?:genre|type of music|kind of music) (?:is|was|does) (?P<s>.+?)(?: play)?"),
    ("father", r"who (?:is|was) (?:the )?father of (?P<s>.+)"),
    ("father", r"who (?:is|was) (?P<s>.+?)['’]s? father"),
    ("mother", r"who (?:is|was) (?:the )?mother of (?P<s>.+)"),
    ("mother", r"who (?:is|was) (?P<s>.+?)['’]s? mother"),
    ("country", r"in (?:what|which) country (?:is|was|lies) (?P<s>.+?)(?: located)?"),
    ("producer", r"who (?:is|was) the producer (?:of|for) (?P<s>.+)|who produced (?P<s2>.+)"),
    ("director", r"who (?:is|was) the director (?:of|for) (?P<s>.+)|who directed (?P<s2>.+)"),
    ("screenwriter", r"who (?:is|was) the (?:screen)?writer (?:of|for) (?P<s>.+)"),
    ("composer", r"who (?:is|was) the composer (?:of|for) (?P<s>.+)|who composed (?P<s2>.+)"),
    ("author", r"who (?:is|was) the author of (?P<s>.+)|who wrote (?P<s2>.+)"),
    ("capital_of", r"what (?:is|was) (?P<s>.+?) the capital of"),
    ("capital", r"what (?:is|was) the capital (?:city )?of (?P<s>.+)"),
    ("colour", r"(?:what|which) colou?r (?:is|was) (?P<s>.+)"),
    ("religion", r"what (?:is|was) the religion of (?P<s>.+)"),
    ("religion", r"what (?:is|was) (?P<s>.+?)['’]s? religion"),
    ("sport", r"(?:what|which) sport (?:does|did|do) (?P<s>.+?) play"),
)
_COMPILED = tuple(
    (relation, re.compile(rf"(?:{pattern})\Z", re.I | re.S)) for relation, pattern in _RELATIONS
)
_HINTS = {"birthplace": "born", "capital": "capital"}
_NUMBER = re.compile(r"\b\d[\d,]*(?:\.\d+)?\b")
_YEAR = re.compile(r"\b1\d{3}\b|\b20\d\d\b")
_LONGEST_TITLE = 120  # characters
_LONGEST = 500  # characters of a question that are understood; also keeps the patterns quick


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What to look for.

    Args:
        relation: a name of `READERS`, or the question word, or empty.
        subject: whom or what the question is about; the whole question where no pattern fits.
        queries: what to search, one after the other until something is found.
    """

    relation: str
    subject: str
    queries: tuple[str, ...]


def inquiry_of(question: str) -> Inquiry:
    """Understand a question."""
    question = question[:_LONGEST]
    for relation, pattern in _COMPILED:
        match = pattern.match(question.strip().rstrip("? "))
        if match:
            subject = next(value for value in match.groupdict().values() if value).strip(" \"'“”")
            hint = _HINTS.get(relation, "")
            return Inquiry(relation, subject, (f"{subject} {hint}".strip(), subject))
    word = re.search(r"\b(how many|how much|who|when|where|what year|which year)\b", question, re.I)
    return Inquiry(word[1].casefold() if word else "", question, (question,))


def read(inquiry: Inquiry, passage: str) -> str | None:
    """The answer to a question whose relation is known, or None.

    Args:
        inquiry: of the question.
        passage: a search result.
    """
    reader = READERS.get(inquiry.relation)
    return reader(_body(passage, inquiry.subject), inquiry.subject) if reader else None


def guess(inquiry: Inquiry, passage: str) -> str | None:
    """A weak answer of the right kind: a number, a year, or the first name not in the question."""
    if inquiry.relation in ("how many", "how much"):
        found = _NUMBER.search(passage)
        return found[0] if found else None
    if inquiry.relation in ("when", "what year", "which year"):
        found = _YEAR.search(passage)
        return found[0] if found else None
    asked, known = inquiry.subject.casefold(), {*MONTHS, *DEMONYMS}
    fresh = (name for name in names(passage) if name.casefold() not in asked)
    return next((name for name in fresh if name not in known), None)


def _body(passage: str, subject: str) -> str:
    """The passage without its heading: a line of its own, or the title before a colon."""
    head, _, rest = passage.partition("\n")
    if rest.strip() and len(head) < _LONGEST_TITLE and not head.endswith("."):
        return rest
    title, _, text = passage.partition(": ")
    heading = len(title) < _LONGEST_TITLE and title.count("(") == title.count(")")
    return text if heading and text.strip() and ". " not in title else passage


SEARCH, CALCULATOR = "WikipediaSearch", "Calculator"
UNKNOWN = "unknown"
_FAILED = ("Error", "No result for ")


class LookupPolicy(Policy):
    """A deterministic baseline that uses tools and needs no model, GPU or key.

    It knows the relations of PopQA and searches the whole question otherwise; on word problems it
    lets the calculator work on the numbers in the text, by an operation that a few words choose,
    which is seldom right. Its figures stand in docs/policies.md. It speaks every format and keeps
    no state: all that it knows stands in the request.
    """

    batched: ClassVar[bool] = True

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Search, or answer when the searches so far are enough."""
        return [Reply(_act(request)) for request in requests]

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"policy": "lookup"}


def _act(request: Request) -> str:
    question = question_of(request)
    past = past_results(request)
    offered = {tool["function"]["name"] for tool in request.tools}
    expression = arithmetic(question) if CALCULATOR in offered else None
    if expression is not None:
        if not past:
            return _call(request, CALCULATOR, expression, "I compute with the numbers given.")
        return _answer(request, past[-1][1] if _worked(past[-1][1]) else UNKNOWN)
    inquiry = inquiry_of(question)
    passages = [text for _, text in past if _worked(text)]
    about = [text for text in passages if inquiry.subject.casefold() in text.casefold()]
    found = next((answer for text in about if (answer := read(inquiry, text))), None)
    if found is not None:
        return _answer(request, found)
    limit = request.format.strategy.tool_turns
    tries = len(inquiry.queries) if limit is None else min(limit, len(inquiry.queries))
    # Turns are counted, not results: a call that was refused must not be made for ever.
    if SEARCH in offered and request.turn < tries:
        return _call(
            request, SEARCH, inquiry.queries[request.turn], f"I look up {inquiry.subject}."
        )
    weak = [reader(inquiry, text) for reader in (read, guess) for text in (*about, *passages)]
    return _answer(request, next((answer for answer in weak if answer), UNKNOWN))


def arithmetic(question: str) -> str | None:
    """An expression for a word problem, or None for other questions.

    One operation for the whole text, told by its words: weak, and the same for every set.
    """
    if not re.search(
        r"\bhow (?:many|much|long|old|far|tall)\b|\bwhat is the total\b", question, re.I
    ):
        return None
    numbers = [n.replace(",", "") for n in re.findall(r"\d[\d,]*(?:\.\d+)?(?<!,)", question)]
    if len(numbers) < 2 or len(numbers) > 12:
        return None
    lowered = question.casefold()
    if re.search(r"\b(?:left|remain\w*|fewer|less than|more than|spen[dt]|gave|change)\b", lowered):
        return f"{numbers[0]} - " + " - ".join(numbers[1:])
    if re.search(r"\b(?:equally|split|divided?|shared?)\b", lowered):
        return " / ".join(numbers[:2])
    if re.search(r"\b(?:each|every|per|times|a (?:day|week|month|year))\b", lowered):
        return " * ".join(numbers)
    return " + ".join(numbers)


def _worked(text: str) -> bool:
    return bool(text.strip()) and not text.startswith(_FAILED)


def _call(request: Request, name: str, text: str, thought: str) -> str:
    tools: list[Schema] = request.tools
    call = ToolCall("call_0", name, {argument_name(name, tools): text})
    return request.format.write(Action(thought, (call,)), tools)


def _answer(request: Request, text: str) -> str:
    return request.format.write(Action("", (), text), request.tools)
