"""Wikitext to the plain text that a reader sees, in time linear in its length.

Boxes, tables, notes, pictures, categories and maintenance go; the words of links, of emphasis and
of the templates that stand inside sentences stay; a heading is a line of its own, a list item
begins with "- ". The markup language: https://www.mediawiki.org/wiki/Help:Formatting and
https://www.mediawiki.org/wiki/Preprocessor_ABNF.

mwparserfromhell, the well-kept parser, is what the tests compare with. It does not do the work
since it is six times slower, and takes six minutes for a hostile page of 300 kB.
"""

from __future__ import annotations

import html
import html.entities
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from toolgym.tools.search.corpora.wikitemplates import render_template

__all__ = ["GONE", "HELD", "MARKS", "plain_text", "tidy"]

GONE, HELD = "\x01", "\x02"
"""Stands where something was dropped, and around the number of a text that is held as it is."""
MARKS = "\x00\x01\x02"

_TAGS = (
    "abbr|b|bdi|bdo|big|blockquote|br|caption|ce|center|chem|cite|code|data|dd|del|dfn|div|dl|dt|em"
    "|font|gallery|h[1-6]|hr|i|img|includeonly|ins|kbd|li|link|mark|math|meta|noinclude|nowiki|ol"
    "|onlyinclude|p|poem|pre|q|r[bpt]|ref|references|rtc|ruby|s|samp|section|small|span|strike"
    "|strong|su[bp]|table|tbody|t[dhrt]|thead|time|u|ul|var|wbr"
)
_TAG = re.compile(rf"</?({_TAGS})\b[^<>]{{0,2000}}>", re.IGNORECASE | re.ASCII)
_BREAKS = {"br", "hr", "p", "div", "li", "tr", "blockquote", "center", "dd", "dt", "poem", "pre"}
_EXTERNAL = re.compile(
    r"\[(?:(?:https?|ftp|ircs?|news|gopher|git)://|mailto:|//)"
    r"[^\s\[\]<>\"]++[ \t]*+([^\[\]\n]*+)\]",
    re.IGNORECASE,
)
_QUOTES = re.compile(r"'{2,}")
_ENTITY = re.compile(r"&(?:#\d{1,8}|#[xX][0-9a-fA-F]{1,7}|[A-Za-z][A-Za-z0-9]{1,31});")
_SWITCH = re.compile(r"__[A-Z]{3,30}__")
_VARIANT = re.compile(r"-\{(?:[A-Za-z;|]{0,20}\|)?([^{}\n]*)\}-")
_ITEM = re.compile(r"([*#:;]+)[ \t]*")
_HELD = re.compile(f"{HELD}(\\d+){HELD}")
_UNSEEN = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]")

_RUN = re.compile(f"{GONE}(?:[ \\t]?{GONE})+")
_SPACES = re.compile(r"[ \t\u2009\u202f]{2,}")
_EMPTY_PAIR = re.compile(rf"[(（\[](?=[^()]{{0,20}}{GONE})[\s,;:{GONE}]{{0,20}}[)）\]]")
_AFTER_OPEN = re.compile(rf"([(（])(?:[\s,;:]{{0,5}}{GONE}){{1,9}}[\s,;:]{{0,5}}")
_BEFORE_CLOSE = re.compile(rf"[\s,;:]{{0,5}}{GONE}[\s,;:]{{0,5}}([)）])")
_BEFORE_SIGN = re.compile(rf" ?{GONE} ?(?=[.,;:!?)])")
_BETWEEN = re.compile(rf" {GONE} ")


def tidy(text: str, held: list[str]) -> str:
    """Text without brackets of links and templates to plain lines.

    Args:
        text: a paragraph, heading or list item a line.
        held: what stands for each held number.

    Returns:
        The lines that hold something, without sections that hold nothing.
    """
    text = _SWITCH.sub("", text)
    text = _VARIANT.sub(_variant, text)
    text = _EXTERNAL.sub(_external, text)
    text = _TAG.sub(_tag, text)
    lines: list[tuple[int, str]] = []  # level of the heading or 0, text
    for line in text.split("\n"):
        read = _line(line)
        if read is not None:
            lines.append(read)
    shown = _unescaped("\n".join(_with_contents(lines)))
    shown = _HELD.sub(lambda found: _held(held, found[1]), shown)
    return _UNSEEN.sub("", shown).replace("\xa0", " ").strip()


def _held(held: list[str], number: str) -> str:
    return _unescaped(held[int(number)])


def _unescaped(text: str) -> str:
    return _ENTITY.sub(_sign, text)


def _sign(found: re.Match[str]) -> str:
    # `html.unescape` alone would read "&notice;" as "¬ice;".
    known = found[0][1] == "#" or found[0][1:] in html.entities.html5
    return html.unescape(found[0]) if known else found[0]


def _variant(found: re.Match[str]) -> str:
    """Of ``-{zh-hans:x; zh-hant:y}-`` the first."""
    first = found[1].split(";", 1)[0]
    return first.partition(":")[2] if re.match(r"\s*zh(-\w+)?:", first) else first


def _external(found: re.Match[str]) -> str:
    return found[1] or GONE


def _tag(found: re.Match[str]) -> str:
    name = found[1].lower()
    if name == "wbr":
        return ""
    return "\n" if name in _BREAKS else ""


def _line(line: str) -> tuple[int, str] | None:
    """One line: level of its heading or 0, and its text; None when nothing is left."""
    stripped = line.strip()
    if stripped.startswith(("{|", "|", "!-")) or (stripped and not stripped.strip("- \t" + GONE)):
        return None
    level, before = 0, ""
    deep = len(stripped) - len(stripped.lstrip("="))
    if deep and len(stripped) > 2 * deep and stripped.endswith("="):
        level, line = min(deep, 6), stripped.strip("=")
    else:
        item = _ITEM.match(line)
        if item is not None:
            line = line[item.end() :]
            before = "- " if item[1][-1] in "*#" else ""
    line = _apostrophes(line)
    line = _mended(_QUOTES.sub("", _apostrophes(line)))
    if not line.strip("-–—,;:.|*# \t"):
        return None
    return level, before + line


def _apostrophes(line: str) -> str:
    """Signs of emphasis without the apostrophes that belong to words (as MediaWiki tells them)."""
    if "'''" not in line:
        return line.replace("''", "")
    runs = [len(found[0]) for found in _QUOTES.finditer(line)]
    bold = sum(size == 3 or size == 4 or size >= 5 for size in runs)
    italic = sum(size == 2 or size >= 5 for size in runs)
    odd = bold % 2 == 1 and italic % 2 == 1

    def kept(found: re.Match[str]) -> str:
        nonlocal odd
        size = len(found[0])
        if size == 4 or size > 5:
            return "'" * (size - (3 if size == 4 else 5))
        before = line[max(0, found.start() - 2) : found.start()]
        if size == 3 and odd and before and not before[-1].isspace():
            odd = False
            return "'"
        return ""

    return _QUOTES.sub(kept, line)


def _mended(line: str) -> str:
    """Close the gaps that dropped things leave, with the punctuation that belonged to them."""
    line = _SPACES.sub(" ", line)
    if GONE in line:
        line = _RUN.sub(GONE, line)
        line = _EMPTY_PAIR.sub(GONE, line)
        line = _AFTER_OPEN.sub(r"\1", line)
        line = _BEFORE_CLOSE.sub(r"\1", line)
        line = _BEFORE_SIGN.sub("", line)
        line = _BETWEEN.sub(" ", line).replace(GONE, "")
        line = _SPACES.sub(" ", line)
    return line.strip()


def _with_contents(lines: list[tuple[int, str]]) -> list[str]:
    """Without headings under which nothing stands."""
    kept: list[str] = []
    below = 0  # a heading of a lower level has something under it
    for level, line in reversed(lines):
        if not level:
            below = 7
        elif level < below:
            below = level
        else:
            continue
        kept.append(line)
    return kept[::-1]


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
    """The text of what was never closed: of a table what is not a row, else what follows a bar."""
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
