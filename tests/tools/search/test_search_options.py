"""Options of an index decide and are recorded; an index that does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bm25s
import pytest

from toolgym.errors import BadInputError
from toolgym.tools.search.index import HEADER, Index, build_index, open_index
from toolgym.tools.search.layout import make_recipe
from toolgym.tools.search.tool import make_search

ROWS = [
    {"id": "a", "title": "Gösta Eriksson", "text": "A Swedish rower from Vaxholm."},
    {"id": "b", "title": "Vaxholm", "text": "Vaxholm is a town on an island near Stockholm."},
    {"id": "c", "title": "", "text": "An untitled note about rowing boats and rivers."},
    {"id": "d", "title": "Vitamin C", "text": "Vitamin C is found in citrus fruit."},
    {"id": "e", "title": "Vitamin D", "text": "Vitamin D is made in the skin in sunlight."},
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes of plain files land in the test's folder, not in the user's cache."""
    monkeypatch.setenv("TOOLGYM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def index(corpus: Path, tmp_path: Path) -> Index:
    return open_index(build_index(corpus, tmp_path / "index"))


OPTIONS: list[dict[str, object]] = [
    {"title_weight": 0},
    {"title_weight": 3},
    {"stop_words": "none"},
    {"stop_words": ["vitamin", "Don't"]},
    {"stemmer": "none"},
    {"stemmer": "german"},
    {"k1": 1.5, "b": 0.75},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_are_recorded_and_decide(
    corpus: Path, index: Index, tmp_path: Path, options: dict[str, object]
) -> None:
    folder = build_index(corpus, tmp_path / "other", **options)  # type: ignore[arg-type]
    other = open_index(folder)
    assert other.recipe == make_recipe(**options)  # type: ignore[arg-type]
    assert other.recipe != index.recipe
    assert other.fingerprint != index.fingerprint
    assert make_search(str(corpus), index=options).fingerprint == other.fingerprint
    assert make_search(str(folder), index=options).fingerprint == other.fingerprint
    with pytest.raises(BadInputError, match=r"was built with .* instead of .*leave the option out"):
        make_search(str(index.folder), index=options)
    peer = bm25s.BM25.load(folder, mmap=False, show_progress=False)
    assert (peer.k1, peer.b) == (other.recipe.k1, other.recipe.b)


def test_what_options_do(corpus: Path, tmp_path: Path) -> None:
    def built(**options: object) -> Index:
        return open_index(build_index(corpus, tmp_path / "other", **options))  # type: ignore[arg-type]

    assert built(title_weight=0).search("Gösta") == []
    assert built(stop_words="none").search("the")[0].passage.id == "e"
    assert built(stop_words=["Vitamin"]).search("vitamin", 5) == []
    assert built(stemmer="none").search("boat") == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"titel_weight": 1}, "no option 'titel_weight'.*did you mean 'title_weight'"),
        ({"title_weight": 21}, "whole number from 0 to 20, not 21"),
        ({"title_weight": True}, "whole number"),
        ({"stemmer": "englisch"}, "no stemmer 'englisch'.*did you mean 'english'"),
        ({"stop_words": "englsh"}, "no list of stop words 'englsh'.*did you mean"),
        ({"stop_words": [1]}, "stop words are words"),
        ({"k1": -1}, "k1 is a number, at least 0"),
        ({"b": 1.5}, "b is a number, 0 to 1"),
        ({"b": float("nan")}, "b is a number, 0 to 1"),
    ],
)
def test_wrong_options_are_refused(
    corpus: Path, tmp_path: Path, options: dict[str, object], reason: str
) -> None:
    with pytest.raises(BadInputError, match=reason):
        build_index(corpus, tmp_path / "index", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["analyzer"].update(stemmer="klingon"),
        lambda header: header["analyzer"].update(name="other"),
        lambda header: header["analyzer"].pop("stop_words"),
        lambda header: header["bm25"].update(method="bm25+"),
        lambda header: header.update(title_weight=None, bm25=7),
        lambda header: header.update(format=1),
    ],
)
def test_an_index_that_does_not_fit_is_refused(index: Index, change: object) -> None:
    header = json.loads((index.folder / HEADER).read_text())
    change(header)  # type: ignore[operator]
    (index.folder / HEADER).write_text(json.dumps(header))
    with pytest.raises(BadInputError, match=r"another version.*toolgym index build"):
        open_index(index.folder)


@pytest.mark.parametrize("corpus", [3, None, ["sample"]])
def test_a_corpus_is_a_name_or_a_path(corpus: Any) -> None:
    with pytest.raises(BadInputError, match="a corpus is a registered name"):
        make_search(corpus)
