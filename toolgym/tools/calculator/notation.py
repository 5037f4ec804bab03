"""What models write, brought to keyboard signs and cut into tokens: other digits, signs, LaTeX."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from toolgym.errors import ToolError

__all__ = ["MAX_CHARS", "MAX_DEPTH", "TOO_DEEP", "Token", "closes_at_end", "plain", "tokens"]

MAX_CHARS = 4_000
MAX_DEPTH = 60  # nested brackets, signs and powers; each costs a few Python frames
TOO_DEEP = f"the expression is nested deeper than {MAX_DEPTH} levels"

Token = tuple[str, str]
"""Kind (``number``, ``name``, ``sign`` or ``end``) and text."""

_SIGNS = str.maketrans(
    {
        "×": "*", "✕": "*", "·": "*", "⋅": "*", "∙": "*", "∗": "*", "÷": "/", "∕": "/", "⁄": "/",
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "＋": "+", "（": "(", "）": ")",
        "，": ",", "％": "%", "＝": "=", "＊": "*", "／": "/", "＜": "<", "＞": ">", "！": "!",
        "π": " pi ", "τ": " tau ", "√": " sqrt ", "∛": " cbrt ", "∞": " infinity ",
        "≤": "<=", "≥": ">=", "≠": " != ", "≈": "=", "→": "->", "∫": " int ", "’": "'",
        "⌊": " floor(", "⌋": ")", "⌈": " ceil(", "⌉": ")", "º": "°", "˚": "°",
        "٫": ".", "٬": ",", "،": ",", "٪": "%", "؟": "?", "\u202f": "", "\u2009": "",
        "\u200b": "", "\u200e": "", "\u200f": "", "\ufeff": "", "\u00a0": " ",
        "α": " alpha ", "β": " beta ", "γ": " gamma_ ", "δ": " delta ", "θ": " theta ",
        "λ": " lambda ", "μ": " mu ", "σ": " sigma ", "φ": " phi ", "ω": " omega ",
    }
)  # fmt: skip
_BRACKETS = str.maketrans({"[": "(", "]": ")", "{": "(", "}": ")", "`": ""})
_RARE = re.compile(r"[\[\]{}`|'_]")
_CURRENCY = re.compile(r"\$(?=\s*[\d.])|[€£¥₹₩₽₺₪฿]")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_VULGAR = re.compile("(?:(?<![0-9.,])([0-9]+) ?)?([¼-¾⅐-⅞↉])")
_ANGLE = re.compile(r"\b((?:arc|a)?(?:sin|cos|tan|cot|sec|csc))\s*\(?\s*(-?[0-9.]+)\s*°\s*\)?")

_COMMAND = re.compile(r"\\(?:([A-Za-z]+)|(.)|$)", re.DOTALL)
_COMMANDS = {
    **{"times": "*", "cdot": "*", "ast": "*", "div": "/", "le": "<=", "leq": "<=", "ge": ">="},
    **{"geq": ">=", "lt": "<", "gt": ">", "ne": " != ", "neq": " != ", "approx": "=", "circ": "°"},
    **{"infty": " infinity ", "to": "->", "rightarrow": "->", "bmod": " mod ", "lvert": "|"},
    **{"rvert": "|", "vert": "|", "lfloor": " floor(", "rfloor": ")", "lceil": " ceil("},
    **{"rceil": ")", "quad": " ", "qquad": " "},
    **{"left": "", "right": "", "big": "", "Big": "", "bigl": "", "bigr": "", "boxed": ""},
    **{"displaystyle": "", "textstyle": "", "text": "", "mbox": "", "mathrm": "", "mathbf": ""},
    **{"operatorname": "", "limits": "", "frac": " frac", "dfrac": " frac", "sqrt": " sqrt "},
}
_ESCAPES = {"(": "(", ")": ")", "[": "(", "]": ")", "{": "(", "}": ")", "%": "%", " ": " "}
_ROOT = re.compile(r"\\sqrt\s*\[([^\[\]]*)\]")
_SHORT_FRACTION = re.compile(r"\\[dtc]?frac\s*([0-9])\s*([0-9])")
_MIXED = re.compile(r"(?<![0-9.,])([0-9]+)\s?\\[dtc]?frac\s?\{([0-9]+)\}\s?\{([0-9]+)\}")
_GROUPED = re.compile(r"(?<=[0-9])(?:\\,|\{,\})(?=[0-9]{3})")
_TEXT = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf)\s*\{([^{}]*)\}")

_TARGET = re.compile(r"\s*[^\W\d][\w ]{0,40}=(?![=>])|\s*=(?!=)")
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}(?![0-9])|[0-9]+)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?
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
_MAGNITUDES = {"thousand": "e3", "million": "e6", "billion": "e9", "trillion": "e12"}


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
        text = text.replace("$", "")
    if _RARE.search(text):
        text = _without_rare(text)
    if "°" in text:
        text = _ANGLE.sub(r"\1(radians(\2))", re.sub(r"\^?\(?°\)?", "°", text))
    target = _TARGET.match(text) if "=" in text else None
    return text[target.end() :] if target else text


def _keyboard(text: str) -> str:
    text = text.translate(_SIGNS)
    if text.isascii():
        return text
    currencies = dict.fromkeys(_CURRENCY.findall(text))
    if len(currencies) > 1:
        raise ToolError(
            f"the currencies {' and '.join(currencies)} are mixed; convert to one, then calculate"
        )
    if currencies and "$" not in currencies:
        text = _CURRENCY.sub("", text)
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
    if "frac" in text:
        text = _SHORT_FRACTION.sub(r"(\1/\2)", text)
        text = _MIXED.sub(r"(\1+\2/\3)", text)
    if "[" in text:
        text = _ROOT.sub(r" radical(\1)", text)
    if "{" in text and ("text" in text or "math" in text or "mbox" in text):
        text = _TEXT.sub(r" \1 ", text)
    return _COMMAND.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    name, escaped = found.groups()
    if name is None:
        return _ESCAPES.get(escaped or "", "")
    known = _COMMANDS.get(name)
    if known is not None:
        return known
    # A name stays apart from a digit after it (\sqrt2), but not from its index (\log_2).
    return f" {name}" if found.string.startswith("_", found.end()) else f" {name} "


def _without_rare(text: str) -> str:
    if "{,}" in text:
        text = _GROUPED.sub("", text)
    text = text.translate(_BRACKETS)
    if "|" in text:
        text = re.sub(r"\|([^|]+)\|", r" abs(\1)", text)
    if "'" in text:  # 1'234 as in Switzerland
        text = re.sub(r"(?<=[0-9])'(?=[0-9]{3}(?![0-9]))", "", text)
    if "_" in text:  # 1_234 as in Python, and the base of a logarithm
        text = re.sub(r"(?<=[0-9])_(?=[0-9])", "", text)
        text = re.sub(r"log_\(([0-9]+)\)", r"log_\1", text)
    return text


def closes_at_end(text: str, start: int = 0) -> bool:
    """Whether the bracket at ``start`` is closed by the text's last sign, or nowhere."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return not text[index + 1 :].strip()
    return True


def tokens(text: str, width: Callable[[str], int], *, symbolic: bool = False) -> list[Token]:
    """The tokens of a plain text, with one of kind ``end`` behind them.

    Args:
        text: from `plain`.
        width: most arguments of the function of a name; more than one makes ``max(1,200)`` two
            arguments, where ``(1,200)`` is a number.
        symbolic: ``x`` is a variable, never a sign for times.

    Raises:
        ToolError: a sign is not understood, or brackets are nested too deep.
    """
    found: list[Token] = []
    calls: list[bool] = []  # for each open bracket: does a comma in it separate arguments?
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise ToolError(f"{text[position:].lstrip()[0]!r} is not understood")
        kind, word = str(match.lastgroup), match[match.lastgroup or 0]
        position = match.end()
        if kind == "number" and "," in word and calls and calls[-1]:
            first = word.index(",")
            position -= len(word) - first
            word = word[:first]
        elif kind == "times":
            kind, word = ("name", word) if symbolic else ("sign", "*")
        elif kind == "name":
            lower = word.lower()
            if lower in _WORDS and text[position : position + 1] != "(":
                kind, word = "sign", _WORDS[lower]
            elif lower in _MAGNITUDES and found and found[-1][0] == "number":
                kind, word = "number", found.pop()[1] + _MAGNITUDES[lower]
        elif word == "(":
            named = bool(found) and found[-1][0] == "name" and width(found[-1][1]) > 1
            calls.append(named or (symbolic and any(calls)))
            if len(calls) > MAX_DEPTH:
                raise ToolError(TOO_DEEP)
        elif word == ")" and calls:
            calls.pop()
        found.append((kind, word))
    found.append(("end", ""))
    return found
