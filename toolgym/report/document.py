"""A short document as blocks, written as Markdown and as one HTML page that needs nothing else."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from toolgym._util.tables import markdown_table

__all__ = ["Block", "Figure", "Heading", "Paragraph", "Quote", "Table", "to_html", "to_markdown"]


@dataclass(frozen=True, slots=True)
class Heading:
    """A title of level 1 or 2."""

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
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #d5dae3; text-align: right; }
:is(th, td):is(:first-child, :last-child) { text-align: left; }
div, figure { overflow-x: auto; }
figure { margin: 1.5rem 0; } svg { max-width: 100%; height: auto; }
figcaption { color: #4a5160; font-size: .9rem; }
pre { background: #f4f6f9; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def to_markdown(blocks: Sequence[Block]) -> str:
    """The document as Markdown."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def to_html(blocks: Sequence[Block], title: str) -> str:
    """The document as an HTML page."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
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
