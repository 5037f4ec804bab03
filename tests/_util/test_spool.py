"""Sequences that may lie on disk: the same as a list, whichever way they are held."""

from __future__ import annotations

import gc
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym._util.jsonl import dump_line, write_lines
from toolgym._util.spool import Spool
from toolgym.errors import BadInputError

rows = st.lists(st.dictionaries(st.text(max_size=5), st.text() | st.integers() | st.none()))


def spool(items: list[Any], most: int | None) -> Spool[Any]:
    found: Spool[Any] = Spool(dump_line, json.loads, most)
    for item in items:
        found.append(item)
    return found


@given(rows, st.none() | st.integers(0, 4), st.data())
def test_it_is_a_list(items: list[Any], most: int | None, data: Any) -> None:
    found = spool(items, most)
    assert list(found) == items
    assert found == items == found[:]
    assert len(found) == len(items)
    assert list(found.lines()) == [dump_line(item) for item in items]
    places = data.draw(st.lists(st.integers(0, len(items) - 1))) if items else []
    assert list(found.only(places)) == [items[place] for place in places]
    assert [found[place] for place in places] == [items[place] for place in places]
    assert [found[place - len(items)] for place in places] == [items[place] for place in places]
    assert found[1:-1] == items[1:-1]
    with pytest.raises(IndexError):
        found[len(items)]
    # Reading and writing take turns, and two readers do not disturb each other.
    found.append({"last": 1})
    assert list(zip(found, found, strict=True))[-1] == ({"last": 1}, {"last": 1})


def test_few_items_are_those_that_were_given() -> None:
    item = {"a": 1}
    found = spool([item], 1)
    assert found[0] is item
    found.append({"b": 2})
    assert found[0] == item
    assert found[0] is not item


def test_long_ones_are_not_held_and_leave_nothing(tmp_path: Path) -> None:
    files = len(os.listdir("/proc/self/fd"))
    tracemalloc.start()
    found = spool([], 10)
    for number in range(200):
        found.append({"text": "x" * 50_000, "number": number})
    assert sum(row["number"] for row in found) == 199 * 100
    assert write_lines(tmp_path / "rows.jsonl", found.lines()) == 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000
    assert (tmp_path / "rows.jsonl").stat().st_size > 10_000_000
    del found
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == files


def test_what_json_cannot_hold_is_refused_where_it_goes_to_disk() -> None:
    with pytest.raises(BadInputError, match="JSON cannot hold this"):
        spool([{"a": float("nan")}], 0)
