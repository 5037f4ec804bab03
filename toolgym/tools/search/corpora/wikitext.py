"""Wikitext to the plain text that a reader sees, in time linear in its length.

Boxes, tables, notes, pictures, categories and maintenance go; the words of links, of emphasis and
of the templates that stand inside sentences stay; a heading is a line of its own, a list item
begins with "- ". The markup language: https://www.mediawiki.org/wiki/Help:Formatting and
https://www.mediawiki.org/wiki/Preprocessor_ABNF.

mwparserfromhell, the well-kept parser, is what the tests compare with. It does not do the work
since it is six times slower, and takes six minutes for a hostile page of 300 kB.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from toolgym.tools.search.corpora.wikilines import GONE, HELD, MARKS, tidy
from toolgym.tools.search.corpora.wikitemplates import render_template

__all__ = ["plain_text"]

_DEEPEST = 60  # what is nested deeper is left out: MediaWiki itself stops at 40 templates

_KEPT = {"nowiki", "pre", "syntaxhighlight", "source", "math", "chem", "ce"}
_DROPPED = {
    "ref", "references", "gallery", "timeline", "imagemap", "score", "graph", "mapframe", "maplink",
    "hiero", "templatestyles", "section", "indicator", "inputbox", "categorytree", "templatedata",
    "includeonly", "charinsert", "rating", "phonos", "style", "script", "table",
}  # fmt: skip
_OPENING = re.compile(
    rf"<!--|<({'|'.join(sorted(_KEPT | _DROPPED))})\b([^<>]*)>", re.IGNORECASE | re.ASCII
)
_TOKEN = re.compile(r"\{\{+|\}\}+|\[\[|\]\]|(?m:^[ \t:*#;]*\{\||^[ \t]*\|\}(?!\}))")
_PICTURE = re.compile(
    r"[^\n|]{1,250}\.(?:jpe?g|png|svg|gif|tiff?|webp|ogg|og[av]|webm|pdf|djvu|mid|wav|mp3|stl|xcf)\s*\Z",
    re.IGNORECASE,
)
_LANGUAGE = re.compile(r"(?:[a-z]{2,3}|simple)(?:-[a-z]{2,10})*:[^\s]")
_NAMESPACES = frozenset({"file", "image", "category", "media"})
_ROW = re.compile(r"^[ \t]*[|!].*$", re.MULTILINE)
_MARKS = re.compile(f"[{MARKS}]")


@dataclass(slots=True)
class _Frame:
    """What is open: its opening sign and what was found in it so far."""

    sign: str
    parts: list[str] = field(default_factory=list)


def plain_text(wikitext: str, namespaces: Iterable[str] = ()) -> str:
    """The text of an article, a paragraph a line. Never raises.

    Args:
        wikitext: any text.
        namespaces: names of the file and category namespaces beside the English ones.

    Returns:
        Text without markup; empty when there is nothing to read.
    """
    held: list[str] = []
    text = _MARKS.sub("", wikitext.replace("\r\n", "\n"))
    text = _without_elements(text, held)
    known = _NAMESPACES | {name.casefold().replace("_", " ") for name in namespaces}
    return tidy(_without_brackets(text, known), held)


def _without_elements(text: str, held: list[str]) -> str:
    """Comments and elements with contents of their own: dropped, or held as they are."""
    lowered = text.lower()
    if len(lowered) != len(text):  # the small "İ" is two characters
        lowered = text
    ends: dict[str, int] = {}
    parts: list[str] = []
    begin = 0
    for found in _OPENING.finditer(text):
        if found.start() < begin:
            continue
        parts.append(text[begin : found.start()])
        begin = found.end()
        name = (found[1] or "").lower()
        if name and found[2].endswith("/"):
            parts.append(GONE)
            continue
        closing = f"</{name}" if name else "-->"
        end = ends.get(closing, -2)
        if end != -1 and end < begin:
            end = ends[closing] = lowered.find(closing, begin)
        if end == -1:
            # A comment without an end hides the rest; another element then is its sign alone.
            begin = begin if name else len(text)
            continue
        inner, begin = text[begin:end], end + len(closing)
        if name:
            after = text.find(">", begin, begin + 40)
            begin = after + 1 if after >= 0 else begin
        if name in _KEPT:
            parts.append(f"{HELD}{len(held)}{HELD}")
            held.append(inner)
        elif name:
            parts.append(GONE)
    parts.append(text[begin:])
    return "".join(parts)


def _without_brackets(text: str, namespaces: Collection[str]) -> str:
    """Templates, links and tables, from the inside to the outside."""
    stack = [_Frame("")]
    skipped = 0  # openings beyond the depth whose end has not come
    begin = 0
    for start, end, sign in _signs(text):
        if not skipped:
            stack[-1].parts.append(text[begin:start])
        begin = end
        kind = sign.strip(" \t:*#;")
        if kind in ("{{", "[[", "{|", "{{{"):
            if skipped or len(stack) > _DEEPEST:
                skipped += 1
            else:
                stack.append(_Frame(kind))
        elif skipped:
            skipped -= 1
        else:
            _close(stack, {"}}": "{{", "]]": "[[", "|}": "{|", "}}}": "{{{"}[kind], namespaces)
    if not skipped:
        stack[-1].parts.append(text[begin:])
    return "".join(map(_torn, stack))


def _signs(text: str) -> Iterator[tuple[int, int, str]]:
    """Brackets with their places; runs of braces are cut into pairs and threes."""
    for found in _TOKEN.finditer(text):
        start, end, sign = found.start(), found.end(), found[0]
        if len(sign) > 2 and sign[0] in "{}" and sign[-1] == sign[0]:
            while start < end:
                size = 3 if end - start == 3 else 2
                yield start, min(start + size, end), sign[0] * size
                start += size
        else:
            yield start, end, sign


def _close(stack: list[_Frame], opening: str, namespaces: Collection[str]) -> None:
    """End the nearest open frame of a kind; an end without a beginning is dropped."""
    alike = ("{{", "{{{") if opening.startswith("{{") else (opening,)
    # A link ends before what is open around it; templates and tables may hold torn links.
    lowest = len(stack) - 2 if opening == "[[" else 0
    place = next((n for n in range(len(stack) - 1, lowest, -1) if stack[n].sign in alike), 0)
    if not place:
        return
    frame = stack[place]
    content = "".join([*frame.parts, *map(_torn, stack[place + 1 :])])
    del stack[place:]
    if frame.sign == "[[":
        shown = _link(content, namespaces)
    elif frame.sign == "{{":
        shown = render_template(content)
    elif frame.sign == "{{{":
        shown = content.partition("|")[2]
    else:
        shown = f"\n{GONE}\n"
    stack[-1].parts.append(shown or GONE)


def _torn(frame: _Frame) -> str:
    """The text of what was never closed: of a table what is no row, else what follows a bar."""
    content = "".join(frame.parts)
    first, newline, rest = content.partition("\n")
    if frame.sign == "{|":
        return _ROW.sub("", rest)
    return first.rpartition("|")[2] + newline + rest if frame.sign else content


def _link(content: str, namespaces: Collection[str]) -> str | None:
    """What is shown of an internal link; None for pictures, categories and other languages."""
    target, piped, shown = content.partition("|")
    target = target.strip()
    if target.startswith(":"):
        target = target[1:].lstrip()
    else:
        prefix, colon, _ = target.partition(":")
        if colon and " ".join(prefix.replace("_", " ").split()).casefold() in namespaces:
            return None
        if _PICTURE.match(target) and (colon or "|" in shown):
            return None
        if not piped and _LANGUAGE.match(target):
            return None  # the same article in another language
    if shown.strip():
        return shown
    if piped:  # the pipe trick: without name space and parenthesis
        target = re.sub(r"\s*\([^()]*\)\Z", "", target.rpartition(":")[2])
    return target
