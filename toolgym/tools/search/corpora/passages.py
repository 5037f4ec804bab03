"""A corpus by name: files, folders, dumps and hub data sets, opened and read as passages."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from json import encoder
from pathlib import Path
from typing import IO, Any

from toolgym._util.jsonl import dump_line, parse_line, require_file
from toolgym.errors import BadInputError, MissingFileError
from toolgym.tools.search.corpora import hub_rows
from toolgym.tools.search.corpora.wikidump import TornError, article_rows, packing, unpacked
from toolgym.tools.search.corpora.wikitext import plain_text

__all__ = [
    *("CorpusLines", "Passage", "corpus_files", "corpus_size", "find_corpus", "parse_passage"),
    *("passage_line", "place_of", "read_passages"),
]

_NAMED = re.compile(
    r"[^.].*\.(?:jsonl|json|ndjson|xml)(?:-p\d+p\d+)?(?:\.(?:gz|bz2|xz|zst))?", re.IGNORECASE
)
_LONGEST = 256 << 20  # bytes of a line; what is longer has no lines
_BOM = b"\xef\xbb\xbf"
_INDEX_HEADER = "toolgym-index.json"
_OTHERS = {
    b"PAR1": "is a parquet file; name it as a data set: hf:",
    b"PK\x03\x04": "is a zip archive; unpack it first with `unzip`",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive; unpack it first with `7z x`",
    b"SQLite format 3": "is a database; export its rows as JSON lines",
    b"[": "is one JSON array; write an object a line: `jq -c '.[]'`",
}


def find_corpus(corpus: str | Path) -> Path:
    """A corpus with an absolute name, which means the same in every process.

    Args:
        corpus: a file, a folder of files, a pattern such as ``dump/*.jsonl.gz``, or a hub data set
            ``hf:OWNER/NAME`` (see `toolgym.tools.search.corpora.hub_rows.HubName`).

    Raises:
        MissingFileError: there is nothing, or the pattern fits no file.
        BadInputError: a folder without a corpus, or a name that cannot be read.
    """
    if hub_rows.is_hub(corpus):
        return Path(str(hub_rows.HubName.read(str(corpus)).absolute()))
    corpus_files(corpus)
    return Path(corpus).absolute()


def corpus_files(corpus: str | Path) -> list[Path]:
    """The files of a corpus in the order in which they are read: by name.

    Raises:
        MissingFileError: there is nothing, or the pattern fits no file.
        BadInputError: a folder that is an index or holds no corpus file.
    """
    path = Path(corpus)
    if path.is_dir():
        if (path / _INDEX_HEADER).is_file():
            raise BadInputError(
                f"corpus {str(path)!r} is an index already; name what it is made of"
            )
        files = [file for file in path.iterdir() if file.is_file() and _NAMED.fullmatch(file.name)]
        if not files:
            raise BadInputError(
                f"corpus {str(path)!r} is a folder without a .jsonl, .json or .xml file (or one of "
                f"them as .gz, .bz2, .xz, .zst); for parquet name it hf:{path}"
            )
    elif not path.exists() and glob.has_magic(str(path)):
        found = map(Path, glob.glob(str(path), recursive=True))
        files = [file for file in found if file.is_file()]
        if not files:
            raise MissingFileError(
                f"corpus {str(path)!r} fits no file (looked in {str(Path.cwd())!r})"
            )
    else:
        return [require_file(path, "corpus")]
    return sorted(files)


def corpus_size(corpus: str | Path) -> int | None:
    """Bytes of the files of a corpus; None for a hub data set, whose size is not known before."""
    if hub_rows.is_hub(corpus):
        return None
    return sum(file.stat().st_size for file in corpus_files(corpus))


def place_of(corpus: str | Path, number: int) -> tuple[Path, int]:
    """The file of a corpus, and the line in it, of a row counted through the whole.

    The files before it are read again: only an error asks for it.
    """
    path = Path(corpus)
    files = [] if hub_rows.is_hub(corpus) else corpus_files(path)
    for file in files if len(files) > 1 else ():
        with CorpusLines(file) as lines:
            last = 0
            for last, _ in lines:
                if last == number:
                    return file, number
        number -= last
    return path, number


class CorpusLines:
    """The rows of a corpus, as lines of JSON with their numbers from 1; a context manager.

    What a file is, is told by its first bytes, not by its name: JSON lines or a Wikipedia
    ``pages-articles`` XML dump, plain or compressed with gzip, bzip2, xz or zstd.

    Args:
        corpus: see `find_corpus`.

    Raises:
        MissingFileError: no such file.
        BadInputError: a name or a folder that cannot be read.
        MissingExtraError: a hub data set or zstd without the extra ``wiki``.
    """

    def __init__(self, corpus: str | Path) -> None:
        self._hub = hub_rows.HubRows(str(corpus)) if hub_rows.is_hub(corpus) else None
        self._files = [] if self._hub is not None else corpus_files(corpus)
        self._sizes = [file.stat().st_size for file in self._files]
        self._file: IO[bytes] | None = None
        self._before = 0  # bytes of the files that are read
        self._number = self._position = 0
        self._rows = self._read()

    def __enter__(self) -> CorpusLines:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for raw in self._rows:
            self._number += 1
            self._position += len(raw)
            yield self._number, raw

    @property
    def position(self) -> int:
        """Bytes of all rows up to the end of the last one."""
        return self._position

    @property
    def size(self) -> int:
        """Bytes of the files; of a hub data set about as many as its rows have."""
        if self._hub is not None:
            return max(self._hub.size, self._position)
        return sum(self._sizes)

    @property
    def bytes_read(self) -> int:
        """Bytes of the files themselves that are read, a buffer ahead."""
        if self._hub is not None:
            return self._position
        return self._before + (0 if self._file is None else self._file.tell())

    def _read(self) -> Generator[bytes, None, None]:
        if self._hub is not None:
            yield from self._hub
        for path, size in zip(self._files, self._sizes, strict=True):
            with path.open("rb") as self._file:
                yield from _file_rows(self._file, str(path))
            self._file = None
            self._before += size


def _file_rows(file: IO[bytes], name: str) -> Iterator[bytes]:
    """The rows of one file.

    Args:
        file: at its begin.
        name: for messages.
    """
    kind = packing(_peek(file))
    stream = file if kind is None else unpacked(file, kind)
    read, unit = 0, "line"
    try:
        begin = _peek(stream)
        _refuse_others(begin, name)
        rows = _lines(stream, name)
        if begin.removeprefix(_BOM).lstrip().startswith(b"<"):
            rows, unit = article_rows(stream, name), "article"
        for row in rows:
            read += 1
            yield row
    except TornError as error:
        if kind is None or isinstance(error, MissingFileError):
            raise
        raise BadInputError(
            f"corpus {name!r} is a torn {kind} file after {unit} {read} ({error}); fetch it again"
        ) from error


def _peek(stream: IO[bytes]) -> bytes:
    peek = getattr(stream, "peek", None)
    begin: bytes = peek(512) if peek is not None else b""
    return begin[:512]


def _refuse_others(begin: bytes, name: str) -> None:
    for magic, what in _OTHERS.items():
        if begin.removeprefix(_BOM).startswith(magic):
            hint = what + (name if what.endswith("hf:") else "")
            raise BadInputError(f"corpus {name!r} {hint}")
    if b"\0" in begin:
        raise BadInputError(
            f"corpus {name!r} is a binary file of unknown kind, which begins {begin[:12]!r}; a "
            "corpus is JSON lines or a Wikipedia XML dump, plain or as .gz, .bz2, .xz or .zst"
        )


def _lines(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """Lines, the first without a byte order mark."""
    number = 0
    while raw := stream.readline(_LONGEST):
        number += 1
        if len(raw) == _LONGEST and not raw.endswith(b"\n"):
            raise BadInputError(
                f"corpus {name!r}, line {number}: longer than {_LONGEST >> 20} MiB; a corpus has "
                "one JSON object a line"
            )
        yield raw if number > 1 else raw.removeprefix(_BOM)


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
    `find_corpus` and `CorpusLines` of `toolgym.tools.search.corpora.passages`.

    Yields:
        A passage, and how many bytes of the corpus are read by then (a buffer ahead if compressed).

    Raises:
        MissingFileError: no such file.
        BadInputError: a line that is not a JSON object or has no text; its number is named. A
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
