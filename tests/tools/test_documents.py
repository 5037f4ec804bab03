"""Tools of JSON Schemas: ``Tool.from_schema``."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym import Tool, ToolCall, ToolError, Toolset
from toolgym.checks import check_tool
from toolgym.errors import BadInputError
from toolgym.tools.schemas import misfits

SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "Book seats.",
    "properties": {
        "seats": {"type": "integer", "minimum": 1, "description": "how many"},
        "row": {"enum": ["front", "back", 3]},
        "guest": {"$ref": "#/$defs/Guest"},
        "price": {"type": "number"},
        "paid": {"type": "boolean"},
        "extras": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
    },
    "required": ["seats"],
    "$defs": {"Guest": {"type": "object", "properties": {"name": {"type": "string"}}}},
}


def book(**arguments: Any) -> str:
    return str(sorted(arguments.items()))


@pytest.fixture(scope="module")
def tool() -> Tool:
    return Tool.from_schema("book", SCHEMA, book, inline=True)


def test_the_document_is_kept_whole(tool: Tool) -> None:
    function = tool.schema()["function"]
    assert function["parameters"] == SCHEMA
    assert function["description"] == "Book seats."
    made = Tool.from_schema("free", {}, book, description="Do it.")
    assert made.parameters == {"type": "object", "properties": {}}
    assert made.run(ToolCall("1", "free", {})).content == "[]"
    made.close()


def test_a_call_runs_under_a_deadline(tool: Tool) -> None:
    slow = Tool.from_schema("slow", SCHEMA, _sleep, timeout=0.5)
    assert slow.run(ToolCall("1", "slow", {"seats": 1})).error == "timeout"
    slow.close()
    result = tool.run(ToolCall("1", "book", {"seats": 2, "guest": {"name": "Ann"}}))
    assert result.content == "[('guest', {'name': 'Ann'}), ('seats', 2)]"


def _sleep(**arguments: Any) -> str:
    import time

    time.sleep(30)
    return ""


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"seats": "2"}, {"seats": 2}),
        ({"seats": 2, "price": "1.5", "paid": "True"}, {"seats": 2, "price": 1.5, "paid": True}),
        ({"seats": 2, "guest": {"name": "2"}}, {"seats": 2, "guest": {"name": "2"}}),
        ({"seats": 1, "extras": '["a", null]'}, {"seats": 1, "extras": ["a", None]}),
    ],
)
def test_what_text_formats_write_is_read(
    tool: Tool, given: dict[str, Any], read: dict[str, Any]
) -> None:
    assert tool.validate(given) == read


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "'seats' is missing"),
        ({"seats": 0}, "'seats' is 0"),
        ({"seats": "two"}, "must be of type integer, not 'two'"),
        ({"seats": 1, "price": "nan"}, "must be of type number, not 'nan'"),
        ({"seats": 1, "row": "3"}, "'row' is '3', none of"),
        ({"seats": 1, "guest": {"name": 3}}, "'guest.name' must be of type string"),
        ({"seats": 1, "seat": 2}, "'seat' is not a parameter (did you mean 'seats'?)"),
        ({"seats": 1, "extras": ["a", 1]}, "'extras[1]' is 1"),
    ],
)
def test_what_does_not_fit_is_told(tool: Tool, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ToolError) as raised:
        tool.validate(given)
    assert told in str(raised.value)


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.just("front"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*SCHEMA["properties"], "other"]), _values))
def test_what_is_let_through_fits_and_what_fits_is_let_through(arguments: dict[str, Any]) -> None:
    tool = Tool.from_schema("book", SCHEMA, book, inline=True)
    try:
        read = tool.validate(arguments)
    except ToolError:
        assert misfits(arguments, SCHEMA)
    else:
        assert not misfits(read, SCHEMA)
        assert misfits(arguments, SCHEMA) or read == arguments


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "array"}, "must be a JSON Schema of type 'object'"),
        ("text", "must be a JSON Schema of type 'object'"),
        ({"type": "object", "default": float("nan")}, "is not plain JSON"),
        ({"properties": {"a": {"$ref": "https://a/b"}}}, "leads out of the document"),
        ({"properties": {"a": {"pattern": "("}}}, "cannot be enforced"),
        ({"properties": {}}, "needs a description"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: Any, told: str) -> None:
    with pytest.raises(BadInputError, match="tool 'f'") as raised:
        Tool.from_schema("f", schema, book)
    assert told in str(raised.value)


def test_it_travels_and_is_copied_like_any_tool(tool: Tool) -> None:
    twin: Tool = pickle.loads(pickle.dumps(tool))
    assert twin.describe() == tool.describe()
    changed = copy.deepcopy(tool)
    changed.parameters["properties"]["seats"]["minimum"] = 5
    with pytest.raises(ToolError):
        changed.validate({"seats": 2})
    assert tool.validate({"seats": 2}) == {"seats": 2}
    check_tool(tool)
    assert Toolset([tool]).names == ["book"]
