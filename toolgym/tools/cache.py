"""What a toolset remembers: results of equal calls within bounds, and counters by tool."""

from __future__ import annotations

import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from toolgym.messages import ToolResult

__all__ = ["Counters", "ResultCache", "cache_key"]

UNKNOWN_TOOL = "(unknown tool)"
_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


def cache_key(arguments: Mapping[str, Any]) -> str | None:
    """Canonical JSON of validated arguments, or None when they are not JSON: then no cache."""
    try:
        return _encode(arguments)
    except (TypeError, ValueError, RecursionError):
        return None


class ResultCache:
    """The latest results of one tool; what was not asked for longest goes first.

    Args:
        entries: results at most.
        characters: of all keys and results together, at most.
    """

    def __init__(self, entries: int = 4096, characters: int = 8_000_000) -> None:
        self._entries, self._characters = entries, characters
        self._known: OrderedDict[str, str] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ResultCache], tuple[int, int]]:
        """Copies and pickles of a tool begin with an empty cache."""
        return type(self), (self._entries, self._characters)

    def __len__(self) -> int:
        return len(self._known)

    @property
    def characters(self) -> int:
        """Characters held now."""
        return self._size

    def get(self, key: str) -> str | None:
        """The result, or None."""
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
            return found

    def put(self, key: str, text: str) -> None:
        """Remember a result; one that is larger than the whole cache is not kept."""
        size = len(key) + len(text)
        if size > self._characters:
            return
        with self._lock:
            before = self._known.pop(key, None)
            self._size += size - (0 if before is None else len(key) + len(before))
            self._known[key] = text
            while len(self._known) > self._entries or self._size > self._characters:
                old, result = self._known.popitem(last=False)
                self._size -= len(old) + len(result)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()
            self._size = 0


@dataclass(slots=True)
class _Count:
    calls: int = 0
    cache_hits: int = 0
    seconds: float = 0.0
    characters: int = 0
    errors: Counter[str] = field(default_factory=Counter)


class Counters:
    """Counts by tool; safe to add to from several threads."""

    def __init__(self) -> None:
        self._by_tool: dict[str, _Count] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Counters], tuple[()]]:
        """Copies and pickles of a toolset count for themselves, from zero."""
        return type(self), ()

    def add(
        self, tool: str | None, results: Iterable[ToolResult], seconds: float, hits: int = 0
    ) -> None:
        """Count calls that were answered together.

        Args:
            tool: its name; None for names that no tool has, which a policy can invent for ever.
            results: of the calls.
            seconds: spent on all of them.
            hits: how many came from the cache.
        """
        name = UNKNOWN_TOOL if tool is None else tool
        with self._lock:
            count = self._by_tool.get(name)
            if count is None:
                count = self._by_tool[name] = _Count()
            count.cache_hits += hits
            count.seconds += seconds
            for result in results:
                count.calls += 1
                count.characters += len(result.content)
                if result.error is not None:
                    count.errors[result.error] += 1

    def read(self) -> dict[str, dict[str, Any]]:
        """A copy of the counts as plain data."""
        with self._lock:
            return {
                name: {
                    "calls": count.calls,
                    "errors": dict(sorted(count.errors.items())),
                    "cache_hits": count.cache_hits,
                    "seconds": count.seconds,
                    "characters": count.characters,
                }
                for name, count in sorted(self._by_tool.items())
            }
