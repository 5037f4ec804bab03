"""Tasks of one turn: documents, syntax of calls in three languages, relevance, missing wheel."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym import rollout
from toolgym._util.optional import require_extra
from toolgym.checks import check_reward
from toolgym.envs.toolbfcl import data
from toolgym.envs.toolbfcl.checks import bfcl, bfcl_state
from toolgym.envs.toolbfcl.data import GROUPS, documents_of, gold_plan, open_tasks, source_facts
from toolgym.envs.toolbfcl.environment import BFCLEnv, plan_of
from toolgym.envs.toolbfcl.sessions import tools_of
from toolgym.errors import MissingExtraError
from toolgym.messages import ToolCall
from toolgym.policies.base import make_policy
from toolgym.registry import POLICIES, REWARDS
from toolgym.task import Task
from toolgym.trajectory import Problem, Step, Trajectory

ID = "ToolBFCL-v0"
UNPASSABLE = {
    # No call is accepted: elements of any type are compared with numbers and truth values as texts;
    # no list is acceptable where one is needed; the gold has other parameters than the document.
    *("simple_java_36", "simple_java_65", "live_simple_106-63-0", "live_simple_112-68-0"),
    *("live_multiple_862-181-3", "live_multiple_964-207-0"),
}


def task_of(name: str) -> Task:
    tasks = open_tasks("single_turn")
    return tasks[tasks.index_of(name)]


def verdict(task: Task, *calls: ToolCall, answer: str | None = None) -> float:
    (value,) = bfcl(task, Trajectory(task, steps=[Step("", calls, answer=answer)]))
    return value


def accepted(task: Task) -> list[ToolCall]:
    return list(plan_of(task)[0].calls)


def test_categories_are_as_large_as_they_are_told_to_be() -> None:
    for source in (*GROUPS, *GROUPS["all"]):
        facts = source_facts(source, None)
        assert facts is not None
        assert facts.tasks == len(open_tasks(source))
    facts = source_facts("live", "live_simple")
    assert facts is not None
    assert facts.tasks == len(open_tasks("live", "live_simple")) == 258
    assert source_facts("mine.jsonl", None) is None


def test_documents_are_json_schemas() -> None:
    for task in open_tasks("all")[::7]:
        for document in documents_of(task):
            jsonschema_rs.validator_for(document["parameters"])
            assert document["description"].endswith("syntax.")


def test_types_are_told_as_the_published_handlers_do() -> None:
    (java,) = documents_of(task_of("simple_java_1"))
    told = java["parameters"]["properties"]["params"]
    assert told["type"] == "string"
    assert told["description"].endswith(
        "This is Java HashMap type parameter in string representation."
    )
    (python,) = documents_of(task_of("irrelevance_0"))
    weight = python["parameters"]["properties"]["weight"]
    assert weight["type"] == "number"
    assert weight["description"].endswith("This is a float type value.")


@pytest.mark.parametrize("format", ["hermes", "llama3", "react"])
def test_acceptable_calls_are_accepted(format: str) -> None:
    env = gym.make(ID, tasks="single_turn", format=format).unwrapped
    assert isinstance(env, BFCLEnv)
    refused = set()
    every = env.tasks if format == "hermes" else env.tasks[::20]
    for task in every:
        _, info = env.reset(options={"task": task.id})
        text = env.format.write(plan_of(task)[0], info["tools"])
        _, reward, terminated, truncated, _ = env.step(text)
        assert terminated, "a task of one turn ends with the first reply"
        assert not truncated
        refused |= {task.id} if reward < 1 else set()
    assert refused == (UNPASSABLE & {task.id for task in every})


def test_an_answer_is_right_only_where_no_call_is() -> None:
    for task in open_tasks("single_turn")[::11]:
        right = "irrelevance" in task.split
        assert verdict(task, answer="I cannot do that.") == right


def test_wrong_calls_are_refused() -> None:
    tried = 0
    for task in open_tasks("single_turn")[::17]:
        right = accepted(task)
        if "relevance" in task.split or task.id in UNPASSABLE or not right:
            continue
        assert verdict(task, *right[1:]) == 0.0
        assert verdict(task, *right, right[0]) == 0.0
        first, *rest = right
        assert verdict(task, ToolCall("", f"{first.name}x", first.arguments), *rest) == 0.0
        more = first.arguments | {"no_such_parameter": 1}
        assert verdict(task, ToolCall("", first.name, more), *rest) == 0.0
        for name, value in first.arguments.items():
            wrong: Any = "no such value" if isinstance(value, str) else {"no": ["such"]}
            spoiled = first.arguments | {name: wrong}
            assert verdict(task, ToolCall("", first.name, spoiled), *rest) == 0.0, (task.id, name)
            tried += 1
    assert tried > 200


def test_parallel_calls_may_come_in_any_order() -> None:
    for task in open_tasks("parallel_multiple")[::20]:
        assert verdict(task, *reversed(accepted(task))) == 1.0


def test_an_attempt_that_cannot_be_read_is_no_insight() -> None:
    task = task_of("irrelevance_3")
    step = Step("<tool_call>{", problems=(Problem("unclosed_call", "close it"),))
    assert bfcl(task, Trajectory(task, steps=[step])) == [1.0]
    assert bfcl_state(task, Trajectory(task, steps=[step])) == [0.0]
    assert bfcl_state(task, Trajectory(task, steps=[Step("", answer="No.")])) == [1.0]


PYTHON = [*open_tasks("simple_python")[::40], *open_tasks("live_multiple")[::200]]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([*PYTHON, *open_tasks("simple_java")[::9], *open_tasks("parallel")[::50]]),
    st.data(),
)
def test_any_arguments_get_a_verdict(task: Task, values: st.DataObject) -> None:
    calls = accepted(task)
    place = values.draw(st.integers(0, len(calls) - 1))
    arguments = dict(calls[place].arguments)
    for name in list(arguments):
        if values.draw(st.booleans()):
            arguments[name] = values.draw(JSON)
    calls[place] = ToolCall("", calls[place].name, arguments)
    assert verdict(task, *calls) in (0.0, 1.0)


def test_code_that_patterns_could_dwell_on_is_refused() -> None:
    task = task_of("simple_java_1")
    (call,) = accepted(task)
    code = "new HashMap<" + "x" * 50_000
    assert verdict(task, ToolCall("", call.name, call.arguments | {"params": code})) == 0.0


def test_the_checker_reads_no_table_of_models() -> None:
    task = task_of("multiple_3")
    assert verdict(task, *accepted(task)) == 1.0
    assert "bfcl_eval.constants.model_config" not in sys.modules
    assert not [name for name in sys.modules if name.startswith("bfcl_eval.model_handler")]


def test_tasks_of_other_environments_are_paid_nothing() -> None:
    check_reward("bfcl", answer_only=True)
    check_reward("bfcl_state", answer_only=True)
    assert REWARDS.get("bfcl") is bfcl
    assert "bfcl-plan" in POLICIES


def test_calls_of_one_turn_are_noted() -> None:
    task = task_of("parallel_0")
    tools = tools_of(task)
    results = tools.open(task).execute(accepted(task))
    assert {result.content for result in results} == {"The call was noted."}
    assert Task.from_row(task.to_row()) == task


def test_chats_before_the_question_are_part_of_it() -> None:
    told = [task.question for task in open_tasks("live_irrelevance")]
    assert any(text.startswith("User: ") and "\n\nAssistant: " in text for text in told)
    assert all(text.strip() for text in told)


def test_gold_plans_of_one_turn_play_in_a_rollout() -> None:
    policy = make_policy("bfcl-plan", tasks="simple_python")
    run = rollout(gym.make(ID, tasks="simple_python"), policy, episodes=30, seed=3)
    assert [episode.reward for episode in run] == [1.0] * 30
    assert all(len(episode.steps) == 1 and episode.terminated for episode in run)


def test_without_the_wheel_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, extra: str) -> Any:
        return require_extra("no_such_library", extra)

    monkeypatch.setattr(data, "require_extra", missing)
    data.published.cache_clear()
    data._category.cache_clear()
    try:
        with pytest.raises(MissingExtraError, match=r"pip install --no-deps bfcl-eval"):
            gym.make(ID)
    finally:
        monkeypatch.undo()
        data.published.cache_clear()
    assert gold_plan(open_tasks("irrelevance")[0]) == []
