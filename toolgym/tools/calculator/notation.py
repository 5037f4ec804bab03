"""What models write, brought to keyboard signs and cut into tokens: other digits, signs, LaTeX."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

from toolgym.errors import ToolError

__all__ = [
    "COUNTS", "MAX_CHARS", "MAX_DEPTH", "NUMBER_WORDS", "TOO_DEEP", "Commas", "Token",
    "closes_at_end", "plain", "refuse_dates", "tokens",
]  # fmt: skip

MAX_CHARS = 4_000
MAX_DEPTH = 60  # nested brackets, signs and powers; each costs a few Python frames
TOO_DEEP = f"the expression is nested deeper than {MAX_DEPTH} levels"

Token = tuple[str, str]
"""Kind (``number``, ``name``, ``sign`` or ``end``) and text."""
Commas = Literal["arguments", "digits", "unclear", "pair", "bounds"]
"""What a comma between digits parts in a call: arguments (``comb(5,200)``), thousands
(``sqrt(1,600)``), either (``max(1,200)``: refused), the two arguments that are needed
(``gcd(12,180)``), or, behind a variable, its bounds."""

_SIGNS = str.maketrans(
    {
        "×": "*", "✕": "*", "·": "*", "⋅": "*", "∙": "*", "∗": "*", "•": "*", "÷": "/", "∕": "/", "⁄": "/",
        "✖": "*", "⨯": "*", "➗": "/", "➕": "+", "➖": "-", "…": "...", "⋯": "...", "\ufe0f": "",
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "＋": "+", "（": "(", "）": ")",
        "：": ":", "∶": ":", "．": ".", "。": ".", "＾": "^", "［": "[", "］": "]", "‒": "-",
        "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'",
        "，": ",", "％": "%", "＝": "=", "＊": "*", "／": "/", "＜": "<", "＞": ">", "！": "!",
        "π": " pi ", "τ": " tau ", "√": " sqrt ", "∛": " cbrt ", "∞": " infinity ",
        "≤": "<=", "≥": ">=", "≠": " != ", "≈": "=", "→": "->", "∫": " int ", "’": "'",
        "⌊": " floor(", "⌋": ")", "⌈": " ceil(", "⌉": ")", "º": "°", "˚": "°",
        "٫": ".", "٬": ",", "،": ",", "٪": "%", "؟": "?", "\u202f": " ", "\u2009": " ",
        "\u200b": " ", "\u200e": "", "\u200f": "", "\ufeff": "", "\u00a0": " ",
        "α": " alpha ", "β": " beta ", "γ": " gamma_ ", "δ": " delta ", "θ": " theta ",
        "λ": " lambda ", "μ": " mu ", "σ": " sigma ", "φ": " phi ", "ω": " omega ",
    }
)  # fmt: skip
_BRACKETS = str.maketrans({"[": "(", "]": ")", "{": "(", "}": ")", "`": " "})
_LIST = re.compile(r"\b([A-Za-z]\w*)\s*\(\s*\[([^\[\]]*)\]\s*\)")  # sum([1, 2, 3])
_LISTED = re.compile(r"(?<![A-Za-z0-9])\[[^\[\]]*[0-9],[0-9]")
_THIN = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:[\u202f\u2009\u00a0][0-9]{3})+(?![0-9])")
_RANGE = re.compile(r"(?<![0-9.])([0-9]+)[–—]([0-9]+)(?![0-9.])")
_INDEXED_ROOT = re.compile(r"(?<![0-9)])([²³⁴-⁹])√\s*([0-9]+(?:\.[0-9]+)?|\([^()]*\))")
_RARE = re.compile(r"[\[\]{}`|'_]")
_CURRENCY = re.compile(r"\$(?=\s*[\d.])|[€£¥₹₩₽₺₪฿]")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_VULGAR = re.compile("(?:(?<![0-9.,])([0-9]+) ?)?([¼-¾⅐-⅞↉])")
_ANGLE = re.compile(
    r"\b((?:sin|cos|tan|cot|sec|csc)\w{0,4})\s*(?:\(\s*(-?[0-9.]+)\s*°\s*\)|(-?[0-9.]+)\s*°)"
)
_YEAR, _MONTH, _DAY = (
    r"(?:1[89]|20)[0-9][0-9]",
    r"(?:0?[1-9]|1[0-2])",
    r"(?:0?[1-9]|[12][0-9]|3[01])",
)
_DATE = re.compile(
    rf"(?<![0-9.])(?:{_YEAR}([-/]){_MONTH}\1{_DAY}|{_DAY}([-/]){_DAY}\2{_YEAR}|{_YEAR}-0[1-9]"
    rf"|(?:0[1-9]/{_DAY}|{_DAY}/0[1-9])/[0-9]{{2}})(?![0-9.])"
)

_COMMAND = re.compile(r"\\(?:([A-Za-z]+)|(.)|$)", re.DOTALL)
_COMMANDS = {
    **{"times": "*", "cdot": "*", "ast": "*", "div": "/", "le": "<=", "leq": "<=", "ge": ">="},
    **{"geq": ">=", "lt": "<", "gt": ">", "ne": " != ", "neq": " != ", "approx": "=", "circ": "°"},
    **{"infty": " infinity ", "to": "->", "rightarrow": "->", "bmod": " mod ", "lvert": "|"},
    **{"rvert": "|", "vert": "|", "lfloor": " floor(", "rfloor": ")", "lceil": " ceil("},
    **{"rceil": ")", "frac": " frac", "dfrac": " frac", "sqrt": " sqrt ", "pmod": " mod "},
    **{"mod": " mod ", "cdots": "...", "ldots": "...", "dots": "...", "degree": "°"},
    **dict.fromkeys(
        (
            *("left", "right", "big", "Big", "bigl", "bigr", "bigg", "Bigg", "boxed", "quad"),
            *("qquad", "displaystyle", "textstyle", "text", "mbox", "mathrm", "mathbf"),
            *("operatorname", "limits"),
        ),
        " ",
    ),
}
_ESCAPES = {"(": "(", ")": ")", "[": "(", "]": ")", "{": "(", "}": ")", "%": "%"}
_ROOT = re.compile(r"\\sqrt\s*\[([^\[\]]*)\]")
_SHORT_FRACTION = re.compile(r"\\([dtc]?frac|binom)\s*([0-9])\s*(?:([0-9])|(?=\{))")
_OVER = re.compile(r"\{([^{}]*)\\over(?![a-z])([^{}]*)\}")
_MIXED = re.compile(r"(?<![0-9.,])([0-9]+)\s?\\[dtc]?frac\s?\{([0-9]+)\}\s?\{([0-9]+)\}")
_GROUPED = re.compile(r"(?<=[0-9])(?:\\,|\{,\})(?=[0-9]{3})")
_TEXT = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf|operatorname)\s*\{([^{}]*)\}")

_TARGET = re.compile(r"\s*([^\W\d]\w*(?: +[^\W\d]\w*){0,6})? *=(?![=>])")
NUMBER_WORDS = (
    *("zero one two three four five six seven eight nine ten eleven twelve thirteen".split()),
    *("fourteen fifteen sixteen seventeen eighteen nineteen".split()),
)
_NO_TARGET = frozenset(  # in a name of several words; "twice five = 11" is a claim, no assignment
    (
        *NUMBER_WORDS,
        *("pi e tau half third quarter twice double triple squared cubed plus minus".split()),
        *("times divided multiplied sqrt ln log factorial choose dozen hundred thousand".split()),
        *("million percent mod over".split()),
    )
)
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}(?![0-9])|[0-9]+)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?
        |\.[0-9]+(?:[eE][+-]?[0-9]+)?)
      |(?P<times>(?<=[0-9)\s])[xX](?=\s*[0-9.(-]))
      |(?P<name>[A-Za-z_][A-Za-z_0-9]*)
      |(?P<sign>\*\*?|//?|->|[-+^%(),?]|[<>=]=?|(?<=\s)!=|!)
    )""",
    re.VERBOSE,
)
_WORDS = {
    "of": "of", "mod": "mod", "modulo": "mod", "percent": "%", "plus": "+", "minus": "-",
    "times": "*", "off": "off",
}  # fmt: skip
_MAGNITUDES = {
    "hundred": "e2", "thousand": "e3", "lakh": "e5", "million": "e6", "crore": "e7",
    "billion": "e9", "trillion": "e12", "quadrillion": "e15",
}  # fmt: skip
COUNTS = {"dozen": "12", "score": "20", "gross": "144"}
_BOUND = re.compile(r"(?:[0-9]/|\^\s*)[0-9][0-9.,]*\s*$")  # what a magnitude has two readings after
_PART = re.compile(r"([0-9]+)/([0-9]+)(?![0-9.,]|\s*[/^!(]|\*\*)")
_SHARE_AFTER = re.compile(r"\s*[-+]\s*[0-9.]+\s*%(?!\s*[\w.(])")
_SIGNED = re.compile(r"(\s*)([-+])(\s*)")


def plain(text: str) -> str:
    """Typographic and LaTeX signs as keyboard signs, currency signs and a target name dropped.

    Raises:
        ToolError: too long, or with more than one currency.
    """
    if len(text) > MAX_CHARS:
        raise ToolError(f"the expression is longer than {MAX_CHARS} characters")
    if not text.isascii():
        text = _keyboard(text)
    if "\\" in text:
        text = _without_latex(text)
    if "$" in text:
        text = text.replace("$", " ")
    if _RARE.search(text):
        text = _without_rare(text)
    if "°" in text:
        text = re.sub(r"\^\(°\)|\^°", "°", text)
        text = _ANGLE.sub(lambda found: f"{found[1]}(radians({found[2] or found[3]}))", text)
    refuse_dates(text)
    target = _TARGET.match(text) if "=" in text else None
    words = target[1].lower().split() if target and target[1] else []
    if target and (len(words) < 2 or _NO_TARGET.isdisjoint(words)):
        return text[target.end() :]
    return text


def refuse_dates(text: str) -> None:
    """Refuse what may be a date: ``2024-03-15`` is no difference.

    Raises:
        ToolError: it holds one.
    """
    if text.count("-") < 2 and text.count("/") < 2 and "-0" not in text:
        return
    date = _DATE.search(text)
    if date:
        raise ToolError(
            f"{date[0]!r} looks like a date, and dates are not calculated with; a difference or a "
            "quotient of such numbers needs spaces around its signs"
        )


def _keyboard(text: str) -> str:
    span = _RANGE.search(text)
    if span and int(span[1]) < int(span[2]):
        raise ToolError(f"{span[0]!r} is a range or a difference; put spaces around a minus sign")
    text = _THIN.sub(lambda found: "".join(filter(str.isdigit, found[0])), text)
    text = _INDEXED_ROOT.sub(lambda f: f" root({f[2]}, {unicodedata.digit(f[1])}) ", text)
    text = text.translate(_SIGNS)
    if text.isascii():
        return text
    currencies = dict.fromkeys(_CURRENCY.findall(text))
    if len(currencies) > 1:
        raise ToolError(
            f"the currencies {' and '.join(currencies)} are mixed; convert to one, then calculate"
        )
    if currencies and "$" not in currencies:
        text = _CURRENCY.sub(" ", text)
    text = _RAISED.sub(lambda found: f"^({found[0].translate(_SUPERSCRIPTS)}) ", text)
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
        text = _VULGAR.sub(_fraction, text)
    return text


def _fraction(found: re.Match[str]) -> str:
    """``1½`` is a mixed number, ``½`` a fraction."""
    top, _, bottom = unicodedata.normalize("NFKC", found[2]).partition("⁄")
    return f"({found[1] or 0}+{top}/{bottom})"


def _without_latex(text: str) -> str:
    if "\\," in text:
        text = _GROUPED.sub("", text)
    if "frac" in text or "binom" in text:
        text = _SHORT_FRACTION.sub(
            lambda f: f"\\{f[1]}{{{f[2]}}}" + (f"{{{f[3]}}}" * bool(f[3])), text
        )
        text = _MIXED.sub(_mixed, text)
    if "over" in text:
        text = _OVER.sub(r"((\1)/(\2))", text)
    if "[" in text:
        text = _ROOT.sub(r" radical(\1)", text)
    if "{" in text and re.search("text|math|mbox|operator", text):
        text = _TEXT.sub(r" \1 ", text)
    return _COMMAND.sub(_spelled, text)


def _mixed(found: re.Match[str]) -> str:
    if int(found[2]) >= int(found[3]):
        raise ToolError(f"{found[0]!r} is a product or a sum; write the sign between them")
    return f"({found[1]}+{found[2]}/{found[3]})"


def _spelled(found: re.Match[str]) -> str:
    name, escaped = found.groups()
    if name is None:
        return _ESCAPES.get(escaped or "", " ")
    known = _COMMANDS.get(name)
    if known is not None:
        return known
    # A name stays apart from a digit after it (\sqrt2), but not from its index (\log_2).
    return f" {name}" if found.string.startswith("_", found.end()) else f" {name} "


def _without_rare(text: str) -> str:
    if "{,}" in text:
        text = _GROUPED.sub("", text)
    if "[" in text:
        text = _LIST.sub(_unlisted, text)
        if _LISTED.search(text):
            raise ToolError(
                "a list is not calculated with; give it to a function, such as sum(...)"
            )
    text = text.translate(_BRACKETS)
    if "|" in text:
        text = re.sub(r"\|([^|]+)\|", r" abs(\1)", text)
    if "'" in text:  # 1'234 as in Switzerland
        text = re.sub(r"(?<=[0-9])'(?=[0-9]{3}(?![0-9]))", "", text)
    if "_" in text:  # 1_234 as in Python, and the base of a logarithm
        text = re.sub(r"(?<=[0-9])_(?=[0-9])", "", text)
        text = re.sub(r"log_\(([0-9]+)\)", r"log_\1", text)
    return text


def _unlisted(found: re.Match[str]) -> str:
    """``sum([100,200])`` as ``sum(100, 200)``: no number in a list of Python has a comma."""
    inner = found[2]
    if ", " not in inner and ",0" not in inner:
        inner = inner.replace(",", ", ")
    return f"{found[1]}({inner})"


def closes_at_end(text: str, start: int = 0) -> bool:
    """Whether the bracket at ``start`` is closed by the text's last sign, or nowhere."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return not text[index + 1 :].strip()
    return True


def tokens(text: str, commas: Callable[[str], Commas], *, symbolic: bool = False) -> list[Token]:
    """The tokens of a plain text, with one of kind ``end`` behind them.

    Args:
        text: from `plain`.
        commas: what they part in the call of a name; ``digits`` where it is no function.
        symbolic: ``x`` is a variable, never a sign for times, and ``k`` no thousand.

    Raises:
        ToolError: a sign is not understood or has two readings, or brackets are nested too deep.
    """
    found: list[Token] = []
    calls: list[Commas] = []  # for each open bracket
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise ToolError(_not_understood(text[position:].lstrip()))
        kind, word = str(match.lastgroup), match[match.lastgroup or 0]
        begin, position = position, match.end()
        if kind == "number":
            if "," in word and calls and calls[-1] != "digits":
                first = word.index(",")
                if word[first + 1] == "0" or not _separates(calls[-1], found, text, position):
                    raise ToolError(_two_readings(text))
                position -= len(word) - first
                word = word[:first]
            elif found and found[-1][0] == "number" and _is_mixed(text, found, match.start(kind)):
                part = _PART.match(text, match.start(kind))
                position = part.end() if part else position
                top, bottom = (part[1], part[2]) if part else ("0", "1")
                found[-1:] = [_OPEN, found[-1], ("sign", "+"), ("number", top)]
                found += [("sign", "/"), ("number", bottom)]
                kind, word = "sign", ")"
        elif kind == "times":
            if found[-1:] == [("number", "0")] and text[begin - 1 : begin + 1].lower() == "0x":
                raise ToolError("'0x' begins a hexadecimal number or a product with 0")
            kind, word = ("name", word) if symbolic else ("sign", "*")
        elif kind == "name":
            if symbolic and text[begin].isspace() and _is_fraction(found):
                found.append(("sign", "*"))  # 1/2 x is a half of x
            kind, word = _named(text, found, word, begin, position, symbolic)
            if not word:
                continue
        elif word == "(":
            inner = calls[-1] if calls and (symbolic or calls[-1] in ("unclear", "pair")) else "digits"
            # A bracket in a call may hold a list.
            calls.append(commas(found[-1][1]) if found and found[-1][0] == "name" else inner)
            if len(calls) > MAX_DEPTH:
                raise ToolError(TOO_DEEP)
        elif word == ")" and calls:
            calls.pop()
        elif word == "%":
            word = _percent(text, found, position)
        found.append((kind, word))
    found.append(("end", ""))
    return found


_OPEN: Token = ("sign", "(")


def _not_understood(rest: str) -> str:
    said = f"{rest[0]!r} is not understood"
    if rest.startswith(("...", "..")):
        return "'...' is understood between terms of one step or of one factor, with a last term"
    why = {":": "write a ratio with /, and times of day in one unit", ";": "one expression at a time"}
    return f"{said}: {why[rest[0]]}" if rest[0] in why else said


def _separates(call: Commas, found: list[Token], text: str, end: int) -> bool:
    if call == "pair":
        opened, closed = text.rfind("(", 0, end), text.find(")", end)
        return text.count(",", opened, closed if closed > 0 else None) == 1
    if call != "bounds":
        return call == "arguments"
    *_, before, variable, comma = [("", ""), ("", ""), *found]  # sum(k, k, 1,100)
    return variable[0] == "name" and comma[1] == "," and before[1] in (",", "(")


_THOUSANDS = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])")


def _two_readings(text: str) -> str:
    said = "a comma between digits has two readings in a call"
    if len(text) > 200:
        return f"{said}; leave it out of numbers, and put a space behind it between arguments"
    joined = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text).strip()
    return f"{said}; for thousands write {joined}; for arguments put a space behind each comma"


def _is_mixed(text: str, found: list[Token], begin: int) -> bool:
    """``1 1/2``: a whole number, a space and a proper fraction."""
    part, whole = _PART.match(text, begin), found[-1][1]
    before = text.rfind(whole, 0, begin)
    return (
        part is not None
        and whole.isdigit()
        and int(part[1]) < int(part[2])
        and text[before + len(whole) : begin].isspace()
        and text[max(before - 1, 0) : before].strip()
        in ("", "(", ",", "+", "-", "*", "=", "<", ">")
    )


def _is_fraction(found: list[Token]) -> bool:
    return len(found) > 2 and found[-1][0] == found[-3][0] == "number" and found[-2][1] == "/"


def _named(text: str, found: list[Token], word: str, begin: int, end: int, symbolic: bool) -> Token:
    """The token of a word, ``("sign", "")`` where it adds nothing; a magnitude joins its number."""
    lower, last = word.lower(), found[-1] if found else ("end", "")
    if lower in _WORDS and not (lower == "mod" and text[end : end + 1] == "("):
        sign = _WORDS[lower]
        if sign == "of" and last[1] == "off":
            return "sign", ""
        _refuse_shares(found, sign)
        return "sign", sign
    scale = _MAGNITUDES.get(lower)
    if lower == "k" and not symbolic and text[begin] == word == "k":
        scale = "e3"
    if last[0] != "number" or not (scale or lower in COUNTS):
        return "name", word
    if _BOUND.search(text, max(begin - 40, 0), begin):
        raise ToolError(f"{word!r} after a fraction or a power has two readings; use brackets")
    if scale:
        return "number", found.pop()[1] + scale
    found[-1:] = [_OPEN, last, ("sign", "*"), ("number", COUNTS[lower])]
    return "sign", ")"


def _refuse_shares(found: list[Token], sign: str) -> None:
    """Refuse ``5 of 10``, ``5 off 50`` and ``10 / 20% of 50``.

    Raises:
        ToolError: it is one of them.
    """
    words = ["", "", "", *(word for _, word in found[-3:])][-3:]
    if sign == "off" and words[2] != "%":
        raise ToolError("'off' needs a percentage before it; a sum of money is subtracted with -")
    if sign == "of" and words[2].isdigit() and words[1] != "/":
        raise ToolError(f"'{words[2]} of' is a product or a quotient; write * or /")
    if sign in ("of", "off") and words[2] == "%" and words[0] in ("/", "//", "mod"):
        raise ToolError(f"a quotient before '{words[1]}% {sign}' has two readings; use brackets")


def _is_unknown(word: str, rest: str) -> bool:
    return not rest.lstrip().startswith("(") and word.lower() not in ("pi", "e", "tau")


def _percent(text: str, found: list[Token], end: int) -> str:
    """``%`` or ``mod``: a percentage, or the remainder where two operands stand around the sign.

    Raises:
        ToolError: it can be read as both.
    """
    rest = text[end:]
    before, after = text[end - 2 : end - 1].isspace(), rest[:1].isspace()
    following = rest.lstrip()
    operand = following[:1].isalnum() or following[:1] in ("(", ".", "_")
    word = re.match(r"[A-Za-z]+", following)
    if word and (word[0].lower() in _WORDS or _is_unknown(word[0], following[word.end() :])):
        return "%"
    signed = _SIGNED.match(rest)
    if operand:
        literal = bool(found) and found[-1][0] == "number"
        if (before or not after) and not (following[0] == "(" and literal and not before):
            return "mod"
    elif signed is None or (after and signed[3] and not before) or _SHARE_AFTER.match(rest):
        return "%"
    elif before and after and not signed[3]:
        return "mod"
    raise ToolError("'%' is a percentage or the remainder there; write '/100' or 'mod'")
