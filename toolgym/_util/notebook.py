"""What objects show of themselves in a notebook: small HTML in which every text is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["Shown", "folded", "fragment", "quoted"]

Shown = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""A table: its title (may be empty), its head and its cells."""

_STYLE = (
    ".toolgym table{border-collapse:collapse;margin:.4em 0;font-variant-numeric:tabular-nums}"
    ".toolgym th,.toolgym td{padding:.2em .6em;text-align:right;border-bottom:1px solid #8884}"
    ".toolgym :is(th,td):first-child{text-align:left}"
    ".toolgym p{margin:.2em 0}.toolgym summary{cursor:pointer}"
    ".toolgym pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.2em 0 .2em 1em;"
    "padding:.4em .7em;border-left:3px solid #8886;background:#8881;color:inherit}"
)


def fragment(
    lines: Iterable[str], tables: Iterable[Shown] = (), *, title: str = "", below: str = ""
) -> str:
    """Lines of text and tables as a piece of a page.

    Args:
        lines: a paragraph each.
        tables: under them.
        title: in bold, before all.
        below: HTML that is made by `folded` and `quoted`.
    """
    parts = [f"<p><b>{html.escape(title)}</b></p>"] if title else []
    parts += [f"<p>{html.escape(line)}</p>" for line in lines]
    parts += [_table(*table) for table in tables]
    return f'<div class="toolgym"><style>{_STYLE}</style>{"".join(parts)}{below}</div>'


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    above = f"<p><b>{html.escape(title)}</b></p>" if title else ""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    inside = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'{above}<table class="toolgym-table">{inside}</table>'


def quoted(text: str) -> str:
    """A text as it is."""
    return f"<pre>{html.escape(text)}</pre>"


def folded(summary: str, inside: str, *, open: bool = False) -> str:
    """HTML that a click shows.

    Args:
        summary: always shown.
        inside: HTML of `quoted` and `folded`.
        open: it is shown at once.
    """
    return f"<details{' open' * open}><summary>{html.escape(summary)}</summary>{inside}</details>"
