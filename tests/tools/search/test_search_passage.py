"""The best passage of a long document: a piece of its text that answers to the query."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym.errors import BadInputError
from toolgym.messages import ToolCall
from toolgym.tools.base import Tool
from toolgym.tools.search.analysis import Analyzer
from toolgym.tools.search.index import best_passage
from toolgym.tools.search.tool import make_search


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes of plain files land in the test's folder, not in the user's cache."""
    monkeypatch.setenv("TOOLGYM_CACHE", str(tmp_path / "cache"))


def ask(tool: Tool, *queries: str) -> list[str]:
    calls = [ToolCall(str(n), tool.name, {"query": query}) for n, query in enumerate(queries)]
    return [result.content for result in tool.run_many(calls)]


_words = st.sampled_from(["red", "green", "blue", "cat", "Katze", "né"])
LONG = (
    "The river rises in the hills. It is 40 km long!\n\nA mill stood here until 1887, the oldest "
    "of the valley. Its wheel is kept in the museum.\n"
    + "Nothing of note happened. " * 200
    + "In 1950 the wheel was found by Gösta Eriksson. He sold it."
)


def excerpt(text: str, query: str, characters: int) -> str:
    weights = dict.fromkeys(Analyzer().terms(query), 1.0)
    return best_passage(text, weights, Analyzer(), characters)


def test_best_passage_of_a_long_document() -> None:
    assert excerpt(LONG, "oldest mills", 80) == (
        "A mill stood here until 1887, the oldest of the valley."
    )
    assert excerpt(LONG, "who found the wheel, gosta?", 60).endswith(
        "by Gösta Eriksson. He sold it."
    )
    assert excerpt(LONG, "river", 10**6) == LONG
    assert excerpt(LONG, "zzz", 40) == "The river rises in the hills."  # none: the beginning
    assert "京都" in excerpt("東京。" * 400 + "京都は古い。" + "大阪。" * 400, "京都", 50)


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.sampled_from(["red cat", "blue. ", "né! ", "\n\n", "x" * 70, " ", "東京。"])),
    query=_words,
    characters=st.integers(50, 90),
)
def test_best_passage_is_of_the_text_and_holds_the_word(
    parts: list[str], query: str, characters: int
) -> None:
    text = "".join(parts)
    found = excerpt(text, query, characters)
    assert found in text
    assert len(found) <= characters
    term = Analyzer().terms(query)[0] if Analyzer().terms(query) else None
    if term in Analyzer().terms(text) and " " in text:
        assert term in Analyzer().terms(found) or "x" * 70 in text  # a cut may split a long word


def test_a_megabyte_is_read_in_bounded_time() -> None:
    text = "word " * 250_000 + "needle."
    assert excerpt(text, "needle", 100).startswith("word")  # beyond the first million: not read
    assert excerpt("x" * 999_000 + " needle", "needle", 100).endswith("needle")


def test_tool_reads_the_best_passage(tmp_path: Path) -> None:
    corpus = str(tmp_path / "c.jsonl")
    Path(corpus).write_text(json.dumps({"title": "Mill", "text": LONG}))
    whole, best = make_search(corpus), make_search(corpus, passage="best", passage_chars=50)
    assert ask(whole, "museum")[0] == f"Mill: {LONG}"
    assert ask(best, "museum")[0] == "Mill: Its wheel is kept in the museum."
    together = ask(best, "museum", "river", "museum")
    assert together[0] == together[2] == "Mill: Its wheel is kept in the museum."
    assert whole.fingerprint != best.fingerprint
    longer = make_search(corpus, passage="best", passage_chars=61)
    assert longer.fingerprint != best.fingerprint
    with pytest.raises(BadInputError, match=r"'whole' or 'best'.*did you mean 'best'"):
        make_search(corpus, passage="bset")
    with pytest.raises(BadInputError, match="at least 50"):
        make_search(corpus, passage="best", passage_chars=3)
