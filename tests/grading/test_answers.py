"""Answers as the published code compares them, and in any script."""

from __future__ import annotations

import random
import re
import string
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from toolgym.errors import UnknownNameError
from toolgym.grading.answers import (
    NORMALISATIONS,
    exact,
    last_number,
    normalise,
    overlap_f1,
    right,
)
from toolgym.rewards.answer import accuracy, exact_match, task_completion
from toolgym.task import Task
from toolgym.trajectory import Step, Trajectory


def task(*answers: str, number: bool = False) -> Task:
    return Task("t", "q", answers, answer_type="number" if number else "text")


def answered(text: str) -> Trajectory:
    return Trajectory(task("x"), steps=[Step(text, answer=text)])


# ---- numbers="paper": the published rules, restated word by word


def published_normalisation(text: str) -> str:
    """As TriviaQA's script: underscores, case, punctuation, articles, white space."""
    text = text.replace("_", " ").lower()
    punctuation = set(string.punctuation + "".join(["‘", "’", "´", "`"]))
    text = "".join(" " if sign in punctuation else sign for sign in text)
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split()).strip()


def published_extraction(text: str) -> str:
    found = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)
    return next(group for group in found[-1] if group) if found else text


def published_evaluation(prediction: str, golds: tuple[str, ...]) -> bool:
    found = published_normalisation(published_extraction(prediction))
    return any(found == published_normalisation(gold) for gold in golds)


def published_filter(prediction: str, golds: tuple[str, ...]) -> bool:
    return any(published_extraction(prediction) == gold for gold in golds)


_GOLDS = ("72", "-5", "5", "25,000", "25000", "0.5", "$18", "1,234.50", "seven", "the 9", "3.", "-")
_REPLIES = (
    *("The answer is {}.", "{}", "Answer: ${}", "so 3 + 4 = {} apples", "{}...", "- {} -", "{}%"),
    *(
        "({})",
        "10-{}",
        "{} dollars, or {}",
        "no number",
        "A {} _the_ ‘{}’",
        "-{}",
        "${},",
        "",
        "\n",
    ),
)
_MUTATIONS = [*string.digits, *"$.,-_ ‘’´`%()", "the ", "a ", "\n", "٤", "½", "seven", "--", ".."]


def replies(count: int) -> list[tuple[str, tuple[str, ...]]]:
    """Replies of a model and gold answers, mutated: signs put in, cut out and doubled."""
    chosen = random.Random(0)
    made = []
    for _ in range(count):
        golds = tuple(chosen.sample(_GOLDS, chosen.randint(1, 2)))
        text = chosen.choice(_REPLIES).replace("{}", chosen.choice([*golds, chosen.choice(_GOLDS)]))
        for _ in range(chosen.randint(0, 3)):
            at = chosen.randint(0, len(text))
            cut = chosen.randint(0, 2)
            text = text[:at] + chosen.choice(["", *_MUTATIONS]) + text[at + cut :]
        made.append((text, golds))
    return made


def test_paper_rules_equal_the_published_code_on_mutated_replies() -> None:
    seen = {"paper": [0, 0], "paper_filter": [0, 0]}
    for text, golds in replies(20_000):
        asked = task(*golds, number=True)
        for rule, published in (
            ("paper", published_evaluation),
            ("paper_filter", published_filter),
        ):
            expected = published(text, golds)
            assert right(text, asked, numbers=rule) is expected, (rule, text, golds)
            seen[rule][expected] += 1
    assert min(min(counts) for counts in seen.values()) > 2_000  # both verdicts were met


@given(st.text(), st.lists(st.text(min_size=1), min_size=1, max_size=2))
def test_paper_rules_equal_the_published_code_on_any_text(text: str, golds: list[str]) -> None:
    asked = task(*golds, number=True)
    assert right(text, asked, numbers="paper") is published_evaluation(text, tuple(golds))
    assert right(text, asked, numbers="paper_filter") is published_filter(text, tuple(golds))


# ---- the normalisation ``unicode``

SAME = [
    ("北京。", "北京"), ("「北京」", "北京"), ("القاهرة؟", "القاهرة"), ("«Paris»", "Paris"),
    ("„Москва“.", "москва"), ("¿Madrid?", "madrid"), ("पेरिस।", "पेरिस"), ("Αθήνα;", "αθήνα"),
    ("Beyonce\u0301", "Beyoncé"), ("２０１５", "2015"), ("٤٢", "42"), ("४२", "42"),
    ("Ｐａｒｉｓ", "paris"), ("Straße", "STRASSE"), ("ΟΔΟΣ", "οδος"), ("ﬁnland", "Finland"),
    ("ﾊﾟﾘ", "パリ"), ("Saint\u00a0Petersburg", "saint petersburg"), ("Zü\u00adrich", "Zürich"),
    ("مـصـر", "مصر"), ("\u200fالقاهرة\u200e", "القاهرة"), ("L´Aquila", "L’Aquila"),
    ("Paris\u3000France", "paris, france"), ("각", "각"), ("Việt Nam!", "Vie\u0323\u0302t Nam"),
]  # fmt: skip
APART = [("北京", "南京"), ("año", "ano"), ("パリ", "パリス"), ("é", "e"), ("دمشق", "القاهرة")]


@pytest.mark.parametrize(("text", "same"), SAME)
def test_one_answer_in_two_writings(text: str, same: str) -> None:
    assert normalise(text, "unicode") == normalise(same, "unicode") != ""
    assert exact(text, [same], "unicode")
    assert overlap_f1(text, [same], "unicode") == 1.0
    assert right(text, task(same), preset="ours")
    assert accuracy(task(same), answered(text), preset="ours") == [1.0]
    assert task_completion(task(same), answered(text), preset="ours") == [1.0]
    assert exact_match(task(same), answered(text), normalisation="unicode") == [1.0]


@pytest.mark.parametrize(("text", "other"), APART)
def test_other_answers_stay_apart(text: str, other: str) -> None:
    assert not exact(text, [other], "unicode")
    assert not right(text, task(other), preset="ours")


@pytest.mark.parametrize(
    ("text", "gold", "held", "said"),
    [
        ("答案是北京", "北京", True, True),
        ("首都是北京市。", "北京", True, False),
        ("北京、上海", "北京", True, False),
        ("フランスのパリ", "パリ", True, False),
        ("パリです", "パリ", True, True),
        ("パリスです", "パリ", False, False),
        ("ニューヨーク市", "ニューヨーク", True, True),
        ("กรุงเทพมหานคร", "กรุงเทพ", True, False),
        ("2015年", "2015", True, True),
        ("12015年", "2015", False, False),
        ("Парижанин", "Париж", False, False),
        ("es ist «Wien»", "Wien", True, True),
        ("Artist", "art", False, False),
    ],
)
def test_word_borders_know_scripts_without_spaces(
    text: str, gold: str, held: bool, said: bool
) -> None:
    assert right(text, task(gold), "unicode", whole_words=True, preset="paper") is held
    assert right(text, task(gold)) is said


@pytest.mark.parametrize(
    ("text", "value"), [("٤٢", 42), ("答えは２０１５年", 2015), ("४२", 42), ("−٣٫٥", -3.5)]
)
def test_numbers_of_any_script_have_their_value(text: str, value: float) -> None:
    found = last_number(text)
    assert found is not None
    assert float(found) == value
    assert right(text, task(str(value), number=True))


def test_paper_presets_stay_as_published() -> None:
    assert not right("北京。", task("南京"))
    assert normalise("２０１５") == "２０１５"
    assert not exact("«Paris»", ["Paris"])
    assert right("«Paris»", task("Paris"))  # a substring


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_ascii_is_normalised_as_in_the_paper(text: str) -> None:
    assert normalise(text, "unicode") == normalise(text, "paper")


@given(st.text())
def test_composed_and_decomposed_texts_are_the_same(text: str) -> None:
    once = normalise(text, "unicode")
    for form in ("NFC", "NFD"):
        assert normalise(unicodedata.normalize(form, text), "unicode") == once
    assert normalise(once, "unicode") == once
    assert not any(unicodedata.category(sign)[0] in "PS" for sign in once)


_WRAPS = st.sampled_from(
    ["«{}»", "「{}」", "{}。", "¿{}?", "“{}”", "{}؟", "…{}…", "\u200f{}", "{}।"]
)


@given(st.text(alphabet=st.characters(categories=["L", "Nd"]), min_size=1), _WRAPS)
def test_signs_around_an_answer_do_not_count(answer: str, wrap: str) -> None:
    assume(normalise(answer, "unicode"))  # of an article nothing is left
    assert exact(wrap.format(answer), [answer], "unicode")


@given(st.integers(0, 10**9), st.sampled_from("٠۰०０𝟎๐"))
def test_digits_of_any_script_are_the_same(value: int, zero: str) -> None:
    written = "".join(chr(ord(zero) + int(digit)) for digit in str(value))
    assert exact(written, [str(value)], "unicode")
    assert right(written, task(str(value), number=True))


@pytest.mark.parametrize("name", sorted(NORMALISATIONS))
def test_two_megabytes_are_normalised(name: str) -> None:
    for text in ("北" * 700_000, "é́" * 500_000, "ก็" * 300_000, "ー" * 600_000, "« " * 700_000):
        assert normalise(text, name) is not None


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unicode"):
        right("x", task("x"), "unicod")
