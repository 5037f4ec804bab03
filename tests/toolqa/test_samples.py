"""The bundled samples keep what their cards say."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

import pytest

from toolgym import ToolCall
from toolgym._util.jsonl import read_rows
from toolgym.envs.toolqa.families import GSM8K, NQOPEN, POPQA, TRIVIAQA
from toolgym.registry import CORPORA
from toolgym.tools.toolset import make_toolset

PROPERTIES = {
    "occupation", "place of birth", "genre", "father", "country", "producer", "director",
    "capital of", "screenwriter", "composer", "color", "religion", "sport", "author", "mother",
    "capital",
}  # fmt: skip


@pytest.fixture(scope="module")
def articles() -> dict[str, str]:
    rows = [row for _, row in read_rows(CORPORA.get("sample").path())]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["title"]: row["text"] for row in rows}


def test_encyclopedia(articles: dict[str, str]) -> None:
    assert len(articles) >= 1000
    assert len(set(articles.values())) == len(articles)
    assert all(text.strip() == text and text.endswith(".") for text in articles.values())


@pytest.mark.parametrize(
    ("family", "at_least"),
    [(POPQA, 300), (TRIVIAQA, 100), (NQOPEN, 100)],
    ids=lambda value: getattr(value, "name", value),
)
def test_questions_have_their_evidence(
    family: Any, at_least: int, articles: dict[str, str]
) -> None:
    tasks = family.tasks("sample")
    assert len(tasks) >= at_least
    assert len({task.question for task in tasks}) == len(tasks)
    for task in tasks:
        first, *others = task.metadata["supporting_titles"]
        assert task.target.lower() in articles[first].lower(), task.question
        assert all(title in articles for title in others)
    assert sum(
        len(family.tasks("sample", split)) for split in ("train", "validation", "test")
    ) == len(tasks)


def test_popqa_covers_its_relations_and_popularities() -> None:
    tasks = POPQA.tasks("sample")
    by_property = Counter(task.metadata["prop"] for task in tasks)
    assert set(by_property) == PROPERTIES
    assert min(by_property.values()) >= 12
    assert set(Counter(task.metadata["s_pop"] for task in tasks)) == {100, 1000, 10_000, 100_000}


def test_word_problems_are_checked_by_the_calculator() -> None:
    tasks = GSM8K.tasks("sample")
    assert len(tasks) >= 100
    calculator = make_toolset(["Calculator"])
    for task in tasks:
        assert task.answer_type == "number"
        annotations = [part.split(">>")[0] for part in task.metadata["solution"].split("<<")[1:]]
        assert len(annotations) >= 2
        for annotation in annotations:
            expression, _, stated = annotation.partition("=")
            (result,) = calculator.execute(
                [ToolCall("c", "Calculator", {"expression": expression})]
            )
            value = result.content.partition(" ")[0]
            assert result.error is None
            assert abs(Fraction(value) - Fraction(stated)) < Fraction(1, 10**9), annotation
        assert Fraction(annotations[-1].rpartition("=")[2]) == Fraction(task.target)


def test_phrase_book_serves_the_foreign_questions() -> None:
    rows = [row for _, row in read_rows(CORPORA.get("phrasebook").path())]
    assert len({row["language"] for row in rows}) >= 8
    known = {row["text"] for row in rows}
    foreign = [t for t in TRIVIAQA.tasks("sample") if t.metadata.get("language")]
    assert len(foreign) >= 24
    assert all(task.question in known for task in foreign)
    translator = make_toolset(["MachineTranslator"])
    calls = [ToolCall(t.id, "MachineTranslator", {"text": t.question}) for t in foreign]
    english = {row["text"]: row["english"] for row in rows}
    results = translator.execute(calls)
    assert [r.content for r in results] == [english[t.question] for t in foreign]
