"""Worked examples: well-formed in every format, nobody's own replies, refused with the place."""

from __future__ import annotations

import json
import pickle
import string
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

import toolgym
from toolgym import rollout
from toolgym._util.jsonl import read_rows
from toolgym.checks.probes import prefix, with_other_results
from toolgym.errors import BadInputError, MissingFileError
from toolgym.formats import Format, get_format
from toolgym.formats.example_files import read_examples
from toolgym.formats.examples import Example, opening
from toolgym.messages import Message, ToolCall
from toolgym.policies.base import Request, past_results, question_of
from toolgym.registry import ENVIRONMENTS, FORMATS, PROMPTS, Resource
from toolgym.tools.toolset import make_toolset
from toolgym.trajectory import Trajectory

POPQA = "ToolQA-PopQA-v0"
TOOLS = make_toolset(["Calculator", "WikipediaSearch", "MachineTranslator"], corpus="sample")
FILES = {
    "examples.jsonl": Resource("toolgym.envs.toolqa", "samples/examples.jsonl"),
    "examples_numbers.jsonl": Resource("toolgym.envs.toolqa", "samples/examples_numbers.jsonl"),
    "scenarios": Resource("toolgym.envs.toolscenario", "samples/examples.jsonl"),
}
every_codec = pytest.mark.parametrize(
    ("format", "prompt"), [(f, p) for f in FORMATS.names() for p in PROMPTS.names()]
)


def bundled(name: str = "examples.jsonl") -> list[Example]:
    return [Example.model_validate(row) for _, row in read_rows(FILES[name].path())]


def row(**changes: Any) -> dict[str, Any]:
    call = {"name": "WikipediaSearch", "arguments": {"query": "Odo"}, "result": "Odo is a fox."}
    turns = [{"thought": "I look.", "calls": [call]}, {"answer": "a fox"}]
    return {"question": "What is Odo?", "turns": turns, **changes}


@every_codec
@pytest.mark.parametrize("name", FILES)
def test_bundled_ones_are_read_back_in_every_format(name: str, format: str, prompt: str) -> None:
    codec = get_format(format, prompt)
    tools = TOOLS.schemas()
    for example in bundled(name):
        if len(example.turns) - 1 > (codec.strategy.tool_turns or 9):
            continue
        if (name, format) == ("scenarios", "react-paper") and codec.strategy.tools:
            with pytest.raises(BadInputError, match="cannot be read back"):
                example.check(codec, tools)  # it has no nested arguments
            continue
        example.check(codec, tools)
        turns = [m for m in example.messages(codec, tools) if m.role == "assistant"]
        last = codec.parse(turns[-1].content, tools if codec.strategy.tools else ())
        assert last.answer == example.turns[-1].answer
        assert len(turns) == (len(example.turns) if codec.strategy.tools else 1)


words = st.text(string.ascii_letters + " éß[]{}\"'<>:,\n", min_size=1, max_size=30)


@pytest.mark.parametrize("name", FORMATS.names())
@given(question=words, query=words, result=words)
def test_what_is_shown_is_what_is_read(name: str, question: str, query: str, result: str) -> None:
    codec, tools = get_format(name), TOOLS.schemas()
    call = {"name": "WikipediaSearch", "arguments": {"query": query}, "result": result}
    example = Example.model_validate(
        row(question=question, turns=[{"calls": [call]}, {"answer": "a fox"}])
    )
    try:
        example.check(codec, tools)
    except BadInputError:
        return  # the paper's parser cannot read every argument: then it is refused
    asked, called, *_, answered = example.messages(codec, tools)
    made = called.tool_calls if codec.native else codec.parse(called.content, tools).calls
    assert [(c.name, c.arguments) for c in made] == [("WikipediaSearch", {"query": query})]
    assert codec.parse(answered.content, tools).answer == "a fox"
    assert asked == codec.question(Message("user", question))


@every_codec
def test_without_examples_an_opening_is_what_it_was(format: str, prompt: str) -> None:
    codec, tools = get_format(format, prompt), TOOLS.schemas()
    plain = codec.render(tools, [Message("user", "Who?")])
    assert opening(codec, tools, "Who?") == plain
    env = gym.make(POPQA, format=format, prompt=prompt, examples=0)
    seen, info = env.reset(seed=3)
    assert (seen, info) == gym.make(POPQA, format=format, prompt=prompt).reset(seed=3)
    assert "examples" not in info
    shown = opening(codec, tools, "Who?", bundled()[:2])
    assert [shown[0], shown[-1]] == [plain[0], plain[-1]] or prompt == "bare"
    roles = [m.role.replace("tool", "user") for m in shown if m.role != "system"]
    assert roles[::2] == ["user"] * (len(roles) // 2 + 1)


# The leaderboard brings no worked dialogue: its tools differ by task, and a made-up one fits few.
@pytest.mark.parametrize("env_id", sorted(set(ENVIRONMENTS.names()) - {"ToolBFCL-v0"}))
def test_every_environment_shows_them(env_id: str) -> None:
    env = gym.make(env_id, examples=2)
    seen, info = env.reset(seed=1)
    assert info["examples"] == 2
    assert seen == "\n\n".join(m["content"] for m in info["messages"])
    assert env.unwrapped.trajectory.examples == 2
    again = pickle.loads(pickle.dumps(env.unwrapped))
    assert again.reset(seed=1)[0] == seen


def test_results_of_the_bundled_calculations_are_those_of_the_tool() -> None:
    for example in bundled("examples_numbers.jsonl"):
        for call in (call for turn in example.turns for call in turn.calls):
            if call.name == "Calculator":
                made = TOOLS.execute([ToolCall("a", call.name, call.arguments)], ["x#0"])
                assert made[0].content == call.result


def test_no_bundled_example_is_in_an_evaluation_set(data_dir: Path) -> None:
    asked: set[str] = set()
    answers: set[str] = set()
    for file in ("popqa/dev", "triviaqa/dev", "nq/dev", "gsm8k/test-300", "gsm8k/train"):
        for _, found in read_rows(data_dir / f"{file}.jsonl"):
            asked.add(found["question"].casefold().strip(" ?"))
            given = found.get("answers") or [found["answer"].rpartition("####")[2].strip()]
            answers |= {str(answer).casefold() for answer in given if not str(answer).isdigit()}
    for env_id in ENVIRONMENTS.names():
        tasks = gym.make(env_id).unwrapped.tasks  # type: ignore[attr-defined]
        asked |= {task.question.casefold().strip(" ?") for task in tasks}
        answers |= {answer.casefold() for task in tasks for answer in task.answers}
    answers = {answer for answer in answers if not answer.replace(".", "").isdigit()}
    for example in [example for name in FILES for example in bundled(name)]:
        assert example.question.casefold().strip(" ?") not in asked
        assert (example.turns[-1].answer or "").casefold() not in answers


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (-1, "at least 0, not -1"),
        (99, r"examples=99: 11 bundled examples fit the tools Calculator, WikipediaSearch"),
        (True, "not True"),
        (2.5, "not 2.5"),
        (None, "not None"),
        ([3], "examples, item 1: an example or a message is needed, not 3"),
        ([row(), row(turns=[{"answer": "x", "cals": []}])], r"item 2: .*did you mean 'calls'"),
        ([row(turns=[{"thought": "no more"}])], "either calls or an answer"),
        ([row(turns=[{"answer": "a"}, {"answer": "b"}])], "the last turn, and no other"),
        ([row(), {"role": "user", "content": "q"}], "item 2: give either messages or whole"),
        ([{"role": "system", "content": "s"}], "system message is the environment's own"),
        ([{"role": "user", "content": "q"}], "the question is not answered"),
        ([{"role": "assistant", "content": "Answer: a"}], "a question of the user must stand"),
        ([{"role": "clown", "content": "q"}], "item 1: message role 'clown'"),
        ([{"messages": []}], "item 1: its messages are empty"),
        ([{"messages": [3]}], "item 1, message 1: a message is needed, not 3"),
        ([{"messages": [], "tools": [{"name": "A"}]}], "function-calling documents"),
        ([row(tools=[{"name": "A"}])], "item 1: tools"),
    ],
)
def test_bad_ones_are_refused(given: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        gym.make(POPQA, examples=given)


def chat(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (chat("q", "Action: WikipediaSearch["), r"item 2: .*format 'react'"),
        (chat("q", "I wonder."), r"item 2: .*format 'react'"),
        (chat("q", "Action: Fly[x]", "r", "Answer: a"), "calls 'Fly', which is not among"),
        (chat("q", 'Action: Calculator[{"sum": 1}]', "r", "Answer: a"), r"arguments \['sum'\]"),
        (
            chat("q", "Action: Calculator[1] Calculator[2]", "r", "Answer: a"),
            "results of 2 calls",
        ),
        (chat("q", "Answer: a", "q", "Action: Calculator[1]"), "item 3: the question is not"),
    ],
)
def test_bad_chats_are_refused(messages: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        gym.make(POPQA, examples=messages)


def test_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    with pytest.raises(MissingFileError, match=r"example file .*mine\.jsonl"):
        gym.make(POPQA, examples=str(file))
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(BadInputError, match="is empty"):
        gym.make(POPQA, examples=str(file))
    file.write_text(json.dumps(row()) + "\n\n" + json.dumps(row(turns=[])), encoding="utf-8")
    with pytest.raises(BadInputError, match=r"mine\.jsonl', line 3: turns"):
        gym.make(POPQA, examples=str(file))
    other = tmp_path / "mine.json"
    other.write_text("[1", encoding="utf-8")
    with pytest.raises(BadInputError, match="not valid JSON"):
        gym.make(POPQA, examples=other)


def test_every_way_to_give_the_same_example_shows_the_same(tmp_path: Path) -> None:
    call = {"id": "x", "function": {"name": "WikipediaSearch", "arguments": '{"query": "Odo"}'}}
    native = [
        {"role": "user", "content": "What is Odo?"},
        {"role": "assistant", "content": "I look.", "tool_calls": [call]},
        {"role": "tool", "content": "Odo is a fox.", "tool_call_id": "x"},
        {"role": "assistant", "content": "Answer: a fox"},
    ]
    text = chat(
        "Question: What is Odo?",
        "Thought: I look.\nAction: WikipediaSearch[Odo]",
        "Response from tool WikipediaSearch[Odo] are: Odo is a fox.\n"
        "Now write another Action, or Answer: with a few words.",
        "Answer: a fox",
    )
    lines, whole = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text("".join(json.dumps(m) + "\n" for m in text), encoding="utf-8")
    whole.write_text(json.dumps({"messages": native}), encoding="utf-8")
    ways: list[Any] = [[row()], [Example.model_validate(row())], native, text, lines, str(whole)]
    ways += [[Message.from_chat(m) for m in text]]
    shown = {gym.make(POPQA, examples=way).reset(seed=2)[0] for way in ways}
    assert len(shown) == 1
    bare = gym.make(POPQA, examples=text, prompt="no_tool").reset(seed=2)[1]["messages"]
    assert [m["content"] for m in bare[1:3]] == ["Question: What is Odo?", "Answer: a fox"]


def test_an_example_with_tools_of_its_own_shows_them(tmp_path: Path) -> None:
    (example,) = bundled("scenarios")[:1]
    for env_id in ("ToolScenario-v0", POPQA):
        messages = gym.make(env_id, examples=[example]).reset(seed=1)[1]["messages"]
        assert "get_country_fact" in messages[1]["content"]
        assert messages[1]["content"].endswith(f"Question: {example.question}")
    with pytest.raises(BadInputError, match="needs their documents in 'tools'"):
        gym.make("ToolScenario-v0", examples=[row()])


def test_policies_meet_their_own_question_and_results() -> None:
    env = gym.make(POPQA, examples=3).unwrapped
    _, info = env.reset(seed=5)
    turn = 0
    codec: Format = env.format  # type: ignore[attr-defined]
    for turn, query in enumerate(("first", "second")):
        request = Request(info["messages"], info["tools"], codec, turn=turn, examples=3)
        assert question_of(request) == env.trajectory.task.question  # type: ignore[attr-defined]
        assert [c.arguments["query"] for c, _ in past_results(request)] == ["first"][:turn]
        *_, info = env.step(f"Action: WikipediaSearch[{query}]")
    plain = rollout(POPQA, "lookup", episodes=20)
    shown = rollout(POPQA, "lookup", env_args={"examples": 3}, episodes=20)
    said = [[[s.action for s in t.steps] for t in run.trajectories()] for run in (plain, shown)]
    assert said[0] == said[1]
    assert "examples" not in plain.settings["hashes"]
    assert len(shown.settings["hashes"]["examples"]) == 64


def test_no_figure_and_no_filter_counts_them() -> None:
    run = rollout(POPQA, lambda m, t: "Answer: x", env_args={"examples": 4}, episodes=3)
    found = {figure.name: figure.value for figure in toolgym.evaluate(run).rows}
    assert found["invoke_rate"] == found["accuracy"] == 0.0
    assert len(toolgym.select(run, where="calls<=0 and steps<=1 and problems<=0")) == 3
    with pytest.raises(BadInputError, match="3 no tool call"):
        toolgym.select(run, where=None, tools="only")
    shown = gym.make("ToolScenario-v0", examples=2, tools=[]).reset(seed=1)[1]["messages"]
    assert all("get_country_fact" not in m["content"] for m in shown)


def test_a_record_says_where_its_own_turns_begin() -> None:
    env = gym.make(POPQA, examples=2).unwrapped
    env.reset(seed=5)
    first: Trajectory = env.trajectory  # type: ignore[attr-defined]
    assert first.opening == len(first.messages)
    env.step("Action: WikipediaSearch[Rome]")
    env.step("Answer: Rome")
    record: Trajectory = env.trajectory  # type: ignore[attr-defined]
    assert record.messages[record.opening].content == "Action: WikipediaSearch[Rome]"
    assert Trajectory.from_row(json.loads(record.to_line())) == record
    assert "examples" in record.to_row()
    assert prefix(record, 1).messages == record.messages[: record.opening + 2]
    changed = with_other_results(record, "changed").messages
    assert changed[: record.opening] == record.messages[: record.opening]
    assert changed[record.opening + 1].content == "changed"


def test_more_than_one_call_and_turn_are_numbered_through() -> None:
    codec = get_format("hermes")
    seen: list[str] = []

    class Noting(type(codec)):  # type: ignore[misc]
        def results(self, calls: Any, results: Any, tools: Any = ()) -> list[Message]:
            seen.extend(call.id for call in calls)
            assert [call.id for call in calls] == [result.call_id for result in results]
            return super().results(calls, results, tools)  # type: ignore[no-any-return]

    opening(Noting(codec.strategy), TOOLS.schemas(), "Who?", bundled()[:6])
    assert seen == [f"example_{n}" for n in range(len(seen))]
    assert len(seen) > 6
    assert read_examples(0, codec, None) == ()
