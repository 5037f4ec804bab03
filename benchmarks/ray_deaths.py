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

from toolgym import Run, evaluate, merge, rollout, score
from toolgym.envs.toolscenario.compiler.pipeline import compile_scenarios, make_author
from toolgym.executors import RayExecutor
from toolgym.tools.search.index import build_index

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


def shards(base: Path, args: dict[str, Any]) -> bool:
    """Whether four shards, merged, have the bytes of one thread."""
    parts = []
    for number in range(4):
        parts.append(base / f"part-{number}")
        rollout(ENV, adder, **args, out=parts[-1], shard=(number, 4))
    merge(parts, base / "merged")
    return content(base / "merged") == content(base / "one")


def other_work(base: Path, executor: RayExecutor) -> dict[str, bool]:
    """Whether scenarios, an index and scores made on the cluster are those made here."""
    corpus = base / "corpus.jsonl"
    passages = ({"title": f"Number {n}", "text": f"{n} and {n + 1} " * 40} for n in range(20_000))
    corpus.write_text("".join(json.dumps(row) + "\n" for row in passages))
    rewards = {"accuracy": "accuracy", "both": {"accuracy": 1.0, "token_f1": 0.5}}
    made = []
    for name, pool in (("here", None), ("there", executor)):
        author = make_author("offline", {}, base / f"{name}.jsonl")
        compile_scenarios(author, base / f"{name}.jsonl", 60, executor=pool)
        index = build_index(corpus, base / f"index-{name}", executor=pool, memory_mb=512)
        files = [path.read_bytes() for path in sorted(index.iterdir())]
        scored = score(base / "one", rewards, executor=pool).to_dict()
        figures = evaluate(base / "one", executor=pool).to_dict()
        made.append([(base / f"{name}.jsonl").read_bytes(), files, [scored, figures]])
    names = ("scenarios", "index", "scores")
    return {name: one == two for name, one, two in zip(names, *made, strict=True)}


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
            others = other_work(base, executor)
        cluster.shutdown()
        lines = (out / "trajectories.jsonl").read_bytes().count(b"\n")
        workers = len(list((base / "pids").iterdir()))
        print(f"episodes    {len(run)} of {asked.episodes}, {lines} lines")
        print(f"failures    {len(Run.open(out).failures())}")
        print(f"deaths      {len(killed)} of {workers} worker processes, on 2 raylets")
        print(f"seconds     {took:.1f} on Ray, {alone:.1f} in one thread")
        print(f"same bytes  {content(out) == content(base / 'one')}")
        print(f"shards      {shards(base, args)}: four of them, merged, have the bytes of one")
        for name, same in others.items():
            print(f"{name:11} {same}: the same on Ray as in this process")


if __name__ == "__main__":
    main()
