"""Episodes on two raylets whose workers are killed: every episode once, the bytes of one thread.

Run it with `make ray`: Ray has its own virtual environment.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from toolgym import Run, rollout
from toolgym.executors import RayExecutor

ENV = "ToolQA-GSM8K-v0"
CLOCK = re.compile(rb'"seconds": [0-9.e-]+')


def adder(messages: Any, tools: Any) -> str:
    """Calls the calculator, and says in a file which process it runs in."""
    folder = Path(os.environ["TOOLGYM_PIDS"])
    (folder / str(os.getpid())).touch()
    time.sleep(0.002)
    last = messages[-1]["content"]
    if last.startswith("Question"):
        return "Action: Calculator[" + last.split()[3][:-1] + "]"
    return "Answer: " + last.rsplit(" ", 1)[1]


def alive(pid: int) -> bool:
    """Whether a process of that id runs and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill_some(pids: Path, out: Path, deaths: int, killed: list[int], stop: threading.Event) -> None:
    """Kill workers by their own ids, spread over the run."""
    file = out / "trajectories.jsonl"
    size = 0
    while len(killed) < deaths and not stop.is_set():
        time.sleep(0.2)
        now = file.stat().st_size if file.exists() else 0
        living = [int(p.name) for p in pids.iterdir() if alive(int(p.name))]
        if now > size and living:
            os.kill(living[len(killed) % len(living)], signal.SIGKILL)
            killed.append(living[len(killed) % len(living)])
            size = now + 400_000


def content(run: Path) -> bytes:
    """The trajectories, clocks set to zero, and the settings."""
    lines = CLOCK.sub(b'"seconds": 0', (run / "trajectories.jsonl").read_bytes())
    return lines + (run / "run.json").read_bytes()


def main() -> None:
    """Play both ways and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=6000)
    parser.add_argument("--deaths", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "pids").mkdir()
        os.environ["TOOLGYM_PIDS"] = str(base / "pids")
        rows = [
            {"id": f"sum-{n}", "question": f"What is {n}+{n}?", "answer": str(2 * n)}
            for n in range(asked.episodes // 4)
        ]
        (base / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        args: dict[str, Any] = {"env_args": {"tasks": str(base / "tasks.jsonl")}}
        args |= {"samples_per_task": 4, "seed": 3}
        begun = time.perf_counter()
        rollout(ENV, adder, **args, out=base / "one", concurrency=1)
        alone = time.perf_counter() - begun
        for path in (base / "pids").iterdir():
            path.unlink()
        store = {"num_cpus": 1, "object_store_memory": 100 << 20}
        cluster = Cluster(initialize_head=True, head_node_args=store)
        cluster.add_node(**store)
        killed: list[int] = []
        stop = threading.Event()
        out = base / "many"
        killer = threading.Thread(
            target=kill_some, args=(base / "pids", out, asked.deaths, killed, stop)
        )
        with RayExecutor(cluster.address) as executor:
            killer.start()
            begun = time.perf_counter()
            run = rollout(ENV, adder, **args, out=out, executor=executor, concurrency=4)
            took = time.perf_counter() - begun
            stop.set()
            killer.join()
        cluster.shutdown()
        lines = (out / "trajectories.jsonl").read_bytes().count(b"\n")
        workers = len(list((base / "pids").iterdir()))
        print(f"episodes    {len(run)} of {asked.episodes}, {lines} lines")
        print(f"failures    {len(Run.open(out).failures())}")
        print(f"deaths      {len(killed)} of {workers} worker processes, on 2 raylets")
        print(f"seconds     {took:.1f} on Ray, {alone:.1f} in one thread")
        print(f"same bytes  {content(out) == content(base / 'one')}")


if __name__ == "__main__":
    main()
