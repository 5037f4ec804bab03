"""Passages: what a search index is made of and finds."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from json import encoder
from pathlib import Path
from typing import IO, Any, cast

from toolgym._jsonl import dump_line, parse_line, require_file
from toolgym.errors import BadInputError

__all__ = ["CorpusLines", "Passage", "parse_passage", "passage_line", "read_passages"]

_OTHERS = {
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -d"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
}
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
    """Read a corpus of one JSON object a line, plain or compressed with gzip.

    Known rows: ``{"id", "title", "text"}`` (id and title may be missing); KILT's
    ``{"wikipedia_id", "wikipedia_title", "text": [paragraphs]}``; and ``{"contents"}``, whose
    first line is the title when there are several.

    Yields:
        A passage, and how many bytes of the file are read by then (a buffer ahead with gzip).

    Raises:
        MissingFileError: no such file.
        BadInputError: a line that is no JSON object or has no text; its number is named. A
            compressed file that is torn or of another kind.
    """
    with CorpusLines(path) as lines:
        for number, raw in lines:
            passage = parse_passage(raw, path, number)
            if passage is not None:
                yield passage, lines.bytes_read


class CorpusLines:
    """The lines of a corpus file with their numbers from 1; a context manager.

    Args:
        path: a JSON-lines file, plain or gzip (told by its first bytes, not by its name).

    Raises:
        MissingFileError: no such file.
        BadInputError: compressed with something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = require_file(path, "corpus")
        self.size = self.path.stat().st_size
        self._file = self.path.open("rb")
        magic = self._file.read(6)
        self._file.seek(0)
        for begin, (name, command) in _OTHERS.items():
            if magic.startswith(begin):
                self._file.close()
                raise BadInputError(
                    f"corpus {str(path)!r} is compressed with {name}; only gzip is read directly: "
                    f"unpack it first with `{command} {self.path.name}`"
                )
        self._stream: IO[bytes] = self._file
        self._plain = not magic.startswith(b"\x1f\x8b")
        if not self._plain:
            # mypy sees no IO in a GzipFile; it has what is used here.
            self._stream = cast("IO[bytes]", gzip.GzipFile(fileobj=self._file))
        self._number = self._position = 0

    def __enter__(self) -> CorpusLines:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._file.close()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        try:
            for raw in self._stream:
                self._number += 1
                self._position += len(raw)
                yield self._number, raw
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadInputError(
                f"corpus {str(self.path)!r} is a torn gzip file after line {self._number} "
                f"({error}); fetch it again"
            ) from error

    @property
    def position(self) -> int:
        """Bytes of the unpacked text up to the end of the last line."""
        return self._position

    @property
    def bytes_read(self) -> int:
        """Bytes of the file itself that are read."""
        return self._position if self._plain else self._file.tell()


def parse_passage(raw: bytes, path: str | Path, number: int) -> Passage | None:
    """The passage of one line; None for a blank one.

    Raises:
        BadInputError: see `read_passages`.
    """
    if not raw.strip():
        return None
    row = parse_line(raw, path, number, "corpus")
    title, text = _title_and_text(row)
    if not isinstance(text, str) or not isinstance(title, str):
        raise BadInputError(
            f"corpus {str(path)!r}, line {number}: a passage needs a 'text' (and may have "
            f"'id' and 'title'); this line has {', '.join(map(repr, row)) or 'nothing'}"
        )
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
            else (
                title or "",
                row["contents"],
            )
        )
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = "".join(text)
    return title or "", text
