"""Sub-answers: when a result holds one, which call solved which, and how calls are assigned."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym._util.jsonl import read_rows
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.grading.matching import coverage, tokens
from toolgym.grading.solving import Solving, assign, solves, turns
from toolgym.messages import ToolCall, ToolResult
from toolgym.task import SubAnswer, Task
from toolgym.trajectory import Problem, Step

# answer, result, ours, paper
CASES = [
    ("1", "10", False, True),
    ("1", "1.5", False, True),
    ("1", "-1", False, True),
    ("-5", "it is \u22125 °C", True, False),
    ("5", "10-5", False, True),
    ("1234.5", "1,234.50", True, True),
    ("1,234.50", "1234.5", True, False),
    ("1234", "[1,234]", False, True),
    ("1234.0", "1234", True, False),
    ("1234", "1\u202f234", True, False),
    ("1", "1\u00a0000", False, True),
    ("1000000", "1'000'000.00", True, False),
    ("1", "½ of 1½", False, True),
    ("0.3", "0.30000000000000004", True, True),
    ("100000", "1e5", True, False),
    ("42", "٤٢", True, False),
    ("42", "４２ km", True, False),
    ("102", "10²", False, False),
    ("7", "007", False, True),
    ("42 km", "42km", True, False),
    ("42 km", '{"value": 42, "unit": "km"}', True, False),
    ("42 km", "42 m", False, False),
    ("42 km", "42", False, False),
    ("$5", "5 $", True, False),
    ("5", "5 %", True, True),
    ("5 %", "5", False, False),
    ("1815-12-10", "1815/12/10", True, False),
    ("1815-12-10", "born 1815-12-10T00:00:00Z", True, True),
    ("1815", "1815-12-10", False, True),
    ("12", "12:30", False, True),
    ("1.2", "version 1.2.3", False, True),
    ("3", "3d", False, True),
    ("19", "19th", False, True),
    ("1920", "the 1920s", False, True),
    ("art", "a party", False, True),
    ("New York", "NEW\u00a0YORK!", True, False),
    ("Jos\u00e9", '["Jose\u0301"]', True, False),
    ("Jose", "José", False, False),
    ("Straße", "STRASSE", True, False),
    ("caf\u00e9", '{"name": "caf\\u00e9"}', True, False),
    ("b, a", "a and b", True, True),
    ("a, b", "a", False, False),
    ("5, 5", "5", False, True),
    ("5, 5", "[5, 5]", True, True),
    ("York, New York", "New York", False, True),
    ("York, New York", "New York and York", True, True),
    ("C", "C++", False, True),
    ("東京", "東京都です", True, True),
    ("हिन्द", "हिन्दी", False, True),
    ("Paris", '{"Paris": 3}', True, True),
    ("true", '{"open": true}', True, True),
    ("a b", '{"first": "a", "last": "b"}', True, False),
    ("3", '"{\\"n\\": 3}"', True, True),
    ("*", " * ", True, True),
    ("*", "a * b", False, True),
    ("", "anything", False, True),
    (", ", "anything", False, True),
]


@pytest.mark.parametrize(("answer", "result", "ours", "paper"), CASES)
def test_whether_a_result_holds_a_sub_answer(
    answer: str, result: str, ours: bool, paper: bool
) -> None:
    assert solves(answer, result) is ours
    assert solves(answer, result, "paper") is paper


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'paper'"):
        solves("1", "1", "papers")
    with pytest.raises(UnknownNameError, match="preset"):
        turns(task(), [], "my own")


def spellings(number: int) -> list[str]:
    """Ways in which a tool may say a number."""
    return [
        *(str(number), f"{number:,}", f"{number}.0", f"{number:,}.00 km", f"({number})"),
        *(json.dumps([number]), json.dumps({"n": float(number)}), f"n={number};", f"${number}."),
        "".join(chr(0x660 + int(c)) if c.isdigit() else c for c in str(number)),
    ]


NUMBERS = st.integers(-(10**12), 10**12)


@given(NUMBERS, NUMBERS)
def test_only_the_same_number_is_the_same_in_every_spelling(one: int, other: int) -> None:
    for answer, result in itertools.product((str(one), f"{one:,}"), spellings(other)):
        assert solves(answer, f"It is {result}" if result[0] not in "{[" else result) is (
            one == other
        ), (answer, result)


@given(st.integers(1, 10**6), st.text("0123456789", min_size=1, max_size=5))
def test_a_number_never_solves_a_longer_one(number: int, more: str) -> None:
    longer = f"{number}{more}"
    for result in (longer, f"a {longer} b", json.dumps({"n": int(longer)}), f"{number}.{more}5"):
        assert not solves(str(number), result)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3), st.integers(0, 3))
def test_trailing_zeros_say_nothing(value: Any, zeros: int) -> None:
    assert solves(str(value), f"{value:f}{'0' * zeros}")


WORDS = st.text(st.characters(categories=("L",)), min_size=1, max_size=8)


@given(st.lists(WORDS, min_size=1, max_size=5), st.data())
def test_words_solve_on_token_borders_only(words: list[str], data: st.DataObject) -> None:
    result = " ".join(words)
    begin = data.draw(st.integers(0, len(words) - 1))
    end = data.draw(st.integers(begin + 1, len(words)))
    assert solves(" ".join(words[begin:end]), result)
    assert solves(result, json.dumps([result]))
    latin = "q" + "".join(word for word in words if word.isascii())
    assert not solves(latin, f"{latin}x")
    assert not solves(latin, f"x{latin}")


@given(st.text(), st.text())
def test_any_text_is_read(answer: str, result: str) -> None:
    assert 0.0 <= coverage(answer, result) <= 1.0
    # the separator of parts aside, what holds itself holds itself in a longer text too
    if coverage(answer, answer) and tokens(answer):
        assert solves(answer, f"{answer}\n{answer}")


@pytest.mark.parametrize(
    "unit",
    ["1-", "1,", "9", "1e", "[", '{"a":', '"', "1.5 ", "$-", "東", "\u0301", "1,000", "1a_"],
)
def test_a_megabyte_of_anything_is_read(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    assert solves("42 km, Paris", f"{text} , 42 km in Paris")


def test_how_much_of_a_result_is_the_answer() -> None:
    assert coverage("10", "10") == 1.0
    assert coverage("10, 20", "10 and 20") == pytest.approx(2 / 3)
    assert coverage("10", "10 and 20") == pytest.approx(1 / 3)
    assert coverage("42 km", '{"value": 42, "unit": "km"}') == 1.0


def task(*entries: tuple[str, str], **more: Any) -> Task:
    rows = [{"id": f"q{n}", "tool": t, "answer": a} for n, (t, a) in enumerate(entries, 1)]
    return Task("t", "q?", ("gold",), {"sub_answers": rows, **more})


def turn(*calls: tuple[str, Any, str], error: str | None = None, unread: int = 0) -> Step:
    """A turn of calls, each a tool, its argument and the result."""
    made = tuple(ToolCall(f"c{n}", name, {"of": of}) for n, (name, of, _) in enumerate(calls))
    results = tuple(ToolResult(f"c{n}", text, error) for n, (_, _, text) in enumerate(calls))
    return Step("x", made, results, problems=(Problem("bad_json", "broken"),) * unread)


def solved(steps: list[Step], on: Task, preset: str = "ours") -> list[dict[int, str]]:
    found = turns(on, steps, preset)
    return [{number: entry.id for number, entry in one.solved.items()} for one in found]


def test_the_assignment_is_optimal_where_the_first_match_is_not() -> None:
    on = task(("f", "10"), ("f", "10, 20"))
    steps = [turn(("f", "a", "10 and 20"), ("f", "b", "10"))]
    assert solved(steps, on, "paper") == [{0: "q1"}]
    assert solved(steps, on) == [{0: "q2", 1: "q1"}]


def test_the_better_match_is_taken_though_another_would_do_now() -> None:
    on = task(("f", "10"), ("f", "10, 20"))
    steps = [turn(("f", "a", "10 and 20")), turn(("f", "b", "10"))]
    assert solved(steps, on, "paper") == [{0: "q1"}, {}]
    assert solved(steps, on) == [{0: "q2"}, {0: "q1"}]


def test_a_call_solves_only_for_its_own_tool() -> None:
    on = task(("f", "10"), ("g", "20"))
    steps = [turn(("g", "a", "10 and 20"), ("F", "a", "10"), ("h", "a", "10"))]
    assert solved(steps, on) == solved(steps, on, "paper") == [{0: "q2"}]


def test_a_failed_call_solves_nothing_in_ours() -> None:
    on, steps = task(("f", "10")), [turn(("f", "10", "Error: no 10"), error="tool_error")]
    assert solved(steps, on) == [{}]
    assert solved(steps, on, "paper") == [{0: "q1"}]


def test_a_repeated_call_never_solves_again() -> None:
    on = task(("f", "10"), ("f", "10"))
    again = [turn(("f", "a", "10"))] * 2
    within = [turn(("f", "a", "10"), ("f", " A", "10"))]
    other = [turn(("f", "a", "10")), turn(("f", "b", "10"))]
    assert solved(again, on) == [{0: "q1"}, {}]
    assert solved(again, on, "paper") == [{0: "q1"}, {0: "q2"}]
    assert solved(within, on) == [{0: "q1"}]
    assert solved(other, on) == [{0: "q1"}, {0: "q2"}]


def test_a_call_that_failed_before_may_be_repeated() -> None:
    on = task(("f", "10"))
    steps = [turn(("f", "a", "late"), error="injected_timeout"), turn(("f", "a", "10"))]
    assert solved(steps, on) == [{}, {0: "q1"}]


def test_attempts_that_cannot_be_read_are_calls_in_ours() -> None:
    steps = [turn(("f", "a", "10"), unread=2)]
    assert [one.calls for one in turns(task(("f", "10")), steps)] == [3]
    assert [one.calls for one in turns(task(("f", "10")), steps, "paper")] == [1]


def test_what_is_open_before_and_left_after_each_turn() -> None:
    on = task(("f", "10"), ("g", "20"))
    played = turns(on, [turn(("g", 1, "20")), turn(), turn(("f", 1, "10"))])
    assert [[e.id for e in one.open] for one in played] == [["q1", "q2"], ["q1"], ["q1"]]
    assert [[e.id for e in one.left] for one in played] == [["q1"], ["q1"], []]
    assert played[0].solved == {0: SubAnswer("q2", "g", "20")}


TOOLS = st.sampled_from("fg")
TEXTS = st.sampled_from(["1", "10", "1, 10", "10, 20", "20", "a", "a b", "b", "", "a, 1"])
SAID = st.sampled_from(["1", "10", "[1, 10]", "10 and 20", "a b", "b: 20", "", "1 a 20 10", "-1"])
CALLS = st.lists(st.tuples(TOOLS, st.integers(0, 3), SAID), max_size=4)
EPISODES = st.lists(
    st.tuples(CALLS, st.sampled_from([None, None, "tool_error"]), st.integers(0, 1)), max_size=5
)


@given(st.lists(st.tuples(TOOLS, TEXTS), min_size=1, max_size=5), EPISODES)
def test_each_sub_answer_is_solved_once_by_a_call_that_gave_it(
    entries: list[tuple[str, str]], episode: list[Any]
) -> None:
    on = task(*entries)
    steps = [turn(*calls, error=error, unread=n) for calls, error, n in episode]
    for preset in ("ours", "paper"):
        played, gone = turns(on, steps, preset), []
        for step, one in zip(steps, played, strict=True):
            assert one.open == tuple(e for e in on.sub_answers if e.id not in gone)
            for number, entry in one.solved.items():
                assert entry in one.open
                assert step.calls[number].name == entry.tool
                assert solves(entry.answer, step.results[number].content, preset)
                assert preset == "paper" or step.results[number].error is None
            gone += [entry.id for entry in one.solved.values()]
        assert len(set(gone)) == len(gone)
        for k in range(len(steps)):
            assert turns(on, steps[:k], preset) == played[:k]
        counts = Solving.of(played, len(entries), preset)
        assert 0 <= counts.f1 <= 1
        assert 0 <= counts.precision <= 1
        assert counts.rate == len(gone) / len(entries)


@given(st.lists(st.tuples(TOOLS, TEXTS), min_size=1, max_size=5), CALLS)
def test_a_turn_never_solves_fewer_than_the_first_match_would(
    entries: list[tuple[str, str]], calls: list[tuple[str, int, str]]
) -> None:
    on = task(*entries)
    different = {(name, of): (name, of, said) for name, of, said in calls}.values()
    step = turn(*different)
    greedy, left = 0, list(on.sub_answers)
    for call, result in zip(step.calls, step.results, strict=True):
        for entry in left:
            if entry.tool == call.name and solves(entry.answer, result.content):
                left.remove(entry)
                greedy += 1
                break
    assert len(turns(on, [step])[0].solved) >= greedy


FITS = st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0]) | st.floats(0.001, 1.0)


@given(st.integers(1, 4), st.integers(0, 5), st.data())
@settings(max_examples=200)
def test_assignment_against_brute_force(rows: int, columns: int, data: st.DataObject) -> None:
    row = st.lists(FITS, min_size=columns, max_size=columns)
    fit = data.draw(st.lists(row, min_size=rows, max_size=rows))
    best = (0, 0.0)
    for chosen in itertools.product(range(-1, columns), repeat=rows):
        used = [c for c in chosen if c >= 0]
        if len(set(used)) == len(used) and all(
            fit[r][c] > 0 for r, c in enumerate(chosen) if c + 1
        ):
            best = max(best, (len(used), sum(fit[r][c] for r, c in enumerate(chosen) if c >= 0)))
    found = assign(fit)
    pairs = [(r, c) for r, c in enumerate(found) if c is not None]
    assert len({c for _, c in pairs}) == len(pairs) == best[0]
    assert all(fit[r][c] > 0 for r, c in pairs)
    assert sum(fit[r][c] for r, c in pairs) == pytest.approx(best[1], abs=1e-6)


def test_assignment_prefers_early_rows_and_copes_with_many_columns() -> None:
    assert assign([[1.0], [1.0], [1.0]]) == [0, None, None]
    assert assign([[0.5] * 5000, [0.5] * 5000]) in ([0, 1], [1, 0])
    assert assign([[0.0], [0.0]]) == [None, None]
    assert assign([]) == []


@pytest.mark.parametrize(
    "rows",
    [[{"id": "q1", "tool": "f"}], ["10"], {"f": ["10"]}, [{"id": 1, "tool": 2, "answer": 3}]],
)
def test_a_broken_list_of_sub_answers_is_named(rows: Any) -> None:
    with pytest.raises(BadInputError, match="task 't': a sub-answer is"):
        _ = Task("t", "q", ("a",), {"sub_answers": rows}).sub_answers


def test_sub_answers_of_a_task() -> None:
    assert Task("t", "q", ("a",)).sub_answers == ()
    row = {"id": "q1", "tool": "f", "answer": "1"}
    with pytest.raises(BadInputError, match="one id"):
        _ = Task("t", "q", ("a",), {"sub_answers": [row, row]}).sub_answers


def test_real_calculations_as_docs_rewards_measures_them(data_dir: Path) -> None:
    """GSM8K's annotated calculations: each is a sub-question, its value the sub-answer."""
    pairs = wrongly = problems = 0
    left: dict[str, list[int]] = {"ours": [], "paper": []}
    for _, row in read_rows(data_dir / "gsm8k" / "train.jsonl", "task file"):
        found = []
        for expression, value in ANNOTATED.findall(row["answer"]):
            with contextlib.suppress(InvalidOperation):
                found.append((expression, value.strip(), Decimal(value.replace(",", ""))))
        if len(found) < 2:
            continue
        problems += 1
        for (_, one, a), (_, other, b) in itertools.permutations(found, 2):
            if a != b:
                pairs += 1
                wrongly += solves(one, other, "paper")
                assert not solves(one, other)
        on = task(*(("Calculator", value) for _, value, _ in found))
        calls = [("Calculator", expression, value) for expression, value, _ in reversed(found)]
        for preset in left:
            (played,) = turns(on, [turn(*calls)], preset)
            left[preset].append(len(played.left))
    assert (problems, pairs, wrongly) == (6974, 64914, 2540)
    assert (sum(left["paper"]), sum(n > 0 for n in left["paper"])) == (1193, 1111)
    assert (sum(left["ours"]), sum(n > 0 for n in left["ours"])) == (53, 52)


ANNOTATED = re.compile(r"<<([^=<>]+)=([^<>]+)>>")
