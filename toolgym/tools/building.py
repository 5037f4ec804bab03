"""Building a search index: any size of corpus in bounded memory, continued after a kill."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np

from toolgym._jsonl import require_file, value_hash, write_json
from toolgym.errors import BadInputError
from toolgym.tools import layout
from toolgym.tools.analysis import ANALYZER, Analyzer
from toolgym.tools.passages import CorpusLines, parse_passage, passage_line
from toolgym.tools.postings import K1, B, Block, Limits, merge_blocks
from toolgym.tools.vocabulary import SORTED

__all__ = ["build_index"]

Progress = Callable[[int, int], None]
"""Told (bytes read, bytes in all) of the corpus."""
_LEAST_MB = 256
_SPILL, _MANIFEST = "spill", "manifest.json"
_LENGTHS, _ENDS = "lengths", "ends"  # raw int32 and int64, one for each passage
_SETTINGS = {"format": layout.FORMAT, "analyzer": ANALYZER, "title_weight": layout.TITLE_WEIGHT}


def build_index(
    corpus: str | Path,
    out: str | Path,
    *,
    progress: Progress | None = None,
    memory_mb: int = 1024,
) -> Path:
    """Index the passages of a JSON-lines file. A kill leaves the old index or none, never a half.

    What a killed or interrupted build has done lies in a hidden folder beside ``out``; the next
    build of the same corpus there continues it, and one of another corpus removes it.

    Args:
        corpus: see `toolgym.tools.passages.read_passages`.
        out: the folder to write; an index that is there is replaced.
        progress: told (bytes read, bytes in all) now and then.
        memory_mb: about how many megabytes the process may use, at least 256. Beyond it come some
            20 bytes for each passage and 50 for each different term.

    Returns:
        The folder.

    Raises:
        MissingFileError: no such corpus.
        BadInputError: a broken line, no passage, ``out`` holds something else than an index, or
            too little memory.
    """
    source, target = require_file(corpus, "corpus"), Path(out)
    if memory_mb < _LEAST_MB:
        raise BadInputError(f"memory_mb is {memory_mb!r}; an index needs at least {_LEAST_MB}")
    replaces = target.exists()
    if replaces and not _replaceable(target):
        raise BadInputError(
            f"{str(target)!r} exists and is no index; name an empty or a new folder"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_dead(target)
    with _work_folder(target) as partial:
        _Build(source, partial, Limits.within(memory_mb), progress).run()
        if replaces:
            old = target.replace(_beside(target))
            partial.replace(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            partial.replace(target)
    return target


def _replaceable(target: Path) -> bool:
    return (target / layout.HEADER).is_file() or (target.is_dir() and not any(target.iterdir()))


def _beside(target: Path) -> Path:
    """A free name in the same folder, from which a rename is atomic."""
    return target.with_name(f".{target.name}-{os.getpid()}-{secrets.token_hex(4)}")


@contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target, locked: the one to be continued, or else one for this build.

    It is removed after an error, but kept when the process is interrupted or killed.
    """
    folder = target.with_name(f".{target.name}-building")
    folder.mkdir(exist_ok=True)
    lock = _locked(folder)
    if lock is None:  # another process builds the same
        folder = _beside(target)
        folder.mkdir()
        lock = _locked(folder)
    try:
        yield folder
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the folder until it is closed or the process ends."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
    except OSError:
        pass  # held by another process, or just renamed by it
    os.close(descriptor)
    return None


def _remove_dead(target: Path) -> None:
    """Remove what killed processes left, except the build that can be continued."""
    left = re.compile(rf"\.{re.escape(target.name)}-\d+-[0-9a-f]{{8}}")
    for folder in target.parent.iterdir():
        if left.fullmatch(folder.name) and (lock := _locked(folder)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _to_disk(files: list[Path]) -> None:
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


class _Build:
    """One build in its work folder.

    After each block the manifest says how far everything is. The hash of the corpus up to there
    decides whether a later build may continue: it reads that part again, without analyzing it.

    Args:
        source: the corpus.
        folder: becomes the index; holds the blocks while it is built.
        limits: what may be in memory.
        progress: see `build_index`.
    """

    def __init__(
        self, source: Path, folder: Path, limits: Limits, progress: Progress | None
    ) -> None:
        self._source, self._folder, self._limits = source, folder, limits
        self._progress = progress
        self._spill = folder / _SPILL
        self._analyzer = Analyzer()
        self._blocks: list[str] = []
        self._passages = self._stored = self._told = 0
        self._read, self._content = hashlib.sha256(), hashlib.sha256()
        self._made_with = {name: version(name) for name in ("toolgym", "bm25s", "PyStemmer")}

    def run(self) -> None:
        """Read the corpus, merge the blocks and finish the folder."""
        with contextlib.ExitStack() as stack:
            lines = stack.enter_context(CorpusLines(self._source))
            if not self._continue(lines):
                self._start()
                lines = stack.enter_context(CorpusLines(self._source))
            self._take(lines)
            if self._progress is not None:
                self._progress(lines.size, lines.size)
        if not self._passages:
            raise BadInputError(f"corpus {str(self._source)!r} holds no passage")
        if not self._blocks:
            raise BadInputError(f"corpus {str(self._source)!r} holds no word")
        lengths = np.fromfile(self._spill / _LENGTHS, np.int32)
        terms = merge_blocks(self._spill, self._blocks, lengths, self._folder, self._limits)
        self._finish(terms)

    def _start(self) -> None:
        """Begin with an empty folder; it stays itself, for it carries the lock."""
        for left in self._folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        self._spill.mkdir()
        for name in self._sizes():
            (self._folder / name).write_bytes(b"")
        self._blocks = []
        self._passages = self._stored = self._told = 0
        self._read, self._content = hashlib.sha256(), hashlib.sha256()

    def _sizes(self) -> dict[str, int]:
        """The files that only grow, with the bytes that belong to the passages taken."""
        return {
            layout.PASSAGES: self._stored,
            f"{_SPILL}/{_LENGTHS}": 4 * self._passages,
            f"{_SPILL}/{_ENDS}": 8 * self._passages,
        }

    def _continue(self, lines: CorpusLines) -> bool:
        """Take up what an earlier build of the same corpus has done, if there is any."""
        manifest: Any = None
        with contextlib.suppress(OSError, ValueError):
            manifest = json.loads((self._spill / _MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or manifest.get("made_with") != self._settings():
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

    def _settings(self) -> dict[str, Any]:
        return _SETTINGS | {"versions": self._made_with}

    def _take(self, lines: CorpusLines) -> None:
        """Store and index the passages of the lines that are still unread."""
        block, ends = Block(self._passages, self._limits), array("q")
        with (self._folder / layout.PASSAGES).open("ab") as stream:
            for number, raw in lines:
                self._read.update(raw)
                passage = parse_passage(raw, self._source, number)
                if passage is None:
                    continue
                line = passage_line(passage)
                stream.write(line)
                self._content.update(line)
                self._stored += len(line)
                ends.append(self._stored)
                block.add(passage.title, passage.text, layout.TITLE_WEIGHT)
                self._tell(lines)
                if block.full:
                    self._checkpoint(block, ends, stream, lines.position)
                    block, ends = Block(self._passages, self._limits), array("q")
            if len(block):
                self._checkpoint(block, ends, stream, lines.position)

    def _tell(self, lines: CorpusLines) -> None:
        done = lines.bytes_read
        if self._progress is not None and done - self._told >= 1 << 20:
            self._told = done
            self._progress(done, lines.size)

    def _checkpoint(self, block: Block, ends: array[int], stream: IO[bytes], position: int) -> None:
        """Write a block; the manifest follows when everything that it names is on the disk."""
        name = f"{self._passages:010}"
        lengths = block.write(self._spill, name, self._analyzer)
        stream.flush()
        for file, numbers in ((_LENGTHS, lengths.tobytes()), (_ENDS, ends.tobytes())):
            with (self._spill / file).open("ab") as growing:
                growing.write(numbers)
        if lengths.any():
            self._blocks.append(name)
        self._passages += len(block)
        _to_disk([*self._spill.glob(f"{name}.*"), *(self._folder / name for name in self._sizes())])
        write_json(
            self._spill / _MANIFEST,
            {
                "made_with": self._settings(),
                "position": position,
                "read": self._read.hexdigest(),
                "content": self._content.hexdigest(),
                "passages": self._passages,
                "stored": self._stored,
                "blocks": self._blocks,
                "sizes": self._block_sizes(),
            },
        )

    def _block_sizes(self) -> dict[str, int]:
        files = [self._spill / f"{name}.{kind}" for name in self._blocks for kind in Block.FILES]
        return {file.name: file.stat().st_size for file in files}

    def _finish(self, terms: int) -> None:
        """Write the small files, the header last, and remove the blocks."""
        ends = np.fromfile(self._spill / _ENDS, np.int64)
        np.save(self._folder / layout.OFFSETS, np.concatenate([np.zeros(1, np.int64), ends]))
        shutil.rmtree(self._spill)
        bm25 = {"k1": K1, "b": B, "method": "lucene"}
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
                **_SETTINGS,
                "bm25": bm25,
                "vocabulary": SORTED,
                "passages": self._passages,
                "terms": terms,
                "content_sha256": content,
                "fingerprint": value_hash([content, _SETTINGS, stemmer]),
                "versions": self._made_with,
                "files": {name: (self._folder / name).stat().st_size for name in layout.FILES},
            },
        )
