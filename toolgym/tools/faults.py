"""Faults put between policy and tools, drawn by seed: for studies of robustness.

Whether a call is hit depends on the seed, its episode and its number in the episode, never on the
clock, on other episodes or on the order in which they are played.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from toolgym.errors import BadInputError, did_you_mean
from toolgym.messages import ToolCall, ToolResult

__all__ = ["KINDS", "Faults"]

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
