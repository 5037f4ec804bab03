"""Words around and inside an expression, as signs.

`signs` is tried where the plain reading fails. Each rule stands for one reading: where what comes
before or after would give another one (``half of 30 + 10``), the words stay and are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

from toolgym.tools.calculator.functions import FUNCTIONS
from toolgym.tools.calculator.notation import NUMBER_WORDS, closes_at_end, refuse_dates

__all__ = ["NUMBER", "OPERATION_WORDS", "signs"]

MAX_WORDS = 400  # characters of an expression in words: some rules take time with their square
NUMBER = r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?"
_ATOM = rf"(?:-?{NUMBER}%?|pi|-?[a-z]+[0-9]*\([^()]+\)|\([^()]+\))"
_LARGE = "hundred|thousand|lakh|million|crore|billion|trillion|dozen|score|gross"
# Where an operand may begin.
_START = r"(?:^|(?<=[-+*/(,=<>])|(?<=\bof)|(?<=\btwice)|(?<=\bdouble)|(?<=\btriple))\s*"
_END = r"(?=\s*(?:$|[),=?]))"  # nothing follows that an operand could go on with
_LINEAR = r"(?=\s*(?:$|[),=?*/]))"  # the same for what is only multiplied
_FRACTIONS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6,
    "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_words = re.compile("[a-z]+").findall
_TENS: dict[str, int] = {
    word: 10 * n
    for n, word in enumerate(_words("twenty thirty forty fifty sixty seventy eighty ninety"), 2)
}
_UNITS = {word: n for n, word in enumerate(NUMBER_WORDS)}
_LISTS = {
    "sum": "sum", "total": "sum", "product": "product", "average": "mean", "mean": "mean",
    "median": "median", "minimum": "min", "smallest": "min", "least": "min", "maximum": "max",
    "largest": "max", "greatest": "max", "gcd": "gcd", "greatest common divisor": "gcd",
    "greatest common factor": "gcd", "highest common factor": "gcd", "hcf": "gcd", "lcm": "lcm",
    "least common multiple": "lcm", "lowest common multiple": "lcm",
}  # fmt: skip
_OF_ONE = {
    "square root": "sqrt({})", "cube root": "cbrt({})", "square": "({})^2", "cube": "({})^3",
    "factorial": "factorial({})", "absolute value": "abs({})", "reciprocal": "(1/({}))",
    "natural log": "ln({})", "natural logarithm": "ln({})", "sqrt": "sqrt({})", "ln": "ln({})",
    "floor": "floor({})", "ceiling": "ceil({})",
}  # fmt: skip
_TIMES = {"twice": 2, "double": 2, "thrice": 3, "triple": 3, "quadruple": 4}
_PLACES = {
    "whole number": 0, "integer": 0, "unit": 0, "1": 0, "tenth": 1, "hundredth": 2, "cent": 2,
    "thousandth": 3, "10": -1, "hundred": -2, "100": -2, "thousand": -3, "1000": -3, "dollar": 0,
}  # fmt: skip

# ---- around the expression

_ASIDE = re.compile(
    r"\s*(?:(?:please|so|then|thus|therefore|hence|now|we (?:have|get)|c(?:an|ould) you)\b[\s,:]*)*"
    r"(?:(?:what(?:'s|\s+is|\s+are)|how (?:much|many) (?:is|are)|find|calculate|compute|evaluate"
    r"|solve|work out|determine|tell me|give me|is(?!.*\bthan\b))\b[\s:]*)?"
    r"(?:(?:the\s+)?(?:(?:final\s+)?(?:answer|result|solution|total)\s+is\b[\s:]*"
    r"|(?:value|result)\s+of\s+))?",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"(?:(?:step|question|problem|part|case|q)\s*#?[0-9]{1,3}|[a-z][a-z_ -]{0,40}(?:\([a-z $]*\))?)"
    r"\s*:\s*(?!\s*$)",
    re.IGNORECASE,
)
# Nouns of a label; any other word of an operation may be meant as one.
_NOUNS = frozenset(("sum", "product", "total", "difference", "quotient", "power", "int", "log"))
_MEANS = frozenset(("average", "mean", "median"))
_BLANK = re.compile(r"=\s{0,9}(?:[?_.]+|[a-zA-Z])?\s{0,9}$")
_COUNTED = re.compile(rf"(=\s*{NUMBER}%?)\s+([a-z]+(?: [a-z]+)?)\s*$", re.IGNORECASE)
OPERATION_WORDS = frozenset(
    _words(
        " ".join([_LARGE, *_FRACTIONS, *_TENS, *_UNITS, *_TIMES, *_LISTS, *_OF_ONE, *FUNCTIONS])
        + " plus minus times divided multiplied by over squared cubed root off of mod modulo "
        "percent percentage per halved doubled tripled negative and or not if then equals is to "
        "from in into than less more power choose ratio remainder round rounded raised increased "
        "decreased added subtracted between each shared split lambda degrees degree deg"
    )
)


def _bare(text: str) -> str:
    """The text without what stands around: labels, quotes, courtesy, an empty side."""
    for _ in range(6):
        before = text
        text = _ASIDE.sub("", text.strip(), count=1).strip()
        text = re.sub(r",? please$| as (?:a )?decimal$", "", text.rstrip(" \t\n;?"))
        text = text[:-1] if text.endswith(".") and not text.endswith("..") else text
        text = _BLANK.sub("", re.sub(r"(?<=[0-9])\.{3}$", "", text)).strip()
        label = _LABEL.match(text)
        if label and _is_label(label[0], text[label.end() :]):
            text = text[label.end() :].lstrip("= ")
        counted = _COUNTED.search(text)
        if counted and OPERATION_WORDS.isdisjoint(counted[2].lower().split()):
            text = text[: counted.end(1)]
        if len(text) > 2 and text[0] == text[-1] in "\"'" and text[0] not in text[1:-1]:
            text = text[1:-1]
        opened = re.match(r"(?:(?:print|calculat(?:or|e)|compute)\s*)?\(", text, re.IGNORECASE)
        if opened and text.endswith(")") and closes_at_end(text, opened.end() - 1):
            text = text[opened.end() : -1]
        if text == before:
            break
    return text


def _is_label(label: str, rest: str) -> bool:
    words = set(re.findall("[a-z]+", label.lower()))
    return words.isdisjoint(OPERATION_WORDS - _NOUNS - (_MEANS if "/" in rest else set()) - {"of"})


# ---- inside it


def signs(text: str) -> str:
    """The expression that a text stands for, without labels and words; unknown words stay.

    Args:
        text: from `toolgym.tools.calculator.notation.plain`.

    Raises:
        ToolError: a date came to light.
    """
    text = _bare(text)
    refuse_dates(text)
    if len(text) > MAX_WORDS:
        return text
    text = re.sub(
        r"(?<![\w.])(?:math|np|numpy|statistics|cmath)\.(?=[A-Za-z])", "", text, flags=re.I
    )
    text = re.sub(r"\b([a-z]+)\s*\(\s*\(([^()]*,[^()]*)\)\s*\)", r"\1(\2)", text)  # sum((1, 2))
    text = _series(_chosen(text))
    if not re.search(r"[A-Za-z]{2}", text):
        return text
    text = re.sub(r"\s+", " ", re.sub(r"\b(?:the|exactly)\b", " ", text.lower())).strip()
    return _rest(_whole(_numbers(text)))


_SCALES = {
    "hundred": 10**2, "thousand": 10**3, "lakh": 10**5, "million": 10**6, "crore": 10**7,
    "billion": 10**9, "trillion": 10**12,
}  # fmt: skip
_COUNT = re.compile(
    rf"(?<![0-9.,/^]){NUMBER} (?:{_LARGE})\b"
    rf"(?: (?:{_LARGE})\b| {NUMBER}(?![0-9.,/^%!]|e[0-9]| ?\())*"
)


def _counted_out(found: re.Match[str]) -> str:
    """``1 thousand 2 hundred 35``, spoken as one number; ``3 dozen 2 dozen`` stays.

    Each part must be less than the scale before it.
    """
    words = found[0].split()
    if len(words) == 2:
        return f"({found[0]})"
    total, group = Fraction(0), Fraction(0)
    room, least = math.inf, math.inf  # what the group, and its next number, must be less than
    for word in words:
        scale = _SCALES.get(word)
        if scale is None:
            if not word[0].isdigit() or Fraction(word.replace(",", "")) >= least:
                return found[0]
            group, least = group + Fraction(word.replace(",", "")), 0
        elif scale == 100 and not least and group < 100 and group * scale < room:
            group, least = group * scale, scale
        elif scale != 100 and group and least <= 100 and scale < room:
            total, group, room, least = total + group * scale, Fraction(0), scale, scale
        else:
            return found[0]
    return f"({total + group})"


def _numbers(text: str) -> str:
    """Numbers in words as digits, and degrees as radians."""
    text = re.sub(
        rf"\b({'|'.join(_TENS)})[- ]({'|'.join(NUMBER_WORDS[1:10])})\b",
        lambda found: str(_TENS[found[1]] + _UNITS[found[2]]),
        text,
    )
    words = {**_UNITS, **_TENS}
    text = re.sub(rf"\b({'|'.join(words)})\b(?! ?\()", lambda found: str(words[found[1]]), text)
    text = re.sub(rf"\bhalf (?:an? )?(?={_LARGE})", "0.5 ", text)
    text = re.sub(rf"\ban? (?={_LARGE})", "1 ", text)
    text = re.sub(rf"(\([0-9+/]+\)) ({_LARGE})\b", lambda f: f"({f[1]}*(1 {f[2]}))", text)
    text = _COUNT.sub(_counted_out, text)
    text = re.sub(r"\bper cent\b|\bpct\b", "percent", text)
    text = re.sub(
        r"\b([0-9]+) and (?:an? |1 )?(half|third|quarter)\b",
        lambda found: f"({found[1]}+1/{_FRACTIONS[found[2]]})",
        text,
    )
    return re.sub(
        rf"\b(sin|cos|tan|cot|sec|csc)e?(?: of)? ?(?:\( ?({NUMBER}) ?(?:degrees?|deg) ?\)"
        rf"|({NUMBER}) ?(?:degrees?|deg)\b)",
        lambda found: f"{found[1]}(radians({found[2] or found[3]}))",
        text,
    )


_WHOLE: list[tuple[str, str]] = [
    (r"(?:increase|raise) (A) by (P)|(A) (?:increased|raised) by (P)", "{0}*(1+{1})"),
    (r"(?:decrease|reduce|lower|discount) (A) by (P)|(A) (?:decreas|reduc|discount|lower)ed by (P)",
     "{0}*(1-{1})"),
    (r"add (P) to (A)|(P) more than (A)", "{1}*(1+{0})"),
    (r"(P) less than (A)|take (P) off (?:of )?(A)|subtract (P) from (A)", "{1}*(1-{0})"),
    (r"(?:increase) (V) by (V)|(V) increased by (V)|add (V) (?:to|and) (V)|(V) added to (V)"
     r"|(V) more than (V)", "{0}+{1}"),
    (r"(?:decrease|reduce) (V) by (V)|(V) (?:decreased|reduced) by (V)|(V) less (V)", "{0}-{1}"),
    (r"subtract (V) from (V)|(V) subtracted from (V)|take (V) (?:away )?from (V)|(V) less than (V)",
     "{1}-{0}"),
    (r"multiply (A) (?:by|and|with) (A)", "{0}*{1}"),
    (r"divide (A) by (A)|(?:ratio|quotient) of (A) (?:to|and) (A)|(A) over (A)", "{0}/{1}"),
    (r"raise (V) to (?:power of |power )?(V)", "({0})^{1}"),
    (r"remainder (?:of|when) (V) (?:is )?(?:divided by|/|mod) (V)", "mod({0}, {1})"),
    (r"log(?:arithm)? base (V) of (A)", "log({1}, {0})"),
    (r"log(?:arithm)? (?:of )?(A) (?:to |in |with )?base (V)", "log({0}, {1})"),
    (r"round (V)", "round({0})"),
    (r"(A) doubled", "2*{0}"), (r"(A) tripled", "3*{0}"), (r"(A) halved", "{0}/2"),
]  # fmt: skip


def _templates() -> Iterator[tuple[re.Pattern[str], str]]:
    kinds = {"(A)": f"({_ATOM})", "(P)": rf"({NUMBER} ?(?:%|percent))"}
    kinds["(V)"] = rf"({_ATOM})(?!%| percent)"
    for form, made in _WHOLE:
        yield re.compile(re.sub(r"\([APV]\)", lambda found: kinds[found[0]], form)), made


_TEMPLATES: list[tuple[re.Pattern[str], str]] = []
_ROUNDED = re.compile(
    r"round(?:ed)?(?: off)? (?P<a>.+?) (?:off )?to (?P<p>.+)"
    r"|(?P<b>.+?),? rounded(?: off)? to (?P<q>.+)"
)


def _whole(text: str) -> str:
    """Forms that are the whole text: ``subtract 3 from 10``, ``10/3 rounded to 2 decimals``."""
    rounded = _ROUNDED.fullmatch(text)
    if rounded and not re.match(r"round(?:ed)? (?:up|down)", text):
        places = (rounded["p"] or rounded["q"]).removeprefix("an ").removeprefix("a ")
        digits = re.fullmatch(
            r"([0-9]) (?:decimals?|decimal places?|places|dp|digits after .*)", places
        )
        near = _PLACES.get(places.removeprefix("nearest ")) if "nearest" in places else None
        if digits or near is not None:
            inner = _rest(_whole((rounded["a"] or rounded["b"]).removesuffix(",")))
            return f"round({inner}, {digits[1] if digits else near})"
    between = re.fullmatch(rf"difference (?:between|of) ({NUMBER}) and ({NUMBER})", text)
    if between:
        left, right = (Fraction(part.replace(",", "")) for part in between.groups())
        return f"{between[1]}-{between[2]}" if left >= right else text
    if not _TEMPLATES:
        _TEMPLATES.extend(_templates())
    for pattern, made in _TEMPLATES:
        found = pattern.fullmatch(text)
        if found:
            return made.format(*(part for part in found.groups() if part is not None))
    return text


_INFIX = [
    (r"\b(?:multiplied by|times by)\b", "*"), (r"\bdivided by\b", "/"), (r"\bplus\b", "+"),
    (r"\bminus\b", "-"), (r"\btimes\b", "*"), (r"\bequals?\b|\bis equal to\b", "="),
    (rf"{_START}negative (?=[0-9])", " -"),
]  # fmt: skip
_RAISED = re.compile(
    rf"({NUMBER}|\)|\bpi|\be) ?(?:(squared)|(cubed)|(?:raised )?to (?:a )?"
    rf"(?:power (?:of )?(-?{NUMBER})"
    rf"|([0-9]+)(?:st|nd|rd|th) power|({'|'.join(_FRACTIONS)}) power)|raised to (-?{NUMBER})"
    r"|(factorial))(?![\w(%]| of\b)(?! ?(?:\^|\*\*|!))"
)
_ROOT = re.compile(
    rf"{_START}(?:(?P<n>[0-9]+)(?:st|nd|rd|th)|(?P<word>{'|'.join(_FRACTIONS)})) root of "
    rf"(?P<of>{_ATOM}){_END}"
)
_LISTED = re.compile(
    rf"{_START}(?P<name>{'|'.join(_LISTS)}) of "
    rf"(?P<of>{_ATOM}(?: ?, ?{_ATOM})*(?: ?,? and {_ATOM})?){_END}"
)
_ONE = re.compile(rf"{_START}(?P<name>{'|'.join(_OF_ONE)})(?: of)? ?(?P<of>{_ATOM}){_END}")
_PART = re.compile(
    rf"{_START}(?:(?P<n>[0-9]+)(?P<hyphen>[ -])|an? )?(?P<name>{'|'.join(_FRACTIONS)})"
    rf"(?P<s>s?) of (?:an? )?(?P<of>{_ATOM}){_LINEAR}"
)
_MULTIPLE = re.compile(rf"{_START}(?P<name>{'|'.join(_TIMES)}) (?:of )?(?P<of>{_ATOM}){_LINEAR}")


def _rest(text: str) -> str:
    """Forms inside a text, innermost first."""
    for pattern, sign in _INFIX:
        text = re.sub(pattern, sign, text)
    for _ in range(8):
        before = text
        text = _RAISED.sub(_power, text)
        text = _LISTED.sub(_listed, text)
        text = _ROOT.sub(lambda f: f" root({f['of']}, {f['n'] or _FRACTIONS[f['word']]})", text)
        text = _ONE.sub(lambda f: " " + _OF_ONE[f["name"]].format(f["of"]), text)
        text = _PART.sub(_part, text)
        text = _MULTIPLE.sub(lambda f: f" ({_TIMES[f['name']]}*{f['of']})", text)
        if text == before:
            break
    return text


def _listed(found: re.Match[str]) -> str:
    """A call; ``85, 90 and 95%`` and ``1, two hundred and 5`` have two readings and stay."""
    parts = re.split(r" ?, ?and | ?, | and ", found["of"])
    spoken = re.search(rf"(?:{_LARGE}|[0-9])\) and [0-9]", found["of"])  # two hundred and fifty
    if spoken or len({part.endswith("%") for part in parts}) > 1:
        return found[0]
    return f" {_LISTS[found['name']]}({', '.join(parts)})"


def _part(found: re.Match[str]) -> str:
    """``2 thirds of 9``; ``12 half of 5`` stays."""
    count = found["n"] or "1"
    if (count != "1") != bool(found["s"]) and found["hyphen"] != "-":
        return found[0]
    return f" ({count}/{_FRACTIONS[found['name']]}*{found['of']})"


def _power(found: re.Match[str]) -> str:
    """A power, unless a sign or another power stands before the base: ``-3 squared``."""
    before = found.string[: found.start()].rstrip()
    squared, cubed, raised, ordinal, word, to, factorial = found.groups()[1:]
    if found[1] != ")":
        unary = before[-1:] in ("-", "+") and before[:-1].rstrip()[-1:] in ("", *"(,=*/^<>")
        if unary or before[-1:] in ("^", ".", ",", "!") or before[-1:].isalnum():
            return found[0]
    if factorial:
        return f"{found[1]}!"
    if word == "half":
        return found[0]
    exponent = (squared and "2") or (cubed and "3") or raised or ordinal or to
    return f"{found[1]}^({exponent or _FRACTIONS[word]})"


_CHOOSE = re.compile(
    r"(?:(?:^|\(\s*\))\s*\^\s*\(?|(?<![\w.^)]))([0-9]+)\)?\s*(n?[Cc]r?|n?[Pp]r?|choose)\s*_?\s*\(?([0-9]+)\)?"
    r"(?![\w.]|\s*[!^]|\s*\*\*)"
)


def _chosen(text: str) -> str:
    """``5C2``, ``5 choose 2`` and ``5P2``."""

    def call(found: re.Match[str]) -> str:
        if found[0].count("(") != found[0].count(")") or found[2] in ("c", "p", "nc", "np"):
            return found[0]
        name = "perm" if "p" in found[2].lower() else "comb"
        return f" {name}({found[1]}, {found[3]})"

    return _CHOOSE.sub(call, text)


_TERM = r"[0-9]+(?:\.[0-9]+|/[1-9][0-9]*)?"
_SERIES = re.compile(
    rf"(?:^|(?<=[(=]))\s*({_TERM}(?:\s*\+\s*{_TERM})+)\s*\+\s*\.\.\.\s*\+\s*({_TERM})\s*(?=$|[)=])"
    rf"|(?:^|(?<=[(=]))\s*({_TERM}(?:\s*\*\s*{_TERM})+)\s*\*\s*\.\.\.\s*\*\s*({_TERM})\s*(?=$|[)=])"
)


def _series(text: str) -> str:
    """``1 + 2 + ... + 100``: terms of one step, or of one factor; with both it stays."""
    return _SERIES.sub(_summed, text) if "..." in text else text


def _summed(found: re.Match[str]) -> str:
    terms = [Fraction(term) for term in re.findall(_TERM, found[1] or found[3])]
    first, last = terms[0], Fraction(found[2] or found[4])
    step, count = terms[1] - first, Fraction(0)
    if step and all(b - a == step for a, b in pairwise(terms)):
        count = (last - first) / step + 1
    even = count if count.denominator == 1 and count > len(terms) else Fraction(0)
    ratio = terms[1] / first if first else Fraction(0)
    grown = first and ratio not in (0, 1) and all(b == a * ratio for a, b in pairwise(terms))
    if grown:  # up to the last term, or past it
        term, left = terms[-1], 1_000
        while left and (term < last if ratio > 1 else term > last):
            term, left = term * ratio, left - 1
        grown = term == last and term != terms[-1]
    if bool(even) == bool(grown):
        return found[0]
    if found[1]:
        total = (first + last) * even / 2 if even else (last * ratio - first) / (ratio - 1)
        return f"({total})"
    if not even or even > 1_000:
        return found[0]
    return "(" + "*".join(f"({first + step * n})" for n in range(int(even))) + ")"
