"""The promise to bm25s: its folders open here, ours open there, with the same hits and scores."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import bm25s
import gymnasium as gym
import numpy as np
import pytest
import Stemmer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import toolgym  # noqa: F401  (registers the environments)
from toolgym._util.jsonl import read_rows
from toolgym.errors import BadInputError, MissingFileError, NothingFoundError
from toolgym.tools.search import folders
from toolgym.tools.search.index import Index, build_index, open_index
from toolgym.tools.search.tool import make_search, open_corpus

K = 10
METHODS = ["lucene", "robertson", "atire", "bm25l", "bm25+"]
TEXTS = [
    "The cat is a feline and likes to purr",
    "A dog is the human's best friend and loves to play",
    "A bird is a beautiful animal that can fly",
    "Fishes are creatures that live in water and swim",
    "Running dogs and flying birds were playing",
]


def saved(
    folder: Path,
    texts: list[str],
    corpus: list[Any] | None,
    tokens: dict[str, Any] | None = None,
    **model: Any,
) -> tuple[bm25s.BM25, dict[str, Any]]:
    """A folder as bm25s writes it, and what its tokenizer was told."""
    told = {"show_progress": False, **(tokens or {})}
    peer = bm25s.BM25(**model)
    peer.index(bm25s.tokenize(texts, **told), show_progress=False)
    peer.save(folder, corpus=corpus, show_progress=False)
    return bm25s.BM25.load(folder, show_progress=False), told


def assert_same_top(index: Index, peer: bm25s.BM25, asked: list[tuple[str, list[str]]]) -> None:
    """The best ten documents with a score of their own, and all scores; ties in any order."""
    for query, tokens in asked:
        known = [token for token in tokens if token in peer.vocab_dict]
        numbers, scores = index.ranking(query, K)
        if not known:
            assert not len(numbers)
            continue
        every = peer.get_scores(known)
        np.testing.assert_allclose(scores, every[numbers], rtol=2e-6)
        least = 0.0 if peer.nonoccurrence_array is None else every.min()
        expected = np.sort(every[every > least])[::-1][:K]
        np.testing.assert_allclose(scores[: len(expected)], expected, rtol=2e-6)
        assert len(numbers) >= len(expected)


def tokens_of(queries: list[str], told: dict[str, Any]) -> list[tuple[str, list[str]]]:
    cut = bm25s.tokenize(queries, return_ids=False, **told)
    return list(zip(queries, cut, strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "tokens",
    [
        {},
        {"stopwords": None},
        {"stemmer": Stemmer.Stemmer("english")},
        {"lower": False, "stopwords": []},
        {"token_pattern": r"(?u)\b\w+\b", "stopwords": None},
        {"stopwords": "en_plus"},
    ],
    ids=["plain", "all", "stemmed", "cased", "single", "plus"],
)
def test_a_folder_of_bm25s_opens(tmp_path: Path, method: str, tokens: dict[str, Any]) -> None:
    peer, told = saved(tmp_path / "index", TEXTS, TEXTS, tokens, method=method)
    index = open_corpus(str(tmp_path / "index"))
    queries = [*TEXTS, "does the fish purr like a cat?", "Dogs", "running birds", "zzz", "", "a"]
    assert_same_top(index, peer, tokens_of(queries, told))
    assert index.search("purr")[0].passage.text == TEXTS[0]
    assert len(index) == len(TEXTS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("int_dtype", ["int32", "int64"])
def test_any_kind_of_numbers(tmp_path: Path, dtype: str, int_dtype: str) -> None:
    peer, told = saved(tmp_path, TEXTS, TEXTS, dtype=dtype, int_dtype=int_dtype, k1=1.2, b=0.5)
    index = open_index(tmp_path)
    assert_same_top(index, peer, tokens_of(TEXTS, told))
    assert index.ranking("cat", 1)[1].dtype == dtype
    assert (index.recipe.k1, index.recipe.b) == (1.2, 0.5)


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ("a red fox", ("1", "", "a red fox")),
        ({"text": "a red fox"}, ("1", "", "a red fox")),
        ({"id": 7, "title": "Fox", "text": "a red fox"}, ("7", "Fox", "a red fox")),
        ({"docid": "d", "title": 1984, "contents": "red"}, ("d", "1984", "red")),
        ({"name": "Fox", "colour": "red"}, ("1", "Fox", '{"colour": "red"}')),
        (["a", "red", 3], ("1", "", "a\nred\n3")),
        ({"text": ["a", "b"]}, ("1", "", '["a", "b"]')),
    ],
)
def test_any_row_is_a_passage(tmp_path: Path, row: Any, shown: tuple[str, str, str]) -> None:
    saved(tmp_path, ["blue bird", "red fox"], ["blue bird", row])
    passage = open_index(tmp_path).search("fox")[0].passage
    assert (passage.id, passage.title, passage.text) == shown


def test_an_environment_searches_it(tmp_path: Path) -> None:
    saved(tmp_path / "index", TEXTS, TEXTS)
    env = gym.make("ToolQA-PopQA-v0", corpus=str(tmp_path / "index"))
    env.reset(seed=1)
    assert "purr" in env.step("Thought: a\nAction: WikipediaSearch[feline]")[0]
    with pytest.raises(NothingFoundError, match="no article holds a word"):
        make_search(str(tmp_path / "index")).function("zzz")
    best = make_search(str(tmp_path / "index"), passage="best", passage_chars=50)
    assert "feline" in best.function("feline")


def test_what_a_user_knows_of_a_folder(tmp_path: Path) -> None:
    told = {"stemmer": Stemmer.Stemmer("german"), "stopwords": "german"}
    texts = ["die Katzen der Häuser", "ein Haus und Kätzchen", "Bäume wachsen schnell"]
    peer, told = saved(tmp_path, texts, texts, told)
    index = open_corpus(str(tmp_path), {"stemmer": "german", "stop_words": ["die", "der", "und"]})
    assert_same_top(index, peer, tokens_of(["Katze", "Häuser wachsen"], told))
    assert index.fingerprint != open_corpus(str(tmp_path)).fingerprint
    with pytest.raises(BadInputError, match=r"was built with k1 1\.5 instead of 0\.9"):
        open_corpus(str(tmp_path), {"k1": 0.9})


BROKEN: dict[str, Any] = {
    "holds no corpus.jsonl": lambda f: (f / "corpus.jsonl").unlink(),
    "5 passages, its corpus.jsonl 4 lines": lambda f: (f / "corpus.jsonl").write_text(
        "".join((f / "corpus.jsonl").read_text().splitlines(keepends=True)[:4])
    ),
    "damaged .*vocab": lambda f: (f / "vocab.index.json").unlink(),
    "damaged .*Expecting": lambda f: (f / "vocab.index.json").write_text("{"),
    "damaged .*has no attribute": lambda f: (f / "vocab.index.json").write_text("[1]"),
    "damaged .*KeyError": lambda f: (f / "params.index.json").write_text("{}"),
    "sizes of its arrays disagree": lambda f: np.save(
        f / "data.csc.index.npy", np.zeros(3, np.float32)
    ),
    "too large": lambda f: np.save(
        f / "indices.csc.index.npy", np.load(f / "indices.csc.index.npy") + 99
    ),
    "damaged .*(pickle|magic|mmap)": lambda f: (f / "data.csc.index.npy").write_bytes(b"x" * 99),
    "holds no index": lambda f: (f / "params.index.json").unlink(),
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_cannot_be_opened_is_one_clear_line(tmp_path: Path, message: str) -> None:
    saved(tmp_path, TEXTS, TEXTS)
    BROKEN[message](tmp_path)
    with pytest.raises(BadInputError, match=message) as caught:
        open_corpus(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert "save" in str(caught.value)


def test_absent_words_need_their_file(tmp_path: Path) -> None:
    saved(tmp_path, TEXTS, TEXTS, method="bm25+")
    (tmp_path / "nonoccurrence_array.index.npy").unlink()
    with pytest.raises(BadInputError, match="nonoccurrence_array"):
        open_corpus(str(tmp_path))


def test_terms_of_another_tokenizer_are_told(tmp_path: Path) -> None:
    peer = bm25s.BM25()
    peer.index([["▁the", "##cat"], ["▁a", "##dog"]], show_progress=False)
    peer.save(tmp_path, corpus=["the cat", "a dog"], show_progress=False)
    with pytest.warns(RuntimeWarning, match="most terms of this index are none"):
        open_index(tmp_path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    """Repositories of a hub that does not exist, by kind and name."""
    known: dict[str, Path] = {}

    class Hub:
        @staticmethod
        def snapshot_download(path: str, *, repo_type: str, **_: Any) -> str:
            if f"{repo_type}:{path}" not in known:
                raise OSError(f"404: no {repo_type} {path}\nmore lines")
            return str(known[f"{repo_type}:{path}"])

    monkeypatch.setattr(folders, "require_extra", lambda *_: Hub)
    return known


def test_a_folder_from_the_hub(tmp_path: Path, hub: dict[str, Path]) -> None:
    saved(tmp_path / "snapshot", TEXTS, TEXTS)
    hub["model:me/cats"] = tmp_path / "snapshot"
    assert "purr" in open_corpus("hf:me/cats").search("feline")[0].passage.text
    (tmp_path / "other").mkdir()
    hub["dataset:me/rows"] = tmp_path / "other"
    for name, message in (("hf:me/rows", "holds no index"), ("hf:no/where", "404: no model")):
        with pytest.raises(MissingFileError, match=message) as caught:
            open_corpus(name)
        assert "toolgym index build hf:" in str(caught.value)
        assert "\n" not in str(caught.value)


_WORDS = [
    "red",
    "reds",
    "green",
    "blue",
    "running",
    "run",
    "runs",
    "cat",
    "Katze",
    "né",
    "x1",
    "東京",
]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(_WORDS), min_size=1, max_size=9).map(" ".join),
        min_size=1,
        max_size=30,
    ),
    queries=st.lists(
        st.lists(st.sampled_from(_WORDS), min_size=1, max_size=5).map(" ".join), max_size=5
    ),
    method=st.sampled_from(METHODS),
)
@example(texts=["red green"], queries=["reds"], method="lucene")  # all words are stems
def test_small_folders_both_ways(
    tmp_path: Path, texts: list[str], queries: list[str], method: str
) -> None:
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    peer, told = saved(tmp_path / "theirs", texts, texts, method=method)
    assert_same_top(open_index(tmp_path / "theirs"), peer, tokens_of(queries, told))
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    ours = open_index(build_index(corpus, tmp_path / "ours"))
    peer = bm25s.BM25.load(ours.folder, load_corpus=True, show_progress=False)
    assert_same_top(ours, peer, [(query, ours.terms(query)) for query in queries])


def test_bm25s_reads_our_passages(tmp_path: Path) -> None:
    rows = [{"id": f"d{n}", "title": text.split()[1], "text": text} for n, text in enumerate(TEXTS)]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = open_index(build_index(corpus, tmp_path / "index"))
    for mapped in (False, True):
        peer = bm25s.BM25.load(index.folder, load_corpus=True, mmap=mapped, show_progress=False)
        found = peer.retrieve([index.terms("a cat that purrs")], k=2, show_progress=False)
        assert found.documents[0][0] == rows[0]
    peer.save(tmp_path / "again", corpus=rows, show_progress=False)
    assert open_index(tmp_path / "again").search("purr")[0].passage.title == "cat"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stemmed", "stop_words"), [(False, "en"), (True, "en"), (True, "en_plus"), (True, None)]
)
def test_500_real_questions_both_ways(
    data_dir: Path, tmp_path: Path, stemmed: bool, stop_words: str | None
) -> None:
    source = data_dir / "wikipedia" / "passages.jsonl"
    rows = [row for _, row in read_rows(source)]
    questions = [row["question"] for _, row in read_rows(data_dir / "popqa" / "dev.jsonl")]
    random.Random(0).shuffle(questions)
    assert len(questions) == 500
    tokens: dict[str, Any] = {"stopwords": stop_words}
    tokens |= {"stemmer": Stemmer.Stemmer("english")} if stemmed else {}
    texts = [f"{row['title']} {row['text']}" for row in rows]
    peer, told = saved(tmp_path / "theirs", texts, rows, tokens)
    assert_same_top(open_corpus(str(tmp_path / "theirs")), peer, tokens_of(questions, told))
    if not stemmed:
        ours = open_corpus(str(source))
        peer = bm25s.BM25.load(ours.folder, load_corpus=True, show_progress=False)
        assert_same_top(ours, peer, [(question, ours.terms(question)) for question in questions])
        asked = [ours.terms(question) for question in questions[:20]]
        found = peer.retrieve(asked, k=1, show_progress=False).documents[:, 0]
        assert [row["id"] for row in found] == [
            ours.search(question)[0].passage.id for question in questions[:20]
        ]
