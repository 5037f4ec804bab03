"""Self-training killed with signal 9 in every stage: resumed, it ends as if nothing had happened.

The reference is one uninterrupted run of all three methods; another run of the same settings is
killed at one place after the other. A place is exact, not a matter of luck: the process kills
itself at a certain step of the progress, or right before a certain file is written.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toolgym._util.jsonl import read_rows

pytest.importorskip("trl")

# The libraries are loaded once; every run is a process of its own with the real command in it.
STARTER = """
import json, os, re, signal, sys
import torch, transformers, trl, peft, datasets
from trl import DPOTrainer, GRPOTrainer, SFTTrainer
from toolgym.registry import REWARDS

# An untrained model has nothing right: let the first of its replies be the better ones.
REWARDS.add("first_sample", lambda task, t: [float(t.sample == 0)] + [0.0] * (len(t.steps) - 1))

def die():
    os.kill(os.getpid(), order["signal"])

def before(place):
    def watch(event, arguments):
        writes = event == "os.rename" or event == "open" and "w" in str(arguments[1])
        if writes and re.search(place, str(arguments[event == "os.rename"])):
            die()
    sys.addaudithook(watch)

def at(stage, count):
    from toolgym.selftrain.stages import Work
    def tell(self, name, done, total, note=""):
        if name == stage and done >= count:
            die()
    Work.tell = tell

def run(order):
    for number in (1, 2):
        os.dup2(os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    if "before" in order:
        before(order["before"])
    elif "at" in order:
        at(*order["at"])
    from toolgym.cli import app
    app(order["argv"])

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        try:
            run(order)
        except SystemExit as end:
            os._exit(int(end.code or 0))
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(99)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, flush=True)
"""

Start = Callable[..., int]

PLACES: list[dict[str, Any]] = [
    {"before": r"/base/miniature-\w+$"},
    {"at": ["evaluation-0: sampled entities", 1]},
    {"before": r"/evaluation-0/arithmetic-greedy/run\.json"},
    {"at": ["baseline: arithmetic without tools", 1]},
    {"at": ["round-1: practice entities", 2]},
    {"before": r"/round-1/selection/rows\.jsonl$"},
    {"at": ["round-1: training", 3]},
    {"before": r"/round-1/training/model$"},
    {"before": r"/round-1/training/done\.json"},
    {"at": ["evaluation-1: greedy entities", 1]},
    {"at": ["round-2: practice arithmetic without tools", 1]},
    {"before": r"/round-2/selection/rows\.jsonl$"},
    {"at": ["round-2: training", 2]},
    {"at": ["round-3: training", 2]},
    {"before": r"/report\.json$"},
    {"before": r"/report\.md$"},
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seconds through all stages and methods."""
    shared = {"batch_size": 4, "learning_rate": 1e-3, "save_every": 1, "max_updates": 3}
    chosen = {
        "build": {"train": 6, "test": 5, "base": {"tiny": True}},
        "rounds": 3,
        "methods": ["sft", "dpo", "grpo"],
        "stop_when_worse": False,
        "samples_per_task": 2,
        "sampling": {"max_new_tokens": 12, "concurrency": 2},
        "filter": {"where": "first_sample>=1"},
        "train": {**shared, "save_every": 2},
        "dpo": {**shared, "pairing": "right_wrong", "without_tools": 1},
        "grpo": {**shared, "generations": 2, "max_length": 400, "reward": {"token_f1": 1.0}}
        | {"record_episodes": True},
    }
    file = tmp_path_factory.mktemp("settings") / "settings.json"
    file.write_text(json.dumps(chosen), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def start(settings: Path) -> Iterator[Start]:
    """Runs ``toolgym selftrain`` into a folder and returns the exit code, or minus the signal."""
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        orders, answers = starter.stdin, starter.stdout

        def run(out: Path, kind: int = signal.SIGKILL, **place: Any) -> int:
            argv = ["selftrain", str(settings), "--out", str(out)]
            log = out.with_suffix(".log")
            order = {"argv": argv, "log": str(log), "signal": int(kind), **place}
            orders.write(json.dumps(order) + "\n")
            orders.flush()
            code = int(answers.readline())
            assert code in (0, -signal.SIGKILL, 130), log.read_text(encoding="utf-8")[-2000:]
            return code

        yield run
        orders.close()


@pytest.fixture(scope="module")
def whole(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert start(out) == 0
    return out


def facts(out: Path) -> dict[str, Any]:
    """The whole report, without seconds and without the folder's own name."""
    text = (out / "report.json").read_text(encoding="utf-8").replace(str(out.resolve()), "OUT")
    found: dict[str, Any] = json.loads(text)
    assert found.pop("seconds")
    return found


def files(out: Path, pattern: str) -> dict[str, bytes]:
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.glob(pattern)}
    assert found, pattern
    return found


def episodes(out: Path) -> dict[str, list[dict[str, Any]]]:
    """All that was played, by run: every turn, call, result, reward and token."""
    found = {}
    played = [*out.rglob("trajectories.jsonl"), *out.rglob("episodes/step-*.jsonl")]
    for path in sorted(played):
        rows = [row for _, row in read_rows(path)]
        for row in rows:
            for step in row["steps"]:
                del step["seconds"]
        found[str(path.relative_to(out))] = sorted(rows, key=lambda row: str(row["id"]))
    return found


def assert_same(one: Path, other: Path) -> None:
    assert facts(one) == facts(other)
    assert episodes(one) == episodes(other)
    for pattern in (
        "base/miniature-*/model.safetensors",
        "round-*/training/model/model.safetensors",
        "round-*/selection/rows.jsonl",
    ):
        assert files(one, pattern) == files(other, pattern), pattern


def test_killed_in_every_stage_it_ends_the_same(start: Start, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for place in PLACES:
        assert start(out, **place) == -signal.SIGKILL, f"{place} was not reached"
    assert not (out / "report.md").exists()
    assert start(out) == 0
    assert_same(out, whole)


def test_ctrl_c_is_one_line_that_says_how_to_go_on(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for place in (["round-1: practice entities", 2], ["round-1: training", 2]):
        assert start(out, signal.SIGINT, at=place) == 130
        *_, last = (tmp_path / "run.log").read_text(encoding="utf-8").splitlines()
        assert last.startswith("error: stopped; what was done is kept in ")
        assert last.endswith("run the same command again to go on")
