"""A text as sentences and what stands between them, so that it can be put together again.

NLLB was trained on single sentences and leaves out parts of longer input, so a text is translated
sentence by sentence, whatever its length.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toolgym._util.optional import require_extra
from toolgym.tools.translator.languages import script_of, short_code

__all__ = ["Layout", "lay_out", "space_between"]

_BREAK = re.compile(r"([\n\r\v\f\u0085\u2028\u2029]+)")
_BULLET = re.compile(r"\s*(?:[-*+•‣◦–—>#]{1,6}|\d{1,3}[.)])\s+")
_BLANKS = re.compile(r"[^\S\n\r\v\f\u0085\u2028\u2029]+")
# Full stops of Khmer, Tibetan and Ol Chiki, which the splitter does not know.
_MORE_STOPS = re.compile(r"(?<=[\u17d4\u17d5\u0f0d\u0f0e\u1c7e\u1c7f])\s+")
_UNSPACED = frozenset(["Hans", "Hant", "Jpan"])  # scripts that put no space between sentences

_Segment = Callable[[str, str], list[str]]


@dataclass(frozen=True)
class Layout:
    """Sentences of a text and the frame that they stand in.

    Args:
        sentences: what is to be translated, in order, without white space around it.
        frame: texts before, between and behind the sentences, one more than there are; None where
            two sentences stand side by side.
    """

    sentences: tuple[str, ...]
    frame: tuple[str | None, ...]

    def fill(self, translations: Sequence[str], target: str) -> str:
        """The text with other sentences in its frame.

        Args:
            translations: one for each sentence.
            target: their language, which decides whether a space stands between sentences.
        """
        space = space_between(target)
        parts = [self.frame[0] or ""]
        for sentence, behind in zip(translations, self.frame[1:], strict=True):
            parts += [sentence, space if behind is None else behind]
        return "".join(parts)


def space_between(language: str) -> str:
    """What a language puts between two sentences: a space, or nothing in Chinese and Japanese."""
    return "" if script_of(language) in _UNSPACED else " "


def lay_out(text: str, language: str, *, split: bool = True) -> Layout:
    """Find the sentences of a text.

    Line breaks, white space at the ends, bullets, and sentences without any letter (numbers, rules)
    belong to the frame and come back as they are.

    Args:
        text: without lone surrogates.
        language: FLORES-200 code.
        split: False takes each line as one sentence.

    Raises:
        MissingExtraError: sentencex is not installed.
    """
    segment: _Segment | None = require_extra("sentencex", "translate").segment if split else None
    sentences: list[str] = []
    gaps: list[list[str]] = [[]]
    for number, line in enumerate(_BREAK.split(text)):  # lines and breaks by turns
        pieces = [line]
        if segment is not None and number % 2 == 0 and line.strip():
            pieces = _split(line, segment, language)
        for piece in pieces:
            mark = _BULLET.match(piece)
            begin = mark.end() if mark else 0
            bare = piece[begin:].strip()
            if any(char.isalpha() for char in bare):
                begin = piece.index(bare, begin)
                gaps[-1].append(piece[:begin])
                sentences.append(bare)
                gaps.append([piece[begin + len(bare) :]])
            else:
                gaps[-1].append(piece)
    first, *others = ("".join(gap) for gap in gaps)
    inner = [None if not gap or _BLANKS.fullmatch(gap) else gap for gap in others[:-1]]
    return Layout(tuple(sentences), (first, *inner, *others[-1:]))


def _split(line: str, segment: _Segment, language: str) -> list[str]:
    """The line's sentences with the white space behind each: joined they are the line."""
    found = segment(short_code(language), line)
    if "".join(found) != line:
        found = [line]
    return [part for piece in found for part in _at_more_stops(piece)]


def _at_more_stops(piece: str) -> list[str]:
    cuts = [match.end() for match in _MORE_STOPS.finditer(piece)]
    edges = [0, *(cut for cut in cuts if cut < len(piece)), len(piece)]
    return [piece[a:b] for a, b in itertools.pairwise(edges)]
