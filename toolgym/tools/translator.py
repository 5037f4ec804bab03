"""MachineTranslator: a text in another language, in English.

The paper (arXiv 2502.05867) uses NLLB-200-distilled-600M with the tokenizer's default source
language, which is English. The ``nllb`` back end does that unless ``source`` names the language.
The ``phrasebook`` back end serves the bundled sample without a download.
"""

from __future__ import annotations

from typing import Any

from toolgym._jsonl import file_hash, value_hash
from toolgym.errors import BadInputError, ToolError, near
from toolgym.registry import CORPORA
from toolgym.tools.phrasebook import PhraseBook
from toolgym.toolset import Tool

__all__ = ["make_translator"]

NAME = "MachineTranslator"
ENGLISH = "eng_Latn"
BACKENDS = ("phrasebook", "nllb")
_EMPTY = "there is no text to translate"


def make_translator(
    backend: str = "phrasebook",
    source: str | None = None,
    target: str = ENGLISH,
    model: str = "facebook/nllb-200-distilled-600M",
) -> Tool:
    """The ``MachineTranslator`` tool.

    Args:
        backend: ``phrasebook`` (only the phrases of the bundled sample) or ``nllb`` (a model; extra
            ``translate``).
        source: language code of the texts, such as ``fra_Latn``. Default: the phrase book finds it
            out; the model takes ``eng_Latn``, as in the paper, so name it for better translations.
        target: language code of the translations; the phrase book knows ``eng_Latn`` only.
        model: hub id or folder of the ``nllb`` back end.

    Raises:
        BadInputError: an unknown back end or language.
        UnknownNameError: ``source`` is no language of the phrase book.
        MissingExtraError: the packages of the ``nllb`` back end are not installed.
        MissingFileError: its model cannot be found.
    """
    if backend == "phrasebook":
        return _phrasebook_tool(source, target)
    if backend == "nllb":
        return _nllb_tool(model, source or ENGLISH, target)
    raise BadInputError(
        f"unknown translator back end {backend!r}{near(str(backend), BACKENDS)}; "
        f"known: {', '.join(BACKENDS)}"
    )


def _phrasebook_tool(source: str | None, target: str) -> Tool:
    path = CORPORA.get("phrasebook").path()
    book = PhraseBook(path)
    if target != ENGLISH:
        raise BadInputError(
            f"the phrase book translates into {ENGLISH!r} only, not {target!r}; "
            "use backend='nllb' for other languages"
        )
    if source is not None:
        book.check_language(source)

    def translate(text: str) -> str:
        """Translate a phrase into English with a small phrase book.

        It holds only common phrases and the questions of the bundled sample, in a few languages.

        Args:
            text: the phrase or question in its own language.
        """
        found = book.translate(_some(text), source)
        if found is not None:
            return found
        shown = text if len(text) <= 100 else text[:97] + "..."
        raise ToolError(
            f"no translation for {shown!r}: this translator is a small phrase book of {len(book)} "
            f"phrases that covers the bundled sample ({', '.join(book.languages)}); an environment "
            "made with backend 'nllb' translates any text"
        )

    return Tool(translate, name=NAME, inline=True, fingerprint=file_hash(path))


def _nllb_tool(model: str, source: str, target: str) -> Tool:
    from toolgym.tools.nllb import load_nllb  # its packages are an extra

    translator = load_nllb(model)
    translator.language_id(source)
    translator.language_id(target)

    def translate(text: str) -> str:
        """Translate a text into English.

        Args:
            text: the text in its own language.
        """
        return translator.translate([_some(text)], source, target)[0]

    def translate_all(calls: list[dict[str, Any]]) -> list[str | ToolError]:
        texts = [call["text"] for call in calls]
        wanted = list(dict.fromkeys(text for text in texts if text.strip()))
        translated = translator.translate(wanted, source, target)
        found = dict(zip(wanted, translated, strict=True))
        return [found.get(text) or ToolError(_EMPTY) for text in texts]

    if target != ENGLISH:
        translate.__doc__ = str(translate.__doc__).replace("English", f"the language {target}")
    fingerprint = value_hash([model, translator.revision, source, target])
    return Tool(translate, name=NAME, inline=True, batch=translate_all, fingerprint=fingerprint)


def _some(text: str) -> str:
    if not text.strip():
        raise ToolError(_EMPTY)
    return text
