"""Rewards: formulas against hand-computed values, and properties over generated text."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym.errors import BadInputError, UnknownNameError
from toolgym.grading.answers import exact, last_number, normalise, overlap_f1, right
from toolgym.grading.rubric import Rubric
from toolgym.messages import ToolCall, ToolResult
from toolgym.registry import REWARDS
from toolgym.rewards.answer import accuracy, exact_match, task_completion, token_f1
from toolgym.rewards.solve import execution_precision
from toolgym.task import Task
from toolgym.trajectory import Problem, Step, Trajectory

WORDS = st.lists(
    st.sampled_from(["the", "The", "a", "river", "Seine", "st.", "'s", "_", "-", "´", "É", "9,1"])
).map(" ".join)
TEXTS = st.one_of(st.text(), WORDS)


def task(*answers: str, number: bool = False) -> Task:
    return Task("t", "q", answers, answer_type="number" if number else "text")


def answered(text: str, *, before: int = 0) -> Trajectory:
    """An episode that answers after some steps without an answer."""
    steps = [Step("hm") for _ in range(before)] + [Step(text, answer=text)]
    return Trajectory(task("x"), steps=steps)


@pytest.mark.parametrize(
    ("text", "paper", "squad"),
    [
        ("The St. Mary's_Hall", "st mary s hall", "st maryshall"),
        ("U.S.A.", "u s", "usa"),
        ("‘An’ apple, a day!", "apple day", "‘ ’ apple day"),
        ("£64,000", "£64 000", "£64000"),
        ("  Theatre\n of  THE  absurd ", "theatre of absurd", "theatre of absurd"),
        ("the", "", ""),
    ],
)
def test_normalisations_as_published(text: str, paper: str, squad: str) -> None:
    assert normalise(text) == paper
    assert normalise(text, "squad") == squad


@given(TEXTS, st.sampled_from(["paper", "squad", "unicode"]))
def test_normalising_twice_changes_nothing(text: str, name: str) -> None:
    once = normalise(text, name)
    assert normalise(once, name) == once
    assert once == " ".join(once.split())


def test_unknown_normalisation_is_named_with_a_near_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'squad'"):
        normalise("x", "squadd")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", "72"),
        ("so it is **72**.", "72"),
        ("$72.00", "72"),
        ("1,234.50 dollars", "1234.5"),
        ("72...", "72"),
        ("it takes 3, no 5 days ... ", "5"),
        ("1,2,3", "3"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("−7 degrees", "-7"),
        ("10-12", "12"),
        ("GPT-4", "4"),
        ("(3)-2", "2"),
        ("\\boxed{18}", "18"),
        ("1" * 60 + ".5", "1" * 60 + ".5"),
        ("-" + "1" * 60, "-" + "1" * 60),
    ],
)
def test_last_number_of_a_text(text: str, value: str) -> None:
    assert last_number(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "none", "...", "$,.", "version 1.2.3"])
def test_texts_without_a_readable_number(text: str) -> None:
    assert last_number(text) is None


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3), st.text(alphabet="ab :="))
def test_a_written_number_is_read_back(value: Decimal, before: str) -> None:
    assert last_number(f"{before} {value:f}") == value
    assert last_number(f"{before} {value:,f}.") == value


@given(st.text())
def test_last_number_reads_only_what_has_a_digit(text: str) -> None:
    found = last_number(text)
    assert found is None or any(character.isdigit() for character in text)


@pytest.mark.parametrize(
    ("prediction", "gold", "value", "paper"),
    [
        ("72.0", "72", True, False),
        ("$72", "72", True, True),
        ("72...", "72", True, True),
        ("so 12", "12", True, True),
        ("-5", "5", False, True),
        ("1,2", "12", False, False),
        ("25,000", "25000", True, False),
        ("25,000", "25,000", True, True),
        ("the seventy-two!", "seventy two", False, True),
        ("seventy-two", "72", False, False),
        ("1,234", "1234", True, False),
    ],
)
def test_number_rules(prediction: str, gold: str, value: bool, paper: bool) -> None:
    assert right(prediction, task(gold, number=True)) is value
    assert right(prediction, task(gold, number=True), numbers="paper") is paper


def test_an_unknown_number_rule_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="number rule"):
        accuracy(task("1", number=True), answered("1"), numbers="values")


def test_the_published_accuracy_takes_a_sub_span_and_whole_words_on_request() -> None:
    gold = task("art")
    assert accuracy(gold, answered("a party"), preset="paper") == [1.0]
    assert accuracy(gold, answered("a party"), preset="paper", whole_words=True) == [0.0]
    assert accuracy(gold, answered("Art, of course"), preset="paper", whole_words=True) == [1.0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Saint Petersburg", True),
        ("It is Saint Petersburg.", True),
        ("the answer is **Saint Petersburg**", True),
        ("in Saint Petersburg now", True),
        ("Saint Petersburg, Moscow", False),
        ("Moscow or Saint Petersburg", False),
        ("Moscow and Saint Petersburg", False),
        ("Moscow; Saint Petersburg", False),
        ("Moscow\nSaint Petersburg", False),
        ("It is not known; Saint Petersburg perhaps", False),
        ("Saint Petersburg is a city on the Neva that was founded by Peter the Great", False),
        ("Petersburg", False),
        ("", False),
    ],
)
def test_an_answer_says_the_gold_and_offers_nothing_beside_it(answer: str, said: bool) -> None:
    for reward in (accuracy, task_completion):
        assert reward(task("Saint Petersburg"), answered(answer)) == [float(said)]


def test_a_gold_that_is_a_list_is_said_by_that_list() -> None:
    gold = task("red, white and blue", "salt and pepper")
    assert accuracy(gold, answered("Red, white and blue")) == [1.0]
    assert accuracy(gold, answered("It is salt and pepper")) == [1.0]
    assert accuracy(gold, answered("salt, pepper")) == [0.0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("17", True),
        ("$17.00", True),
        ("17 apples", True),
        ("10 + 7 = 17", True),
        ("10 and 7 are 17 apples", True),
        ("17, that is 17.0", True),
        ("10 7 17", False),
        ("1, 2, 3, 17", False),
        ("10-17", False),
        ("17 = 10 + 7", False),
        ("none", False),
    ],
)
def test_a_number_is_the_only_one_or_stated(answer: str, said: bool) -> None:
    assert accuracy(task("17", number=True), answered(answer)) == [float(said)]


@pytest.mark.parametrize("gold", ["The", "*", "", "  ", "'"])
@pytest.mark.parametrize("normalisation", ["paper", "squad"])
def test_a_gold_that_normalises_to_nothing_never_matches_another_text(
    gold: str, normalisation: str
) -> None:
    for prediction in ("", "a", "anything", "!"):
        assert not exact(prediction, [gold], normalisation)
        assert not right(prediction, task(gold), normalisation)
        assert overlap_f1(prediction, [gold], normalisation) == 0.0


def test_the_same_sign_is_a_right_answer_even_if_normalisation_drops_it() -> None:
    for function in (exact_match, accuracy, token_f1, task_completion):
        assert function(task("*"), answered(" * ")) == [1.0]


def test_f1_by_hand() -> None:
    # two of three words right, two of four gold words found
    assert overlap_f1("blue Nile river", ["the Nile is a river there"]) == pytest.approx(4 / 7)
    assert overlap_f1("x x y", ["x y y"]) == pytest.approx(2 / 3)
    assert overlap_f1("x", ["y", "x z"]) == pytest.approx(2 / 3)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3), st.sampled_from(["paper", "squad"]))
def test_exact_implies_accurate_and_full_f1(text: str, golds: list[str], name: str) -> None:
    f1 = overlap_f1(text, golds, name)
    assert 0.0 <= f1 <= 1.0
    if exact(text, golds, name):
        assert right(text, task(*golds), name)
        assert f1 == 1.0
    if right(text, task(*golds), name, whole_words=True):
        assert right(text, task(*golds), name)
        assert f1 > 0


@given(TEXTS)
def test_every_text_is_its_own_right_answer(text: str) -> None:
    expected = 1.0 if text.strip() else 0.0
    for function in (exact_match, accuracy, token_f1, task_completion):
        assert function(task(text), answered(text)) == [expected]


@pytest.mark.parametrize("name", ["exact_match", "accuracy", "token_f1", "task_completion"])
def test_only_the_step_with_the_answer_is_rewarded(name: str) -> None:
    function = REWARDS.get(name)
    assert function(task("Seine"), answered("Seine", before=2)) == [0.0, 0.0, 1.0]
    assert function(task("Seine"), Trajectory(task("Seine"))) == []
    twice = Trajectory(task("Seine"), steps=[Step("", answer="no"), Step("", answer="Seine")])
    assert function(task("Seine"), twice) == [0.0, 0.0]


def test_the_answer_is_never_read_from_tool_results() -> None:
    call = ToolCall("c", "WikipediaSearch", {"query": "q"})
    step = Step("Seine", (call,), (ToolResult("c", "Seine"),), observation="Seine")
    for name in ("exact_match", "accuracy", "token_f1", "task_completion"):
        assert REWARDS.get(name)(task("Seine"), Trajectory(task("Seine"), steps=[step])) == [0.0]


def test_execution_precision_counts_what_could_not_be_read() -> None:
    calls = tuple(ToolCall(f"c{n}", "Calculator", {}) for n in range(3))
    errors = (None, "unknown_tool", None)
    results = tuple(ToolResult(f"c{n}", "", error) for n, error in enumerate(errors))
    steps = [
        Step("", calls, results, (Problem("bad_json", ""), Problem("answer_with_call", ""))),
        Step("", problems=(Problem("no_call", ""),)),
        Step("", answer="x"),
    ]
    values = execution_precision(task("x"), Trajectory(task("x"), steps=steps), bounded=False)
    assert values == [pytest.approx(2 / 4), 0.0, 0.0]
    bounded = execution_precision(task("x"), Trajectory(task("x"), steps=steps))
    assert bounded == pytest.approx([2 / 4, 2 / 5 - 2 / 4, 0.0])


def test_bounded_precision_pays_no_more_for_more_calls() -> None:
    step = Step("", (ToolCall("c", "Calculator", {}),), (ToolResult("c", "1"),))
    long = Trajectory(task("x"), steps=[step] * 8)
    assert sum(execution_precision(task("x"), long, bounded=False)) == 8.0
    assert execution_precision(task("x"), long) == [1.0] + [0.0] * 7


def test_a_rubric_takes_the_options_and_refuses_others() -> None:
    record = answered("St Johns")
    rubric = Rubric({"exact_match": {"weight": 2.0, "normalisation": "squad"}, "accuracy": 0.0})
    parts = rubric.parts(task("St. John's"), record)
    assert parts == {"exact_match": [1.0], "accuracy": [0.0]}
    assert rubric.total(parts) == [2.0]
    with pytest.raises(BadInputError, match="did you mean 'normalisation'"):
        Rubric({"exact_match": {"weight": 1, "normalization": "squad"}})


HUGE = 2_000_000


@pytest.mark.parametrize(
    "text",
    [
        "1" * HUGE,
        "1," * (HUGE // 2),
        "111," * (HUGE // 4) + "1111",
        "1" * (HUGE // 2) + ".1.",
        "." * HUGE,
        "-" * HUGE,
        "the " * (HUGE // 4),
        "\x00" * HUGE,
    ],
    ids=["digits", "commas", "groups", "dots", "stops", "hyphens", "articles", "nul"],
)
def test_two_megabytes_are_scored(text: str) -> None:
    # A rule of quadratic cost would take hours here, not seconds.
    assert accuracy(task("7", number=True), answered(text)) == [0.0]
    assert accuracy(task("7", number=True), answered(text), numbers="paper") == [0.0]
    assert exact_match(task("Seine", "aab" * 50), answered(text)) == [0.0]
    assert token_f1(task("Seine"), answered(text), normalisation="squad") == [0.0]
