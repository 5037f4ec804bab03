"""``react-paper`` against a literal restatement of the published parser's rules."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from toolgym.env import ToolEnv
from toolgym.formats import get_format
from toolgym.grading.rubric import Rubric
from toolgym.task import Task, TaskSet
from toolgym.tools.toolset import make_toolset

REPLIES = (
    "Thought: look it up.\nAction: WikipediaSearch[George Rankin]\nRationale:\nAnswer:",
    "Thought: two.\nAction: Calculator[1+1], MachineTranslator[río]\nRationale: none\nAnswer:",
    "Thought: I know.\nAction:\nRationale: it says so\nAnswer: politician",
    "Action: Calculator[2*(3+4)]\nAnswer: 14",
    "Answer: Paris",
    "I think it is Paris.",
    "Thought: a\nAction: A[1]\nRationale: b\nAction: B[2]\nRationale: c\nAnswer: d\nAnswer: e",
)
PIECES = (
    *("\nAction:", "Action:", "\nAnswer:", "Answer:", "\nRationale:", "Rationale:", "\nThought:"),
    *("[", "]", "A[b]", "A[b[c]]", "a.b[c]", "x-y[z]", "é[1]", "_[ ]", "[]", "a[]", "\n", " ", ""),
    *("\r\nAnswer:", "\n Action:", "**Action:**", "\nanswer:", "<think>", "</think>", "٣[x\ny]"),
    *('Tool[{"k": 1}]', "\x00", "\u2028Answer:", "\\", "'", '"', "Calculator[1][2]", "A [b]"),
)


def published(text: str) -> tuple[list[tuple[str, str]], str]:
    """The rules as the paper's code has them: the calls, and the answer when there are none."""
    calls = []
    if "\nAction:" in text:
        block = text.split("\nAction:")[1].split("\nRationale:")[0]
        for call in re.findall(r"\w+\[[^\[\]]+\]", block):
            name, _, rest = call.partition("[")
            calls.append((name, rest[:-1]))
    answer = text.split("\nAnswer:")[1].strip() if "\nAnswer:" in text else text
    return calls, answer


def mutated(seed: int, count: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(count):
        text = rng.choice(REPLIES)
        for _ in range(rng.randrange(1, 6)):
            place, length = rng.randrange(len(text) + 1), rng.choice((0, 0, 1, 3, 9))
            text = text[:place] + rng.choice(PIECES) + text[place + length :]
        yield text


@pytest.mark.parametrize("seed", range(4))
def test_every_mutated_reply_is_read_as_the_published_code_does(seed: int) -> None:
    parse, seen = get_format("react-paper").parse, set()
    for text in (*REPLIES, *mutated(seed, 5_000)):
        action = parse(text)
        calls, answer = published(text)
        assert [(call.name, call.arguments) for call in action.calls] == [
            (name, {"input": query}) for name, query in calls
        ], text
        assert action.answer == (None if calls else answer), text
        assert action.problems == ()
        seen.add((len(calls), answer == text))
    assert len(seen) > 8


@pytest.mark.parametrize(
    ("text", "calls", "answer"),
    [
        ("Answer: Paris", 0, "Answer: Paris"),
        ("Thought: a\nAnswer: Paris\nAnswer: Rome", 0, "Paris"),
        ("Action: A[1]", 0, "Action: A[1]"),
        ("Thought: a\nAction: A[1]\nAction: B[2]", 1, None),
    ],
)
def test_where_the_published_parser_is_not_ours(text: str, calls: int, answer: str | None) -> None:
    action = get_format("react-paper").parse(text)
    assert (len(action.calls), action.answer) == (calls, answer)


def environment(format: str) -> ToolEnv:
    tasks = TaskSet([Task("t", "How much is 6*7?", ("42",))], source="test")
    codec = get_format(format, "tools_single_step")
    return ToolEnv(tasks, make_toolset(["Calculator"]), codec, Rubric({"accuracy": 1.0}))


@pytest.mark.parametrize(
    ("second", "answer"),
    [
        ("Thought: again\nAction: Calculator[42]\nAnswer: 42", "42"),
        ("Thought: again\nAction: Calculator[42]", "Thought: again\nAction: Calculator[42]"),
    ],
)
def test_the_second_reply_of_a_single_step_is_the_answer(second: str, answer: str) -> None:
    env = environment("react-paper")
    env.reset(seed=0)
    assert not env.step("Thought: a\nAction: Calculator[6*7]\nRationale:\nAnswer:")[2]
    _, _, terminated, _, _ = env.step(second)
    assert terminated
    assert env.trajectory.answer == answer
    assert env.trajectory.steps[-1].calls == ()


def test_our_own_format_refuses_the_second_call_and_asks_again() -> None:
    env = environment("react")
    env.reset(seed=0)
    env.step("Action: Calculator[6*7]")
    observation, _, terminated, _, _ = env.step("Action: Calculator[42]")
    assert not terminated
    assert "may not be called again" in observation


def test_the_prompt_gives_hints_for_its_tools_and_leave_to_do_without() -> None:
    schemas = make_toolset(["Calculator", "WikipediaSearch"]).schemas()
    text = get_format("react-paper").instructions(schemas)
    assert "Calculator: the input is one arithmetic expression" in text
    assert "WikipediaSearch: the input is what to look up" in text
    assert "MachineTranslator" not in text
    assert "use what you know yourself" in text
    assert "what you know yourself" not in get_format("react").instructions(schemas)
    assert "yourself" not in get_format("react-paper", "no_tool").instructions([])
