"""Where passages come from: files of several kinds, many of them at once, and hub data sets."""

from __future__ import annotations

import glob
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO

from toolgym._util.jsonl import require_file
from toolgym.errors import BadInputError, MissingFileError
from toolgym.tools.search.corpora import hub_rows
from toolgym.tools.search.corpora.wikidump import TornError, article_rows, packing, unpacked

__all__ = ["CorpusLines", "corpus_files", "corpus_size", "find_corpus", "place_of"]

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
