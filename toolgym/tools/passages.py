"""Passages: what a search index is made of and finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolgym._jsonl import read_rows
from toolgym.errors import BadInputError

__all__ = ["Passage", "read_passages"]


@dataclass(frozen=True, slots=True)
class Passage:
    """One document.

    Args:
        id: as the corpus names it.
        title: possibly empty.
        text: the whole text.
    """

    id: str
    title: str
    text: str

    def __str__(self) -> str:
        """``Title: text``, or the text alone when it has no title or begins with it."""
        title = self.title.strip()
        return f"{title}: {self.text}" if title and not self.text.startswith(title) else self.text


def read_passages(path: str | Path) -> Iterator[tuple[Passage, int]]:
    """Read a corpus of one JSON object a line.

    Known rows: ``{"id", "title", "text"}`` (id and title may be missing); KILT's
    ``{"wikipedia_id", "wikipedia_title", "text": [paragraphs]}``; and ``{"contents"}``, whose
    first line is the title when there are several.

    Yields:
        A passage, and about how many bytes of the file are read by then.

    Raises:
        MissingFileError: no such file.
        BadInputError: a line that is no JSON object or has no text; its number is named.
    """
    done = 0
    for number, row in read_rows(path, "corpus"):
        title, text = _title_and_text(row)
        if not isinstance(text, str) or not isinstance(title, str):
            raise BadInputError(
                f"corpus {str(path)!r}, line {number}: a passage needs a 'text' (and may have "
                f"'id' and 'title'); this line has {', '.join(map(repr, row)) or 'nothing'}"
            )
        done += len(text) + len(title)
        identity = row.get("id", row.get("wikipedia_id", row.get("_id")))
        yield Passage(str(number if identity is None else identity), title, text), done


def _title_and_text(row: Mapping[str, Any]) -> tuple[Any, Any]:
    title = row.get("title", row.get("wikipedia_title"))
    text = row.get("text")
    if text is None and isinstance(row.get("contents"), str):
        first, newline, rest = row["contents"].partition("\n")
        return (
            (first.strip().strip('"'), rest)
            if newline and title is None
            else (
                title or "",
                row["contents"],
            )
        )
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = "".join(text)
    return title or "", text
