"""Episodes played by executors in the shape of `concurrent.futures`: the bytes of one thread."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from toolgym import rollout
from toolgym.errors import (
    BadInputError,
    CheckError,
    MissingExtraError,
    PolicyError,
    RunMismatchError,
)
from toolgym.executors import RayExecutor
from toolgym.policies.base import Policy, Reply
from toolgym.rollouts.runs import Run

ENV = "ToolQA-GSM8K-v0"
CLOCK = re.compile(rb'"seconds": [0-9.e-]+')


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as found:
        yield found


def adder(messages: list[dict[str, Any]], tools: Any) -> str:
    last = messages[-1]["content"]
    if last.startswith("Question"):
        return "Action: Calculator[" + last.split()[3][:-1] + "]"
    return "Answer: " + last.rsplit(" ", 1)[1]


def moody(messages: list[dict[str, Any]], tools: Any) -> str:
    if "What is 3+3" in str(messages):
        raise ValueError("no threes")
    return adder(messages, tools)


def broken(messages: list[dict[str, Any]], tools: Any) -> str:
    raise ValueError("never")


class Batched(Policy):
    """Answers in batches, and says who it is."""

    batched = True

    def act(self, requests: Any) -> list[Reply | Exception]:
        return [Reply(adder([dict(m) for m in request.messages], None)) for request in requests]

    def describe(self) -> dict[str, Any]:
        return {"policy": "batched"}


def content(run: Path) -> dict[str, bytes]:
    return {
        name: CLOCK.sub(b'"seconds": 0', (run / name).read_bytes())
        for name in ("run.json", "trajectories.jsonl", "failures.jsonl")
    }


@pytest.mark.parametrize("policy", [adder, moody, Batched()], ids=["adder", "moody", "batched"])
def test_processes_and_threads_give_the_bytes_of_one(
    tasks: dict[str, Any], tmp_path: Path, pool: ProcessPoolExecutor, policy: Any
) -> None:
    def play(out: str, **more: Any) -> Run:
        return rollout(
            ENV, policy, env_args=tasks, samples_per_task=8, seed=5, out=tmp_path / out, **more
        )

    play("one", concurrency=1)
    seen: list[tuple[int, int]] = []
    beats: list[tuple[int, int]] = []
    play(
        "processes",
        executor=pool,
        progress=lambda *counts: seen.append(counts),
        pulse=lambda *counts: beats.append(counts),
    )
    with ThreadPoolExecutor(4) as threads:
        play("threads", executor=threads, shard=None)
    assert content(tmp_path / "processes") == content(tmp_path / "one")
    assert content(tmp_path / "threads") == content(tmp_path / "one")
    finished = 88 if policy is moody else 96
    assert seen[-1] == (finished, 96)
    assert beats[-1][0] >= 2 * finished


def test_in_memory_and_resumed(
    tasks: dict[str, Any], tmp_path: Path, pool: ProcessPoolExecutor
) -> None:
    held = rollout(ENV, adder, env_args=tasks, executor=pool)
    assert [t.id for t in held] == [t.id for t in rollout(ENV, adder, env_args=tasks)]
    out = tmp_path / "run"
    rollout(ENV, adder, env_args=tasks, episodes=5, out=out)
    assert len(rollout(ENV, adder, env_args=tasks, out=out, executor=pool)) == 12


def test_named_policies_go_with_their_arguments(tmp_path: Path, pool: ProcessPoolExecutor) -> None:
    run = rollout("ToolQA-PopQA-v0", "lookup", episodes=8, executor=pool, out=tmp_path / "run")
    rollout("ToolQA-PopQA-v0", "lookup", episodes=8, out=tmp_path / "one", concurrency=1)
    assert len(run) == 8
    assert content(tmp_path / "run") == content(tmp_path / "one")


def test_what_cannot_be_sent_is_one_line(tasks: dict[str, Any], pool: ProcessPoolExecutor) -> None:
    lines = (line for line in ["Answer: 1"])
    with pytest.raises(BadInputError, match=r"policy .* cannot be sent to other processes"):
        rollout(ENV, lambda messages, tools: next(lines), env_args=tasks, executor=pool)


def test_failures_in_a_row_end_it(
    tasks: dict[str, Any], tmp_path: Path, pool: ProcessPoolExecutor
) -> None:
    with pytest.raises(PolicyError, match=r"episodes in a row failed, the last one with: .*never"):
        rollout(ENV, broken, env_args=tasks, executor=pool, max_failures=3, out=tmp_path / "run")
    assert len(Run.open(tmp_path / "run").failures()) >= 3


def test_a_machine_with_another_file_plays_nothing(tasks: dict[str, Any], tmp_path: Path) -> None:
    class Late:
        """An executor whose machine has got another file meanwhile."""

        def submit(self, function: Any, /, *args: Any) -> Future[Any]:
            file = Path(tasks["tasks"])
            file.write_text(file.read_text().replace("sum-3", "sum-33"))
            found: Future[Any] = Future()
            try:
                found.set_result(function(*args))
            except Exception as error:
                found.set_exception(error)
            return found

    with pytest.raises(RunMismatchError, match=r"hashes\.tasks.*give that machine the same files"):
        rollout(ENV, adder, env_args=tasks, executor=Late(), out=tmp_path / "run")
    assert len(Run.open(tmp_path / "run")) == 0


def kill(messages: Any, tools: Any) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def test_dead_workers_that_nobody_replaces_are_told(
    tasks: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    rollout(ENV, kill_or_add, env_args=tasks, episodes=3, out=out)
    monkeypatch.setenv("KILL", "1")  # before the workers begin, which inherit it
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own,
        pytest.raises(CheckError, match=r"ProcessPoolExecutor have died.*run the same"),
    ):
        rollout(ENV, kill_or_add, env_args=tasks, out=out, executor=own)
    monkeypatch.delenv("KILL")
    assert len(rollout(ENV, kill_or_add, env_args=tasks, out=out)) == 12


def kill_or_add(messages: Any, tools: Any) -> str:
    return kill(messages, tools) if "KILL" in os.environ else adder(messages, tools)


def test_an_executor_that_loses_an_episode_is_a_bug_of_it(tasks: dict[str, Any]) -> None:
    class Loses:
        def submit(self, function: Any, /, jobs: Any) -> Future[Any]:
            found: Future[Any] = Future()
            found.set_result(function(jobs[1:]))
            return found

    with pytest.raises(CheckError, match="other episodes than it was given"):
        rollout(ENV, adder, env_args=tasks, executor=Loses())


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"toolgym\[ray\]"):
        RayExecutor()
