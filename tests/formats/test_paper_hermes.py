"""``hermes-paper`` against a literal restatement of the published parser's rules."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from toolgym.formats import get_format

CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
REPLIES = (
    CALL,
    f"I look.\n{CALL}\n{CALL}",
    '<tool_call>{"name": "g", "arguments": "{\\"a\\": [1, null]}"}</tool_call> and so on',
    "Answer: Paris",
    "It is Paris.<|im_end|>",
    '<tool_call>{"name": "f", "arguments": {"t": "</tool_call>"}}</tool_call>',
    '<think>x</think><tool_call>call{"name": "f", "arguments": {}}',
)
PIECES = (
    *("<tool_call>", "</tool_call>", "{", "}", '"', "'", ",", "\n", " ", "", "[", "]", "cat", "<"),
    *('"name": "f"', '"name": ""', '"name": 5', '"arguments": {}', '"arguments": null', "NaN"),
    *(
        '{"name": "h", "arguments": {"k": "v"}}',
        '"arguments": "[]"',
        "\\",
        "\x00",
        "Answer: x",
        "0",
    ),
    *("True", "```json", "<|im_end|>", "\nAnswer: y", "é", "null"),
)


def published(text: str) -> list[tuple[Any, Any]]:
    """The published calls of a reply, as their code makes them."""
    calls: list[tuple[Any, Any]] = []
    begin = text.find("<tool_call>")
    for part in text[begin:].split("</tool_call>") if begin != -1 else []:
        if not part.strip().startswith("<tool_call>"):
            continue
        try:
            value = json.loads(part.strip().lstrip("<tool_call>").strip())  # noqa: B005
            if not value.get("name", None):
                continue
            given = value["arguments"]
            calls.append((value["name"], given if type(given) is dict else json.loads(given)))
        except Exception:
            continue
    return calls


def possible(call: tuple[Any, Any]) -> bool:
    """Whether a record can hold a call; theirs fails as soon as it is made."""
    name, given = call
    try:
        json.dumps(given, allow_nan=False)
    except ValueError:
        return False
    return isinstance(name, str) and isinstance(given, dict)


@pytest.mark.parametrize("seed", range(4))
def test_every_mutated_reply_is_read_as_the_published_code_does(seed: int) -> None:
    rng, parse, seen = random.Random(seed), get_format("hermes-paper").parse, set()
    for number in range(5_000):
        text = rng.choice(REPLIES) if number >= len(REPLIES) else REPLIES[number]
        for _ in range(rng.randrange(5)):
            place, length = rng.randrange(len(text) + 1), rng.choice((0, 0, 1, 3, 9))
            text = text[:place] + rng.choice(PIECES) + text[place + length :]
        calls, action = [call for call in published(text) if possible(call)], parse(text)
        assert [(call.name, call.arguments) for call in action.calls] == calls, text
        assert (action.answer is None) == bool(calls), text
        assert action.problems == ()
        seen.add((len(calls), "<tool_call>" in text))
    assert {(0, True), (0, False), (1, True), (2, True)} <= seen


def test_what_it_does_not_repair() -> None:
    ours, paper = get_format("hermes").parse, get_format("hermes-paper").parse
    broken = "<tool_call>{'name': 'f', 'arguments': {}}</tool_call>"
    assert [call.name for call in ours(broken).calls] == ["f"]
    assert (paper(broken).calls, paper(broken).answer) == ((), broken)
    assert paper("I think.\nAnswer: 7").answer == "7"
    assert [p.kind for p in paper(CALL, cut=True).problems] == ["cut_reply"]
