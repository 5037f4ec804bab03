"""Building a search index: any size of corpus in bounded memory, continued after a kill."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np

from toolgym._util.hashes import value_hash
from toolgym._util.jsonl import write_json
from toolgym._util.workfolder import build_folder, move_in
from toolgym.errors import BadInputError
from toolgym.executors import Executor, LostWorkerError
from toolgym.tools.search import layout
from toolgym.tools.search.corpora.passages import CorpusLines, corpus_size, find_corpus
from toolgym.tools.search.layout import SORTED, make_recipe
from toolgym.tools.search.merge import LENGTHS, SPILL, BuildPlan, Crew, Merge
from toolgym.tools.search.spill import BLOCK_FILES, Limits, Portion

__all__ = ["build_index"]

Progress = Callable[[int, int], None]
"""Told (bytes read, bytes in all) of the corpus."""
_LEAST_MB = 256
_MANIFEST = "manifest.json"
_ENDS = "ends"  # raw int64, one for each passage
_SMALL = 16 << 20  # bytes of a corpus file for which starting workers takes longer than it saves
_MOST_PROCESSES = 4  # one process reads; more workers than three wait for it


def build_index(
    corpus: str | Path,
    out: str | Path,
    *,
    progress: Progress | None = None,
    memory_mb: int = 2048,
    processes: int | None = None,
    executor: Executor | None = None,
    **options: Any,
) -> Path:
    """Index the passages of a JSON-lines file. A kill leaves the old index or none, never a half.

    What a killed or interrupted build has done lies in a hidden folder beside ``out``; the next
    build of the same corpus there continues it, and one of another corpus removes it. Whoever
    comes second waits for the first.

    Args:
        corpus: see `toolgym.tools.search.corpora.passages.read_passages`.
        out: the folder to write; an index that is there is replaced.
        progress: told (bytes read, bytes in all) now and then.
        memory_mb: about how many megabytes all processes together may use, at least 256. Beyond
            it come some 30 bytes for each passage and 50 for each different term.
        processes: 1: this one alone; more: so many analyze, while this one reads. The index is the
            same. Default: as many as there are processors, at most 4, and 1 for a small corpus.
        executor: analyzes instead, with so many portions in work at once, on machines that share
            the disk of ``out``; see `toolgym.executors`.
        options: ``title_weight``, ``stop_words``, ``stemmer``, ``k1``, ``b``; see
            `toolgym.tools.search.layout.make_recipe`.

    Returns:
        The folder.

    Raises:
        MissingFileError: no such corpus.
        LostWorkerError: processes of the build ended, again and again; the same call continues.
        BadInputError: a broken line, no passage, ``out`` holds something else than an index, too
            little memory, or a wrong option.
    """
    source, target = find_corpus(corpus), Path(out)
    recipe = make_recipe(**options)
    if memory_mb < _LEAST_MB:
        raise BadInputError(f"memory_mb is {memory_mb!r}; an index needs at least {_LEAST_MB}")
    if executor is not None and processes is None:
        processes = _MOST_PROCESSES
    workers = _workers(processes, source)
    if target.exists() and not _replaceable(target):
        raise BadInputError(
            f"{str(target)!r} exists and is not an index; name an empty or a new folder"
        )
    with _work_folder(target) as work:
        made = work / "index"
        made.mkdir(exist_ok=True)
        limits = Limits.within(memory_mb, workers + 1)
        plan = BuildPlan(source, made.resolve(), recipe, limits)
        _Build(plan, lambda: Crew(plan, workers, executor), progress).run()
        if target.exists():
            target.replace(work / "old")
        move_in(made, target)
    return target


def _workers(processes: int | None, source: Path) -> int:
    """How many child processes analyze."""
    if processes is None:
        size = corpus_size(source)
        small = size is not None and size < _SMALL
        processes = 1 if small else min(len(os.sched_getaffinity(0)), _MOST_PROCESSES)
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise BadInputError(f"processes is a number of processes, at least 1, not {processes!r}")
    return processes if processes > 1 else 0


def _replaceable(target: Path) -> bool:
    return (target / layout.HEADER).is_file() or (target.is_dir() and not any(target.iterdir()))


@contextlib.contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """See `build_folder`.

    What is in it is removed after an error, but kept when the process is interrupted or killed, or
    when the corpus is downloaded and the connection broke.
    """
    with build_folder(target) as work:
        shutil.rmtree(work / "old", ignore_errors=True)
        try:
            yield work
        except Exception as error:
            # A download that broke off is continued, and so is what a lost worker did not end.
            if not isinstance(error, ConnectionError | LostWorkerError):
                shutil.rmtree(work / "index", ignore_errors=True)
            raise


class _Build:
    """One build in its work folder.

    After each portion the manifest says how far everything is. The hash of the corpus up to there
    decides whether a later build may continue: it reads that part again, without analyzing it.

    Args:
        plan: what is built where, and how.
        crew: makes those who analyze and merge.
        progress: see `build_index`.
    """

    def __init__(
        self, plan: BuildPlan, crew: Callable[[], Crew], progress: Progress | None
    ) -> None:
        self._plan, self._crew, self._progress = plan, crew, progress
        self._folder, self._spill = plan.folder, plan.spill
        self._blocks: list[list[Any]] = []  # name and first passage
        self._passages = self._stored = self._told = 0
        self._read, self._content = hashlib.sha256(), hashlib.sha256()
        self._made_with = {name: version(name) for name in ("toolgym", "bm25s", "PyStemmer")}
        self._settings = {"format": layout.FORMAT, **plan.recipe.header()}

    def run(self) -> None:
        """Read the corpus, merge the blocks and finish the folder."""
        source = self._plan.source
        with contextlib.ExitStack() as stack:
            crew = stack.enter_context(self._crew())
            lines = stack.enter_context(CorpusLines(source))
            if not self._continue(lines):
                self._start()
                lines = stack.enter_context(CorpusLines(source))
            self._take(lines, crew)
            if self._progress is not None:
                self._progress(lines.size, lines.size)
            if not self._passages:
                raise BadInputError(f"corpus {str(source)!r} holds no passage")
            if not self._blocks:
                raise BadInputError(f"corpus {str(source)!r} holds no word")
            self._finish(self._merge(crew))

    def _start(self) -> None:
        """Begin with an empty folder."""
        shutil.rmtree(self._folder)
        self._spill.mkdir(parents=True)
        for name in self._sizes():
            (self._folder / name).write_bytes(b"")
        self._blocks = []
        self._passages = self._stored = self._told = 0
        self._read, self._content = hashlib.sha256(), hashlib.sha256()

    def _sizes(self) -> dict[str, int]:
        """The files that only grow, with the bytes that belong to the passages taken."""
        return {
            layout.PASSAGES: self._stored,
            f"{SPILL}/{LENGTHS}": 4 * self._passages,
            f"{SPILL}/{_ENDS}": 8 * self._passages,
        }

    def _continue(self, lines: CorpusLines) -> bool:
        """Take up what an earlier build of the same corpus has done, if there is any."""
        manifest: Any = None
        with contextlib.suppress(OSError, ValueError):
            manifest = json.loads((self._spill / _MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or manifest.get("made_with") != self._identity():
            return False
        for _, raw in lines:
            self._read.update(raw)
            self._tell(lines)
            if lines.position >= manifest["position"]:
                break
        if lines.position != manifest["position"] or self._read.hexdigest() != manifest["read"]:
            return False
        self._passages, self._stored = manifest["passages"], manifest["stored"]
        self._blocks = manifest["blocks"]
        for name, size in self._sizes().items():
            os.truncate(self._folder / name, size)
        with (self._folder / layout.PASSAGES).open("rb") as stream:
            while part := stream.read(1 << 20):
                self._content.update(part)
        with contextlib.suppress(FileNotFoundError):
            whole = self._block_sizes() == manifest["sizes"]
            return whole and self._content.hexdigest() == str(manifest["content"])
        return False

    def _identity(self) -> dict[str, Any]:
        return self._settings | {"versions": self._made_with}

    def _take(self, lines: CorpusLines, crew: Crew) -> None:
        """Store and index the passages of the lines that are still unread."""
        marks: deque[tuple[int, str]] = deque()  # position and hash at the end of each portion
        # A worker that outlives a killed build must not write what another build reads.
        token, numbers = secrets.token_hex(4), itertools.count(len(self._blocks))

        def portions() -> Iterator[tuple[list[tuple[int, bytes]], str]]:
            portion: list[tuple[int, bytes]] = []
            size = 0
            for number, raw in lines:
                portion.append((number, raw))
                size += len(raw)
                if size >= self._plan.limits.raw:
                    yield cut(portion), f"{next(numbers):06}-{token}"
                    portion, size = [], 0
            if portion:
                yield cut(portion), f"{next(numbers):06}-{token}"

        def cut(portion: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
            self._read.update(b"".join(raw for _, raw in portion))
            marks.append((lines.position, self._read.hexdigest()))
            self._tell(lines)
            return portion

        with (self._folder / layout.PASSAGES).open("ab") as stream:
            for found in crew.run("read", portions()):
                self._checkpoint(found, stream, *marks.popleft())

    def _tell(self, lines: CorpusLines) -> None:
        done = lines.bytes_read
        if self._progress is not None and done - self._told >= 1 << 20:
            self._told = done
            self._progress(done, lines.size)

    def _checkpoint(self, found: Portion, stream: IO[bytes], position: int, read: str) -> None:
        """Keep a portion; the manifest follows when everything that it names is on the disk."""
        stream.write(found.stored)
        stream.flush()
        self._content.update(found.stored)
        for file, numbers in ((LENGTHS, found.lengths), (_ENDS, found.ends + self._stored)):
            with (self._spill / file).open("ab") as growing:
                growing.write(numbers.data)
        self._blocks += [[name, self._passages + first] for name, first in found.blocks]
        self._passages += len(found.ends)
        self._stored += len(found.stored)
        for name in self._sizes():
            with (self._folder / name).open("rb") as file_on_disk:
                os.fsync(file_on_disk.fileno())
        write_json(
            self._spill / _MANIFEST,
            {
                "made_with": self._identity(),
                "position": position,
                "read": read,
                "content": self._content.hexdigest(),
                "passages": self._passages,
                "stored": self._stored,
                "blocks": self._blocks,
                "sizes": self._block_sizes(),
            },
        )

    def _block_sizes(self) -> dict[str, int]:
        files = [self._spill / f"{name}.{kind}" for name, _ in self._blocks for kind in BLOCK_FILES]
        return {file.name: file.stat().st_size for file in files}

    def _merge(self, crew: Crew) -> int:
        """Write the postings and the vocabulary; gives back how many terms there are."""
        blocks = [(str(name), int(first)) for name, first in self._blocks]
        merge = Merge(self._spill, blocks, self._folder, self._plan.limits)
        lengths = np.fromfile(self._plan.lengths, np.int32)
        for _ in crew.run("merge", ((part,) for part in merge.ranges(lengths))):
            pass
        return merge.terms

    def _finish(self, terms: int) -> None:
        """Write the small files, the header last, and remove the blocks."""
        ends = np.fromfile(self._spill / _ENDS, np.int64)
        np.save(self._folder / layout.OFFSETS, np.concatenate([np.zeros(1, np.int64), ends]))
        shutil.rmtree(self._spill)
        bm25 = self._settings["bm25"]
        kinds = {"idf_method": "lucene", "dtype": "float32", "int_dtype": "int32"}
        facts = {"num_docs": self._passages, "version": self._made_with["bm25s"]}
        params = bm25 | kinds | facts | {"delta": 0.5, "backend": "numpy"}
        write_json(self._folder / layout.PARAMS, params)
        content = self._content.hexdigest()
        stemmer = self._made_with["PyStemmer"]
        write_json(
            self._folder / layout.HEADER,
            {
                "kind": layout.KIND,
                **self._settings,
                "vocabulary": SORTED,
                "passages": self._passages,
                "terms": terms,
                "content_sha256": content,
                "fingerprint": value_hash([content, self._settings, stemmer]),
                "versions": self._made_with,
                "files": {name: (self._folder / name).stat().st_size for name in layout.FILES},
            },
        )
