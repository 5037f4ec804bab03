"""What calls gave: results of equal calls within bounds, counters, and cassettes of whole runs."""

from __future__ import annotations

import contextlib
import json
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import append_row, appending, read_rows
from toolgym._util.workfolder import hold, same_settings
from toolgym.errors import BadInputError, ReplayMissError, did_you_mean
from toolgym.messages import ToolCall, ToolResult

__all__ = ["Counters", "Recorder", "Replayer", "ResultCache", "cache_key", "canonical"]

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


SCHEMA = 1
_WHAT = "cassette"
_recorders: weakref.WeakValueDictionary[tuple[int, int], Recorder] = weakref.WeakValueDictionary()
_recorders_lock = threading.Lock()


def canonical(arguments: Mapping[str, Any]) -> str:
    """Arguments as one JSON text; equal arguments give equal texts, in whatever order they came."""
    return json.dumps(arguments, sort_keys=True, ensure_ascii=False, default=repr)


class Recorder:
    """Appends calls and results to a cassette; whole lines, one writing process at a time.

    Make one with `Recorder.open`.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.tools = path, dict[str, Any]()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()
        except OSError as error:
            raise BadInputError(f"{_WHAT} {str(path)!r} cannot be written: {error}") from error
        # The environments that record here have no end of their own.
        self._held = contextlib.ExitStack()
        weakref.finalize(self, self._held.close)
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | Path, tools: Mapping[str, Any]) -> Recorder:
        """Begin a cassette, or go on with one; environments of one process share it.

        Args:
            path: the file; made when it does not exist.
            tools: what the answers depend on, as plain data; stands in the first line.

        Raises:
            RunMismatchError: it was recorded with other tools, or another process is writing.
            BadInputError: the file is not a cassette, or cannot be written.
        """
        path = Path(path)
        with _recorders_lock:
            if path.exists():
                status = path.stat()
                shared = _recorders.get((status.st_dev, status.st_ino))
                if shared is not None:
                    _check_tools(path, shared.tools, tools)
                    return shared
            recorder = cls(path)
            recorder._begin(tools)
            status = path.stat()
            _recorders[status.st_dev, status.st_ino] = recorder
            return recorder

    def _begin(self, tools: Mapping[str, Any]) -> None:
        doing = f"recording into {_WHAT} {str(self.path)!r}"
        self._held.enter_context(hold(self.path, doing, "wait for it, or name another file"))
        self.tools = dict(tools)
        with self.path.open("rb") as stream:
            first = stream.readline()
        # A first line that a kill left half written may be begun again; another file's may not.
        if first and (first.endswith(b"\n") or not first.startswith(b'{"cassette": ')):
            _, header = next(read_rows(self.path, _WHAT), (1, {}))
            _check_tools(self.path, _tools_of(self.path, header), tools)
        self._stream = self._held.enter_context(appending(self.path))
        if not self._stream.tell():
            append_row(self._stream, {"cassette": SCHEMA, "tools": self.tools})

    def add(self, episode: str, call: ToolCall, result: ToolResult) -> None:
        """Record a call; once this returns, a kill does not lose it."""
        row = {
            "episode": episode,
            "call": call.id,
            "tool": call.name,
            # As text, so that also numbers that JSON cannot hold (NaN) come back as they were.
            "arguments": canonical(call.arguments),
            "content": result.content,
            "error": result.error,
        }
        row |= {"detail": result.detail} if result.detail else {}
        with self._lock:
            append_row(self._stream, row | ({"empty": True} if result.empty else {}))


class Replayer:
    """Answers calls from a cassette that is held in memory; runs nothing.

    A call is answered by what was recorded under its episode, number, tool and arguments; of
    several recordings (an episode that was played again after a kill) the last one counts. A call
    of an episode that was not recorded gets what its tool said to the same arguments elsewhere,
    provided that it always said the same.

    Args:
        path: the file.
        tools: what the answers depend on now; must be what they were recorded with.

    Raises:
        MissingFileError: no such file.
        BadInputError: the file is not a cassette, or a line is broken.
        RunMismatchError: it was recorded with other tools.
    """

    def __init__(self, path: str | Path, tools: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._exact: dict[tuple[str, str, str, str], ToolResult] = {}
        self._anywhere: dict[tuple[str, str], ToolResult | None] = {}
        rows = read_rows(path, _WHAT, torn=True)
        _, header = next(rows, (1, {}))
        _check_tools(self.path, _tools_of(self.path, header), tools)
        for number, row in rows:
            try:
                self._learn(row)
            except KeyError as error:
                raise BadInputError(
                    f"{_WHAT} {str(self.path)!r}, line {number}: no {error} in it"
                ) from error

    def _learn(self, row: Mapping[str, Any]) -> None:
        empty = bool(row.get("empty"))
        result = ToolResult("", row["content"], row["error"], row.get("detail"), empty=empty)
        call = (row["tool"], row["arguments"])
        self._exact[row["episode"], row["call"], *call] = result
        known = self._anywhere.setdefault(call, result)
        if known is not None and known != result:
            self._anywhere[call] = None

    def __len__(self) -> int:
        return len(self._exact)

    def answer(self, episode: str, call: ToolCall) -> ToolResult:
        """The recorded result of a call.

        Raises:
            ReplayMissError: there is none, or several that differ.
        """
        arguments = canonical(call.arguments)
        found = self._exact.get((episode, call.id, call.name, arguments))
        if found is None:
            found = self._anywhere.get((call.name, arguments))
        if found is None:
            raise ReplayMissError(self._miss(episode, call, arguments))
        return replace(found, call_id=call.id)

    def _miss(self, episode: str, call: ToolCall, arguments: str) -> str:
        where = f"{_WHAT} {str(self.path)!r}"
        what = f"{call.name[:100]}({arguments[:200]})"
        if (call.name, arguments) in self._anywhere:
            return (
                f"{where} holds several different answers to {what}, and none for {call.id} of "
                f"episode {episode!r}; replay the run that was recorded, with its seed"
            )
        recorded = [a for name, a in self._anywhere if name == call.name]
        hint = did_you_mean(arguments[:200], [text[:200] for text in recorded[:1000]])
        return (
            f"{where} has no answer to {what}, {call.id} of episode {episode!r}{hint}: it holds "
            f"{len(recorded)} other calls of that tool; replay with the policy, seed and faults of "
            "the recording, or record again"
        )


def _tools_of(path: Path, header: Mapping[str, Any]) -> Mapping[str, Any]:
    if header.get("cassette") != SCHEMA or not isinstance(header.get("tools"), dict):
        raise BadInputError(
            f"{str(path)!r} is not a cassette of version {SCHEMA}: its first line must say so"
        )
    tools: Mapping[str, Any] = header["tools"]
    return tools


def _check_tools(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    same_settings(path, before, now, then="name another cassette, or use the same tools")
