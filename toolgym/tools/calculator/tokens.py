"""A plain text cut into tokens; a sign with two readings is refused here."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from toolgym.errors import ToolError

__all__ = ["MAX_DEPTH", "TOO_DEEP", "Commas", "Token", "tokens"]

MAX_DEPTH = 60  # nested brackets, signs and powers; each costs a few Python frames
TOO_DEEP = f"the expression is nested deeper than {MAX_DEPTH} levels"

Token = tuple[str, str]
"""Kind (``number``, ``name``, ``sign`` or ``end``) and text."""
Commas = Literal["arguments", "digits", "unclear", "pair", "bounds"]
"""What a comma between digits parts in a call: arguments (``comb(5,200)``), thousands
(``sqrt(1,600)``), either (``max(1,200)``: refused), the two arguments that are needed
(``gcd(12,180)``), or, behind a variable, its bounds."""

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
_COUNTS = {"dozen": "12", "score": "20", "gross": "144"}
_BOUND = re.compile(r"(?:[0-9]/|\^\s*)[0-9][0-9.,]*\s*$")  # what a magnitude has two readings after
_TIGHT = re.compile(r"-?[0-9.]+,(?![0-9]{3}(?![0-9]))(?:-?[0-9.]+,)*-?[0-9.]+")
_PART = re.compile(r"([0-9]+)/([0-9]+)(?![0-9.,/]|\s*(?:[\^!(]|\*\*))")
_SHARE_AFTER = re.compile(r"\s*[-+]\s*[0-9.]+\s*%(?!\s*[\w.(])")
_SIGNED = re.compile(r"(\s*)([-+])(\s*)")


def tokens(text: str, commas: Callable[[str], Commas], *, symbolic: bool = False) -> list[Token]:
    """The tokens of a plain text, with one of kind ``end`` behind them.

    Args:
        text: from `plain`.
        commas: what they part in the call of a name; ``digits`` where it is not a function.
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
            if text[position : position + 1] != "(":  # else it is a function
                kind, word = _word_token(text, found, word, begin, symbolic)
                if not word:
                    continue
        elif word == "(":
            inner = (
                calls[-1] if calls and (symbolic or calls[-1] in ("unclear", "pair")) else "digits"
            )
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
    why = {
        ":": "write a ratio with /, and times of day in one unit",
        ";": "one expression at a time",
    }
    return f"{said}: {why[rest[0]]}" if rest[0] in why else said


def _separates(call: Commas, found: list[Token], text: str, end: int) -> bool:
    if call in ("pair", "unclear"):
        closed = text.find(")", end)
        inner = text[text.rfind("(", 0, end) + 1 : closed if closed > 0 else None]
        # mean(80,90,100): the first comma is not a thousand's and none has a space, so all part.
        return (call == "pair" and inner.count(",") == 1) or _TIGHT.fullmatch(inner) is not None
    if call != "bounds":
        return call == "arguments"
    *_, before, variable, comma = [("", ""), ("", ""), *found]  # sum(k, k, 1,100)
    return variable[0] == "name" and comma[1] == "," and before[1] in (",", "(")


_THOUSANDS = re.compile(
    r"(?:(?<![0-9.,])|(?<=,[0-9]{3},)|(?<=[^0-9],))[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])"
)


def _two_readings(text: str) -> str:
    said = "a comma between digits has two readings in a call"
    if len(text) > 200:
        return f"{said}; leave it out of numbers, and put a space behind it between arguments"
    joined = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text).strip()
    thousands = f"for thousands write {joined}; " if joined != text.strip() else ""
    return f"{said}; {thousands}for arguments put a space behind each comma"


def _is_mixed(text: str, found: list[Token], begin: int) -> bool:
    """``1 1/2``: a whole number, a space and a proper fraction."""
    part, whole = _PART.match(text, begin), found[-1][1]
    before = text.rfind(whole, 0, begin)
    return (
        part is not None
        and whole.isdigit()
        and int(part[1]) < int(part[2])
        and not text[before + len(whole) : begin].strip(" ")
        and text[max(before - 1, 0) : before].strip()
        in ("", "(", ",", "+", "-", "*", "=", "<", ">")
    )


def _is_fraction(found: list[Token]) -> bool:
    return len(found) > 2 and found[-1][0] == found[-3][0] == "number" and found[-2][1] == "/"


def _word_token(text: str, found: list[Token], word: str, begin: int, symbolic: bool) -> Token:
    """The token of a word, ``("sign", "")`` where it adds nothing; a magnitude joins its number."""
    lower, last = word.lower(), found[-1] if found else ("end", "")
    if lower in _WORDS:
        sign = _WORDS[lower]
        if sign == "of" and last[1] == "off":
            return "sign", ""
        _refuse_shares(found, sign)
        return "sign", sign
    scale = _MAGNITUDES.get(lower)
    if lower == "k" and not symbolic and text[begin] == word == "k":
        scale = "e3"
    if last[0] != "number" or not (scale or lower in _COUNTS):
        return "name", word
    if _BOUND.search(text, max(begin - 40, 0), begin):
        raise ToolError(f"{word!r} after a fraction or a power has two readings; use brackets")
    if scale:
        return "number", found.pop()[1] + scale
    if len(found) > 1 and (found[-2][0] != "sign" or found[-2][1] in (")", "!", "%")):
        raise ToolError(f"an operator is missing before {last[1]}")  # 3 dozen 2 dozen
    found[-1:] = [_OPEN, last, ("sign", "*"), ("number", _COUNTS[lower])]
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
    rest = text[end : end + 99]
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
