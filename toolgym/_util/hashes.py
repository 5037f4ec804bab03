"""Hashes of files, values and rows, by which runs, tasks and tools are known again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import DEEPEST, MOST_BITS

__all__ = ["file_hash", "rows_hash", "value_hash"]

_HASHED_AT_ONCE = 256  # rows: a call of the encoder costs as much as a short row


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def value_hash(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, hexadecimal; of what JSON cannot hold a likeness."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def rows_hash(rows: Iterable[Mapping[str, Any]]) -> str:
    """As `value_hash` of a list of rows, of which a few are held at a time."""
    found, before, rest = hashlib.sha256(b"["), b"", iter(rows)
    while several := list(islice(rest, _HASHED_AT_ONCE)):
        try:
            written = _dumped(several)[1:-1]
        except (TypeError, ValueError, RecursionError):
            written = ",".join(map(_canonical, several))
        found.update(before + written.encode())
        before = b","
    found.update(b"]")
    return found.hexdigest()


def _dumped(value: Any) -> str:
    return json.dumps(
        value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=_likeness
    )


def _canonical(value: Any) -> str:
    try:
        return _dumped(value)
    except (TypeError, ValueError, RecursionError):  # mixed keys, numbers too long, a circle
        return _dumped(_likeness(value))


def _likeness(value: Any, depth: int = 0) -> Any:
    """Plain values for others: never an address, which would differ in the next process."""
    if depth > DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {repr(k): _likeness(item, depth + 1) for k, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_likeness(item, depth + 1) for item in value]
    if isinstance(value, int) and value.bit_length() >= MOST_BITS:
        return hex(value)
    if value is None or isinstance(value, str | int | float):
        return value
    text = str(value)
    return type(value).__qualname__ if " at 0x" in text else text
