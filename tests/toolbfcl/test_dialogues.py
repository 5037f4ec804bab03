"""Dialogues of ``ToolBFCL-v0``: gold and spoiled plans, users, limits, records, branches."""

from __future__ import annotations

import itertools
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from toolgym import evaluate, rollout, score
from toolgym._util.optional import require_extra
from toolgym.envs.toolbfcl.checks import bfcl, bfcl_state
from toolgym.envs.toolbfcl.data import SHOWN, gold_plan, open_tasks, user_turns
from toolgym.envs.toolbfcl.environment import BFCLEnv, plan_of
from toolgym.errors import BadInputError, MissingFileError, UnknownNameError
from toolgym.formats import Action
from toolgym.messages import ToolCall, ToolResult
from toolgym.policies.base import make_policy
from toolgym.task import Task
from toolgym.trajectory import Step, Trajectory, read_trajectories

ID = "ToolBFCL-v0"
BOTH = {"bfcl": 1.0, "bfcl_state": 0.0}
CATEGORIES = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param")


def make(**kwargs: Any) -> BFCLEnv:
    env = gym.make(ID, **kwargs).unwrapped
    assert isinstance(env, BFCLEnv)
    return env


def play(env: BFCLEnv, task: Task, plan: list[Action]) -> dict[str, float]:
    _, info = env.reset(options={"task": task.id})
    terminated = truncated = False
    for action in plan:
        assert not terminated, task.id
        assert not truncated, task.id
        _, _, terminated, truncated, info = env.step(env.format.write(action, info["tools"]))
    assert terminated, task.id
    steps = env.trajectory.steps
    assert not any(value for step in steps[:-1] for value in step.reward_parts.values())
    return steps[-1].reward_parts


def recorded(task: Task, turns: list[list[ToolCall]]) -> Trajectory:
    """An episode that makes these calls, as a record."""
    steps = []
    for calls in turns:
        results = tuple(ToolResult(call.id, "") for call in calls)
        steps += [Step("", tuple(calls), results), Step("", answer="done")]
    return Trajectory(task, steps=steps)


def gold_calls(task: Task) -> list[list[ToolCall]]:
    return [[ToolCall("", **item) for item in turn] for turn in gold_plan(task)]


@pytest.mark.parametrize(
    ("format", "every"), [("hermes", 1), ("llama3", 16), ("react", 16), ("tags", 16)]
)
def test_all_gold_plans_pass_the_published_check(format: str, every: int) -> None:
    env = make(format=format, reward=BOTH)
    assert len(env.tasks) == 800
    for task in env.tasks[::every]:
        assert play(env, task, plan_of(task)) == {"bfcl": 1.0, "bfcl_state": 1.0}, task.id


def test_who_only_answers_is_never_paid() -> None:
    env = make(reward=BOTH)
    for task in env.tasks[::5]:
        assert play(env, task, plan_of(task, "empty")) == {"bfcl": 0.0, "bfcl_state": 0.0}, task.id


def spoiled(task: Task, rng: random.Random) -> dict[str, list[list[ToolCall]]]:
    every = [call for turn in gold_calls(task) for call in turn]
    shuffled = gold_calls(task)
    for turn in shuffled:
        rng.shuffle(turn)
    mixed, rest = [], rng.sample(every, len(every))
    for turn in shuffled:
        mixed.append([rest.pop() for _ in turn])
    dropped, more = gold_calls(task), gold_calls(task)
    turn = rng.choice([turn for turn in dropped if turn])
    turn.pop(rng.randrange(len(turn)))
    turn = rng.choice(more)
    turn.insert(rng.randint(0, len(turn)), rng.choice(every))
    return {"shuffled": shuffled, "mixed": mixed, "dropped": dropped, "more": more}


def published_verdict(task: Task, turns: list[list[ToolCall]], name: str) -> bool:
    """What the wheel's own checker says, which evaluates calls as Python: ours, of gold plans."""

    def written(calls: list[ToolCall]) -> list[str]:
        told = [", ".join(f"{k}={v!r}" for k, v in call.arguments.items()) for call in calls]
        return [f"{call.name}({text})" for call, text in zip(calls, told, strict=True)]

    checker = require_extra("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker", "bfcl")
    held = task.metadata
    entry = {"id": task.id, "initial_config": held["initial_config"]}
    found = checker.multi_turn_checker(
        [[written(turn)] if turn else [] for turn in turns],
        [written(turn) for turn in gold_calls(task)],
        entry | {"involved_classes": held["classes"]},
        task.split,
        name,
    )
    return bool(found["valid"])


def test_spoiled_plans_get_what_the_published_checker_gives() -> None:
    # Not with long contexts, where its instances write into constants that all of them share.
    tasks = [task for name in CATEGORIES for task in open_tasks(name)[::6]]
    rng, names, verdicts = random.Random(3), itertools.count(), []
    for task in tasks:
        for kind, turns in spoiled(task, rng).items():
            theirs = published_verdict(task, turns, f"test{next(names)}")
            episode = recorded(task, turns)
            assert bfcl(task, episode)[-1] == theirs, (task.id, kind)
            assert bfcl_state(task, episode)[-1] >= theirs, (task.id, kind)
            verdicts.append(theirs)
    assert 0.2 < sum(verdicts) / len(verdicts) < 0.8


def task_of(name: str) -> Task:
    tasks = open_tasks("multi_turn")
    return tasks[tasks.index_of(name)]


def calls(*turns: list[tuple[str, dict[str, Any]]]) -> list[list[ToolCall]]:
    return [[ToolCall("", *call) for call in turn] for turn in turns]


def travel(gold: Any, turns: int = 1, **more: Any) -> Task:
    cards = {"c1": {"card_number": "1", "balance": 50_000}}
    state = {"access_token": "t", "token_expires_in": 2, "credit_card_list": cards}
    row = {
        "id": "travel",
        "question": "Book it.",
        "answers": [gold],
        "category": "mine",
        "turns": ["And now?"] * (turns - 1),
        "classes": ["TravelAPI"],
        "initial_config": {"TravelAPI": state},
    }
    return open_tasks([row | more])[0]


def book(to: str) -> tuple[str, dict[str, Any]]:
    flight = {"travel_date": "2026-11-14", "travel_from": "SFO", "travel_to": to}
    return "book_flight", {"access_token": "t", "card_id": "c1", "travel_class": "first"} | flight


def plan(*turns: list[tuple[str, dict[str, Any]]]) -> str:
    return json.dumps([[{"name": name, "arguments": given} for name, given in t] for t in turns])


def test_another_order_of_bookings_is_right() -> None:
    task = travel(plan([book("LAX"), book("JFK")]))
    other = recorded(task, calls([book("JFK"), book("LAX")]))
    assert bfcl(task, other)[-1] == 0.0, "their numbers are drawn one after the other"
    assert bfcl_state(task, other)[-1] == 1.0
    assert bfcl_state(task, recorded(task, calls([book("JFK")])))[-1] == 0.0
    twice = recorded(task, calls([book("LAX"), book("JFK"), book("JFK")]))
    assert bfcl_state(task, twice)[-1] == 0.0


def test_a_number_is_right_in_another_form() -> None:
    cost = ("compute_exchange_rate", {"base_currency": "USD", "target_currency": "RMB"})
    gold = [(cost[0], cost[1] | {"value": 10}), ("set_budget_limit", limit(70))]
    task = travel(plan(gold))
    other = [("set_budget_limit", limit(70.0))]
    assert bfcl(task, recorded(task, calls(other)))[-1] == 0.0, "a result is missing"
    assert bfcl_state(task, recorded(task, calls(other)))[-1] == 1.0, "another one says 70.0, too"
    assert bfcl_state(task, recorded(task, calls([("set_budget_limit", limit(71))])))[-1] == 0.0


def limit(value: float) -> dict[str, Any]:
    return {"access_token": "t", "budget_limit": value}


def test_what_is_undone_later_must_have_been_so() -> None:
    task = task_of("multi_turn_base_163")
    assert bfcl_state(task, recorded(task, gold_calls(task)))[-1] == 1.0
    gold = gold_calls(task)
    never = [[gold[0][0]], []]  # looks up what it costs, books nothing, cancels nothing
    assert bfcl_state(task, recorded(task, never))[-1] == 0.0


def test_a_setting_that_a_later_turn_overwrites_must_have_been_so() -> None:
    set_to = [("set_budget_limit", limit(value)) for value in (10, 20)]
    task = travel(plan([set_to[0]], [set_to[1]]), turns=2)
    assert bfcl_state(task, recorded(task, calls([set_to[0]], [set_to[1]])))[-1] == 1.0
    assert bfcl_state(task, recorded(task, calls([], [set_to[1]])))[-1] == 0.0
    assert bfcl_state(task, recorded(task, calls([set_to[1]], [set_to[0]])))[-1] == 0.0


def test_what_was_asked_for_is_read_by_the_end_of_its_turn() -> None:
    read = ("list_all_airports", {})
    task = travel(plan([read], [book("LAX")]), turns=2)
    assert bfcl_state(task, recorded(task, calls([read], [book("LAX")])))[-1] == 1.0
    assert bfcl_state(task, recorded(task, calls([], [book("LAX"), read])))[-1] == 0.0
    # The published check refuses a turn without calls, though everything was known.
    early = travel(plan([read], [read]), turns=2)
    once = recorded(early, calls([read], []))
    assert (bfcl(early, once)[-1], bfcl_state(early, once)[-1]) == (0.0, 1.0)


def test_more_reads_do_no_harm() -> None:
    speed, log = ("get_current_speed", {}), ("display_log", {"messages": ["x"]})
    task = open_tasks(
        [
            {
                "id": "car",
                "question": "How fast?",
                "answers": [plan([speed, log])],
                "classes": ["VehicleControlAPI"],
                "initial_config": {},
            }
        ]
    )[0]
    many = recorded(task, calls([log, speed, speed]))
    assert bfcl_state(task, many)[-1] == 1.0
    temperature = ("get_outside_temperature_from_google", {})
    shifted = recorded(task, calls([temperature, speed, log]))
    assert bfcl(task, shifted)[-1] == 0.0, "a speed is drawn, and so was the temperature"
    assert bfcl_state(task, shifted)[-1] == 1.0
    assert bfcl_state(task, recorded(task, calls([log])))[-1] == 0.0


def test_the_reward_of_a_step_depends_on_nothing_after_it() -> None:
    task = task_of("multi_turn_miss_func_3")
    whole = recorded(task, gold_calls(task))
    values = bfcl(task, whole)
    for steps in range(len(whole.steps) + 1):
        begun = Trajectory(task, steps=whole.steps[:steps])
        assert bfcl(task, begun) == values[:steps]
        assert bfcl_state(task, begun) == bfcl_state(task, whole)[:steps]
    assert values == [0.0] * (len(values) - 1) + [1.0]


def test_calls_that_were_not_made_are_not_played_again() -> None:
    task = task_of("multi_turn_base_0")
    episode = recorded(task, gold_calls(task))
    step = episode.steps[0]
    more = ToolCall("", "mkdir", {"dir_name": "more"})
    refused = ToolResult("", "Error: mkdir is not available at the moment.", "injected_tool_error")
    step.calls, step.results = (*step.calls, more), (*step.results, refused)
    assert bfcl(task, episode)[-1] == bfcl_state(task, episode)[-1] == 1.0
    step.results = (*step.results[:-1], ToolResult("", ""))
    assert bfcl(task, episode)[-1] == bfcl_state(task, episode)[-1] == 0.0


def test_withheld_functions_appear_with_the_published_sentence() -> None:
    env = make(tasks="multi_turn_miss_func")
    task = env.tasks[0]
    assert task.metadata["withheld"] == {"3": ["sort"]}
    _, info = env.reset(options={"task": 0})

    def names() -> set[str]:
        return {tool["function"]["name"] for tool in info["tools"]}

    def say(action: Action) -> str:
        nonlocal info
        said, *_, info = env.step(env.format.write(action, info["tools"]))
        return str(said)

    sort = Action("", (ToolCall("call_0", "sort", {"file_name": "final_report.pdf"}),))
    assert "sort" not in names()
    assert "does not exist" in say(sort)
    assert env.trajectory.steps[-1].results[0].error == "unknown_tool"
    for text, shown in user_turns(task):
        said = say(Action("", (), "done"))
        assert said.startswith(text)
        assert ("sort" in names()) == bool(shown) or "sort" in names()
        if shown:
            assert text == SHOWN
            assert '"name": "sort"' in said
            assert "does not exist" not in say(sort)
    assert [step.user for step in env.trajectory.steps if step.user] == [
        text for text, _ in user_turns(task)
    ]


def test_every_published_plan_calls_what_is_shown_by_then() -> None:
    for task in open_tasks("multi_turn_miss_func"):
        appears = {n: place for place, names in task.metadata["withheld"].items() for n in names}
        for place, turn in enumerate(gold_plan(task)):
            assert all(int(appears.get(call["name"], 0)) <= place for call in turn), task.id


def test_too_many_steps_in_a_turn_end_the_episode() -> None:
    env = make(tasks="multi_turn_base")
    look = Action("", (ToolCall("call_0", "pwd", {}),))
    _, info = env.reset(options={"task": 0})
    played = []
    while not env.ended:
        _, _, terminated, truncated, info = env.step(env.format.write(look, info["tools"]))
        played.append((terminated, truncated))
    assert played == [(False, False)] * 20 + [(False, True)]
    assert len(env.finished.steps) == 21
    env = make(tasks="multi_turn_base", turn_steps=2)
    _, info = env.reset(options={"task": 0})
    for action, cut in [(look, False), (look, False), (Action("", (), "x"), False)] * 2:
        assert env.step(env.format.write(action, info["tools"]))[3] is cut
    assert env.trajectory.steps[2].user
    with pytest.raises(BadInputError, match="turn_steps"):
        make(turn_steps=0)


def test_a_run_is_scored_again_as_it_was_played(tmp_path: Path) -> None:
    options = {"tasks": "multi_turn", "plan": "shuffled", "seed": 4}
    policy = make_policy("bfcl-plan", **options)
    env = gym.make(ID, reward=BOTH)
    run = rollout(env, policy, episodes=60, seed=2, out=tmp_path / "run")
    played = list(read_trajectories(tmp_path / "run" / "trajectories.jsonl"))
    assert len(played) == 60
    parts = [episode.steps[-1].reward_parts for episode in played]
    for name, function in (("bfcl", bfcl), ("bfcl_state", bfcl_state)):
        again = [function(episode.task, episode)[-1] for episode in played]
        assert again == [part[name] for part in parts]
    table = score(run, {"ours": {"bfcl_state": 1.0}, "theirs": "bfcl"})
    assert table.rows["theirs"].value == sum(part["bfcl"] for part in parts) / 60
    assert table.rows["ours"].value == sum(part["bfcl_state"] for part in parts) / 60
    assert 0 < table.rows["theirs"].value <= table.rows["ours"].value < 1
    steps = sum(len(episode.steps) for episode in played)
    report = evaluate(run)
    assert report["mean_steps"].value == pytest.approx(steps / 60)
    assert "calls/(unknown tool)" not in [row.name for row in report.rows], "some appear later"
    for episode in played[:10]:
        assert Trajectory.from_row(episode.to_row()) == episode
        assert episode.state_after(len(episode.steps)) == episode.state
        began = episode.state_after(0)
        assert set(began) == set(episode.task.metadata["classes"]) - {"MathAPI"}


def test_one_call_a_reply_passes_too() -> None:
    policy = make_policy("bfcl-plan", tasks="multi_turn_base", parallel=False)
    env = gym.make(ID, tasks="multi_turn_base")
    run = rollout(env, policy, episodes=12, seed=1)
    assert all(episode.reward == 1.0 for episode in run)
    assert all(len(step.calls) < 2 for episode in run for step in episode.steps)


def mid_way(env: BFCLEnv, task: Task, steps: int) -> list[str]:
    """Play the first steps of the gold plan; what is left."""
    _, info = env.reset(options={"task": task.id})
    texts = [env.format.write(action, info["tools"]) for action in plan_of(task)]
    for text in texts[:steps]:
        env.step(text)
    return texts[steps:]


def copied(env: BFCLEnv) -> BFCLEnv:
    twin = pickle.loads(pickle.dumps(env))
    assert isinstance(twin, BFCLEnv)
    return twin


def restored(env: BFCLEnv) -> BFCLEnv:
    twin, saved = env.clone(), env.snapshot()
    twin.restore(saved)
    for _ in range(2):  # what is played from a moment on does not change the moment
        twin.step("Something else.")
        twin.restore(saved)
    return twin


@pytest.mark.parametrize("branch", [copied, restored])
@pytest.mark.parametrize("place", [0, 57, 101, 163])
def test_an_episode_branches_in_the_middle_of_a_dialogue(
    branch: Callable[[BFCLEnv], BFCLEnv], place: int
) -> None:
    env = make(tasks="all", split="multi_turn_long_context", reward=BOTH)
    task = env.tasks[place]
    for steps in (1, 2, 3):
        rest = mid_way(env, task, steps)
        twin = branch(env)
        for text in rest:
            assert env.step(text)[:4] == twin.step(text)[:4]
        ours, theirs = env.trajectory.to_row(), twin.trajectory.to_row()
        for row in (ours, theirs):
            for step in row["steps"]:
                step.pop("seconds")
        assert ours == theirs
        assert env.trajectory.steps[-1].reward_parts == {"bfcl": 1.0, "bfcl_state": 1.0}


@pytest.mark.parametrize("mode", [None, "sync", "async"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_vectors_play_their_dialogues_apart(mode: str | None) -> None:
    kwargs = {} if mode is None else {"vectorization_mode": mode}
    envs = gym.make_vec(ID, num_envs=4, tasks="multi_turn_long_context", **kwargs)
    tasks = open_tasks("multi_turn_long_context")
    codec = make(tasks="multi_turn_base").format
    _, infos = envs.reset(seed=[3, 4, 5, 6])
    played = [tasks[tasks.index_of(str(name))] for name in infos["task_id"]]
    plans = [[codec.write(action, []) for action in plan_of(task)] for task in played]
    paid = [0.0] * 4
    for turn in range(max(map(len, plans))):
        texts = [texts[turn] if turn < len(texts) else "" for texts in plans]
        _, rewards, *_ = envs.step(texts)
        for place, texts in enumerate(plans):
            paid[place] += float(rewards[place]) if turn == len(texts) - 1 else 0.0
    envs.close()
    assert paid == [1.0] * 4


def test_arguments_and_sources_are_checked(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="did you mean 'format'"):
        gym.make(ID, formt="react")
    with pytest.raises(BadInputError, match="brings its own tools"):
        gym.make(ID, tools=["Calculator"])
    with pytest.raises(MissingFileError, match="did you mean 'multi_turn_base'"):
        gym.make(ID, tasks="multi_turn_bass")
    with pytest.raises(UnknownNameError, match="gold"):
        make_policy("bfcl-plan", plan="silver")
    row = open_tasks("multi_turn_base")[7].to_row()
    assert open_tasks([row])[0] == open_tasks("multi_turn_base")[7]
    for change, message in (
        ({"classes": ["TravelApi"]}, "did you mean 'TravelAPI'"),
        ({"turns": []}, "1 user turns and a gold plan of"),
        ({"turns": "more"}, "column 'turns'|turns"),
        ({"initial_config": {"MathAPI": 1}}, "initial_config"),
        ({"answers": ["done"]}, "gold plan as JSON"),
        ({"answers": ["[[1]]"]}, "gold"),
        ({"classes": None}, "functions"),
    ):
        wrong = {k: v for k, v in (row | change).items() if v is not None}
        with pytest.raises(BadInputError, match=message):
            open_tasks([wrong])
    broken = open_tasks([row | {"initial_config": {"GorillaFileSystem": {"root": {"a": 1}}}}])
    with pytest.raises(BadInputError, match="GorillaFileSystem cannot begin task"):
        gym.make(ID, tasks=broken).reset()


@pytest.mark.parametrize("way", [{"tools": []}, {"prompt": "no_tool"}])
def test_without_tools_the_user_shows_none(way: dict[str, Any]) -> None:
    env = make(tasks="multi_turn_miss_func", **way)
    said, info = env.reset(options={"task": 0})
    for text, _ in user_turns(env.tasks[0]):
        assert info["tools"] == []
        said, _, terminated, _, info = env.step("Answer: I have no tools.")
        assert (said, terminated) == (text, False)
    assert env.step("Answer: Still none.")[1:3] == (0.0, True)
    assert env.trajectory.state is None


def test_a_policy_of_other_tasks_says_so() -> None:
    policy = make_policy("bfcl-plan", tasks="multi_turn_base")
    run = rollout(gym.make(ID, tasks="multi_turn_miss_param"), policy, episodes=1)
    assert len(run) == 0
    assert "name the tasks that the environment plays" in str(list(run.failures()))
