"""MachineTranslator: a text in another language, in English or any language of NLLB-200.

The paper (arXiv 2502.05867) uses NLLB-200-distilled-600M with the tokenizer's default source
language, which is English: ``source="eng_Latn"`` does that. By default the language is found out.
The ``phrasebook`` back end serves the bundled sample without a download.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from toolgym._util.jsonl import file_hash, value_hash
from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, ToolError, did_you_mean
from toolgym.registry import CORPORA
from toolgym.tools.base import Tool
from toolgym.tools.translator.languages import english_name, find_language
from toolgym.tools.translator.phrasebook import PhraseBook

if TYPE_CHECKING:
    from toolgym.tools.translator.nllb import Job, NllbTranslator

__all__ = ["make_translator"]

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
        from toolgym.tools.translator.detection import detect_language

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
