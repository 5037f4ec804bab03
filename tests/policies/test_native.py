"""Replies as messages of clients: what is read, what is repaired, and how results go back."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym import rollout
from toolgym.data.chat import conversation
from toolgym.errors import PolicyError
from toolgym.formats import get_format
from toolgym.messages import Message, ToolCall
from toolgym.policies.base import Reply, Request, past_results
from toolgym.policies.requests import read_native

ENV = "ToolQA-GSM8K-v0"
FORMATS = ("hermes", "llama3", "react", "tags")


def asked(format: str = "hermes") -> Request:
    return Request([], [], get_format(format))


def openai_message(arguments: Any = '{"expression": "1+1"}', content: Any = None) -> Any:
    types = pytest.importorskip("openai.types.chat")
    call = {
        "id": "call_x9",
        "type": "function",
        "function": {"name": "Calculator", "arguments": arguments},
    }
    return types.ChatCompletionMessage(role="assistant", content=content, tool_calls=[call])


def openai_completion() -> Any:
    types = pytest.importorskip("openai.types.chat")
    choice = {"index": 0, "finish_reason": "tool_calls", "message": openai_message().model_dump()}
    return types.ChatCompletion(
        id="1", object="chat.completion", created=1, model="m", choices=[choice]
    )


def langchain_message() -> Any:
    """The fields of ``langchain_core.messages.AIMessage``."""
    call = {
        "name": "Calculator",
        "args": {"expression": "1+1"},
        "id": "call_x9",
        "type": "tool_call",
    }
    return SimpleNamespace(
        content=[{"type": "text", "text": ""}],
        type="ai",
        tool_calls=[call],
        invalid_tool_calls=[],
        response_metadata={"finish_reason": "tool_calls"},
    )


CHAT = {"content": "", "tool_calls": [openai_message().model_dump()["tool_calls"][0]]}
PLAIN = {
    "tool_calls": [
        {"id": "call_x9", "function": {"name": "Calculator", "arguments": {"expression": "1+1"}}}
    ]
}
SHAPES: dict[str, Any] = {
    "message object": openai_message(),
    "model_dump": openai_message().model_dump(),
    "completion": openai_completion(),
    "completion dumped": openai_completion().model_dump(),
    "AIMessage": langchain_message(),
    "chat dict, arguments as text": CHAT,
    "chat dict, arguments as a dict": PLAIN,
    "Message": Message(
        "assistant", "", (ToolCall("call_x9", "Calculator", {"expression": "1+1"}),)
    ),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_results_go_back_as_the_calls_came(shape: str, format: str) -> None:
    heard: list[list[dict[str, Any]]] = []

    def policy(messages: Any, tools: Any) -> Any:
        heard.append(messages)
        answer = "<answer>2</answer>" if format == "tags" else "Answer: 2"
        return SHAPES[shape] if len(heard) == 1 else {"content": answer}

    (episode,) = rollout(ENV, policy, episodes=1, env_args={"format": format})
    step = episode.steps[0]
    assert [(c.id, c.name, c.arguments) for c in step.calls] == [
        ("call_0", "Calculator", {"expression": "1+1"})
    ]
    assert (step.results[0].content, step.problems) == ("2", ())
    assert get_format(format).parse(step.action, episode.tools).calls[0].arguments == {
        "expression": "1+1"
    }
    said, told = heard[1][-2:]
    as_text = shape not in ("chat dict, arguments as a dict", "Message")
    arguments: Any = {"expression": "1+1"}
    function = {
        "name": "Calculator",
        "arguments": json.dumps(arguments) if as_text else arguments,
    }
    assert said == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_x9", "type": "function", "function": function}],
    }
    assert told == {
        "role": "tool",
        "content": "2",
        "tool_call_id": "call_x9",
        "name": "Calculator",
    }
    # The record holds objects, whatever the client sent, and reads back.
    again = type(episode).from_row(json.loads(episode.to_line()))
    assert again == episode
    assert again.messages[-3].tool_calls[0].arguments == arguments
    _, rest, tools = conversation(episode, "as_played")
    assert rest[0]["tool_calls"][0]["function"]["name"] == "Calculator"
    assert tools is not None
    request = Request(heard[1], episode.tools, get_format(format))
    assert [(call.name, text) for call, text in past_results(request)] == [("Calculator", "2")]


@pytest.mark.parametrize(
    ("arguments", "expected", "problems"),
    [
        ("null", {}, []),
        ("", {}, []),
        (None, {}, []),
        ("  ", {}, []),
        ('{"expression": "1+1"}', {"expression": "1+1"}, []),
        (json.dumps('{"expression": "1+1"}'), {"expression": "1+1"}, ["repaired_json"]),
        ('{"expression": "1+1"', {"expression": "1+1"}, ["repaired_json"]),
        ("{'expression': '1+1'}", {"expression": "1+1"}, ["repaired_json"]),
        ('[{"expression": "1+1"}]', {"expression": "1+1"}, ["repaired_json"]),
        ([{"expression": "1+1"}], {"expression": "1+1"}, ["repaired_json"]),
        ("{expression: one plus one}", None, ["bad_json"]),
        ("1+1", None, ["bad_json"]),
        ("5", None, ["bad_call"]),
        ([1], None, ["bad_call"]),
        (r'{"expression": "\frac{1}{2}"}', {"expression": r"\frac{1}{2}"}, ["repaired_json"]),
        ('{"expression": NaN}', None, ["bad_json"]),
        ('{"expression": 1e999}', None, ["bad_json"]),
        ({"expression": float("inf")}, None, ["bad_json"]),
        ({"expression": {1: 2}}, None, ["bad_json"]),
        ({"expression": object()}, None, ["bad_json"]),
        ({"expression": 10**5000}, None, ["bad_json"]),
    ],
)
@pytest.mark.parametrize("format", FORMATS)
def test_native_calls_are_repaired_as_written_ones(
    arguments: Any, expected: Any, problems: list[str], format: str
) -> None:
    said = {
        "content": "So.",
        "tool_calls": [{"id": "a", "name": "Calculator", "arguments": arguments}],
    }
    replies = [said, "<answer>5</answer>" if format == "tags" else "Answer: 5"]

    def policy(messages: Any, tools: Any) -> Any:
        return replies[sum(m["role"] == "assistant" for m in messages)]

    (episode,) = rollout(ENV, policy, episodes=1, env_args={"format": format})
    step = episode.steps[0]
    assert [call.arguments for call in step.calls] == ([] if expected is None else [expected])
    assert [problem.kind for problem in step.problems] == problems
    assert len(episode.steps) == 2
    if expected is None:
        assert step.observation.startswith("The reply could not be used: ")
        assert "tool call 1" in step.observation
        assert episode.messages[-3] == Message("assistant", step.action)


def test_a_broken_call_is_kept_as_it_was_written() -> None:
    call = {"name": "Calculator", "arguments": "{expression: one}"}
    reply = read_native({"tool_calls": [call]}, asked())
    assert reply.text == (
        '<tool_call>\n{"name": "Calculator", "arguments": {expression: one}}\n</tool_call>'
    )
    assert [p.kind for p in asked().format.parse(reply.text).problems] == ["bad_json"]


@pytest.mark.parametrize("reason", ["length", "max_tokens"])
def test_cut_messages(reason: str) -> None:
    call = {"name": "Calculator", "arguments": '{"expression": "1+1"'}
    for said in (
        {"finish_reason": reason, "content": "", "tool_calls": [call]},
        {"choices": [{"finish_reason": reason, "message": {"tool_calls": [call]}}]},
        SimpleNamespace(content="", tool_calls=[call], response_metadata={"stop_reason": reason}),
    ):
        reply = read_native(said, asked())
        assert reply.cut
        assert reply.said is not None
        assert ([p.kind for p in reply.said.problems], reply.said.calls) == (["bad_json"], ())


def test_ids_that_cannot_tell_calls_apart_are_made() -> None:
    calls = [{"id": i, "name": "Calculator", "arguments": {}} for i in ("a", "a", None, "", 7)]
    reply = read_native({"tool_calls": calls}, asked())
    assert reply.said is not None
    assert [call.id for call in reply.said.calls] == ["a", "", "", "", ""]


@pytest.mark.parametrize(
    "value",
    [
        {"role": "user", "content": "x"},
        {"content": 5},
        {"content": "", "tool_calls": [{"function": {"arguments": "{}"}}]},
        {"content": "", "tool_calls": 5},
        SimpleNamespace(text="x"),
        object(),
        b"Answer: 5",
    ],
)
def test_what_is_not_a_reply(value: Any) -> None:
    with pytest.raises(PolicyError, match=r"^the policy returned|^a policy returns"):
        read_native(value, asked())


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["content", "tool_calls", "function", "name", "arguments", "id", "role"]
                )
                | st.integers(),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
@settings(max_examples=300, deadline=None)
def test_any_value_gives_a_reply_or_a_policy_error(value: Any) -> None:
    for name in FORMATS:
        try:
            reply = read_native(value, asked(name))
        except PolicyError:
            continue
        assert isinstance(reply, Reply)
        assert isinstance(reply.text, str)
