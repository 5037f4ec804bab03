"""Conditions on lengths and copying: what they mean, what never changes them, and how they read."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym.data.conditions import (
    COPIED_WORDS,
    MEASURES,
    answer_words,
    compared_names,
    condition,
    copied_passage,
    measure,
)
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.evaluation.metrics import figures_of as figures
from toolgym.messages import ToolCall, ToolResult
from toolgym.task import Task
from toolgym.trajectory import Problem, Step, Trajectory

PASSAGE = (
    "Vanessa Bell (1879-1961) was an English painter who belonged to the Bloomsbury Group. "
    "London was her birthplace. She was the mother of Quentin Bell."
)


def episode(
    answer: str | None, *results: str, gold: str = "painter", shown: int | None = None
) -> Trajectory:
    steps = [
        Step(f"Search[{n}]", (ToolCall(f"c{n}", "Search"),), (ToolResult(f"c{n}", r, shown=shown),))
        for n, r in enumerate(results)
    ]
    ending = [] if answer is None else [Step(f"Answer: {answer}", answer=answer)]
    return Trajectory(Task("t", "Occupation?", (gold,)), steps=[*steps, *ending])


@pytest.mark.parametrize(
    ("answer", "copied"),
    [
        (PASSAGE, True),
        ("She was an English painter who belonged to the Bloomsbury Group.", True),
        ("was an english PAINTER, who belonged: to Bloomsbury", True),  # as the words stand
        ("It is: English painter who belonged to Bloomsbury, I think.", True),
        ("English painter who belonged to", False),  # five words
        ("the mother of Quentin Bell, who belonged to the Bloomsbury Group", False),  # two pieces
        ("painter", False),
        ("", False),
        (None, False),
    ],
)
def test_a_passage_is_six_words_in_a_row(answer: str | None, copied: bool) -> None:
    record = episode(answer, PASSAGE)
    assert copied_passage(record) is copied
    assert condition("copied_passage==1")(record) is copied
    assert measure("copied_passage")(record) == float(copied) == figures(record).copied_passage


def test_words_of_several_results_do_not_join() -> None:
    answer = "an English painter who belonged to the Bloomsbury Group"
    assert copied_passage(episode(answer, PASSAGE))
    halves = "An English painter who.", "Belonged to the Bloomsbury Group."
    assert not copied_passage(episode(answer, *halves))
    assert measure("copied_words")(episode(answer, *halves)) == 4


def test_a_gold_answer_as_long_as_the_run_is_not_copied() -> None:
    gold = "a painter who belonged to the Bloomsbury Group"
    assert not copied_passage(episode(gold, PASSAGE, gold=gold))
    assert copied_passage(episode(f"English {gold[2:]}", PASSAGE, gold=gold))


def test_only_what_was_read_before_the_answer_counts() -> None:
    assert not copied_passage(episode(PASSAGE, PASSAGE, shown=20))
    late = episode(PASSAGE)
    late.steps.append(Step("", (ToolCall("c", "Search"),), (ToolResult("c", PASSAGE),)))
    assert not copied_passage(late)
    same = Step(
        f"Answer: {PASSAGE}",
        (ToolCall("c", "Search"),),
        (ToolResult("c", PASSAGE),),
        answer=PASSAGE,
    )
    assert not copied_passage(Trajectory(Task("t", "?", ("x",)), steps=[same]))


def test_lengths_are_words_after_normalisation() -> None:
    assert answer_words(episode("The Beatles, of course!")) == ["beatles", "of", "course"]
    assert condition("answer_words==0")(episode(None))
    assert len(answer_words(episode("東京都"))) == 3
    record = episode("a b c", "x")
    record.steps[0].problems = (Problem("bad_json", ""), Problem("cut_reply", ""))
    assert condition("reply_words==5 and malformed==1 and problems==2")(record)


_WORD = st.text("abcdefghij", min_size=2, max_size=4)
_WORDS = st.lists(_WORD, max_size=14)


@given(_WORDS, _WORDS, _WORDS, st.integers(0, 10), st.integers(0, 14))
def test_copying_against_a_plain_search(
    before: list[str], result: list[str], after: list[str], begin: int, count: int
) -> None:
    words = [*before, *result[begin : begin + count], *after]
    record = episode(" ".join(words), " ".join(result), gold="zz")
    longest = max(
        (
            n
            for n in range(len(words) + 1)
            for at in range(len(words) - n + 1)
            if any(result[i : i + n] == words[at : at + n] for i in range(len(result) - n + 1))
        ),
        default=0,
    )
    copied = measure("copied_words")(record)
    assert copied == longest <= len(answer_words(record))
    assert copied_passage(record) is (longest >= COPIED_WORDS)


@given(_WORDS, _WORDS, st.sampled_from([str.upper, str.title, lambda text: f"“{text}.”"]))
def test_case_punctuation_and_articles_change_nothing(
    answer: list[str], result: list[str], change: object
) -> None:
    assert callable(change)
    plain = episode(" ".join(answer + result), " ".join(result))
    other = episode(change(" the ".join(answer + result)), ", ".join(result))
    for name in ("answer_words", "copied_passage", "copied_words"):
        assert measure(name)(plain) == measure(name)(other)


@given(_WORDS, _WORDS)
def test_more_results_never_make_an_answer_less_copied(
    answer: list[str], result: list[str]
) -> None:
    text = " ".join(answer)
    fewer, more = episode(text, "zz"), episode(text, "zz", " ".join(result))
    assert measure("copied_words")(fewer) <= measure("copied_words")(more)


@given(st.text(max_size=60), st.text(max_size=60))
def test_every_measure_takes_every_text(answer: str, result: str) -> None:
    record = episode(answer, result)
    for name in MEASURES:
        assert measure(name)(record) >= 0
    assert measure("accuracy_paper")(record) == figures(record).accuracy_paper
    assert measure("copied_passage")(record) in (0.0, 1.0)


_HOLDS = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}
_PARTS = st.tuples(
    st.sampled_from(sorted(MEASURES)), st.sampled_from(sorted(_HOLDS)), st.integers(0, 9)
)


@given(
    st.lists(_PARTS, min_size=1, max_size=4),
    st.sampled_from([" and ", ",", " , ", "  and\t"]),
    st.sampled_from(["", " "]),
)
def test_conditions_read_as_they_are_written(
    parts: list[tuple[str, str, int]], joint: str, space: str
) -> None:
    text = joint.join(f"{name}{space}{sign}{space}{bound}" for name, sign, bound in parts)
    record = episode("an English painter who belonged to the group", PASSAGE)
    expected = all(_HOLDS[sign](measure(name)(record), bound) for name, sign, bound in parts)
    assert condition(text)(record) is expected
    assert compared_names(text) == [name for name, _, _ in parts]


@given(st.text(string.printable, max_size=30))
def test_whatever_is_written_reads_or_is_one_of_our_errors(text: str) -> None:
    said = ""
    try:
        condition(text)(episode("x"))
    except (BadInputError, UnknownNameError) as error:
        said = str(error)
    assert "\n" not in said


def test_unknown_names_say_the_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'answer_words'"):
        condition("answer_word<=5")
    with pytest.raises(UnknownNameError, match="did you mean 'copied_passage'"):
        condition("exact_match>=1 and copied_passages==0")
