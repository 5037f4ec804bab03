"""Sessions in episodes: one an episode, recorded, branched, killed, and seen by nobody else."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from remembering import InlineShop, Shop

import toolgym
from toolgym import Task, TaskSet, ToolCall, ToolEnv, ToolSession, Toolset, Trajectory, tool
from toolgym.errors import BadInputError, EpisodeEndedError
from toolgym.formats import get_format
from toolgym.formats.base import Action
from toolgym.grading.rubric import make_rubric
from toolgym.tools.service import serve_toolset
from toolgym.vector import step_together

TASKS = TaskSet(
    [Task(f"t{n}", f"Fill cart {n}", ("yes",), {"cart": {"tea": n}}) for n in range(4)],
    source="test",
)
CODEC = get_format("hermes")


class Plain:
    """A class that knows nothing of toolgym, as TRL takes them."""

    def __init__(self) -> None:
        self.count = 0
        self.started: str | None = None

    def reset(self, question: str, **kwargs: Any) -> None:
        """Begin."""
        self.started = question

    def increment(self, step: int) -> int:
        """Count up.

        Args:
            step: how far.
        """
        self.count += step
        return self.count

    def helper(self) -> None:  # undocumented: not a tool
        raise AssertionError

    def _private(self) -> None:
        """Not a tool."""


def make(cls: type[Any] = InlineShop, codec: Any = CODEC, **options: Any) -> ToolEnv:
    return ToolEnv(TASKS, Toolset([cls]), codec, make_rubric({"accuracy": 1.0}), **options)


def make_shop(**options: Any) -> ToolEnv:
    return make(InlineShop, **options)


def write(*calls: tuple[str, Mapping[str, Any]], answer: str | None = None) -> str:
    made = tuple(ToolCall(f"c{n}", name, dict(given)) for n, (name, given) in enumerate(calls))
    return CODEC.write(Action("", made, answer))


def results(env: ToolEnv) -> list[str]:
    return [result.content for result in env.trajectory.steps[-1].results]


def without_clocks(trajectory: Trajectory) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(trajectory.to_line())
    for step in row["steps"]:
        step["seconds"] = 0
    return row


@pytest.fixture(params=[InlineShop, Shop], ids=["inline", "process"])
def env(request: pytest.FixtureRequest) -> Any:
    made = make(request.param)
    yield made
    made.close()


class TestRecord:
    def test_the_state_is_recorded_at_each_step(self, env: ToolEnv) -> None:
        env.reset(options={"task": "t2"})
        env.step(write(("add", {"item": "tea"}), ("add", {"item": "milk", "amount": 2})))
        env.step(write(("look", {})))
        env.step(write(answer="yes"))
        record = env.trajectory
        assert record.state == {"cart": {"tea": 3, "milk": 2}, "log": ["tea", "milk"]}
        assert record.state_after(0) == {"cart": {"tea": 2}, "log": []}
        assert record.state_after(1) == record.state_after(3) == record.state
        first, second, last = record.steps
        assert {"path": ["cart", "tea"], "before": 2, "after": 3} in first.state_diff
        assert {"path": ["cart", "milk"], "after": 2} in first.state_diff
        assert (second.state_diff, last.state_diff) == ((), ())
        assert first.state_hash == second.state_hash == last.state_hash
        line = record.to_line()
        assert Trajectory.from_row(json.loads(line)).to_line() == line
        with pytest.raises(BadInputError, match="3 steps, not 4"):
            record.state_after(4)

    def test_calls_of_one_turn_take_effect_in_their_order(self, env: ToolEnv) -> None:
        env.reset(options={"task": "t0"})
        calls = [("add", {"item": "a"}), ("look", {}), ("add", {"item": "a"}), ("look", {})]
        env.step(write(*calls))
        assert [json.loads(text)["a"] for text in results(env)[1::2]] == [1, 2]

    def test_without_sessions_nothing_is_recorded(self) -> None:
        env = make(InlineShop)
        env.toolset = Toolset()
        env.reset(options={"task": "t0"})
        env.step(write(answer="x"))
        row = env.trajectory.to_row()
        assert "state" not in row
        assert "state_hash" not in row["steps"][0]

    def test_failures_are_results_and_later_calls_see_the_state(self, env: ToolEnv) -> None:
        env.reset(options={"task": "t1"})
        env.step(write(("fail", {}), ("add", {"itm": "x"}), ("add", {"item": "tea"})))
        step = env.trajectory.steps[-1]
        assert [r.error for r in step.results] == ["tool_error", "invalid_arguments", None]
        assert results(env)[0] == "Error: no such thing"
        assert env.trajectory.state["cart"] == {"tea": 2}

    def test_an_answer_leaves_no_process(self) -> None:
        env = make(Shop)
        env.reset(options={"task": "t0"})
        live = env._episode.every._live["Shop"]  # type: ignore[union-attr]
        env.step(write(answer="yes"))
        with pytest.raises(BadInputError, match="closed"):
            live.call("look", {}, 1.0)


class TestKilled:
    @pytest.mark.parametrize(("name", "kind"), [("die", "bug"), ("hang", "timeout")])
    def test_the_state_before_a_killed_call_is_back(self, name: str, kind: str) -> None:
        env = make(Shop)
        env.reset(options={"task": "t1"})
        env.step(write(("add", {"item": "tea"})))
        env.step(write((name, {}), ("add", {"item": "tea"})))
        step = env.trajectory.steps[-1]
        assert [r.error for r in step.results] == [kind, None]
        assert "\n" not in step.results[0].content
        assert env.trajectory.state == {"cart": {"tea": 3}, "log": ["tea", "tea"]}
        assert env.step(write(answer="yes"))[2]
        env.close()


class TestBranches:
    def test_three_branches_are_three_episodes(self, env: ToolEnv) -> None:
        start = write(("add", {"item": "tea"}))
        ways = [
            [write(("add", {"item": "a"})), write(answer="yes")],
            [write(("look", {})), write(("add", {"item": "b", "amount": 5})), write(answer="no")],
            [write(answer="yes")],
        ]
        env.reset(seed=3, options={"task": "t3"})
        env.step(start)
        moment = env.snapshot()
        branched = []
        for way in ways:
            env.restore(moment)
            for reply in way:
                env.step(reply)
            branched.append(without_clocks(env.trajectory))
        apart = []
        for way in ways:
            env.reset(seed=3, options={"task": "t3"})
            for reply in [start, *way]:
                env.step(reply)
            apart.append(without_clocks(env.trajectory))
        assert branched == apart

    def test_a_moment_is_restored_in_another_environment(self, env: ToolEnv) -> None:
        env.reset(options={"task": "t2"})
        env.step(write(("add", {"item": "tea"})))
        other = env.clone()
        other.reset(options={"task": "t0"})
        other.restore(env.snapshot())
        other.step(write(("add", {"item": "tea"})))
        assert (env.trajectory.state["cart"], other.trajectory.state["cart"]) == (
            {"tea": 3},
            {"tea": 4},
        )
        other.close()

    def test_an_episode_that_has_ended_is_copied_without_its_sessions(self, env: ToolEnv) -> None:
        env.reset(options={"task": "t1"})
        before = env.snapshot()
        env.step(write(("add", {"item": "x"})))
        env.step(write(answer="yes"))
        after, twin = env.snapshot(), copy.deepcopy(env)
        assert twin.ended
        assert twin.trajectory == env.trajectory
        assert twin.finished == env.finished
        env.restore(before)
        env.step(write(("add", {"item": "y"})))
        assert "x" not in env.trajectory.state["cart"]
        env.restore(after)
        assert env.ended
        assert env.trajectory == twin.trajectory
        with pytest.raises(EpisodeEndedError):
            env.step(write(answer="yes"))
        env.reset(options={"task": "t2"})
        assert env.trajectory.state["cart"] == {"tea": 2}

    def test_a_deep_copy_plays_on_by_itself(self, env: ToolEnv) -> None:
        env.reset(options={"task": "t0"})
        env.step(write(("add", {"item": "x"})))
        twin = copy.deepcopy(env)
        twin.step(write(("add", {"item": "x"})))
        assert env.trajectory.state["cart"]["x"] == 1
        assert twin.trajectory.state["cart"]["x"] == 2
        twin.close()

    def test_what_cannot_be_pickled_says_so(self) -> None:
        class Locked(InlineShop):
            def __init__(self, task: Task) -> None:
                super().__init__(task)
                self._lock = threading.Lock()

        env = make(Locked)
        env.reset()
        with pytest.raises(BadInputError, match="Locked cannot be copied"):
            env.snapshot()


class TestClasses:
    def test_a_class_of_others_is_taken_as_it_is(self) -> None:
        env = make(Plain)
        _, info = env.reset(options={"task": "t1"})
        assert [t["function"]["name"] for t in info["tools"]] == ["increment"]
        parameters = info["tools"][0]["function"]["parameters"]
        assert parameters["properties"]["step"]["description"] == "how far."
        env.step(write(("increment", {"step": 2}), ("increment", {"step": "3"})))
        assert results(env) == ["2", "5"]
        assert env.trajectory.state == {"count": 5, "started": "Fill cart 1"}
        env.close()

    def test_two_classes_and_a_plain_tool(self) -> None:
        @tool(inline=True)
        def double(n: int) -> int:
            """Double it."""
            return 2 * n

        class InlinePlain(Plain):
            inline = True

        env = ToolEnv(
            TASKS,
            Toolset([InlineShop, double, InlinePlain]),
            CODEC,
            make_rubric({"accuracy": 1.0}),
        )
        env.reset(options={"task": "t0"})
        env.step(write(("increment", {"step": 1}), ("double", {"n": 4}), ("add", {"item": "a"})))
        assert results(env) == ["1", "8", "1 a"]
        assert set(env.trajectory.state) == {"InlineShop", "InlinePlain"}
        assert env.trajectory.state["InlinePlain"]["count"] == 1

    def test_a_method_is_called_as_a_method(self) -> None:
        shop = Shop(TASKS[0])
        assert shop.add("tea", 2) == "2 tea"
        with pytest.raises(BadInputError, match="give the class as a tool"):
            Toolset([Shop.add]).execute([ToolCall("1", "add", {"item": "x"})])

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ({}, "gives no tool: mark its methods"),
            ({"inline": True, "go": 1}, "gives no tool"),
        ],
    )
    def test_a_class_without_tools(self, body: dict[str, Any], said: str) -> None:
        with pytest.raises(BadInputError, match=said):
            Toolset([type("Empty", (ToolSession,), body)])

    def test_names_twice(self) -> None:
        with pytest.raises(BadInputError, match="two sessions are called 'Shop'"):
            Toolset([Shop, Shop])
        with pytest.raises(BadInputError, match="two tools are called 'add'"):
            Toolset([Shop, InlineShop])

    @pytest.mark.parametrize("inline", [True, False])
    @pytest.mark.parametrize(
        ("value", "said"),
        [(object(), "not plain JSON"), (float("nan"), "not plain JSON"), (ValueError, "raised")],
    )
    def test_a_state_that_is_not_json(self, inline: bool, value: Any, said: str) -> None:
        class Odd(ToolSession):
            @tool
            def go(self) -> str:
                """Go."""
                return ""

            def state(self) -> Any:
                if value is ValueError:
                    raise ValueError("gone")
                return {"it": value}

        Odd.inline = inline
        env = make(Odd)
        with pytest.raises(BadInputError, match="Odd") as caught:
            env.reset()
        assert "\n" not in str(caught.value)
        env.close()

    @pytest.mark.parametrize("inline", [True, False])
    def test_a_session_that_cannot_begin(self, inline: bool) -> None:
        class Picky(Shop):
            def __init__(self, task: Task) -> None:
                raise KeyError("no cart")

        Picky.inline = inline
        env = make(Picky)
        with pytest.raises(BadInputError, match="KeyError"):
            env.reset()
        env.close()

    def test_a_cassette_knows_the_state(self, tmp_path: Any) -> None:
        path = str(tmp_path / "c.jsonl")
        said = []
        for mode in ("record", "replay"):
            env = make()
            env.toolset = serve_toolset(
                Toolset([InlineShop]), {"cassette": path, "mode": mode}, "shop"
            )
            env.reset(options={"task": "t1"})
            env.step(write(("add", {"item": "tea"}), ("look", {})))
            said.append(without_clocks(env.trajectory))
        assert said[0] == said[1]
        assert said[1]["state"]["cart"] == {"tea": 2}


class TestNothingLeaks:
    def test_episodes_played_together_keep_their_own(self) -> None:
        envs = [make(InlineShop) for _ in range(8)] + [make(Shop) for _ in range(4)]
        for n, env in enumerate(envs):
            env.reset(options={"task": "t0", "sample": n})
        for _ in range(3):
            step_together(envs, [write(("add", {"item": f"own{n}"})) for n in range(len(envs))])
        for n, env in enumerate(envs):
            assert env.trajectory.state["cart"] == {"tea": 0, f"own{n}": 3}
            env.close()

    def test_threads(self) -> None:
        def play(number: int) -> Any:
            env = make(InlineShop if number % 2 else Shop)
            env.reset(options={"task": "t0"})
            for _ in range(5):
                env.step(write(("add", {"item": f"own{number}"})))
            env.close()
            return env.trajectory.state["cart"]

        with ThreadPoolExecutor(8) as pool:
            carts = list(pool.map(play, range(24)))
        assert carts == [{"tea": 0, f"own{n}": 5} for n in range(24)]

    def test_a_reset_begins_anew(self, env: ToolEnv) -> None:
        for _ in range(3):
            env.reset(options={"task": "t1"})
            assert env.trajectory.state == {"cart": {"tea": 1}, "log": []}
            env.step(write(("add", {"item": "x"})))

    def test_rollouts_of_a_registered_environment(self, tmp_path: Any) -> None:
        numbers = itertools.count()

        def policy(messages: Any, tools: Any) -> str:
            replies = sum(message["role"] == "assistant" for message in messages)
            own = f"own{next(numbers)}"
            return write(("add", {"item": own})) if replies < 2 else write(answer="yes")

        gym.register("ShopTest-v0", make_shop)
        run = toolgym.rollout(
            "ShopTest-v0",
            policy,
            episodes=40,
            samples_per_task=10,
            concurrency=16,
            out=tmp_path / "run",
        )
        seen: list[str] = []
        for trajectory in run.trajectories():
            assert trajectory.state_after(0)["cart"] == trajectory.task.metadata["cart"]
            seen += trajectory.state["cart"].keys() - {"tea"}
        assert len(seen) == len(set(seen)) == 80

    def test_a_pickled_environment_goes_on(self) -> None:
        gym.register("ShopTestPickle-v0", make_shop)
        env = gym.make("ShopTestPickle-v0", disable_env_checker=True).unwrapped
        env.reset(options={"task": "t1"})
        env.step(write(("add", {"item": "x"})))
        twin = pickle.loads(pickle.dumps(env))
        twin.step(write(("add", {"item": "x"})))
        assert twin.trajectory.state["cart"]["x"] == 2
        assert env.trajectory.state["cart"]["x"] == 1  # type: ignore[attr-defined]


moves = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("ab"), st.integers(0, 3)),
    st.tuples(st.just("save")),
    st.tuples(st.just("back"), st.integers(0, 5)),
)


@given(st.lists(moves, max_size=25))
@settings(deadline=None, max_examples=60)
def test_any_branching_equals_a_plain_model(played: list[Any]) -> None:
    env = make(InlineShop, max_steps=100)
    env.reset(options={"task": "t1"})
    cart: dict[str, int] = {"tea": 1}
    saved: list[Any] = []
    for move in played:
        if move[0] == "add":
            env.step(write(("add", {"item": move[1], "amount": move[2]})))
            cart = {**cart, move[1]: cart.get(move[1], 0) + move[2]}
        elif move[0] == "save":
            saved.append((env.snapshot(), dict(cart), len(env.trajectory.steps)))
        elif saved:
            moment, cart, steps = saved[move[1] % len(saved)]
            cart = dict(cart)
            env.restore(moment)
            assert len(env.trajectory.steps) == steps
        record = env.trajectory
        assert record.state["cart"] == cart
        assert record.state_after(0) == {"cart": {"tea": 1}, "log": []}


def test_an_environment_of_ours_takes_classes_and_a_user() -> None:
    env = gym.make(
        "ToolQA-PopQA-v0",
        tools=["Calculator", InlineShop],
        format="hermes",
        user=lambda task: toolgym.ScriptedUser(["And now?"]),
    ).unwrapped
    assert isinstance(env, ToolEnv)
    _, info = env.reset(seed=0)
    assert [tool["function"]["name"] for tool in info["tools"]][:2] == ["Calculator", "add"]
    env.step(write(("add", {"item": "tea"}), ("Calculator", {"expression": "2+2"})))
    assert results(env) == ["1 tea", "4"]
    assert env.step(write(answer="x"))[0] == "And now?"
    assert env.trajectory.state == {"cart": {"tea": 1}, "log": ["tea"]}
    vector = gym.make_vec("ToolQA-PopQA-v0", num_envs=2, tools=[InlineShop], format="hermes")
    vector.reset(seed=0)
    vector.step([write(("add", {"item": name})) for name in "ab"])
    carts = [e.unwrapped.trajectory.state["cart"] for e in vector.envs]  # type: ignore[attr-defined]
    assert carts == [{"a": 1}, {"b": 1}]
    vector.close()
