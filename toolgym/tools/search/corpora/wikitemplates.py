"""What a reader sees of a template, for those that carry words of a sentence.

Most templates are boxes, notes and maintenance, and go without a trace. Some stand inside a
sentence, which would be torn without them: "a river of {{convert|5|km}}". These are rendered from
their arguments alone, roughly as English Wikipedia shows them; others share most names.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from toolgym._util.text import MONTHS

__all__ = ["render_template"]

Arguments = dict[str, str]
"""Named arguments, and positional ones under ``"1"``, ``"2"``, ..."""

_SIGNS = {
    "snd": " – ", "spnd": " – ", "spaced ndash": " – ", "spaced en dash": " – ", "ndash": "–",
    "en dash": "–", "mdash": "—", "em dash": "—", "emdash": "—", "spaced mdash": " — ",
    "dash": " – ", "'": "'", "`": "'", "'s": "'s", "=": "=", "!": "|", "nbsp": " ", "space": " ",
    "sp": " ", "thinsp": " ", "zwsp": "", "break": "\n", "crlf": "\n", "paragraph break": "\n",
    "pb": "\n", "·": " · ", "dot": " · ", "•": " • ", "bullet": " • ", "*": " • ", "okina": "ʻ",
    "hamza": "ʾ", "ayin": "ʿ", "sharp": "♯", "flat": "♭", "number sign": "#", "pi": "π",
    "pipe": "|", "degree": "°",
}  # fmt: skip
_NAMES = {
    "first": """
        nowrap nobr nobreak nowraplinks small smaller big bigger large larger em strong bold italic
        mvar math tmath var code mono kbd samp tt key nobold noitalic noitalics normal underline u
        abbr tooltip hover sic linktext visible-anchor vanchor center centre smallcaps sc c2 chem2
        ipa ipa-all ill interlanguage-link illm quote blockquote bquote cquote quotation keypress
        plainlist flatlist indent block-indent nts number pronunciation title noblackword unicode
        script red-link flag flagcountry flagu color-text script/hebrew script/arabic rtl-para
        not-a-typo as-written proper-name typo bdi phonetic text iast nastaliq hiero ruby
        circa-date asiantitle tq talk-quote-inline birth-based-on-age-as-of-date rating-text
    """,
    "second": "lang langx wikt-lang color font-color resize script sort sorttext hs",
    "transliterated": "transl transliteration translit",
    "date": """
        birth-date birth-date-and-age bda b-da birth-date-based birth-year birth-year-and-age dob
        start-date start-date-and-age start-year end-date end-date-and-age release-date film-date
        dts date date-table-sorting death-date death-year isodate
    """,
    "ship": "uss hms hmas hmcs ss rms mv ms usns ins usat usrc uscgc sms hmnzs hnlms",
    "list": "unbulleted-list ubl ulist bulleted-list blist hlist ordered-list olist flat-list",
}
_MONEY = {
    **{"usd": "US$", "us$": "US$", "us-dollar": "US$", "usdollar": "US$", "aud": "A$", "a$": "A$"},
    **{"au$": "A$", "cad": "C$", "c$": "C$", "ca$": "C$", "nzd": "NZ$", "nz$": "NZ$", "hkd": "HK$"},
    **{"hk$": "HK$", "sgd": "S$", "s$": "S$", "twd": "NT$", "nt$": "NT$", "mxn": "Mex$"},
    **{"brl": "R$", "r$": "R$", "gbp": "£", "£": "£", "pound-sterling": "£", "eur": "€"},
    **{"€": "€", "euro": "€", "inr": "₹", "₹": "₹", "inrconvert": "₹", "indian-rupee": "₹"},
    **{"jpy": "¥", "¥": "¥", "yen": "¥", "cny": "CN¥", "cn¥": "CN¥", "rmb": "CN¥", "krw": "₩"},
    **{"₩": "₩", "rub": "₽", "₽": "₽", "php": "₱", "₱": "₱", "thb": "฿", "ils": "₪", "try": "₺"},
    **{"ngn": "₦", "naira": "₦", "uah": "₴", "vnd": "₫", "bdt": "৳", "pkr": "Rs ", "lkr": "Rs "},
    **{"zar": "R", "chf": "CHF ", "sek": "SEK ", "nok": "NOK ", "dkk": "DKK ", "pln": "PLN "},
}
_UNITS = {
    **{"C": "°C", "F": "°F", "R": "°R", "km2": "km²", "m2": "m²", "cm2": "cm²", "mm2": "mm²"},
    **{"km3": "km³", "m3": "m³", "cm3": "cm³", "sqmi": "sq mi", "sqft": "sq ft", "sqin": "sq in"},
    **{"cuft": "cu ft", "cuin": "cu in", "kph": "km/h", "deg": "°", "degree": "°", "um": "μm"},
    **{"m/s2": "m/s²", "/km2": "per km²", "/sqmi": "per sq mi"},
}
_PARTS = {("ft", "in"), ("st", "lb"), ("lb", "oz"), ("mi", "yd"), ("yd", "ft"), ("yd", "in")}
_PARTS |= {("mi", "chain"), ("ton", "lb"), ("long ton", "cwt"), ("stone", "lb")}
_FORMULA = re.compile(r"(?=.*\d)(?:[A-Z][a-z]?\d*|\(|\)\d*){2,}[+-]?")
_CURRENCY = re.compile(r"[A-Z]{3}")
_NUMBER = re.compile(
    r"[-−+]?[\d.,]*\d[\d.,]*(?:\s(?:million|billion|trillion|thousand|crore|lakh))?"
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
    if render is not None:
        return render(_arguments(parts))
    return _by_its_name(content.split("|", 1)[0].strip(), _arguments(parts))


def _by_its_name(name: str, given: Arguments) -> str | None:
    """Templates that are many and made alike: formulas, and money of any country."""
    if not given and _FORMULA.fullmatch(name):
        return name
    amount = given.get("1", "")
    money = _CURRENCY.fullmatch(name) and _NUMBER.fullmatch(amount)
    return f"{name} {amount}" if money else None


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
            words.append(_UNITS.get(word, word))
            number, part = given.get(str(place + 1), ""), given.get(str(place + 2), "")
            if (word, part) in _PARTS and _NUMBER.fullmatch(number):
                words += [number, part]
            break
        words.append({"-": "–", "x": "×", "xx": "×", "by": "×"}.get(word, word))
    return " ".join(words).replace(" – ", "–")


def _date(given: Arguments, places: str = "123") -> str:
    """``1950|3|4`` as "March 4, 1950", or "4 March 1950" where ``df`` asks for it."""
    year, month, day = (given.get(place, "") for place in places)
    if not year.lstrip("-").isdecimal():
        return year  # a date in words
    if not (month.isdecimal() and 1 <= int(month) <= 12):
        return " ".join(word for word in (day, month, year) if word and not word.isspace())
    name, number = MONTHS[int(month) - 1], day.lstrip("0") if day.isdecimal() else ""
    if not number:
        return f"{name} {year}"
    wants_day_first = given.get("df", "").casefold() in ("y", "yes", "true", "1")
    return f"{number} {name} {year}" if wants_day_first else f"{name} {number}, {year}"


def _years_between(given: Arguments, begin: str = "123", end: str = "456") -> str:
    """Whole years; nothing where the end is today, which nobody knows here."""
    first, last = ([given.get(place, "") for place in places] for places in (begin, end))
    if not (first[0].isdecimal() and last[0].isdecimal()):
        return ""
    later = [int(part) if part.isdecimal() else 0 for part in last]
    born = [int(part) if part.isdecimal() else 0 for part in first]
    return str(later[0] - born[0] - (later[1:] < born[1:]))


def _death(given: Arguments) -> str:
    age = _years_between(given, "456", "123")
    return f"{_date(given)} (aged {age})" if age else _date(given)


def _old_style(given: Arguments) -> str:
    """New style, with the old one in brackets: "6 June [O.S. 26 May] 1799"."""
    day, year, old = (given.get(place, "") for place in "123")
    return " ".join(filter(None, (day, f"[O.S. {old}]" if old else "", year)))


def _height(given: Arguments) -> str:
    units = ("m", "cm", "ft", "in")
    return " ".join(f"{given[unit]} {unit}" for unit in units if given.get(unit))


def _amount(sign: str) -> Callable[[Arguments], str]:
    return lambda given: f"{sign}{given['1']}" if given.get("1") else sign.strip()


def _ordinal(given: Arguments) -> str:
    number = given.get("1", "")
    if not number.isdecimal():
        return number
    teens = int(number) % 100 in (11, 12, 13)
    return number + ("th" if teens else {"1": "st", "2": "nd", "3": "rd"}.get(number[-1], "th"))


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
        month = MONTHS[int(month) - 1]
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
    **dict.fromkeys(("chem", "su", "respell", "h2"), _joined("")),
    "e": lambda given: f"×10^{_first(given)}",
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
    **{name: _amount(sign) for name, sign in _MONEY.items()},
    **dict.fromkeys(_NAMES["date"].split(), _date),
    **dict.fromkeys(("death-date-and-age", "dda", "d-da", "death-year-and-age"), _death),
    **dict.fromkeys(("age", "age-in-years", "ageyears", "years-between"), _years_between),
    **dict.fromkeys(("oldstyledate", "oldstyledatedy", "old-style-date"), _old_style),
    **dict.fromkeys(("unité", "unit", "unite", "units", "nombre"), _joined(" ")),
    **dict.fromkeys(("gaps", "sortname", "sort-name", "ft-in"), _joined(" ")),
    **dict.fromkeys(("deg", "degrees"), lambda given: f"{given.get('1', '')}°"),
    **dict.fromkeys(("percent", "pct", "%"), lambda given: f"{given.get('1', '')}%"),
    **dict.fromkeys(("bc", "bce"), lambda given: f"{given.get('1', '')} BC".strip()),
    **dict.fromkeys(("ad", "ce"), lambda given: f"AD {given.get('1', '')}".strip()),
    **dict.fromkeys(("ordinal", "ord", "nth"), _ordinal),
    **dict.fromkeys(("height", "taille"), _height),
    **dict.fromkeys(("rating", "ratio", "score"), _joined("/")),
    "angbr": lambda given: f"⟨{_first(given)}⟩",
    "angle-bracket": lambda given: f"⟨{_first(given)}⟩",
}
