"""Rollouts: every episode recorded once, whatever happens to the process."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pytest

from toolgym import Run, rollout
from toolgym.errors import (
    BadInputError,
    CheckError,
    EndpointError,
    MissingFileError,
    PolicyError,
    RunMismatchError,
    UnknownNameError,
)
from toolgym.messages import Message, ToolCall
from toolgym.policies.base import (
    Policy,
    Reply,
    ReplyTokens,
    Request,
    Stream,
    join_tokens,
    make_policy,
)

ENV = "ToolQA-GSM8K-v0"
ARGS: dict[str, Any] = {"tools": ["Calculator"], "prompt": "bare"}


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "tasks.jsonl"
    rows = [
        {"id": f"t{n:03}", "question": f"What is {n}+1?", "answers": [str(n + 1)]}
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ARGS | {"tasks": str(path)}


def adder(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    """Ask the calculator, then say what it said."""
    last = messages[-1]["content"]
    if last.startswith("Question"):
        return f"Action: Calculator[{last.split()[3][:-1]}]"
    return f"Answer: {last.rsplit(' ', 1)[1]}"


class BatchedAdder(Policy):
    """`adder` for all running episodes at once; remembers the sizes."""

    batched = True

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.forgotten: list[str] = []
        self.seeds: dict[tuple[str, int], int] = {}

    def act(self, requests: Any) -> list[Reply | Exception]:
        self.sizes.append(len(requests))
        self.seeds |= {(r.episode, r.turn): r.seed for r in requests}
        return [Reply(adder(r.messages, r.tools)) for r in requests]

    def describe(self) -> dict[str, Any]:
        return {"policy": "batched-adder"}

    def forget(self, episode: str) -> None:
        self.forgotten.append(episode)


class OneByOne(BatchedAdder):
    """`adder` with a stream that answers the last request first, at every second look.

    Args:
        fails: what raises, once, in the middle.
    """

    def __init__(self, fails: str = "") -> None:
        super().__init__()
        self.fails, self.streams, self.left = fails, 0, 9
        self.waiting: list[int] = []

    def describe(self) -> dict[str, Any]:
        return {"policy": "callable", "name": "adder"}

    def stream(self) -> Stream:
        self.streams += 1
        return _OneByOne(self)


class _OneByOne(Stream):
    def __init__(self, policy: OneByOne) -> None:
        self.policy, self.open = policy, dict[Any, Request]()
        self.looks = 0

    def begin(self, requests: Mapping[Hashable, Request]) -> None:
        assert not self.open.keys() & requests.keys()
        self._fail("begin")
        self.open.update(requests)
        self.policy.waiting.append(len(self.open))

    def advance(self) -> Mapping[Hashable, Reply | Exception]:
        self.looks += 1
        if self.looks % 2:
            self.written += 7
            key, request = self.open.popitem()
            self._fail("advance")
            key = "stranger" if self._now("stranger") else key
            return {key: Reply(adder(request.messages, request.tools))}
        return {}

    def _now(self, where: str) -> bool:
        self.policy.left -= where == self.policy.fails
        return where == self.policy.fails and self.policy.left == 0

    def _fail(self, where: str) -> None:
        if self._now(where):
            raise OSError("the server is gone")


def rows_without_clock(run: Run) -> list[dict[str, Any]]:
    rows = [trajectory.to_row() for trajectory in run]
    for row in rows:
        for step in row["steps"]:
            del step["seconds"]
    return rows


class TestRollout:
    def test_all_tasks_are_played_and_right(self, tasks: dict[str, Any]) -> None:
        run = rollout(ENV, adder, env_args=tasks)
        assert len(run) == 40
        assert all(trajectory.reward == 1.0 for trajectory in run)
        assert run.failures() == []

    def test_same_seed_same_run_however_it_is_played(
        self, tasks: dict[str, Any], tmp_path: Path
    ) -> None:
        one = rollout(ENV, adder, env_args=tasks, episodes=20, seed=3, concurrency=1)
        many = rollout(ENV, adder, env_args=tasks, episodes=20, seed=3, concurrency=8)
        batched = rollout(
            ENV, BatchedAdder(), env_args=tasks, episodes=20, seed=3, out=tmp_path / "b"
        )
        assert rows_without_clock(one) == rows_without_clock(many) == rows_without_clock(batched)
        other = rollout(ENV, adder, env_args=tasks, episodes=20, seed=4)
        assert {t.id for t in other} != {t.id for t in one}

    def test_groups(self, tasks: dict[str, Any]) -> None:
        policy = BatchedAdder()
        run = rollout(ENV, policy, env_args=tasks, episodes=24, samples_per_task=8, concurrency=10)
        assert sorted(Counter(t.task.id for t in run).values()) == [8, 8, 8]
        assert len({t.seed for t in run}) == 24
        assert len(set(policy.seeds.values())) == 48
        assert max(policy.sizes) == 10
        assert sorted(policy.forgotten) == sorted(t.id for t in run)

    def test_run_json_says_what_was_run(self, tasks: dict[str, Any], tmp_path: Path) -> None:
        rollout(ENV, adder, env_args=tasks, episodes=2, out=tmp_path / "run")
        settings = json.loads((tmp_path / "run" / "run.json").read_text())
        assert settings["env"] == {"id": ENV, "args": tasks}
        assert settings["policy"] == {"policy": "callable", "name": "adder"}
        assert len(settings["hashes"]["tasks"]) == 64
        assert settings["task_source"] == tasks["tasks"]
        assert {"python", "toolgym", "gymnasium"} <= set(settings["versions"])
        again = Run.open(tmp_path / "run")
        assert len(again) == 2
        assert again.settings == settings

    def test_resume_plays_only_what_is_missing(self, tasks: dict[str, Any], tmp_path: Path) -> None:
        rollout(ENV, adder, env_args=tasks, episodes=10, out=tmp_path / "run")
        policy = BatchedAdder()
        policy.describe = lambda: {"policy": "callable", "name": "adder"}  # type: ignore[method-assign]
        run = rollout(ENV, policy, env_args=tasks, episodes=15, out=tmp_path / "run")
        assert len(run) == 15
        assert len(policy.forgotten) == 5
        assert rows_without_clock(run) == rows_without_clock(
            rollout(ENV, adder, env_args=tasks, episodes=15)
        )

    def test_other_settings_are_refused(self, tasks: dict[str, Any], tmp_path: Path) -> None:
        rollout(ENV, adder, env_args=tasks, episodes=2, out=tmp_path / "run")
        with pytest.raises(RunMismatchError, match="was begun with seed = 0, now it is 1"):
            rollout(ENV, adder, env_args=tasks, episodes=2, seed=1, out=tmp_path / "run")

    def test_one_writer_at_a_time(self, tasks: dict[str, Any], tmp_path: Path) -> None:
        def nested(messages: Any, tools: Any) -> str:
            rollout(ENV, adder, env_args=tasks, episodes=1, out=tmp_path / "run")
            return "Answer: 1"

        with pytest.raises(PolicyError, match="another process is writing"):
            rollout(ENV, nested, env_args=tasks, episodes=2, out=tmp_path / "run", max_failures=1)

    @pytest.mark.parametrize(
        ("arguments", "why"),
        [
            ({"episodes": 0}, "episodes must be from 1 to 40"),
            ({"episodes": 41}, "raise samples_per_task"),
            ({"samples_per_task": 0}, "samples_per_task is a whole number of at least 1, not 0"),
            ({"samples_per_task": True}, "samples_per_task is a whole number .*, not True"),
            ({"episodes": 1.5}, "episodes is a whole number of at least 0, not 1.5"),
            ({"episodes": "3"}, "episodes is a whole number .*, not '3'"),
            ({"concurrency": 2.5}, "concurrency is a whole number of at least 1, not 2.5"),
            ({"max_failures": "x"}, "max_failures is a whole number of at least 1, not 'x'"),
            ({"seed": "a"}, "seed is a whole number of at least 0, not 'a'"),
            ({"seed": -1}, "seed is a whole number of at least 0, not -1"),
            ({"seed": True}, "seed is a whole number of at least 0, not True"),
            ({"out": 5}, "out is the path of a run folder, or None, not 5"),
        ],
    )
    def test_counts_are_checked(self, tasks: dict[str, Any], arguments: Any, why: str) -> None:
        with pytest.raises(BadInputError, match=why):
            rollout(ENV, adder, env_args=tasks, **arguments)

    def test_unknown_names(self, tasks: dict[str, Any]) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'ToolQA-GSM8K-v0'"):
            rollout("ToolQA-GSM8-v0", adder)
        with pytest.raises(UnknownNameError, match="did you mean 'lookup'"):
            rollout(ENV, "lokup", env_args=tasks)
        with pytest.raises(BadInputError, match="no module 'no_such_module'"):
            rollout(ENV, "no_such_module:policy", env_args=tasks)
        with pytest.raises(BadInputError, match="no callable"):
            rollout(ENV, "json:nothing", env_args=tasks)

    def test_progress_counts_up(self, tasks: dict[str, Any]) -> None:
        seen: list[tuple[int, int]] = []
        rollout(ENV, adder, env_args=tasks, episodes=5, progress=lambda a, b: seen.append((a, b)))
        assert seen == [(n, 5) for n in range(1, 6)]

    def test_pulse_counts_turns_before_an_episode_ends(self, tasks: dict[str, Any]) -> None:
        seen: list[tuple[int, int]] = []
        order: list[str] = []

        def pulse(turns: int, tokens: int) -> None:
            seen.append((turns, tokens))
            order.append("turn")

        run = rollout(
            ENV,
            adder,
            env_args=tasks,
            episodes=5,
            pulse=pulse,
            progress=lambda a, b: order.append("episode"),
        )
        turns = sum(len(trajectory.steps) for trajectory in run.trajectories())
        assert seen[-1] == (turns, 0)  # a function says no tokens
        assert [count for count, _ in seen] == sorted(count for count, _ in seen)
        assert order[0] == "turn"

    def test_a_stream_may_answer_one_by_one(self, tasks: dict[str, Any]) -> None:
        """Episodes go on, end and begin while others wait; the record is that of any other way."""
        policy = OneByOne()
        beats: list[tuple[int, int]] = []
        run = rollout(
            ENV,
            policy,
            env_args=tasks,
            episodes=20,
            seed=3,
            concurrency=4,
            pulse=lambda turns, tokens: beats.append((turns, tokens)),
        )
        expected = rollout(ENV, adder, env_args=tasks, episodes=20, seed=3)
        assert rows_without_clock(run) == rows_without_clock(expected)
        assert max(policy.waiting) == 4
        # Every second look finds nothing; a turn has seven tokens here.
        assert beats == [((n + 1) // 2, 7 * ((n + 1) // 2)) for n in range(1, 80)]

    @pytest.mark.parametrize("where", ["begin", "advance", "stranger"])
    def test_a_stream_that_fails_is_made_anew(self, tasks: dict[str, Any], where: str) -> None:
        policy = OneByOne(where)
        run = rollout(ENV, policy, env_args=tasks, episodes=20, concurrency=4)
        assert policy.streams == 2
        failed = run.failures()
        assert {row["boundary"] for row in failed} == {"policy"}
        assert 1 <= len(failed) <= 4
        assert len(run) + len(failed) == 20
        assert all(trajectory.reward == 1.0 for trajectory in run)

    @pytest.mark.parametrize("concurrency", [1, 4])
    def test_the_pulse_counts_turns_of_any_policy(
        self, tasks: dict[str, Any], concurrency: int
    ) -> None:
        beats: list[tuple[int, int]] = []
        rollout(
            ENV,
            adder,
            env_args=tasks,
            episodes=5,
            concurrency=concurrency,
            pulse=lambda turns, tokens: beats.append((turns, tokens)),
        )
        assert beats == [(n, 0) for n in range(1, 11)]

    def test_no_such_run(self, tmp_path: Path) -> None:
        (tmp_path / "first").mkdir()
        with pytest.raises(MissingFileError, match="did you mean 'first'"):
            Run.open(tmp_path / "frist")
        with pytest.raises(MissingFileError, match="not a run folder"):
            Run.open(tmp_path / "first")


class TestFailures:
    def test_some_failures_are_data(self, tasks: dict[str, Any], tmp_path: Path) -> None:
        broken = True

        def sometimes(messages: Any, tools: Any) -> str:
            if broken and "What is 7+1" in messages[0]["content"]:
                raise KeyError("seven")
            return adder(messages, tools)

        arguments: dict[str, Any] = {"env_args": tasks, "out": tmp_path / "run"}
        run = rollout(ENV, sometimes, **arguments)
        assert len(run) == 39
        (failure,) = run.failures()
        assert failure["id"] == "t007#0"
        assert (failure["boundary"], failure["kind"]) == ("policy", "KeyError")
        broken = False
        run = rollout(ENV, sometimes, **arguments)
        assert len(run) == 40
        assert len(run.failures()) == 1

    @pytest.mark.parametrize("concurrency", [1, 8])
    def test_a_policy_that_always_fails_ends_the_run(
        self, tasks: dict[str, Any], tmp_path: Path, concurrency: int
    ) -> None:
        def bad(messages: Any, tools: Any) -> str:
            raise ValueError("boom")

        with pytest.raises(PolicyError, match=r"in a row failed.*ValueError: boom") as caught:
            rollout(
                ENV,
                bad,
                env_args=tasks,
                max_failures=5,
                concurrency=concurrency,
                out=tmp_path / "r",
            )
        # Episodes that were under way beside the fifth may fail before the run ends.
        counted = int(str(caught.value).split()[0])
        assert 5 <= counted < 5 + concurrency
        assert len(Run.open(tmp_path / "r").failures()) >= counted

    @pytest.mark.parametrize("value", [None, 3, {"content": 5}, ["x"]])
    def test_what_is_no_reply(self, tasks: dict[str, Any], value: Any) -> None:
        with pytest.raises(PolicyError, match=r"policy returned|a policy returns"):
            rollout(ENV, lambda m, t: value, env_args=tasks, max_failures=1)

    def test_endpoint_failures_keep_their_kind(self, tasks: dict[str, Any]) -> None:
        def late(messages: Any, tools: Any) -> str:
            if "What is 3+1" in messages[0]["content"]:
                raise EndpointError("timeout", "late")
            return adder(messages, tools)

        (failure,) = rollout(ENV, late, env_args=tasks).failures()
        assert failure["kind"] == "timeout"

    def test_a_broken_reward_is_no_zero(self, tasks: dict[str, Any]) -> None:
        from toolgym.registry import REWARDS

        def broken(task: Any, trajectory: Any) -> list[float]:
            raise RuntimeError("my reward is broken")

        REWARDS.add("broken", broken, replace=True)
        arguments: dict[str, Any] = {"env_args": tasks | {"reward": {"broken": 1.0}}}
        arguments["concurrency"] = 1
        with pytest.raises(CheckError, match=r"20 episodes in a row.*my reward is broken"):
            rollout(ENV, adder, **arguments)
        run = rollout(ENV, adder, **arguments, episodes=3)
        assert len(run) == 0
        assert {f["boundary"] for f in run.failures()} == {"environment"}


class TestPolicies:
    def test_native_calls_are_written_in_the_format(self, tasks: dict[str, Any]) -> None:
        def native(messages: Any, tools: Any) -> Any:
            if len(messages) == 1:
                return Message(
                    "assistant", "", (ToolCall("x", "Calculator", {"expression": "1+1"}),)
                )
            return {"content": "Answer: 2"}

        run = rollout(ENV, native, env_args=tasks, episodes=1)
        (trajectory,) = run
        assert trajectory.steps[0].action == "Action: Calculator[1+1]"
        assert trajectory.steps[0].results[0].content == "2"

    def test_async_policies(self, tasks: dict[str, Any]) -> None:
        async def later(messages: Any, tools: Any) -> str:
            return adder(messages, tools)

        assert len(rollout(ENV, later, env_args=tasks, episodes=3)) == 3

    def test_concurrent_callables_run_at_once(self, tasks: dict[str, Any]) -> None:
        barrier = threading.Barrier(4, timeout=20)

        def waits(messages: Any, tools: Any) -> str:
            barrier.wait()
            return "Answer: 1"

        assert len(rollout(ENV, waits, env_args=tasks, episodes=4, concurrency=4)) == 4

    def test_make_policy(self) -> None:
        assert make_policy("json:dumps").describe()["name"] == "json:dumps"
        policy = BatchedAdder()
        assert make_policy(policy) is policy


class TestTokens:
    def test_turns_are_joined(self) -> None:
        turns = [
            ReplyTokens([1, 2], [3], [-0.1]),
            ReplyTokens([1, 2, 3, 8, 9], [4, 5], [-0.2, -0.3]),
        ]
        tokens = join_tokens(turns, "hash")
        assert tokens is not None
        assert tokens.prompt_ids == [1, 2]
        assert tokens.completion_ids == [3, 8, 9, 4, 5]
        assert tokens.mask == [1, 0, 0, 1, 1]
        assert tokens.logprobs == [-0.1, 0.0, 0.0, -0.2, -0.3]

    def test_nobody_claims_tokens_that_were_not_read(self) -> None:
        assert join_tokens([], "") is None
        assert join_tokens([None], "") is None
        assert join_tokens([ReplyTokens([1], [2]), None], "") is None
        assert join_tokens([ReplyTokens([1], [2]), ReplyTokens([1, 7], [3])], "") is None
        joined = join_tokens([ReplyTokens([1], [2])], "")
        assert joined is not None
        assert joined.logprobs is None

    def test_requests_know_no_gold(self, tasks: dict[str, Any]) -> None:
        seen: list[Request] = []

        class Spy(BatchedAdder):
            def act(self, requests: Any) -> list[Reply | Exception]:
                seen.extend(requests)
                return super().act(requests)

        rollout(ENV, Spy(), env_args=tasks | {"prompt": "tools_multi_step"}, episodes=5)
        for request in seen:
            assert not {"answers", "gold", "task"} & set(Request.__slots__)
            assert "answers" not in json.dumps(request.messages)


SCRIPT = """
import json, sys, time, random
from toolgym import rollout
def policy(messages, tools):
    time.sleep(random.random() * 0.02)
    last = messages[-1]["content"]
    if last.startswith("Question"):
        return "Action: Calculator[" + last.split()[3][:-1] + "]"
    return "Answer: " + last.rsplit(" ", 1)[1]
rollout("ToolQA-GSM8K-v0", policy, env_args=json.loads(sys.argv[1]), out=sys.argv[2],
        concurrency=16, samples_per_task=int(sys.argv[3]))
print("finished")
"""


def test_killed_again_and_again_loses_and_repeats_nothing(
    tasks: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-c", SCRIPT, json.dumps(tasks), str(out), "30"]
    rng = random.Random(5)
    finished_before = 0
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        deadline = time.monotonic() + 30
        # Kill at a random moment after the process has begun to write.
        while time.monotonic() < deadline and _lines(out) <= finished_before:
            time.sleep(0.005)
        time.sleep(rng.random() * 0.15)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        finished = len(Run.open(out))  # a line that the kill tore is not an episode
        assert finished == _lines(out)
        assert finished < 1200, "the kill came after the end: it tested nothing"
        assert finished >= finished_before
        finished_before = finished
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout == "finished\n", result.stderr
    run = Run.open(out)
    assert len(run) == 1200
    assert len({trajectory.id for trajectory in run}) == 1200
    assert run.failures() == []


def _lines(out: Path) -> int:
    file = out / "trajectories.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_a_half_written_line_is_dropped_and_played_again(
    tasks: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    rollout(ENV, adder, env_args=tasks, episodes=6, out=out)
    file = out / "trajectories.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - 37])
    assert len(Run.open(out)) == 5
    run = rollout(ENV, adder, env_args=tasks, episodes=6, out=out)
    assert len(run) == 6
    file.write_bytes(whole[:20])
    assert len(rollout(ENV, adder, env_args=tasks, episodes=6, out=out)) == 6


def test_ctrl_c_keeps_what_is_finished(tasks: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(tasks), str(out), "60"],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and _lines(out) < 5:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in errors
    assert 5 <= len(Run.open(out)) < 2400
