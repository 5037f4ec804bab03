"""Export: rows in both styles, the paper's pairs, token-exact rows, and files that load
unchanged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import toolgym
from toolgym import Trajectory, export, select
from toolgym.data.export import IGNORED, token_rows
from toolgym.errors import BadInputError
from toolgym.trajectory import Tokens

CALL = "Thought: I compute.\nAction: Calculator[6*7]"
BROKEN = "Thought: I compute.\nAction: Calculator[6*]"
RIGHT = "Thought: the tool says 42.\nAnswer: 42"
GUESS = "Answer: 42"
WRONG = "Answer: 41"
HERMES = (
    'Let me see.\n<tool_call>\n{"name": "Calculator", "arguments": {"expression": "6*7"}}\n'
    "</tool_call>"
)
SEARCH = (
    '<tool_call>\n{"name": "WikipediaSearch", "arguments": {"query": "42"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "Calculator", "arguments": {"expression": "1+1"}}\n</tool_call>'
)


def make(tmp_path_factory: pytest.TempPathFactory, **kwargs: Any) -> toolgym.ToolEnv:
    file = tmp_path_factory.mktemp("tasks") / "tasks.jsonl"
    rows = [{"id": f"q{n}", "question": f"What is 6*7? ({n})", "answers": ["42"]} for n in range(5)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = gym.make("ToolQA-GSM8K-v0", tasks=str(file), **kwargs).unwrapped
    assert isinstance(made, toolgym.ToolEnv)
    return made


@pytest.fixture(scope="module")
def react(tmp_path_factory: pytest.TempPathFactory) -> toolgym.ToolEnv:
    return make(tmp_path_factory, tools=["Calculator"])


@pytest.fixture(scope="module")
def hermes(tmp_path_factory: pytest.TempPathFactory) -> toolgym.ToolEnv:
    return make(tmp_path_factory, tools=["Calculator", "WikipediaSearch"], format="hermes")


def play(env: toolgym.ToolEnv, task: str, sample: int, *replies: str) -> Trajectory:
    env.reset(seed=0, options={"task": task, "sample": sample})
    for reply in replies:
        env.step(reply)
    return env.trajectory


@pytest.fixture(scope="module")
def mixed(react: toolgym.ToolEnv) -> list[Trajectory]:
    return [
        play(react, "q0", 0, CALL, RIGHT),
        play(react, "q0", 1, WRONG),
        play(react, "q1", 0, GUESS),
        play(react, "q1", 1, WRONG),
        play(react, "q2", 0, BROKEN, CALL, RIGHT),
        play(react, "q2", 1, WRONG),
        play(react, "q3", 0, CALL, RIGHT),
        play(react, "q3", 1, CALL, WRONG),
        play(react, "q4", 0, WRONG),
    ]


def test_rows_as_played_are_the_messages_themselves(mixed: list[Trajectory]) -> None:
    row = export(mixed[:1]).rows[0]
    assert row["messages"] == [message.to_chat() for message in mixed[0].messages]
    assert "tools" not in row
    assert [m["role"] for m in row["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]


def test_what_follows_the_last_reply_is_left_out(react: toolgym.ToolEnv) -> None:
    unfinished = play(react, "q0", 0, CALL)
    assert unfinished.messages[-1].role == "user"
    assert export([unfinished]).rows[0]["messages"][-1]["role"] == "assistant"
    react.reset(options={"task": "q0"})
    silent = react.trajectory
    assert export([unfinished, silent]).dropped == {"no reply": 1}
    with pytest.raises(BadInputError, match="1 without a reply"):
        export([silent])


def test_native_rows_have_calls_results_and_tools(hermes: toolgym.ToolEnv) -> None:
    row = export([play(hermes, "q0", 0, HERMES, "Answer: 42")]).rows[0]
    user, call, result, answer = row["messages"]
    assert user == {"role": "user", "content": "What is 6*7? (0)"}
    assert call["content"] == "Let me see."
    function = call["tool_calls"][0]["function"]
    assert function == {"name": "Calculator", "arguments": {"expression": "6*7"}}
    assert result["role"] == "tool"
    assert (result["content"], result["name"]) == ("42", "Calculator")
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]
    assert answer["content"] == "Answer: 42"
    names = {tool["function"]["name"] for tool in json.loads(row["tools"])}
    assert names == {"Calculator", "WikipediaSearch"}


REASONED = "<think>\nI am to multiply.\n</think>\n\nLet me see.\n" + HERMES[HERMES.index("<tool") :]


THOUGHT = "<think>so it is 42</think>I have it.\nAnswer: 42"


def said(rows: Any) -> list[str]:
    """What the assistant says in the only row."""
    (row,) = rows
    return [m["content"] for m in row["messages"] if m["role"] == "assistant"]


@pytest.mark.parametrize("style", ["native", "as_played"])
def test_reasoning_is_kept_unless_it_is_left_out(hermes: toolgym.ToolEnv, style: str) -> None:
    played = play(hermes, "q0", 0, REASONED, THOUGHT)
    kept = export([played], style=style)
    call, answer = said(kept)
    assert call.startswith("<think>\nI am to multiply.\n</think>\n\nLet me see.")
    assert answer.split() == THOUGHT.split()
    assert "| Reasoning | kept |" in kept.card("rows.jsonl")
    without = export([played], style=style, reasoning=False)
    call, answer = said(without)
    assert call.startswith("Let me see.")
    assert answer == "I have it.\nAnswer: 42"
    assert "| Reasoning | left out |" in without.card("rows.jsonl")
    turn = export([played], "prefixes", style=style, reasoning=False)[1]
    assert "<think>" not in json.dumps([turn["prompt"], turn["completion"]])


def test_reasoning_of_other_shapes(
    hermes: toolgym.ToolEnv, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Templates that open the reasoning themselves leave its end to the reply.
    opened = play(hermes, "q0", 0, "it is 42</think>\nAnswer: 42")
    assert said(export([opened])) == ["it is 42</think>\nAnswer: 42"]
    again = play(hermes, "q0", 0, "<think>42 it is</think>42 it is\nAnswer: 42")
    assert said(export([again])) == ["<think>42 it is</think>42 it is\nAnswer: 42"]
    plain = play(hermes, "q0", 0, "Answer: 42")
    assert said(export([plain])) == said(export([plain], reasoning=False)) == ["Answer: 42"]
    tags = make(tmp_path_factory, tools=["Calculator"], format="tags")
    own = play(tags, "q0", 0, "<think>easy</think><answer>42</answer>")
    assert said(export([own], style="native")) == ["<think>easy</think>\nAnswer: 42"]


def test_native_results_are_cut_as_the_policy_saw_them(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    env = make(tmp_path_factory, tools=["WikipediaSearch"], format="hermes", max_result_chars=50)
    search = (
        '<tool_call>\n{"name": "WikipediaSearch", "arguments": {"query": "river"}}\n</tool_call>'
    )
    played = play(env, "q0", 0, search, "Answer: 42")
    shown = export([played]).rows[0]["messages"][2]["content"]
    assert shown in played.steps[0].observation
    assert shown.endswith("characters]")
    assert len(played.steps[0].results[0].content) > len(shown) - 40


def test_the_papers_pairs_and_why_questions_gave_none(mixed: list[Trajectory]) -> None:
    pairs = export(mixed, "dpo")
    assert [row["id"] for row in pairs] == ["q0#0"]
    row = pairs[0]
    assert [m["role"] for m in row["prompt"]] == ["system", "user"]
    assert row["chosen"] == [{"role": "assistant", "content": CALL}]
    assert row["rejected"] == [{"role": "assistant", "content": WRONG}]
    assert pairs.dropped == {
        "whose right episodes used no tool": 1,
        "whose right episodes met a tool error": 1,
        "whose wrong episodes all called a tool": 1,
        "without a right episode": 1,
    }


def test_the_three_pairings(mixed: list[Trajectory]) -> None:
    whole = export(mixed, "dpo", pairing="whole")[0]
    assert [m["role"] for m in whole["chosen"]] == ["assistant", "user", "assistant"]
    free = export(mixed, "dpo", pairing="no_tool_request")
    assert [row["id"] for row in free] == ["q0#0", "q1#0"]
    with pytest.raises(BadInputError, match="did you mean 'first_turn'"):
        export(mixed, "dpo", pairing="first_trun")


def test_no_pair_names_the_conditions(mixed: list[Trajectory]) -> None:
    message = (
        "no pair can be made from 4 questions: 3 without a wrong episode; 1 whose .*without tools"
    )
    with pytest.raises(BadInputError, match=message):
        export(select(mixed, dedupe=None), "dpo", pairing="no_tool_request", where="steps>=1")
    with pytest.raises(BadInputError, match="1 whose right episodes used no tool"):
        export(mixed[2:4], "dpo")


def test_pairs_from_a_run_with_tools_and_one_without(tmp_path: Path) -> None:
    def computes(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
        last = messages[-1]["content"]
        found = re.search(r"Response from tool .* are: (.*)", last)
        return f"Answer: {found[1]}" if found else CALL

    arguments = {"tasks": str(tmp_path / "tasks.jsonl"), "tools": ["Calculator"]}
    row = {"id": "a", "question": "What is 6*7?", "answers": ["42"]}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    for name, policy, more in (
        ("tools", computes, {}),
        ("none", lambda messages, tools: WRONG, {"prompt": "no_tool"}),
    ):
        toolgym.rollout("ToolQA-GSM8K-v0", policy, env_args=arguments | more, out=tmp_path / name)
    pairs = export([tmp_path / "tools", tmp_path / "none"], "dpo", pairing="whole")
    assert len(pairs) == 1
    assert pairs[0]["rejected"] == [{"role": "assistant", "content": WRONG}]
    assert "Calculator" in pairs[0]["prompt"][0]["content"]
    assert len(pairs.about["origin"]["env"]) == 2


def test_token_rows_train_the_policys_own_tokens_only(mixed: list[Trajectory]) -> None:
    exact = Trajectory.from_row(mixed[0].to_row())
    exact.tokens = Tokens([1, 2, 3], [4, 5, 6, 7], [1, 0, 0, 1], None, "hash")
    (row,) = token_rows([exact])
    assert row["input_ids"] == [1, 2, 3, 4, 5, 6, 7]
    assert row["labels"] == [IGNORED] * 3 + [4, IGNORED, IGNORED, 7]
    assert row["texts"] == [CALL, RIGHT]
    with pytest.raises(BadInputError, match="1 of 2 episodes were recorded without tokens"):
        token_rows([exact, mixed[1]])


@pytest.mark.parametrize("order", [1, -1])
def test_files_load_as_they_were_written(
    hermes: toolgym.ToolEnv, tmp_path: Path, order: int
) -> None:
    datasets = pytest.importorskip("datasets")
    played = [
        play(hermes, "q0", 0, "Answer: 42"),
        play(hermes, "q1", 0, HERMES, "Answer: 42"),
        play(hermes, "q2", 0, SEARCH, "Answer: 42"),
    ][::order]
    rows = export(played, out=tmp_path / "rows.jsonl")
    loaded = datasets.load_dataset(
        "json",
        data_files=str(tmp_path / "rows.jsonl"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    # Arrow's structs would fill "query": None into the calculator's arguments.
    assert list(loaded) == rows.rows


def test_the_card_says_what_the_rows_are(mixed: list[Trajectory], tmp_path: Path) -> None:
    run = toolgym.rollout(
        "ToolQA-GSM8K-v0", lambda messages, tools: GUESS, env_args={"tools": []}, episodes=3
    )
    select(run, where=None, dedupe=None, per_task=1).write(tmp_path / "kept")
    export(tmp_path / "kept", out=tmp_path / "set")
    card = (tmp_path / "set" / "README.md").read_text(encoding="utf-8")
    assert "the bundled sample" in card
    assert "not the benchmark itself" in card
    assert "| Rows | 3 |" in card
    assert '"per_task": 1' in card
    assert card.startswith("---\nconfigs:")
    export(mixed, "dpo", out=tmp_path / "pairs.jsonl")
    assert "first_turn" in (tmp_path / "pairs.md").read_text(encoding="utf-8")


def test_unknown_kinds_and_styles(mixed: list[Trajectory]) -> None:
    with pytest.raises(
        BadInputError, match="kind must be one of 'sft', 'dpo', 'prefixes', not 'sfd'"
    ):
        export(mixed, "sfd")
    with pytest.raises(BadInputError, match="did you mean 'native'"):
        export(mixed, style="nativ")
