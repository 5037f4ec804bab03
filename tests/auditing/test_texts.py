"""Golds in texts, and tasks that stand twice."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym.auditing.floors import same
from toolgym.auditing.session import least, most
from toolgym.auditing.subjects import Item
from toolgym.auditing.texts import contradictions, copying_rules, holds, own_rate, shared, twins


def items(prompts: list[str], golds: list[str]) -> list[Item]:
    pairs = enumerate(zip(prompts, golds, strict=True))
    return [Item(n, f"t{n}", prompt, (gold,)) for n, (prompt, gold) in pairs]


@pytest.mark.parametrize(
    ("text", "gold", "found"),
    [
        ("it is 12.", "12", True),
        ("it is 12.5", "12", False),
        ("it is 112", "12", False),
        ("it is 1,200", "1", False),
        ("a party", "art", False),
        ("Art, and", "Art", True),
        ("anything", "", False),
        ("x=-5", "-5", True),
    ],
)
def test_a_gold_stands_in_a_text_as_whole_words(text: str, gold: str, found: bool) -> None:
    assert holds(text, gold) is found


@given(st.text(alphabet="ab 1.,", max_size=30), st.text(alphabet="ab1", min_size=1, max_size=3))
def test_what_holds_stands_there(text: str, gold: str) -> None:
    assert not holds(text, gold) or gold in text
    assert holds(f"x {gold} y", gold)


def test_a_rule_of_copying_is_counted_where_it_was_not_found() -> None:
    rng = random.Random(3)
    numbers = [rng.randint(100, 999) for _ in range(80)]
    told = [f"What is it? Think. (checked: {n}) Say it." for n in numbers]
    rule = copying_rules(items(told, list(map(str, numbers))))[0]
    assert rule.right == rule.fires == 40
    pairs = [rng.sample(range(100, 999), 2) for _ in range(80)]
    chosen = [f"Which is larger: {a} or {b}?" for a, b in pairs]
    rules = copying_rules(items(chosen, [str(max(pair)) for pair in pairs]))
    assert rules
    assert all(least(each.right, each.fires) <= 0.5 for each in rules)


def test_own_golds_are_counted_beside_those_of_others() -> None:
    tasks = items(["p"] * 20, [f"gold{n}" for n in range(20)])
    assert own_rate([f"see gold{n}" for n in range(20)], tasks) == (list(range(20)), 0.0)
    everything = " ".join(f"gold{n}" for n in range(20))
    assert own_rate([everything] * 20, tasks) == (list(range(20)), 1.0)


def test_twins_contradictions_and_what_two_splits_share() -> None:
    tasks = items(["What?", "what? ", "Who?", "Who?"], ["1", "1", "a", "b"])
    assert [[item.key for item in group] for group in twins(tasks)] == [["t0", "t1"]]
    assert [[item.key for item in group] for group in contradictions(tasks)] == [["t2", "t3"]]
    found = shared(tasks, items(["WHO?", "Where?"], ["a", "b"]))
    assert [(a.key, b.prompt) for a, b in found] == [("t0", "Who?")]


@pytest.mark.parametrize(
    ("text", "gold", "equal"),
    [("1,000", "1000", True), ("$5", "5.0", True), ("Paris.", "paris", True), ("1", "10", False)],
)
def test_what_is_right_by_chance(text: str, gold: str, equal: bool) -> None:
    assert same(text, (gold,)) is equal


def test_verdicts_need_more_than_chance() -> None:
    assert least(1, 20) < 0.05  # one of twenty constants that is right shows nothing
    assert least(20, 20) > 0.5
    assert most(0, 50) < 0.1
    assert least(10, 20) < 0.5 < most(10, 20)
