"""Files of lines compressed with zstd: frames are appended, and any line is read by its position.

Positions count the bytes of the lines, as if the file were not compressed. A frame that ends within
the file is whole (the format says how long each of its blocks is), so that what a kill left of the
last one can be cut off. Files of the ``zstd`` tool are read, too.
"""

from __future__ import annotations

import tempfile
import weakref
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from toolgym._util.optional import require_extra
from toolgym._util.workfolder import publish
from toolgym.errors import BadInputError

__all__ = [
    *("FRAME", "SUFFIX", "FrameStream", "FrameWriter", "drop_torn_frame", "frames"),
    *("LineFile", "is_packed", "lines_of", "standing", "unpacked"),
]

SUFFIX = ".zst"
FRAME = 1 << 17
"""Bytes of lines in a frame that is written at leisure: a line of it is read in 0.1 ms."""

_LARGEST = 1 << 22  # of a frame of which single lines are read; others are unpacked to a file once
_PIECE = 1 << 16
_MAGIC, _NOTE = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"  # a note's first byte is 0x50 to 0x5f
_KEPT = 16  # unpacked frames: neighbours of one task are read one after the other


def is_packed(path: str | Path) -> bool:
    """Whether the name says that the lines are compressed."""
    return Path(path).suffix == SUFFIX


def standing(path: Path) -> Path:
    """The file that is there: itself, or else the compressed one; itself where there is neither."""
    packed = path.with_name(path.name + SUFFIX)
    return packed if not path.exists() and packed.exists() else path


def _zstd() -> Any:
    return require_extra("zstandard", "zstd")


class FrameWriter:
    """Lines as frames of about `FRAME` bytes each: the same lines give the same bytes.

    Args:
        stream: open for writing.

    Raises:
        MissingExtraError: zstandard is not installed.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._held = stream, bytearray()
        self._compressor = _zstd().ZstdCompressor(level=3, write_checksum=True)

    def write(self, line: bytes) -> None:
        """Add a line."""
        self._held += line
        if len(self._held) >= FRAME:
            self.flush()

    def flush(self) -> None:
        """End the frame."""
        view = memoryview(self._compressor.compress(bytes(self._held)) if self._held else b"")
        self._held.clear()
        while view:
            view = view[self._stream.write(view) :]


class FrameStream:
    """A file to which whole frames are appended: what is written at once is one.

    Args:
        stream: open for appending, unbuffered.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._writer = FrameWriter(stream)
        self.tell, self.truncate, self.fileno = stream.tell, stream.truncate, stream.fileno

    def write(self, data: bytes | memoryview) -> int:
        """Append a frame."""
        self._writer.write(bytes(data))
        self._writer.flush()
        return len(data)


def frames(stream: BinaryIO, where: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each whole frame in a file, in bytes of the file; notes are passed over.

    Args:
        stream: of the file, at its begin.
        where: the file, for messages.

    Raises:
        BadInputError: something else than a frame.
    """
    begin = 0
    size = stream.seek(0, 2)
    while begin < size:
        stream.seek(begin)
        head = stream.read(18)
        if head[1:4] == _NOTE and 0x50 <= head[0] <= 0x5F:
            begin += 8 + int.from_bytes(head[4:8], "little")
            continue
        if head[:4] != _MAGIC[: len(head)]:
            raise BadInputError(f"{where} is not zstd at byte {begin}: restore or remove the file")
        end = _end(stream, begin, head)
        if end is None or end > size:
            return
        yield begin, end
        begin = end


def _end(stream: BinaryIO, begin: int, head: bytes) -> int | None:
    """Where the frame ends; None where the file ends in it."""
    if len(head) < 6:
        return None
    said = head[4]
    single = said >> 5 & 1
    length = 5 + (not single) + (0, 1, 2, 4)[said & 3] + ((single, 2, 4, 8)[said >> 6])
    place = begin + length
    while True:
        stream.seek(place)
        block = stream.read(3)
        if len(block) < 3:
            return None
        told = int.from_bytes(block, "little")
        place += 3 + (1 if told >> 1 & 3 == 1 else told >> 3)  # one byte that is repeated
        if told & 1:
            return place + 4 * (said >> 2 & 1)


def unpacked(stream: BinaryIO, where: str, torn: bool = False) -> Iterator[bytes]:
    """What the whole frames of a file hold, piece by piece.

    Args:
        stream: of the file.
        where: the file, for messages.
        torn: pass over a last frame that a writer has not finished.

    Raises:
        BadInputError: not zstd, damaged, or a last frame that is not whole.
        MissingExtraError: zstandard is not installed.
    """
    last = 0
    for begin, last in frames(stream, where):
        yield from _pieces(stream, where, begin, last)
    size = stream.seek(0, 2)
    if not torn and last < size and not _only_notes(stream, last, size):
        raise BadInputError(f"{where} ends in the middle of a zstd frame: it was cut off")


def _pieces(stream: BinaryIO, where: str, begin: int, end: int) -> Iterator[bytes]:
    """What one frame holds."""
    zstandard = _zstd()
    frame = zstandard.ZstdDecompressor().decompressobj()
    while begin < end:
        stream.seek(begin)
        packed = stream.read(min(end - begin, _PIECE))
        try:
            found = frame.decompress(packed)
        except zstandard.ZstdError as error:
            raise BadInputError(
                f"{where} is damaged in the zstd frame that ends at byte {end}: {error}"
            ) from error
        begin += len(packed)
        if found:
            yield found


def lines_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces of a file as its lines, each with its end; the last one may lack it."""
    rest = b""
    for piece in pieces:
        first, *others = piece.split(b"\n")
        rest += first
        for other in others:
            yield rest + b"\n"
            rest = other
    if rest:
        yield rest


def drop_torn_frame(path: Path) -> None:
    """Cut off a frame that a kill left half written, and a last line without an end.

    Raises:
        BadInputError: not zstd, or damaged.
        MissingExtraError: zstandard is not installed.
    """
    where, begin, end, last = repr(str(path)), 0, 0, b"\n"
    with path.open("rb+") as stream:
        for begin, end in frames(stream, where):  # noqa: B007 - the last one
            pass
        stream.truncate(end)
        for piece in _pieces(stream, where, begin, end):
            last = piece[-1:]
    if last != b"\n":  # what was compressed was torn itself
        with publish(path) as partial, partial.open("wb") as target, path.open("rb") as stream:
            writer = FrameWriter(target)
            for line in lines_of(unpacked(stream, where)):
                writer.write(line if line.endswith(b"\n") else b"")
            writer.flush()


def _only_notes(stream: BinaryIO, begin: int, size: int) -> bool:
    while begin < size:
        stream.seek(begin)
        head = stream.read(8)
        if len(head) < 8 or head[1:4] != _NOTE:
            return False
        begin += 8 + int.from_bytes(head[4:8], "little")
    return begin == size


def _unpacked_copy(stream: BinaryIO, where: str) -> IO[bytes]:
    """A file without a name (in ``$TMPDIR``) that holds what a compressed one holds."""
    found = tempfile.TemporaryFile()  # noqa: SIM115 - goes with its `LineFile`
    for piece in unpacked(stream, where, torn=True):
        found.write(piece)
    return found


class LineFile:
    """The lines of a file by their positions; also of one that is compressed.

    Args:
        path: the file.

    Raises:
        BadInputError: not zstd, or damaged.
        MissingExtraError: zstandard is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._where, self.stream = repr(str(path)), path.open("rb")
        weakref.finalize(self, self.stream.close)
        self._plain: IO[bytes] | None = None if is_packed(path) else self.stream
        if self._plain is None:
            self._kept: OrderedDict[int, bytes] = OrderedDict()
            self._begins, self._files = array("q", [0]), array("q")
            self._index()

    def _index(self) -> None:
        """Find where each frame stands, and which bytes it holds."""
        for begin, end in frames(self.stream, self._where):
            self.stream.seek(begin)
            size = _zstd().frame_content_size(self.stream.read(min(18, end - begin)))
            if size < 0:  # not said: whoever made it did not know
                size = len(self._frame(begin, end)) if end - begin <= _LARGEST else _LARGEST + 1
            if size > _LARGEST:
                self._plain = _unpacked_copy(self.stream, self._where)
                weakref.finalize(self, self._plain.close)
                return
            self._files.extend((begin, end))
            self._begins.append(self._begins[-1] + size)

    def _frame(self, begin: int, end: int) -> bytes:
        return b"".join(_pieces(self.stream, self._where, begin, end))

    def _content(self, number: int) -> bytes:
        found = self._kept.get(number)
        if found is None:
            found = self._frame(*self._files[2 * number : 2 * number + 2])
            self._kept[number] = found
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(number)
        return found

    def line(self, position: int) -> bytes:
        """The line that begins at a position, with its end."""
        if self._plain is not None:
            self._plain.seek(position)
            return self._plain.readline()
        number = bisect_right(self._begins, position) - 1
        found = b""
        while number < len(self._begins) - 1 and not found.endswith(b"\n"):
            content = self._content(number)
            begin = max(0, position - self._begins[number])
            end = content.find(b"\n", begin) + 1 or len(content)
            found += content[begin:end]
            number += 1
        return found

    def close(self) -> None:
        """Close the file."""
        self.stream.close()
        if self._plain is not None:
            self._plain.close()

    def __enter__(self) -> LineFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
