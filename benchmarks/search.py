"""Search beside other engines: quality, latency, throughput, building, memory and size, in one run.

    TOOLGYM_DATA=... python benchmarks/search.py [engine ...]

The 20 051 real passages and the XQuAD paragraphs; 500 PopQA questions (found: a passage with a
supporting title) and 300 English XQuAD questions (found: their paragraph). Each engine runs in a
process of its own, one after the other; text goes in and document numbers come out, so that
everybody's time holds the cutting of the query into words. A query's time is the best of its
rounds, so that a busy machine counts less. Each has the settings that its own documents recommend:
tantivy and FTS5 two fields and a stemmer, bm25s its stop words and stemmer, rank_bm25 lower-cased
words. Single queries run in one thread; a batch is 100 questions at once, by the engine's own
way (bm25s: one thread or one a processor, whichever is faster; tantivy, FTS5 and rank_bm25 have
none, and loop).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from toolgym._util.jsonl import dump_line, read_rows

K, ROUNDS, BATCH = 10, 5, 100
MOST_SECONDS = 15.0  # of timing an engine at one k, after the first round
CUTOFFS = (1, 5, 10)
WORD = re.compile(r"\w+")
Batch = Callable[[list[str], int], list[list[int]]]
Engine = tuple[Callable[[str, int], list[int]], list[Batch]]
"""The best documents for a query, and the ways to get those for many, of which the best counts."""


def one_by_one(search: Callable[[str, int], list[int]]) -> Engine:
    """An engine without batches of its own."""
    return search, [lambda queries, k: [search(query, k) for query in queries]]


def toolgym_engine(corpus: Path, folder: Path) -> Engine:
    """Ours, as it is."""
    from toolgym.tools.search.index import build_index, open_index

    index = open_index(build_index(corpus, folder / "index"))
    return (
        lambda query, k: index.ranking(query, k)[0].tolist(),
        [lambda queries, k: [found.tolist() for found, _ in index.ranking_many(queries, k)]],
    )


def tantivy_engine(corpus: Path, folder: Path) -> Engine:
    """Two fields with the English stemmer."""
    import tantivy

    builder = tantivy.SchemaBuilder()
    for field in ("title", "text"):
        builder.add_text_field(field, stored=True, tokenizer_name="en_stem")
    builder.add_integer_field("number", stored=True, fast=True)
    index = tantivy.Index(builder.build(), path=str(folder))
    writer = index.writer(heap_size=200_000_000)
    for number, (_, row) in enumerate(read_rows(corpus)):
        writer.add_document(tantivy.Document(title=row["title"], text=row["text"], number=number))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()

    def search(query: str, k: int) -> list[int]:
        parsed = index.parse_query(" ".join(WORD.findall(query)), ["title", "text"])
        hits = searcher.search(parsed, k, count=False).hits
        return [searcher.doc(address)["number"][0] for _, address in hits]

    return one_by_one(search)


def fts5_engine(corpus: Path, folder: Path) -> Engine:
    """SQLite's FTS5 with the Porter stemmer."""
    import sqlite3

    base = sqlite3.connect(folder / "fts.db")
    base.execute("CREATE VIRTUAL TABLE f USING fts5(title, text, tokenize='porter unicode61')")
    rows = ((n, row["title"], row["text"]) for n, (_, row) in enumerate(read_rows(corpus)))
    base.executemany("INSERT INTO f(rowid, title, text) VALUES (?, ?, ?)", rows)
    base.execute("INSERT INTO f(f) VALUES ('optimize')")
    base.commit()

    def search(query: str, k: int) -> list[int]:
        words = " OR ".join(f'"{word}"' for word in WORD.findall(query))
        sql = "SELECT rowid FROM f WHERE f MATCH ? ORDER BY rank LIMIT ?"
        return [number for (number,) in base.execute(sql, (words, k))]

    return one_by_one(search)


def rank_bm25_engine(corpus: Path, folder: Path) -> Engine:
    """rank_bm25's BM25Okapi on lower-cased words, in memory."""
    from rank_bm25 import BM25Okapi

    texts = (f"{row['title']} {row['text']}" for _, row in read_rows(corpus))
    index = BM25Okapi([WORD.findall(text.lower()) for text in texts])

    def search(query: str, k: int) -> list[int]:
        scores = index.get_scores(WORD.findall(query.lower()))
        best: list[int] = np.argsort(-scores, kind="stable")[:k].tolist()
        return best

    return one_by_one(search)


def bm25s_engine(backend: str) -> Callable[[Path, Path], Engine]:
    """Plain bm25s with its own tokenizer, English stop words and stemmer."""

    def make(corpus: Path, folder: Path) -> Engine:
        import bm25s
        import Stemmer

        stemmer = Stemmer.Stemmer("english")
        settings: dict[str, Any] = {"stopwords": "en", "stemmer": stemmer, "show_progress": False}
        texts = [f"{row['title']} {row['text']}" for _, row in read_rows(corpus)]
        index = bm25s.BM25(backend=backend)
        index.index(bm25s.tokenize(texts, **settings), show_progress=False)
        index.save(folder, show_progress=False)

        def retrieve(queries: list[str], k: int, threads: int) -> list[list[int]]:
            tokens = bm25s.tokenize(queries, return_ids=False, **settings)
            found = index.retrieve(tokens, k=k, show_progress=False, n_threads=threads)
            lists: list[list[int]] = found.documents.tolist()
            return lists

        return (
            lambda query, k: retrieve([query], k, 0)[0],
            [lambda queries, k, n=threads: retrieve(queries, k, n) for threads in (0, -1)],
        )

    return make


ENGINES: dict[str, tuple[str, Callable[[Path, Path], Engine]]] = {
    "toolgym": ("toolgym", toolgym_engine),
    "tantivy": ("tantivy", tantivy_engine),
    "SQLite FTS5": ("sqlite3", fts5_engine),
    "rank_bm25": ("rank_bm25", rank_bm25_engine),
    "bm25s numpy": ("bm25s", bm25s_engine("numpy")),
    "bm25s numba": ("numba", bm25s_engine("numba")),
}


def memory_mb(name: str = "VmRSS") -> float:
    """A line of this process's status in megabytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else float("nan")


def timed(action: Callable[[Any], object], given: list[Any]) -> list[float]:
    """Seconds of an action on each thing, the best of the rounds."""
    rounds: list[list[float]] = []
    started = time.perf_counter()
    while len(rounds) < ROUNDS and (not rounds or time.perf_counter() - started < MOST_SECONDS):
        rounds.append([])
        for thing in given:
            begun = time.perf_counter()
            action(thing)
            rounds[-1].append(time.perf_counter() - begun)
    return np.min(rounds, axis=0).tolist()


def child(name: str, corpus: Path, folder: Path, questions: Path) -> dict[str, Any]:
    """Everything about one engine."""
    sets = json.loads(questions.read_text())
    queries = [query for rows in sets.values() for query, _ in rows]
    names = [str(row["gold"]) for _, row in read_rows(corpus)]
    before, begun = memory_mb(), time.perf_counter()
    search, ways = ENGINES[name][1](corpus, folder)
    facts: dict[str, Any] = {"build": time.perf_counter() - begun}
    begun = time.perf_counter()
    search(queries[0], 1)
    facts["first"] = (time.perf_counter() - begun) * 1e3
    for title, rows in sets.items():
        ranks = [[names[n] in gold for n in search(query, K)] for query, gold in rows]
        facts[title] = [100 * np.mean([any(r[:at]) for r in ranks]) for at in CUTOFFS]
    for k in (1, K):
        times = timed(lambda query, k=k: search(query, k), queries)
        facts[f"p50 {k}"], facts[f"p99 {k}"] = (np.percentile(times, [50, 99]) * 1e3).tolist()
    batches = [queries[begin : begin + BATCH] for begin in range(0, len(queries), BATCH)]
    batch = min(sum(timed(lambda given, w=way: w(given, K), batches)) for way in ways)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return facts | {
        "batch": len(queries) / batch,
        "memory": memory_mb() - before,
        "size": size / 1e6,
    }


def write_corpus(data: Path, path: Path) -> None:
    """Both collections as one; ``gold`` is what a question asks for."""
    with path.open("w", encoding="utf-8") as stream:
        for _, row in read_rows(data / "wikipedia" / "passages.jsonl"):
            stream.write(dump_line({**row, "gold": row["title"]}))
        for _, row in read_rows(data / "xquad" / "paragraphs-en.jsonl"):
            title = row["title"].replace("_", " ")
            row |= {"id": row["paragraph"], "title": title, "gold": f"xquad {row['paragraph']}"}
            stream.write(dump_line(row))


def questions_of(data: Path) -> dict[str, list[tuple[str, list[str]]]]:
    """Question and what answers it, by set."""
    popqa = [row for _, row in read_rows(data / "popqa" / "dev.jsonl")]
    xquad = [row for _, row in read_rows(data / "xquad" / "questions-300.jsonl")]
    return {
        "PopQA": [(row["question"], row["supporting_titles"]) for row in popqa],
        "XQuAD": [(row["question"]["en"], [f"xquad {row['paragraph']}"]) for row in xquad],
    }


def table(found: dict[str, dict[str, Any]]) -> None:
    """Print the figures, and the peers' as multiples of ours."""
    print(
        f"{'':13}{'PopQA recall@1/5/10':>21}{'XQuAD recall@1/5/10':>21}{'p50 ms':>9}{'p99 ms':>9}"
        f"{'k=10 p50':>10}{'first':>8}{'batch q/s':>11}{'build s':>9}{'mem MB':>8}{'disk MB':>9}"
    )
    for name, facts in found.items():
        recalls = "".join(
            f"{'  '.join(f'{value:5.1f}' for value in facts[title]):>21}"
            for title in ("PopQA", "XQuAD")
        )
        print(
            f"{name:13}{recalls}{facts['p50 1']:9.3f}{facts['p99 1']:9.3f}{facts[f'p50 {K}']:10.3f}"
            f"{facts['first']:8.1f}{facts['batch']:11.0f}{facts['build']:9.2f}"
            f"{facts['memory']:8.0f}{facts['size']:9.1f}"
        )
    ours = found.get("toolgym")
    if ours is None or len(found) == 1:
        return
    print("\nas multiples of ours (above 1: slower, fewer, larger)")
    for name, facts in found.items():
        if name != "toolgym":
            columns = ("p50 1", "p99 1", f"p50 {K}", "build")
            ratios = [f"{column} {facts[column] / ours[column]:.1f} x" for column in columns]
            print(f"{name:13}{', '.join(ratios)}, batch {ours['batch'] / facts['batch']:.1f} x")
    for title in ("PopQA", "XQuAD"):
        best = max(facts[title][1] for name, facts in found.items() if name != "toolgym")
        print(f"recall@5 on {title}: ours {ours[title][1]:.1f}, the best other {best:.1f}")


def main() -> None:
    """Run every engine that is installed, and print the table."""
    if sys.argv[1:2] == ["--child"]:
        name, *paths = sys.argv[2:]
        print(json.dumps(child(name, *map(Path, paths))))
        return
    folder = os.environ.get("TOOLGYM_DATA")
    if not folder:
        sys.exit("set TOOLGYM_DATA to the folder of real data sets")
    names = sys.argv[1:] or list(ENGINES)
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        corpus, questions = Path(temporary) / "corpus.jsonl", Path(temporary) / "questions.json"
        write_corpus(Path(folder), corpus)
        questions.write_text(json.dumps(questions_of(Path(folder))))
        for name in names:
            if find_spec(ENGINES[name][0]) is None:
                print(f"{name} is not installed and left out", file=sys.stderr)
                continue
            out = Path(temporary) / name.replace(" ", "-")
            out.mkdir()
            command = [
                sys.executable,
                __file__,
                "--child",
                name,
                *map(str, (corpus, out, questions)),
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
    table(found)


if __name__ == "__main__":
    main()
