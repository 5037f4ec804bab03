"""Articles of a Wikipedia ``pages-articles`` XML dump, streamed in constant memory.

The form: https://www.mediawiki.org/wiki/Help:Export. The standard library's expat reads it; a
document type declaration, without which there are no entities and no entity bombs, is refused.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, cast
from xml.parsers import expat

from toolgym._util.jsonl import dump_line
from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError

__all__ = ["TornError", "article_rows", "packing", "unpacked"]

_MAGIC = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "zstd": b"\x28\xb5\x2f\xfd",
}
# Several frames may begin with one that only carries a note.
_NOTES = tuple(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16))
_BUFFER = 1 << 20
_CHUNK = 1 << 13  # packed bytes at once: what unpacks to a thousand times as much still fits

TornError = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, OSError)
"""What reading a torn or damaged stream raises."""


def packing(begin: bytes) -> str | None:
    """How a file is compressed; None when it is not.

    Args:
        begin: its first bytes, 6 or more.
    """
    if begin.startswith(_NOTES):
        return "zstd"
    return next((kind for kind, magic in _MAGIC.items() if begin.startswith(magic)), None)


def unpacked(file: IO[bytes], kind: str) -> io.BufferedReader:
    """The unpacked bytes of a file; several streams in it follow one another.

    Args:
        file: at its begin.
        kind: see `packing`.

    Raises:
        MissingExtraError: zstd without the package that reads it.
    """
    readers: dict[str, Callable[[IO[bytes]], Any]] = {
        "gzip": lambda packed: gzip.GzipFile(fileobj=packed),
        "bzip2": bz2.BZ2File,
        "xz": lzma.LZMAFile,
        "zstd": _Zstd,
    }
    return io.BufferedReader(cast("io.RawIOBase", readers[kind](file)), _BUFFER)


class _Zstd(io.RawIOBase):
    """Frames of zstd. The package's own reader takes a torn file for a whole one."""

    def __init__(self, file: IO[bytes]) -> None:
        zstandard = require_extra("zstandard", "wiki")
        self._file = file
        self._error: type[Exception] = zstandard.ZstdError
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._packed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if not self._packed:
                self._packed = self._file.read(_CHUNK)
                if not self._packed:
                    if self._frame is not None:
                        raise EOFError("it ends inside a frame")
                    return 0
            self._unpack()
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _unpack(self) -> None:
        if self._frame is None:
            self._frame = self._decompressor.decompressobj()
        packed, self._packed = self._packed, b""
        try:
            self._ready = memoryview(self._frame.decompress(packed))
        except self._error as error:
            raise OSError(str(error)) from error
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None


_STEP = 1 << 18  # bytes that are given to the parser at once
_LONGEST = 64 << 20  # characters of a page, bytes of a tag; MediaWiki's pages have 2 million
_DEEPEST = 50  # elements in one another; a dump has 5
_NAMESPACES = {"6", "14", "-2"}  # files, categories, media
_TEXTS = {"title", "ns", "id", "model", "text"}


def article_rows(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """Pages of the article namespace that are not redirects.

    Args:
        stream: the unpacked XML.
        name: of the file, for messages.

    Yields:
        JSON lines of ``id``, ``title``, ``wikitext`` and, where they are not the English ones, the
        names of the namespaces whose links are not text.

    Raises:
        BadInputError: no dump, broken or truncated XML, or XML that no dump has; the line is named.
    """
    pages = _Pages(name)
    fed = 0
    while data := stream.read(_STEP):
        fed += len(data)
        pages.feed(data)
        yield from pages.take()
        if fed - pages.parser.CurrentByteIndex > _LONGEST:
            raise pages.wrong("one tag is longer than any in a dump")
    pages.feed(b"", last=True)
    yield from pages.take()


class _Pages:
    """What the parser tells, gathered by page."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._path: list[str] = []
        self._page: dict[str, str] = {}
        self._parts: list[str] = []
        self._length = 0
        self._redirect = False
        self._namespaces: list[str] = []
        self._ready: list[bytes] = []
        self._last = ""
        self.parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.buffer_size = 1 << 16
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        parser.EntityDeclHandler = self._doctype

    def feed(self, data: bytes, last: bool = False) -> None:
        """Parse the next bytes; the last ones end the document."""
        try:
            self.parser.Parse(data, last)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            if last:
                reason = f"it ends inside an element ({reason}); fetch it again"
            raise self.wrong(reason) from error

    def take(self) -> list[bytes]:
        """The pages that are complete."""
        ready, self._ready = self._ready, []
        return ready

    def wrong(self, reason: str) -> BadInputError:
        """An error at the place where the parser stands."""
        after = f", after page {self._last!r}" if self._last else ""
        return BadInputError(
            f"corpus {self._name!r}, line {self.parser.CurrentLineNumber}, "
            f"column {self.parser.CurrentColumnNumber + 1}{after}: not a readable dump: {reason}"
        )

    def _doctype(self, *_: object) -> None:
        raise self.wrong("it declares a document type or an entity, which no dump does")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        path = self._path
        if not path and tag != "mediawiki":
            raise self.wrong(f"its root is <{tag[:40]}>, not <mediawiki>")
        path.append(tag)
        if len(path) > _DEEPEST:
            raise self.wrong(f"more than {_DEEPEST} elements are nested")
        self._parts.clear()
        self._length = 0
        if tag == "page" and len(path) == 2:
            self._page, self._redirect = {}, False
        elif tag == "redirect" and len(path) == 3:
            self._redirect = True
        elif tag == "namespace" and attributes.get("key") in _NAMESPACES:
            path[-1] = "special namespace"

    def _characters(self, text: str) -> None:
        if (self._path and self._path[-1] in _TEXTS) or self._path[-1] == "special namespace":
            self._parts.append(text)
            self._length += len(text)
            if self._length > _LONGEST:
                raise self.wrong(f"an element has more than {_LONGEST} characters")

    def _end(self, _: str) -> None:
        tag = self._path.pop()
        depth = len(self._path)
        if tag == "special namespace":
            self._namespaces.append("".join(self._parts))
        elif tag in _TEXTS and self._path[1:2] == ["page"]:
            # The page's own id comes before those of its revision and contributor.
            if depth == 2 or (depth == 3 and self._path[2] == "revision" and tag != "id"):
                self._page[tag] = "".join(self._parts)
        elif tag == "page" and depth == 1:
            self._finish(self._page)
        self._parts.clear()

    def _finish(self, page: dict[str, str]) -> None:
        self._last = page.get("title", "")
        article = page.get("ns", "0").strip() == "0" and page.get("model", "wikitext") == "wikitext"
        text = page.get("text", "")
        if not article or self._redirect or not text.strip():
            return
        row: dict[str, object] = {"id": page.get("id", "").strip() or self._last}
        row |= {"title": self._last, "wikitext": text}
        if local := [
            name for name in self._namespaces if name not in ("File", "Category", "Media")
        ]:
            row["namespaces"] = local
        self._ready.append(dump_line(row).encode())
