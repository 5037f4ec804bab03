"""Search at size beside tantivy: seconds and peak memory of a build, opening, query times.

    TOOLGYM_DATA=... python benchmarks/search_scale.py [SIZE ...] [--memory-mb N] [--processes N]

A SIZE is a number of passages, such as 1000000, or of full-length documents, such as 300000d
(default: 100000 1000000 3000000 100000d 300000d). They are made of real sentences of
``wikipedia/passages.jsonl``, drawn at random: passages as long as real ones, documents of about
420 words with a long tail. Every build and every search runs in a process of its own; ``peak`` is
the sum of the VmHWM of all processes of a build. tantivy runs with its defaults and one writer
thread a processor. A query's time is the best of three rounds. Such a collection has no rare names
that grow with it, so its vocabulary stays small; the last lines reckon with Wikipedia's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from toolgym._util.jsonl import dump_line, read_rows
from toolgym.tools.search.corpora.passages import read_passages

KILT_ARTICLES, KILT_WORDS = 5_900_000, 2_500_000_000  # words with repeats, titles included
KILT_VOCABULARY = 12_000_000  # different terms, an upper guess
TERM_BYTES, PASSAGE_BYTES = 50, 30  # what building keeps in memory of each beyond its limit
QUERIES, ROUNDS, DOCUMENT_WORDS = 300, 3, 420
WORD = re.compile(r"\w+")


def write_corpus(source: Path, path: Path, count: int, documents: bool) -> int:
    """Texts of randomly drawn real sentences; gives back how many words they have."""
    draw = random.Random(0)
    real = [passage for passage, _ in read_passages(source)]
    sentences = [s for p in real for s in re.split(r"(?<=[.!?]) +", p.text) if s]
    sizes = [len(s.split()) for s in sentences]
    lengths = [len(p.text.split()) for p in real]
    # A log-normal with the mean of KILT's articles: most are short, some a hundred times longer.
    spread = 1.1
    middle = np.log(DOCUMENT_WORDS) - spread**2 / 2
    words = 0
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            like = draw.randrange(len(real))
            wanted = int(draw.lognormvariate(middle, spread)) if documents else lengths[like]
            held, chosen = 0, []
            while held < max(wanted, 5):
                pick = draw.randrange(len(sentences))
                chosen.append(sentences[pick])
                held += sizes[pick]
            words += held
            row = {"id": str(number), "title": real[like].title, "text": " ".join(chosen)}
            stream.write(dump_line(row))
    return words


def memory_mb(name: str, process: str = "self") -> float:
    """A line of a process's status in megabytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found.group(1)) / 1024 if found else 0.0


def build_ours(corpus: Path, out: Path, options: dict[str, Any]) -> None:
    """Our build."""
    from toolgym.tools.search.index import build_index

    build_index(corpus, out, **options)


def build_tantivy(corpus: Path, out: Path, options: dict[str, Any]) -> None:
    """tantivy's, text stored as ours is, merged to one segment a thread by its own policy."""
    import tantivy

    out.mkdir()
    builder = tantivy.SchemaBuilder()
    for field in ("title", "text"):
        builder.add_text_field(field, stored=True, tokenizer_name="en_stem")
    index = tantivy.Index(builder.build(), path=str(out))
    writer = index.writer(heap_size=512 << 20)
    for passage, _ in read_passages(corpus):
        writer.add_document(tantivy.Document(title=passage.title, text=passage.text))
    writer.commit()
    writer.wait_merging_threads()


def searcher_of(engine: str, out: Path) -> Any:
    """A function from a query to its best document, read."""
    if engine == "toolgym":
        from toolgym.tools.search.index import open_index

        index = open_index(out)
        return lambda query: index.search(query, 1)
    import tantivy

    peer = tantivy.Index.open(str(out))
    peer.reload()
    searcher = peer.searcher()

    def search(query: str) -> Any:
        parsed = peer.parse_query(" ".join(WORD.findall(query)), ["title", "text"])
        hits = searcher.search(parsed, 1, count=False).hits
        return [searcher.doc(address)["text"][0] for _, address in hits]

    return search


def query_child(engine: str, queries: Path, out: Path) -> dict[str, float]:
    """Opening, the first query and the others, k = 1, with the passage read."""
    __import__("toolgym.tools.search.index" if engine == "toolgym" else "tantivy")
    questions = json.loads(queries.read_text())
    begun = time.perf_counter()
    search = searcher_of(engine, out)
    opened = time.perf_counter()
    search(questions[0])
    first = time.perf_counter()
    rounds = [[seconds(search, question) for question in questions] for _ in range(ROUNDS)]
    p50, p99 = np.percentile(np.min(rounds, axis=0), [50, 99]).tolist()
    return {
        "open": (opened - begun) * 1e3,
        "first": (first - opened) * 1e3,
        "p50": p50 * 1e3,
        "p99": p99 * 1e3,
        "anonymous": memory_mb("RssAnon"),
        "resident": memory_mb("VmRSS"),
    }


def seconds(action: Any, given: Any) -> float:
    """Of one call."""
    begun = time.perf_counter()
    action(given)
    return time.perf_counter() - begun


def children_of(process: int) -> list[str]:
    """Processes that a process started."""
    try:
        return Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []


def watched_build(
    engine: str, corpus: Path, out: Path, options: dict[str, Any]
) -> dict[str, float]:
    """Seconds, and the sum of all processes' peaks."""
    command = [sys.executable, __file__, "--build", engine, str(corpus), str(out)]
    begun = time.perf_counter()
    process = subprocess.Popen([*command, json.dumps(options)])
    peaks: dict[str, float] = {}
    processor = os.times().children_user + os.times().children_system
    while process.poll() is None:
        for one in (str(process.pid), *children_of(process.pid)):
            try:
                peaks[one] = max(peaks.get(one, 0.0), memory_mb("VmHWM", one))
            except OSError:  # it has just ended
                continue
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"building with {engine} failed")
    spent = os.times().children_user + os.times().children_system - processor
    return {
        "seconds": time.perf_counter() - begun,
        "processor": spent,
        "peak": sum(peaks.values()),
        "disk": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6,
    }


def measure(size: str, folder: Path, data: Path, options: dict[str, Any]) -> dict[str, Any]:
    """One size: a line for each engine, and the ratios."""
    corpus, queries = folder / "corpus.jsonl", folder / "queries.json"
    count = int(size.rstrip("d"))
    words = write_corpus(data / "wikipedia" / "passages.jsonl", corpus, count, size.endswith("d"))
    files = [data / name / "dev.jsonl" for name in ("popqa", "nq", "triviaqa")]
    questions = [row["question"] for file in files for _, row in read_rows(file)]
    queries.write_text(json.dumps(random.Random(1).sample(questions, QUERIES)))
    found: dict[str, dict[str, float]] = {}
    for engine in ("toolgym", *(["tantivy"] if find_spec("tantivy") else [])):
        out = folder / engine
        built = watched_build(engine, corpus, out, options if engine == "toolgym" else {})
        command = [sys.executable, __file__, "--query", engine, str(queries), str(out)]
        asked = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[engine] = facts = built | json.loads(asked)
        print(
            f"{size:>9} {engine:8}{facts['seconds']:8.1f}{facts['processor']:8.1f}"
            f"{facts['peak']:9.0f}{facts['disk']:9.0f}{facts['open']:9.1f}{facts['first']:10.2f}"
            f"{facts['p50']:9.3f}{facts['p99']:9.3f}{facts['anonymous']:9.0f}"
            f"{facts['resident']:9.0f}",
            flush=True,
        )
        shutil.rmtree(out)
    ours = found["toolgym"]
    if "tantivy" in found:
        peer = found["tantivy"]
        print(
            f"{'':10}ours / tantivy: build {ours['seconds'] / peer['seconds']:.2f} x (processor "
            f"time {ours['processor'] / peer['processor']:.2f} x), p50 "
            f"{ours['p50'] / peer['p50']:.2f} x, p99 {ours['p99'] / peer['p99']:.2f} x",
            flush=True,
        )
    return ours | {"words": words, "size": size}


def extrapolate(found: list[dict[str, Any]], memory: int) -> None:
    """How things grew, and what the last documents say about KILT, with the arithmetic."""
    for kind in ("", "d"):
        same = [one for one in found if one["size"].endswith("d") == bool(kind)]
        for less, more in itertools.pairwise(same):
            times = more["words"] / less["words"]
            print(
                f"{less['size']} -> {more['size']}: {times:.1f} x the words, "
                f"{more['seconds'] / less['seconds']:.1f} x the seconds, "
                f"{more['peak'] / less['peak']:.2f} x the peak memory, "
                f"{more['p50'] / less['p50']:.1f} x p50"
            )
    last = ([one for one in found if one["size"].endswith("d")] or found)[-1]
    ratio = KILT_WORDS / last["words"]
    beyond = (KILT_ARTICLES * PASSAGE_BYTES + KILT_VOCABULARY * TERM_BYTES) / 2**20
    print(
        f"KILT, {KILT_ARTICLES / 1e6:.1f} million articles, about {KILT_WORDS / 1e9:.1f} billion "
        f"words = {ratio:.1f} x the {last['words'] / 1e6:.0f} million of {last['size']}:\n"
        f"  build  {last['seconds']:.0f} s x {ratio:.1f} = {last['seconds'] * ratio / 60:.0f} min\n"
        f"  disk   {last['disk']:.0f} MB x {ratio:.1f} = {last['disk'] * ratio / 1e3:.0f} GB, "
        f"passages included\n"
        f"  memory {memory} MB set + {KILT_ARTICLES / 1e6:.1f} M passages x {PASSAGE_BYTES} B + "
        f"{KILT_VOCABULARY / 1e6:.0f} M different terms x {TERM_BYTES} B = at most "
        f"{memory + beyond:.0f} MB"
    )


def main() -> None:
    """Run and print the table."""
    if sys.argv[1:2] == ["--build"]:
        engine, corpus, out, options = sys.argv[2:]
        build = build_ours if engine == "toolgym" else build_tantivy
        build(Path(corpus), Path(out), json.loads(options))
        return
    if sys.argv[1:2] == ["--query"]:
        engine, queries, out = sys.argv[2:]
        print(json.dumps(query_child(engine, Path(queries), Path(out))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = ["100000", "1000000", "3000000", "100000d", "300000d"]
    parser.add_argument("sizes", nargs="*", default=sizes)
    parser.add_argument("--memory-mb", type=int, default=2048)
    parser.add_argument("--processes", type=int)
    given = parser.parse_args()
    data = os.environ.get("TOOLGYM_DATA")
    if not data:
        sys.exit("set TOOLGYM_DATA to the folder of real data sets")
    options = {"memory_mb": given.memory_mb, "processes": given.processes}
    print(
        f"{'':18}{'build s':>8}{'cpu s':>8}{'peak MB':>9}{'disk MB':>9}{'open ms':>9}"
        f"{'first ms':>10}{'p50 ms':>9}{'p99 ms':>9}{'anon MB':>9}{'rss MB':>9}"
    )
    found = []
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(size, Path(folder), Path(data), options))
    extrapolate(found, given.memory_mb)


if __name__ == "__main__":
    main()
