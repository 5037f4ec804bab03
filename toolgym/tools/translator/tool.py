"""MachineTranslator: a text in another language, in English or any language of NLLB-200.

The paper (arXiv 2502.05867) uses NLLB-200-distilled-600M with the tokenizer's default source
language, which is English: ``source="eng_Latn"`` does that. By default the language is found out.
The ``phrasebook`` back end serves the bundled sample without a download.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolgym._util.hashes import file_hash, value_hash
from toolgym._util.jsonl import read_rows
from toolgym._util.optional import require_extra
from toolgym._util.text import fold
from toolgym.errors import BadInputError, ToolError, UnknownNameError, did_you_mean
from toolgym.registry import CORPORA
from toolgym.tools.base import Tool
from toolgym.tools.translator.languages import english_name, find_language

__all__ = ["PhraseBook", "make_translator"]

_SENTENCE = re.compile(r"[^.!?。！？…\n]+[.!?。！？…]*")
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
# Words that make a sentence English: none is a common word of the phrase book's other languages.
_QUESTION = frozenset(["what", "which", "who", "whom", "whose", "when", "where", "why", "how"])
_ENGLISH = _QUESTION | frozenset(
    [
        "the", "and", "to", "that", "this", "with", "from", "were", "did", "does", "has", "had",
        "have", "been", "many", "much", "year", "city", "country", "it", "its", "by", "of",
    ]
)  # fmt: skip
_KEPT = frozenset(["Ll", "Lo", "Mn", "Mc", "Nd", "Nl", "No"])
_LAST_LATIN = 0x24F  # after folding, what is beyond is another script
_MAX_CHARS = 5_000  # a phrase book covers sentences, not pages


class PhraseBook:
    """Phrases of several languages with their English.

    Args:
        path: JSON lines of ``{"language", "text", "english"}``.

    Raises:
        MissingFileError: no such file.
        BadInputError: a line without these three texts, or no line at all.
    """

    def __init__(self, path: str | Path) -> None:
        self._phrases: dict[str, dict[str, str]] = {}  # language -> key -> English
        self._english_words: set[str] = set(_ENGLISH)
        for number, row in read_rows(path, "phrase book"):
            language, text, english = (row.get(key) for key in ("language", "text", "english"))
            if not (
                isinstance(language, str) and isinstance(text, str) and isinstance(english, str)
            ):
                raise BadInputError(
                    f"phrase book {str(path)!r}, line {number}: 'language', 'text' and 'english' "
                    "must be texts"
                )
            # The first entry of a phrase wins, so that the order of the file decides.
            self._phrases.setdefault(language, {}).setdefault(_key(text), english)
            self._english_words.update(_key(english).split())
        if not self._phrases:
            raise BadInputError(f"phrase book {str(path)!r} holds no phrase")
        self._longest = max(len(key.split()) for keys in self._phrases.values() for key in keys)

    @property
    def languages(self) -> list[str]:
        """Language codes such as ``fra_Latn``, sorted."""
        return sorted(self._phrases)

    def __len__(self) -> int:
        return sum(map(len, self._phrases.values()))

    def check_language(self, language: str) -> str:
        """The same code.

        Raises:
            UnknownNameError: the phrase book has no phrase in it.
        """
        if language not in self._phrases:
            raise UnknownNameError("language of the phrase book", language, self._phrases)
        return language

    def translate(self, text: str, language: str | None = None) -> str | None:
        """The English of a text, or None when a part of it is not in the book.

        The whole text is looked up first, then its sentences, then the fewest phrases that cover a
        sentence without a gap. Case, accents, punctuation and white space do not matter.
        English comes back unchanged.

        Args:
            text: in one language.
            language: its code; default: the language that covers the text with fewest phrases.
        """
        if len(text) > _MAX_CHARS:
            return None
        languages = [language] if language else list(self._phrases)
        for found in (self._phrases[name].get(_key(text)) for name in languages):
            if found is not None:
                return found
        if self._is_english(text):
            return text
        covers = [cover for name in languages if (cover := self._cover(text, name))]
        return " ".join(_shortest(covers) or ()) or None

    def _is_english(self, text: str) -> bool:
        key = _key(text)
        words = key.split()
        if not words or any(ord(char) > _LAST_LATIN for char in key):
            return False
        known = sum(word in self._english_words for word in words)
        telling = sum(word in _ENGLISH for word in words)
        # Names are not English words, so a part of the words has to do.
        return (
            not _QUESTION.isdisjoint(words[:3]) or known == len(words) or telling * 4 >= len(words)
        )

    def _cover(self, text: str, language: str) -> list[str] | None:
        parts: list[str] = []
        for sentence in _SENTENCE.findall(text):
            words = _key(sentence).split()
            if words:
                found = _fewest(words, self._phrases[language], self._longest)
                if found is None:
                    return None
                parts += found
        return parts or None


def _shortest(covers: list[list[str]]) -> list[str] | None:
    return min(covers, key=len) if covers else None


def _fewest(words: list[str], phrases: dict[str, str], longest: int) -> list[str] | None:
    """The English of the fewest phrases that follow each other through all words."""
    best: list[list[str] | None] = [[]]  # best[n] covers the first n words
    for end in range(1, len(words) + 1):
        covers = list(_endings(words, end, best, phrases, longest))
        best.append(_shortest(covers))
    return best[-1]


def _endings(
    words: list[str],
    end: int,
    best: list[list[str] | None],
    phrases: dict[str, str],
    longest: int,
) -> Iterator[list[str]]:
    for start in range(max(0, end - longest), end):
        before, english = best[start], phrases.get(" ".join(words[start:end]))
        if before is not None and english is not None:
            yield [*before, english]


def _key(text: str) -> str:
    """What counts of a text: its words, in lower case and one Unicode form, spaced by one blank."""
    kept = (c if unicodedata.category(c) in _KEPT else " " for c in fold(text))
    return " ".join(_UNSPACED.sub(r" \1 ", "".join(kept)).split())


if TYPE_CHECKING:
    from toolgym.tools.translator.nllb import Job, NllbTranslator


NAME = "MachineTranslator"
ENGLISH = "eng_Latn"
BACKENDS = ("phrasebook", "nllb")
TIMEOUT = 60.0  # seconds; int8 on two cores translates some hundred sentences in it
MAX_CHARACTERS = 20_000
_UNPRINTABLE = frozenset(["Cc", "Cs", "Co", "Cn"])
_PLAIN = frozenset("\n\r\t\v\f\x85")

Answers = list[str | ToolError]


def make_translator(
    backend: str = "phrasebook",
    source: str | None = None,
    target: str = ENGLISH,
    model: str = "facebook/nllb-200-distilled-600M",
    engine: str = "ctranslate2",
    precision: str | None = None,
    device: str = "auto",
    beams: int = 1,
    split: bool = True,
    choose_languages: bool = False,
    timeout: float = TIMEOUT,
) -> Tool:
    """The ``MachineTranslator`` tool.

    Args:
        backend: ``phrasebook`` (only the phrases of the bundled sample) or ``nllb`` (a model; extra
            ``translate``). The phrase book has no use for the options below ``target``.
        source: language of the texts, such as ``fra_Latn``, ``fr`` or ``French``. Default: found
            out for each text; one that is in the target language already comes back unchanged.
            ``eng_Latn`` is the paper's choice: every text goes through the model as if English.
        target: language of the translations; the phrase book knows English only.
        model: hub id, short name (``3.3B``) or folder.
        engine: ``ctranslate2`` or ``transformers``.
        precision: of weights and arithmetic; default: ``int8`` (CTranslate2) or ``float32`` on the
            CPU, ``float16`` on CUDA.
        device: ``auto``, ``cpu`` or ``cuda``.
        beams: width of the beam search; 1 takes the most likely token at each step.
        split: translate sentence by sentence; False: line by line.
        choose_languages: whether the policy may name ``source`` and ``target`` in each call.
        timeout: seconds of work that a call may cost.

    Raises:
        BadInputError: an option that cannot be used.
        UnknownNameError: ``source`` is not a language of the phrase book.
        MissingExtraError: the packages of the ``nllb`` back end are not installed.
        MissingFileError: its model cannot be found.
    """
    if backend == "phrasebook":
        return _phrasebook_tool(source, target)
    if backend != "nllb":
        raise BadInputError(
            f"unknown translator back end {backend!r}{did_you_mean(str(backend), BACKENDS)}; "
            f"known: {', '.join(BACKENDS)}"
        )
    if not isinstance(beams, int) or not 1 <= beams <= 16:
        raise BadInputError(f"beams is a number from 1 to 16, not {beams!r}")
    if not isinstance(timeout, int | float) or not timeout > 0:
        raise BadInputError(f"timeout is a number of seconds above 0, not {timeout!r}")
    from toolgym.tools.translator.nllb import Job, load_nllb  # its packages are an extra

    for package in ("sentencex", "py3langid"):
        require_extra(package, "translate")
    translator = load_nllb(model, engine, precision, device)
    target = translator.check_language(find_language(target, translator.tokens.codes))
    if source is not None:
        source = translator.check_language(find_language(source, translator.tokens.codes))

    def job(text: str, source: str, target: str) -> Job:
        return Job(text, source, target, split, beams, timeout)

    one, many = _functions(_Calls(translator, source, target, job), target, choose_languages)
    facts = [*translator.identity, source, target, split, beams]
    return Tool(
        one, name=NAME, inline=True, batch=many, timeout=timeout, fingerprint=value_hash(facts)
    )


def _phrasebook_tool(source: str | None, target: str) -> Tool:
    path = CORPORA.get("phrasebook").path()
    book = PhraseBook(path)
    if find_language(target) != ENGLISH:
        raise BadInputError(
            f"the phrase book translates into {ENGLISH!r} only, not {target!r}; "
            "use backend='nllb' for other languages"
        )
    language = None if source is None else book.check_language(find_language(source))

    def translate(text: str) -> str:
        found = book.translate(_readable(text), language)
        if found is not None:
            return found
        shown = text if len(text) <= 100 else text[:97] + "..."
        raise ToolError(
            f"no translation for {shown!r}: this translator is a small phrase book of {len(book)} "
            f"phrases that covers the bundled sample ({', '.join(book.languages)}); an environment "
            "made with backend 'nllb' translates any text"
        )

    translate.__doc__ = _PHRASES
    return Tool(translate, name=NAME, inline=True, fingerprint=file_hash(path))


# Not docstrings: the policy reads them under ``python -OO``, too.
_PHRASES = """Translate a phrase into English with a small phrase book.

It holds only common phrases and the questions of the bundled sample, in a few languages.

Args:
    text: the phrase or question in its own language.
"""
_TEXT = """Translate a text into English.

Args:
    text: the text in its own language.
"""
_BETWEEN = """Translate a text, by default into English.

Args:
    text: the text in its own language.
    source: its language, such as French, fr or fra_Latn; left out: found out.
    target: the language to translate into; left out: English.
"""


class _Calls:
    """Answers calls of a tool: what needs no model at once, the rest together.

    Args:
        translator: a model.
        source: of all texts; None: found out.
        target: where a call names none.
        job: makes a job of a text and two codes.
    """

    def __init__(
        self,
        translator: NllbTranslator,
        source: str | None,
        target: str,
        job: Callable[[str, str, str], Job],
    ) -> None:
        self._translator, self._job = translator, job
        self._source, self._target = source, target

    def answer(self, calls: list[dict[str, Any]]) -> Answers:
        """One answer for each call, in order."""
        prepared = [self._prepare(**call) for call in calls]
        jobs = [item for item in prepared if not isinstance(item, str | ToolError)]
        translated = iter(self._translator.translate(jobs) if jobs else ())
        return [
            item if isinstance(item, str | ToolError) else next(translated) for item in prepared
        ]

    def _prepare(self, text: str, source: str = "", target: str = "") -> Job | str | ToolError:
        try:
            text = _readable(text)
            wanted = self._language(target) if target.strip() else self._target
            if source.strip():
                given = self._language(source)
                return text if given == wanted else self._job(text, given, wanted)
        except (ToolError, BadInputError) as error:
            return ToolError(str(error))
        if self._source is not None:  # also the target itself, as the paper has it
            return self._job(text, self._source, wanted)
        from toolgym.tools.translator.languages import detect_language

        found = detect_language(text, self._translator.tokens.codes)
        if found is None and any(char.isalpha() for char in text):
            return ToolError("this text is in a script that the translator does not know")
        return text if found in (None, wanted) else self._job(text, str(found), wanted)

    def _language(self, name: str) -> str:
        codes = self._translator.tokens.codes
        return self._translator.check_language(find_language(name, codes))


def _functions(
    calls: _Calls, target: str, choose_languages: bool
) -> tuple[Callable[..., str], Callable[[list[dict[str, Any]]], Answers]]:
    """The tool's function for one call, and the one for many."""

    def translate(text: str) -> str:
        return _raised(calls.answer([{"text": text}])[0])

    def translate_between(text: str, source: str = "", target: str = "") -> str:
        return _raised(calls.answer([{"text": text, "source": source, "target": target}])[0])

    chosen, told = (translate_between, _BETWEEN) if choose_languages else (translate, _TEXT)
    chosen.__doc__ = told.replace("English", english_name(target))
    return chosen, calls.answer


def _raised(answer: str | ToolError) -> str:
    if isinstance(answer, ToolError):
        raise answer
    return answer


def _readable(text: str) -> str:
    """The text without characters that nobody can read.

    Raises:
        ToolError: there is no text, too much of it, or something else than text.
    """
    if len(text) > MAX_CHARACTERS:
        raise ToolError(
            f"the text has {len(text):,} characters, the translator takes {MAX_CHARACTERS:,}; "
            "translate it in parts"
        )
    bad = {char for char in set(text) - _PLAIN if unicodedata.category(char) in _UNPRINTABLE}
    if sum(map(text.count, bad)) * 10 > len(text):
        raise ToolError("this is not text: more than a tenth of it are characters without meaning")
    text = text.translate(dict.fromkeys(map(ord, bad), " "))
    if not text.strip():
        raise ToolError("there is no text to translate")
    return text
