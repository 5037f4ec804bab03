"""Docstrings of Google's, NumPy's, reST's and Epydoc's style as the documentation of tools."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection
from contextlib import suppress

from docstring_parser import Docstring, epydoc, numpydoc, rest
from docstring_parser.google import DEFAULT_SECTIONS, GoogleParser, Section, SectionType

__all__ = ["read_docstring"]

_PARAMETERS = ["Args", "Arguments", "Params", "Parameters"]
_MORE_PARAMETERS = ["Keyword Args", "Keyword Arguments", "Other Parameters"]
_OTHERS = ["Returns", "Return", "Yields", "Yield", "Raises", "Raise", "Exceptions", "Except"]
_OTHERS += ["Warns", "Warning", "Warnings", "Example", "Examples", "Note", "Notes", "See Also"]
_OTHERS += ["References", "Attributes", "Methods", "Todo", "Side Effects"]
_FIELDS = (
    "params?|parameter|arg|argument|key|kwarg|keyword|attribute|type|returns?|rtype|yields?|ytype"
    "|raises?|except|exception|i?var|cvar|meta|note|see|todo|since|deprecated|version|author"
)
_TITLES = "|".join((*_PARAMETERS, *_MORE_PARAMETERS, *_OTHERS))
# Where the text ends and the fields of some style, a directive or an example begin.
_END = re.compile(
    rf"^(?:(?:{_TITLES})\s*:[ \t]*$|(?:{_TITLES})[ \t]*\n[ \t]*-{{3,}}[ \t]*$"
    rf"|[:@](?:{_FIELDS}|{_TITLES})\b[^:\n]*:|\.\.[ \t]+[\w-]+::|>>>[ \t])",
    re.M,
)
_RULER = re.compile(r"^[-=~^*]{3,}[ \t]*$", re.M)  # below a heading
# In Google's style an entry has a colon; a line without one goes on with the entry before it, also
# where it is indented no deeper.
_GOING_ON = re.compile(r"^([ \t]+)(?=[^:\n]+$)", re.M)

_google = GoogleParser(
    [
        *DEFAULT_SECTIONS,
        *(Section(title, "param", SectionType.MULTIPLE) for title in _MORE_PARAMETERS),
        *(Section(title, "other", SectionType.SINGULAR) for title in _OTHERS),
    ]
)


def read_docstring(text: str, parameters: Collection[str]) -> tuple[str, dict[str, str]]:
    """A docstring's text, and what it says about parameters; never an exception.

    Of the styles, the one that describes most of the parameters is believed: a text may look like a
    field of another one, such as a line that begins with a sign of reST.

    Args:
        text: the docstring.
        parameters: the function's own; what is said about others is left out.

    Returns:
        The text with its lines joined, and ``{parameter: description}``.
    """
    text = inspect.cleandoc(text)
    found = _END.search(text)
    description = _RULER.sub("", text[: found.start()] if found else text)
    best: dict[str, str] = {}
    for read in (_google_style, numpydoc.parse, rest.parse, epydoc.parse):
        with suppress(Exception):  # beside ParseError they let IndexError and others out
            described = _described(read(text), parameters)
            best = max(best, described, key=len)
    return " ".join(description.split()), best


def _google_style(text: str) -> Docstring:
    return _google.parse(_GOING_ON.sub(r"\1    ", text))


def _described(read: Docstring, parameters: Collection[str]) -> dict[str, str]:
    described: dict[str, str] = {}
    for entry in read.params:
        for name in entry.arg_name.split(","):  # NumPy's style describes several at once
            plain = name.strip().lstrip("*\\")
            if plain in parameters and plain not in described:
                described[plain] = " ".join((entry.description or "").split())
    return {name: text for name, text in described.items() if text}
