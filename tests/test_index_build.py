"""Building an index: the same bits as bm25s in any number of blocks, continued after any kill."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym._jsonl import dump_line, read_rows
from toolgym.errors import BadInputError
from toolgym.tools import analysis, building, index, vocabulary
from toolgym.tools.analysis import Analyzer, pieces
from toolgym.tools.index import HEADER, build_index, open_index
from toolgym.tools.passages import Passage, passage_line, read_passages
from toolgym.tools.postings import Block, Limits
from toolgym.tools.vocabulary import open_vocabulary, write_vocabulary

SMALL = Limits(terms=60, distinct=40, postings=25)
WORDS = ["red", "Reds", "green", "naïve", "東京都", "1887–1957", "the", "don't", "a", "hello_world"]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_bytes(b"".join(dump_line(row).encode() for row in rows))
    return path


def rows_of(count: int, seed: int = 0) -> list[dict[str, str]]:
    draw = np.random.default_rng(seed)
    texts = (" ".join(draw.choice(WORDS, draw.integers(0, 12))) for _ in range(count))
    return [
        {"id": f"p{n}", "title": f"Title {n % 7}", "text": f"{text} {n}"}
        for n, text in enumerate(texts)
    ]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few passages in a block, a few terms in a range."""
    monkeypatch.setattr(Limits, "within", lambda memory_mb: SMALL)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_bits_of_bm25s(folder: Path, passages: list[Passage]) -> None:
    """Every posting of every term as bm25s computes it in memory from the same terms."""
    analyzer = Analyzer()
    numbers: dict[str, int] = {}
    documents = []
    for passage in passages:
        terms = analyzer.terms(passage.title) * 2 + analyzer.terms(passage.text)
        documents.append([numbers.setdefault(term, len(numbers)) for term in terms])
    peer = bm25s.BM25(backend="numpy")
    peer.index((documents, numbers), show_progress=False)
    ours = bm25s.BM25.load(folder, mmap=True, show_progress=False)
    assert ours.vocab_dict.keys() == peer.vocab_dict.keys()
    assert ours.scores["num_docs"] == peer.scores["num_docs"] == len(passages)
    assert len(ours.scores["data"]) == len(peer.scores["data"])
    for term, number in ours.vocab_dict.items():
        if not term:
            continue
        for name in ("data", "indices"):
            mine, theirs = (
                bm25.scores[name][bm25.scores["indptr"][n] : bm25.scores["indptr"][n + 1]]
                for bm25, n in ((ours, number), (peer, peer.vocab_dict[term]))
            )
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs, err_msg=term)


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from(WORDS), max_size=12), min_size=1, max_size=40),
    limits=st.builds(
        Limits, terms=st.integers(1, 80), distinct=st.integers(1, 40), postings=st.integers(1, 60)
    ),
)
def test_any_blocks_give_the_bits_of_bm25s(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]], limits: Limits
) -> None:
    folder = tmp_path_factory.mktemp("index")
    rows = [{"title": words[0] if words else "", "text": " ".join(words)} for words in texts]
    corpus = write(folder / "corpus.jsonl", [*rows, {"title": "Red", "text": "one"}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Limits, "within", lambda memory_mb: limits)
        built = build_index(corpus, folder / "index")
    assert_bits_of_bm25s(built, [passage for passage, _ in read_passages(corpus)])
    opened = open_index(built)
    assert opened.passage(len(rows)).text == "one"


@pytest.mark.usefixtures("small_blocks")
def test_blocks_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write(tmp_path / "corpus.jsonl", rows_of(100))
    many = build_index(corpus, tmp_path / "many")
    monkeypatch.undo()
    one = build_index(corpus, tmp_path / "one")
    assert files(many) == files(one)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.jsonl", "many", "one"]


def test_a_block_counts_the_terms_of_scripts_without_spaces() -> None:
    limits = Limits(terms=100, distinct=1_000, postings=1_000)
    spaced, unspaced = Block(0, limits), Block(0, limits)
    spaced.add("", "word " * 99, 2)
    assert not spaced.full
    spaced.add("", "word", 2)
    assert spaced.full
    unspaced.add("", "東京" * 25, 2)  # one piece: 50 signs and 49 pairs
    assert unspaced.full


KILLED = """
import os, signal, sys
from toolgym.tools import building
from toolgym.tools.postings import Limits
Limits.within = lambda memory_mb: Limits(terms=60, distinct=40, postings=25)
count = 0
def deadly(original, at):
    def call(*args, **kwargs):
        global count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return call
where, at = sys.argv[3], int(sys.argv[4])
owner = building._Build if hasattr(building._Build, where) else building
setattr(owner, where, deadly(getattr(owner, where), at))
building.build_index(sys.argv[1], sys.argv[2])
"""


def kill(corpus: Path, out: Path, where: str, at: int) -> None:
    """Build in a process that is killed when it comes to a function for the n-th time."""
    command = [sys.executable, "-c", KILLED, str(corpus), str(out), where, str(at)]
    assert subprocess.run(command).returncode == -signal.SIGKILL


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("where", "at", "continued"),
    [
        ("_checkpoint", 1, False),  # before anything is safe
        ("_checkpoint", 4, True),
        ("write_json", 4, True),  # the block is written, the manifest not yet
        ("parse_passage", 77, True),
        ("merge_blocks", 1, True),
        ("_finish", 1, True),
    ],
)
def test_killed_build_is_continued(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    at: int,
    continued: bool,
    packed: bool,
) -> None:
    corpus, out = write(tmp_path / "corpus.jsonl", rows_of(120)), tmp_path / "index"
    whole = files(build_index(corpus, tmp_path / "whole"))
    if packed:
        corpus.write_bytes(gzip.compress(corpus.read_bytes()))
    kill(corpus, out, where, at)
    assert not out.exists()
    parsed: list[int] = []
    original = building.parse_passage

    def counted(raw: bytes, path: Path, number: int) -> Passage | None:
        parsed.append(number)
        return original(raw, path, number)

    monkeypatch.setattr(building, "parse_passage", counted)
    assert files(build_index(corpus, out)) == whole
    assert (len(parsed) < 120) is continued
    assert parsed == list(range(121 - len(parsed), 121))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.jsonl", "index", "whole"]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows_of(120, seed=1),
        lambda rows: rows[:20],
        lambda rows: [{"text": "Changed at the front."}, *rows],
        lambda rows: [*rows, {"text": "Only longer."}],
    ],
    ids=["other", "shorter", "front", "longer"],
)
def test_changed_corpus_gives_its_own_index(tmp_path: Path, change: object) -> None:
    corpus, out = write(tmp_path / "corpus.jsonl", rows_of(120)), tmp_path / "index"
    kill(corpus, out, "merge_blocks", 1)
    write(corpus, change(rows_of(120)))  # type: ignore[operator]
    assert files(build_index(corpus, out)) == files(build_index(corpus, tmp_path / "fresh"))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("damage", ["manifest", "passages", "block"])
def test_damaged_remains_are_no_harm(tmp_path: Path, damage: str) -> None:
    corpus, out = write(tmp_path / "corpus.jsonl", rows_of(120)), tmp_path / "index"
    kill(corpus, out, "_checkpoint", 4)
    work = tmp_path / ".index-building"
    if damage == "manifest":
        (work / "spill" / "manifest.json").write_text("{")
    elif damage == "passages":
        (work / "passages.jsonl").write_bytes(b"x" * 50)
    else:
        next((work / "spill").glob("*.often")).unlink()
    assert files(build_index(corpus, out)) == files(build_index(corpus, tmp_path / "fresh"))


@pytest.mark.usefixtures("small_blocks")
def test_interrupt_keeps_and_error_removes(tmp_path: Path) -> None:
    corpus, out = write(tmp_path / "corpus.jsonl", rows_of(120)), tmp_path / "index"
    for error, left in ((KeyboardInterrupt, True), (OSError, False)):

        def fail(done: int, size: int, error: type[BaseException] = error) -> None:
            raise error

        with pytest.raises(error):
            build_index(corpus, out, progress=fail)
        assert (tmp_path / ".index-building").exists() is left
        assert not out.exists()


def test_what_the_dead_left_is_removed_and_the_living_keep_theirs(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus.jsonl", rows_of(5))
    dead, living, other = (
        tmp_path / name
        for name in (".index-4711-00c0ffee", ".index-4712-00c0ffee", ".index2-4711-00c0ffee")
    )
    for folder in (dead, living, other):
        folder.mkdir()
    shared = tmp_path / ".index-building"
    shared.mkdir()
    held = [building._locked(living), building._locked(shared)]
    assert None not in held
    assert len(open_index(build_index(corpus, tmp_path / "index"))) == 5
    assert not dead.exists()
    assert living.exists()
    assert other.exists()
    assert list(shared.iterdir()) == []  # another process builds there
    for descriptor in held:
        os.close(descriptor or -1)


def test_gzip_is_read_and_others_are_named(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus.jsonl", rows_of(50))
    packed = tmp_path / "corpus.jsonl.gz"
    packed.write_bytes(gzip.compress(corpus.read_bytes()))
    told: list[tuple[int, int]] = []
    out = build_index(packed, tmp_path / "b", progress=lambda *done: told.append(done))
    assert files(out) == files(build_index(corpus, tmp_path / "a"))
    assert told[-1] == (packed.stat().st_size,) * 2
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(BadInputError, match="torn gzip file after line"):
        build_index(packed, tmp_path / "c")
    packed.write_bytes(b"\x28\xb5\x2f\xfd rest")
    with pytest.raises(BadInputError, match=r"compressed with zstd.*`zstd -d corpus.jsonl.gz`"):
        build_index(packed, tmp_path / "c")


@pytest.mark.parametrize("memory_mb", [0, -1, 255])
def test_too_little_memory_is_refused(tmp_path: Path, memory_mb: int) -> None:
    corpus = write(tmp_path / "corpus.jsonl", rows_of(5))
    with pytest.raises(BadInputError, match="at least 256"):
        build_index(corpus, tmp_path / "index", memory_mb=memory_mb)
    assert not (tmp_path / "index").exists()


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus.jsonl", rows_of(5))
    with pytest.raises(BadInputError, match="is no index"):
        build_index(corpus, corpus)
    assert len(list(read_rows(corpus))) == 5


def test_index_written_by_bm25s_opens(tmp_path: Path) -> None:
    """An index of before, whose vocabulary is in no order."""
    corpus = write(tmp_path / "corpus.jsonl", rows_of(30))
    folder = build_index(corpus, tmp_path / "index")
    expected = open_index(folder).search("green Tokyo 東京 7", 5)
    bm25s.BM25.load(folder, show_progress=False).save(folder, show_progress=False)
    numbers = json.loads((folder / "vocab.index.json").read_text("utf-8"))
    backwards = dict(reversed(numbers.items()))
    (folder / "vocab.index.json").write_text(json.dumps(backwards, ensure_ascii=False), "utf-8")
    header = json.loads((folder / HEADER).read_text())
    del header["vocabulary"]
    header["files"] = {name: (folder / name).stat().st_size for name in header["files"]}
    (folder / HEADER).write_text(json.dumps(header))
    assert open_index(folder).search("green Tokyo 東京 7", 5) == expected


def test_large_parts_stay_on_disk_with_the_same_hits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write(tmp_path / "corpus.jsonl", rows_of(60))
    small = open_index(build_index(corpus, tmp_path / "index"))
    monkeypatch.setattr(vocabulary, "_WHOLE", 0)
    monkeypatch.setattr(index, "_LISTED", 0)
    large = open_index(small.folder)
    assert isinstance(small._starts, list)
    assert isinstance(large._starts, np.ndarray)
    for query in ("green", "red naive 17", "東京 title", "nowhere", "1887 the 59"):
        assert large.search(query, 7) == small.search(query, 7)


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
        patch.setattr(vocabulary, "_WHOLE", 0)
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
    monkeypatch.setattr(vocabulary, "_WHOLE", 0)
    with pytest.raises(ValueError, match=r"vocabulary|empty"):
        open_vocabulary(path, ordered=True)


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


@given(st.text(), st.text(), st.text())
def test_stored_lines_are_plain_json_lines(identity: str, title: str, text: str) -> None:
    row = {"id": identity, "title": title, "text": text}
    assert passage_line(Passage(identity, title, text)).decode() == dump_line(row)


def test_real_sentences(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 500 real passages in several blocks: the plain terms, and the bits of bm25s."""
    source = data_dir / "wikipedia" / "passages.jsonl"
    with source.open("rb") as stream:
        corpus = tmp_path / "corpus.jsonl"
        corpus.write_bytes(b"".join(next(stream) for _ in range(1_500)))
    passages = [passage for passage, _ in read_passages(corpus)]
    analyzer = Analyzer()
    assert all(analyzer.terms(p.text) == plain_terms(p.text) for p in passages[:200])
    monkeypatch.setattr(Limits, "within", lambda memory_mb: Limits(30_000, 10_000, 20_000))
    assert_bits_of_bm25s(build_index(corpus, tmp_path / "index"), passages)
