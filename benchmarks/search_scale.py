"""Search at size: seconds and peak memory of a build, index size, opening, query times.

    TOOLGYM_DATA=... python benchmarks/search_scale.py [passages ...] [--memory-mb N] [--peer N]

The collections are made of real sentences of ``wikipedia/passages.jsonl``, drawn at random into
passages as long as real ones; sizes are 100 000 and 1 000 000 unless told otherwise (3 000 000 is
the next). Each build and each search runs in a process of its own. bm25s's own build, which holds
all in memory, runs beside ours up to ``--peer`` passages (100 000). Such a collection has no rare
names that grow with it, so its vocabulary stays small; the last lines reckon with Wikipedia's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from toolgym._jsonl import dump_line, read_rows
from toolgym.tools.analysis import Analyzer
from toolgym.tools.index import build_index, open_index
from toolgym.tools.passages import read_passages

KILT_ARTICLES, KILT_TERMS = 5_900_000, 2_500_000_000  # articles; terms in them, repeats included
KILT_VOCABULARY = 12_000_000  # different terms, an upper guess
TERM_BYTES, PASSAGE_BYTES = 50, 20  # what building keeps in memory of each beyond its limit
QUERIES = 300


def write_corpus(source: Path, path: Path, passages: int) -> None:
    """Passages of randomly drawn real sentences, as long as real passages."""
    draw = random.Random(0)
    real = [passage for passage, _ in read_passages(source)]
    sentences = [s for p in real for s in re.split(r"(?<=[.!?]) +", p.text) if s]
    with path.open("w", encoding="utf-8") as stream:
        for number in range(passages):
            like = draw.choice(real)
            text = ""
            while len(text) < len(like.text):
                text = f"{text} {draw.choice(sentences)}" if text else draw.choice(sentences)
            row = {"id": str(number), "title": like.title, "text": text[: len(like.text)]}
            stream.write(dump_line(row))


def memory(name: str) -> float:
    """A line of this process's status in megabytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else float("nan")


class AnonymousPeak:
    """The most anonymous memory (not file pages) of this process, sampled in a thread."""

    def __init__(self) -> None:
        self.megabytes = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.megabytes = max(self.megabytes, memory("RssAnon"))
            time.sleep(0.05)


def build_child(corpus: Path, out: Path, memory_mb: int) -> dict[str, float]:
    """Our build."""
    watch, begun = AnonymousPeak(), time.perf_counter()
    build_index(corpus, out, memory_mb=memory_mb)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "peak": memory("VmHWM"), "anonymous": watch.megabytes}


def peer_child(corpus: Path, out: Path, _: int) -> dict[str, float]:
    """bm25s's own tokenizer and build, all in memory, and its files."""
    import bm25s
    import Stemmer

    watch, begun = AnonymousPeak(), time.perf_counter()
    texts = [f"{p.title} {p.title} {p.text}" for p, _ in read_passages(corpus)]
    stemmer = Stemmer.Stemmer("english")
    tokens = bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)
    index = bm25s.BM25(backend="numpy")
    index.index(tokens, show_progress=False)
    index.save(out, show_progress=False)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "peak": memory("VmHWM"), "anonymous": watch.megabytes}


def query_child(queries: Path, out: Path, _: int) -> dict[str, float]:
    """Opening, the first query and the others, k = 1, with the passage read."""
    questions = json.loads(queries.read_text())
    begun = time.perf_counter()
    index = open_index(out)
    times = [time.perf_counter() - begun]
    for question in [*questions, *questions]:
        begun = time.perf_counter()
        index.search(question)
        times.append(time.perf_counter() - begun)
    milliseconds = np.array(times) * 1e3
    again = milliseconds[1 + len(questions) :]
    return {
        "open": milliseconds[0],
        "first": milliseconds[1],
        "p50": float(np.percentile(again, 50)),
        "p99": float(np.percentile(again, 99)),
        "anonymous": memory("RssAnon"),
    }


CHILDREN = {"build": build_child, "peer": peer_child, "query": query_child}


def child(kind: str, given: Path, out: Path, memory_mb: int) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", kind, str(given), str(out), str(memory_mb)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def folder_mb(folder: Path) -> tuple[float, float]:
    """Megabytes of the postings and vocabulary, and of the stored passages."""
    sizes = {path.name: path.stat().st_size / 1e6 for path in folder.iterdir()}
    passages = sizes.get("passages.jsonl", 0.0)
    return sum(sizes.values()) - passages, passages


def terms_of(corpus: Path) -> float:
    """Terms in the collection, repeats included: reckoned from its first passages."""
    analyzer, counted, read = Analyzer(), 0, 0
    for passage, done in read_passages(corpus):
        counted += 2 * len(analyzer.terms(passage.title)) + len(analyzer.terms(passage.text))
        read = done
        if done > 20_000_000:
            break
    return counted * corpus.stat().st_size / read


def measure(
    passages: int, folder: Path, data: Path, options: argparse.Namespace
) -> dict[str, float]:
    """One size: a line for us and, where it is small enough, one for bm25s."""
    corpus, out, queries = folder / "corpus.jsonl", folder / "index", folder / "queries.json"
    write_corpus(data / "wikipedia" / "passages.jsonl", corpus, passages)
    files = [data / name / "dev.jsonl" for name in ("popqa", "nq", "triviaqa")]
    questions = [row["question"] for file in files for _, row in read_rows(file)]
    queries.write_text(json.dumps(random.Random(1).sample(questions, QUERIES)))
    ours = child("build", corpus, out, options.memory_mb)
    asked = child("query", queries, out, 0)
    index_mb, stored_mb = folder_mb(out)
    print(
        f"{passages:>9} toolgym {ours['seconds']:8.1f}{ours['peak']:9.0f}{ours['anonymous']:9.0f}"
        f"{index_mb:9.0f}{stored_mb:9.0f}{asked['open']:9.1f}{asked['first']:9.2f}"
        f"{asked['p50']:9.3f}{asked['p99']:9.3f}{asked['anonymous']:9.0f}",
        flush=True,
    )
    if passages <= options.peer:
        theirs = child("peer", corpus, folder / "peer", 0)
        print(
            f"{passages:>9} bm25s   {theirs['seconds']:8.1f}{theirs['peak']:9.0f}"
            f"{theirs['anonymous']:9.0f}{folder_mb(folder / 'peer')[0]:9.0f}\n"
            f"{'':10}bm25s / toolgym: {theirs['seconds'] / ours['seconds']:.2f} x the seconds, "
            f"{theirs['peak'] / ours['peak']:.2f} x the peak memory",
            flush=True,
        )
    return ours | {"terms": terms_of(corpus), "index": index_mb, "passages": passages}


def extrapolate(found: dict[str, float], memory_mb: int) -> None:
    """What the largest measured size says about KILT, with the arithmetic."""
    ratio = KILT_TERMS / found["terms"]
    beyond = (KILT_ARTICLES * PASSAGE_BYTES + KILT_VOCABULARY * TERM_BYTES) / 2**20
    print(
        f"\nKILT, {KILT_ARTICLES / 1e6:.1f} million articles, about {KILT_TERMS / 1e9:.1f} billion "
        f"terms = {ratio:.1f} x the {found['terms'] / 1e6:.0f} million of the last line:\n"
        f"  build  {found['seconds']:.0f} s x {ratio:.1f} = {found['seconds'] * ratio / 60:.0f} min"
        f" (reading and analyzing grow with the terms; merging with the logarithm of the blocks)\n"
        f"  index  at most {found['index']:.0f} MB x {ratio:.1f} = "
        f"{found['index'] * ratio / 1e3:.1f} GB (longer articles repeat more words)\n"
        f"  memory {memory_mb} MB set + {KILT_ARTICLES / 1e6:.1f} M passages x {PASSAGE_BYTES} B + "
        f"{KILT_VOCABULARY / 1e6:.0f} M different terms x {TERM_BYTES} B = "
        f"{memory_mb + beyond:.0f} MB"
    )


def main() -> None:
    """Run and print the table."""
    if sys.argv[1:2] == ["--child"]:
        kind, given, out, memory_mb = sys.argv[2:]
        print(json.dumps(CHILDREN[kind](Path(given), Path(out), int(memory_mb))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("passages", nargs="*", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--memory-mb", type=int, default=1024)
    parser.add_argument("--peer", type=int, default=100_000)
    options: Any = parser.parse_args()
    data = os.environ.get("TOOLGYM_DATA")
    if not data:
        sys.exit("set TOOLGYM_DATA to the folder of real data sets")
    print(
        f"{'':18}{'build s':>8}{'peak MB':>9}{'anon MB':>9}{'index MB':>9}{'text MB':>9}"
        f"{'open ms':>9}{'first ms':>9}{'p50 ms':>9}{'p99 ms':>9}{'anon MB':>9}"
    )
    for passages in options.passages:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(passages, Path(folder), Path(data), options)
    extrapolate(found, options.memory_mb)


if __name__ == "__main__":
    main()
