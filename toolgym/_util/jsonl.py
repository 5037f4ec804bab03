"""JSON lines: strict reading that names the line, appending that survives a kill."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from toolgym._util.frames import (
    FrameStream,
    FrameWriter,
    drop_torn_frame,
    is_packed,
    lines_of,
    unpacked,
)
from toolgym._util.workfolder import publish
from toolgym.errors import BadInputError, MissingFileError, did_you_mean


def require_file(path: str | Path, what: str) -> Path:
    """The path as a file.

    Args:
        path: where it should be.
        what: for the message, such as "task file".

    Raises:
        MissingFileError: nothing is there, or a folder.
    """
    found = Path(path)
    if found.is_file():
        return found
    if found.is_dir():
        raise MissingFileError(f"{what} {str(found)!r} is a folder; name a file in it")
    siblings = [p.name for p in found.parent.iterdir()] if found.parent.is_dir() else []
    hint = did_you_mean(found.name, siblings) or f" (looked in {str(found.parent.resolve())!r})"
    raise MissingFileError(f"{what} {str(found)!r} does not exist{hint}")


def read_rows(
    path: str | Path, what: str = "file", *, torn: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read ``(line number, object)`` pairs; blank lines are passed over.

    Args:
        path: the file.
        what: for messages, such as "task file".
        torn: leave out a last line without a line break: a writer may be in the middle of it.

    Raises:
        MissingFileError: no such file.
        BadInputError: a line is not a JSON object or no UTF-8; its number stands in the message.
    """
    for number, _, raw in read_lines(path, what, torn=torn):
        yield number, parse_line(raw, path, number, what)


def read_lines(
    path: str | Path, what: str = "file", *, torn: bool = False
) -> Iterator[tuple[int, int, bytes]]:
    """Number, position in bytes and content of each line that is not blank; see `read_rows`.

    Of a file whose name ends in ``.zst`` that is the position in what it holds.
    """
    position, file = 0, require_file(path, what)
    with file.open("rb") as stream:
        packed = is_packed(file)
        lines = lines_of(unpacked(stream, f"{what} {str(path)!r}", torn)) if packed else stream
        for number, raw in enumerate(lines, 1):
            if raw.strip() and not (torn and not raw.endswith(b"\n")):
                yield number, position, raw
            position += len(raw)


def row_at(path: str | Path, position: int, what: str = "file") -> dict[str, Any]:
    """The object of the line that begins at a position in bytes.

    Raises:
        BadInputError: it is not a JSON object or no UTF-8.
    """
    with Path(path).open("rb") as stream:
        stream.seek(position)
        return parse_line(stream.readline(), path, 2, what)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(f"{text[:20]}, which is infinite,")


_FINITE = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)
_PYTHON = json.JSONDecoder()


def parse_line(
    raw: bytes, path: str | Path, number: int, what: str, *, finite: bool = False
) -> dict[str, Any]:
    """The JSON object of one line.

    Args:
        raw: the line.
        path: of the file, for messages.
        number: of the line, counted from 1.
        what: for messages, such as "task file".
        finite: refuse NaN and infinite numbers, which JSON does not have and Python reads.

    Raises:
        BadInputError: it is not a JSON object or no UTF-8.
    """
    decoder = _FINITE if finite else _PYTHON
    try:
        row = decoder.decode(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(
            f"{what} {str(path)!r}, line {number}: not valid JSON ({error}); "
            f"it begins {raw[:60].decode('utf-8', 'replace')!r}"
        ) from error
    if not isinstance(row, dict):
        raise BadInputError(
            f"{what} {str(path)!r}, line {number}: a JSON object is needed, "
            f"not {type(row).__name__}"
        )
    return row


def dump_line(row: Mapping[str, Any]) -> str:
    """One line of JSON that UTF-8 can always encode.

    Readable Unicode where possible; text with lone surrogates (broken model output) is escaped.

    Raises:
        BadInputError: NaN, infinity, or something else that JSON cannot hold; it is named.
    """
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
        try:
            line.encode("utf-8")
        except UnicodeEncodeError:
            line = json.dumps(row, ensure_ascii=True, allow_nan=False, separators=(", ", ": "))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInputError(f"JSON cannot hold this: {not_json(row) or error}") from error
    return line + "\n"


def exact_line(row: Mapping[str, Any]) -> str:
    """As `dump_line`, for a row that must read back as it was; only tuples become lists.

    Raises:
        BadInputError: JSON cannot hold it, or would change it silently: keys that are not strings,
            halves of one character apart.
    """
    check_json(row)
    return dump_line(row)


def check_json(row: Mapping[str, Any]) -> None:
    """Refuse a row that JSON cannot hold as it is.

    Raises:
        BadInputError: it cannot; what it is stands in the message.
    """
    why = not_json(row)
    if why:
        raise BadInputError(f"JSON cannot hold this: {why}")


_HALVES = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # JSON reads them as one character
MOST_BITS = 14_000  # of a whole number: Python reads and writes no longer ones (4 300 digits)
DEEPEST = 100  # levels of a value
_LEAVES = frozenset({str, int, float, bool, type(None)})


def not_json(value: Any, depth: int = 0) -> str:
    """What in a value JSON cannot hold, as ``'key'.'key' is nan``; empty where it holds all.

    Args:
        value: any value.
        depth: how deep it lies.
    """
    if isinstance(value, str):
        halves = not value.isascii() and _HALVES.search(value) is not None
        return "is a string with a character in two halves" if halves else ""
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, int):
        return "" if value.bit_length() < MOST_BITS else "is a number of thousands of digits"
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"is {value!r}"
    if depth > DEEPEST:
        return "is nested too deep"
    if isinstance(value, dict):
        pairs: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple):
        pairs = enumerate(value)
    else:
        return f"is of type {type(value).__name__}"
    keyed = isinstance(value, dict)
    for key, item in pairs:
        if keyed and not isinstance(key, str):
            return f"has a key of type {type(key).__name__}"
        kind = type(item)
        if (kind is str and item.isascii()) or item is None or kind is bool:  # most are
            continue
        if kind is int and item.bit_length() < MOST_BITS:
            continue
        why = not_json(item, depth + 1)
        if why:
            return f"{key!r:.80}{' ' if why[0].isalpha() else '.'}{why}"
    return ""


def append_row(stream: BinaryIO, row: Mapping[str, Any]) -> None:
    """Add a line to a stream of `appending`: once this returns, a kill does not lose it.

    Raises:
        BadInputError: JSON cannot hold the row.
    """
    append_line(stream, dump_line(row))


def append_line(stream: BinaryIO, line: str) -> None:
    """As `append_row`, for a line that was made already.

    Where the line cannot be written whole, such as on a full disk, nothing of it stays: the next
    line would be glued to its half.
    """
    begin, view = stream.tell(), memoryview(line.encode("utf-8"))
    try:
        while view:
            view = view[stream.write(view) :]
    except BaseException:
        stream.truncate(begin)
        raise


@contextlib.contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """A file, made if need be, as an unbuffered stream for `append_row`; in the end it is on disk.

    What a kill has left half written is cut off first, so the caller must hold the file. Of a name
    that ends in ``.zst`` each line is a frame.
    """
    drop_torn_line(path)
    with path.open("ab", buffering=0) as stream:
        try:
            yield cast("BinaryIO", FrameStream(stream)) if is_packed(path) else stream
        finally:
            os.fsync(stream.fileno())


def drop_torn_line(path: str | Path) -> None:
    """Cut off what a kill left half written: every finished line ends in a line break."""
    path = Path(path)
    if not path.is_file() or path.stat().st_size == 0:
        return
    if is_packed(path):
        drop_torn_frame(path)
        return
    with path.open("rb+") as stream:
        position = end = stream.seek(0, os.SEEK_END)
        while position > 0:
            begin = max(0, position - (1 << 16))
            stream.seek(begin)
            found = stream.read(position - begin).rfind(b"\n")
            if found >= 0:
                position = begin + found + 1
                break
            position = begin
        if position < end:
            stream.truncate(position)


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write a whole file atomically: a kill leaves the old file or the new one, never a half.

    Returns:
        How many rows were written.
    """
    return write_lines(path, map(dump_line, rows))


def write_lines(path: str | Path, lines: Iterable[str]) -> int:
    """As `write_rows`, for lines that were made already."""
    return write_raw(path, (line.encode("utf-8") for line in lines))


def write_raw(path: str | Path, lines: Iterable[bytes]) -> int:
    """As `write_lines`, for bytes; a name that ends in ``.zst`` is compressed."""
    count = 0
    with publish(Path(path)) as partial, partial.open("wb") as stream:
        writer = FrameWriter(stream) if is_packed(path) else stream
        for line in lines:
            writer.write(line)
            count += 1
        writer.flush()
    return count


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with publish(Path(path)) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write one indented JSON document atomically.

    Raises:
        BadInputError: JSON cannot hold it.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        name, why = Path(path).name, not_json(value) or error
        raise BadInputError(f"JSON cannot hold what {name!r} is to hold: {why}") from error
    write_text(path, text + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object from a file.

    Raises:
        BadInputError: it holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{str(path)!r} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadInputError(f"{str(path)!r} must hold a JSON object")
    return value


def copy_json(value: Any) -> Any:
    """A copy of plain JSON values, several times faster than a deep copy."""
    if isinstance(value, dict):
        return {k: v if type(v) in _LEAVES else copy_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [item if type(item) in _LEAVES else copy_json(item) for item in value]
    return value
