"""Worlds: what the author draws, what a proof finds, files, builds, and how they are played."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from typer.testing import CliRunner

import toolgym
from toolgym._util.jsonl import read_rows, write_rows
from toolgym.cli import app
from toolgym.env import ToolEnv
from toolgym.envs.toolscenario.authors.stateful.author import WorldAuthor
from toolgym.envs.toolscenario.authors.stateful.catalog import DOMAINS, open_domain
from toolgym.envs.toolscenario.authors.stateful.rendering import applied, fits, source
from toolgym.envs.toolscenario.compiler.checking import check_file
from toolgym.envs.toolscenario.compiler.pipeline import compile_scenarios, make_author
from toolgym.envs.toolscenario.compiler.proof import prove
from toolgym.envs.toolscenario.files import open_scenarios, read_scenarios, write_scenarios
from toolgym.envs.toolscenario.plans import play
from toolgym.envs.toolscenario.records import RejectedError
from toolgym.envs.toolscenario.tool import sandbox_for
from toolgym.envs.toolscenario.world import World
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.formats import get_format
from toolgym.grading.rubric import make_rubric
from toolgym.policies import make_policy
from toolgym.tasksource import given_tasks
from toolgym.tools.toolset import Toolset

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs seccomp")

COUNT = 24  # three of each domain, at levels 1 to 3


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("worlds") / "worlds.jsonl"
    report = compile_scenarios(WorldAuthor(seed=3), out, COUNT, seed=3)
    assert report.scenarios == COUNT == sum(report.shapes.values()) == sum(report.levels["level"])
    assert set(report.shapes) == set(DOMAINS)
    return out


@pytest.fixture(scope="module")
def worlds(built: Path) -> list[World]:
    found = [world for _, world in read_scenarios(built)]
    assert all(isinstance(world, World) for world in found)
    return [world for world in found if isinstance(world, World)]


@pytest.mark.parametrize("name", DOMAINS)
def test_every_verb_does_what_its_description_says(name: str) -> None:
    domain, rng = open_domain(name), random.Random(name)
    state = domain.state(10, rng)
    box = sandbox_for({verb: source(domain, verb) for verb in (*domain.reads, *domain.writes)})
    assert not box.check()
    session = box.open(state)
    tried = {True: 0, False: 0}
    for verb_name, verb in domain.writes.items():
        for _ in range(12):
            given = {
                key: rng.choice(list(state[item.values[0]]) or ["none"])
                if item.kind == "link"
                else item.draw(rng)
                for key, item in verb.takes.items()
            }
            session.restore(state)
            result = session.call(verb_name, given)
            possible = fits(domain, state, verb, given)
            rows = [given[key] for key in verb.rows()]
            if len(set(rows)) == len(rows):  # from an account to itself: nobody asks for it
                tried[possible] += 1
                assert (result.error is None) == possible, (verb_name, given, result)
                after = applied(domain, state, verb, given) if possible else state
                assert session.state() == after, (verb_name, given)
    lock = domain.lock or {}
    for row in state[lock["table"]].values():
        row[lock["field"]] = True
    checks = {n: [path for path, *_ in verb.checks] for n, verb in domain.writes.items()}
    locked = [n for n, paths in checks.items() if any(p.endswith(lock["field"]) for p in paths)]
    assert locked
    assert tried[True] > 20
    for verb_name in locked:
        verb = domain.writes[verb_name]
        given = {
            key: next(iter(state[item.values[0]])) if item.kind == "link" else item.draw(rng)
            for key, item in verb.takes.items()
        }
        session.restore(state)
        assert session.call(verb_name, given).error == "exception"
        assert session.state() == state
    session.close()


def test_worlds_are_as_their_level_says(worlds: list[World]) -> None:
    by_level: dict[int, list[World]] = {}
    for world in worlds:
        by_level.setdefault(world.level, []).append(world)
    assert sorted(by_level) == [1, 2, 3]
    for measure in (
        lambda w: len(list(w.ids())),
        lambda w: len(w.documents),
        lambda w: len(w.plan),
        lambda w: len(w.rules),
    ):
        means = [sum(map(measure, by_level[n])) / len(by_level[n]) for n in sorted(by_level)]
        assert means == sorted(means)
        assert means[0] < means[-1]


def test_questions_say_all_but_the_ids(worlds: list[World]) -> None:
    for world in worlds:
        assert not any(key in world.question for _, key in world.ids())
        for rule in world.rules:
            assert rule["text"] in world.question
        for fact in world.user.facts if world.user else ():
            assert fact.secret or fact.value not in world.question.split()


def test_the_same_arguments_write_the_same_bytes(built: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.jsonl"
    compile_scenarios(WorldAuthor(seed=3), again, COUNT, seed=3, workers=2)
    assert again.read_bytes() == built.read_bytes()
    other = tmp_path / "other.jsonl"
    compile_scenarios(WorldAuthor(seed=4), other, 2, seed=4)
    assert other.read_bytes()[:2000] != built.read_bytes()[:2000]


def test_a_row_reads_back_and_check_repeats_its_proof(built: Path, tmp_path: Path) -> None:
    rows = [row for _, row in read_rows(built)]
    assert all(row["kind"] == "stateful" and row["proof"]["left_out"] for row in rows)
    copied = tmp_path / "copied.jsonl"
    write_scenarios(copied, (scenario for _, scenario in read_scenarios(built)))
    assert copied.read_bytes() == built.read_bytes()
    assert not [finding for finding in check_file(built) if finding.reason]
    rows[1]["proof"]["calls"] += 1
    rows[2]["goal"][0]["where"] = {"id": "nobody"}
    write_rows(copied, [*rows[:3], rows[0]])
    found = [finding.reason for finding in check_file(copied)]
    assert found == ["", "proof_differs", "unreached_goal", "duplicate_id"]
    result = CliRunner().invoke(app, ["scenarios", "check", str(copied)])
    assert result.exit_code == 3
    assert "proof_differs" in result.output


def edited(world: World, **fields: Any) -> World:
    return world.model_copy(update=fields)


def simple(worlds: list[World]) -> World:
    """One wish and nobody who speaks; a field of a row is changed."""
    return next(w for w in worlds if w.level == 1 and w.user is None and "id" in w.goal[0]["where"])


def first_step(world: World, **fields: Any) -> World:
    return edited(world, plan=(world.plan[0].model_copy(update=fields), *world.plan[1:]))


def gold_id(world: World) -> str:
    return str(world.goal[0]["where"]["id"])


def with_tool(world: World, name: str, source: str) -> World:
    return edited(world, functions={**world.functions, name: source})


BROKEN: dict[str, Callable[[World], World]] = {
    "empty_plan": lambda w: edited(
        w, goal=({"table": w.goal[0]["table"], "where": {"x": 1}, "count": 0},)
    ),
    "unreached_goal": lambda w: edited(w, goal=({"table": w.goal[0]["table"], "where": {"x": 1}},)),
    "leaked_id": lambda w: edited(w, question=f"{w.question} It is {gold_id(w)}."),
    "literal_id": lambda w: edited(
        w,
        plan=(
            *w.plan[:-1],
            w.plan[-1].model_copy(
                update={
                    "arguments": {
                        **w.plan[-1].arguments,
                        **dict.fromkeys(
                            [k for k, v in w.plan[-1].arguments.items() if isinstance(v, dict)],
                            gold_id(w),
                        ),
                    }
                }
            ),
        ),
    ),
    "unsaid_argument": lambda w: edited(w, question="Please do it."),
    "failed_call": lambda w: edited(
        first_step(w, arguments=dict.fromkeys(w.plan[0].arguments, "Nobody")),
        question=f"{w.question} Nobody",
    ),
    "needless_step": lambda w: edited(
        w, plan=(*w.plan, w.plan[0].model_copy(update={"id": "s99"}))
    ),
    "broken_invariant": lambda w: edited(
        w, invariants=({"table": w.goal[0]["table"], "where": {}},)
    ),
    "unknown_tool": lambda w: first_step(w, tool="nothing"),
    "functions_differ": lambda w: with_tool(w, "more", "def more(state):\n    return 1\n"),
    "bad_function": lambda w: with_tool(w, w.plan[0].tool, "import os\n"),
    "nondeterministic": lambda w: with_tool(
        w,
        w.plan[0].tool,
        w.functions[w.plan[0].tool].replace(
            "return found",
            "return [{**row, 'more': list({'a', 'b', 'c', 'd', 'e'})} for row in found]",
        ),
    ),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_proof_finds_what_is_wrong(worlds: list[World], reason: str) -> None:
    world = simple(worlds)
    assert prove(world)["writes"] == 1
    with pytest.raises(RejectedError) as caught:
        prove(BROKEN[reason](world))
    assert caught.value.reason == reason, caught.value


def small(**fields: Any) -> World:
    """A world of two switches, with a tool for each."""
    document = {
        "name": "press",
        "description": "Press a switch.",
        "parameters": {
            "type": "object",
            "properties": {"switch_id": {"type": "string"}},
            "required": ["switch_id"],
        },
    }
    find = {
        "name": "find",
        "description": "Find a switch.",
        "parameters": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
        },
    }
    look = (
        "def find(state, name):\n"
        "    rows = state['switches'].items()\n"
        "    return [{'id': key} for key, row in rows if row['name'] == name]\n"
    )
    press = "def press(state, switch_id):\n    state['switches'][switch_id]['on'] = 1\n"
    rows = {f"S-{n}": {"name": name, "on": 0} for n, name in enumerate(("red", "blue", "green"), 7)}
    steps = []
    for number, name in enumerate(("red", "blue")):
        steps.append({"id": f"f{number}", "tool": "find", "arguments": {"name": name}})
        taken = {"$from": f"f{number}", "path": [0, "id"]}
        steps.append({"id": f"p{number}", "tool": "press", "arguments": {"switch_id": taken}})
    row = {
        "schema": 1,
        "kind": "stateful",
        "id": "switches",
        "question": "Switch red and blue on.",
        "domain": "switches",
        "level": 2,
        "state": {"switches": rows},
        "documents": [find, document],
        "functions": {"find": look, "press": press},
        "goal": [{"table": "switches", "where": {"id": f"S-{n}", "on": 1}} for n in (7, 8)],
        "plan": steps,
    }
    return World.from_row(row | fields)


_BODY = "def press(state, switch_id):\n    rows = state['switches']\n"
PRESSES = {
    # A press switches both on, so that one of the two is needless.
    "needless_step": "    rows['S-7']['on'] = rows['S-8']['on'] = 1\n",
    # What comes second counts two.
    "unreached_goal": "    rows[switch_id]['on'] = 1 + sum(r['on'] for r in rows.values())\n",
    # Any press switches the next one on.
    "wrong_argument": "    rows[min(k for k in rows if not rows[k]['on'])]['on'] = 1\n",
    # Blue only after red.
    "order_matters": (
        "    rows[switch_id]['on'] = 1 if switch_id == 'S-7' or rows['S-7']['on'] else 0\n"
    ),
}


@pytest.mark.parametrize("reason", PRESSES)
def test_a_world_of_ones_own_is_proved(reason: str) -> None:
    facts = prove(small())
    assert facts["writes"] == 2
    assert facts["orders"] > 2
    assert facts["forbidden"] > 0
    press = f"{_BODY}{PRESSES[reason]}    return True\n"
    with pytest.raises(RejectedError) as caught:
        prove(small(functions={**small().functions, "press": press}))
    assert caught.value.reason == reason


def test_a_shortcut_is_found_and_a_forbidden_way_is_not_paid() -> None:
    both = {**small().documents[1].to_row(), "name": "press_all"}
    press_all = (_BODY + PRESSES["needless_step"]).replace("press(", "press_all(")
    more = {
        "documents": [*(d.to_row() for d in small().documents), both],
        "functions": {**small().functions, "press_all": press_all},
    }
    with pytest.raises(RejectedError) as caught:
        prove(small(**more))
    assert caught.value.reason == "shortcut"
    rule = {"text": "Never press all.", "call": "press_all"}
    facts = prove(small(**more, rules=[rule]))
    assert facts["forbidden"] > prove(small())["forbidden"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "stateless"}, "kind is 'stateful' or not given"),
        ({"level": 7}, "level"),
        ({"state": {"switches": {"S-7": 3}}}, "holds what is not a row"),
        ({"goal": [{"tabel": "switches"}]}, "is not a predicate"),
        ({"goal": []}, "goal"),
        (
            {"plan": [{"id": "a", "tool": "find", "arguments": {"name": {"$from": "b"}}}]},
            "before one that it needs",
        ),
        (
            {"user": {"facts": [{"name": "size", "keywords": ["size"]}]}},
            "needs a value, or to be secret",
        ),
        ({"user": {"change": {"fact": "size", "value": "3"}}}, "which is not among"),
        ({"more": 1}, "more"),
        ({"schema": 2}, "schema 2 is not 1"),
    ],
)
def test_a_wrong_row_is_said_in_a_line(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    file = tmp_path / "wrong.jsonl"
    write_rows(file, [small().to_row(), small().to_row() | {"id": "two"} | fields])
    with pytest.raises(BadInputError) as caught:
        open_scenarios(file)
    assert said in str(caught.value)
    assert "line 2" in str(caught.value)
    assert "\n" not in str(caught.value)


def summed(trajectory: toolgym.Trajectory, name: str) -> float:
    return sum(step.reward_parts[name] for step in trajectory.steps)


REWARD = {"goal_reached": 1.0, "state_progress": 0.0, "no_harm": 0.0}


@pytest.mark.parametrize(("policy", "reached"), [("oracle", 1.0), ("no-call", 0.0), ("spam", None)])
def test_an_oracle_reaches_every_goal_and_an_empty_plan_none(
    built: Path, policy: str, reached: float | None
) -> None:
    options = {"tasks": str(built)} if policy == "oracle" else {}
    env = gym.make("ToolScenario-v0", tasks=str(built), reward=REWARD, max_steps=40)
    run = toolgym.rollout(env, make_policy(f"scenario-{policy}", **options), episodes=COUNT, seed=0)
    found = list(run)
    assert len({trajectory.task.id for trajectory in found}) == COUNT
    for trajectory in found:
        values = {name: summed(trajectory, name) for name in REWARD}
        if reached is not None:
            assert values == {"goal_reached": reached, "state_progress": reached, "no_harm": 0.0}
        assert trajectory.state_after(0) == open_scenarios(built)[trajectory.task.id].world.state  # type: ignore[union-attr]


def call(name: str, arguments: dict[str, Any]) -> str:
    said = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{said}\n</tool_call>"


def test_episodes_of_one_world_do_not_see_each_other(built: Path, worlds: list[World]) -> None:
    world = simple(worlds)
    run = play(world)
    first = gym.make("ToolScenario-v0", tasks=str(built)).unwrapped
    second = gym.make("ToolScenario-v0", tasks=str(built)).unwrapped
    for env in (first, second):
        env.reset(options={"task": world.id})
    rewards = []
    for step in world.plan:
        rewards.append(first.step(call(step.tool, run.arguments[step.id]))[1])
    assert sum(rewards) == 1.0
    assert second.trajectory.state == world.state != first.trajectory.state
    saved = second.snapshot()
    last = world.plan[-1]
    assert second.step(call(last.tool, run.arguments[last.id]))[1] == 1.0
    second.restore(saved)
    assert second.trajectory.state == world.state
    assert second.step(call(last.tool, run.arguments[last.id]))[1] == 1.0
    bad = second.step(call(last.tool, {}))
    assert bad[4]["tool_errors"] == ["invalid_arguments"]
    assert bad[1] == 0.0


def test_copies_of_a_world_in_a_vector_do_not_see_each_other(
    built: Path, worlds: list[World]
) -> None:
    world = simple(worlds)
    run = play(world)
    envs = gym.make_vec("ToolScenario-v0", num_envs=3, tasks=str(built))
    envs.reset(options={"task": world.id})
    look = call(world.plan[0].tool, run.arguments[world.plan[0].id])
    total = [0.0] * 3
    for step in world.plan:
        rewards = envs.step((look, call(step.tool, run.arguments[step.id]), look))[1]
        total = [before + float(now) for before, now in zip(total, rewards, strict=True)]
    envs.close()
    assert total == [0.0, 1.0, 0.0]


def test_a_file_of_both_kinds_wants_a_reward(built: Path, tmp_path: Path) -> None:
    sample = Path(toolgym.__file__).parent / "envs/toolscenario/samples/scenario_sample.jsonl"
    both = tmp_path / "both.jsonl"
    both.write_bytes(built.read_bytes() + sample.read_bytes())
    with pytest.raises(BadInputError, match="24 worlds"):
        gym.make("ToolScenario-v0", tasks=str(both))
    env = gym.make("ToolScenario-v0", tasks=str(both), reward="execution_precision")
    assert len(env.unwrapped.tasks) > COUNT


def test_command_line(tmp_path: Path) -> None:
    out = tmp_path / "w.jsonl"
    arguments = ["--author", "template", "--kind", "stateful", "--count", "2", "--out", str(out)]
    made = CliRunner().invoke(app, ["scenarios", "build", *arguments, "--option", "level=1"])
    assert "1/2/3/4: 2/0/0/0" in made.output, made.output
    shown = CliRunner().invoke(app, ["view", str(out), "-n", "1"])
    assert "--- gold plan" in shown.output, shown.output
    for more, said in (
        (["--option", "domains=shop,banc"], "did you mean 'bank'"),
        (["--option", "level=5"], "one of (1, 2, 3, 4)"),
        (["--level", "1"], "--option level=1 to 4"),
        (["--kind", "questions"], "--author offline"),
    ):
        failed = CliRunner().invoke(
            app, ["scenarios", "build", *arguments[:-1], str(tmp_path / "x.jsonl"), *more]
        )
        assert failed.exit_code != 0
        assert said in failed.output.replace("\n", " "), failed.output
    with pytest.raises(BadInputError, match="no option 'kind'"):
        make_author("offline", {"kind": "stateful"})


def test_a_domain_of_ones_own(tmp_path: Path) -> None:
    text = (
        Path(toolgym.__file__).parent / "envs/toolscenario/authors/stateful/domains/shop.toml"
    ).read_text()
    file = tmp_path / "kiosk.toml"
    file.write_text(text)
    author = WorldAuthor(domains=str(file), level=1, dialogues=0.0, seed=1)
    world = author.world(next(author.questions(1)))
    assert world.domain == "kiosk"
    assert prove(world)["writes"]
    for old, new, said in (
        ('noun = "order"', 'noun = "customer"', "two tables have one prefix"),
        ("link customers", "link costumers", "did you mean 'customers'"),
        ("order.status is open", "order.status equals open", "is not a check"),
        ('"set order.status held"', '"put order.status held"', "is not an effect"),
        ("share = 2.0", "shares = 2.0", "did you mean 'share'"),
        ("number 1 9", "number 1 nine", "is not a field"),
        ('instead = "hold_order"', 'instead = "hold_ordre"', "did you mean 'hold_order'"),
    ):
        wrong = tmp_path / f"wrong{abs(hash(new))}.toml"
        wrong.write_text(text.replace(old, new))
        with pytest.raises(BadInputError) as caught:
            open_domain(str(wrong))
        assert said in str(caught.value)
        assert "wrong" in str(caught.value)
    with pytest.raises(UnknownNameError, match="did you mean 'shop'"):
        open_domain("shopp")


class Shop(toolgym.ToolSession):
    """A cart."""

    inline = True

    def __init__(self, task: toolgym.Task) -> None:
        self.cart = dict(task.metadata.get("cart", {}))

    @toolgym.tool
    def add(self, item: str, amount: int = 1) -> str:
        """Put goods into the cart."""
        self.cart[item] = self.cart.get(item, 0) + amount
        return "done"


def test_a_goal_of_ones_own_over_tools_of_ones_own() -> None:
    goal = {"reach": [{"table": "cart", "where": {"id": "pear", "value": 3}}]}
    row = {"question": "Three pears!", "answer": "Done.", "cart": {"apple": 1}, "goal": goal}
    env = ToolEnv(
        given_tasks([row]), Toolset([Shop]), get_format("hermes"), make_rubric("goal_reached")
    )
    env.reset(seed=0)
    assert env.step(call("add", {"item": "pear", "amount": 2}))[1] == 0.0
    assert env.step(call("add", {"item": "pear"}))[1] == 1.0
    assert env.step(call("add", {"item": "apple"}))[1] == -1.0
