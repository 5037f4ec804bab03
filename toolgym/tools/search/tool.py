"""WikipediaSearch: the best passage of a corpus for a query, by BM25.

The paper (arXiv 2502.05867) searches 5.9 million KILT articles with Lucene and gives back the whole
text of the first hit (k = 1); the same happens here over any corpus of passages.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolgym._util.hashes import value_hash
from toolgym._util.workfolder import cache_folder, scratch_folder
from toolgym.errors import BadInputError, MissingFileError, NothingFoundError, did_you_mean
from toolgym.registry import CORPORA
from toolgym.tools.base import Tool
from toolgym.tools.search.corpora.hub_rows import is_hub
from toolgym.tools.search.folders import hub_folder
from toolgym.tools.search.index import HEADER, Hit, Index, build_index, disk_name, open_index
from toolgym.tools.search.layout import PARAMS, Recipe, make_recipe

__all__ = ["make_search", "open_corpus"]

_PASSAGES = ("whole", "best")
# Not a docstring: the policy reads it under ``python -OO``, too.
_TOLD = """Search an encyclopedia and read the best matching article.

Args:
    query: a name or a few key words.
"""


def make_search(
    corpus: str = "sample",
    k: int = 1,
    passage: str = "whole",
    passage_chars: int = 600,
    index: Mapping[str, Any] | None = None,
) -> Tool:
    """The ``WikipediaSearch`` tool.

    Args:
        corpus: a registered name (``sample``), a ``.jsonl`` of passages, or an index folder, also
            one that bm25s saved; see `open_corpus`.
        k: passages in an answer; with more than one they are numbered lines.
        passage: ``whole``: documents are read whole, as in the paper; ``best``: of a longer one
            only the sentences that answer to the query best.
        passage_chars: how many characters of a document are read at most with ``best``.
        index: how passages are indexed, such as ``{"stemmer": "none", "title_weight": 1}``; see
            `toolgym.tools.search.layout.make_recipe`. An index folder built otherwise is refused.

    Raises:
        MissingFileError: the corpus is none of these.
        BadInputError: a broken corpus or index, an index built with other options than stated, or
            a wrong option.
    """
    _check_number("k", k, "the number of passages in an answer", 1)
    _check_number("passage_chars", passage_chars, "the most characters of a passage", 50)
    if passage not in _PASSAGES:
        raise BadInputError(
            f"passage is {' or '.join(map(repr, _PASSAGES))}, not {passage!r}"
            f"{did_you_mean(str(passage), _PASSAGES)}"
        )
    opened = open_corpus(corpus, index)

    def shown(query: str, hits: list[Hit]) -> str | NothingFoundError:
        if passage == "best":
            hits = [Hit(opened.excerpt(query, h.passage, passage_chars), h.score) for h in hits]
        return _answer(query, hits, not hits and opened.only_stop_words(query))

    def answer(query: str) -> str:
        found = shown(query, opened.search(query, k))
        if isinstance(found, NothingFoundError):
            raise found
        return found

    def answer_all(calls: list[dict[str, Any]]) -> list[str | NothingFoundError]:
        # Concurrent episodes of one task often ask the same.
        queries = list(dict.fromkeys(call["query"] for call in calls))
        found = opened.search_many(queries, k)
        texts = {query: shown(query, hits) for query, hits in zip(queries, found, strict=True)}
        return [texts[call["query"]] for call in calls]

    answer.__doc__ = _TOLD
    reading = [] if passage == "whole" else [passage, passage_chars]
    return Tool(
        answer,
        name="WikipediaSearch",
        inline=True,
        batch=answer_all,
        fingerprint=value_hash([opened.fingerprint, *reading]) if reading else opened.fingerprint,
    )


def _check_number(name: str, value: Any, meaning: str, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BadInputError(f"{name} is {meaning}, at least {least}, not {value!r}")


def _answer(query: str, hits: list[Hit], only_stop_words: bool) -> str | NothingFoundError:
    if not hits:
        shown = query if len(query) <= 100 else query[:97] + "..."
        why = "no article holds a word of it"
        if only_stop_words:
            why = "its words are too common, and no title is made of them"
        return NothingFoundError(f"No result for {shown!r}: {why}.")
    if len(hits) == 1:
        return str(hits[0].passage)
    lines = (" ".join(str(hit.passage).split()) for hit in hits)
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


def open_corpus(corpus: str, options: Mapping[str, Any] | None = None) -> Index:
    """Open what a name, a file or a folder stands for; equal ones are opened once a process.

    A file of passages is indexed on first use, and the index is kept in the user's cache
    (``$TOOLGYM_CACHE``, else ``~/.cache/toolgym``) under the hash of its content and options.

    Args:
        corpus: a registered name, a file of passages, an index folder (one that
            ``bm25s.BM25.save(..., corpus=...)`` saved, too), or ``hf:OWNER/NAME`` for one that
            ``save_to_hub`` saved.
        options: how passages are indexed; see `toolgym.tools.search.layout.make_recipe`.

    Raises:
        MissingFileError: neither a registered name nor a file or folder.
        BadInputError: a broken corpus or index, wrong options, or an index of other ones.
    """
    if options is not None and not isinstance(options, Mapping):
        raise BadInputError(f"the options of an index are a mapping, not {options!r}")
    if not isinstance(corpus, str | Path):
        raise BadInputError(
            f"a corpus is a registered name ({', '.join(CORPORA)}), a file of passages or an index "
            f"folder, not {corpus!r:.80}"
        )
    stated = dict(options or {})
    recipe = make_recipe(**stated)
    path = Path(CORPORA.get(corpus).path() if corpus in CORPORA else corpus)
    if is_hub(corpus):
        path = hub_folder(corpus)
    if path.is_dir():
        marks = [path / name for name in (HEADER, PARAMS) if (path / name).is_file()]
        stamp = marks[0].stat().st_mtime_ns if marks else 0
        return _opened(str(path.resolve()), stamp, 0, None, json.dumps(stated, sort_keys=True))
    if path.is_file():
        status = path.stat()
        return _opened(str(path.resolve()), status.st_mtime_ns, status.st_size, recipe, "{}")
    raise MissingFileError(
        f"corpus {str(corpus)!r} does not exist"
        f"{did_you_mean(str(corpus), CORPORA)}; name a registered one "
        f"({', '.join(CORPORA)}), a .jsonl file of passages, or an index folder"
    )


@functools.lru_cache(maxsize=8)
def _opened(path: str, stamp: int, size: int, recipe: Recipe | None, stated: str) -> Index:
    """Opened once for one state of the file or folder, which time and size stand for."""
    if recipe is None:
        return open_index(path, json.loads(stated))
    name = disk_name(Path(path), recipe)
    folder = cache_folder() / name
    try:
        return open_index(folder)
    except (MissingFileError, BadInputError):
        pass  # not there yet, or damaged: built below
    options = asdict(recipe)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return open_index(build_index(path, folder, **options))
    except OSError as error:
        if isinstance(error, MissingFileError):
            raise
        # Another process was first, or the cache cannot be written.
        if (folder / HEADER).is_file():
            return open_index(folder)
    return open_index(build_index(path, scratch_folder("index") / name, **options))
