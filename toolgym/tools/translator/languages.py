"""Languages by what people call them: FLORES-200 and ISO 639 codes, BCP 47 tags, English names."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Collection

from toolgym.errors import BadInputError, near
from toolgym.tools.translator.language_table import ALIASES, SCRIPTS, TABLE

__all__ = ["english_name", "find_language", "language_codes", "script_of", "short_code"]

_FORMS = "a FLORES-200 code ('fra_Latn'), an ISO 639 code ('fr', 'fra') or a name ('French')"
_WORDS = re.compile(r"[^\W_']+(?:'[^\W_']+)*")
_NOISE = frozenset(["script", "language"])
_TAG = re.compile(
    r"([A-Za-z]{2,3})[-_]([A-Za-z]{4}|[A-Za-z]{2}|[0-9]{3})(?:[-_]([A-Za-z]{2}|[0-9]{3}))?"
)


@functools.cache
def _rows() -> dict[str, tuple[str, list[str]]]:
    """FLORES-200 code to ISO 639-1 code (or nothing) and English names."""
    rows = (line.split(" ", 2) for line in TABLE.strip().splitlines())
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
    raise BadInputError(f"unknown language {shown!r}{near(shown, known)}; name it by {_FORMS}")


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
