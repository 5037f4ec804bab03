"""Search against bm25s's own retrieval: seconds to build, milliseconds a query, equal hits.

    TOOLGYM_DATA=... python benchmarks/search.py [k]

Both search the same index over ``wikipedia/passages.jsonl`` for the questions of PopQA, NQ and
TriviaQA, one at a time in one thread; both numbers hold the tokenising of the query.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import bm25s
import numpy as np
import Stemmer

from toolgym._jsonl import read_rows
from toolgym.tools.analysis import Analyzer
from toolgym.tools.index import build_index, open_index
from toolgym.tools.layout import TITLE_WEIGHT
from toolgym.tools.passages import read_passages

ROUNDS = 3


def questions(folder: Path) -> list[str]:
    """The real questions of three sets."""
    files = [folder / name / "dev.jsonl" for name in ("popqa", "nq", "triviaqa")]
    return [row["question"] for file in files for _, row in read_rows(file)]


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one action."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def milliseconds(search: Callable[[str], object], queries: list[str]) -> tuple[float, float]:
    """p50 and p99 over all queries and rounds, after one warm round."""
    times = [[seconds(lambda q=q: search(q)) for q in queries] for _ in range(ROUNDS + 1)][1:]
    return float(np.percentile(times, 50)) * 1e3, float(np.percentile(times, 99)) * 1e3


def row(name: str, build: float, times: tuple[float, float], base: tuple[float, float]) -> None:
    """One line of the table."""
    ratios = f"{times[0] / base[0]:8.2f}{times[1] / base[1]:8.2f}"
    print(f"{name:26}{build:8.2f}{times[0]:9.3f}{times[1]:9.3f}{ratios}")


def same_bits(corpus: Path, out: Path) -> bool:
    """Whether bm25s, building in memory from our terms, computes the very same postings."""
    analyzer = Analyzer()
    terms = [
        analyzer.terms(p.title) * TITLE_WEIGHT + analyzer.terms(p.text)
        for p, _ in read_passages(corpus)
    ]
    # Numbered in order, as ours are, so that whole arrays can be compared.
    numbers = {term: n for n, term in enumerate(sorted(set(chain.from_iterable(terms))))}
    documents = [[numbers[term] for term in found] for found in terms]
    peer, ours = bm25s.BM25(backend="numpy"), bm25s.BM25.load(out, show_progress=False)
    peer.index((documents, numbers), show_progress=False)
    names = ("data", "indices")
    return all(np.array_equal(ours.scores[name], peer.scores[name]) for name in names)


def main() -> None:
    """Run and print the table."""
    folder = os.environ.get("TOOLGYM_DATA")
    if not folder:
        sys.exit("set TOOLGYM_DATA to the folder of real data sets")
    k = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    corpus = Path(folder) / "wikipedia" / "passages.jsonl"
    queries = questions(Path(folder))
    analyzer = Analyzer()
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "index"
        build_ours = seconds(lambda: build_index(corpus, out))
        index = open_index(out)
        opening = min(seconds(lambda: open_index(out)) for _ in range(3))

        def build_peer() -> None:
            texts = [f"{p.title} {p.title} {p.text}" for p, _ in read_passages(corpus)]
            stemmer = Stemmer.Stemmer("english")
            tokens = bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)
            bm25s.BM25(backend="numpy").index(tokens, show_progress=False)

        build_theirs = seconds(build_peer)
        peer = bm25s.BM25.load(out, show_progress=False)
        peer.backend = "numpy"

        def retrieve(query: str) -> tuple[list[int], list[float]]:
            terms = [term for term in analyzer.terms(query) if term in peer.vocab_dict]
            if not terms:
                return [], []
            documents, scores = peer.retrieve([terms], k=k, show_progress=False, n_threads=0)
            return documents[0].tolist(), scores[0].tolist()

        bits = same_bits(corpus, out)
        same = sum(np.allclose(index.ranking(q, k)[1], retrieve(q)[1], rtol=1e-5) for q in queries)
        theirs = milliseconds(retrieve, queries)
        ranking = milliseconds(lambda query: index.ranking(query, k), queries)
        whole = milliseconds(lambda query: index.search(query, k), queries)
    print(f"{len(index)} passages, {len(queries)} questions, k = {k}, open {opening * 1e3:.0f} ms")
    print(f"{'':26}{'build s':>8}{'p50 ms':>9}{'p99 ms':>9}{'p50 x':>8}{'p99 x':>8}")
    row("toolgym, numbers", build_ours, ranking, ranking)
    row("toolgym, with passages", build_ours, whole, ranking)
    row("bm25s numpy, numbers", build_theirs, theirs, ranking)
    print(f"postings equal to bm25s's own build from the same terms, bit for bit: {bits}")
    print(f"equal scores on {same} of {len(queries)} questions")


if __name__ == "__main__":
    main()
