"""Text to terms and numbers: pieces, their numbering, and the vocabulary on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym.tools.search import analysis, layout, spill
from toolgym.tools.search.analysis import Analyzer, pieces
from toolgym.tools.search.corpora.passages import read_passages
from toolgym.tools.search.layout import open_vocabulary, write_vocabulary
from toolgym.tools.search.spill import Numbering


@given(
    st.lists(
        st.lists(
            st.text()
            | st.text(st.sampled_from("abé\x00\x01 東\ud800"))
            | st.sampled_from(["a" * n for n in (7, 8, 9, 15, 16, 17, 24)]),
            max_size=6,
        ),
        max_size=5,
    )
)
def test_pieces_are_numbered_as_a_dict_would(batches: list[list[str]]) -> None:
    """Also when words fall into one slot of the table, which a small one provokes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "_BITS", 3)
        patch.setattr(spill, "_SHIFT", np.uint64(61))
        numbers = Numbering()
    known = {analysis.PART: 0}
    for texts in batches:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spill, "_SHIFT", np.uint64(61))
            found, new = numbers.number(texts)
        expected = []
        for piece in analysis.parted_bytes(texts).split(b" "):
            if piece:
                expected.append(known.setdefault(piece, len(known)))
        assert found.tolist() == expected
        assert new == list(known)[len(known) - len(new) :]
        assert len(numbers) == len(known)


def plain_terms(text: str) -> list[str]:
    """The terms by the words' definition alone, without cutting and remembering."""
    analyzer = Analyzer()
    return [term for word in analysis._WORD.findall(text) for term in analyzer._word_terms(word)]


@settings(max_examples=300)
@given(
    st.text()
    | st.text(st.sampled_from("aB9_ -'.\n\x1c\x85\xa0é\u0301ß東京हि\u2013\u200d\ud800İΣ٣"))
)
def test_pieces_change_no_term(text: str) -> None:
    assert Analyzer().terms(text) == plain_terms(text)
    assert all(piece and piece == piece.strip() for piece in pieces(text))


def test_a_long_run_is_no_word_in_any_piece() -> None:
    text = "x" * 101 + " é" + "y" * 101 + " " + "z" * 100 + " w\u0301" + "-".join("v" * 150)
    assert Analyzer().terms(text) == plain_terms(text)
    assert "z" * 100 in Analyzer().terms(text)


_term = st.text(st.characters(categories=["Ll", "Lo", "Nd", "Mn"]), min_size=1, max_size=6)


@given(known=st.sets(_term, max_size=40), asked=st.lists(st.text(max_size=4), max_size=10))
def test_vocabulary_on_disk_equals_the_one_in_memory(
    tmp_path_factory: pytest.TempPathFactory, known: set[str], asked: list[str]
) -> None:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.json"
    assert write_vocabulary(path, iter(sorted(known))) == len(known)
    whole = json.loads(path.read_text("utf-8"))
    assert whole == {term: n for n, term in enumerate(sorted(known))} | {"": len(known)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "_WHOLE", 0)
        find = open_vocabulary(path, ordered=True)
    for term in [*known, *filter(None, asked), *(term + "x" for term in known)]:
        assert find(term) == whole.get(term)
        assert find(term) == whole.get(term)  # remembered


@pytest.mark.parametrize("content", ["", "{}", "[1]", "{\n"])
def test_scrambled_vocabulary_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    path = tmp_path / "vocab.json"
    path.write_text(content)
    monkeypatch.setattr(layout, "_WHOLE", 0)
    with pytest.raises(ValueError, match=r"vocabulary|empty"):
        open_vocabulary(path, ordered=True)


def test_real_sentences_have_their_plain_terms(data_dir: Path) -> None:
    analyzer, source = Analyzer(), read_passages(data_dir / "wikipedia" / "passages.jsonl")
    for _, (passage, _) in zip(range(300), source, strict=False):
        assert analyzer.terms(passage.text) == plain_terms(passage.text)
