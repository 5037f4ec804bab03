"""Search: real BM25 over real passages, safe for any query, indexes that are whole or refused."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolgym._util.jsonl import read_rows
from toolgym._util.text import fold
from toolgym.errors import BadInputError, MissingFileError, NothingFoundError
from toolgym.messages import ToolCall, ToolResult
from toolgym.tools.base import Tool
from toolgym.tools.search import tool as search_module
from toolgym.tools.search.analysis import Analyzer
from toolgym.tools.search.corpora.passages import Passage
from toolgym.tools.search.index import HEADER, Index, build_index, open_index
from toolgym.tools.search.tool import make_search, open_corpus

ROWS = [
    {"id": "a", "title": "Gösta Eriksson", "text": "A Swedish rower from Vaxholm."},
    {"id": "b", "title": "Vaxholm", "text": "Vaxholm is a town on an island near Stockholm."},
    {"id": "c", "title": "", "text": "An untitled note about rowing boats and rivers."},
    {"id": "d", "title": "東京", "text": "日本の首都は東京です。"},
    {"id": "e", "title": "हिन्दी", "text": "हिन्दी भारत की एक भाषा है।"},
    {"id": "f", "title": "Vitamin C", "text": "Vitamin C is found in citrus fruit."},
    {"id": "g", "title": "Vitamin D", "text": "Vitamin D is made in the skin in sunlight."},
    {"id": "h", "title": "Twin", "text": "The same words."},
    {"id": "i", "title": "Twin", "text": "The same words."},
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Indexes of plain files land in the test's folder, not in the user's cache."""
    monkeypatch.setenv("TOOLGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "indexes"


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write(tmp_path / "corpus.jsonl", [dict(row) for row in ROWS])


@pytest.fixture
def index(corpus: Path, tmp_path: Path) -> Index:
    return open_index(build_index(corpus, tmp_path / "index"))


def ask(tool: Tool, *queries: str) -> list[ToolResult]:
    return tool.run_many(
        [ToolCall(str(n), tool.name, {"query": query}) for n, query in enumerate(queries)]
    )


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("Gösta Eriksson", "a"),
        ("gosta ERIKSSON", "a"),
        ("Go\u0308sta", "a"),
        ("Vaxholm", "b"),
        ("rower", "a"),
        ("river boat", "c"),
        ("首都", "d"),
        ("東京", "d"),
        ("हिन्दी", "e"),
        ("vitamin d's", "g"),
        ("Vitamin C", "f"),
    ],
)
def test_finds_across_accents_inflections_and_scripts(index: Index, query: str, found: str) -> None:
    assert index.search(query)[0].passage.id == found


@pytest.mark.parametrize("query", ["", " ", "the", "zzzqqq", "\x00", "!?", "😀", "\ud800"])
def test_query_without_known_words_has_no_hit(index: Index, query: str) -> None:
    assert index.search(query, 5) == []


def test_equal_scores_come_in_the_order_of_the_corpus(index: Index) -> None:
    hits = index.search("same words", 5)
    assert [hit.passage.id for hit in hits] == ["h", "i"]
    assert hits[0].score == hits[1].score > 0
    assert [hit.passage.id for hit in index.search("same words", 1)] == ["h"]


def test_a_megabyte_of_query_is_answered(index: Index) -> None:
    assert index.search("vaxholm " * 125_000)[0].passage.id == "b"
    assert index.search("x" * 1_000_000) == []
    assert index.search("東京" * 500_000)[0].passage.id == "d"


def test_answers_read_as_title_and_text(corpus: Path) -> None:
    tool = make_search(str(corpus))
    titled, begins_with_title, untitled = ask(tool, "rower", "stockholm", "boats")
    assert titled.content == "Gösta Eriksson: A Swedish rower from Vaxholm."
    assert begins_with_title.content == "Vaxholm is a town on an island near Stockholm."
    assert untitled.content == "An untitled note about rowing boats and rivers."
    assert list(tool.parameters["properties"]) == ["query"]
    assert tool.name == "WikipediaSearch"
    assert tool.inline


def test_several_passages_are_numbered_lines(corpus: Path) -> None:
    (result,) = ask(make_search(str(corpus), k=2), "vitamin")
    assert result.content.splitlines() == [
        "1. Vitamin C is found in citrus fruit.",
        "2. Vitamin D is made in the skin in sunlight.",
    ]
    (single,) = ask(make_search(str(corpus), k=5), "stockholm")
    assert single.content.startswith("1. ") is False


def test_no_hit_is_an_empty_result_and_no_error(corpus: Path) -> None:
    hit, miss = ask(make_search(str(corpus)), "rower", "zzzqqq" * 1_000)
    assert miss.error is None
    assert miss.content.startswith("No result for ")
    assert len(miss.content) < 200
    assert (miss.empty, hit.empty) == (True, False)
    assert [result.passed for result in (miss, hit)] == [False, True]
    # Also where many are answered at once, and by the plain function.
    asked = [
        ToolCall(f"call_{n}", "WikipediaSearch", {"query": query})
        for n, query in enumerate(["zzz", "rower"])
    ]
    both = make_search(str(corpus)).run_many(asked)
    assert [result.empty for result in both] == [True, False]
    with pytest.raises(NothingFoundError, match="no article holds a word of it"):
        make_search(str(corpus))("zzzqqq")


def test_batch_equals_one_by_one(corpus: Path) -> None:
    tool = make_search(str(corpus))
    queries = ["vitamin", "rower", "vitamin", "", "東京"]
    together = [result.content for result in ask(tool, *queries)]
    assert together == [ask(tool, query)[0].content for query in queries]


@pytest.mark.parametrize("k", [0, -1, True, "2", 1.5])
def test_bad_k_is_refused(corpus: Path, k: object) -> None:
    with pytest.raises(BadInputError, match="number of passages"):
        make_search(str(corpus), k=k)  # type: ignore[arg-type]


def test_threads_share_an_index(index: Index) -> None:
    expected = {query: index.search(query, 3) for query in ("vitamin", "vaxholm", "same words")}
    wrong: list[str] = []

    def work() -> None:
        for _ in range(100):
            wrong.extend(q for q, hits in expected.items() if index.search(q, 3) != hits)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


_words = st.sampled_from(["red", "green", "blue", "one", "two", "three", "cat", "Katze", "né"])


@settings(max_examples=40, deadline=None)
@given(
    documents=st.lists(st.lists(_words, max_size=8), min_size=1, max_size=30),
    queries=st.lists(st.lists(_words, min_size=1, max_size=4, unique=True), min_size=1, max_size=5),
    k=st.integers(1, 8),
)
def test_equals_bm25s_with_ties_by_corpus_order(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[list[str]],
    queries: list[list[str]],
    k: int,
) -> None:
    folder = tmp_path_factory.mktemp("index")
    documents[0] = [*documents[0], "red"]  # at least one word in all
    rows: list[dict[str, object]] = [{"text": " ".join(words)} for words in documents]
    index = open_index(build_index(write(folder / "corpus.jsonl", rows), folder / "index"))
    assert_equals_bm25s(index, [" ".join(words) for words in queries], k)


def assert_equals_bm25s(index: Index, queries: list[str], k: int) -> None:
    peer = bm25s.BM25.load(index.folder, mmap=False, show_progress=False)
    analyzer = Analyzer()
    for query in queries:
        terms = [term for term in analyzer.terms(query) if term in peer.vocab_dict]
        scores = peer.get_scores(terms) if terms else np.zeros(len(index), np.float32)
        order = np.lexsort((np.arange(len(scores)), -scores))[:k]
        expected = order[scores[order] > 0]
        numbers, values = index.ranking(query, k)
        assert numbers.tolist() == expected.tolist()
        # A repeated word is multiplied here and added there: equal up to rounding.
        np.testing.assert_allclose(values, scores[expected], rtol=1e-6)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    queries=st.lists(st.lists(_words, max_size=5).map(" ".join), max_size=9), k=st.integers(0, 4)
)
def test_many_queries_equal_one_by_one(index: Index, queries: list[str], k: int) -> None:
    assert index.search_many(queries, k) == [index.search(query, k) for query in queries]


def test_folding() -> None:
    assert fold("Gösta Łódź ΣΊΣΥΦΟΣ Ё Straße") == "gosta lodz σισυφοσ е strasse"
    assert fold("हिन्दी 東京 がぎ") == "हिन्दी 東京 がぎ"


@given(st.text())
def test_analysis_takes_any_text(text: str) -> None:
    analyzer = Analyzer()
    terms = analyzer.terms(text)
    assert all(terms)
    assert terms == analyzer.terms(text)


def test_rows_of_other_corpora(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"wikipedia_id": "9", "wikipedia_title": "Kilt", "text": ["Kilt\n", "A garment.\n"]},
        {"id": 7, "contents": '"Sporran"\nA pouch.'},
        {"text": "Only tartan."},
    ]
    index = open_index(build_index(write(tmp_path / "c.jsonl", rows), tmp_path / "index"))
    assert [index.passage(n) for n in range(3)] == [
        Passage("9", "Kilt", "A garment."),
        Passage("7", "Sporran", "A pouch."),
        Passage("3", "", "Only tartan."),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"text": "fine"}\n{"title": "x"}\n', "line 2: a passage needs a 'text'"),
        ('{"text": "fine"}\n{"text": \n', "line 2: not valid JSON"),
        ('{"text": 5}\n', "line 1: a passage needs"),
        ("", "holds no passage"),
        ('{"text": "..."}\n', "holds no word"),
    ],
)
def test_broken_corpus_is_named_and_leaves_nothing(
    tmp_path: Path, content: str, reason: str
) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BadInputError, match=reason):
        build_index(path, tmp_path / "index")
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_corpus_names_the_options(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"did you mean 'sample'.*index folder"):
        make_search("sampel")
    with pytest.raises(MissingFileError, match="does not exist"):
        make_search(str(tmp_path / "nothing.jsonl"))
    with pytest.raises(BadInputError, match="holds no index"):
        make_search(str(tmp_path))
    with pytest.raises(MissingFileError, match="does not exist"):
        open_index(tmp_path / "nothing")


def test_build_replaces_an_index_but_nothing_else(corpus: Path, tmp_path: Path) -> None:
    out = build_index(corpus, tmp_path / "index")
    first = open_index(out)
    write(corpus, [{"text": "Something else."}])
    assert len(open_index(build_index(corpus, out))) == 1
    assert len(first.search("vaxholm", 9)) == 2  # the opened one stays whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "index"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    with pytest.raises(BadInputError, match="is not an index"):
        build_index(corpus, other)
    assert (other / "thesis.tex").read_text() == "precious"


def test_progress_reaches_the_end(corpus: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    build_index(corpus, tmp_path / "index", progress=lambda done, size: told.append((done, size)))
    size = corpus.stat().st_size
    assert told[-1] == (size, size)


@pytest.mark.parametrize(
    "name", ["data.csc.index.npy", "maxima.npy", "corpus.jsonl", "vocab.index.json"]
)
def test_damaged_index_is_one_clear_line(index: Index, name: str) -> None:
    path = index.folder / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BadInputError, match=rf"damaged: {name} has .*toolgym index build"):
        open_index(index.folder)


def test_scrambled_index_is_refused(index: Index) -> None:
    path = index.folder / "indptr.csc.index.npy"
    path.write_bytes(b"\x00" * path.stat().st_size)
    with pytest.raises(BadInputError, match="damaged"):
        open_index(index.folder)


def test_index_of_another_analyzer_is_refused(index: Index) -> None:
    header = json.loads((index.folder / HEADER).read_text())
    assert header["versions"].keys() == {"toolgym", "bm25s", "PyStemmer"}
    assert header["passages"] == len(ROWS)
    header["analyzer"]["version"] += 1
    (index.folder / HEADER).write_text(json.dumps(header))
    with pytest.raises(BadInputError, match="another version"):
        open_index(index.folder)


def test_fingerprint_follows_the_content(corpus: Path, tmp_path: Path) -> None:
    first = make_search(str(corpus)).fingerprint
    folder = build_index(corpus, tmp_path / "index")
    assert make_search(str(folder)).fingerprint == first
    write(corpus, [{"text": "Something else."}])
    assert make_search(str(corpus)).fingerprint != first


def test_plain_corpus_is_indexed_once(
    corpus: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_corpus(str(corpus))
    assert open_corpus(str(corpus)) is opened
    assert len(list(own_cache.iterdir())) == 1
    search_module._opened.cache_clear()
    monkeypatch.setattr(search_module, "build_index", None)  # a second process need not build
    assert open_corpus(str(corpus)).fingerprint == opened.fingerprint


def test_damaged_cache_is_built_again(corpus: Path, own_cache: Path) -> None:
    open_corpus(str(corpus))
    search_module._opened.cache_clear()
    (folder,) = own_cache.iterdir()
    (folder / "data.csc.index.npy").write_bytes(b"")
    assert open_corpus(str(corpus)).search("rower")[0].passage.id == "a"


def test_cache_that_cannot_be_written(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOOLGYM_CACHE", str(tmp_path / "file"))
    assert open_corpus(str(corpus)).search("rower")[0].passage.id == "a"


def test_bundled_sample() -> None:
    tool = make_search()
    (result,) = ask(tool, "capital of France")
    assert "Paris" in result.content
    assert tool.fingerprint


@pytest.mark.slow
def test_real_passages(data_dir: Path) -> None:
    """Recall on real questions, and the order of bm25s on a real collection."""
    index = open_corpus(str(data_dir / "wikipedia" / "passages.jsonl"))
    rows = [row for _, row in read_rows(data_dir / "popqa" / "dev.jsonl")]
    first = within = 0
    for row in rows:
        titles = [hit.passage.title for hit in index.search(row["subj"], 5)]
        first += titles[0] in row["supporting_titles"]
        within += any(title in row["supporting_titles"] for title in titles)
    assert first / len(rows) > 0.93
    assert within / len(rows) > 0.97
    assert_equals_bm25s(index, [row["question"] for row in rows[:100]], 10)
