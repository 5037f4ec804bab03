"""Linear-time scanning shared by the codecs: labelled fields, bracketed calls, tagged spans."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

_DECODER = json.JSONDecoder()
_NAME = re.compile(r"\w[\w.-]*\Z")
_LONGEST_NAME = 64  # characters; also what keeps the search for names linear
_BRACKETS = re.compile(r"[\[\]]")
MAX_DEPTH = 50  # levels of lists and objects in arguments
_TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels"


def read_json(text: str) -> Any:
    """Read one JSON value that a policy wrote.

    Raises:
        ValueError: it is no JSON, or nested deeper than `MAX_DEPTH`: what is read here is copied
            and written again, which must not exhaust the stack.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    _check_depth(text, value)
    return value


def decode_json(text: str, position: int) -> tuple[Any, int]:
    """The JSON value that begins at a place, and where it ends.

    Raises:
        ValueError: as `read_json`.
    """
    try:
        value, end = _DECODER.raw_decode(text, position)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    _check_depth(text[position:end], value)
    return value, end


def without_think(text: str) -> str:
    """A reply without the reasoning that ends in ``</think>``."""
    end = text.rfind("</think>")
    return text[end + len("</think>") :] if end >= 0 else text


def _check_depth(text: str, value: Any) -> None:
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise ValueError(_TOO_DEEP)


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return not levels or any(_is_deeper(part, levels - 1) for part in parts)


def fields(text: str, labels: tuple[str, ...]) -> dict[str, str]:
    """Split ``Label: text`` fields, each beginning on its own line; a label's first use counts.

    Bold labels (``**Label:**``) count too. Text before the first label stands under ``""``.
    """
    found: dict[str, str] = {}
    label, start = "", 0
    for match in _field_pattern(labels).finditer(text):
        found.setdefault(label, text[start : match.start()].strip())
        label, start = match[1].capitalize(), match.end()
    found.setdefault(label, text[start:].strip())
    return found


@functools.lru_cache(maxsize=16)
def _field_pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"^[ \t]*\**({'|'.join(labels)})\**:\**[ \t]*", re.M | re.I)


def bracket_calls(text: str) -> Iterator[tuple[str, str | dict[str, Any], bool]]:
    """Find ``Name[argument]`` calls.

    Brackets nest; an argument that is a JSON object or a quoted string may hold any bracket.

    Yields:
        name, argument (text, or the object), and whether the bracket was closed.
    """
    position = 0
    while (bracket := text.find("[", position)) >= 0:
        match = _NAME.search(text[max(position, bracket - _LONGEST_NAME) : bracket])
        position = begin = bracket + 1
        if match is None:
            continue
        parsed = _json_argument(text, begin)
        if parsed is not None:
            argument, position = parsed
            yield match[0], argument, True
            continue
        end = _closing(text, begin)
        if end is None:
            yield match[0], text[begin:].strip(), False
            return
        yield match[0], text[begin:end].strip(), True
        position = end + 1


def _closing(text: str, begin: int) -> int | None:
    depth = 1
    for match in _BRACKETS.finditer(text, begin):
        depth += 1 if match[0] == "[" else -1
        if depth == 0:
            return match.start()
    return None


def _json_argument(text: str, begin: int) -> tuple[str | dict[str, Any], int] | None:
    while begin < len(text) and text[begin] in " \t":
        begin += 1
    if text[begin : begin + 1] not in ("{", '"'):
        return None
    try:
        value, end = decode_json(text, begin)
    except ValueError:
        return None
    while end < len(text) and text[end] in " \t\n":
        end += 1
    if text[end : end + 1] != "]" or not isinstance(value, str | dict):
        return None
    return value, end + 1


def spans(text: str, tag: str) -> Iterator[tuple[int, int, str, bool]]:
    """Find ``<tag>...</tag>`` spans; the last one may be unclosed.

    Yields:
        start and end offset of the whole span, the text inside, and whether it was closed.
    """
    opening, closing = f"<{tag}>", f"</{tag}>"
    position = 0
    while (start := text.find(opening, position)) >= 0:
        inside = start + len(opening)
        end = text.find(closing, inside)
        if end < 0:
            yield start, len(text), text[inside:], False
            return
        position = end + len(closing)
        yield start, position, text[inside:end], True


def plain(argument: str) -> bool:
    """Whether a text can stand in brackets as it is and be read back the same."""
    return (
        argument == argument.strip()
        and bool(argument)
        and argument[0] not in '{"'
        and _balanced(argument)
        and not _LINE_LABEL.search(argument)
    )


_LINE_LABEL = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def _balanced(text: str) -> bool:
    if "[" not in text and "]" not in text:
        return True
    depth = 0
    for match in _BRACKETS.finditer(text):
        depth += 1 if match[0] == "[" else -1
        if depth < 0:
            return False
    return depth == 0
