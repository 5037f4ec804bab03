"""JSON that a model wrote nearly right, put right where only one reading is possible.

Each repair is named, so that it can be told to the policy and counted. What could be read in two
ways (an unclosed text, a reply that was cut, words without quotes) is not repaired. That is why the
code is our own: json-repair, the library for this, guesses half a call into a whole one.
"""

from __future__ import annotations

import json
import re
from typing import Any

from toolgym.formats.scan import MAX_DEPTH, read_json

__all__ = ["repaired"]

_FENCE = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", re.S | re.I)
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.S)
_SINGLE = re.compile(r"'((?:[^'\\]|\\.)*)'", re.S)
_WORD = re.compile(r"[A-Za-z_]\w*")
_KEY = re.compile(r"[A-Za-z_]\w*(?=\s*:)")
_PLAIN = re.compile(r"[^\"'{}\[\],A-Za-z_]+")
_CONTROL = re.compile(r"[\x00-\x1f]")
_LITERALS = {"True": "true", "False": "false", "None": "null"}
_CLOSING = {"{": "}", "[": "]"}


def repaired(text: str, *, complete: bool) -> tuple[Any, list[str]]:
    """Read nearly valid JSON.

    Args:
        text: what stands where one JSON value should.
        complete: whether the model had finished writing; only then may closing brackets be added.

    Returns:
        The value, and what was repaired: at least one of ``code fence``, ``single quotes``,
        ``Python literal``, ``unquoted key``, ``trailing comma``, ``line break in a text``,
        ``missing closing bracket``, ``extra closing bracket``.

    Raises:
        ValueError: it cannot be repaired safely, or needs no repair that is known here.
    """
    writer = _Writer()
    fence = _FENCE.match(text)
    if fence is not None:
        writer.repairs.append("code fence")
        text = fence[1]
    writer.read(text)
    writer.close(complete)
    if not writer.repairs:
        raise ValueError("nothing that can be repaired safely")
    return read_json("".join(writer.pieces)), list(dict.fromkeys(writer.repairs))


class _Writer:
    """Copies tokens, each put right; time is linear in the text."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.repairs: list[str] = []
        self._open: list[str] = []
        self._began = False

    def read(self, text: str) -> None:
        position = 0
        while position < len(text):
            if self._began and not self._open:
                self._rest(text[position:])
                return
            position = self._token(text, position)

    def close(self, complete: bool) -> None:
        if not self._open:
            return
        if not complete or self._last() in (":", ""):
            raise ValueError("it ends in the middle")
        self._drop_comma()
        self.pieces += [_CLOSING[bracket] for bracket in reversed(self._open)]
        self.repairs.append("missing closing bracket")

    def _token(self, text: str, position: int) -> int:
        sign = text[position]
        if sign in "\"'":
            return self._quoted(text, position, sign)
        if sign in "{[":
            self._began = True
            self._open.append(sign)
            if len(self._open) > MAX_DEPTH:
                raise ValueError("it is nested too deep")
            self.pieces.append(sign)
            return position + 1
        if sign in "}]":
            if not self._open or _CLOSING[self._open[-1]] != sign:
                raise ValueError(f"{sign!r} closes nothing")
            self._open.pop()
            self._drop_comma()
            self.pieces.append(sign)
            return position + 1
        if sign == ",":
            self.pieces.append(sign)
            return position + 1
        if sign.isalpha() or sign == "_":
            return self._word(text, position)
        match = _PLAIN.match(text, position)
        if match is None:
            raise ValueError(f"{sign!r} is not expected")
        self.pieces.append(match[0])
        return match.end()

    def _quoted(self, text: str, position: int, sign: str) -> int:
        match = (_DOUBLE if sign == '"' else _SINGLE).match(text, position)
        if match is None:
            raise ValueError("a text is not closed")
        inner = match[1].replace("\\'", "'")
        if sign == "'":
            self.repairs.append("single quotes")
            inner = re.sub(r'(?<!\\)"', r"\"", inner)
        elif inner != match[1]:
            self.repairs.append("single quotes")
        if _CONTROL.search(inner):
            self.repairs.append("line break in a text")
            inner = _CONTROL.sub(lambda found: json.dumps(found[0])[1:-1], inner)
        self.pieces.append(f'"{inner}"')
        return match.end()

    def _word(self, text: str, position: int) -> int:
        key = _KEY.match(text, position)
        if key is not None and self._last() in ("{", ","):
            self.repairs.append("unquoted key")
            self.pieces.append(f'"{key[0]}"')
            return key.end()
        match = _WORD.match(text, position)
        word = match[0] if match is not None else text[position]
        if word in _LITERALS:
            self.repairs.append("Python literal")
            word = _LITERALS[word]
        elif word not in ("true", "false", "null", "e", "E"):
            raise ValueError(f"the word {word[:40]!r} has no quotes")
        self.pieces.append(word)
        return position + len(match[0] if match is not None else word)

    def _rest(self, text: str) -> None:
        rest = text.strip()
        if rest.strip("}] \t\r\n"):
            raise ValueError("more follows behind it")
        if rest:
            self.repairs.append("extra closing bracket")

    def _last(self) -> str:
        """The last sign that is no white space, or nothing."""
        for piece in reversed(self.pieces):
            if piece.strip():
                return piece.rstrip()[-1]
        return ""

    def _drop_comma(self) -> None:
        for place in range(len(self.pieces) - 1, -1, -1):
            piece = self.pieces[place].strip()
            if piece == ",":
                self.pieces[place] = ""
                self.repairs.append("trailing comma")
                return
            if piece:
                return
