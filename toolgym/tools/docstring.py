"""Google docstrings: the summary and the ``Args:`` section, which become a tool's documentation."""

from __future__ import annotations

import inspect
import re

_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):\s*$")
_ENTRY = re.compile(r"^(\*{0,2}\w+)\s*(?:\([^)]*\))?:\s*(.*)$")


def parse_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into its description and its parameters' descriptions.

    Args:
        text: the docstring, already dedented (`inspect.getdoc`).

    Returns:
        The description with its lines joined, and ``{parameter: description}``.
    """
    description: list[str] = []
    parameters: dict[str, list[str]] = {}
    section, current = "", ""
    for line in inspect.cleandoc(text).splitlines():
        heading = _SECTION.match(line)
        if heading:
            section = heading[1]
        elif not section:
            description.append(line.strip())
        elif section in ("Args", "Arguments", "Parameters"):
            entry = _ENTRY.match(line.strip())
            # A continuation line is indented deeper than the entry it belongs to.
            if entry and len(line) - len(line.lstrip()) <= 4:
                current = entry[1]
                parameters[current] = [entry[2]]
            elif current and line.strip():
                parameters[current].append(line.strip())
    joined = {name: " ".join(part for part in parts if part) for name, parts in parameters.items()}
    return " ".join(line for line in description if line), joined
