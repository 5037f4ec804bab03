"""Languages by name, found out from text, and a text as sentences with what stands between them."""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, did_you_mean

__all__ = [
    *("ALIASES", "SCRIPTS", "Layout", "detect_language", "english_name", "find_language"),
    *("language_codes", "lay_out", "script_of", "short_code", "space_between"),
]

ALIASES = {
    # ISO 639-3 macrolanguages, and individual languages that NLLB files under another code.
    "ara": "arb_Arab", "aym": "ayr_Latn", "aze": "azj_Latn", "cmn": "zho_Hans", "din": "dik_Latn",
    "ekk": "est_Latn", "fas": "pes_Arab", "fil": "tgl_Latn", "ful": "fuv_Latn", "gug": "grn_Latn",
    "kau": "knc_Latn", "ktu": "kon_Latn", "kur": "kmr_Latn", "lav": "lvs_Latn", "mlg": "plt_Latn",
    "mon": "khk_Cyrl", "msa": "zsm_Latn", "nep": "npi_Deva", "nor": "nob_Latn", "ori": "ory_Orya",
    "orm": "gaz_Latn", "pus": "pbt_Arab", "que": "quy_Latn", "sqi": "als_Latn", "swa": "swh_Latn",
    "uzb": "uzn_Latn", "yid": "ydd_Hebr",
    # ISO 639-1 and BCP 47 beside those of the table, and withdrawn codes still met.
    "nb": "nob_Latn", "in": "ind_Latn", "iw": "heb_Hebr", "ji": "ydd_Hebr",
    # ISO 639-2/B, where it differs from 639-3.
    "alb": "als_Latn", "arm": "hye_Armn", "baq": "eus_Latn", "bur": "mya_Mymr", "chi": "zho_Hans",
    "cze": "ces_Latn", "dut": "nld_Latn", "fre": "fra_Latn", "geo": "kat_Geor", "ger": "deu_Latn",
    "gre": "ell_Grek", "ice": "isl_Latn", "mac": "mkd_Cyrl", "mao": "mri_Latn", "may": "zsm_Latn",
    "per": "pes_Arab", "rum": "ron_Latn", "slo": "slk_Latn", "tib": "bod_Tibt", "wel": "cym_Latn",
    # Regions that say the script.
    "zh-TW": "zho_Hant", "zh-HK": "zho_Hant", "zh-MO": "zho_Hant",
    # FLORES-200's own code of a language that the model's vocabulary files under another.
    "sat_Olck": "sat_Beng",
}  # fmt: skip

SCRIPTS = {
    "Arab": "Arabic", "Beng": "Bengali", "Cyrl": "Cyrillic", "Deva": "Devanagari", "Latn": "Latin",
    "Hans": "Simplified", "Hant": "Traditional", "Tfng": "Tifinagh",
}  # fmt: skip


_FORMS = "a FLORES-200 code ('fra_Latn'), an ISO 639 code ('fr', 'fra') or a name ('French')"
_WORDS = re.compile(r"[^\W_']+(?:'[^\W_']+)*")
_NOISE = frozenset(["script", "language"])
_TAG = re.compile(
    r"([A-Za-z]{2,3})[-_]([A-Za-z]{4}|[A-Za-z]{2}|[0-9]{3})(?:[-_]([A-Za-z]{2}|[0-9]{3}))?"
)


@functools.cache
def _rows() -> dict[str, tuple[str, list[str]]]:
    """FLORES-200 code to ISO 639-1 code (or nothing) and English names."""
    table = resources.files(__package__).joinpath("languages.txt").read_text("utf-8")
    rows = (line.split(" ", 2) for line in table.splitlines())
    return {code: (two.strip("-"), names.split(", ")) for code, two, names in rows}


@functools.cache
def _index() -> dict[str, str]:
    """Every known way to write a language, folded, to its code."""
    index: dict[str, str] = {}
    for code, (two, names) in _rows().items():
        script = SCRIPTS.get(code[4:])
        index[code.casefold()] = code
        for short in (two, code[:3]):
            if short:
                index.setdefault(short, code)
        for name in names:
            index.setdefault(_fold(name), code)
            if script:
                index.setdefault(_fold(f"{name} {script}"), code)
    for alias, code in ALIASES.items():
        index.setdefault(alias.casefold(), code)
    return index


def _fold(name: str) -> str:
    """A name's words, without case, accents, order and the words that say nothing."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    bare = "".join(char for char in plain if not unicodedata.combining(char))
    return " ".join(sorted(word for word in _WORDS.findall(bare) if word not in _NOISE))


def language_codes() -> list[str]:
    """The FLORES-200 codes of all languages of NLLB-200, sorted."""
    return sorted(_rows())


def find_language(name: str, more: Collection[str] = ()) -> str:
    """The FLORES-200 code of a language.

    A name that means several is decided: Chinese is ``zho_Hans``, Arabic ``arb_Arab``, Serbian
    ``srp_Cyrl``, Norwegian ``nob_Latn``, Kurdish ``kmr_Latn``, Persian ``pes_Arab``, Malay
    ``zsm_Latn``; of languages in several scripts the one that most is written in.

    Args:
        name: ``fra_Latn``, ``fr``, ``fra``, ``fre``, ``fr-CA``, ``French``; case does not matter.
        more: further codes that count, such as those that were added to a model.

    Raises:
        BadInputError: no language of NLLB-200 is called so.
    """
    if name in more:
        return name
    index, wanted = _index(), str(name).strip()
    found = index.get(wanted.casefold()) or index.get(_fold(wanted)) or _by_tag(wanted)
    if found:
        return found
    known = [*_rows(), *(name for _, names in _rows().values() for name in names)]
    shown = wanted if len(wanted) <= 60 else wanted[:57] + "..."
    raise BadInputError(
        f"unknown language {shown!r}{did_you_mean(shown, known)}; name it by {_FORMS}"
    )


def _by_tag(tag: str) -> str | None:
    """A language of a tag such as ``zh-Hant``, ``sr_Cyrl_RS`` or ``pt-BR``; the region is idle."""
    parts = _TAG.fullmatch(tag)
    if parts is None:
        return None
    language, second, region = parts[1].lower(), parts[2], parts[3]
    code = _index().get(language)
    if code is None or len(second) == 4:  # a script: only the very one will do
        wanted = f"{code[:3] if code else language}_{second.title()}"
        return wanted if wanted in _rows() else None
    return _index().get(f"{language}-{(region or second).casefold()}", code)


def english_name(code: str) -> str:
    """A language's name for people, such as ``French`` or ``Acehnese (Arabic script)``.

    Args:
        code: of FLORES-200; one that NLLB-200 does not know is its own name.
    """
    if code not in _rows():
        return code
    name, script = _rows()[code][1][0], code[4:]
    if script in ("Hans", "Hant") and name == "Chinese":
        return f"{name} ({SCRIPTS[script]})"
    several = sum(other.startswith(code[:4]) for other in _rows()) > 1
    return f"{name} ({SCRIPTS[script]} script)" if several and script in SCRIPTS else name


def short_code(code: str) -> str:
    """The ISO 639-1 code of a FLORES-200 code, or its ISO 639-3 code where there is none."""
    return _rows().get(code, ("", []))[0] or code[:3]


def script_of(code: str) -> str:
    """The ISO 15924 code of the script, such as ``Latn``."""
    return code[4:]


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
