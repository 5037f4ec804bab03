"""Plain tools that keep something: refused where the source shows it, else without effect."""

from __future__ import annotations

import collections
import functools
import heapq
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from toolgym import ToolCall, tool
from toolgym.errors import BadInputError
from toolgym.tools.base import Tool
from toolgym.tools.keeping import what_it_keeps

CART: list[str] = []
COUNT = 0
TABLE: dict[str, Any] = {"a": [1]}
RECENT: collections.deque[str] = collections.deque()


class Holder:
    """Holds."""

    last = ""


HOLDER = Holder()


def appends(item: str) -> str:
    CART.append(item)
    return str(CART)


def counts(item: str) -> str:
    global COUNT
    COUNT += 1
    return str(COUNT)


def stores(item: str) -> str:
    TABLE[item] = 1
    return ""


def stores_deep(item: str) -> str:
    TABLE["a"].append(1)
    return ""


def deletes(item: str) -> str:
    del TABLE[item]
    return ""


def helper(item: str) -> None:
    RECENT.appendleft(item)


def by_helper(item: str) -> str:
    helper(item)
    return ""


def attribute(item: str) -> str:
    HOLDER.last = item
    return ""


def class_attribute(item: str) -> str:
    Holder.last = item
    return ""


def module_list(item: str) -> str:
    sys.path.append(item)
    return ""


def module_attribute(item: str) -> str:
    json.last = item  # type: ignore[attr-defined]
    return ""


def closures() -> list[tuple[Callable[[str], str], str]]:
    number, seen = 0, list[str]()

    def up(item: str) -> str:
        nonlocal number
        number += 1
        return str(number)

    def remember(item: str) -> str:
        seen.append(item)
        return str(seen)

    return [(up, "number"), (remember, "seen")]


@pytest.mark.parametrize(
    ("function", "kept"),
    [
        (appends, "CART"),
        (counts, "COUNT"),
        (stores, "TABLE"),
        (stores_deep, "TABLE['a']"),
        (deletes, "TABLE"),
        (by_helper, "RECENT"),
        (attribute, "HOLDER"),
        (class_attribute, "Holder"),
        (module_list, "sys.path"),
        (module_attribute, "json"),
        (functools.partial(appends, item="x"), "CART"),
        *closures(),
    ],
)
def test_what_outlives_a_call_is_named(function: Callable[..., str], kept: str) -> None:
    assert what_it_keeps(function) == kept
    with pytest.raises(BadInputError, match="ToolSession") as caught:
        Tool(function, name="it", description="Do.")
    assert "\n" not in str(caught.value)
    assert kept in str(caught.value)
    Tool(function, name="it", description="Do.", shared_state=True)


def reads(item: str) -> str:
    return str(TABLE["a"]) + str(len(CART))


def shadows(item: str) -> str:
    CART = [item]  # noqa: N806 - the very name of outside
    CART.append(item)
    TABLE = {}  # noqa: N806 - as above
    TABLE["x"] = CART
    return str(TABLE)


def inside(item: str) -> str:
    found: list[str] = []

    def add() -> None:
        nonlocal found
        found = [*found, item]
        found.append(item)

    add()
    return str(found)


def works(item: str) -> str:
    with open(item) as stream:
        text = stream.read()
    counts: dict[str, int] = {}
    counts.update(a=1)
    return json.dumps([text, *(row for row in counts)])


@functools.cache
def cached(item: str) -> str:
    return item


@pytest.mark.parametrize("function", [reads, shadows, inside, works, cached, len])
def test_what_keeps_nothing_is_a_tool(function: Callable[..., Any]) -> None:
    assert what_it_keeps(function) == ""


def pushes(item: str) -> str:
    heapq.heappush(CART, item)
    return str(CART)


@pytest.mark.parametrize("inline", [True, False])
def test_what_the_source_hides_is_set_back(inline: bool) -> None:
    item = Tool(pushes, description="Push.", inline=inline)
    with pytest.warns(RuntimeWarning, match="'pushes': it changed CART, which was set back"):
        first = item.run(ToolCall("1", "pushes", {"item": "b"}))
    second = item.run(ToolCall("2", "pushes", {"item": "a"}))
    assert (first.content, second.content) == ("['b']", "['a']"), "each sees the declared state"
    assert CART == []
    item.close()


def test_the_decorator_takes_the_word_for_a_cache() -> None:
    known: dict[str, str] = {}

    @tool(inline=True, shared_state=True)
    def look(item: str) -> str:
        """Look it up."""
        known[item] = item
        return str(len(known))

    assert [look.run(ToolCall("1", "look", {"item": i})).content for i in "ab"] == ["1", "2"]
