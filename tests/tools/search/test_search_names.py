"""Names that an analyzer could lose: stop words as titles, odd letters, digits, other languages."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym._util.jsonl import dump_line, read_rows
from toolgym._util.text import fold
from toolgym.errors import BadInputError, NothingFoundError
from toolgym.tools.search.analysis import Analyzer
from toolgym.tools.search.index import Index, build_index, open_index
from toolgym.tools.search.tool import make_search, open_corpus

ROWS: list[dict[str, object]] = [
    {"title": "It", "text": "It is a 1986 novel by Stephen King."},
    {"title": "The The", "text": "The The are an English band."},
    {"title": "Will Smith", "text": "An actor who raps."},
    {"title": "John Smith", "text": "A smith, who will not act."},
    {"title": "Ship", "text": "The Donau\u00addampf\u00adschiff sails; so does می\u200cرود."},
    {
        "title": "Bold",
        "text": "a \U0001d401\U0001d428\U0001d425\U0001d41d\U0001d41e\U0001d42b word",
    },
    {"title": "O\u02bbahu", "text": "O\u02bbahu is an island, Qur\u02beān a book."},
    {"title": "Jahr", "text": "\u0633\u0646\u0629 \u0661\u0669\u0669\u0669, १९४७"},
    {"title": "Nguyễn Du", "text": "Ông là nhà thơ của Việt Nam."},
    {"title": "La Paz", "text": "La Paz, the La of Cho and Co; la co cho."},
    {"title": 1984, "text": "A novel about a state."},
    {"title": None, "text": "Nameless text."},
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("names")
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(dump_line({"id": str(n), **r}) for n, r in enumerate(ROWS)), "utf-8")
    return open_index(build_index(corpus, folder / "index"))


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("It", "It"),
        ("the the", "The The"),
        ("Who is The The?", "The The"),
        ("What is Will Smith's occupation?", "Will Smith"),
        ("Donaudampfschiff", "Ship"),
        ("donau\u00addampf\u200bschiff Donaudampf\u00adschiff", "Ship"),
        ("میرود", "Ship"),
        ("bolder", "Bold"),
        ("\U0001d4d1older", "Bold"),
        ("Oahu", "O\u02bbahu"),
        ("O'ahu", "O\u02bbahu"),
        ("O\u2019ahu", "O\u02bbahu"),
        ("quran", "O\u02bbahu"),
        ("1999", "Jahr"),
        ("\uff11\uff19\uff19\uff19", "Jahr"),
        ("1947", "Jahr"),
        ("Nguyen", "Nguyễn Du"),
        ("Nguyễn", "Nguyễn Du"),
        ("nha tho Viet Nam", "Nguyễn Du"),
        ("Nguyễn Du là ai và ở đâu của Việt Nam có", "Nguyễn Du"),
        ("1984", "1984"),
    ],
)
def test_found(index: Index, query: str, title: str) -> None:
    assert index.search(query)[0].passage.title == title


def test_a_question_in_vietnamese_finds_no_words_of_others(index: Index) -> None:
    assert "La Paz" not in [h.passage.title for h in index.search("Thủ đô của nước là gì, có ở", 9)]


def test_what_was_left_out_is_not_said_to_be_absent(index: Index) -> None:
    tool = make_search(str(index.folder))
    with pytest.raises(NothingFoundError, match="too common, and no title is made of them"):
        tool.function("there was such")
    for query in ("zzz", "!?"):
        with pytest.raises(NothingFoundError, match="no article holds a word of it"):
            tool.function(query)


def test_stop_words_of_titles_are_no_words_of_texts(index: Index) -> None:
    assert [hit.passage.title for hit in index.search("it", 9)] == ["It"]
    assert index.terms("is it") == ["is", "it"]
    assert index.terms("is it red") == ["red"]


@pytest.mark.parametrize("title", ["[]", '{"a": 1}', "true"])
def test_a_title_that_is_no_string_is_named(tmp_path: Path, title: str) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(f'{{"title": {title}, "text": "x"}}\n')
    with pytest.raises(BadInputError, match=r"line 1: the title of a passage is a string, not"):
        build_index(corpus, tmp_path / "index")


@given(st.text())
def test_folding_once_is_enough(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@given(st.text(max_size=40))
def test_a_query_of_words_has_terms(text: str) -> None:
    analyzer = Analyzer()
    if analyzer.terms(text) or analyzer.kept_terms(text):
        assert analyzer.query_terms(text)
    assert analyzer.only_stop_words(text) <= bool(analyzer.query_terms(text))


@pytest.mark.slow
def test_real_questions_find_their_passage(data_dir: Path) -> None:
    index = open_corpus(str(data_dir / "wikipedia" / "passages.jsonl"))
    rows = [row for _, row in read_rows(data_dir / "popqa" / "dev.jsonl")]
    found = [
        [hit.passage.title in row["supporting_titles"] for hit in index.search(row["question"], 5)]
        for row in rows
    ]
    assert sum(any(hits[:1]) for hits in found) / len(rows) >= 0.962
    assert sum(any(hits) for hits in found) / len(rows) >= 0.984
