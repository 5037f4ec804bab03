"""Passages: what a search index is made of and finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from json import encoder
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import dump_line, parse_line
from toolgym.errors import BadInputError
from toolgym.tools.search.corpora.sources import CorpusLines, place_of
from toolgym.tools.search.corpora.wikitext import plain_text

__all__ = ["CorpusLines", "Passage", "parse_passage", "passage_line", "read_passages"]

_SECTION, _BULLET = "Section::::", "BULLET::::"  # KILT's signs
_quoted: Callable[[str], str] = encoder.encode_basestring


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
    """Read a corpus: JSON lines, a Wikipedia XML dump, a folder or pattern of them, a data set.

    Known rows of JSON lines: ``{"id", "title", "text"}`` (id and title may be missing); KILT's
    ``{"wikipedia_id", "wikipedia_title", "text": [paragraphs]}``, whose signs are read as headings
    and list items; ``{"contents"}``, whose first line is the title when there are several; and
    ``{"id", "title", "wikitext"}``. What else can be named is told by
    `find_corpus` and `CorpusLines` of `toolgym.tools.search.corpora.sources`.

    Yields:
        A passage, and how many bytes of the corpus are read by then (a buffer ahead if compressed).

    Raises:
        MissingFileError: no such file.
        BadInputError: a line that is no JSON object or has no text; its number is named. A
            compressed or XML file that is torn, or a file of another kind.
        MissingExtraError: zstd, or a data set, without the extra ``wiki``.
    """
    with CorpusLines(path) as lines:
        for number, raw in lines:
            passage = parse_passage(raw, path, number)
            if passage is not None:
                yield passage, lines.bytes_read


def parse_passage(raw: bytes, path: str | Path, number: int) -> Passage | None:
    """The passage of one row; None for a blank line, or wikitext without any text.

    Args:
        raw: what `CorpusLines` gave.
        path: the corpus, for messages.
        number: what `CorpusLines` gave.

    Raises:
        BadInputError: see `read_passages`.
    """
    if not raw.strip():
        return None
    try:
        return _passage(raw, path, number, number)
    except BadInputError:
        file, line = place_of(path, number)
        if file != Path(path):
            _passage(raw, file, line, number)
        raise


def _passage(raw: bytes, path: str | Path, line: int, number: int) -> Passage | None:
    row = parse_line(raw, path, line, "corpus")
    title, text = _title_and_text(row)
    if isinstance(title, int | float) and not isinstance(title, bool):
        title = str(title)  # data frames turn the title "1984" into a number
    if not isinstance(title, str):
        raise BadInputError(
            f"corpus {str(path)!r}, line {line}: the title of a passage is a string, not "
            f"{title!r:.80}"
        )
    if not isinstance(text, str):
        raise BadInputError(
            f"corpus {str(path)!r}, line {line}: a passage needs a 'text' (and may have "
            f"'id' and 'title'); this line has {', '.join(map(repr, row)) or 'nothing'}"
        )
    if not text and "wikitext" in row:
        return None
    identity = row.get("id", row.get("wikipedia_id", row.get("_id")))
    return Passage(str(number if identity is None else identity), title, text)


def passage_line(passage: Passage) -> bytes:
    """The line that an index stores: what `dump_line` writes for its three fields, faster."""
    line = (
        f'{{"id": {_quoted(passage.id)}, "title": {_quoted(passage.title)}, '
        f'"text": {_quoted(passage.text)}}}\n'
    )
    try:
        return line.encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates
        row = {"id": passage.id, "title": passage.title, "text": passage.text}
        return dump_line(row).encode("utf-8")


def _title_and_text(row: Mapping[str, Any]) -> tuple[Any, Any]:
    title = row.get("title", row.get("wikipedia_title"))
    text = row.get("text")
    if text is None and isinstance(row.get("contents"), str):
        first, newline, rest = row["contents"].partition("\n")
        return (
            (first.strip().strip('"'), rest)
            if newline and title is None
            else ("" if title is None else title, row["contents"])
        )
    wikitext = row.get("wikitext")
    if text is None and isinstance(wikitext, str):
        names = row.get("namespaces")
        local = names if isinstance(names, list) else []
        text = plain_text(wikitext, [name for name in local if isinstance(name, str)])
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = _paragraphs(text, title)
    return "" if title is None else title, text


def _paragraphs(parts: Sequence[str], title: Any) -> str:
    """KILT's paragraphs as lines; the first is the title once more.

    ``Section::::History.:Early life.`` is the heading "Early life", ``BULLET::::- x`` an item.
    """
    lines = []
    for part in parts:
        text = part.strip()
        if text.startswith(_SECTION):
            text = text[len(_SECTION) :].rpartition(".:")[2].removesuffix(".")
        elif text.startswith(_BULLET):
            text = text[len(_BULLET) :].strip()
        if text.strip("- "):
            lines.append(text)
    if len(lines) > 1 and lines[0] == title:
        del lines[0]
    return "\n".join(lines)
