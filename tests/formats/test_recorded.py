"""Replies that a real model wrote, each with its reading, judged by hand.

``recorded_replies.jsonl`` holds our own runs of SmolLM2-135M-Instruct (Apache-2.0) in several
formats and environments, with worked examples and without, at the temperatures 0 and 1.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from toolgym import get_format

PARAMETERS = {
    "search": ("WikipediaSearch", "query"),
    "calculator": ("Calculator", "expression"),
    "translator": ("MachineTranslator", "text"),
}


def documents(key: str) -> list[dict[str, Any]]:
    """The tools of a row."""
    found = []
    for name, parameter in (PARAMETERS[part] for part in key.split("+") if part in PARAMETERS):
        properties = {parameter: {"type": "string"}}
        parameters = {"type": "object", "properties": properties, "required": [parameter]}
        function = {"name": name, "description": "It works.", "parameters": parameters}
        found.append({"type": "function", "function": function})
    return found


# tools end
ROWS = [
    json.loads(line)
    for line in Path(__file__).with_name("recorded_replies.jsonl").read_bytes().splitlines()
]


@pytest.mark.parametrize("name", sorted({row["format"] for row in ROWS}))
def test_each_reply_has_its_reading(name: str) -> None:
    for row in ROWS:
        if row["format"] != name:
            continue
        codec = get_format(name, row["prompt"])
        action = codec.parse(row["text"], documents(row["tools"]), cut=row["cut"])
        made = [[call.name, call.arguments] for call in action.calls]
        kinds = [problem.kind for problem in action.problems]
        assert (made, action.answer, kinds) == (row["calls"], row["answer"], row["problems"]), row


def test_what_was_cut_gives_no_answer_and_what_is_answered_was_written() -> None:
    for row in ROWS:
        assert row["answer"] is None or (row["answer"] in row["text"] and not row["cut"])
        assert not (row["calls"] and row["answer"] is not None)


def test_the_rows_are_of_many_kinds() -> None:
    kinds = Counter(kind for row in ROWS for kind in row["problems"] or ["none"])
    assert len(ROWS) >= 250
    assert {"none", "cut_reply", "no_call", "loose_answer", "wrote_result"} <= kinds.keys()
    assert {row["format"] for row in ROWS} >= {"react", "tags", "hermes", "llama3"}
