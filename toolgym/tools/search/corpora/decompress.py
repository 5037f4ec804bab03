"""Compressed files as streams of bytes: gzip, bzip2, xz and zstd, told by their first bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any, cast

from toolgym._util.optional import need

__all__ = ["TornError", "packing", "unpacked"]

_MAGIC = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "zstd": b"\x28\xb5\x2f\xfd",
}
# Several frames may begin with one that only carries a note.
_NOTES = tuple(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16))
_BUFFER = 1 << 20
_STEP = 1 << 13  # packed bytes at once: what unpacks to a thousand times as much still fits

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
        zstandard = need("zstandard", "wiki")
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
                self._packed = self._file.read(_STEP)
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
