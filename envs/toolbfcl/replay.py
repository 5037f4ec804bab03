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

__all__ = ["Gold", "Outcome", "Play", "Said", "gold_outcome", "gold_turns", "leaves_of"]


@dataclass(frozen=True, slots=True)
class Gold:
    """What the published check compares with, after one user turn of the gold plan.

    Args:
        live: instances, which are only read.
        results: texts of the turn's calls.
    """

    live: dict[str, Any]
    results: list[str]


@dataclass(slots=True)
class Outcome:
    """What a gold plan comes to.

    Args:
        state: canonical, in the end.
        passing: class, attribute and value of what it changes, and later changes again or undoes.
        reads: by user turn, the name of each call that only reads and what it says: nothing where
            that was drawn, or is only yes or no.
    """

    state: dict[str, Any]
    passing: list[tuple[str, str, Any]] = field(default_factory=list)
    reads: list[list[tuple[str, list[Any]]]] = field(default_factory=list)


class Play:
    """Calls that are played again.

    Args:
        task: of several user turns.
        compared: whether `canonical` will be asked for.
    """

    def __init__(self, task: Task, compared: bool = False) -> None:
        self.world = World(task)
        self._start = self.world.state() if compared else {}
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
            if key in self._opened and isinstance(entry["balance"], int | float):
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


def gold_turns(task: Task) -> tuple[Gold, ...]:
    """The gold plan as the published check sees it, by user turn; played once a process.

    Args:
        task: of several user turns.
    """
    return _gold_turns(*_plan(task))


def gold_outcome(task: Task) -> Outcome:
    """What the gold plan comes to; played once a process.

    Args:
        task: of several user turns.
    """
    return _gold_outcome(*_plan(task))


_KEPT = 1024  # gold plans that a process holds: those of all published dialogues


def _plan(task: Task) -> tuple[str, str]:
    """All that the play of a gold plan depends on, as JSON."""
    held = task.metadata
    named = ("classes", "initial_config", "long_context")
    return json.dumps([held.get(name) for name in named]), task.target


def _again(world: str, plan: str, compared: bool) -> tuple[Play, list[list[ToolCall]]]:
    classes, config, long_context = json.loads(world)
    held = {"classes": classes, "initial_config": config, "long_context": long_context}
    task = Task("gold", "", (plan,), held)
    return Play(task, compared), [
        [ToolCall("", **item) for item in turn] for turn in gold_plan(task)
    ]


@functools.lru_cache(maxsize=_KEPT)
def _gold_turns(world: str, plan: str) -> tuple[Gold, ...]:
    play, turns = _again(world, plan, compared=False)
    found: list[Gold] = []
    for calls in turns:
        results = [text for _, text, _ in play.turn([(call, True) for call in calls])]
        # The last turn's instances are changed no more.
        live = play.world.live if len(found) == len(turns) - 1 else play.world.copied()
        found.append(Gold(live, results))
    return tuple(found)


# What begins with these acts, also where it changes nothing: a login of who is logged in.
_ACTS = (
    *("activate", "add_", "adjust", "authenticate", "book_", "cancel", "cd", "close_", "comment"),
    *("cp", "create_", "delete_", "edit_", "fill", "follow", "fund_", "lock", "logout", "mention"),
    *("message_login", "mkdir", "mv", "place_", "post_", "press", "purchase", "register"),
    *("release", "remove", "resolve", "retweet", "rm", "send_", "set", "start", "ticket_login"),
    *("touch", "trading_log", "unfollow", "withdraw"),
)

Change = tuple[str, str, Any, Any]
"""Class, attribute, value before and after."""


@functools.lru_cache(maxsize=_KEPT)
def _gold_outcome(world: str, plan: str) -> Outcome:
    play, turns = _again(world, plan, compared=True)
    drawn = _Drawn(play.world)
    found = Outcome(play.canonical())
    by_turn: list[Change] = []
    by_call: list[Change] = []
    for calls in turns:
        found.reads.append([])
        begun = found.state
        for call in calls:
            count, before = len(drawn.values), found.state
            ((name, text, failed),) = play.turn([(call, True)])
            found.state = play.canonical()
            by_call += _changes(before, found.state)
            if not failed and not name.startswith(_ACTS):
                leaves = [] if len(drawn.values) > count else leaves_of(text)
                told = [leaf for leaf in leaves if not drawn.holds(leaf)]
                found.reads[-1].append((name, told))
        by_turn += _changes(begun, found.state)
    for name, attribute, _, new in by_turn:
        counts = attribute.endswith(("_count", "_counter"))
        setting = not counts and not isinstance(new, dict | list)
        if setting and found.state[name][attribute] != new:
            found.passing.append((name, attribute, new))
    for name, attribute, old, new in by_call:
        if isinstance(new, dict | list) and found.state[name][attribute] == old:
            found.passing.append((name, attribute, new))
    return found


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    return [
        (name, attribute, before[name][attribute], value)
        for name, attributes in after.items()
        for attribute, value in attributes.items()
        if value != before[name][attribute]
    ]


class _Drawn:
    """What the generators of a world give from here on, as text.

    Args:
        world: whose generators are made to note it.
    """

    def __init__(self, world: World) -> None:
        self.values: list[str] = []
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


def leaves_of(text: str) -> list[Any]:
    """Strings and numbers of a result; not yes and no, which any result may hold.

    Args:
        text: JSON, or else one string.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return list(_inner(value))


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
        leaves = [leaf for text in texts for leaf in leaves_of(text)]
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
