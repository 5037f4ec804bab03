"""The ``solve_*`` rewards: the published formulas to the letter, and what ours promise."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym import Rubric, Task, ToolEnv, Toolset, Trajectory, score, tool
from toolgym.checks import check_reward
from toolgym.errors import BadInputError, CheckError, UnknownNameError
from toolgym.formats import get_format
from toolgym.grading.solving import Solving, turns
from toolgym.messages import ToolCall, ToolResult
from toolgym.registry import REWARDS
from toolgym.rewards.solve import solve_f1, solve_precision, solve_product, solve_rate
from toolgym.task import TaskSet
from toolgym.trajectory import Problem, Step

NAMES = ("solve_precision", "solve_rate", "solve_product", "solve_f1")
WITH_CHANGES = ("solve_precision", "solve_product", "solve_f1")


# The published rules once more, from the paper's description and nothing of ours.
def published(task: Task, steps: list[Step], variant: str) -> list[float]:
    unsolved: dict[str, list[str]] = {}
    for row in task.metadata["sub_answers"]:
        unsolved.setdefault(row["tool"], []).append(row["answer"])
    rewards = []
    for step in steps:
        u = sum(len(answers) for answers in unsolved.values())
        if step.calls:
            s, c = 0, len(step.calls)
            for call, result in zip(step.calls, step.results, strict=True):
                said = result.content.lower().replace(",", "").strip()
                for answer in unsolved.get(call.name, []):
                    parts = [p.lower().replace(",", "").strip() for p in answer.split(", ")]
                    if all(part in said for part in parts):
                        unsolved[call.name].remove(answer)
                        s += 1
                        break
            formulas = {
                "solve_precision": s / c,
                "solve_rate": float(s),
                "solve_product": s * s / c,
                "solve_f1": 2 * s / (c + 1),
                "harmonic": 2 * s / (c + u),
            }
            rewards.append(formulas[variant])
            continue
        content = step.action.strip().removesuffix("<|endoftext|>").strip()
        content = content.removesuffix("<|im_end|>").strip()
        gold = task.answers[0].lower().replace(",", "").strip()
        if content == "":
            rewards.append(-0.5)
        elif any(m in content for m in ("<tool_call>", "</tool_call>", "<tool_parsed_response>")):
            rewards.append(-0.3)
        elif gold in content.lower().replace(",", "").strip():
            rewards.append(1 / (1 + u))
        else:
            rewards.append(0.5 if u == 0 else 0.0)
    return rewards


ANSWERS = [
    "1",
    "10",
    "1,0",
    "10, 20",
    "Paris",
    "paris, 1",
    "",
    "None",
    "10.000000 seconds",
    ", ",
    "a, b",
    "A",
    "-1",
    "20 , 1",
]
RESULTS = [
    *(
        *ANSWERS,
        "It is 10 and 20.",
        '{"n": 1}',
        "PARIS 1",
        "b a",
        "Error: no 10",
        "nothing",
        "None",
    ),
    *("an error occured when call f: '10'", "an error occured when call g: ", "(1, 'a')", "True"),
    "an error occured when call f: Function call_function (args=('f', {}, 'def f(): sleep(20)')) "
    "(kwargs={}) timed out after 10.000000 seconds.\n",
    *('[1, null, "Paris, 10"]', '{"a": NaN, "b": "20"}'),
]
REPLIES = [
    *(
        "",
        "  ",
        "\n<|im_end|>",
        "<tool_call>{",
        "x </tool_call>",
        "<tool_parsed_response>",
        "The answer is 1,000.",
        "1000",
    ),
    *("I do not know", "<think>1,000</think>no", "Paris", "PARIS <|im_end|>", "1 000", "1,0,0,0"),
    *("<|im_end|><|endoftext|>", "Paris<|endoftext|>", "<|endoftext|><|im_end|>"),
]
GOLDS = ["1,000", "1000", "Paris", "p", " Paris ", "i do, not"]


def episode(rng: random.Random, steps: int) -> tuple[Task, list[Step]]:
    """A task of up to six sub-answers, and turns of up to five calls or of talk."""
    rows = [
        {"id": f"q{n}", "tool": rng.choice("fgh"), "answer": rng.choice(ANSWERS)}
        for n in range(rng.randint(1, 6))
    ]
    played = []
    for _ in range(steps):
        if rng.random() < 0.4:
            text = rng.choice(REPLIES)
            broken = (Problem("bad_json", "broken"),) if "tool_call>" in text else ()
            played.append(Step(text, problems=broken))
            continue
        calls, results = [], []
        for n in range(rng.randint(1, 5)):
            calls.append(ToolCall(f"c{n}", rng.choice("fghx"), {"of": rng.randint(0, 9)}))
            error = rng.choice([None, None, None, "tool_error"])
            results.append(ToolResult(f"c{n}", rng.choice(RESULTS), error))
        played.append(Step("<tool_call>..</tool_call>", tuple(calls), tuple(results)))
    return Task("t", "q?", (rng.choice(GOLDS),), {"sub_answers": rows}), played


@given(st.integers(0, 2**64))
@settings(max_examples=500)
def test_the_paper_presets_are_the_published_ones_on_ten_thousand_turns(seed: int) -> None:
    task, steps = episode(random.Random(seed), steps=20)
    record = Trajectory(task, steps=steps)
    for name in NAMES:
        assert REWARDS.get(name)(task, record, preset="paper") == published(task, steps, name)
    harmonic = solve_f1(task, record, preset="paper", harmonic=True)
    assert harmonic == published(task, steps, "harmonic")


@given(st.integers(0, 2**64), st.integers(0, 8))
def test_ours_stays_between_0_and_1_and_depends_on_nothing_later(seed: int, count: int) -> None:
    task, steps = episode(random.Random(seed), steps=count)
    record, total = Trajectory(task, steps=steps), len(task.metadata["sub_answers"])
    counts = Solving.of(turns(task, steps), total)
    figures = (counts.precision, counts.precision * counts.rate, counts.f1)
    assert sum(solve_rate(task, record)) == pytest.approx(counts.rate)
    for name in NAMES:
        function = REWARDS.get(name)
        for options in ({}, {"preset": "paper"}, *[{"bounded": True}] * (name in WITH_CHANGES)):
            values = function(task, record, **options)
            for k in range(count):
                assert function(task, Trajectory(task, steps=steps[:k]), **options) == values[:k]
        assert all(0 <= value <= 1 for value in function(task, record))
    for name, figure in zip(WITH_CHANGES, figures, strict=True):
        assert sum(REWARDS.get(name)(task, record, bounded=True)) == pytest.approx(figure)


def task(*answers: str, gold: str = "gold") -> Task:
    rows = [{"id": f"q{n}", "tool": "f", "answer": a} for n, a in enumerate(answers, 1)]
    return Task("t", "q?", (gold,), {"sub_answers": rows})


def turn(*said: str, error: str | None = None, unread: int = 0) -> Step:
    calls = tuple(ToolCall(f"c{n}", "f", {"of": text}) for n, text in enumerate(said))
    results = tuple(ToolResult(f"c{n}", text, error) for n, text in enumerate(said))
    return Step("x", calls, results, problems=(Problem("bad_call", "broken"),) * unread)


@pytest.mark.parametrize(
    ("name", "ours", "paper"),
    [
        ("solve_precision", [0.5, 0.0, 0.5], [0.5, 0.0, 1.0]),
        ("solve_rate", [2 / 3, 0.0, 1 / 3], [2.0, 0.0, 1.0]),
        ("solve_product", [1 / 3, 0.0, 1 / 6], [1.0, 0.0, 1.0]),
        ("solve_f1", [4 / 7, 0.0, 2 / 3], [0.8, 0.0, 1.0]),
    ],
)
def test_values_by_hand(name: str, ours: list[float], paper: list[float]) -> None:
    on = task("10", "20", "30")
    # 2 of 4 solved; talk; 1 of 1 and an attempt that could not be read, with 1 open
    steps = [turn("10", "20", "x", "y"), Step("hm"), turn("30", unread=1)]
    record = Trajectory(on, steps=steps)
    assert REWARDS.get(name)(on, record) == pytest.approx(ours)
    assert REWARDS.get(name)(on, record, preset="paper") == pytest.approx(paper)


def test_changes_of_the_episode_figure_punish_needless_calls() -> None:
    on = task("10", "20")
    record = Trajectory(on, steps=[turn("10"), turn("x"), turn("20"), Step("end", answer="gold")])
    assert solve_precision(on, record) == [1.0, 0.0, 1.0, 0.0]
    assert solve_precision(on, record, bounded=True) == pytest.approx([1, -1 / 2, 1 / 6, 0])
    assert solve_f1(on, record, bounded=True) == pytest.approx([2 / 3, -1 / 6, 3 / 10, 0])


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("", -0.5),
        ("<tool_call>{", -0.3),
        ("It is gold.", 1 / 3),
        ("<think>gold</think>", 1 / 3),  # as published, reasoning is content
        ("hm", 0.0),
    ],
)
def test_turns_without_calls_as_published_and_in_ours(reply: str, value: float) -> None:
    on = task("10", "20")
    for answer in (None, reply):
        record = Trajectory(on, steps=[Step(reply, answer=answer)])
        for name in NAMES:
            assert REWARDS.get(name)(on, record, preset="paper") == [value]
            assert REWARDS.get(name)(on, record) == [0.0]


def test_after_everything_is_solved() -> None:
    on = task("10")
    record = Trajectory(on, steps=[turn("10"), Step("hm"), Step("gold", answer="gold")])
    assert solve_rate(on, record, preset="paper") == [1.0, 0.5, 1.0]
    assert solve_rate(on, record) == [1.0, 0.0, 0.0]


def test_a_broken_call_of_any_format_is_malformed_markup() -> None:
    on = task("10")
    broken = Step("Action: f[", problems=(Problem("unclosed_call", "broken"),))
    record = Trajectory(on, steps=[broken])
    assert solve_precision(on, record, preset="paper") == [-0.3]
    assert solve_product(on, record) == [0.0]


@pytest.mark.parametrize("name", NAMES)
def test_a_task_without_sub_answers_says_who_has_them(name: str) -> None:
    bare = Task("t", "q?", ("gold",))
    with pytest.raises(BadInputError, match=r"no sub-answers.*scenarios have them"):
        REWARDS.get(name)(bare, Trajectory(bare, steps=[Step("x")]))
    with pytest.raises(UnknownNameError, match="unknown preset 'mine'"):
        REWARDS.get(name)(task("1"), Trajectory(task("1")), preset="mine")


@pytest.mark.parametrize("name", WITH_CHANGES)
def test_the_paper_has_no_changes(name: str) -> None:
    with pytest.raises(BadInputError, match="bounded=True goes with preset 'ours'"):
        REWARDS.get(name)(task("1"), Trajectory(task("1")), preset="paper", bounded=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", ["ours", "paper"])
def test_the_contract_of_rewards_on_random_episodes(name: str, preset: str) -> None:
    rng = random.Random(1)
    records = []
    for _ in range(20):
        on, steps = episode(rng, steps=6)
        records.append(Trajectory(on, steps=steps))
    function = REWARDS.get(name)

    def preset_of(task: Task, trajectory: Trajectory) -> list[float]:
        values: list[float] = function(task, trajectory, preset=preset)
        return values

    check_reward(preset_of, trajectories=records)
    with pytest.raises(CheckError, match="reads tool results"):
        check_reward(preset_of, answer_only=True)


@tool(inline=True)
def population(city: str) -> int:
    """How many people live in a city, in thousands.

    Args:
        city: its name.
    """
    return {"Orsk": 10, "Veldt": 7}.get(city, 1000)


def scenario() -> Task:
    rows = [
        {"id": "q1", "tool": "population", "answer": "10"},
        {"id": "q2", "tool": "population", "answer": "7"},
    ]
    return Task("s", "Which has more people, Orsk or Veldt?", ("Orsk",), {"sub_answers": rows})


def call(*cities: str) -> str:
    return "\n".join(
        f"<tool_call>{json.dumps({'name': 'population', 'arguments': {'city': c}})}</tool_call>"
        for c in cities
    )


def play(reward: dict[str, Any], replies: list[str]) -> tuple[list[float], Trajectory]:
    env = ToolEnv(
        TaskSet([scenario()], source="test"),
        Toolset([population]),
        get_format("hermes"),
        Rubric(reward),
    )
    env.reset(seed=0)
    return [env.step(reply)[1] for reply in replies], env.trajectory


def test_in_an_environment_each_step_is_paid_at_once() -> None:
    reward = {"solve_f1": {"weight": 1.0}, "task_completion": 1.0, "solve_rate": 0.0}
    replies = [call("Ardal", "Orsk"), call("Orsk"), call("Veldt"), "Answer: Orsk"]
    values, record = play(reward, replies)
    assert values == pytest.approx([0.5, 0.0, 1.0, 1.0])
    assert [step.reward_parts["solve_rate"] for step in record.steps] == [0.5, 0.0, 0.5, 0.0]
    # the same from the recording; "10" stands in 1000 for the paper
    table = score([record], {"ours": reward, "paper": {"solve_rate": {"preset": "paper"}}})
    assert table.totals["ours"] == pytest.approx([2.5])
    assert table.totals["paper"] == pytest.approx([1 + 0 + 1 + 1])


def test_broken_markup_in_an_environment_counts_as_a_call() -> None:
    reward: dict[str, Any] = {"solve_precision": 1.0}
    values, _ = play(reward, [call("Orsk") + "\n<tool_call>{broken", "<tool_call>[", "Orsk"])
    assert values == [0.5, 0.0, 0.0]
    paper: dict[str, Any] = {"solve_precision": {"preset": "paper"}}
    assert play(paper, [call("Orsk"), "<tool_call>[", "Orsk"])[0] == [1.0, -0.3, 0.5]


@pytest.mark.parametrize("function", [solve_precision, solve_rate, solve_product, solve_f1])
def test_an_episode_without_steps(function: Callable[..., list[float]]) -> None:
    assert function(task("1"), Trajectory(task("1"))) == []
