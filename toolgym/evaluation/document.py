"""Documents of blocks, as Markdown, HTML and JSON, and the drawings in them as SVG."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from toolgym._util.text import markdown_table

__all__ = [
    *("FAINT", "INK", "Block", "Figure", "Heading", "Paragraph", "Quote", "Table", "ceiling"),
    *("line", "path", "svg", "text", "to_html", "to_markdown"),
]


@dataclass(frozen=True, slots=True)
class Heading:
    """A title of level 1, 2 or 3."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Quote:
    """Text that is shown as it is, such as an episode."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Cells; the first column is text, the others are figures."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing: inside the HTML page, beside the Markdown.

    Args:
        svg: the whole element.
        file: name of the file that the Markdown shows; whoever writes the page writes it, too.
        text: below it; what is to be seen, for those who do not see it.
    """

    svg: str
    file: str
    text: str


Block = Figure | Heading | Paragraph | Quote | Table

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2430; background: #fff;
  max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .45rem; border-bottom: 1px solid #d5dae3; text-align: right; }
td:not(:first-child, :last-child) { white-space: nowrap; }
:is(th, td):is(:first-child, :last-child) { text-align: left; }
div, figure { overflow-x: auto; }
figure { margin: 1.5rem 0; } svg { max-width: 100%; height: auto; }
figcaption { color: #4a5160; font-size: .9rem; }
pre { background: #f4f6f9; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Nothing that a model wrote could run in a page, or load anything, were it not escaped."""


def to_markdown(blocks: Sequence[Block]) -> str:
    """The document as Markdown."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def to_html(blocks: Sequence[Block], title: str) -> str:
    """The document as an HTML page."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _markdown(block: Block) -> str:
    match block:
        case Figure(_, file, text):
            return f"![{text}]({file})"
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Quote(text):
            # A fence longer than any in the text: episodes are written by a model.
            fence = "```"
            while fence in text:
                fence += "`"
            return f"{fence}text\n{text}\n{fence}"
        case Table(head, rows):
            return markdown_table(head, rows)


def _html(block: Block) -> str:
    match block:
        case Figure(svg, _, text):
            return f"<figure>{svg}<figcaption>{html.escape(text)}</figcaption></figure>"
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_inline(text)}</p>"
        case Quote(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Table(head, rows):
            top = "".join(f"<th>{_inline(cell)}</th>" for cell in head)
            lines = "".join(
                "<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>\n"
                for row in rows
            )
            return f"<div><table>\n<tr>{top}</tr>\n{lines}</table></div>"


def _inline(text: str) -> str:
    """A line of text with its `code` marked up."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


FAINT, INK = "#d5dae3", "#4a5160"
"""Colours of grids and of labels."""
_FONT = 'font-family="system-ui, sans-serif" font-size="13"'


def ceiling(value: float) -> float:
    """The next round number, so that an axis has short labels."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * n for n in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if unit * n >= value)


def line(x1: float, y1: float, x2: float, y2: float, colour: str = FAINT, width: float = 1) -> str:
    """A straight line; all lengths are in pixels."""
    thick = f' stroke-width="{width:g}"' if width != 1 else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{thick}/>'
    )


def path(points: Sequence[tuple[float, float]], colour: str, width: float = 2) -> str:
    """A line through points, given as (x, y) in pixels."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>'


def text(x: float, y: float, words: str, anchor: str = "middle", colour: str = INK) -> str:
    """Words at a place; the anchor is ``start``, ``middle`` or ``end``."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{html.escape(words)}</text>"
    )


def svg(parts: Sequence[str], width: float, height: float) -> str:
    """The whole element around its parts, in pixels."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" {_FONT}>\n' + "\n".join(parts) + "\n</svg>"
    )
