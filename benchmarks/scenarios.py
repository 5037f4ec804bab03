"""Scenarios built a minute, and environment steps a second in ToolScenario-v0, sandbox on.

    python benchmarks/scenarios.py [--count 200] [--steps 600]

- Building: the offline author on a generated world, all five stages and verification, with one and
  with two worker processes. The bytes have to be the same.
- Playing: the oracle's replies over the file just built, one call a turn, so that a step is the
  whole of ``env.step``: the reply is parsed, the function runs in a jailed process of its own, the
  reward is computed, the step is recorded. The result cache is off. With two processes, each plays
  its own environments; the figure is the sum.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gymnasium as gym

from toolgym.env import ToolEnv
from toolgym.envs.toolscenario.authors.template.author import OfflineAuthor
from toolgym.envs.toolscenario.compiler.pipeline import compile_scenarios
from toolgym.envs.toolscenario.policies import OraclePolicy
from toolgym.policies.base import Request

ENV = "ToolScenario-v0"


def build(folder: Path, count: int) -> Path:
    """Build with one and two processes, print both rates, and give the file."""
    print(f"{'scenarios built':32}{'seconds':>10}{'a minute':>10}{'rejected':>10}")
    files = []
    for workers in (1, 2):
        out = folder / f"{workers}.jsonl"
        report = compile_scenarios(OfflineAuthor(), out, count, workers=workers)
        files.append(out)
        rejected = sum(report.rejected.values())
        rate = 60 * report.scenarios / report.seconds
        print(f"{f'{workers} process(es)':32}{report.seconds:10.1f}{rate:10.0f}{rejected:10}")
    assert files[0].read_bytes() == files[1].read_bytes(), "more processes gave other bytes"
    return files[0]


def replies(env: ToolEnv, oracle: OraclePolicy) -> list[str]:
    """The oracle's turns for the episode that has begun."""
    turns = len(env.trajectory.task.metadata["sub_answers"]) + 1
    requests = [
        Request([], env.current_tools.schemas(), env.format, episode=env.episode, turn=turn)
        for turn in range(turns)
    ]
    return [getattr(reply, "text", "") for reply in oracle.act(requests)]


def play(tasks: str, steps: int, offset: int) -> float:
    """Play steps with calls; steps a second.

    Args:
        tasks: the file.
        steps: with a call; answers come on top and are not counted.
        offset: of the first task, so that processes do not play the same ones.
    """
    env = gym.make(ENV, tasks=tasks, service={"cache": False}).unwrapped
    assert isinstance(env, ToolEnv)
    oracle = OraclePolicy(tasks, parallel=False)
    taken, done, task = 0.0, 0, offset
    while done < steps:
        env.reset(options={"task": task % len(env.tasks)})
        planned = replies(env, oracle)  # runs the functions too: outside the clock
        begun = time.perf_counter()
        for reply in planned[:-1]:
            env.step(reply)
        taken += time.perf_counter() - begun
        done, task = done + len(planned) - 1, task + 1
    return done / taken


def played_by(processes: int, tasks: str, steps: int) -> float:
    """Steps a second of so many processes together."""
    command = [sys.executable, __file__, "--play", tasks, "--steps", str(steps // processes)]
    running = [
        subprocess.Popen([*command, "--offset", str(97 * n)], stdout=subprocess.PIPE)
        for n in range(processes)
    ]
    return sum(json.loads(process.communicate()[0]) for process in running)


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=200, help="scenarios built")
    parser.add_argument("--steps", type=int, default=600, help="steps played")
    parser.add_argument("--play", help=argparse.SUPPRESS)
    parser.add_argument("--offset", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.play:
        print(play(given.play, given.steps, given.offset))
        return
    with tempfile.TemporaryDirectory() as folder:
        tasks = str(build(Path(folder), given.count))
        print(f"\n{'environment steps with a call':32}{'a second':>10}")
        for processes in (1, 2):
            rate = played_by(processes, tasks, given.steps)
            print(f"{f'{processes} process(es)':32}{rate:10.0f}")


if __name__ == "__main__":
    main()
