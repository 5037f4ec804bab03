"""What a reader sees of a template, for those that carry words of a sentence.

Most templates are boxes, notes and maintenance, and go without a trace. Some stand inside a
sentence, which would be torn without them: "a river of {{convert|5|km}}". These are rendered from
their arguments alone, roughly as English Wikipedia shows them; others share most names.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["render_template"]

Arguments = dict[str, str]
"""Named arguments, and positional ones under ``"1"``, ``"2"``, ..."""

_SIGNS = {
    "snd": " – ",
    "spnd": " – ",
    "spaced ndash": " – ",
    "spaced en dash": " – ",
    "ndash": "–",
    "en dash": "–",
    "mdash": "—",
    "em dash": "—",
    "emdash": "—",
    "spaced mdash": " — ",
    "dash": " – ",
    "'": "'",
    "`": "'",
    "'s": "'s",
    "=": "=",
    "!": "|",
    "nbsp": " ",
    "space": " ",
    "sp": " ",
    "thinsp": " ",
    "zwsp": "",
    "break": "\n",
    "crlf": "\n",
    "paragraph break": "\n",
    "pb": "\n",
    "·": " · ",
    "dot": " · ",
    "•": " • ",
    "bullet": " • ",
    "*": " • ",
    "okina": "ʻ",
    "hamza": "ʾ",
    "ayin": "ʿ",
    "sharp": "♯",
    "flat": "♭",
    "number sign": "#",
    "pi": "π",
    "pipe": "|",
    "degree": "°",
}
_NAMES = {
    "first": """
        nowrap nobr nobreak nowraplinks small smaller big bigger large larger em strong bold italic
        mvar math tmath var code mono kbd samp tt key nobold noitalic noitalics normal underline u
        abbr tooltip hover sic linktext visible-anchor vanchor center centre smallcaps sc c2 chem2
        ipa ipa-all ill interlanguage-link illm quote blockquote bquote cquote quotation keypress
        plainlist flatlist indent block-indent nts number pronunciation title noblackword unicode
        script red-link flag flagcountry flagu color-text script/hebrew script/arabic rtl-para
        not-a-typo as-written proper-name typo bdi phonetic text
    """,
    "second": "lang langx wikt-lang color font-color resize",
    "transliterated": "transl transliteration translit",
    "ship": "uss hms hmas hmcs ss rms mv ms usns ins usat usrc uscgc sms hmnzs hnlms",
    "list": "unbulleted-list ubl ulist bulleted-list blist hlist ordered-list olist flat-list",
}
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August"),
    *("September", "October", "November", "December"),
)
_WORD = re.compile(r"[to–-]|to|by|and|or|x|xx|\+/-|±|and\(-\)|to\(-\)")
_TEXT_NAMES = ("text", "quote", "content", "1")


def render_template(content: str) -> str | None:
    """What stands between the braces, as text.

    Args:
        content: with inner markup already rendered.

    Returns:
        The words of the template; None when nothing of it belongs to a sentence.
    """
    name, *parts = content.split("|")
    name = " ".join(name.replace("_", " ").split()).casefold()
    if name in _SIGNS:
        return _SIGNS[name]
    head, colon, _ = name.partition(":")
    if colon and head in ("lc", "uc", "lcfirst", "ucfirst", "formatnum"):
        return content.split("|", 1)[0].partition(":")[2].strip()
    render = _RENDER.get(name.replace(" ", "-"))
    if render is None and name.startswith("lang-"):
        render = _first
    return render(_arguments(parts)) if render is not None else None


def _arguments(parts: list[str]) -> Arguments:
    read: Arguments = {}
    place = 0
    for part in parts:
        name, equals, value = part.partition("=")
        if equals and re.fullmatch(r"\s*[\w -]{1,40}\s*", name):
            read[name.strip().casefold()] = value.strip()
        else:
            place += 1
            read[str(place)] = part.strip()
    return read


def _first(given: Arguments) -> str:
    return next((given[name] for name in _TEXT_NAMES if given.get(name)), "")


def _longest(given: Arguments) -> str:
    """The contents of columns, whose number or width may stand before them."""
    return max((value for name, value in given.items() if name.isdigit()), key=len, default="")


def _second(given: Arguments) -> str:
    return given.get("text") or given.get("2") or given.get("1", "")


def _transliterated(given: Arguments) -> str:
    return given.get("3") or _second(given)


def _converted(given: Arguments) -> str:
    """``5|km|mi`` as "5 km", ``5|to|7|km`` as "5 to 7 km": only what was measured."""
    words: list[str] = []
    for place in range(1, 8):
        word = given.get(str(place), "")
        if not word:
            break
        if place % 2 == 0 and not _WORD.fullmatch(word):
            words.append(word)
            break
        words.append({"-": "–", "x": "×", "xx": "×", "by": "×"}.get(word, word))
    return " ".join(words).replace(" – ", "–")


def _value(given: Arguments) -> str:
    number = given.get("1", "")
    error = given.get("2", "")
    shown = f"{number} ± {error}" if error else number
    if "e" in given:
        shown += f" × 10^{given['e']}"
    unit = given.get("u") or given.get("ul") or ""
    return f"{shown} {unit}".strip()


def _fraction(given: Arguments) -> str:
    parts = [given[str(place)] for place in (1, 2, 3) if given.get(str(place))]
    if len(parts) == 3:
        return f"{parts[0]} {parts[1]}/{parts[2]}"
    return "/".join(parts) if len(parts) == 2 else f"1/{parts[0]}" if parts else ""


def _nihongo(given: Arguments) -> str:
    """English, then in parentheses Japanese and its transcription."""
    others = [given[place] for place in ("2", "3") if given.get(place)]
    english = given.get("1", "")
    if not english:
        return ", ".join(others)
    return f"{english} ({', '.join(others)})" if others else english


def _as_of(given: Arguments) -> str:
    year, month, day = (given.get(place, "") for place in "123")
    if month.isdecimal() and 1 <= int(month) <= 12:
        month = _MONTHS[int(month) - 1]
    date = " ".join(word for word in (day, month, year) if word)
    begin = "as of" if given.get("lc") else "As of"
    return given.get("alt") or (f"{begin} {date}" if date else "")


def _ship(prefix: str) -> Callable[[Arguments], str]:
    return lambda given: f"{prefix} {given.get('1', '')}".strip()


def _joined(between: str) -> Callable[[Arguments], str]:
    return lambda given: between.join(
        value for name, value in given.items() if name.isdigit() and value
    )


_RENDER: dict[str, Callable[[Arguments], str]] = {
    **dict.fromkeys(_NAMES["first"].split(), _first),
    **dict.fromkeys(_NAMES["second"].split(), _second),
    **dict.fromkeys(_NAMES["transliterated"].split(), _transliterated),
    **dict.fromkeys(_NAMES["list"].split(), _joined(", ")),
    **{name: _ship(name.upper()) for name in _NAMES["ship"].split()},
    **dict.fromkeys(("convert", "cvt", "conv"), _converted),
    **dict.fromkeys(("frac", "sfrac", "fraction"), _fraction),
    **dict.fromkeys(("nihongo", "nihongo3", "nihongo-foot"), _nihongo),
    **dict.fromkeys(("chem", "su", "respell", "h2", "e"), _joined("")),
    **dict.fromkeys(("c.", "ca", "ca.", "circa"), lambda given: f"c. {given.get('1', '')}".strip()),
    **dict.fromkeys(("fl.", "fl", "floruit"), lambda given: f"fl. {given.get('1', '')}".strip()),
    **dict.fromkeys(("r.", "reign"), lambda given: "r. " + _joined("–")(given)),
    **dict.fromkeys(("as-of", "asof"), _as_of),
    **dict.fromkeys(("columns-list", "cols"), _longest),
    "val": _value,
    "sup": lambda given: f"^{_first(given)}" if _first(given) else "",
    "sub": _first,
    "ship": lambda given: " ".join(given[p] for p in "12" if given.get(p)),
    "sclass": lambda given: f"{given.get('1', '')}-class {given.get('2', '')}".strip(),
    "c": lambda given: f"c. {given['1']}" if given.get("1") else "",
    "us$": lambda given: f"US${given.get('1', '')}",
    "us-dollar": lambda given: f"US${given.get('1', '')}",
    "gbp": lambda given: f"£{given.get('1', '')}",
    "£": lambda given: f"£{given.get('1', '')}",
    "€": lambda given: f"€{given.get('1', '')}",
    "euro": lambda given: f"€{given.get('1', '')}",
    "angbr": lambda given: f"⟨{_first(given)}⟩",
    "angle-bracket": lambda given: f"⟨{_first(given)}⟩",
}
