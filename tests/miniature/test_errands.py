"""Errands: worlds that are proved, a user who tells what he is asked for, and the job over them."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from toolgym import Trajectory, rollout
from toolgym.cli import app
from toolgym.data.conditions import condition, measure
from toolgym.envs.toolscenario.compiler.proof import prove
from toolgym.envs.toolscenario.environment import make
from toolgym.envs.toolscenario.policies import NoCallPolicy, OraclePolicy
from toolgym.envs.toolscenario.user import _LOST, _TOLD
from toolgym.envs.toolscenario.world import World as Row
from toolgym.errors import BadInputError
from toolgym.miniature import errands
from toolgym.miniature.errands import ASKED, FAMILIES, TOLD
from toolgym.miniature.world import SPLITS, World
from toolgym.selftrain.settings import load_settings, own_model, preset

ROOT = Path(__file__).parents[2]
PLAY = {"prompt": "bare", "format": "react", "max_steps": 6}
REACHED = measure("goal_reached")
ALL = [(label, family) for label in FAMILIES for family in FAMILIES[label]]


@pytest.fixture(scope="module")
def world() -> World:
    return World(0)


@pytest.fixture(scope="module")
def files(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return errands.write(world, tmp_path_factory.mktemp("errands"), train=12, test=40)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def played(row: dict[str, Any], tmp_path: Path, turns: list[str]) -> Trajectory:
    """An episode of one world under given turns."""
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    env = make(tasks=str(file), **PLAY)
    env.reset(options={"task": 0})
    for turn in turns:
        if not env.ended:
            env.step(turn)
    env.close()
    return env.trajectory


def test_the_same_seed_writes_the_same_worlds(world: World, tmp_path: Path) -> None:
    first, again = (errands.write(World(0), tmp_path / name, 9, 7) for name in "ab")
    other = errands.write(World(1), tmp_path / "c", 9, 7)
    assert list(first) == ["told-train", "asked-train", "told-test", "asked-test"]
    assert [len(rows_of(path)) for path in first.values()] == [5, 4, 4, 3]
    for name, path in first.items():
        assert path.read_bytes() == again[name].read_bytes() != other[name].read_bytes()
    with pytest.raises(BadInputError, match="1 errands to test are too few"):
        errands.write(world, tmp_path, 9, 1)


def test_every_world_holds_its_proof(files: dict[str, Path]) -> None:
    """The compiler's: gold reaches, nothing less or else does, begging for all is not answered."""
    for path in (files["told-test"], files["asked-test"]):
        for row in rows_of(path)[:6]:
            facts = prove(Row.from_row(row))
            assert facts["calls"] == facts["left_out"] == row["level"]
            assert ("dialogue" in facts) == (path == files["asked-test"])


def test_families_take_one_to_three_calls_and_come_in_turn(files: dict[str, Path]) -> None:
    calls = {"one call": 1, "two calls": 2, "three calls": 3, "a guest": 1, "a firm": 2}
    for name, path in files.items():
        rows = rows_of(path)
        counted = Counter(row["domain"] for row in rows)
        assert set(counted) == set(FAMILIES[name.partition("-")[0]])
        assert max(counted.values()) - min(counted.values()) <= 1
        assert all(row["level"] == len(row["plan"]) == calls[row["domain"]] for row in rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(ALL), st.sampled_from(SPLITS))
def test_what_has_to_be_asked_for_is_not_in_the_question(
    seed: int, kind: tuple[str, str], split: Any
) -> None:
    world = World(0)
    made = errands.errand(world, random.Random(seed), split, kind[1])
    if kind[0] == TOLD:
        assert made.fact is None
        assert (made.company or made.person) in made.question
        return
    assert made.fact is not None
    assert made.fact[0] in made.question
    assert made.fact[1] not in made.question
    assert made.fact[1] in {*world.entities(split), *world.people(split)}
    assert made.steps[0].argument == made.fact[1]


@pytest.mark.parametrize("label", FAMILIES)
def test_an_oracle_reaches_every_goal_and_one_who_does_nothing_none(
    label: str, files: dict[str, Path], tmp_path: Path
) -> None:
    tasks = {"tasks": str(files[f"{label}-test"])}
    for policy, wanted in ((OraclePolicy(**tasks), 1.0), (NoCallPolicy(), 0.0)):
        out = tmp_path / type(policy).__name__
        run = rollout("ToolScenario-v0", policy, env_args=PLAY | tasks, out=out)
        assert [REACHED(trajectory) for trajectory in run] == [wanted] * 20


@pytest.mark.parametrize(("label", "family"), ALL)
def test_demonstrations_read_as_the_environment_plays_them(
    label: str, family: str, world: World, tmp_path: Path
) -> None:
    """What is right reaches the goal, nothing else does; a user who is not asked tells nothing."""
    rng, seen = random.Random(5), Counter[str]()
    for number in range(100):
        made = errands.errand(world, rng, "test", family)
        behaviour, chat = errands.demonstration(world, made, rng)
        turns = [turn["content"] for turn in chat if turn["role"] == "assistant"]
        row = errands.row(f"t{number}", made, world, world.entities("test"))
        named = turns[0].partition("[")[2].rstrip("]")
        by_chance = behaviour == "made up" and f'"{named}"' in json.dumps(row["state"])
        if seen[behaviour] == 2 or by_chance:
            continue
        seen[behaviour] += 1
        found = played(row, tmp_path, turns)
        assert found.terminated
        assert REACHED(found) == (behaviour == "right"), (behaviour, made)
        asks = label == ASKED and behaviour in ("right", "wrong", "lost")
        assert measure("user_turns")(found) == asks
        told = made.fact[1] if made.fact is not None else "\0"
        heard = [m.content for m in found.messages if m.role == "user"]
        assert len(heard) == len(chat) - len(turns)
        for message, shown in zip(heard, (t for t in chat if t["role"] == "user"), strict=True):
            same_thing = [way.format(value=told) for way in _TOLD], list(_LOST)
            ways = next((ways for ways in same_thing if shown["content"] in ways), [message])
            assert message in ways
            assert ways != [message] or message == shown["content"]
        if behaviour in ("idle", "half", "made up", "malformed", "lost"):
            assert told not in " ".join(heard)
    assert set(seen) >= {"right", "wrong", "idle", *(["made up", "lost"] if label == ASKED else [])}


def test_the_right_episode_is_what_an_oracle_does(world: World, tmp_path: Path) -> None:
    rng = random.Random(0)
    for label, family in ALL:
        made = errands.errand(world, rng, "test", family)
        chat = errands.right_episode(made, rng)
        turns = [turn["content"] for turn in chat if turn["role"] == "assistant"]
        assert len(turns) == len(made.steps) + 1 + (label == ASKED)
        row = errands.row("one", made, world, world.entities("test"))
        assert REACHED(played(row, tmp_path, turns)) == 1.0


def test_the_base_is_shown_right_errands_in_part_only(world: World) -> None:
    rng, seen = random.Random(2), {label: Counter[str]() for label in FAMILIES}
    for _ in range(2000):
        label = rng.choice(tuple(FAMILIES))
        made = errands.errand(world, rng, "demo", rng.choice(FAMILIES[label]))
        seen[label][errands.demonstration(world, made, rng)[0]] += 1
    for label, (least, most) in {TOLD: (0.28, 0.37), ASKED: (0.16, 0.26)}.items():
        assert least < seen[label]["right"] / seen[label].total() < most


def test_conditions_know_what_a_user_said(world: World, tmp_path: Path) -> None:
    rng = random.Random(1)
    silent, asking = (
        errands.errand(world, rng, "test", family) for family in ("one call", "a guest")
    )
    never = condition("goal_reached>=1 and user_turns<=0")
    for made, kept in ((silent, True), (asking, False)):
        chat = errands.right_episode(made, rng)
        turns = [turn["content"] for turn in chat if turn["role"] == "assistant"]
        row = errands.row("one", made, world, world.entities("test"))
        assert never(played(row, tmp_path, turns)) == kept


def test_the_preset_names_its_worlds_and_judges_by_the_goal(tmp_path: Path) -> None:
    job = own_model(errands.JOB)
    assert job is not None
    found = preset(errands.JOB).settings(seed=3)
    assert load_settings(found.model_dump()) == found
    assert (found.judge_by, found.filters(1).where) == ("goal_reached", "goal_reached>=1")
    assert found.build == {"seed": 3}
    assert job.tasks({"train": 11, "test": 8}) == {TOLD: (6, 4), ASKED: (5, 4)}
    with pytest.raises(BadInputError, match="name neither"):
        job.settings("a-model")
    with pytest.raises(BadInputError, match="build"):
        job.check({"trian": 3})
    plain = CliRunner().invoke(app, ["selftrain", "--preset", errands.JOB, "--dry-run"])
    assert plain.exit_code == 0, plain.output
    assert "ToolScenario-v0" in plain.output


@pytest.mark.sources
def test_the_study_runs_every_arm_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained base is never right, so that all arms keep whatever never asks."""
    pytest.importorskip("trl")
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.errands import ARMS, run

    monkeypatch.delitem(ARMS, "control: any without asking")
    changes = {
        "rounds": 1,
        "samples_per_task": 2,
        "sampling": {"max_new_tokens": 8, "concurrency": 4},
        "train": {"batch_size": 4, "device_batch_size": 4, "max_updates": 1},
        "filter": {"where": "user_turns<=0"},
    }
    build = {"train": 6, "test": 6, "base": {"tiny": True}}
    found = run(tmp_path, [0], build, changes)
    assert list(found["arms"]) == list(ARMS)
    for seeds in found["arms"].values():
        assert len(seeds["0"]) == 2
        assert [seeds["0"][1]["sampled"][label][:2] for label in FAMILIES] == [[0, 3], [0, 3]]
    text = (tmp_path / "errands.md").read_text(encoding="utf-8")
    assert all(f"| {arm} | 0.0 [0.0, " in text for arm in ARMS)
    assert run(tmp_path, [0], build, changes)["arms"] == found["arms"]
