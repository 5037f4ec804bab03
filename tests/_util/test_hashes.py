"""Hashes of values and rows: canonical JSON by definition, whatever the rows hold."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym._util.hashes import _canonical, rows_hash, value_hash

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.text(), PLAIN, max_size=4), max_size=8))
def test_rows_are_hashed_as_one_list_of_canonical_json(rows: list[dict[str, Any]]) -> None:
    text = json.dumps(rows, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    assert rows_hash(iter(rows)) == value_hash(rows) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 600])
def test_any_number_of_rows(count: int) -> None:
    rows = [{"id": f"t{n}", "n": n} for n in range(count)]
    assert rows_hash(iter(rows)) == value_hash(rows)


@pytest.mark.parametrize(
    "odd",
    [{1: "a", "b": 2}, {"n": 10**5000}, {"m": {"x"}}, {"at": object()}, {"h": "\ud800"}],
    ids=["mixed keys", "a long number", "a set", "an object", "half a character"],
)
def test_a_row_that_json_cannot_hold_changes_no_other_one(odd: dict[Any, Any]) -> None:
    rows: list[dict[Any, Any]] = [{"id": str(n)} for n in range(300)]
    rows[7] = odd
    written = ",".join(map(_canonical, rows))
    assert json.dumps(rows[8], separators=(",", ":")) in written
    assert rows_hash(iter(rows)) == hashlib.sha256(f"[{written}]".encode()).hexdigest()


def test_a_row_that_contains_itself_has_a_hash() -> None:
    circle: dict[str, Any] = {"id": "1"}
    circle["self"] = circle
    assert len(rows_hash(iter([{"id": "0"}, circle]))) == 64
