"""Several user turns in an episode: who speaks, what appears, and what rewards and rows see."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from remembering import InlineShop

from toolgym import ScriptedUser, Task, TaskSet, ToolCall, ToolEnv, Toolset, Trajectory, UserTurn
from toolgym.data.chat import conversation
from toolgym.errors import BadInputError
from toolgym.formats import get_format
from toolgym.formats.base import Action
from toolgym.grading.rubric import make_rubric
from toolgym.registry import FORMATS

TASKS = TaskSet([Task("t", "Hello.", ("yes",), {"cart": {}})], source="test")


class Talk(ToolEnv):
    """An environment whose user shows one tool later and has one of his own."""

    def hidden_for(self, task: Task) -> tuple[str, ...]:
        return ("note", "fail")


def make(name: str = "hermes", turns: Any = (), **options: Any) -> ToolEnv:
    return Talk(
        TASKS,
        Toolset([InlineShop]),
        get_format(name),
        make_rubric({"accuracy": 1.0}),
        user=lambda task: ScriptedUser(turns),
        **options,
    )


def write(env: ToolEnv, name: str = "", answer: str | None = None, **arguments: Any) -> str:
    calls = (ToolCall("c", name, arguments),) if name else ()
    return env.format.write(Action("", calls, answer), env.toolset.schemas())


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_dialogue_in_every_format(name: str) -> None:
    turns = [UserTurn("Now note.", tools=("note",)), "Thanks."]
    env = make(name, turns)
    env.reset()
    env.step(write(env, "note", text="x"))
    assert env.trajectory.state == {"cart": {}, "log": []}
    assert not any(r.error is None for r in env.trajectory.steps[-1].results), "hidden till then"
    seen, reward, terminated, _, info = env.step(write(env, answer="yes"))
    assert (reward, terminated) == (0.0, False), "the dialogue goes on, so it was not the answer"
    assert seen.startswith("Now note.\nTools that can be called from now on:\n")
    assert '"note"' in seen
    assert info["messages"][-1] == {"role": "user", "content": seen}
    env.step(write(env, "note", text="x"))
    assert env.trajectory.steps[-1].results[0].error is None
    assert env.step(write(env, answer="no"))[0] == "Thanks."
    _, reward, terminated, _, _ = env.step(write(env, answer="yes"))
    assert (reward, terminated) == (1.0, True)
    record = env.trajectory
    assert record.answer == "yes"
    assert [s.user for s in record.steps if s.user] == ["Now note.", "Thanks."]
    assert record.to_line() == Trajectory.from_row(json.loads(record.to_line())).to_line()
    assert [t["function"]["name"] for t in record.steps[1].appeared] == ["note"]
    assert "note" not in [t["function"]["name"] for t in record.tools]


def test_a_user_has_tools_of_his_own() -> None:
    calls = (ToolCall("", "add", {"item": "mine"}), ToolCall("", "fail", {}))
    env = make(turns=[UserTurn("I did it myself.", calls=calls)])
    env.reset()
    env.step(write(env, answer="Please do it."))
    step = env.trajectory.steps[-1]
    assert [c.id for c in step.user_calls] == ["user_0", "user_1"]
    assert [r.error for r in step.user_results] == [None, "tool_error"]
    assert env.trajectory.state["cart"] == {"mine": 1}
    assert step.state_diff
    assert env.trajectory.state_after(0)["cart"] == {}
    assert Trajectory.from_row(json.loads(env.trajectory.to_line())) == env.trajectory


def test_the_limit_of_turns_holds_while_the_user_speaks() -> None:
    env = make(turns=["More."] * 10, max_steps=3)
    env.reset()
    for _ in range(2):
        assert not env.step(write(env, answer="yes"))[3]
    _, reward, terminated, truncated, _ = env.step(write(env, answer="yes"))
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert env.trajectory.answer is None


def test_a_user_is_part_of_a_moment() -> None:
    env = make(turns=["one", "two"])
    env.reset()
    moment = env.snapshot()
    assert env.step(write(env, answer="x"))[0] == "one"
    twin = copy.deepcopy(env)
    assert env.step(write(env, answer="x"))[0] == "two"
    assert twin.step(write(env, answer="x"))[0] == "two"
    env.restore(moment)
    assert env.step(write(env, answer="x"))[0] == "one"


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (UserTurn("x", tools=("add",)), "shows tool 'add', which is not a hidden one"),
        (UserTurn("x", tools=("nothing",)), "shows tool 'nothing'"),
        (7, "a user says a string, not 7"),
    ],
)
def test_a_user_who_says_what_cannot_be(
    turn: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of one's own may say anything."""
    monkeypatch.setattr(ScriptedUser, "reply", lambda *_: turn)
    env = make()
    env.reset()
    with pytest.raises(BadInputError, match=said):
        env.step(write(env, answer="x"))


@pytest.mark.parametrize("style", ["as_played", "native"])
def test_rows_for_trainers_hold_the_users_turns(style: str) -> None:
    env = make(turns=["Are you sure?"])
    env.reset()
    env.step(write(env, "add", item="tea"))
    env.step(write(env, answer="yes"))
    env.step(write(env, answer="yes"))
    opening, rest, _ = conversation(env.trajectory, style)
    assert opening[-1]["role"] == "user"
    roles = [chat["role"] for chat in rest]
    result = "tool" if style == "native" else "user"
    assert roles == ["assistant", result, "assistant", "user", "assistant"]
    assert rest[3]["content"] == "Are you sure?"
