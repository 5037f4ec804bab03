"""The bridge to verifiers, over a small stand-in of its interface and a model on loopback."""

from __future__ import annotations

import asyncio
import functools
import importlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any, Generic, TypeVar, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from toolgym import Task, TaskSet, ToolEnv, Toolset, Trajectory, get_format, tool
from toolgym.errors import BadInputError, EndpointError, MissingExtraError, UnknownNameError
from toolgym.grading.rubric import Rubric
from toolgym.rollouts.playing import open_env

web = pytest.importorskip("aiohttp.web")

ENV = "ToolQA-PopQA-v0"
CALL = "Thought: I look.\nAction: WikipediaSearch[George Rankin]"
NAMES = ("verifiers", "verifiers.v1", "verifiers.v1.dialects", "verifiers.v1.dialects.chat")

A, B = TypeVar("A"), TypeVar("B")


class TaskData(BaseModel):
    model_config = ConfigDict(frozen=True)
    id: str | None = None
    name: str | None = None
    prompt: Any = None
    system_prompt: str | None = None


class TheirTask(Generic[A]):
    scoring_deferred = False

    def __init__(self, data: Any, config: Any = None) -> None:
        self.data, self.config = data, config

    async def score(self, trace: Any, runtime: Any = None) -> None:
        trace.record_metric("theirs", 1.0)


class Taskset(Generic[A, B]):
    def __init__(self, config: Any) -> None:
        self.config = config


class Harness(Generic[A]):
    def __init__(self, config: Any = None) -> None:
        self.config = config

    def resolve_prompt(self, task: Any) -> tuple[str | None, Any]:
        return task.system_prompt, task.prompt


class Env(Generic[A]):
    pass


class SingleAgentEnv(Env[A]):
    pass


class Config(BaseModel):
    id: str = ""
    task: Any = None


class SubprocessConfig(BaseModel):
    type: str = "subprocess"


class AgentConfig(BaseModel):
    runtime: Any = None


@dataclass
class Trace:
    """What the bridge writes into a trace of verifiers."""

    info: dict[str, Any] = field(default_factory=dict)
    rewards: dict[str, tuple[float, float]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    stop_condition: str | None = None

    def record_reward(self, name: str, value: float, weight: float) -> None:
        self.rewards[name] = value, weight

    def record_metric(self, name: str, value: float) -> None:
        self.metrics[name] = value

    def stop(self, condition: str) -> None:
        self.stop_condition = self.stop_condition or condition


def stand_in() -> dict[str, ModuleType]:
    """Modules of verifiers by name, as far as the bridge asks for them."""
    modules = {name: ModuleType(name) for name in NAMES}
    vars(modules["verifiers.v1"]).update(
        TasksetConfig=Config,
        TaskData=TaskData,
        Task=TheirTask,
        Taskset=Taskset,
        Harness=Harness,
        HarnessConfig=Config,
        Env=Env,
        SingleAgentEnv=SingleAgentEnv,
        SingleAgentEnvConfig=Config,
        AgentConfig=AgentConfig,
        SubprocessConfig=SubprocessConfig,
        ProgramResult=SimpleNamespace,
    )
    chat = modules["verifiers.v1.dialects.chat"]
    vars(chat).update(parse_message=lambda raw: ("parsed", raw), message_to_wire=lambda m: m[1])
    return modules


@pytest.fixture(scope="module")
def bridge() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_in().items():
            patch.setitem(sys.modules, name, module)
        patch.delitem(sys.modules, "toolgym.bridges.verifiers", raising=False)
        yield importlib.import_module("toolgym.bridges.verifiers")
    sys.modules.pop("toolgym.bridges.verifiers", None)


@functools.cache
def world() -> ToolEnv:
    return open_env(ENV, {"max_steps": 4}).env


def taskset(bridge: Any, env: str = ENV, native: bool = False, **args: Any) -> Any:
    config = {"id": "mine", "env": env, "env_args": {"max_steps": 4, **args}}
    return bridge.ToolgymTaskset(bridge.ToolgymTasksetConfig(**config, native_tools=native))


def first(tasks: Any, number: int = 0) -> Any:
    return list(tasks.load())[number]


@dataclass
class Model:
    """A model's server on loopback: one reply after the other, each a message or a status."""

    replies: Sequence[Any]
    finish: str | None = "stop"
    trace: Trace | None = None
    stops: dict[str, Any] = field(default_factory=lambda: {"stop_reason": None})
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    async def answer(self, request: Any) -> Any:
        self.bodies.append(await request.json())
        self.keys.append(request.headers["Idempotency-Key"])
        assert request.headers["Authorization"] == "Bearer secret"
        reply = self.replies[len(self.bodies) - 1]
        if reply == "limit":
            assert self.trace is not None
            self.trace.stop("max_total_tokens")
            return web.json_response({"error": "rollout stopped"}, status=400)
        if isinstance(reply, int):
            return web.Response(status=reply, text=f"status {reply}")
        if isinstance(reply, bytes):
            return web.Response(body=reply)
        message = {"role": "assistant", "content": reply} if isinstance(reply, str) else reply
        choice = {"index": 0, "message": message, "finish_reason": self.finish, **self.stops}
        return web.json_response({"choices": [choice]})

    async def play(self, bridge: Any, task: Any, client: str = "eval") -> Trace:
        """Play a task in the harness, as verifiers calls it."""
        self.trace = self.trace or Trace()
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        where = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        context = SimpleNamespace(model="m", client=SimpleNamespace(type=client))
        harness = bridge.ToolgymHarness(Config())
        try:
            given = (context, self.trace, None, where, "secret", {}, task.data)
            result = await harness.launch(*given)
            assert result.exit_code == 0
        finally:
            await runner.cleanup()
        return self.trace


def record(trace: Trace) -> Trajectory:
    return Trajectory.from_row(trace.info["toolgym"]["trajectory"])


@pytest.fixture(autouse=True)
def no_pause(bridge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_PAUSE", 0.001)


def test_without_verifiers_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES[1:]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "verifiers", None)
    kept = sys.modules.get("toolgym.bridges.verifiers")
    monkeypatch.delitem(sys.modules, "toolgym.bridges.verifiers", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'toolgym\[verifiers\]'") as failure:
        importlib.import_module("toolgym.bridges.verifiers")
    assert "\n" not in str(failure.value)
    if kept is not None:
        monkeypatch.setitem(sys.modules, "toolgym.bridges.verifiers", kept)


def test_a_module_exports_one_class_of_each_kind(bridge: Any) -> None:
    found = {getattr(bridge, name) for name in bridge.__all__}
    assert found == {bridge.ToolgymEnv, bridge.ToolgymHarness, bridge.ToolgymTaskset}


def test_tasks_carry_the_opening_and_no_answers(bridge: Any) -> None:
    tasks = list(taskset(bridge).load())
    assert [task.key for task in tasks] == [task.id for task in world().tasks]
    _, info = world().clone().reset(options={"task": 2})
    system, user = info["messages"]
    assert (tasks[2].data.system_prompt, tasks[2].data.prompt) == (
        system["content"],
        user["content"],
    )
    told = tasks[2].data.model_dump_json()
    assert not any(f'"{answer}"' in told for answer in world().tasks[2].answers)
    several = first(taskset(bridge, examples=1)).data.prompt
    assert [chat["role"] for _, chat in several][:2] == ["user", "assistant"]
    assert first(taskset(bridge, prompt="bare", format="hermes")).data.system_prompt is None


@pytest.mark.parametrize(
    ("env", "args", "error", "message"),
    [
        ("", {}, BadInputError, "no environment is named"),
        ("ToolQA-PopQ-v0", {}, UnknownNameError, "did you mean 'ToolQA-PopQA-v0'"),
        (ENV, {"max_stps": 1}, BadInputError, "did you mean 'max_steps'"),
    ],
)
def test_a_taskset_of_nothing_is_refused(
    bridge: Any, env: str, args: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        first(taskset(bridge, env, **args))


replies = st.lists(
    st.one_of(
        st.sampled_from([CALL, "Answer: Troyes", "Action: Calculator[1/0]", "Action: Nothing[x]"]),
        st.text(max_size=40),
    ),
    min_size=4,
    max_size=4,
)


@given(number=st.integers(0, 20), texts=replies)
@settings(max_examples=30, deadline=None)
def test_an_episode_is_the_environments_own(bridge: Any, number: int, texts: list[str]) -> None:
    env, model = world().clone(), Model(texts)
    trace = asyncio.run(model.play(bridge, first(taskset(bridge), number)))
    _, info = env.reset(options={"task": number})
    for turn, text in enumerate(texts):
        sent = model.bodies[turn]
        assert sent["messages"] == info["messages"]
        assert (sent["model"], sent["stop"]) == ("m", list(env.format.stop))
        assert "seed" not in sent, "rollouts of one task must differ"
        *_, info = env.step(text)
        if env.ended:
            break
    assert len(model.bodies) == len(env.trajectory.steps)
    ours, theirs = env.trajectory, record(trace)
    assert theirs.messages == ours.messages
    assert [s.action for s in theirs.steps] == [s.action for s in ours.steps]
    assert [s.reward_parts for s in theirs.steps] == [s.reward_parts for s in ours.steps]
    assert trace.stop_condition == ("max_turns" if ours.truncated else None)


def test_rewards_are_the_parts_by_name_with_their_weights(bridge: Any) -> None:
    rubric = {"accuracy": 2.0, "token_f1": 0.0, "exact_match": -1.0}
    task = first(taskset(bridge, reward=rubric))
    gold = world().tasks[0].target
    trace = asyncio.run(Model([CALL, f"Answer: {gold}"]).play(bridge, task))
    asyncio.run(task.score(trace))
    assert trace.rewards == {"accuracy": (1.0, 2.0), "exact_match": (1.0, -1.0)}
    assert trace.metrics == {"theirs": 1.0, "token_f1": 1.0}
    assert sum(v * w for v, w in trace.rewards.values()) == record(trace).reward == 1.0
    late = Trace(info=trace.info)
    task.scoring_deferred = True
    asyncio.run(task.score(late))
    assert late.rewards == {}
    task.scoring_deferred = False
    with pytest.raises(BadInputError, match="leave the harness of the agent to the taskset's own"):
        asyncio.run(task.score(Trace()))


def called(name: str, arguments: str, call_id: str | None = "chatcmpl-7") -> dict[str, Any]:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return call if call_id is None else {"id": call_id, **call}


def test_native_calls_keep_the_ids_that_they_came_with(bridge: Any) -> None:
    task = first(taskset(bridge, native=True, format="hermes"))
    search = called("WikipediaSearch", '{"query":  "George Rankin"}')
    said = {"role": "assistant", "content": "I look.", "tool_calls": [search]}
    model = Model([said, "Answer: Troyes"])
    trace = asyncio.run(model.play(bridge, task))
    assert [one["function"]["name"] for one in model.bodies[0]["tools"]][1] == "WikipediaSearch"
    *_, again, result = model.bodies[1]["messages"]
    assert again == said, "word by word, or verifiers does not know its own reply"
    assert (result["role"], result["tool_call_id"]) == ("tool", "chatcmpl-7")
    assert record(trace).steps[0].calls[0].id == "call_0", "no random id stands in the record"


@pytest.mark.parametrize("calls", [
    [called("WikipediaSearch", '{"query": "a"}'), called("WikipediaSearch", "[broken", "other")],
    [called("WikipediaSearch", '{"query": "a"}'), called("WikipediaSearch", '{"query": "b"}')],
    [called("WikipediaSearch", '{"query": "a"}', None)],
])  # fmt: skip
def test_calls_that_cannot_be_answered_one_by_one_are_sent_as_the_environment_has_them(
    bridge: Any, calls: list[dict[str, Any]]
) -> None:
    said = {"role": "assistant", "content": None, "tool_calls": calls}
    model = Model([said, "Answer: Troyes"])
    trace = asyncio.run(model.play(bridge, first(taskset(bridge, native=True, format="hermes"))))
    sent = model.bodies[1]["messages"][2:]
    made = [call.id for call in record(trace).steps[0].calls]
    assert [call["id"] for call in sent[0]["tool_calls"]] == made
    assert [chat["tool_call_id"] for chat in sent[1:]] == made
    assert all(isinstance(c["function"]["arguments"], str) for c in sent[0]["tool_calls"])


def test_reasoning_is_sent_back_in_the_field_that_it_came_in(bridge: Any) -> None:
    said = {"role": "assistant", "content": CALL, "reasoning_content": "It is a judge."}
    model = Model([said, "Answer: Troyes"])
    trace = asyncio.run(model.play(bridge, first(taskset(bridge))))
    assert model.bodies[1]["messages"][2] == said
    assert record(trace).steps[0].action.startswith("<think>\nIt is a judge.\n</think>")


def test_what_the_environment_does_not_keep_of_a_reply_is_not_sent_back(bridge: Any) -> None:
    long = Model(["Thought: " + "x" * 60 + "\n" + CALL, "Answer: Troyes"])
    asyncio.run(long.play(bridge, first(taskset(bridge, max_reply_chars=50))))
    assert long.bodies[1]["messages"][2]["content"] == ("Thought: " + "x" * 60)[:50]
    refused = {"role": "assistant", "content": None, "refusal": "Action: Nothing[I may not]"}
    model = Model([refused, "Answer: Troyes"])
    asyncio.run(model.play(bridge, first(taskset(bridge))))
    assert model.bodies[1]["messages"][2]["content"] == "Action: Nothing[I may not]"
    passed = CALL + "\nResponse from tool WikipediaSearch are: what I wish"
    model = Model([passed, "Answer: Troyes"])
    asyncio.run(model.play(bridge, first(taskset(bridge))))
    assert model.bodies[1]["messages"][2]["content"] == CALL


def test_a_stop_text_that_the_model_sampled_stays_its_own(bridge: Any) -> None:
    sampled = CALL + "\nResponse from tool "
    model = Model([sampled, "Answer: Troyes"])
    trace = asyncio.run(model.play(bridge, first(taskset(bridge)), client="train"))
    assert model.bodies[1]["messages"][2]["content"] == sampled
    assert record(trace).steps[0].action == CALL


def test_in_training_the_text_of_a_reply_is_taken_as_it_is(bridge: Any) -> None:
    gsm = functools.partial(taskset, bridge, "ToolQA-GSM8K-v0", format="tags")
    texts = ["<calculator>1+1", None, "<answer>2</answer>"]
    said: list[Any] = [{"role": "assistant", "content": text} for text in texts]
    trained = asyncio.run(Model(said, stops={}).play(bridge, first(gsm()), client="train"))
    assert [step.calls for step in record(trained).steps[:2]] == [(), ()]
    assert record(trained).steps[1].action == "", "nothing is a turn of the model, too"
    served = asyncio.run(Model([said[0], said[2]], stops={}).play(bridge, first(gsm())))
    assert record(served).steps[0].action == "<calculator>1+1</calculator>"
    with pytest.raises(EndpointError, match="neither text nor calls"):
        asyncio.run(Model([said[1]]).play(bridge, first(gsm())))


def test_a_reply_cut_at_its_length_gives_no_answer(bridge: Any) -> None:
    model = Model(["Answer: Troy"] * 4, finish="length")
    trace = asyncio.run(model.play(bridge, first(taskset(bridge))))
    assert [step.answer for step in record(trace).steps] == [None] * 4
    assert trace.stop_condition == "max_turns"


def test_a_failed_request_is_tried_again_as_the_same_turn(bridge: Any) -> None:
    model = Model([503, 429, CALL, 500, "Answer: Troyes"])
    trace = asyncio.run(model.play(bridge, first(taskset(bridge))))
    assert len(record(trace).steps) == 2
    assert len(set(model.keys[:3])) == 1 == len(set(model.keys[3:]))
    assert model.keys[0] != model.keys[3]
    with pytest.raises(EndpointError, match="4 tries failed, the last with 502: status 502"):
        asyncio.run(Model([502] * 9).play(bridge, first(taskset(bridge))))
    with pytest.raises(EndpointError, match="verifiers answered 404: status 404"):
        asyncio.run(Model([404]).play(bridge, first(taskset(bridge))))
    with pytest.raises(EndpointError, match="is not JSON"):
        asyncio.run(Model([b"<html>"]).play(bridge, first(taskset(bridge))))
    with pytest.raises(EndpointError, match="not a chat completion"):
        asyncio.run(Model([b"[]"]).play(bridge, first(taskset(bridge))))


def test_where_nobody_listens_the_rollout_fails(bridge: Any) -> None:
    async def play() -> None:
        context = SimpleNamespace(model="m", client=SimpleNamespace(type="eval"))
        given = (context, Trace(), None, "http://127.0.0.1:9/v1", "secret", {})
        await bridge.ToolgymHarness(Config()).launch(*given, first(taskset(bridge)).data)

    with pytest.raises(EndpointError, match="tries failed, the last with 503: Client"):
        asyncio.run(play())


def test_a_limit_of_verifiers_ends_the_episode_with_what_it_has(bridge: Any) -> None:
    model = Model([CALL, "limit"])
    trace = asyncio.run(model.play(bridge, first(taskset(bridge))))
    assert trace.stop_condition == "max_total_tokens"
    assert len(record(trace).steps) == 1
    asyncio.run(first(taskset(bridge)).score(trace))
    assert trace.rewards == {"accuracy": (0.0, 1.0)}


@tool
def wait(text: str) -> str:
    """Wait a moment.

    Args:
        text: what for.
    """
    time.sleep(0.5)
    return f"waited for {text}"


def test_a_rollout_that_is_cancelled_in_a_tool_keeps_a_whole_record(
    bridge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = TaskSet([Task("a", "Wait.", ("yes",))], source="test")
    slow = ToolEnv(tasks, Toolset([wait]), get_format("react"), Rubric({}))
    monkeypatch.setattr(bridge, "opened", lambda env, args: open_env(slow))
    task = first(taskset(bridge))
    model = Model(["Action: wait[it]", "Answer: yes"], trace=Trace())

    async def cancelled() -> None:
        async with asyncio.timeout(0.25):
            await model.play(bridge, task)

    with pytest.raises(TimeoutError):
        asyncio.run(cancelled())
    assert model.trace is not None
    (step,) = record(model.trace).steps
    assert step.results[0].content == "waited for it", "the step was played to its end"


def test_only_the_local_runtime_is_played_in(bridge: Any) -> None:
    harness = bridge.ToolgymHarness(Config())
    asyncio.run(harness.setup(SimpleNamespace(config=SubprocessConfig())))
    with pytest.raises(BadInputError, match="not in runtime 'docker': set the agent's"):
        asyncio.run(harness.setup(SimpleNamespace(config=SimpleNamespace(type="docker"))))
    assert isinstance(bridge.ToolgymEnvConfig().agent.runtime, SubprocessConfig)


def test_the_environment_is_that_of_one_agent_with_settings_of_its_own(bridge: Any) -> None:
    assert issubclass(bridge.ToolgymEnv, SingleAgentEnv)
    # Where verifiers looks for the settings of an environment.
    (bound,) = [base for base in bridge.ToolgymEnv.__orig_bases__ if get_origin(base) is Env]
    assert get_args(bound) == (bridge.ToolgymEnvConfig,)


def test_rollouts_of_a_task_are_numbered(bridge: Any) -> None:
    task = first(taskset(bridge), 7)
    traces = [asyncio.run(Model(["Answer: x"]).play(bridge, task)) for _ in range(3)]
    numbers = [record(trace).sample for trace in traces]
    assert numbers == list(range(numbers[0], numbers[0] + 3))


def test_an_instruction_of_verifiers_stands_in_place_of_ours(bridge: Any) -> None:
    task = first(taskset(bridge))
    task.data = task.data.model_copy(update={"system_prompt": "Be brief."})
    model = Model(["Answer: Troyes"])
    asyncio.run(model.play(bridge, task))
    assert model.bodies[0]["messages"][0] == {"role": "system", "content": "Be brief."}
