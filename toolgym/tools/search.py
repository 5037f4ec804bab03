"""WikipediaSearch: the best passage of a corpus for a query, by BM25.

The paper (arXiv 2502.05867) searches 5.9 million KILT articles with Lucene and gives back the whole
text of the first hit (k = 1); the same happens here over any corpus of passages.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from toolgym.errors import BadInputError, MissingFileError, near
from toolgym.registry import CORPORA
from toolgym.tools.index import HEADER, Hit, Index, build_index, cache_folder, disk_name, open_index
from toolgym.toolset import Tool

__all__ = ["NO_RESULT", "is_empty_result", "make_search", "open_corpus"]

NO_RESULT = "No result for "
"""How the answer begins when no passage holds a word of the query: an answer, not an error."""


def is_empty_result(content: str) -> bool:
    """Whether a tool result holds nothing: blank, or a search without a hit.

    The paper's pass rate counts calls "whose result is not an error or empty".
    """
    return not content.strip() or content.startswith(NO_RESULT)


def make_search(corpus: str = "sample", k: int = 1) -> Tool:
    """The ``WikipediaSearch`` tool.

    Args:
        corpus: a registered name (``sample``), a ``.jsonl`` of passages, or an index folder.
        k: passages in an answer; with more than one they are numbered lines.

    Raises:
        MissingFileError: the corpus is none of these.
        BadInputError: a broken corpus or index, or ``k`` below 1.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise BadInputError(f"k is the number of passages in an answer, at least 1, not {k!r}")
    index = open_corpus(corpus)

    def answer(query: str) -> str:
        """Search an encyclopedia and read the best matching article.

        Args:
            query: a name or a few key words.
        """
        return _answer(query, index.search(query, k))

    def answer_all(calls: list[dict[str, Any]]) -> list[str]:
        # Concurrent episodes of one task often ask the same.
        found = {query: answer(query) for query in dict.fromkeys(call["query"] for call in calls)}
        return [found[call["query"]] for call in calls]

    return Tool(
        answer,
        name="WikipediaSearch",
        inline=True,
        batch=answer_all,
        fingerprint=index.fingerprint,
    )


def _answer(query: str, hits: list[Hit]) -> str:
    if not hits:
        shown = query if len(query) <= 100 else query[:97] + "..."
        return f"{NO_RESULT}{shown!r}: no article holds a word of it."
    if len(hits) == 1:
        return str(hits[0].passage)
    lines = (" ".join(str(hit.passage).split()) for hit in hits)
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


def open_corpus(corpus: str) -> Index:
    """Open what a name, a file or a folder stands for; equal ones are opened once a process.

    A file of passages is indexed on first use, and the index is kept in the user's cache
    (``$TOOLGYM_CACHE``, else ``~/.cache/toolgym``) under the hash of its content.

    Raises:
        MissingFileError: neither a registered name nor a file or folder.
        BadInputError: a broken corpus or index.
    """
    path = Path(CORPORA.get(corpus).path() if corpus in CORPORA else corpus)
    if path.is_dir():
        stamp = (path / HEADER).stat().st_mtime_ns if (path / HEADER).is_file() else 0
        return _opened(str(path.resolve()), stamp, 0)
    if path.is_file():
        status = path.stat()
        return _opened(str(path.resolve()), status.st_mtime_ns, status.st_size)
    raise MissingFileError(
        f"corpus {str(corpus)!r} does not exist{near(str(corpus), CORPORA)}; name a registered one "
        f"({', '.join(CORPORA)}), a .jsonl file of passages, or an index folder"
    )


@functools.lru_cache(maxsize=8)
def _opened(path: str, stamp: int, size: int) -> Index:
    """Opened once for one state of the file or folder, which time and size stand for."""
    if Path(path).is_dir():
        return open_index(path)
    name = disk_name(Path(path))
    folder = cache_folder() / name
    try:
        return open_index(folder)
    except (MissingFileError, BadInputError):
        pass  # not there yet, or damaged: built below
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return open_index(build_index(path, folder))
    except OSError as error:
        if isinstance(error, MissingFileError):
            raise
        # Another process was first, or the cache cannot be written.
        if (folder / HEADER).is_file():
            return open_index(folder)
    temporary = tempfile.mkdtemp(prefix="toolgym-index-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return open_index(build_index(path, Path(temporary) / name))
