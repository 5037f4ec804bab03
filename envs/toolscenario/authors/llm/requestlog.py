"""Every request to a model and its reply, on disk: nothing is asked twice, also after signal 9."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import append_row, drop_torn_line, parse_line

__all__ = ["ENDLESS", "RequestLog"]

ENDLESS = "endless"
"""Kind of the error of a reply that was given up for its length: the model's fault, not the
server's, so it is kept like a reply."""


class RequestLog:
    """Rows by the hash of what was asked; safe to use from several threads.

    A row has ``key``, ``question`` (its id), ``stage``, ``attempt`` (from 1), ``because`` (why the
    attempt before was refused, or empty), ``messages``, ``reply``, ``finish_reason``, ``usage``,
    ``seconds``, ``tries`` and ``error``. Failures of the server stand in the file, too, but only a
    reply answers the same request again.

    Args:
        path: the file, made with its first row; None keeps the rows in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._places: dict[str, int | dict[str, Any]] = {}
        self.totals: Counter[str] = Counter()
        self.seconds = 0.0
        if path is not None and path.is_file():
            drop_torn_line(path)
            self._read(path)

    def _read(self, path: Path) -> None:
        position = 0
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                row = parse_line(raw, path, number, "request file")
                self._count(row)
                if _answers(row):
                    self._places.setdefault(str(row.get("key")), position)
                position += len(raw)

    def get(self, key: str) -> dict[str, Any] | None:
        """The row that answers a request, or None."""
        with self._lock:
            place = self._places.get(key)
        if self._path is None or not isinstance(place, int):
            return None if isinstance(place, int) else place
        with self._path.open("rb") as stream:
            stream.seek(place)
            return parse_line(stream.readline(), self._path, 2, "request file")

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row; once this returns, a kill does not lose it."""
        with self._lock:
            self._count(row)
            place: int | dict[str, Any] = dict(row)
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                # Opened for each row: the last replies may come when the build has ended, and
                # nobody would close the file behind them.
                with self._path.open("ab", buffering=0) as stream:
                    place = stream.tell()
                    append_row(stream, row)
            if _answers(row):
                self._places.setdefault(str(row["key"]), place)

    def _count(self, row: Mapping[str, Any]) -> None:
        totals, usage = self.totals, row.get("usage") or {}
        totals["requests"] += 1
        totals["sent again"] += max(0, int(row.get("tries") or 1) - 1)
        self.seconds += float(row.get("seconds") or 0.0)
        for name, key in (("tokens in", "prompt_tokens"), ("tokens out", "completion_tokens")):
            count = usage.get(key)
            if isinstance(count, int):
                totals[name] += count
        if not usage and row.get("reply") is not None:
            totals["replies without usage"] += 1
        if row.get("error") and row["error"]["kind"] != ENDLESS:
            totals[f"server failed: {row['error']['kind']}"] += 1
        if row.get("because"):
            totals["retries"] += 1
            totals[f"refused {row['stage']}/{row['because']}"] += 1


def _answers(row: Mapping[str, Any]) -> bool:
    error = row.get("error")
    return row.get("reply") is not None or bool(error and error["kind"] == ENDLESS)
