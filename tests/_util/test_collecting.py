"""The garbage collector is calmer within, and as it was afterwards."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from toolgym._util.collecting import seldom_collecting


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    found = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*found)


def test_within_it_is_calmer_and_afterwards_as_it_was() -> None:
    gc.set_threshold(700, 10, 10)
    with contextlib.suppress(KeyError), seldom_collecting():
        assert gc.get_threshold()[0] > 10_000
        assert gc.get_freeze_count() > 1000
        raise KeyError
    assert gc.get_threshold() == (700, 10, 10)
    assert gc.get_freeze_count() == 0


def test_new_garbage_is_collected_within() -> None:
    class Thing:
        me: Thing

    left = 0

    def gone(_: object) -> None:
        nonlocal left
        left += 1

    with seldom_collecting():
        kept = []
        for _ in range(60_000):
            thing = Thing()
            thing.me = thing
            kept.append(weakref.ref(thing, gone))
    assert left > 20_000


@pytest.mark.parametrize("first", [0, 50_000])
def test_what_the_user_has_set_stays(first: int) -> None:
    gc.set_threshold(first, 5, 5)
    gc.freeze()
    with seldom_collecting():
        assert gc.get_threshold() == (first, 5, 5)
        assert gc.get_freeze_count() > 1000
    assert gc.get_threshold() == (first, 5, 5)
    assert gc.get_freeze_count() > 1000, "the user has frozen it"


def test_what_the_user_sets_meanwhile_stays() -> None:
    gc.set_threshold(700, 10, 10)
    with seldom_collecting():
        gc.set_threshold(1, 2, 3)
    assert gc.get_threshold() == (1, 2, 3)


def test_two_at_once_end_with_the_last_one() -> None:
    gc.set_threshold(700, 10, 10)
    inside, end = threading.Event(), threading.Event()

    def other() -> None:
        with seldom_collecting():
            inside.set()
            end.wait(10)

    thread = threading.Thread(target=other)
    with seldom_collecting():
        thread.start()
        assert inside.wait(10)
    assert gc.get_threshold()[0] > 10_000
    end.set()
    thread.join()
    assert gc.get_threshold() == (700, 10, 10)
    assert gc.get_freeze_count() == 0
