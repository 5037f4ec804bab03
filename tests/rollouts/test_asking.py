"""A policy that takes requests and answers later: same records as threads, slow steps, endings."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toolgym import rollout
from toolgym.errors import EndpointError, PolicyError
from toolgym.policies.base import Lane, Policy, Reply, Request
from toolgym.policies.lanes import Lanes
from toolgym.rollouts.asking import Asking
from toolgym.tools.base import tool


def said(request: Request) -> Reply:
    """Three calls, then an answer, different for each episode."""
    turn = sum(chat["role"] == "assistant" for chat in request.messages)
    if turn < 3:
        return Reply(f"Thought: I add.\nAction: Calculator[{turn}+{request.seed % 100}]")
    return Reply(f"Thought: That is it.\nAnswer: {request.seed % 7}")


class Threaded(Policy):
    """Answers each request in the episode's thread."""

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """In order."""
        return [said(request) for request in requests]

    def describe(self) -> dict[str, Any]:
        """The same for both."""
        return {"policy": "said"}


class Later(Threaded):
    """Answers out of order, from threads of its own.

    Args:
        fails: called for each request; what it returns is answered in place of a reply.
    """

    def __init__(self, fails: Any = lambda request: None) -> None:
        self._pool, self._fails, self.cancelled = ThreadPoolExecutor(4), fails, 0
        self.most, self._open, self._lock = 0, 0, threading.Lock()

    @property
    def sends(self) -> bool:
        """It does."""
        return True

    def send(self, lanes: Sequence[Lane]) -> None:
        """Answer after up to three milliseconds."""
        for lane in lanes:
            self._pool.submit(self._ask, lane, None)

    def _ask(self, lane: Lane, reply: Reply | Exception | None) -> None:
        request = lane(reply)
        if request is not None:
            with self._lock:
                self._open += 1
                self.most = max(self.most, self._open)
            self._pool.submit(self._answer, lane, request)

    def _answer(self, lane: Lane, request: Request) -> None:
        time.sleep(random.random() * 0.003)
        with self._lock:
            self._open -= 1
        self._ask(lane, self._fails(request) or said(request))

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Nobody may wait for it."""
        raise AssertionError("act() was called")

    def cancel(self) -> None:
        """Counted."""
        self.cancelled += 1

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def rows(folder: Path) -> list[dict[str, Any]]:
    """The records without their clocks."""
    found = []
    for line in (folder / "trajectories.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for step in row["steps"]:
            step.pop("seconds", None)
        found.append(row)
    return found


SUMS = {"env_args": {"max_steps": 6}, "episodes": 120, "seed": 3, "concurrency": 16}


def test_the_records_are_those_of_threads(tmp_path: Path) -> None:
    policy = Later()
    rollout("ToolQA-GSM8K-v0", policy, out=tmp_path / "later", **SUMS)
    rollout("ToolQA-GSM8K-v0", Threaded(), out=tmp_path / "threads", **SUMS)
    assert len(rows(tmp_path / "later")) == 120
    assert rows(tmp_path / "later") == rows(tmp_path / "threads")
    assert 4 < policy.most <= 16
    policy.close()


def test_failed_requests_fail_their_episodes_alone(tmp_path: Path) -> None:
    broken = EndpointError("timeout", "no reply in time")
    policy = Later(lambda request: broken if request.seed % 5 == 0 else None)
    run = rollout("ToolQA-GSM8K-v0", policy, out=tmp_path / "run", **SUMS)
    failed = [row["id"] for row in run.failures()]
    assert 10 < len(failed) < 110
    assert len(rows(tmp_path / "run")) == 120 - len(failed)
    policy.close()
    policy = Later()
    run = rollout("ToolQA-GSM8K-v0", policy, out=tmp_path / "run", **SUMS)
    assert len(run) == 120, "the failed ones are played again"
    policy.close()


def test_what_ends_the_run_is_raised_and_requests_are_given_up(tmp_path: Path) -> None:
    policy = Later(lambda request: EndpointError("connection", "nobody is there"))
    with pytest.raises(PolicyError, match=r"20 episodes in a row failed.*nobody is there"):
        rollout("ToolQA-GSM8K-v0", policy, out=tmp_path / "run", **SUMS)
    assert policy.cancelled == 1
    policy.close()


def test_a_policy_that_cannot_send_fails_the_episodes() -> None:
    policy = Later()

    def send(lanes: Sequence[Lane]) -> None:
        raise PolicyError("the policy was closed: make a new one")

    policy.send = send  # type: ignore[method-assign]
    with pytest.raises(PolicyError, match=r"in a row failed.*was closed"):
        rollout("ToolQA-GSM8K-v0", policy, **SUMS)
    policy.close()


def test_slow_steps_do_not_wait_for_each_other() -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    @tool(name="Calculator", inline=True, shared_state=True)
    def calculator(expression: str) -> str:
        """Work out a sum, slowly.

        Args:
            expression: the sum.
        """
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.03)
        with lock:
            at_once -= 1
        return expression

    policy = Later()
    args = {"max_steps": 6, "tools": [calculator]}
    run = rollout("ToolQA-GSM8K-v0", policy, env_args=args, episodes=24, concurrency=12)
    assert len(run) == 24
    assert most > 4, "more than the policy has threads of its own"
    policy.close()


def test_slow_beginnings_do_not_wait_for_each_other() -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    def start(job: Any) -> Any:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.05)
        with lock:
            at_once -= 1
        return SimpleNamespace(request=lambda: SimpleNamespace(messages=[], seed=job))

    jobs: Any = deque(range(30))
    policy = Later()
    Asking(policy, start, lambda episode, reply: False).play(jobs, 10)
    policy.close()
    assert not jobs
    assert most > 4


def test_a_reply_that_comes_after_the_end_is_left_alone(tmp_path: Path) -> None:
    late: list[tuple[Lane, Request | None]] = []

    class Late(Later):
        def send(self, lanes: Sequence[Lane]) -> None:
            late.extend((lane, lane(None)) for lane in lanes)
            if len(late) == 16:
                raise KeyboardInterrupt

    policy = Late()
    with pytest.raises(KeyboardInterrupt):
        rollout("ToolQA-GSM8K-v0", policy, out=tmp_path / "run", **SUMS)
    assert policy.cancelled == 1
    assert [lane(said(request)) for lane, request in late if request] == [None] * 16
    assert not rows(tmp_path / "run")
    policy.close()


def counted(happened: list[str], number: int, most: int = 100) -> Any:
    """A lane of requests: a number, then a hundred more as often as its reply is below ``most``."""

    def lane(reply: int | Exception | None) -> int | None:
        assert not isinstance(reply, Exception)
        happened.append("begun" if reply is None else "taken in")
        if reply is None:
            return number
        return reply + 100 if reply < most else None

    return lane


def test_a_reply_is_taken_in_when_the_requests_before_have_left() -> None:
    happened: list[str] = []

    async def ask(request: int) -> int:
        async def write() -> None:
            happened.append("sent")

        writing = asyncio.create_task(write())
        await arrived.wait()
        await writing
        return request

    async def play() -> None:
        lanes = Lanes()
        for number in range(8):
            lanes.begin(ask, counted(happened, number))
        await asyncio.sleep(0.01)
        assert happened == (["begun"] * 4 + ["sent"] * 4) * 2, "lanes begin in the same way"
        arrived.set()  # all replies at once
        await asyncio.sleep(0.01)

    arrived = asyncio.Event()
    asyncio.run(play())
    assert happened[16:].count("taken in") == 16
    first = [n for n, what in enumerate(happened) if what == "taken in"][:8]
    assert len(first) == 8
    assert happened[first[0] : first[4]] == ["taken in"] * 4 + ["sent"] * 4


@pytest.mark.parametrize("pause", [None, 0.0, 0.01])
def test_a_lane_that_is_given_up_says_so_to_its_end(pause: float | None) -> None:
    told: list[Any] = []

    async def ask(request: int) -> int:
        await asyncio.sleep(60)
        return request

    def lane(reply: Any) -> int | None:
        told.append(reply)
        return 1 if len(told) < 4 else None

    async def play() -> None:
        before = asyncio.all_tasks()
        Lanes().begin(ask, lane)
        if pause is not None:
            await asyncio.sleep(pause)
        (task,) = asyncio.all_tasks() - before
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(play())
    began = 0 if pause is None else 1
    assert told[:began] == [None] * began
    assert [error.kind for error in told[began:]] == ["connection"] * (4 - began)


def test_a_failed_request_is_the_reply_to_it() -> None:
    told: list[Any] = []

    async def ask(request: int) -> int:
        raise ValueError(f"request {request}")

    def lane(reply: Any) -> int | None:
        told.append(reply)
        return len(told) if len(told) < 3 else None

    async def play() -> None:
        Lanes().begin(ask, lane)
        await asyncio.sleep(0.01)

    asyncio.run(play())
    assert [str(reply) for reply in told] == ["None", "request 1", "request 2"]
