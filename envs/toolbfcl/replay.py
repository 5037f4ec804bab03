"""Calls that are played again, the gold plan's and a policy's, and what came of them."""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolgym.envs.toolbfcl.data import gold_plan
from toolgym.envs.toolbfcl.sessions import World
from toolgym.messages import ToolCall
from toolgym.task import Task

__all__ = ["Play", "Said", "Turn", "gold_turns"]


@dataclass(slots=True)
class Turn:
    """What a user turn of the gold plan came to.

    Args:
        live: instances after it.
        results: texts of its calls.
        state: canonical, after it.
        settings: class, attribute and value of what it set and a later turn overwrites.
        reads: of a turn that changes nothing: the name of each call and what it says.
    """

    live: dict[str, Any]
    results: list[str]
    state: dict[str, Any]
    settings: list[tuple[str, str, Any]] = field(default_factory=list)
    reads: list[tuple[str, list[Any]]] = field(default_factory=list)


class Play:
    """Calls that are played again.

    Args:
        task: of several user turns.
    """

    def __init__(self, task: Task) -> None:
        self.world = World(task)
        self._start = self.world.state()
        self._opened: dict[str, Any] = {}  # balances of cards as they were registered

    def turn(self, calls: Sequence[tuple[ToolCall, bool]]) -> Iterator[tuple[str, str, bool]]:
        """Play calls that were made; gives name, text and failure of each."""
        for call in (call for call, made in calls if made):
            reply = self.world.call(call.name, call.arguments)
            if call.name == "register_credit_card":
                cards = self.world.live["TravelAPI"].credit_card_list
                for name in cards.keys() - self._opened.keys():
                    self._opened[name] = cards[name]["balance"]
            yield call.name, reply["text"], "error" in reply

    def canonical(self) -> dict[str, Any]:
        """The state without order where there is none, and without what was drawn or counted."""
        state = self.world.state()
        for name, attributes in state.items():
            attributes.pop("current_working_directory", None)
            for attribute in _DRAWN.get(name, ()):
                attributes.pop(attribute, None)
            for attribute, dropped in _GROWING.get(name, {}).items():
                before = self._start[name][attribute]
                attributes[attribute] = self._grown(before, attributes[attribute], dropped)
            cards = self._start[name].get("credit_card_list")
            if cards is not None:
                for entry in attributes["booking_record"]["new"]:
                    entry["card_id"] = entry["card_id"] if entry["card_id"] in cards else "new"
        rounded: dict[str, Any] = _rounded(state)
        return rounded

    def _grown(self, before: Any, after: Any, dropped: Sequence[str]) -> Any:
        """What a collection began with, and what was added to it, in no order.

        Args:
            before: at the beginning.
            after: now; a list only grows, where fields are dropped.
            dropped: fields of what was added that were drawn or counted.
        """
        if isinstance(after, list):
            if not dropped:
                return sorted(after, key=json.dumps)
            old: Any = after[: len(before)]
            new = [("", value) for value in after[len(before) :]]
        else:
            old = {key: value for key, value in after.items() if key in before}
            new = [(key, value) for key, value in after.items() if key not in before]
        entries = [{k: v for k, v in value.items() if k not in dropped} for _, value in new]
        for (key, _), entry in zip(new, entries, strict=True):
            if key in self._opened and "balance" in entry:
                entry["balance"] -= self._opened[key]
        return {"old": old, "new": sorted(entries, key=lambda v: json.dumps(v, sort_keys=True))}


# Attributes that hold what was drawn; collections that calls add to, and which fields of what was
# added were drawn or counted up, so that they depend on the order of calls.
_DRAWN = {"MessageAPI": ("generated_ids",), "TravelAPI": ("access_token",)}
_GROWING: dict[str, dict[str, tuple[str, ...]]] = {
    "MessageAPI": {"inbox": ()},
    "TicketAPI": {"ticket_queue": ("id",)},
    "TradingBot": {"orders": ("id",), "transaction_history": ("timestamp",), "watch_list": ()},
    "TravelAPI": {"booking_record": ("transaction_id",), "credit_card_list": ()},
    "TwitterAPI": {"tweets": ("id",), "following_list": ()},
}


def gold_turns(task: Task) -> tuple[Turn, ...]:
    """What each user turn of a task's gold plan comes to; played once a process.

    Args:
        task: of several user turns.
    """
    held = task.metadata
    named = ("classes", "initial_config", "long_context")
    world = {name: held[name] for name in named if name in held}
    return _gold_of(json.dumps(world), task.target)


@functools.lru_cache(maxsize=256)
def _gold_of(world: str, plan: str) -> tuple[Turn, ...]:
    """The instances of the turns are only compared with.

    Args:
        world: classes and configuration, as JSON.
        plan: as JSON.
    """
    task = Task("gold", "", (plan,), json.loads(world))
    play, drawn, found = Play(task), _Drawn(), []
    drawn.watch(play.world)
    before = play.canonical()
    changes: list[tuple[Turn, str, str, Any]] = []
    for calls in gold_plan(task):
        told, reads = [], []
        for item in calls:
            count = len(drawn.values)
            ((name, text, failed),) = play.turn([(ToolCall("", **item), True)])
            told.append(text)
            if not failed and name != "cd":  # where the policy stands is its own affair
                leaves = [] if len(drawn.values) > count else list(_leaves(text))
                reads.append((name, [leaf for leaf in leaves if not drawn.holds(leaf)]))
        kept = World(task)
        kept.restore(play.world.snapshot())
        turn = Turn(kept.live, told, play.canonical())
        changed = [
            (turn, name, attribute, value)
            for name, attributes in turn.state.items()
            for attribute, value in attributes.items()
            if value != before[name][attribute]
        ]
        turn.reads = [] if changed else reads
        changes += changed
        before = turn.state
        found.append(turn)
    for turn, name, attribute, value in changes:
        counts = attribute.endswith(("_count", "_counter"))
        if not counts and not isinstance(value, dict | list) and before[name][attribute] != value:
            turn.settings.append((name, attribute, value))
    return tuple(found)


class _Drawn:
    """What generators of a world gave, as text."""

    def __init__(self) -> None:
        self.values: list[str] = []

    def watch(self, world: World) -> None:
        """Have the generators of a world note what they give."""
        for live in world.live.values():
            if hasattr(live, "_random"):
                noting = _Noting()
                noting.setstate(live._random.getstate())
                noting.into = self.values
                live._random = noting

    def holds(self, leaf: Any) -> bool:
        """Whether a string or number was drawn."""
        return (leaf if isinstance(leaf, str) else f"{leaf:.0f}") in self.values


class _Noting(random.Random):
    """A generator that notes what it gives."""

    into: list[str]

    def randint(self, a: int, b: int) -> int:
        """As `random.Random.randint`."""
        value = super().randint(a, b)
        self.into.append(str(value))
        return value

    def uniform(self, a: float, b: float) -> float:
        """As `random.Random.uniform`."""
        value = super().uniform(a, b)
        self.into.append(str(value))
        return value


def _rounded(value: Any) -> Any:
    """With numbers as floats of nine digits: 5 and 5.0, and sums in another order, are the same."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    try:
        return float(f"{float(value):.9g}")
    except OverflowError:  # a whole number of more digits than a float has
        return value


def _leaves(text: str) -> Iterator[Any]:
    """Strings and numbers of a result; not yes and no, which any result may hold."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    yield from _inner(value)


def _inner(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _inner(item)
    elif isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield _rounded(value)


class Said:
    """What results say.

    Args:
        texts: of them.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        leaves = [leaf for text in texts for leaf in _leaves(text)]
        self._strings = [leaf for leaf in leaves if isinstance(leaf, str)]
        self._numbers = {leaf for leaf in leaves if not isinstance(leaf, str)}

    @functools.cached_property
    def _written(self) -> set[float]:
        """Numbers within strings."""
        found = re.findall(r"-?\d{1,15}(?:\.\d{1,15})?", "\n".join(self._strings))
        return {_rounded(float(digits)) for digits in found}

    def holds(self, told: Any) -> bool:
        """Whether a string or a number of a gold result is among them."""
        if isinstance(told, str):
            return any(told in text for text in self._strings)
        return told in self._numbers or told in self._written
