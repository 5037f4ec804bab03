"""JSON Schema of documents: what is enforced, what is read, and what a hostile one cannot do."""

from __future__ import annotations

import time
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym.envs.toolscenario.schemas import document_problems
from toolgym.envs.toolscenario.tool import make_tools
from toolgym.errors import BadInputError
from toolgym.messages import ToolCall
from toolgym.tools.schemas import misfits

NODE = {
    "type": "object",
    "properties": {
        "value": {"type": "integer"},
        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
    },
    "required": ["value"],
    "additionalProperties": False,
}


def of(schema: Any, **more: Any) -> dict[str, Any]:
    """Parameters with one parameter ``x``."""
    return {"type": "object", "properties": {"x": schema}, "required": ["x"], **more}


@pytest.mark.parametrize(
    ("schema", "fits", "wrong"),
    [
        ({"type": "string", "pattern": "^[a-z]+$"}, ["abc"], ["ABC", "", 3]),
        ({"type": "string", "pattern": "^(?=.*1)a"}, ["a1"], ["a", "1"]),
        ({"minLength": 2, "maxLength": 3}, ["ab", "äöü"], ["a", "abcd"]),
        ({"minItems": 1, "uniqueItems": True}, [[1], [1, 2]], [[], [1, 1], [1, 1.0]]),
        ({"exclusiveMinimum": 0, "multipleOf": 0.1}, [0.3, 5], [0, -1, 0.25]),
        ({"oneOf": [{"type": "integer"}, {"minimum": 5}]}, [3, 5.5, "text"], [7]),
        ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, [1, 2], [0, 3]),
        ({"not": {"type": "string"}}, [1, None], ["a"]),
        ({"enum": [1, None]}, [1, 1.0, None], [True, 2, "1", False]),
        ({"const": False}, [False], [0, 0.0, None]),
        ({"type": "integer"}, [1, 1.0, 10**40], [True, 1.5, "1", None]),
        ({"type": ["string", "null"]}, ["a", None], [1, []]),
        ({"$ref": "#/$defs/node"}, [{"value": 1, "children": [{"value": 2}]}], [{}, [], 1]),
        ({"$ref": "#/$defs/node"}, [{"value": 1}], [{"value": 1, "children": [{"v": 2}]}]),
        ({"prefixItems": [{"type": "string"}], "items": False}, [["a"], []], [[1], ["a", 1]]),
        ({"type": "object", "minProperties": 1}, [{"a": 1}], [{}]),
        ({"propertyNames": {"pattern": "^a"}}, [{"ab": 1}], [{"b": 1}]),
        ({"dependentRequired": {"a": ["b"]}}, [{"a": 1, "b": 2}, {"b": 1}], [{"a": 1}]),
        ({"contains": {"type": "string"}}, [[1, "a"]], [[1], []]),
    ],
)
def test_what_is_enforced(schema: Any, fits: list[Any], wrong: list[Any]) -> None:
    parameters = of(schema, **{"$defs": {"node": NODE}})
    assert [misfits({"x": value}, parameters) for value in fits] == [[]] * len(fits)
    assert all(misfits({"x": value}, parameters) for value in wrong)
    problems = document_problems({"name": "f", "description": "Do.", "parameters": parameters})
    assert list(problems) == []


@pytest.mark.parametrize(
    ("schema", "fits", "wrong"),
    [
        ({"type": "dict", "properties": {"a": {"type": "float"}}}, [{"a": 1.5}], [{"a": "b"}, 1]),
        ({"type": "tuple", "items": {"type": "String"}}, [["a"]], [[1], "a"]),
        ({"type": "List[int]"}, [[1]], [1]),
        ({"type": "HashMap"}, [{}], [[]]),
        ({"type": ["str", "NoneType"]}, ["a", None], [1]),
        ({"type": "bool"}, [True], [1]),
        ({"type": "any"}, [1, "a", None], []),
        ({"type": "Callable"}, [1, "a"], []),
        ({"type": ["integer", "date"]}, [1, "today"], []),
        ({"type": "array", "enum": ["a", "b"]}, [["a"], []], [["c"], "a"]),
        ({"type": "array", "items": [{"type": "string"}]}, [["a"]], [[1]]),
        ({"minimum": 0, "exclusiveMinimum": True}, [1], [0]),
        ({"minimum": "0", "enum": [], "pattern": 3, "minLength": -1, "items": 3}, [1, "a"], []),
        ("the name of a city", ["Rabat", 3], []),
        ({"type": "string", "$schema": "http://example.org/none", "$id": "http://x/"}, ["a"], [1]),
        ({"$ref": "#/components/schemas/Pet"}, [{"name": "Rex"}], [{"name": 3}]),
    ],
)
def test_what_other_documents_say_is_read(schema: Any, fits: list[Any], wrong: list[Any]) -> None:
    pet = {"type": "Object", "properties": {"name": {"type": "str"}}}
    parameters = of(schema, components={"schemas": {"Pet": pet}})
    assert [misfits({"x": value}, parameters) for value in fits] == [[]] * len(fits)
    assert all(misfits({"x": value}, parameters) for value in wrong)


def test_messages_are_for_a_model() -> None:
    parameters = of({"type": "array", "minItems": 2, "items": {"enum": ["km", "mi"]}})
    assert misfits({}, parameters) == ["'x' is missing"]
    assert misfits({"x": ["km"]}, parameters) == ["'x' is ['km']: it has less than 2 items"]
    assert misfits({"x": ["km", "yd"], "y": 1}, parameters) == [
        "'x[1]' is 'yd', none of ['km', 'mi']",
        "'y' is not a parameter; parameters: x",
    ]
    near = {"type": "object", "properties": {"origin": {"type": "string"}}}
    assert "(did you mean 'origin'?)" in misfits({"orgin": "a"}, near)[0]
    many = misfits({"x": list(range(5000))}, parameters)
    assert len(many) == 11
    assert many[-1] == "and 4990 more problems"
    assert all(len(line) < 400 and "\n" not in line for line in many)


def test_names_of_several_schemas_are_known() -> None:
    parameters = {"allOf": [{"properties": {"a": {"type": "string"}}}], "properties": {"b": {}}}
    assert misfits({"a": "x", "b": 1}, parameters) == []
    assert misfits({"c": 1}, parameters)
    assert misfits({"c": 1}, {**parameters, "additionalProperties": True}) == []
    assert misfits({"needed": 1}, {"properties": {}, "required": ["needed"]}) == []


def doubling(times: int) -> dict[str, Any]:
    """References that double the work at each step."""
    steps: dict[str, Any] = {"d0": {"type": "string"}}
    for number in range(1, times):
        steps[f"d{number}"] = {"allOf": [{"$ref": f"#/$defs/d{number - 1}"}] * 2}
    return of({"$ref": f"#/$defs/d{times - 1}"}, **{"$defs": steps})


def nested(times: int, word: str = "items") -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(times):
        schema = {word: schema}
    return of(schema)


TWICE = {"items": {"$ref": "#/$defs/t"}, "contains": {"$ref": "#/$defs/t"}}


@pytest.mark.parametrize(
    "parameters",
    [
        of({"$ref": "http://127.0.0.1:9/schema.json"}),
        of({"$ref": "file:///etc/passwd"}),
        of({"$ref": "other.json#/a"}),
        of({"$ref": "#/$defs/none"}),
        of({"$ref": "#/$defs/a"}, **{"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}),
        of({"$ref": "#/$defs/a"}, **{"$defs": {"a": {"not": {"$ref": "#/properties/x"}}}}),
        of({"$dynamicRef": "#node"}),
        of({"pattern": "[a-"}),
        of({"pattern": "(a{1000}){1000}{1000}"}),
        of({"anyOf": [{"pattern": f"^{n}"} for n in range(101)]}),
        of({"$ref": "#/$defs/t"}, **{"$defs": {"t": {"allOf": [TWICE, TWICE]}}}),
        doubling(40),
        nested(61),
        nested(900, "not"),
        of({"enum": ["x" * 600_000]}),
        of({"default": object()}),
    ],
    ids=range(16),
)
def test_what_cannot_be_enforced_is_refused_at_once(parameters: dict[str, Any]) -> None:
    began = time.perf_counter()
    with pytest.raises(BadInputError) as caught:
        misfits({"x": "a"}, parameters)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    assert time.perf_counter() - began < 5.0  # hours, if the work were done


def test_hostile_values_end() -> None:
    pattern = of({"type": "string", "pattern": "^(a+)+$"})
    assert misfits({"x": "a" * 50_000 + "!"}, pattern)
    assert misfits({"x": "a" * 50_000}, pattern) == []
    backtracking = of({"type": "array", "items": {"pattern": r"^(a|a)*\1b$"}})
    assert misfits({"x": ["a" * 30] * 100}, backtracking)
    assert "too large" in misfits({"x": ["a" * 30] * 40_000}, backtracking)[0]
    deep: Any = "a"
    for _ in range(300):
        deep = [deep]
    recursive = of({"$ref": "#/$defs/t"}, **{"$defs": {"t": {"items": {"$ref": "#/$defs/t"}}}})
    assert "too deep" in misfits({"x": deep}, recursive)[0]
    assert "not JSON" in misfits({"x": "\ud800"}, of({"pattern": "a"}))[0]
    assert "not JSON" in misfits({"x": object()}, of({"type": "string"}))[0]
    assert misfits({"x": float("nan")}, of({"type": "number"}))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "get capital"}, "not a function name"),
        ({"name": "class"}, "cannot be that of a Python function"),
        ({"parameters": of({"type": "dict"})}, "has the type 'dict'"),
        ({"parameters": of({"pattern": "[a-"})}, "not valid JSON Schema"),
        ({"parameters": of({"minLength": -1})}, "not valid JSON Schema"),
        ({"parameters": of({"$ref": "http://127.0.0.1:9/"})}, "nothing is fetched"),
        ({"parameters": of({"enum": {}})}, "properties.x.enum: "),
        ({"parameters": of({}, required=["y"])}, "requires 'y', which is not among"),
        ({"parameters": nested(25)}, "levels deep"),
    ],
)
def test_documents_of_authors_are_held_to_the_standard(
    change: dict[str, Any], problem: str
) -> None:
    document = {"name": "f", "description": "Do.", "parameters": of({"type": "string"})}
    assert list(document_problems(document)) == []
    assert any(problem in found for found in document_problems({**document, **change}))


def test_names_with_dots_and_hyphens_run() -> None:
    parameters = of({"type": "integer"})
    documents = [
        {"name": name, "description": "Add one.", "parameters": parameters}
        for name in ("math.add", "math_add", "math-add")
    ]
    sources = {
        item["name"]: f"def math_add(x):\n    return x + {number}"
        for number, item in enumerate(documents)
    }
    assert not [p for document in documents for p in document_problems(document)]
    tools = make_tools(documents, sources)
    calls = [ToolCall("c", item["name"], {"x": 1}) for item in documents]
    assert [result.content for result in tools.execute(calls)] == ["1", "2", "3"]


def test_a_tool_that_cannot_be_checked_says_so_and_the_unchecked_one_runs() -> None:
    document = {"name": "f", "description": "Do.", "parameters": of({"pattern": "["})}
    sources = {"f": "def f(x='d'):\n    return x"}
    call = ToolCall("c", "f", {})
    (refused,) = make_tools([document], sources).execute([call])
    assert refused.error == "invalid_arguments"
    assert "f cannot be called" in refused.content
    (result,) = make_tools([document], sources, published=True).execute([call])
    assert (result.content, result.error) == ("d", None)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "b", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=6,
)
_SCHEMAS = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["string", "integer", "array", "object", "null"]),
            "enum": st.lists(_VALUES, min_size=1, max_size=3),
            "minimum": st.integers(-2, 2),
            "minLength": st.integers(0, 2),
            "pattern": st.sampled_from(["^a", "b$"]),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "items": inner,
            "properties": st.dictionaries(st.sampled_from("ab"), inner),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
        },
    ),
    max_leaves=6,
)


def lists_of_an_enum(schema: Any) -> bool:
    """Whether there is an array with an enumeration, wherever: it is read as that of its items."""
    if isinstance(schema, list):
        return any(map(lists_of_an_enum, schema))
    if not isinstance(schema, dict):
        return False
    kind = schema.get("type")
    own = "enum" in schema and "array" in (kind if isinstance(kind, list) else [kind])
    return own or any(map(lists_of_an_enum, schema.values()))


@given(_SCHEMAS, _VALUES)
@settings(max_examples=300)
def test_valid_schemas_mean_what_the_library_says(schema: Any, value: Any) -> None:
    expected = jsonschema_rs.Draft202012Validator(schema).is_valid(value)
    if not lists_of_an_enum(schema):
        assert (misfits({"x": value}, of(schema)) == []) == expected
