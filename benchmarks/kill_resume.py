"""Kill a rollout of 500 episodes with signal 9, ten times at random moments; resume; count.

Usage: python benchmarks/kill_resume.py [--episodes 500] [--kills 10] [--concurrency 16]

There is no peer to run beside: what is measured is what a kill costs (episodes lost, repeated) and
what resuming costs (seconds until the first new episode).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from toolgym import Run

CHILD = """
import random, sys, time
from toolgym import rollout
def policy(messages, tools):
    time.sleep(random.random() * 0.05)  # as a model server would
    if messages[-1]["content"].startswith("Response"):
        return "Answer: 1"
    return "Action: Calculator[1+1]"
rollout("ToolQA-GSM8K-v0", policy, env_args={"tools": ["Calculator"]}, out=sys.argv[1],
        episodes=int(sys.argv[2]), samples_per_task=8, concurrency=int(sys.argv[3]))
"""


def finished_lines(out: Path) -> int:
    """Whole lines in the record so far."""
    file = out / "trajectories.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--concurrency", type=int, default=16)
    options = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-c", CHILD, str(out)]
        command += [str(options.episodes), str(options.concurrency)]
        print("kill  finished  seconds to the first new episode")
        for number in range(options.kills):
            before, began = finished_lines(out), time.monotonic()
            process = subprocess.Popen(command)
            while finished_lines(out) <= before and process.poll() is None:
                time.sleep(0.002)
            resumed = time.monotonic() - began
            time.sleep(rng.random() * 0.08)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            print(f"{number + 1:4}  {finished_lines(out):8}  {resumed:.2f}")
        subprocess.run(command, check=True)
        counts = Counter(trajectory.id for trajectory in Run.open(out))
        print(
            f"{len(counts)} of {options.episodes} episodes, "
            f"{sum(n > 1 for n in counts.values())} twice, {options.episodes - len(counts)} lost"
        )


if __name__ == "__main__":
    main()
