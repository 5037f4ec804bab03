"""Building an index: the same bits as bm25s in any number of blocks, continued after any kill."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym._util.jsonl import dump_line, read_rows
from toolgym._util.workfolder import build_folder
from toolgym.errors import BadInputError, ToolgymError
from toolgym.tools.search import index, layout, spill
from toolgym.tools.search import merge as workers
from toolgym.tools.search.analysis import Analyzer
from toolgym.tools.search.corpora.passages import Passage, passage_line, read_passages
from toolgym.tools.search.index import HEADER, build_index, open_index
from toolgym.tools.search.layout import make_recipe
from toolgym.tools.search.spill import Limits

SMALL = Limits(raw=1_800, terms=60, distinct=40, postings=25)
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
    monkeypatch.setattr(Limits, "within", lambda memory_mb, processes: SMALL)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_bits_of_bm25s(folder: Path, passages: list[Passage]) -> None:
    """Every posting of every term as bm25s computes it in memory from the same terms."""
    analyzer = Analyzer()
    numbers: dict[str, int] = {}
    documents = []
    for passage in passages:
        terms = (
            analyzer.terms(passage.title) or analyzer.kept_terms(passage.title)
        ) * 2 + analyzer.terms(passage.text)
        documents.append([numbers.setdefault(term, len(numbers)) for term in terms])
    peer = bm25s.BM25(k1=0.9, b=0.4, backend="numpy")
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
        Limits,
        raw=st.integers(1, 900),
        terms=st.integers(1, 80),
        distinct=st.integers(1, 40),
        postings=st.integers(1, 60),
    ),
)
def test_any_blocks_give_the_bits_of_bm25s(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]], limits: Limits
) -> None:
    folder = tmp_path_factory.mktemp("index")
    rows = [{"title": words[0] if words else "", "text": " ".join(words)} for words in texts]
    corpus = write(folder / "corpus.jsonl", [*rows, {"title": "Red", "text": "one"}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Limits, "within", lambda memory_mb, processes: limits)
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


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("processes", [2, 3])
def test_the_number_of_processes_leaves_no_trace(tmp_path: Path, processes: int) -> None:
    corpus = write(tmp_path / "corpus.jsonl", rows_of(150))
    alone = build_index(corpus, tmp_path / "alone", processes=1)
    together = build_index(corpus, tmp_path / "together", processes=processes)
    assert files(together) == files(alone)


@pytest.mark.usefixtures("small_blocks")
def test_a_broken_line_in_a_worker_is_named(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus.jsonl", rows_of(60))
    with corpus.open("a") as stream:
        stream.write('{"title": "no text"}\n')
    with pytest.raises(BadInputError, match="line 61: a passage needs a 'text'"):
        build_index(corpus, tmp_path / "index", processes=3)
    assert list(tmp_path.iterdir()) == [corpus]


def test_a_worker_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write(tmp_path / "corpus.jsonl", rows_of(5))
    monkeypatch.setattr(workers, "Bench", lambda plan: os._exit(7))
    with pytest.raises(ToolgymError, match=r"exit code 7.*processes=1"):
        build_index(corpus, tmp_path / "index", processes=2)
    assert (tmp_path / ".index-building").exists()  # what is done is kept
    monkeypatch.undo()
    assert len(open_index(build_index(corpus, tmp_path / "index"))) == 5


def test_a_block_counts_the_terms_of_scripts_without_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(raw=1 << 20, terms=100, distinct=1_000, postings=1_000)
    reader = spill.PortionReader(tmp_path, make_recipe(), limits)
    unspaced = [
        (n, dump_line({"text": "東京" * 25}).encode()) for n in range(1, 4)
    ]  # 99 terms each
    assert len(reader.read(unspaced, tmp_path, "unspaced").blocks) == 2
    spaced = [(n, dump_line({"text": "word " * 33}).encode()) for n in range(1, 4)]
    assert reader.read(spaced, tmp_path, "spaced").blocks == [("spaced-0", 0)]
    assert reader.read([], tmp_path, "none").blocks == []


KILLED = """
import os, signal, sys
from toolgym.tools.search import building, spill
from toolgym.tools.search.spill import Limits
Limits.within = lambda memory_mb, processes: Limits(1_800, 60, 40, 25)
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
owner = next(o for o in (building._Build, building, spill) if hasattr(o, where))
setattr(owner, where, deadly(getattr(owner, where), at))
building.build_index(sys.argv[1], sys.argv[2], processes=int(sys.argv[5]))
"""


def kill(corpus: Path, out: Path, where: str, at: int, processes: int = 1) -> None:
    """Build in a process that is killed when it comes to a function for the n-th time."""
    command = [sys.executable, "-c", KILLED, str(corpus), str(out), where, str(at), str(processes)]
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
        ("_merge", 1, True),
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
    original = spill.parse_passage

    def counted(raw: bytes, path: Path, number: int) -> Passage | None:
        parsed.append(number)
        return original(raw, path, number)

    monkeypatch.setattr(spill, "parse_passage", counted)
    assert files(build_index(corpus, out)) == whole
    assert (len(parsed) < 120) is continued
    assert parsed == list(range(121 - len(parsed), 121))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.jsonl", "index", "whole"]


@pytest.mark.usefixtures("small_blocks")
def test_killed_build_with_workers_is_continued_and_leaves_nobody(tmp_path: Path) -> None:
    corpus, out = write(tmp_path / "corpus.jsonl", rows_of(120)), tmp_path / "index"
    kill(corpus, out, "_checkpoint", 4, processes=3)
    assert files(build_index(corpus, out, processes=2)) == files(
        build_index(corpus, tmp_path / "whole", processes=1)
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (left := workers_in(tmp_path)):
        time.sleep(0.05)
    assert not left


def workers_in(folder: Path) -> list[str]:
    """Running processes of builds that have files in a folder open."""
    running = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            if command.count(b"/child.py") == 2 and process.name != str(os.getpid()):
                parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
                running += [process.name] if parent in (1, os.getpid()) else []
    return running


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
    kill(corpus, out, "_merge", 1)
    write(corpus, change(rows_of(120)))  # type: ignore[operator]
    assert files(build_index(corpus, out)) == files(build_index(corpus, tmp_path / "fresh"))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("damage", ["manifest", "passages", "block"])
def test_damaged_remains_are_no_harm(tmp_path: Path, damage: str) -> None:
    corpus, out = write(tmp_path / "corpus.jsonl", rows_of(120)), tmp_path / "index"
    kill(corpus, out, "_checkpoint", 4)
    work = tmp_path / ".index-building" / "index"
    if damage == "manifest":
        (work / "spill" / "manifest.json").write_text("{")
    elif damage == "passages":
        (work / "corpus.jsonl").write_bytes(b"x" * 50)
    else:
        min((work / "spill").glob("*.often")).unlink()
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


def test_whoever_comes_second_waits_and_leaves_one_index(tmp_path: Path) -> None:
    corpus, out = write(tmp_path / "corpus.jsonl", rows_of(5)), tmp_path / "index"
    with ThreadPoolExecutor(1) as pool:
        with build_folder(out) as work:
            second = pool.submit(build_index, corpus, out)
            with pytest.raises(TimeoutError):
                second.result(timeout=0.3)
            assert [path.name for path in work.iterdir()] == [".lock"]
        assert len(open_index(second.result())) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.jsonl", "index"]


def test_packed_corpora_are_read_and_torn_ones_named(tmp_path: Path) -> None:
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
    with pytest.raises(BadInputError, match="torn zstd file after line 0"):
        build_index(packed, tmp_path / "c")


@pytest.mark.parametrize("memory_mb", [0, -1, 255])
def test_too_little_memory_is_refused(tmp_path: Path, memory_mb: int) -> None:
    corpus = write(tmp_path / "corpus.jsonl", rows_of(5))
    with pytest.raises(BadInputError, match="at least 256"):
        build_index(corpus, tmp_path / "index", memory_mb=memory_mb)
    assert not (tmp_path / "index").exists()


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus.jsonl", rows_of(5))
    with pytest.raises(BadInputError, match="is not an index"):
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
    monkeypatch.setattr(layout, "_WHOLE", 0)
    monkeypatch.setattr(index, "_LISTED", 0)
    large = open_index(small.folder)
    assert isinstance(small._starts, list)
    assert isinstance(large._starts, np.ndarray)
    for query in ("green", "red naive 17", "東京 title", "nowhere", "1887 the 59"):
        assert large.search(query, 7) == small.search(query, 7)


@given(st.text(), st.text(), st.text())
def test_stored_lines_are_plain_json_lines(identity: str, title: str, text: str) -> None:
    row = {"id": identity, "title": title, "text": text}
    assert passage_line(Passage(identity, title, text)).decode() == dump_line(row)


def test_real_sentences(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 500 real passages in several blocks: the bits of bm25s."""
    source = data_dir / "wikipedia" / "passages.jsonl"
    with source.open("rb") as stream:
        corpus = tmp_path / "corpus.jsonl"
        corpus.write_bytes(b"".join(next(stream) for _ in range(1_500)))
    passages = [passage for passage, _ in read_passages(corpus)]
    monkeypatch.setattr(
        Limits, "within", lambda memory_mb, processes: Limits(90_000, 30_000, 10_000, 20_000)
    )
    assert_bits_of_bm25s(build_index(corpus, tmp_path / "index"), passages)
