"""The last step from wikitext to text: tags, emphasis, entities, headings and lists."""

from __future__ import annotations

import html
import html.entities
import re

__all__ = ["GONE", "HELD", "MARKS", "tidy"]

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
