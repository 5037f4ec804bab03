"""One seam for all executors: scenarios, scores and indexes come out the same, whatever they do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym import evaluate, rollout, score
from toolgym._util.jsonl import write_rows
from toolgym.checks.probes import episodes
from toolgym.envs.toolscenario.compiler.pipeline import compile_scenarios, make_author
from toolgym.errors import BadInputError, CheckError, RunMismatchError
from toolgym.executors import Calls, Here, LostWorkerError, WorkerExecutor
from toolgym.task import Task
from toolgym.tools.search.index import build_index
from toolgym.trajectory import Trajectory

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not import pytest


class Hostile:
    """Loses every first attempt, does each job twice, and finishes the last ones first."""

    def __init__(self) -> None:
        self.tries: dict[bytes, int] = {}
        self.held: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, function: Any, /, job: Any) -> Future[Any]:
        key = repr(job).encode()[:4000]
        self.tries[key] = self.tries.get(key, 0) + 1
        found: Future[Any] = Late(self)
        if self.tries[key] == 1:
            found.set_exception(BrokenExecutor("its machine is gone"))
        elif self.tries[key] == 2:
            found.cancel()
            found.set_running_or_notify_cancel()
        else:
            self.held.append((found, partial(function, job)))
            self.release(3)
        return found

    def release(self, most: int) -> None:
        """Do what is held back, the last first, once it is more than that."""
        while len(self.held) > most:
            found, work = self.held.pop()
            work()
            try:
                found.set_result(work())
            except Exception as error:
                found.set_exception(error)


class Late(Future[Any]):
    """Is done when somebody waits for it."""

    def __init__(self, executor: Hostile) -> None:
        super().__init__()
        self.executor = executor

    def result(self, timeout: float | None = None) -> Any:
        self.executor.release(0)
        return super().result(timeout)


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[str, Any]]:
    with (
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes,
        ThreadPoolExecutor(3) as threads,
        WorkerExecutor(2) as workers,
    ):
        yield {"processes": processes, "threads": threads, "workers": workers}


NAMES = ["processes", "threads", "workers", "hostile"]


def pool_of(pools: dict[str, Any], name: str) -> Any:
    return Hostile() if name == "hostile" else pools[name]


def built(out: Path, count: int, **how: Any) -> list[bytes]:
    author = make_author("offline", {}, out, 3)
    assert compile_scenarios(author, out, count, 3, **how).scenarios == count
    stages = out.with_name(out.name + ".build")
    return [out.read_bytes(), *(path.read_bytes() for path in sorted(stages.glob("*.jsonl")))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return built(tmp_path_factory.mktemp("alone") / "made.jsonl", 3)


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs seccomp")
@pytest.mark.parametrize("name", NAMES)
def test_scenarios_by_any_executor(
    tmp_path: Path, pools: dict[str, Any], name: str, alone: list[bytes]
) -> None:
    built(tmp_path / "made.jsonl", 2, executor=pool_of(pools, name))
    assert built(tmp_path / "made.jsonl", 3, executor=pool_of(pools, name)) == alone


def wordy(task: Task, trajectory: Trajectory) -> list[float]:
    return [float(len(step.action)) for step in trajectory.steps]


@pytest.mark.parametrize("name", NAMES)
def test_scores_and_figures_by_any_executor(pools: dict[str, Any], name: str) -> None:
    recorded = episodes() * 4
    rewards = {"accuracy": "accuracy", "both": {"token_f1": 1.0, "wordy": (wordy, 0.1)}}
    pool = pool_of(pools, name)
    assert score(recorded, rewards, executor=pool).to_dict() == score(recorded, rewards).to_dict()
    pool = pool_of(pools, name)
    assert evaluate(recorded, executor=pool).to_dict() == evaluate(recorded).to_dict()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def corpus_of(folder: Path, count: int = 40) -> Path:
    rows = [{"title": f"t{n}", "text": f"w{n % 7} x{n % 5} both"} for n in range(count)]
    write_rows(folder / "corpus.jsonl", rows)
    return folder / "corpus.jsonl"


@pytest.mark.parametrize("name", NAMES)
def test_an_index_by_any_executor(tmp_path: Path, pools: dict[str, Any], name: str) -> None:
    corpus = corpus_of(tmp_path)
    pool = pool_of(pools, name)
    there = build_index(corpus, tmp_path / "there", executor=pool)
    assert files(there) == files(build_index(corpus, tmp_path / "here", processes=1))


class Swaps:
    """Gives each job the result of the first one."""

    first: Any = None

    def submit(self, function: Any, /, job: Any) -> Future[Any]:
        self.first = self.first or function(job)
        found: Future[Any] = Future()
        found.set_result(self.first)
        return found


def test_results_of_other_jobs_are_a_bug_of_the_executor(tmp_path: Path) -> None:
    recorded = episodes()
    with pytest.raises(CheckError, match=r"Swaps gave back other scores than it was given, for"):
        score([t for _ in range(9) for t in recorded], {"a": "accuracy"}, executor=Swaps())
    with pytest.raises(CheckError, match="Swaps gave back other episodes than it was given"):
        rollout("ToolQA-PopQA-v0", "lookup", executor=Swaps(), episodes=2)


class NoFutures:
    def submit(self, function: Any, /, *args: Any) -> Any:
        return function(*args)


def test_what_is_no_executor_is_one_line() -> None:
    with pytest.raises(BadInputError, match=r"an executor has a method submit\(\)"):
        score(episodes(), {"a": "accuracy"}, executor="four")  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match=r"submit\(\) of NoFutures must give a concurrent"):
        score(episodes(), {"a": "accuracy"}, executor=NoFutures())
    gone = ThreadPoolExecutor(1)
    gone.shutdown()
    with pytest.raises(LostWorkerError, match="ThreadPoolExecutor have died, or it was shut down"):
        score(episodes(), {"a": "accuracy"}, executor=gone)
    with pytest.raises(BadInputError, match="workers must be a whole number of at least 1, not 0"):
        WorkerExecutor(0)


def deadly(task: Task, trajectory: Trajectory) -> list[float]:
    os._exit(9)


def once_deadly(mark: Path, task: Task, trajectory: Trajectory) -> list[float]:
    if not mark.exists():
        mark.touch()
        os._exit(9)
    return wordy(task, trajectory)


def test_a_job_whose_worker_dies_is_done_again_a_few_times(tmp_path: Path) -> None:
    recorded = episodes()
    once = partial(once_deadly, tmp_path / "mark")
    with WorkerExecutor(2) as pool:
        found = score(recorded, {"once": {"once": once}}, executor=pool)
        assert found.totals["once"] == score(recorded, {"w": {"w": wordy}}).totals["w"]
        with pytest.raises(LostWorkerError, match=r"ended its worker process 5 times \(exit code"):
            score(recorded, {"deadly": deadly}, executor=pool)
        assert score(recorded, {"w": {"w": wordy}}, executor=pool).totals["w"]
    with pytest.raises(LostWorkerError, match="WorkerExecutor have died, or it was shut down"):
        score(recorded, {"w": wordy}, executor=pool)


def wrong(task: Task, trajectory: Trajectory) -> list[float]:
    raise ZeroDivisionError("a bug of the reward")


def test_what_a_job_raises_is_raised_here() -> None:
    with WorkerExecutor(1) as pool, pytest.raises(ZeroDivisionError, match="a bug of the reward"):
        score(episodes(), {"wrong": wrong}, executor=pool)


def test_a_worker_that_is_too_slow_is_ended() -> None:
    with WorkerExecutor(1) as pool:
        assert pool.submit(len, "abc").result() == 3
        pool._seconds = 0.5
        with pytest.raises(CheckError, match=r"a job was ended after 0\.5 seconds"):
            pool.submit(slow).result()


def slow() -> None:
    import time

    time.sleep(60)


REWARD = "def mine(task, trajectory):\n    return [{value} for _ in trajectory.steps]\n"


def test_other_code_and_another_disk_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_rewards.py").write_text(REWARD.format(value="1.0"))
    monkeypatch.syspath_prepend(tmp_path)
    mine = __import__("my_rewards").mine

    class Elsewhere(Here):
        """A machine with another file at the same place."""

        def submit(self, function: Any, /, *args: Any) -> Future[Any]:
            (tmp_path / "my_rewards.py").write_text(REWARD.format(value="2.0"))
            for owner in tmp_path.glob(".index-building/index/spill/owner"):
                owner.unlink()
            return super().submit(function, *args)

    with pytest.raises(RunMismatchError, match=r"code\.my_rewards = .*give that machine the same"):
        score(episodes(), {"mine": mine}, executor=Elsewhere())
    with pytest.raises(RunMismatchError, match=r"owner = .*not there"):
        build_index(corpus_of(tmp_path), tmp_path / "index", executor=Elsewhere())


@given(
    st.lists(st.lists(st.sampled_from(["broken", "cancelled"]), max_size=4), max_size=9),
    st.integers(1, 5),
    st.booleans(),
)
def test_every_job_comes_back_once(troubles: list[list[str]], ahead: int, in_order: bool) -> None:
    left = {number: list(trouble) for number, trouble in enumerate(troubles)}

    class Troubled(Here):
        def submit(self, function: Any, /, *args: Any) -> Future[Any]:
            (job,) = args
            if not left[job]:
                return super().submit(function, *args)
            found: Future[Any] = Future()
            if left[job].pop() == "broken":
                found.set_exception(BrokenExecutor())
            else:
                found.cancel()
                found.set_running_or_notify_cancel()
            return found

    calls = Calls[int, int](Troubled(), lambda job: 10 * job, "numbers", _ten_times, str)
    results = list((calls.in_order if in_order else calls.as_done)(range(len(troubles)), ahead))
    wanted = [(job, 10 * job) for job in range(len(troubles))]
    assert (results if in_order else sorted(results)) == wanted


def _ten_times(job: int, result: int) -> bool:
    return result == 10 * job
