"""Which language a text is written in: its script, then letter sequences within the script."""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter
from collections.abc import Collection
from typing import Any

from toolgym._util.optional import require_extra
from toolgym.tools.translator.languages import find_language, language_codes, script_of

__all__ = ["detect_language"]

SAMPLE = 2_000  # characters that decide
# Names and terms in Latin letters stand in texts of every script, the reverse is rare: so the other
# script is the text's own unless there are more Latin letters than this for each of its letters.
LATIN_SHARE = 4
_WEIGHTS = {"Hani": 3, "Jpan": 3, "Hang": 3}  # a character says as much as so many letters
# First words of Unicode's character names, and the scripts they mean. Santali is written in
# Ol Chiki, though the model files it under Bengali script.
_SCRIPTS = {
    "ARABIC": "Arab", "ARMENIAN": "Armn", "BENGALI": "Beng", "CJK": "Hani", "CYRILLIC": "Cyrl",
    "DEVANAGARI": "Deva", "ETHIOPIC": "Ethi", "GEORGIAN": "Geor", "GREEK": "Grek",
    "GUJARATI": "Gujr", "GURMUKHI": "Guru", "HANGUL": "Hang", "HEBREW": "Hebr", "HIRAGANA": "Jpan",
    "KANNADA": "Knda", "KATAKANA": "Jpan", "KHMER": "Khmr", "LAO": "Laoo", "LATIN": "Latn",
    "MALAYALAM": "Mlym", "MYANMAR": "Mymr", "OL": "Olck", "ORIYA": "Orya", "SINHALA": "Sinh",
    "TAMIL": "Taml", "TELUGU": "Telu", "THAI": "Thai", "TIBETAN": "Tibt", "TIFINAGH": "Tfng",
}  # fmt: skip
# Where the identifier knows only some languages of a script, the largest stands for the rest.
_LARGEST = {"Ethi": "amh_Ethi", "Hebr": "heb_Hebr", "Tfng": "tzm_Tfng", "Tibt": "bod_Tibt"}
# What one label means in a script that is not its language's usual one.
_ELSEWHERE = {("ku", "Arab"): "ckb_Arab", ("az", "Arab"): "azb_Arab", ("hbo", "Hebr"): "heb_Hebr"}
_CANTONESE = frozenset("嘅咗喺冇佢啲嗰嘢唔嚟噉咁哋")


def detect_language(text: str, codes: Collection[str] | None = None) -> str | None:
    """The language that most of a text is written in.

    A single word is a guess among the languages of its script; of a text in two languages the
    larger part decides. Arabic, Chinese and Norwegian are told apart only roughly from their
    nearest relatives.

    Args:
        text: its first 2 000 characters decide.
        codes: FLORES-200 codes to choose from; default: those of NLLB-200.

    Returns:
        A code, or None: there are no letters, or only of a script that none of them has.

    Raises:
        MissingExtraError: py3langid is not installed.
    """
    text = text[:SAMPLE]
    known = frozenset(language_codes() if codes is None else codes)
    scripts = Counter(script for char in text if (script := _script(char)))
    if not scripts:
        return None
    others = sum(n * _WEIGHTS.get(name, 1) for name, n in scripts.items() if name != "Latn")
    if 0 < scripts["Latn"] < LATIN_SHARE * others:
        del scripts["Latn"]
    script = scripts.most_common(1)[0][0]
    if script in ("Hani", "Jpan"):
        return _east_asian(text, scripts, known)
    if script == "Olck":
        return "sat_Beng" if "sat_Beng" in known else None
    possible = [code for code in known if script_of(code) == script]
    if len(possible) < 2:
        return possible[0] if possible else None
    return _by_letters(text, script, known)


@functools.lru_cache(maxsize=8192)
def _script(char: str) -> str | None:
    if not char.isalpha():
        return None
    return _SCRIPTS.get(unicodedata.name(char, "").split(" ")[0])


def _east_asian(text: str, scripts: Counter[str], known: Collection[str]) -> str | None:
    # Japanese prose has a kana in every few characters; Chinese has one only in quoted names.
    if scripts["Jpan"] * 12 >= scripts["Hani"]:
        return "jpn_Jpan" if "jpn_Jpan" in known else None
    if sum(char in _CANTONESE for char in text) * 20 >= scripts["Hani"]:
        wanted = ["yue_Hant", "zho_Hant", "zho_Hans"]
    else:
        simplified = sum(_only_in(char, "gb2312", "big5") for char in text)
        traditional = sum(_only_in(char, "big5", "gb2312") for char in text)
        wanted = ["zho_Hans", "zho_Hant"]
        if traditional > simplified:
            wanted.reverse()
    return next((code for code in wanted if code in known), None)


def _only_in(char: str, here: str, not_there: str) -> bool:
    """Whether one national character set has a character that the other lacks."""
    return char > "\u3fff" and _has(char, here) and not _has(char, not_there)


def _has(char: str, charset: str) -> bool:
    try:
        return bool(char.encode(charset))
    except UnicodeEncodeError:
        return False


def _by_letters(text: str, script: str, known: Collection[str]) -> str | None:
    for label, _ in _identifier().rank(text):
        code = _ELSEWHERE.get((label, script)) or _codes_of_labels().get(label)
        if code is not None and code in known and script_of(code) == script:
            return code
    largest = _LARGEST.get(script)
    return largest if largest in known else None


@functools.cache
def _identifier() -> Any:
    """Loaded once per process; ranking reads it only, so threads may share it."""
    langid = require_extra("py3langid.langid", "translate")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)


@functools.cache
def _codes_of_labels() -> dict[str, str]:
    """Labels of the identifier that are languages of NLLB-200, with their codes."""
    codes: dict[str, str] = {}
    for label in _identifier().labels:
        try:
            codes[label] = find_language(label)
        except ValueError:  # Breton, Latin and others that the model does not translate
            continue
    return codes
