"""Index folders as they are opened: our own, and those that bm25s saved (`BM25.save`).

Both hold bm25s's files; ours has a header that says how it was made. What bm25s does not write down
is told by the vocabulary: whether words were lower-cased, stemmed, rid of stop words or of single
letters. A query is then cut into words exactly as bm25s's tokenizer does it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import Stemmer  # type: ignore[import-not-found]

from toolgym._util.optional import quiet, require_extra
from toolgym.errors import BadInputError, MissingFileError
from toolgym.tools.search import layout
from toolgym.tools.search.analysis import Analyzer
from toolgym.tools.search.corpora.hub_rows import COLUMNS, HubName
from toolgym.tools.search.corpora.passages import Passage
from toolgym.tools.search.layout import NO_STEMMER, SORTED, Recipe, make_recipe, open_vocabulary

__all__ = ["Parts", "hub_folder", "is_index", "open_folder"]

_ABSENT = "nonoccurrence_array.index.npy"  # of BM25L and BM25+: the score of absent words
_SAVED = "save it with bm25s.BM25.save(folder, corpus=...)"
_STEMMED = 0.8  # of English words 55 % are their own stem, of stems 97 %
_TELLING = 8  # words, of which fewer tell nothing (0.55 ** 8 < 1 %): none is the default of bm25s
_SURE = 200  # words of a vocabulary from which that share is not an accident
_ACCIDENTS = 20  # stems of one letter, where words of one letter were left out
_RARE = 0.05  # of the passages: a word of every text that stands in fewer of them was left out,
_MOST = 0.7  # if that holds for so many of these; the stem of "its" is a stop word, too
_EVERYWHERE = ("the", "of", "and", "in", "is", "to", "was", "for", "on", "with")
_NEARLY_EVERYWHERE = ("from", "he", "his", "has", "were", "which", "been", "have", "who", "had")


@dataclass(frozen=True, slots=True)
class Parts:
    """What is in a folder.

    Args:
        recipe: how passages became terms, as far as it is known.
        fingerprint: hash of the passages and of everything that decides the order of hits.
        analyzer: what cuts a query into terms.
        number: of a term; None for an unknown one.
        data: scores, by term: [postings] float.
        documents: the passage of each, ascending within a term: [postings] int.
        starts: where each term's postings begin: [terms + 1 or more] int.
        maxima: the largest score of each term: [terms] float.
        offsets: where each passage's line begins, and the end: [passages + 1] int.
        absent: what a term adds to passages without it: [terms] float; None: nothing.
        read: a line as a passage.
    """

    recipe: Recipe
    fingerprint: str
    analyzer: Analyzer
    number: Callable[[str], int | None]
    data: npt.NDArray[Any]
    documents: npt.NDArray[Any]
    starts: npt.NDArray[Any]
    maxima: npt.NDArray[Any]
    offsets: npt.NDArray[Any]
    absent: npt.NDArray[Any] | None
    read: Callable[[Any, int], Passage]


def is_index(folder: Path) -> bool:
    """Whether a folder holds an index, of either kind, whole or not."""
    return any((folder / name).is_file() for name in (layout.HEADER, layout.PARAMS))


def open_folder(folder: Path, stated: Mapping[str, Any]) -> Parts:
    """Open an index folder of either kind.

    Args:
        folder: where it is.
        stated: options; of a folder of bm25s ``stemmer`` and ``stop_words`` say how it was made.

    Raises:
        MissingFileError: there is no such folder.
        BadInputError: it holds no index, a damaged one, one that this version cannot search, or one
            that was built with other options than stated.
    """
    name = repr(str(folder))
    if not folder.is_dir():
        raise MissingFileError(f"index folder {name} does not exist; {layout.AGAIN}")
    if not is_index(folder):
        raise BadInputError(
            f"folder {name} holds no index; name one that `toolgym index build` wrote or that "
            "bm25s.BM25.save(folder, corpus=...) saved"
        )
    own = (folder / layout.HEADER).is_file()
    try:
        parts = _own(folder) if own else _of_bm25s(folder, stated)
        postings, terms = len(parts.data), len(parts.maxima)
        ends = len(parts.starts), int(parts.starts[-1]), int(parts.documents.max(initial=-1))
    except BadInputError:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
    ) as error:
        again = layout.AGAIN if own else _SAVED
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInputError(f"index {name} is damaged ({why:.200}); {again}") from error
    whole = len(parts.documents) == postings == ends[1] and ends[2] < len(parts.offsets) - 1
    if not whole or terms not in (ends[0] - 1, ends[0] - 2):
        again = layout.AGAIN if own else _SAVED
        raise BadInputError(f"index {name} is damaged (sizes disagree); {again}")
    if different := parts.recipe.differences(stated):
        raise BadInputError(
            f"index {name} was built with {', '.join(different)}; build another one with "
            "`toolgym index build`, or leave the option out"
        )
    return parts


def _array(path: Path) -> npt.NDArray[Any]:
    return np.asarray(np.load(path, mmap_mode="r"))


def _own(folder: Path) -> Parts:
    header: Any = None
    with contextlib.suppress(OSError, ValueError):
        header = json.loads((folder / layout.HEADER).read_text(encoding="utf-8"))
    name = repr(str(folder))
    if not isinstance(header, dict) or header.get("kind") != layout.KIND:
        raise BadInputError(
            f"folder {name} holds no toolgym index; name one that `toolgym index build` wrote"
        )
    recipe = Recipe.of_header(header)
    if header.get("format") != layout.FORMAT or recipe is None:
        raise BadInputError(f"index {name} was built by another version of toolgym; {layout.AGAIN}")
    files = header.get("files")
    for file, size in files.items() if isinstance(files, dict) else [("its file list", -1)]:
        path = folder / file
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            raise BadInputError(
                f"index {name} is damaged: {file} has {actual} bytes instead of {size}; "
                f"{layout.AGAIN}"
            )
    built, here = header["versions"]["PyStemmer"], version("PyStemmer")
    if built.split(".")[0] != here.split(".")[0]:
        warnings.warn(
            f"index {name} was stemmed with PyStemmer {built}, this is {here}: some words may be "
            f"missed; {layout.AGAIN}",
            RuntimeWarning,
            stacklevel=5,
        )
    ordered = header.get("vocabulary") == SORTED
    return Parts(
        recipe,
        str(header["fingerprint"]),
        recipe.analyzer(),
        open_vocabulary(folder / layout.VOCABULARY, ordered=ordered),
        data=_array(folder / layout.DATA),
        documents=_array(folder / layout.INDICES),
        starts=_array(folder / layout.INDPTR),
        maxima=_array(folder / layout.MAXIMA),
        offsets=_array(folder / layout.OFFSETS),
        absent=None,
        read=lambda row, _: Passage(row["id"], row["title"], row["text"]),
    )


def _of_bm25s(folder: Path, stated: Mapping[str, Any]) -> Parts:
    params = json.loads((folder / layout.PARAMS).read_text(encoding="utf-8"))
    vocabulary = json.loads((folder / layout.VOCABULARY).read_text(encoding="utf-8"))
    data, documents, starts = (
        _array(folder / file) for file in (layout.DATA, layout.INDICES, layout.INDPTR)
    )
    if data.dtype not in (np.float32, np.float64):
        data = data.astype(np.float32)
    corpus = folder / layout.PASSAGES
    if not corpus.is_file():
        raise BadInputError(
            f"index {str(folder)!r} holds no {layout.PASSAGES}: there is nothing to read; {_SAVED}"
        )
    offsets = _lines(corpus)
    if len(offsets) - 1 != params["num_docs"]:
        raise BadInputError(
            f"index {str(folder)!r} has {params['num_docs']} passages, its {layout.PASSAGES} "
            f"{len(offsets) - 1} lines; {_SAVED}"
        )
    if documents.max(initial=0) >= params["num_docs"] or max(vocabulary.values()) >= len(starts):
        raise ValueError("a number is too large")
    often = dict.fromkeys(vocabulary, 0.0) | {
        term: (starts[n + 1] - starts[n]) / params["num_docs"]
        for term, n in vocabulary.items()
        if n < len(starts) - 1
    }
    analyzer = _ForeignAnalyzer(often, stated)
    absent = _array(folder / _ABSENT) if params["method"] in ("bm25l", "bm25+") else None
    if not (len(data) == len(documents) == starts[-1]):
        raise ValueError("the sizes of its arrays disagree")
    # A term without postings has no largest score; reduceat would take that of the next one.
    full = np.flatnonzero(np.diff(starts))
    maxima = np.zeros(len(starts) - 1, data.dtype)
    maxima[full] = np.maximum.reduceat(data, starts[full]) if len(full) else 0
    recipe = Recipe(
        title_weight=1,
        stop_words=make_recipe(**stated).stop_words if "stop_words" in stated else (),
        stemmer=analyzer.stemmer_name,
        k1=float(params["k1"]),
        b=float(params["b"]),
    )
    files = (layout.PARAMS, layout.VOCABULARY, layout.DATA, layout.INDICES, layout.PASSAGES)
    digests = [_digest(folder / file) for file in files]
    fingerprint = hashlib.sha256(f"{digests}{analyzer.described()}".encode()).hexdigest()
    return Parts(
        recipe,
        fingerprint,
        analyzer,
        vocabulary.get,
        data=data,
        documents=documents,
        starts=starts,
        maxima=maxima,
        offsets=offsets,
        absent=absent,
        read=_foreign_passage,
    )


def _lines(path: Path) -> npt.NDArray[np.int64]:
    """Where the lines of a file begin, and the end: [lines + 1]."""
    if not path.stat().st_size:
        return np.zeros(1, np.int64)
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as held:
        ends = [
            begin + 1 + np.flatnonzero(np.frombuffer(held[begin : begin + (1 << 24)], "u1") == 10)
            for begin in range(0, len(held), 1 << 24)
        ]
        last = [] if held[-1:] == b"\n" else [len(held)]
    return np.concatenate([[0], *ends, last]).astype(np.int64)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _foreign_passage(row: Any, number: int) -> Passage:
    """A row that bm25s saved: of a string ``{"id", "text"}``, else whatever it was."""
    if not isinstance(row, Mapping):
        parts = row if isinstance(row, list) else [row]
        return Passage(str(number), "", "\n".join(map(_as_text, parts)))
    found = {
        use: next((row[name] for name in names if row.get(name) is not None), None)
        for use, names in COLUMNS.items()
    }
    identity, title, text = found["id"], found["title"], found["text"]
    if text is None:
        text = {name: value for name, value in row.items() if value not in (identity, title)}
    identity = number if identity is None else identity
    return Passage(_as_text(identity), "" if title is None else _as_text(title), _as_text(text))


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class _ForeignAnalyzer(Analyzer):
    """Cuts queries as bm25s's tokenizer has cut the passages.

    Args:
        often: in which share of the passages each term of the vocabulary stands.
        stated: ``stemmer`` and ``stop_words``, where the user knows them.
    """

    def __init__(self, often: Mapping[str, float], stated: Mapping[str, Any]) -> None:
        from bm25s import stopwords  # loads what a folder of our own never needs

        words = [word for word in often if word]
        plain = [word for word in words if word.isascii() and word.isalpha() and len(word) > 3]
        english = Stemmer.Stemmer("english", 0)
        stems = sum(english.stemWord(word) == word for word in plain)
        stemmed = len(plain) >= _TELLING and stems >= _STEMMED * len(plain)
        guessed = "english" if stemmed else NO_STEMMER
        self.stemmer_name = str(stated.get("stemmer", guessed))
        self._as_it_is = frozenset[str]()
        dropped = frozenset[str]()
        for given, probes in (
            (stopwords.STOPWORDS_EN, _EVERYWHERE),
            (stopwords.STOPWORDS_EN_PLUS, _NEARLY_EVERYWHERE),
        ):
            rare = sum(often.get(word, 0.0) < _RARE for word in probes)
            dropped = frozenset(given) if rare >= _MOST * len(probes) else dropped
        few = len(plain) < _SURE
        if few:  # too few to tell: what stands there was neither stemmed nor left out
            self._as_it_is = frozenset(words)
            dropped = frozenset(stopwords.STOPWORDS_EN) - self._as_it_is
        if "stop_words" in stated:
            dropped = frozenset(make_recipe(stop_words=stated["stop_words"]).stop_words)
        name = None if self.stemmer_name == NO_STEMMER else self.stemmer_name
        super().__init__(dropped, name)
        self._lower = all(word == word.lower() for word in words)
        single = sum(len(word) == 1 for word in words) > (0 if few else _ACCIDENTS)
        self._token = re.compile(r"\b\w+\b" if single else r"\b\w\w+\b")
        if sum(self._token.fullmatch(word) is None for word in words) > len(words) / 2:
            warnings.warn(
                "most terms of this index are none that bm25s's tokenizer makes: queries, which it "
                "cuts, may miss them",
                RuntimeWarning,
                stacklevel=6,
            )

    def described(self) -> list[Any]:
        """What decides the terms of a query, as plain values."""
        return [self.stemmer_name, sorted(self._stop_words), self._lower, self._token.pattern]

    def terms(self, text: str) -> list[str]:
        """As bm25s's tokenizer."""
        return [term for piece in self.pieces(text) for term in self.piece_terms(piece)]

    def pieces(self, text: str) -> list[str]:
        """Words, as bm25s finds them."""
        return self._token.findall(text.lower() if self._lower else text)

    def piece_terms(self, piece: str) -> list[str]:
        """The stem of a word, unless it is a stop word."""
        if piece in self._stop_words:
            return []
        return [piece if piece in self._as_it_is else self._stem(piece)]

    def kept_terms(self, text: str) -> list[str]:
        """None: bm25s knows no titles."""
        return []

    def named_stop_words(self, query: str) -> list[str]:
        """None: bm25s knows no titles."""
        return []

    def vietnamese_terms(self, query: str) -> list[str]:
        """None: bm25s keeps all marks."""
        return []

    def only_stop_words(self, text: str) -> bool:
        """Whether a text has words, and all of them are stop words."""
        return bool(self.pieces(text)) and not self.terms(text)


def hub_folder(name: str) -> Path:
    """The folder of an index that ``save_to_hub`` of bm25s saved, fetched once.

    Args:
        name: ``hf:OWNER/NAME``, or with ``@REVISION``.

    Raises:
        MissingExtraError: ``huggingface_hub`` is not installed.
        MissingFileError: there is no such repository, or no network.
        BadInputError: it holds no such index.
    """
    where = HubName.read(name)
    hub = require_extra("huggingface_hub", "wiki")
    reasons = []
    for kind in ("model", "dataset"):
        try:
            with quiet():
                found = hub.snapshot_download(
                    where.path,
                    repo_type=kind,
                    revision=where.revision,
                    allow_patterns=["*.npy", "*.json", "*.jsonl"],
                )
        except (OSError, ValueError) as error:  # the hub's errors are of both
            reasons.append(
                str(error).strip().splitlines()[0] if str(error).strip() else "no reason"
            )
            continue
        if is_index(Path(found)):
            return Path(found)
        reasons.append(f"the {kind} {where.path!r} holds no index that bm25s saved")
    raise MissingFileError(
        f"corpus {name!r} cannot be opened as an index of bm25s ({'; '.join(reasons):.300}); index "
        f"the rows of a data set with `toolgym index build {name} FOLDER`"
    )
