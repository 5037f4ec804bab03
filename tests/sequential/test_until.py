"""Runs that stop when their figure is known: the same episodes with any number of workers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from toolgym import Run, rollout
from toolgym.errors import BadInputError, RunMismatchError, UnknownNameError
from toolgym.rollouts.runs import episode_seed
from toolgym.sequential.until import Until

ENV = "ToolQA-GSM8K-v0"
UNTIL = "accuracy +- 10"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three hundred sums in a file, and when to stop."""
    rows = [
        {"id": f"sum-{n}", "question": f"What is {n}+{n}?", "answer": str(2 * n)}
        for n in range(300)
    ]
    path = tmp_path_factory.mktemp("sums") / "tasks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"env_args": {"tasks": str(path)}, "until": UNTIL, "seed": 3}


def asked(messages: list[dict[str, Any]]) -> int:
    return int(messages[-1]["content"].split("What is ")[1].split("+")[0])


def half_right(messages: list[dict[str, Any]], tools: list[Any]) -> str:
    """Right on a half of the tasks, which looks drawn."""
    number = asked(messages)
    return f"Thought: so it is.\nAnswer: {2 * number + episode_seed(number) % 2}"


def files(folder: Path) -> dict[str, Any]:
    """What a run folder holds, without the seconds that steps took."""
    found: dict[str, Any] = {"run.json": json.loads((folder / "run.json").read_text())}
    for name in ("trajectories.jsonl", "tools.jsonl", "failures.jsonl"):
        found[name] = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for row in found[name]:
            for step in row.get("steps", ()):
                del step["seconds"]
    return found


@pytest.fixture(scope="module")
def alone(told: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as one worker plays it."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    rollout(ENV, half_right, **told, concurrency=1, out=folder)
    return folder


def test_a_run_stops_when_its_figure_is_known(alone: Path) -> None:
    run = Run.open(alone)
    decided = run.settings["decided"]
    assert decided["reached"]
    assert 60 < decided["tasks"] == decided["episodes"] == run.planned == len(run) < 300
    assert decided["high"] - decided["low"] <= 0.2
    assert decided["low"] < decided["value"] < decided["high"]
    assert run.settings["until"] == {"metric": "accuracy", "within": 0.1, "confidence": 0.95}
    # Recorded episodes give the same again.
    assert Until.parse(UNTIL).watch(run.in_file_order()).to_dict() == decided


def test_more_workers_give_the_same_run(alone: Path, told: dict[str, Any], tmp_path: Path) -> None:
    rollout(ENV, half_right, **told, concurrency=16, out=tmp_path / "threads")
    assert files(tmp_path / "threads") == files(alone)
    with ThreadPoolExecutor(2) as pool:
        rollout(ENV, half_right, **told, concurrency=3, executor=pool, out=tmp_path / "pool")
    assert files(tmp_path / "pool") == files(alone)
    held = rollout(ENV, half_right, **told, concurrency=7)
    assert [t.id for t in held] == [t.id for t in Run.open(alone)]


def test_a_resumed_run_stops_at_the_same_episode(
    alone: Path, told: dict[str, Any], tmp_path: Path
) -> None:
    short = rollout(ENV, half_right, **told, episodes=40, out=tmp_path / "run")
    assert short.settings["decided"]["reached"] is False
    assert len(short) == 40
    rollout(ENV, half_right, **told, out=tmp_path / "run")
    assert files(tmp_path / "run") == files(alone)
    before = (tmp_path / "run" / "trajectories.jsonl").read_bytes()
    rollout(ENV, half_right, **told, out=tmp_path / "run")
    assert (tmp_path / "run" / "trajectories.jsonl").read_bytes() == before
    with pytest.raises(RunMismatchError, match=r"until\.within"):
        rollout(ENV, half_right, **told | {"until": "accuracy +- 5"}, out=tmp_path / "run")


def test_nothing_is_decided_without_an_episode_that_failed(
    alone: Path, told: dict[str, Any], tmp_path: Path
) -> None:
    lost = asked([{"content": next(iter(Run.open(alone).in_file_order())).task.question}])

    gone = [True]

    def away(messages: list[dict[str, Any]], tools: list[Any]) -> str:
        if gone and asked(messages) == lost:
            raise ConnectionError("the server is away")
        return half_right(messages, tools)

    failed = rollout(ENV, away, **told, out=tmp_path / "run")
    assert "decided" not in failed.settings
    assert len(failed) < 250  # the whole plan is not played for it
    gone.clear()
    run = rollout(ENV, away, **told, out=tmp_path / "run")
    assert run.settings["decided"] == Run.open(alone).settings["decided"]
    name = "trajectories.jsonl"
    assert files(tmp_path / "run")[name] == files(alone)[name]


def test_a_task_counts_once_with_all_its_samples(told: dict[str, Any]) -> None:
    def by_sample(messages: list[dict[str, Any]], tools: list[Any]) -> str:
        return half_right(messages, tools)

    run = rollout(ENV, by_sample, **told, samples_per_task=3)
    decided = run.settings["decided"]
    assert decided["episodes"] == 3 * decided["tasks"] == len(run)
    single = rollout(ENV, by_sample, **told)  # all samples of a task are alike
    assert decided["tasks"] == single.settings["decided"]["tasks"]


@pytest.mark.parametrize(
    ("text", "within"),
    [
        *(("accuracy +- 2", 0.02), ("accuracy+-0.02", 0.02), ("token_f1 ± 1.5 %", 0.015)),
        *(("reward +/- 0.5pp", 0.005), (" exact_match +- 1 ", 0.01)),
    ],
)
def test_what_can_be_written(text: str, within: float) -> None:
    assert Until.parse(text).within == pytest.approx(within)
    assert Until.parse(Until.parse(text)) == Until.parse(text)


@pytest.mark.parametrize("text", ["accuracy", "accuracy +- 0", "accuracy +- 60", "accuracy > 2", 2])
def test_what_cannot_be_written(text: Any) -> None:
    with pytest.raises(BadInputError, match="percentage points"):
        Until.parse(text)


def test_an_unknown_figure_and_one_that_is_not_a_share(told: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match="accuracy"):
        Until.parse("acuracy +- 2")
    args = told | {"env_args": told["env_args"] | {"reward": {"accuracy": 5.0}}}
    with pytest.raises(BadInputError, match="only a figure from 0 to 1"):
        rollout(ENV, half_right, **args | {"until": "reward +- 2"})
    with pytest.raises(BadInputError, match="a shard cannot know"):
        rollout(ENV, half_right, **told, shard="0/2")


def test_little_is_played_beyond_the_decision(alone: Path, told: dict[str, Any]) -> None:
    played: list[int] = []

    def counting(messages: list[dict[str, Any]], tools: list[Any]) -> str:
        played.append(asked(messages))
        return half_right(messages, tools)

    enough = Run.open(alone).settings["decided"]["episodes"]
    rollout(ENV, counting, **told, concurrency=1)
    assert len(played) == enough
    rollout(ENV, counting, **told, concurrency=4)
    assert 2 * enough <= len(played) < enough + 280


def test_tools_of_episodes_that_are_left_out_are_left_out(tmp_path: Path) -> None:
    # Each scenario has tools of its own: those of what was played beyond have to go, too.
    def same(messages: list[dict[str, Any]], tools: list[Any]) -> str:
        return "Thought: a guess.\nAnswer: 1"

    told: dict[str, Any] = {"until": "truncated +- 10", "seed": 1}
    for name, how in (("one", {"concurrency": 1}), ("many", {"concurrency": 12})):
        rollout("ToolScenario-v0", same, **told, **how, out=tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "many")
    assert len(files(tmp_path / "one")["tools.jsonl"]) > 1
    rollout("ToolScenario-v0", same, **told, compress=True, out=tmp_path / "packed")
    ids = [trajectory.id for trajectory in Run.open(tmp_path / "one")]
    assert [trajectory.id for trajectory in Run.open(tmp_path / "packed")] == ids
