"""Users made of scripts: they tell what is asked for, nothing else, and cannot err."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

import toolgym
from toolgym.envs.toolscenario.authors.stateful.author import WorldAuthor
from toolgym.envs.toolscenario.compiler.pipeline import compile_scenarios
from toolgym.envs.toolscenario.plans import play
from toolgym.envs.toolscenario.user import BEGGING, CompiledUser, questions, topics
from toolgym.envs.toolscenario.world import Act, Change, Fact, UserScript, World
from toolgym.policies import make_policy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs seccomp")


def drawn(count: int) -> list[World]:
    author = WorldAuthor(seed=8, dialogues=1.0)
    return [author.world(question) for question in author.questions(count)]


WORLDS = drawn(48)
FACTS = (
    Fact(name="new city", keywords=("city",), value="Graz"),
    Fact(name="amount", keywords=("amount",), value="25"),
    Fact(name="password", keywords=("password",), secret=True),
)
ACT = Act(name="unlock the account", keywords=("unlock",), tool="unlock", arguments={"id": "C-1"})


def user(**script: Any) -> CompiledUser:
    fields = {"facts": FACTS, "acts": (ACT,), "noise": 0} | script
    return CompiledUser(WORLDS[0].model_copy(update={"user": UserScript(**fields)}))


def said(speaker: CompiledUser, text: str) -> str:
    turn = speaker.heard(text)
    assert turn is not None
    return turn.text


def test_a_fact_is_told_when_it_is_asked_for_and_a_secret_never() -> None:
    speaker = user()
    assert "Graz" in said(speaker, "Which city shall it be?")
    assert "Graz" in said(speaker, "Please tell me the city again.")
    answer = said(speaker, "What is your password?")
    assert "Graz" not in answer
    assert "25" not in answer
    assert "25" in said(speaker, "And the amount?")
    assert speaker.heard("I have changed the city, and the amount is right.") is None


@pytest.mark.parametrize(
    "text",
    [
        "Could you tell me the new city of customer Ada Baron, so that I can update the account?",
        "I found the account. The new city is missing. Could you help me with it?",
        "To go on I need to know which city it is",
        "CITY?",
    ],
)
def test_a_fact_may_be_asked_for_in_many_words(text: str) -> None:
    assert "Graz" in said(user(), text)


def test_what_is_said_when_all_is_done_is_no_question_for_it() -> None:
    speaker = user()
    assert "Graz" in said(speaker, "Which city?")
    assert "Graz" not in said(speaker, "I have set the city to Graz. Is there anything else?")
    assert speaker.heard("The city is set.") is None


def test_who_asks_for_all_at_once_is_told_nothing() -> None:
    listed = f"Give me the {', the '.join(topics(WORLDS[0]))}, the city and the amount."
    for text in (*BEGGING, listed, "City? Amount? Password? Unlock?"):
        speaker = user()
        for _ in range(4):
            turn = speaker.heard(text)
            if turn is None:
                break
            assert "Graz" not in turn.text
            assert "25" not in turn.text
            assert not turn.calls


def test_a_mind_is_changed_once_the_fact_was_told() -> None:
    speaker = user(change=Change(fact="new city", value="Turin"), acts=())
    assert speaker.heard("I am done.") is None
    assert "Graz" in said(speaker, "Which city?")
    assert "Turin" in said(speaker, "All right, I do it now.")
    assert "Turin" in said(speaker, "Which city was it, please?")
    assert speaker.heard("Done.") is None


def test_what_only_he_can_do_he_does_when_he_is_asked_to() -> None:
    speaker = user()
    turn = speaker.heard("Please unlock the account first.")
    assert turn is not None
    assert [(call.name, call.arguments) for call in turn.calls] == [("unlock", {"id": "C-1"})]
    assert speaker.heard("The account is open.") is None


def test_he_insists_once() -> None:
    speaker = user(insists=True)
    assert speaker.heard("Done.") is not None
    assert speaker.heard("I am sorry, the rules do not allow it.") is None


def test_chatter_leaves_what_is_said_as_it_is() -> None:
    world = WORLDS[0]
    texts = set()
    for number in range(40):
        script = UserScript(facts=FACTS, noise=number % 4)
        speaker = CompiledUser(world.model_copy(update={"user": script, "id": f"w{number}"}))
        text = said(speaker, "Which city?")
        assert "Graz" in text
        texts.add(text)
    assert len(texts) > 8


@given(st.lists(st.text(max_size=80), max_size=6), st.sampled_from(WORLDS))
def test_no_text_makes_him_err(texts: list[str], world: World) -> None:
    """He ends sooner or later, says strings, and the same to the same."""
    first, second = CompiledUser(world), CompiledUser(world)
    for text in [*texts, "?", "Done."] * 3:
        one, other = first.heard(text), second.heard(text)
        assert one == other
        if one is not None:
            assert one.text


def test_an_oracle_is_told_all_that_it_needs_in_every_world() -> None:
    assert sum(w.user is not None and w.user.change is not None for w in WORLDS) > 3
    assert sum(w.user is not None and bool(w.user.acts) for w in WORLDS) > 3
    for world in WORLDS:
        speaker, told = CompiledUser(world), ""
        script = world.user or UserScript()
        for question in questions(world):
            told += said(speaker, question)
        for fact in script.facts:
            assert fact.secret or fact.value in told
        assert script.change is None or script.change.value in told


def test_dialogues_of_the_oracle_end_in_the_goal(tmp_path: Path) -> None:
    file = tmp_path / "dialogues.jsonl"
    compile_scenarios(WorldAuthor(seed=9, dialogues=1.0), file, 16, seed=9)
    env = gym.make("ToolScenario-v0", tasks=str(file), max_steps=40)
    run = toolgym.rollout(env, make_policy("scenario-oracle", tasks=str(file)), episodes=16, seed=0)
    for trajectory in run:
        assert sum(step.reward for step in trajectory.steps) == 1.0
        assert any(step.user for step in trajectory.steps)
        names = {tool["function"]["name"] for tool in trajectory.tools}
        assert not names & {call.name for step in trajectory.steps for call in step.user_calls}


def test_without_asking_nothing_is_reached_and_the_users_tool_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "dialogues.jsonl"
    compile_scenarios(WorldAuthor(seed=9, dialogues=1.0, level=1), file, 16, seed=9)
    env = gym.make("ToolScenario-v0", tasks=str(file), max_steps=9).unwrapped
    silent = 0
    for task in env.tasks:
        world = env._scenarios[task.id].world
        if not world.user.acts:
            continue
        silent += 1
        env.reset(options={"task": task.id})
        act = world.user.acts[0]
        hidden = env.step(f'<tool_call>\n{{"name": "{act.tool}", "arguments": {{}}}}\n</tool_call>')
        assert hidden[4]["tool_errors"] == ["unknown_tool"]
        run = play(world)
        total = 0.0
        for step in world.plan:
            said_ = toolgym.messages.ToolCall("c", step.tool, run.arguments[step.id])
            text = env.format.write(toolgym.formats.Action("", (said_,)), env.trajectory.tools)
            total += env.step(text)[1]
            if env.ended:
                break
        assert total == 0.0  # the row is locked until the user was asked
    assert silent
