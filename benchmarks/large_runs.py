"""Time and peak memory of every command that plays or reads a run, on runs of growing size.

Usage: python benchmarks/large_runs.py [--episodes 10000 100000] [--samples 8] [--compress]
       [--folder DIR] [--only NAME ...]

A scripted policy plays sums with a calculator; two shards are played at once by two processes and
merged, and the run is resumed, evaluated, scored, filtered, exported and viewed, each command in a
process of its own, as a user would type it. There is no peer to run beside: what is shown is that
memory stays as time grows. A million episodes need 12 GB of disk, compressed 5 GB; all of it is
removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def adder(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    """Add with the calculator; about one episode in four says another number, without a call."""
    first, _, second = messages[1]["content"].rpartition("add ")[2].rstrip("?.").partition(" to ")
    if len(messages) > 2:
        result = messages[-1]["content"].partition(" are: ")[2].split("\n")[0]
        return f"Rationale: The calculator gives {result}.\nAnswer: {result}"
    if os.urandom(1)[0] < 64:
        return f"Thought: I add {first} and {second} in my head.\nAnswer: {int(first) + 1}"
    return f"Thought: I have to add {first} and {second}.\nAction: Calculator[{first}+{second}]"


def write_tasks(file: Path, count: int) -> None:
    """So many sums."""
    with file.open("w") as stream:
        for number in range(count):
            first, second = 1000 + number, 7 * number + 13
            question = (
                f"Shop {number} has two tills. What comes out if you add {second} to {first}?"
            )
            task = {"id": f"sum-{number}", "question": question, "answers": [str(first + second)]}
            stream.write(json.dumps(task) + "\n")


def measured(commands: Sequence[Sequence[str]]) -> str:
    """Seconds of processes that run at once, by the clock and of all, and the highest peak."""
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    began, peak, spent = time.monotonic(), 0.0, 0.0
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "toolgym.cli", *command],
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
        )
        for command in commands
    ]
    for process, command in zip(running, commands, strict=True):
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        peak = max(peak, used.ru_maxrss / 1024)
        spent += used.ru_utime + used.ru_stime
    return f"{time.monotonic() - began:.0f} s, {spent:.0f} s CPU, {peak:.0f} MB"


def steps(folder: Path, episodes: int, samples: int, compress: bool) -> dict[str, list[list[str]]]:
    """The commands by name, in their order."""
    tasks, run = folder / "tasks.jsonl", str(folder / "run")
    write_tasks(tasks, -(-episodes // samples))
    played = ["rollout", "ToolQA-GSM8K-v0", "--policy", "large_runs:adder", "--tasks", str(tasks)]
    played += ["--episodes", str(episodes), "--samples-per-task", str(samples)]
    played += ["--compress"] if compress else []
    parts = [str(folder / f"part-{number}") for number in range(2)]
    return {
        "record (2 shards at once)": [
            [*played, "--concurrency", "1", "--shard", f"{n}/2", "--out", part]
            for n, part in enumerate(parts)
        ],
        "merge": [["merge", *parts, "--out", run]],
        "resume": [[*played, "--out", run]],
        "eval": [["eval", run]],
        "score": [["score", run, "--reward", "exact_match"]],
        "filter": [["filter", run, "--out", str(folder / "right")]],
        "export sft": [["export", "sft", str(folder / "right"), "--out", str(folder / "sft")]],
        "export dpo": [["export", "dpo", run, "--out", str(folder / "dpo")]],
        "view": [["view", run, "-n", "3"]],
    }


def size(folder: Path) -> float:
    """Of all files in a folder, in MB."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--compress", action="store_true")
    parser.add_argument("--folder", type=Path, help="where; default: a temporary folder")
    parser.add_argument("--only", nargs="+", help="names of commands; the run is kept then")
    options = parser.parse_args()
    print(f"| command | {' | '.join(f'{count:,} episodes' for count in options.episodes)} |")
    print("|---" * (1 + len(options.episodes)) + "|")
    cells: dict[str, list[str]] = {}
    for count in options.episodes:
        folder = Path(tempfile.mkdtemp(prefix="large-runs-", dir=options.folder))
        if options.only:
            folder = options.folder / f"kept-{count}"
            folder.mkdir(exist_ok=True)
        try:
            made = steps(folder, count, options.samples, options.compress)
            for name, commands in made.items():
                if options.only and not any(name.startswith(only) for only in options.only):
                    continue
                cells.setdefault(name, []).append(measured(commands))
                print(f"{count} {name}: {cells[name][-1]}", file=sys.stderr, flush=True)
                if name == "merge":
                    for part in folder.glob("part-*"):
                        shutil.rmtree(part)
            cells.setdefault("the run", []).append(f"{size(folder / 'run'):.0f} MB of disk")
        finally:
            if not options.only:
                shutil.rmtree(folder)
    for name, row in cells.items():
        print(f"| {name} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
