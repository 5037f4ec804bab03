"""The folder of an index: its recipe, the names of its files, and its vocabulary."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import Stemmer  # type: ignore[import-not-found]

from toolgym._util.hashes import value_hash
from toolgym._util.text import fold
from toolgym.errors import BadInputError, did_you_mean
from toolgym.tools.search.analysis import STOP_WORDS, VERSION, Analyzer

__all__ = [
    *("FORMAT", "HEADER", "KIND", "SORTED", "Recipe", "disk_name", "make_recipe"),
    *("open_vocabulary", "write_vocabulary"),
]

NO_STEMMER = "none"
TITLE_WEIGHT, STEMMER = 2, "english"
K1, B = 0.9, 0.4
_LISTS = {"english": STOP_WORDS, "none": frozenset[str]()}
_MOST_WEIGHT = 20  # a title that counts more often than that drowns its text


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of an index; `make_recipe` checks them.

    Args:
        title_weight: as how many occurrences a word of the title counts; 0: not searched.
        stop_words: words that are not searched, folded, ascending.
        stemmer: a Snowball language, or ``none``.
        k1: how soon a repeated word stops to count more.
        b: how much a long passage's words count less, 0 to 1.
    """

    title_weight: int = TITLE_WEIGHT
    stop_words: tuple[str, ...] = tuple(sorted(STOP_WORDS))
    stemmer: str = STEMMER
    k1: float = K1
    b: float = B

    def analyzer(self) -> Analyzer:
        """What cuts passages and queries into terms."""
        return Analyzer(
            frozenset(self.stop_words), None if self.stemmer == NO_STEMMER else self.stemmer
        )

    def header(self) -> dict[str, Any]:
        """As it stands in the header of an index."""
        analyzer = {"name": "unicode-fold", "version": VERSION}
        analyzer |= {"stemmer": self.stemmer, "stop_words": list(self.stop_words)}
        bm25 = {"k1": self.k1, "b": self.b, "method": "lucene"}
        return {"analyzer": analyzer, "title_weight": self.title_weight, "bm25": bm25}

    @classmethod
    def of_header(cls, header: Mapping[str, Any]) -> Recipe | None:
        """The settings that a header names; None when this version cannot follow them."""
        try:
            analyzer, bm25 = header["analyzer"], header["bm25"]
            found = cls(
                header["title_weight"],
                tuple(analyzer["stop_words"]),
                analyzer["stemmer"],
                bm25["k1"],
                bm25["b"],
            )
            same = found.header() == {name: header[name] for name in found.header()}
            return found if same and found.stemmer in _stemmers() else None
        except (KeyError, TypeError):
            return None

    def differences(self, stated: Mapping[str, Any]) -> list[str]:
        """What of some stated options this is not, as readable parts of a message."""
        wanted = make_recipe(**stated)
        return [
            f"{name} {_shown(getattr(self, name))} instead of {_shown(getattr(wanted, name))}"
            for name in stated
            if getattr(self, name) != getattr(wanted, name)
        ]


def make_recipe(
    title_weight: int = TITLE_WEIGHT,
    stop_words: str | Iterable[str] = "english",
    stemmer: str = STEMMER,
    k1: float = K1,
    b: float = B,
    **unknown: Any,
) -> Recipe:
    """Check the options of an index.

    A title counts twice: on real questions that helps those that name a subject and does not hurt
    those that ask about a detail. ``k1`` and ``b`` are those of Anserini and pyserini, with which
    the paper searched (Trotman, Jia and Crane 2012, "Towards an efficient and effective search
    engine").

    Args:
        title_weight: 0 to 20; see `Recipe`.
        stop_words: ``english`` (Lucene's list), ``none``, or words of your own.
        stemmer: a Snowball language such as ``english``, or ``none``.
        k1: at least 0.
        b: 0 to 1.
        unknown: refused with near names.

    Raises:
        BadInputError: an option that does not exist or a value that cannot be.
    """
    known = [field.name for field in fields(Recipe)]
    for name in unknown:
        raise BadInputError(
            f"an index has no option {name!r}"
            f"{did_you_mean(name, known)}; options: {', '.join(known)}"
        )
    whole = isinstance(title_weight, int) and not isinstance(title_weight, bool)
    if not whole or not 0 <= title_weight <= _MOST_WEIGHT:
        raise BadInputError(
            f"title_weight is a whole number from 0 to {_MOST_WEIGHT}, not {title_weight!r}"
        )
    if stemmer not in _stemmers():
        known = _stemmers()
        raise BadInputError(
            f"there is no stemmer {stemmer!r}{did_you_mean(str(stemmer), known)}; stemmers: "
            f"{', '.join(known)}"
        )
    for name, value, most in (("k1", k1, math.inf), ("b", b, 1.0)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= most or math.isinf(value):
            limits = "0 to 1" if most == 1.0 else "at least 0"
            raise BadInputError(f"{name} is a number, {limits}, not {value!r}")
    return Recipe(title_weight, _words(stop_words), stemmer, float(k1), float(b))


def _stemmers() -> list[str]:
    return [NO_STEMMER, *Stemmer.algorithms()]


def _words(given: str | Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        if given not in _LISTS:
            raise BadInputError(
                f"there is no list of stop words {given!r}{did_you_mean(given, _LISTS)}; lists: "
                f"{', '.join(_LISTS)}; or give the words themselves"
            )
        return tuple(sorted(_LISTS[given]))
    words = list(given)
    if not all(isinstance(word, str) for word in words):
        raise BadInputError(f"stop words are words, not {words!r}")
    # Cut as passages are, for a list may hold "don't".
    return tuple(
        sorted({term for word in words for term in Analyzer(frozenset(), None).terms(fold(word))})
    )


def _shown(value: Any) -> str:
    return f"of {len(value)} words" if isinstance(value, tuple) else repr(value)


HEADER = "toolgym-index.json"
KIND, FORMAT = "toolgym-bm25", 3
DATA, INDICES, INDPTR = (f"{name}.csc.index.npy" for name in ("data", "indices", "indptr"))
VOCABULARY, PARAMS = "vocab.index.json", "params.index.json"
PASSAGES, OFFSETS = "corpus.jsonl", "offsets.npy"
MAXIMA = "maxima.npy"  # the largest score of each term, so that a search can pass over postings
FILES = (DATA, INDICES, INDPTR, MAXIMA, VOCABULARY, PARAMS, PASSAGES, OFFSETS)
AGAIN = "build it again with `toolgym index build`"


def disk_name(corpus: Path, recipe: Recipe) -> str:
    """A name that changes with the corpus's bytes and with everything that decides its index."""
    with corpus.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    made_with = [version("bm25s"), version("PyStemmer"), FORMAT, recipe.header()]
    return f"{corpus.stem[:40]}-{value_hash([content, made_with])[:24]}"


SORTED = "sorted lines"
"""What the header of an index says about a file that `write_vocabulary` wrote."""
_WHOLE = 4 << 20  # bytes; a smaller file is read into a dict within some 50 ms
_MEMO_TERMS = 50_000
_LAST = b'\n"": '


def write_vocabulary(path: Path, terms: Iterable[str]) -> int:
    """Write ``{term: number}``, one term a line.

    Args:
        path: the file.
        terms: distinct, ascending by code point, without quotes, backslashes and control signs.

    Returns:
        How many terms there are. The empty string, which bm25s asks for, gets that number.
    """
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write("{\n")
        for term in terms:
            stream.write(f'"{term}": {count},\n')
            count += 1
        stream.write(f'"": {count}}}\n')
    return count


def open_vocabulary(path: Path, *, ordered: bool) -> Callable[[str], int | None]:
    """The function from a term to its number, None for an unknown one.

    Args:
        path: the file.
        ordered: `write_vocabulary` wrote it, so that a large one can stay on the disk.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a JSON object.
    """
    if not ordered or path.stat().st_size < _WHOLE:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(numbers, dict):
            raise ValueError("the vocabulary is not a JSON object")
        return numbers.get
    return _SortedLines(path)


class _SortedLines:
    """Bisection in a memory map: opens at once at any size, some 20 microseconds a new term."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._end = self._bytes.rfind(_LAST) + 1
        if not self._end:
            raise ValueError("the vocabulary has no last line")
        self._memo: dict[str, int | None] = {}

    def __call__(self, term: str) -> int | None:
        try:
            return self._memo[term]
        except KeyError:
            if len(self._memo) >= _MEMO_TERMS:
                self._memo = {}
            number = self._memo[term] = self._find(term.encode("utf-8", "replace"))
            return number

    def _find(self, wanted: bytes) -> int | None:
        data, low, high = self._bytes, 2, self._end
        while low < high:
            middle = (low + high) // 2
            begin = max(data.rfind(b"\n", low, middle) + 1, low)
            end = data.find(b"\n", middle, high)
            term, _, number = data[begin + 1 : end].partition(b'": ')
            if term == wanted:
                return int(number[:-1])
            if term < wanted:
                low = end + 1
            else:
                high = begin
        return None
