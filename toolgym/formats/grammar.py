r"""Grammars of replies: what a policy may write in practice, so that no reply is malformed.

The dialect is llguidance's Lark syntax (https://github.com/guidance-ai/llguidance): terminals are
regular expressions in Rust's syntax, and ``%json {...}`` is an object valid under a JSON Schema.
vLLM's ``guidance`` backend, SGLang's ``llguidance`` and llama.cpp built with it take the same text.
xgrammar's EBNF knows neither ``%json`` nor negation: there is no text that both read.

The grammars are narrower than what `Format.parse` reads. Every text is one line of bounded length
without control signs and without what might begin a marker of some format; strings in JSON are as
well, and numbers have a bounded count of digits. So each reply ends by itself, and one that could
be read in two ways (``\to`` in JSON, a key that stands twice) cannot be written.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from toolgym.errors import BadInputError
from toolgym.formats.base import argument_name
from toolgym.formats.loose import ANSWER_IS
from toolgym.tools.base import Schema

__all__ = [
    *("MOST_CALLS", "arguments", "bare_text", "literal", "narrowed", "reply_grammar"),
    *("text_or_object", "with_markers"),
]

MOST_CALLS = 4
"""Calls of one guided reply."""

LONGEST_LINE = 240  # characters of a thought or an answer
LONGEST_ARGUMENT = 160  # characters of a text among arguments
_MOST_ITEMS = 8
_LARGEST = 10**9
_LEAST_STEP = 1e-6  # without it a number may have decimals without end

_OPENER = r"<[ =]|[\[{][0-9(\\-]"  # brackets that begin no marker of any format
_LINE = (
    rf"(?:[^\s\p{{Cc}}<\[{{◁]|[\[{{][0-9(\\-])(?:[^\p{{Cc}}\p{{Zl}}\p{{Zp}}<\[{{◁]|{_OPENER})"
    rf"{{0,{LONGEST_LINE - 2}}}"
)
# What no line begins with: readers take "The answer is:" for a label, with a problem.
_LABEL = rf"(?i:{ANSWER_IS})[ \t*]*[:：\d$€£−-].*"
# A thought without a label: three words first, none with a colon or a bracket, so that it is not
# the label of an answer and does not seem to call; and no quotes but apostrophes. Said in what may
# stand, since llguidance gives up on long texts from which others are subtracted.
_WORD = r"(?:[^\s\p{Cc}<>\[\](){}◁:*`\"']|'[\p{L}\p{N}])"
_MORE = r"(?:[^\p{Cc}\p{Zl}\p{Zp}<\[{◁\"']|'[\p{L}\p{N}]|<[ =]|\{[0-9(\\-])"
_THOUGHT = (
    rf"[\p{{L}}\p{{N}}]{_WORD}{{0,20}} {_WORD}{{1,20}} {_WORD}{{1,20}}"
    rf"(?: {_MORE}{{0,{LONGEST_LINE - 64}}})?"
)
_FIRST, _SIGN = r"[^\s\p{Cc}<]", r"[^\p{Cc}\p{Zl}\p{Zp}<]"
_KEY = r"^[\p{L}_][\p{L}\p{N}_ .-]{0,39}$"
# Quotations hold whole words and, between two, what is no mark of any format.
_QUOTED_WORD = re.compile(r"[^\W_]+(?:['’.–-][^\W_]+)*")
_BETWEEN_WORDS = re.compile(r"[ .,;:!?()'’‘“”&/+%$€£°–—-]{1,4}")
_MOST_QUOTED = 12  # words of one quotation
_MOST_READ = 300  # words of results that may be quoted: those read last
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_SAID = {"title", "description", "default", "examples", "deprecated", "$comment", "$schema"}
_SCALARS = {"type": ["string", "number", "boolean", "null"]}
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")


def literal(text: str) -> str:
    """A text that stands there as it is."""
    return json.dumps(text, ensure_ascii=False)


def reply_grammar(
    tools: Sequence[Schema],
    call: Callable[[Schema], str],
    *,
    thought: str,
    answer: str,
    around: tuple[str, str, str] = ("", "\n", ""),
    barred: str = "",
) -> str:
    """The grammar of a reply: a thought or none, and then calls or an answer.

    In the pieces ``LINE`` stands for a line of text, and ``THOUGHT`` for one that no reader takes
    for an answer or a call, also without a label.

    Args:
        tools: those that may be called.
        call: the piece for a call of one tool; empty where the format cannot write one.
        thought: the piece for a thought, optional or not, its line break included; empty for none.
        answer: the piece for an answer; empty where none may be given.
        around: what stands before the calls, between two, and behind the last.
        barred: signs that bare text may not hold, as in a regular expression's class.

    Raises:
        BadInputError: nothing may be written.
    """
    written = [piece for tool in tools if (piece := call(tool))]
    kinds = (["calls"] if written else []) + (["answer"] if answer else [])
    if not kinds:
        raise BadInputError(
            "a grammar needs a tool that the format can call with the tool's schema, or an answer"
        )
    lines = ["%llguidance {}", f"start: {thought} ({' | '.join(kinds)})"]
    if written:
        begin, between, end = (f"{literal(sign)} " if sign else "" for sign in around)
        more = f"({between}call){{0,{MOST_CALLS - 1}}}"
        lines.append(f"calls: {begin}call {more} {end}".rstrip())
        lines.append("call: " + " | ".join(f"call_{n}" for n in range(len(written))))
        lines += [f"call_{n}: {piece}" for n, piece in enumerate(written)]
    if answer:
        lines.append(f"answer: {answer}")
    lines.append(f"LINE: /{_LINE}/ & ~/{_LABEL}/")
    if "THOUGHT" in thought:
        lines.append(f"THOUGHT: /{_THOUGHT}/")
    for least, most in sorted(set(re.findall(r" TEXT_(\d+)_(\d+)", " ".join(written)))):
        lines.append(f"TEXT_{least}_{most}: {_text(int(least), int(most), barred)}")
    return "\n".join([*lines, ""])


def with_markers(grammar: str, markers: Mapping[str, str]) -> str:
    """A grammar for a tokenizer in which some texts are a token of their own.

    llguidance takes such a token for another thing than its text.

    Args:
        grammar: of a format.
        markers: texts such as ``<tool_call>`` to how the grammar names the token: by its id as in
            ``<[151657]>``, or by the very text where that is in angle brackets.
    """
    for text, name in markers.items():
        grammar = grammar.replace(literal(text), name)
    return grammar


def narrowed(
    grammar: str,
    *,
    calls: int | None = None,
    answer_words: int | None = None,
    asked: str = "",
    read: str = "",
    known: str = "",
    no_digits: bool = False,
    trimmed: Collection[str] = (),
) -> str:
    """A grammar of `reply_grammar` that allows less: short answers, and quotations alone.

    Args:
        grammar: of a format.
        calls: most calls of a reply; None: `MOST_CALLS`.
        answer_words: most words of an answer; None: as many as a line holds.
        asked: where what stands in arguments is quoted from, unless the schema bounds its length;
            nothing: any text.
        read: where an answer is quoted from; nothing: any line.
        known: a text whose words such a quotation leaves out.
        no_digits: such a quotation leaves out words with digits, too.
        trimmed: words with which such a quotation neither begins nor ends.

    Raises:
        BadInputError: the grammar says in another way what an answer is.
    """
    if calls is not None:
        further = rf"(\([^()]*call\))\{{0,{MOST_CALLS - 1}\}}"
        left = rf"\2{{0,{calls - 1}}}" if calls > 1 else ""
        grammar = re.sub(rf"^(calls: .*?){further}", rf"\1{left}", grammar, flags=re.M)
    texts = _quotations(asked, _MOST_QUOTED) if asked else ""
    if texts:
        free = json.dumps(_string(1, None), ensure_ascii=False)
        grammar = grammar.replace(free, json.dumps(f"^(?:{texts})$", ensure_ascii=False))
        bare = rf"^(TEXT_1_{LONGEST_ARGUMENT}: .*)$"
        grammar = re.sub(bare, lambda found: f"{found[1]} & /{texts}/", grammar, flags=re.M)
    parts = [f"/\\S+( \\S+){{0,{answer_words - 1}}}/"] if answer_words is not None else []
    most = min(answer_words or _MOST_QUOTED, _MOST_QUOTED)
    if no_digits:
        known = " ".join([known, *(w for w in _QUOTED_WORD.findall(read) if re.search(r"\d", w))])
    spans = _quotations(read, most, known, trimmed) if read else ""
    parts += [f"/{spans}/"] if spans else []
    if not parts:
        return grammar
    short, count = re.subn(r"^(answer: .*)\bLINE\b", r"\1SHORT", grammar, flags=re.M)
    if not count:
        raise BadInputError("a grammar without the rule 'answer: ... LINE' cannot be narrowed")
    return f"{short}SHORT: {' & '.join(['LINE', *parts])}\n"


def _quotations(text: str, most: int, known: str = "", trimmed: Collection[str] = ()) -> str:
    """A regular expression for runs of words of a text, as they stand there; empty without words.

    Args:
        text: of any kind.
        most: words of a run.
        known: a text whose words are in no run; nor is that of a marker, see `_text`.
        trimmed: words with which no run begins or ends.
    """
    inner = {_bare(word) for word in trimmed}
    left_out = {_bare(word[0]) for word in _QUOTED_WORD.finditer(known)}
    words = list(_QUOTED_WORD.finditer(text))[-_MOST_READ:]
    words = [word for word in words if _bare(word[0]) not in left_out and word[0] != "THINK"]
    gaps = [text[a.end() : b.start()] for a, b in itertools.pairwise(words)]
    runs = dict[str, None]()
    for first in range(len(words)):
        end = first + 1
        while end < min(first + most, len(words)) and _BETWEEN_WORDS.fullmatch(gaps[end - 1]):
            end += 1
        if _bare(words[first][0]) in inner:
            continue
        run = ""
        for place in reversed(range(first, end)):
            word, last = _plainly(words[place][0]), _bare(words[place][0]) not in inner
            if run:
                run = f"{word}(?:{_plainly(gaps[place])}{run})" + ("?" if last else "")
            elif last:
                run = word
        runs[run] = None
    return "|".join(runs)


def _bare(word: str) -> str:
    """A word as it is compared: without case and the ending of English possessives."""
    return re.sub("['’]s$", "", word.casefold())


def _plainly(text: str) -> str:
    """A text as a regular expression, in either syntax that a grammar holds."""
    return re.sub(r"[^\w ]", lambda sign: rf"\x{{{ord(sign[0]):x}}}", text)


def bare_text(tool: Schema) -> str:
    """The piece for a call's argument as bare text; empty where that cannot be valid.

    Args:
        tool: the function-calling document.
    """
    parameters = tool["function"]["parameters"]
    name = argument_name(tool["function"]["name"], [tool])
    if set(parameters.get("required", ())) - {name}:
        return ""
    limits = _text_limits(parameters.get("properties", {}).get(name, False))
    return f"TEXT_{limits[0]}_{limits[1]}" if limits else ""


def _text(least: int, most: int, barred: str) -> str:
    """The terminal for a text; readers strip it, so that blanks at its ends do not count."""
    first, last = (rf"[^\s\p{{Cc}}{signs}<{barred}]" for signs in ("{\"'", ""))
    more = rf"[^\p{{Cc}}\p{{Zl}}\p{{Zp}}<{barred}]{{{max(0, least - 2)},{max(0, most - 2)}}}"
    tail = f"(?:{more}{last}){'' if least > 1 else '?'}" if most > 1 else ""
    # Name[THINK] is no call but a marker.
    return rf"/{first}{tail}/ & ~/\/?THINK/"


def _text_limits(schema: Any) -> tuple[int, int] | None:
    """Least and most characters where any text of that length is valid, else None."""
    if not isinstance(schema, Mapping):
        return None
    for key in ("anyOf", "oneOf"):
        if key in schema:
            found = [limits for part in schema[key] if (limits := _text_limits(part))]
            return found[0] if found else None
    kinds = schema.get("type")
    if "string" not in (kinds if isinstance(kinds, list) else [kinds]):
        return None
    if schema.keys() - {"type", "minLength", "maxLength"} - _SAID:
        return None
    most = min(schema.get("maxLength", LONGEST_ARGUMENT), LONGEST_ARGUMENT)
    least = max(schema.get("minLength", 1), 1)
    return (least, most) if least <= most else None


def text_or_object(tool: Schema) -> str:
    """The piece for a call's arguments: bare text where that says all, else an object, or either.

    Args:
        tool: the function-calling document.
    """
    text = bare_text(tool)
    if text and len(tool["function"]["parameters"].get("properties", ())) == 1:
        return text
    return f"( {text} | {arguments(tool)})" if text else arguments(tool)


def arguments(tool: Schema) -> str:
    """The piece for a call's arguments as a JSON object that is valid under the tool's schema."""
    parameters = {"type": "object", **tool["function"]["parameters"]}
    schema = _bounded(parameters)
    if not parameters.get("properties"):
        schema |= {"properties": {}, "additionalProperties": False}
        schema.pop("patternProperties", None)
    return f"%json {json.dumps({**schema, 'x-guidance': _SPACING}, ensure_ascii=False)}"


def _bounded(schema: Any) -> Any:
    """A schema under which a value is valid under this one, too, and ends by itself.

    An object whose keys are free holds one key at most: a second one might be the same.
    """
    if not isinstance(schema, Mapping):
        return _bounded(_SCALARS) if schema is True else schema
    made = {key: value for key, value in schema.items() if key not in _SAID}
    if not made:
        return _bounded(_SCALARS)
    for key in _MAPS:
        if key in made:
            made[key] = {name: _bounded(part) for name, part in made[key].items()}
    for key in _LISTS:
        if key in made:
            made[key] = [_bounded(part) for part in made[key]]
    if made.keys() & {"enum", "const", "$ref"}:
        return made
    kinds = made.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "string" in kinds and not made.keys() & {"pattern", "format"}:
        made["pattern"] = _string(made.pop("minLength", 1), made.pop("maxLength", None))
    if "integer" in kinds or "number" in kinds:
        made |= _limits(made)
        if "number" in kinds:
            made.setdefault("multipleOf", _LEAST_STEP)
    if "array" in kinds:
        made["maxItems"] = min(made.get("maxItems", _MOST_ITEMS), _MOST_ITEMS)
        made["maxItems"] = max(made["maxItems"], made.get("minItems", 0))
        made["items"] = _bounded(made.get("items", True))
    if "object" in kinds:
        _close(made)
    return made


def _string(least: int, most: int | None) -> str:
    # The bracket counts as one with the sign behind it, so that a bound would not hold.
    more = rf"(?:{_SIGN}|<[ =])" if most is None else _SIGN
    most = LONGEST_ARGUMENT if most is None else min(most, max(least, LONGEST_ARGUMENT))
    if most < 1:
        return "^$"
    return f"^{_FIRST}{more}{{{max(0, least - 1)},{most - 1}}}$"


def _limits(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The bounds that a number lacks."""
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    found = {}
    if low is None:
        found["minimum"] = -_LARGEST if high is None else min(-_LARGEST, high - _LARGEST)
    if high is None:
        found["maximum"] = _LARGEST if low is None else max(_LARGEST, low + _LARGEST)
    return found


def _close(made: dict[str, Any]) -> None:
    """Give an object an end: its own keys alone, or one free key."""
    free = made.get("additionalProperties", True)
    made["additionalProperties"] = False
    if free is not False and not made.get("properties") and "patternProperties" not in made:
        made["patternProperties"] = {_KEY: _bounded(free)}
        made["maxProperties"] = max(1, made.get("minProperties", 0))
