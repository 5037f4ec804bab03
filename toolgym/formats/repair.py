r"""JSON that a model wrote nearly right, put right where only one reading is possible.

Each repair is named, so that it can be told to the policy and counted. What could be read in two
ways (a string that is not closed, a reply that was cut, words without quotes) is not repaired.

A backslash in a JSON string begins an escape, so LaTeX that is written with one backslash arrives
as something else: ``\frac`` as a form feed. Where LaTeX is the only reading it is read as that.
json-repair, the library, guesses half calls into whole ones and is not used for that reason.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from typing import Any

from toolgym.formats.scan import MAX_DEPTH, decode_json, no_second

__all__ = ["UNCLEAR", "Budget", "dumped", "read_value", "repaired"]

FENCE = re.compile(r"\s*```\w*\s*")
_END = re.compile(r"\s*\Z")
_FENCE_END = re.compile(r"\s*(?:```\s*)?\Z")
_SPACE = re.compile(r"[ \t\r\n]*+")
_STRINGS = {
    '"': re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.S),
    "'": re.compile(r"'([^'\\]*+(?:\\.[^'\\]*+)*+)'", re.S),
}
_KEY = re.compile(r"[A-Za-z_]\w*(?=\s*:)")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])")
_WORD = re.compile(r"-?\w+")
_CONTROL = re.compile(r"[\x00-\x1f]")
_LITERALS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}

_LATEX = (
    r"(?:b(?:inom|eta|ar|egin|ig[a-z]*|oxed|mod|ot|oldsymbol|ullet|ecause|mathbf)|b[a-z]+(?=\{)|f(?:rac|orall|lat|box)|f[a-z]+(?=\{)|t(?:imes|heta|ilde|herefore|anh|frac)"
    r"|t(?:riangle[a-z]*|ext[a-z]*(?=\{))|r(?:ight[a-z]*|ho|angle|floor|ceil|m)"
    r"|n(?:eq|eg|abla|otin|mid|leq|geq|subseteq))(?![A-Za-z])"
)
_UNSURE = r"(?:[bf][a-z]{2,}|t(?:an|au|op|o)|n(?:e|u|i|ot))(?![A-Za-z])"
_IS_LATEX, _IS_UNSURE = re.compile(_LATEX), re.compile(_UNSURE)
# Escapes of valid JSON whose letters go on as the name of a command, or stand behind a drive.
_SUSPECT = re.compile(
    rf"(?<!\\)((?:\\\\)*+)\\(?=(?:{_LATEX}|{_UNSURE})|(?<=[\"'][A-Za-z]:\\))([bfnrt])"
)
_FOLDER = r"\\[\w.$~()-]+"
_PATH = re.compile(
    rf"[A-Za-z]:(?:(?!\\u[0-9a-fA-F]{{4}}){_FOLDER}(?:{_FOLDER})+|{_FOLDER}\.\w+)\\?", re.A
)
_DRIVE = re.compile(r"[A-Za-z]:\\[bfnrt]\w*", re.A)  # a folder, or a line behind a colon
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|U[0-9a-fA-F]{8}|([A-Za-z]+)|.)", re.S)
_PYTHONS = re.compile(r"\\x[0-9a-fA-F]{2}")
"""An escape that only Python writes: the others in the same string are escapes, too."""
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode
_CODES = {"b": 8, "f": 12, "n": 10, "r": 13, "t": 9}
_MATHS = tuple("[({^_\\")
UNCLEAR = "the backslash of "
"""How a note begins that names an escape of two readings."""


@dataclass(slots=True)
class Budget:
    """What mending may still cost in one reply, in tokens: bounds the time for hostile texts."""

    left: int = 5_000

    def pay(self, characters: int = 0) -> None:
        """Count one token.

        Raises:
            ValueError: nothing is left.
        """
        self.left -= 1 + characters // 256
        if self.left < 0:
            raise ValueError("it is too long to be repaired")


def dumped(value: Any) -> str:
    """JSON in one line that `read_value` reads as the same, LaTeX and control signs included."""
    text = _encode(value)
    return _SUSPECT.sub(_by_number, text) if "\\" in text else text


def _by_number(match: re.Match[str]) -> str:
    return f"{match[1]}\\u{_CODES[match[2]]:04x}"


def read_value(
    text: str, position: int, end: re.Pattern[str], *, complete: bool, budget: Budget
) -> tuple[Any, int, list[str]]:
    """Read one JSON value, mended where that is needed and safe.

    Args:
        text: the reply.
        position: where the value begins.
        end: what may follow the value; only there may closing brackets be missing or left over.
        complete: whether the model had finished writing where the text ends.
        budget: of the reply.

    Returns:
        The value, where it ends, and what was repaired: any of ``single quotes``, ``Python
        literal``, ``unquoted key``, ``trailing comma``, ``line break in a text``, ``backslash not
        doubled``, ``missing closing bracket``, ``extra closing bracket``.

    Raises:
        ValueError: it cannot be repaired safely; the message says what is wrong with the JSON.
    """
    notes: list[str] = []
    try:
        value, stop = decode_json(text, position)
    except ValueError as error:
        reader = _Reader(text, position, end, complete, budget)
        try:
            value = reader.value(0)
        except ValueError as second:
            raise ValueError(_told(str(error), str(second))) from error
        stop, notes = reader.at, reader.notes
    else:
        if "\\" in text[position:stop] and _SUSPECT.search(text, position, stop):
            reader = _Reader(text, position, end, complete, budget)
            try:
                value = reader.value(0)
            except ValueError:
                return value, stop, notes
            notes = reader.notes
    if text[stop : stop + 1] in ("}", "]", " ", "\n") and (extra := _extra(end).match(text, stop)):
        notes.append("extra closing bracket")
        stop = extra.end()
    return value, stop, list(dict.fromkeys(notes))


@functools.lru_cache(maxsize=64)
def _extra(end: re.Pattern[str]) -> re.Pattern[str]:
    return re.compile(rf"\s*+[}}\]](?:\s*+[}}\]])*?(?={end.pattern})")


def _told(strict: str, tolerant: str) -> str:
    told = (
        strict
        if any(word in strict for word in ("number", "deep", "twice"))
        else f"{strict}; {tolerant}"
    )
    return f"{told}; a backslash in a string is written twice" if "escape" in told else told


def repaired(text: str, *, complete: bool) -> tuple[Any, list[str]]:
    """Read nearly valid JSON.

    Args:
        text: what stands where one JSON value should.
        complete: whether the model had finished writing; only then may closing brackets be added.

    Returns:
        The value, and what was repaired: at least one note of `read_value`, or ``code fence``.

    Raises:
        ValueError: it cannot be repaired safely, or needs no repair that is known here.
    """
    fence = FENCE.match(text)
    begin, end = (fence.end(), _FENCE_END) if fence is not None else (0, _END)
    space = _SPACE.match(text, begin)
    begin = space.end() if space is not None else begin
    value, stop, notes = read_value(text, begin, end, complete=complete, budget=Budget())
    if end.match(text, stop) is None:
        raise ValueError("more follows behind it")
    notes = ["code fence", *notes] if fence is not None else notes
    if not notes:
        raise ValueError("nothing that can be repaired safely")
    return value, notes


class _Reader:
    """Reads a value of a grammar a little wider than JSON's."""

    def __init__(
        self, text: str, position: int, end: re.Pattern[str], complete: bool, budget: Budget
    ) -> None:
        self.text, self.at = text, position
        self.notes: list[str] = []
        self._end, self._complete, self._budget = end, complete, budget

    def value(self, depth: int) -> Any:
        """The value that begins here.

        Raises:
            ValueError: there is none.
        """
        self._budget.pay()
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
        sign = self._peek()
        if sign == "{":
            return self._object(depth)
        if sign == "[":
            return self._list(depth)
        if sign and sign in "\"'":
            return self._string(sign)
        return self._scalar(sign)

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self.at += 1
        while not self._closed("}", bool(found)):
            sign = self._peek()
            bare = _KEY.match(self.text, self.at)
            if sign and sign in "\"'":
                key = self._string(sign)
            elif bare is not None:
                self.notes.append("unquoted key")
                key, self.at = bare[0], bare.end()
            else:
                raise ValueError(f"{sign!r} is not a key")
            if self._peek() != ":":
                raise ValueError(f"no ':' follows the key {key[:40]!r}")
            self.at += 1
            value = self.value(depth + 1)
            no_second(key, found.setdefault(key, value), value)
        return found

    def _list(self, depth: int) -> list[Any]:
        found: list[Any] = []
        self.at += 1
        while not self._closed("]", bool(found)):
            found.append(self.value(depth + 1))
        return found

    def _closed(self, bracket: str, comma: bool) -> bool:
        """Go past the comma before the next item, or past the closing bracket."""
        sign = self._peek()
        if comma and sign == ",":
            self.at += 1
            sign = self._peek()
            if sign != bracket and not self._may_end():
                return False
            self.notes.append("trailing comma")
        elif sign != bracket and not comma and not self._may_end():
            return False
        if sign == bracket:
            self.at += 1
            return True
        if not self._may_end():
            raise ValueError(f"{sign!r} stands where ',' or {bracket!r} should")
        self.notes.append("missing closing bracket")
        return True

    def _may_end(self) -> bool:
        match = self._end.match(self.text, self.at)
        if match is None:
            return False
        if match.end() == len(self.text) and not match[0].strip() and not self._complete:
            raise ValueError("it ends in the middle")
        return True

    def _peek(self) -> str:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match is not None else self.at
        return self.text[self.at : self.at + 1]

    def _scalar(self, sign: str) -> Any:
        number = _NUMBER.match(self.text, self.at)
        if number is not None:
            value, self.at = decode_json(self.text, self.at)
            return value
        word = _WORD.match(self.text, self.at)
        name = word[0] if word is not None else ""
        if name.lstrip("-") in ("NaN", "Infinity", "nan", "inf", "infinity"):
            raise ValueError(f"{name} is not a JSON number")
        if name not in _LITERALS:
            where = f"the word {name[:40]!r} has no quotes" if name else f"{sign!r} is not a value"
            raise ValueError(where if sign else "it ends in the middle")
        if name[0].isupper():
            self.notes.append("Python literal")
        self.at += len(name)
        return _LITERALS[name]

    def _string(self, quote: str) -> str:
        match = _STRINGS[quote].match(self.text, self.at)
        if match is None:
            self._budget.pay(len(self.text) - self.at)
            raise ValueError("a string is not closed")
        self._budget.pay(match.end() - self.at)
        inner, begin, self.at = match[1], match.start(1), match.end()
        if quote == "'":
            self.notes.append("single quotes")
        if "\\" in inner:
            inner = self._escapes(inner, begin, quote)
        if quote == "'":
            inner = re.sub(r'(?<!\\)((?:\\\\)*+)"', r'\1\\"', inner)
        if _CONTROL.search(inner):
            self.notes.append("line break in a text")
        return str(json.loads(f'"{inner}"', strict=False))

    def _escapes(self, inner: str, begin: int, quote: str) -> str:
        """The string with escapes of JSON only; see `_escape`."""
        self._budget.pay(128 * inner.count("\\"))
        if _PATH.fullmatch(inner):
            self.notes.append("backslash not doubled")
            return inner.replace("\\", "\\\\")
        if _DRIVE.fullmatch(inner):
            self._unclear(inner)
        places = list(_ESCAPE.finditer(inner))
        maths = any(
            match[1] and (match[1][0] not in "bfnrt" or _IS_LATEX.match(inner, match.start(1)))
            for match in places
        )
        pieces, done = [], 0
        for match in places:
            pieces += [inner[done : match.start()], self._escape(match, inner, quote, maths)]
            done = match.end()
        return "".join([*pieces, inner[done:]])

    def _escape(self, match: re.Match[str], inner: str, quote: str, maths: bool) -> str:
        word, escape = match[1], match[0]
        if word is None:
            if escape[1] == "'":
                self.notes.append("single quotes")
                return "'"
            if escape[1] in "xU" and len(escape) > 2:
                if quote == '"':
                    raise ValueError(f"the escape {escape!r} is not JSON")
                return json.dumps(chr(int(escape[2:], 16) % 0x110000))[1:-1]
            if escape[1] in '"\\/' or len(escape) == 6:
                return escape
        elif word[0] in "bfnrt":
            if quote == "'" and _PYTHONS.search(inner):
                return escape
            place = match.start(1)
            unsure = _IS_UNSURE.match(inner, place)
            sure = _IS_LATEX.match(inner, place) is not None
            if unsure is not None:
                sure = sure or maths or inner.startswith(_MATHS, unsure.end())
            if not sure:
                before = inner[max(0, match.start() - 1) : match.start()]
                line = word[0] in "ntr" and before.isalpha()  # a line that ends in a word
                if (unsure is not None and not line) or (maths and len(word) > 1):
                    self._unclear(f"\\{word}")
                return escape
        self.notes.append("backslash not doubled")
        return "\\" + escape

    def _unclear(self, escape: str) -> None:
        named = f'"{escape[:21]}" was read as an escape of JSON; '
        self.notes.append(f"{UNCLEAR}{named}write it twice if it is meant as itself")
