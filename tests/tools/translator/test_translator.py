"""The translator's phrase book, which never guesses."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym._util.jsonl import read_rows
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.messages import ToolCall, ToolResult
from toolgym.registry import CORPORA
from toolgym.tools.base import Tool
from toolgym.tools.translator.tool import PhraseBook, make_translator

PHRASES = [
    ("fra_Latn", "Où est la gare ?", "Where is the station?"),
    ("fra_Latn", "s'il vous plaît", "please"),
    ("fra_Latn", "merci", "thank you"),
    ("fra_Latn", "merci beaucoup", "thank you very much"),
    ("fra_Latn", "beaucoup", "a lot"),
    ("nld_Latn", "de gare", "the yarn"),
    ("zho_Hans", "非常感谢", "thank you very much"),
    ("zho_Hans", "你好", "hello"),
    ("spa_Latn", "Más de uno", "More than one"),
]


@pytest.fixture
def book(tmp_path: Path) -> PhraseBook:
    rows = ({"language": a, "text": b, "english": c} for a, b, c in PHRASES)
    path = tmp_path / "book.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return PhraseBook(path)


def ask(tool: Tool, *texts: str) -> list[ToolResult]:
    return tool.run_many(
        [ToolCall(str(n), tool.name, {"text": text}) for n, text in enumerate(texts)]
    )


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("Où est la gare ?", "Where is the station?"),
        ("  OÙ EST\n la gare?? ", "Where is the station?"),
        (unicodedata.normalize("NFD", "Où est la gare"), "Where is the station?"),
        ("ou est la gare", "Where is the station?"),
        ("S’il vous plaît!", "please"),
        ("merci beaucoup", "thank you very much"),  # one phrase before two
        ("Merci. Où est la gare ?", "thank you Where is the station?"),
        ("你好！非常感谢", "hello thank you very much"),
        ("你好非常感谢", "hello thank you very much"),
        ("where is the station", "where is the station"),
        ("Who wrote Don Quixote?", "Who wrote Don Quixote?"),
        ("In what city was Hội An's founder born?", "In what city was Hội An's founder born?"),
    ],
)
def test_phrase_book_covers(book: PhraseBook, text: str, english: str) -> None:
    assert book.translate(text) == english


@pytest.mark.parametrize(
    "text",
    [
        "Où est la plage ?",
        "merci Berlin",
        "merci de gare",  # two languages in one sentence
        "what is 非常感谢",
        "",
        "?!",
        "\x00\ud800",
        "merci " * 200_000,
    ],
)
def test_phrase_book_does_not_guess(book: PhraseBook, text: str) -> None:
    assert book.translate(text) is None


def test_named_language_is_the_only_one(book: PhraseBook) -> None:
    assert book.translate("merci", "fra_Latn") == "thank you"
    assert book.translate("merci", "nld_Latn") is None
    assert book.languages == ["fra_Latn", "nld_Latn", "spa_Latn", "zho_Hans"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [('{"language": "fra_Latn", "text": "x"}', "line 1: 'language'"), ("", "holds no phrase")],
)
def test_broken_phrase_book(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "book.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=reason):
        PhraseBook(path)


def test_every_bundled_phrase_is_translated() -> None:
    path = CORPORA.get("phrasebook").path()
    rows = [row for _, row in read_rows(path)]
    results = ask(make_translator(), *(row["text"] for row in rows))
    assert [result.content for result in results] == [row["english"] for row in rows]
    assert len(rows) > 150


_TOOL = make_translator()


@given(st.text())
def test_any_text_gives_a_text(text: str) -> None:
    (result,) = ask(_TOOL, text)
    assert result.error in (None, "tool_error")


def test_phrase_book_says_what_it_is() -> None:
    tool = make_translator(source="fra_Latn")
    assert "small phrase book" in tool.description
    (result,) = ask(tool, "Où est la plage la plus proche ? " * 50)
    assert result.error == "tool_error"
    assert "small phrase book" in result.content
    assert "nllb" in result.content
    assert len(result.content) < 600
    assert tool.name == "MachineTranslator"
    assert list(tool.parameters["properties"]) == ["text"]
    assert tool.fingerprint


def test_wrong_options_are_refused() -> None:
    with pytest.raises(BadInputError, match="did you mean 'phrasebook'"):
        make_translator("phrase_book")
    with pytest.raises(BadInputError, match="backend='nllb'"):
        make_translator(target="fra_Latn")
    with pytest.raises(BadInputError, match="did you mean 'fra_Latn'"):
        make_translator(source="fra_Latin")


@pytest.mark.parametrize("name", ["French", "fr", "fra", "FRA_latn", "fr-CA"])
def test_phrase_book_takes_every_name_of_a_language(name: str) -> None:
    (result,) = ask(make_translator(source=name, target="english"), "Merci beaucoup")
    assert result.error in (None, "tool_error")
    with pytest.raises(UnknownNameError, match="language of the phrase book 'hun_Latn'"):
        make_translator(source="Hungarian")
