"""JSON calls: what is repaired and named, what is refused, and Llama 3's bare objects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym.checks import check_format
from toolgym.formats import get_format
from toolgym.formats.calls import REPAIRED
from toolgym.formats.repair import dumped, repaired
from toolgym.trajectory import MALFORMED_CALLS

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, values, min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("written", "meant", "repairs"),
    [
        ('{"a": 1,}', {"a": 1}, ["trailing comma"]),
        ('{"a": [1, 2, ], }', {"a": [1, 2]}, ["trailing comma"]),
        ("{'a': 'b'}", {"a": "b"}, ["single quotes"]),
        ("""{'a': 'say "x"'}""", {"a": 'say "x"'}, ["single quotes"]),
        (r"""{"a": "it\'s"}""", {"a": "it's"}, ["single quotes"]),
        ('{"a": True, "b": None}', {"a": True, "b": None}, ["Python literal"]),
        ('{a: 1, b_2: "x"}', {"a": 1, "b_2": "x"}, ["unquoted key"]),
        ('{"a": "x\ny"}', {"a": "x\ny"}, ["line break in a text"]),
        ('{"a": {"b": 1}', {"a": {"b": 1}}, ["missing closing bracket"]),
        ('{"a": [1, {"b": 2', {"a": [1, {"b": 2}]}, ["missing closing bracket"]),
        ('{"a": 1}}', {"a": 1}, ["extra closing bracket"]),
        ('```json\n{"a": 1}\n```', {"a": 1}, ["code fence"]),
        ("{'a': 1,", {"a": 1}, ["single quotes", "trailing comma", "missing closing bracket"]),
    ],
)
def test_what_is_repaired_is_named(written: str, meant: Any, repairs: list[str]) -> None:
    assert repaired(written, complete=True) == (meant, repairs)


@pytest.mark.parametrize(
    "written",
    [
        '{"a": 1}',  # valid: nothing to repair
        "{'a': 'it's'}",
        '{"a": "x',
        '{"a":',
        '{"a": 1]',
        "{a b: 1}",
        '{"a": yes}',
        '{"a": 1} and more',
        '{"a": 1}{"b": 2}',
        "",
        "none",
        "[" * 100_000,
        '{"a": // one\n 1}',
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        repaired(written, complete=True)


def test_a_reply_that_was_cut_gets_no_brackets() -> None:
    with pytest.raises(ValueError, match="ends in the middle"):
        repaired('{"a": {"b": 12', complete=False)
    parse = get_format("hermes").parse
    assert parse('<tool_call>{"name": "f", "arguments": {"n": 12').problems[0].kind == "bad_json"
    assert parse('<tool_call>{"name": "f", "arguments": {"n": 12}').calls[0].arguments == {"n": 12}


@given(objects)
def test_python_notation_is_read_as_what_it_was(value: dict[str, Any]) -> None:
    written = repr(value)
    try:
        read, _ = repaired(written, complete=True)
    except ValueError:
        # Python's own escapes (\x00) and texts with both quotes are not JSON's; valid JSON is no
        # case for repair either.
        return
    assert read == value


@given(objects, st.integers(1, 3))
def test_closing_brackets_come_back(value: dict[str, Any], missing: int) -> None:
    written = dumped(value)
    closers = len(written) - len(written.rstrip("}]"))
    cut = written[: len(written) - min(missing, closers)]
    read, repairs = repaired(cut, complete=True)
    assert read == value
    assert repairs == ["missing closing bracket"]


@given(st.text(alphabet="{}[],:'\"\\ \nabTruefNone0.9`", max_size=60))
def test_repair_never_raises_anything_else(text: str) -> None:
    try:
        value, repairs = repaired(text, complete=True)
    except ValueError:
        return
    assert repairs
    json.dumps(value)


def test_each_repair_is_a_typed_problem_and_the_call_counts() -> None:
    action = get_format("hermes").parse(
        "<tool_call>{'name': 'f', 'arguments': {'a': True,}}</tool_call>"
    )
    assert action.calls[0].arguments == {"a": True}
    assert [problem.kind for problem in action.problems] == [REPAIRED] * 3
    assert {p.message.partition("repaired: ")[2] for p in action.problems} == {
        *("single quotes", "Python literal", "trailing comma")
    }
    assert REPAIRED not in MALFORMED_CALLS


def test_llama3_holds_the_contract_of_formats() -> None:
    check_format("llama3")


@pytest.mark.parametrize(
    ("text", "thought", "calls"),
    [
        ('{"name": "f", "parameters": {"a": 1}}', "", [("f", {"a": 1})]),
        ('<|python_tag|>{"name": "f", "parameters": {}}<|eom_id|>', "", [("f", {})]),
        (
            'Both.\n{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}',
            "Both.",
            [("f", {"a": 1}), ("g", {})],
        ),
        (
            '[{"name": "f", "parameters": {}}, {"name": "g", "arguments": {}}]',
            "",
            [("f", {}), ("g", {})],
        ),
        ('{"type": "function", "name": "f", "parameters": {"a": "{"}}', "", [("f", {"a": "{"})]),
        ("{'name': 'f', 'parameters': {'a': 'b'}}", "", [("f", {"a": "b"})]),
    ],
)
def test_llama3_calls(text: str, thought: str, calls: list[tuple[str, dict[str, Any]]]) -> None:
    action = get_format("llama3").parse(text)
    assert action.thought == thought
    assert [(call.name, call.arguments) for call in action.calls] == calls
    assert action.answer is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The set {1, 2} it is.\nAnswer: 5", "5"),
        ("Paris", "Paris"),
        ('<think>{"name": "f"}</think>\nAnswer: 3', "3"),
    ],
)
def test_llama3_answers(text: str, answer: str) -> None:
    assert get_format("llama3").parse(text).answer == answer


def test_llama3_tells_what_is_wrong() -> None:
    parse = get_format("llama3").parse
    assert parse("<|python_tag|>f.call(a=1)").problems[0].kind == "no_call"
    assert parse('{"name": "f", "parameters": {"a": ').problems[0].kind == "bad_json"
    assert parse('{"name": 3, "parameters": {}}').problems[0].kind == "bad_call"


def test_reasoning_and_non_reasoning_modes_ask_for_it() -> None:
    for name in ("hermes", "llama3"):
        asks = get_format(name, "reasoning").render([], [])[0].content
        assert "<think>" in asks
        plain = get_format(name, "non_reasoning").render([], [])[0].content
        assert "think" not in plain.lower()
        reply = '<think>a {"name": "x"} b</think>Answer: 4'
        assert get_format(name, "reasoning").parse(reply).answer == "4"
