"""The service around a toolset, from plain data: cassettes, caching, and faults drawn by seed."""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from toolgym._util.hashes import value_hash
from toolgym.errors import BadInputError, ReplayMissError, ToolError, did_you_mean
from toolgym.messages import ToolCall, ToolResult
from toolgym.tools.cassette import Recorder, Replayer
from toolgym.tools.session import SessionSpec
from toolgym.tools.toolset import Toolset, tell_tools

__all__ = ["KINDS", "Faults", "ServedToolset", "check_service", "serve_toolset"]

KINDS = ("timeout", "tool_error", "empty", "garbled", "slow")
_INSTEAD = ("timeout", "tool_error", "empty")  # the tool is not called at all
_NOISE = "#%&?@~^|\N{REPLACEMENT CHARACTER}"
_GARBLED_SHARE = 0.3  # of the characters: words are hurt, a gold answer seldom survives


class Faults:
    """Which calls fail, and how.

    Args:
        settings: rates by kind from 0 to 1, at most 1 together; ``seed``; ``slow_seconds``, the
            latency that a slow answer adds to the record (nobody waits for it).

    Raises:
        BadInputError: an unknown key, or a rate that is none.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        known = (*KINDS, "seed", "slow_seconds")
        for key in settings:
            if key not in known:
                raise BadInputError(
                    f"unknown fault {key!r}"
                    f"{did_you_mean(str(key), known)}; known: {', '.join(known)}"
                )
        self.rates = {kind: _number(settings, kind, 1.0) for kind in KINDS}
        if sum(self.rates.values()) > 1 + 1e-9:
            raise BadInputError(f"the fault rates add up to {sum(self.rates.values()):g}, over 1")
        self.seed = settings.get("seed", 0)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise BadInputError(f"the seed of faults is a whole number, not {self.seed!r}")
        self.slow_seconds = _number({"slow_seconds": 5.0} | dict(settings), "slow_seconds", 3600.0)

    def draw(self, episode: str, call: ToolCall) -> str | None:
        """The kind of fault that hits a call, or None."""
        place = _digest(self.seed, episode, call.id) / 2**64
        for kind, rate in self.rates.items():
            if place < rate:
                return kind
            place -= rate
        return None

    def instead(self, kind: str, call: ToolCall, timeout: float) -> ToolResult | None:
        """The result that a fault gives without calling the tool; None when it has to be called.

        Args:
            kind: of the fault.
            call: which was hit.
            timeout: the tool's limit in seconds, for the text.
        """
        if kind not in _INSTEAD:
            return None
        if kind == "empty":
            return ToolResult(call.id, "", fault=kind)
        texts = {
            "timeout": f"Error: {call.name} was ended after {timeout:g} seconds.",
            "tool_error": f"Error: {call.name} is not available at the moment.",
        }
        return ToolResult(call.id, texts[kind], f"injected_{kind}", fault=kind)

    def spoil(self, kind: str, episode: str, result: ToolResult) -> ToolResult:
        """The tool's own result as the fault leaves it.

        Args:
            kind: ``garbled`` or ``slow``.
            episode: of the call.
            result: what the tool said.
        """
        if kind == "slow":
            return replace(result, fault=kind, added_seconds=self.slow_seconds)
        noise = random.Random(_digest(self.seed, episode, result.call_id))
        content = "".join(
            _NOISE[int(noise.random() * len(_NOISE))] if noise.random() < _GARBLED_SHARE else sign
            for sign in result.content
        )
        return replace(result, content=content, fault=kind)


def _digest(*parts: object) -> int:
    """64 bits from a hash: the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


def _number(settings: Mapping[str, Any], name: str, most: float) -> float:
    value = settings.get(name, 0.0)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not 0 <= value <= most
    ):
        raise BadInputError(f"fault {name!r} needs a number from 0 to {most:g}, not {value!r}")
    return float(value)


_SETTINGS = ("cassette", "mode", "faults", "cache")
_MODES = ("record", "replay")


def check_service(service: Any) -> dict[str, Any]:
    """The settings of a service, checked.

    Args:
        service: ``{"cassette": path, "mode": "record" | "replay", "faults": {kind: rate}, "cache":
            bool}``, each of them optional; see docs/tools.md.

    Raises:
        BadInputError: anything wrong with them, with near names.
    """
    if not isinstance(service, Mapping):
        raise BadInputError(f"service must be a mapping, not {service!r}")
    for key in service:
        if key not in _SETTINGS:
            raise BadInputError(
                f"the service has no setting {key!r}{did_you_mean(str(key), _SETTINGS)}; settings: "
                f"{', '.join(_SETTINGS)}"
            )
    cassette, mode = service.get("cassette"), service.get("mode")
    if cassette is not None and (not isinstance(cassette, str) or not cassette):
        raise BadInputError(f"the cassette is the path of a .jsonl file, not {cassette!r}")
    if mode is not None and mode not in _MODES:
        hint = did_you_mean(str(mode), _MODES)
        raise BadInputError(f"a cassette's mode is 'record' or 'replay', not {mode!r}{hint}")
    if (cassette is None) != (mode is None):
        missing = "a mode ('record' or 'replay')" if mode is None else "the path of a cassette"
        raise BadInputError(f"the service needs {missing}, too")
    if not isinstance(service.get("cache", True), bool):
        raise BadInputError(f"cache is true or false, not {service['cache']!r}")
    if not isinstance(service.get("faults") or {}, Mapping):
        raise BadInputError(f"faults are {{kind: rate}}, not {service['faults']!r}")
    Faults(service.get("faults") or {})
    return dict(service)


def serve_toolset(toolset: Toolset, service: Mapping[str, Any], tools: Any = None) -> Toolset:
    """A toolset of the same tools behind a service; the given one is left as it is.

    Args:
        toolset: whose tools are served.
        service: see `check_service`.
        tools: names and options that the toolset was made from, for a cassette's first line.

    Raises:
        BadInputError: wrong settings, or a file that is not a cassette.
        MissingFileError: no cassette to replay.
        RunMismatchError: a cassette of other tools, or one that another process is writing.
    """
    settings = check_service(service)
    cache = settings.get("cache", True)
    faults = Faults(settings["faults"]) if settings.get("faults") else None
    path, identity = settings.get("cassette"), _identity(toolset, tools)
    if path is None and faults is None:
        return Toolset(toolset, cache=cache)
    if path is None:
        return ServedToolset(toolset, faults=faults, cache=cache)
    if settings["mode"] == "replay":
        return ServedToolset(toolset, faults=faults, replayer=Replayer(path, identity))
    recorder = Recorder.open(path, identity)
    return ServedToolset(toolset, faults=faults, recorder=recorder, cache=cache)


class ServedToolset(Toolset):
    """Tools behind faults and a cassette.

    Faults lie outside: a cassette holds what the tools themselves said, so one recording serves for
    every seed of faults that asks nothing new of it.

    Args:
        toolset: whose tools are served.
        faults: what is put between policy and tools, or None.
        recorder: where the tools' input and output go, or None.
        replayer: answers in place of the tools, of which none is then run; or None.
        cache: whether tools that have a result cache may use it.
    """

    def __init__(
        self,
        toolset: Toolset,
        *,
        faults: Faults | None = None,
        recorder: Recorder | None = None,
        replayer: Replayer | None = None,
        cache: bool = True,
    ) -> None:
        super().__init__(toolset, cache=cache)
        self.unknown = toolset.unknown
        self._faults, self._recorder, self._replayer = faults, recorder, replayer

    def execute(
        self, calls: Sequence[ToolCall], episodes: Sequence[str] | None = None
    ) -> list[ToolResult]:
        """As `Toolset.execute`.

        Args:
            calls: of any tools.
            episodes: the episode of each call, on which faults and cassette depend; default: all
                calls belong to one episode without a name.

        Raises:
            ReplayMissError: the cassette that is replayed has no answer to a call.
        """
        episodes = [""] * len(calls) if episodes is None else episodes
        results: dict[int, ToolResult] = {}
        spoiled: dict[int, str] = {}
        for index, (call, episode) in enumerate(zip(calls, episodes, strict=True)):
            kind = self._hit(call, episode)
            if kind is None or self._faults is None:
                continue
            instead = self._faults.instead(kind, call, self[call.name].timeout)
            if instead is None:
                spoiled[index] = kind
            else:
                results[index] = instead
                self._counters.add(call.name, [instead], 0.0)
        asked = [index for index in range(len(calls)) if index not in results]
        found = self._ask([calls[i] for i in asked], [episodes[i] for i in asked])
        results.update(zip(asked, found, strict=True))
        if self._faults is not None:
            for index, kind in spoiled.items():
                results[index] = self._faults.spoil(kind, episodes[index], results[index])
        return [results[index] for index in range(len(calls))]

    def _hit(self, call: ToolCall, episode: str) -> str | None:
        """The fault of a call; a call that reaches no tool cannot meet a broken one."""
        kind = self._faults.draw(episode, call) if self._faults is not None else None
        if kind is None or call.name not in self:
            return None
        try:
            self[call.name].validate(call.arguments)
        except ToolError:
            return None
        return kind

    def _opens(self, spec: SessionSpec) -> bool:
        """Not of what a cassette alone can answer."""
        return not (spec.outside and self._replayer is not None)

    def _ask(self, calls: Sequence[ToolCall], episodes: Sequence[str]) -> list[ToolResult]:
        if self._replayer is not None:
            both = zip(calls, episodes, strict=True)
            lives = self._remembering()
            return [self._replay(self._replayer, *one, one[0].name in lives) for one in both]
        results = super().execute(calls)
        if self._recorder is not None:
            for call, episode, result in zip(calls, episodes, results, strict=True):
                self._recorder.add(episode, call, result)
        return results

    def _replay(
        self, replayer: Replayer, call: ToolCall, episode: str, remembered: bool
    ) -> ToolResult:
        began = time.perf_counter()
        result = replayer.answer(episode, call)
        if remembered:  # a result alone does not bring a session on: the call is made, too
            made = self._run(call.name, [call])[0]
            if (made.content, made.error) != (result.content, result.error):
                raise ReplayMissError(
                    f"episode {episode!r}: {call.name} says {made.content!r:.100}, and said "
                    f"{result.content!r:.100} when the cassette was recorded: its class has changed"
                )
            return made
        name = call.name if call.name in self else None
        self._counters.add(name, [result], time.perf_counter() - began)
        return result


def _identity(toolset: Toolset, tools: Any) -> dict[str, Any]:
    """What answers depend on: options, schemas and the data behind the tools."""
    told = {
        "options": tell_tools(tools),
        "schemas": {tool.name: value_hash(tool.schema()) for tool in toolset},
        "data": {tool.name: tool.fingerprint for tool in toolset if tool.fingerprint},
    }
    return told | ({"servers": toolset.servers()} if toolset.servers() else {})
