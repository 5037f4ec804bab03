"""What models write, brought to keyboard signs: other digits, signs, LaTeX."""

from __future__ import annotations

import re
import unicodedata

from toolgym.errors import ToolError

__all__ = ["MAX_CHARS", "NUMBER_WORDS", "closes_at_end", "plain", "refuse_dates"]

MAX_CHARS = 4_000

_SIGNS = str.maketrans(
    {
        "×": "*", "✕": "*", "·": "*", "⋅": "*", "∙": "*", "∗": "*", "•": "*", "÷": "/", "∕": "/",
        "⁄": "/", "✖": "*", "⨯": "*", "➗": "/", "➕": "+", "➖": "-", "…": "...", "⋯": "...",
        "\ufe0f": "",
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
_THIN_SPACE = re.compile("[\u202f\u2009\u00a0]")
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
_YEAR, _DAY = r"(?:1[89]|20)[0-9][0-9]", r"(?:0?[1-9]|[12][0-9]|3[01])"
_DATE = re.compile(
    rf"(?<![0-9.])(?:{_YEAR}([-/])(?:0?[1-9]|1[0-2])\1{_DAY}|{_DAY}([-/]){_DAY}\2{_YEAR}|{_YEAR}-0[1-9]"
    rf"|(?:0[1-9]([-/]){_DAY}|{_DAY}([-/])0[1-9])(?:\3|\4)[0-9]{{2}})(?![0-9.])"
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
        re.findall(
            "[a-zA-Z]+",
            "left right big Big bigl bigr bigg Bigg boxed quad qquad displaystyle textstyle text "
            "mbox mathrm mathbf operatorname limits",
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
_TEXT_COMMAND = re.compile("text|math|mbox|operator")
_TARGET = re.compile(r"\s*([^\W\d]\w*(?: +[^\W\d]\w*){0,6})? *=(?![=>])")
_FENCE = re.compile(r"^(?:python|math|text|txt|latex|tex|plaintext|calc|calculator)\s*\n")
_BREAK = re.compile(r"[\w).%!][ \t]*\n\s*[-(\w.]")
_words = re.compile("[a-z]+").findall
NUMBER_WORDS: list[str] = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_NO_TARGET = frozenset(  # in a name of several words; "twice five = 11" is a claim, no assignment
    NUMBER_WORDS
    + _words(
        "pi e tau half third quarter twice double triple squared cubed plus minus times divided "
        "multiplied sqrt ln log factorial choose dozen hundred thousand million percent mod over"
    )
)


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
    if "\n" in text:
        text = _FENCE.sub("", text.strip(), count=1)
        if _BREAK.search(text):
            raise ToolError("a line ends where a sign is missing: one expression at a time")
    refuse_dates(text)
    target = _TARGET.match(text) if "=" in text else None
    words = target[1].lower().split() if target and target[1] else []
    if target and (len(words) < 2 or _NO_TARGET.isdisjoint(words)):
        return text[target.end() :]
    return text


def refuse_dates(text: str) -> None:
    """Refuse what may be a date: ``2024-03-15`` is not a difference.

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
    if "–" in text or "—" in text:
        span = _RANGE.search(text)
        if span and int(span[1]) < int(span[2]):
            raise ToolError(
                f"{span[0]!r} is a range or a difference; put spaces around a minus sign"
            )
    if _THIN_SPACE.search(text):
        text = _THIN.sub(lambda found: "".join(filter(str.isdigit, found[0])), text)
    if "√" in text:
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
    if "{" in text and _TEXT_COMMAND.search(text):
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
