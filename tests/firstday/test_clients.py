"""OpenAI's real client, and the format ``native``, against a service over real HTTP."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from chat_service import ARGUMENTS, ChatService
from hypothesis import given
from hypothesis import strategies as st

from toolgym import Message, ToolCall, export, rollout
from toolgym.errors import BadInputError, EndpointError, PolicyError
from toolgym.formats import Action, get_format
from toolgym.policies.base import Request, make_policy
from toolgym.policies.clients import anthropic_messages, as_completion
from toolgym.policies.local.chat import TokenChat
from toolgym.training.trl_environment import trl_environment

ENV = "ToolQA-GSM8K-v0"
TASKS = [{"id": "a", "question": "What is 6 times 7?", "answers": ["42"]}]


@pytest.fixture
def service() -> Iterator[ChatService]:
    with ChatService() as made:
        yield made


def args(format: str = "native", **more: Any) -> dict[str, Any]:
    return {"format": format, "tasks": TASKS, "tools": ["Calculator"], **more}


MADE = list[Any]()


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Who makes a client closes it: a connection that is left open is a warning in a later test."""
    yield
    while MADE:
        found = MADE.pop().close()
        if found is not None:
            asyncio.run(found)
    gc.collect()


def client_of(service: ChatService, kind: Any = openai.OpenAI) -> Any:
    MADE.append(kind(base_url=f"{service.root}/v1", api_key="k", max_retries=0))
    return MADE[-1]


@pytest.mark.parametrize("kind", [openai.OpenAI, openai.AsyncOpenAI])
@pytest.mark.parametrize("format", ["native", "react"])
def test_a_client_object_plays(service: ChatService, kind: Any, format: str) -> None:
    with_args = {"model": "m", "temperature": 0.5}
    run = rollout(
        ENV, client_of(service, kind), env_args=args(format), policy_args=with_args, episodes=1
    )
    (trajectory,) = run
    assert (trajectory.reward, trajectory.answer) == (1.0, "42")
    first, second = service.bodies
    assert (first["model"], first["temperature"]) == ("m", 0.5)
    assert ("tools" in first, "stop" in first) == (format == "native", format == "react")
    assert run.settings["policy"] == {
        "policy": "openai",
        "model": "m",
        "base_url": f"{service.root}/v1/",
        "temperature": 0.5,
        "native_tools": False,
    }
    if format == "native":
        said, told = second["messages"][-2:]
        call = said["tool_calls"][0]
        assert json.loads(call["function"]["arguments"]) == ARGUMENTS
        assert (told["role"], told["tool_call_id"], told["content"]) == ("tool", call["id"], "42")
        assert [m.role for m in trajectory.messages] == [
            *("system", "user", "assistant", "tool", "assistant")
        ]


def test_by_name_with_the_services_own_counts(
    service: ChatService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{service.root}/v1")
    (trajectory,) = rollout(ENV, "openai:m", env_args=args(max_tokens=10), episodes=1)
    assert trajectory.metrics == {"tokens_written": 10.0}
    assert [body["max_tokens"] for body in service.bodies] == [10, 5]
    assert trajectory.answer == "42"


def test_a_field_that_is_refused_is_left_out() -> None:
    with ChatService(refuse=("seed",)) as service, pytest.warns(RuntimeWarning, match="seed"):
        (trajectory,) = rollout(
            ENV, client_of(service), env_args=args(), policy_args={"model": "m"}, episodes=1
        )
    assert trajectory.answer == "42"
    assert "seed" not in service.bodies[-1]


@pytest.mark.parametrize(
    ("status", "kind"), [(429, "rate_limit"), (500, "server"), (401, "refused")]
)
def test_failures_are_typed(service: ChatService, status: int, kind: str) -> None:
    service.status = status
    run = rollout(ENV, client_of(service), env_args=args(), policy_args={"model": "m"}, episodes=1)
    (row,) = run.failures()
    assert (row["boundary"], row["kind"]) == ("policy", kind)


def test_a_service_that_is_not_there() -> None:
    gone = client_of(SimpleNamespace(root="http://127.0.0.1:9"))  # type: ignore[arg-type]
    run = rollout(ENV, gone, env_args=args(), policy_args={"model": "m"}, episodes=1)
    assert run.failures()[0]["kind"] == "connection"


def test_what_is_refused_at_once(service: ChatService, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInputError, match="which model"):
        rollout(ENV, client_of(service), env_args=args())
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BadInputError, match="OpenAI cannot be made"):
        make_policy("openai:m")
    with ThreadPoolExecutor(1) as pool, pytest.raises(BadInputError, match="cannot be sent"):
        rollout(
            *(ENV, client_of(service)),
            env_args=args(),
            policy_args={"model": "m"},
            executor=pool,
        )


class Anthropic:
    """A client whose ``messages.create`` answers as the service does."""

    def __init__(self, service: ChatService) -> None:
        self.bodies = list[dict[str, Any]]()
        self.messages = SimpleNamespace(create=self.create)
        self._service = service

    def create(self, **body: Any) -> Any:
        self.bodies.append(body)
        return self._service.answer("/v1/messages", body)[1]


@pytest.mark.parametrize("format", ["native", "react"])
def test_anthropics_messages(service: ChatService, format: str) -> None:
    client = Anthropic(service)
    (trajectory,) = rollout(
        ENV, client, env_args=args(format), policy_args={"model": "m"}, episodes=1
    )
    assert trajectory.answer == "42"
    first, second = client.bodies
    assert first["max_tokens"] == 4096
    assert first["system"].startswith("Answer the question")
    assert [m["role"] for m in second["messages"]] == ["user", "assistant", "user"]
    if format == "native":
        assert first["tools"][0]["input_schema"]["type"] == "object"
        assert second["messages"][1]["content"][0]["input"] == ARGUMENTS
        assert second["messages"][2]["content"][0]["type"] == "tool_result"


def test_conversations_in_anthropics_shape() -> None:
    calls = (ToolCall("a", "f", {"x": 1}), ToolCall("b", "g", {}))
    said = [
        Message("system", "S"),
        Message("user", "Q"),
        Message("assistant", "T", calls),
        Message("tool", "1", (), "a", "f"),
        Message("tool", "2", (), "b", "g"),
        Message("user", "U"),
    ]
    system, messages = anthropic_messages([message.to_chat() for message in said])
    assert system == "S"
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert [part["type"] for part in messages[1]["content"]] == ["text", "tool_use", "tool_use"]
    assert [part["type"] for part in messages[2]["content"]] == ["tool_result"] * 2 + ["text"]
    with pytest.raises(EndpointError, match="no message"):
        as_completion({"content": None})


TEXTS = st.text(st.characters(exclude_categories=("Cs",)))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(
    TEXTS.map(str.strip),
    st.lists(
        st.tuples(st.from_regex(r"\w+", fullmatch=True), st.dictionaries(TEXTS, JSON)),
        min_size=1,
        max_size=4,
    ),
)
def test_native_messages_are_texts_without_loss(thought: str, made: list[Any]) -> None:
    codec = get_format("native")
    calls = tuple(ToolCall(f"call_{n}", name, given) for n, (name, given) in enumerate(made))
    action = Action(thought, calls)
    assert codec.parse(codec.write(action)) == action


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    for cut in (False, True):
        action = get_format("native").parse(text, cut=cut)
        assert not (cut and action.answer)


@pytest.mark.parametrize("text", ['{"tool_calls": []}', '{"content": "x", "tool_calls": [{}]}'])
def test_contents_that_look_like_messages_are_kept(text: str) -> None:
    codec = get_format("native")
    assert codec.parse(codec.write(Action("", (), text))).answer == text


def test_rows_to_train_on_have_calls_and_tools(service: ChatService, tmp_path: Path) -> None:
    run = rollout(ENV, client_of(service), env_args=args(), policy_args={"model": "m"}, episodes=1)
    for style, roles in (("auto", ["system", "user"]), ("native", ["user"])):
        out = tmp_path / f"{style}.jsonl"
        export(run, "sft", style=style, out=out)
        (row,) = map(json.loads, out.read_text(encoding="utf-8").splitlines())
        assert [m["role"] for m in row["messages"]] == [*roles, "assistant", "tool", "assistant"]
        call = row["messages"][-3]["tool_calls"][0]["function"]
        assert (call["name"], call["arguments"]) == ("Calculator", ARGUMENTS)
        tools = json.loads(row["tools"]) if isinstance(row["tools"], str) else row["tools"]
        assert tools[0]["function"]["name"] == "Calculator"


def test_trl_plays_it_and_a_local_model_says_what_to_take() -> None:
    world = trl_environment(ENV, args())
    assert [message["role"] for message in world.rows[0]["prompt"]] == ["system", "user"]
    chat = object.__new__(TokenChat)
    (refused,) = chat.prompts([Request([], [], get_format("native"))])
    assert isinstance(refused, PolicyError)
    assert "hermes or llama3" in str(refused)


def test_examples_are_messages_with_calls(service: ChatService) -> None:
    (trajectory,) = rollout(
        ENV,
        client_of(service),
        env_args=args(examples=1),
        policy_args={"model": "m"},
        episodes=1,
    )
    shown = trajectory.messages[: trajectory.opening]
    assert [message.role for message in shown[:4]] == ["system", "user", "assistant", "tool"]
    assert shown[2].tool_calls[0].id == shown[3].tool_call_id
