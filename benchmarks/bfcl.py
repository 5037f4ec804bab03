"""Dialogues of the function-calling leaderboard: gold and spoiled plans, and what a step costs.

    python benchmarks/bfcl.py
    python benchmarks/bfcl.py --formats hermes --plans gold --tasks multi_turn_base

Needs ``bfcl-eval`` (``pip install --no-deps bfcl-eval``) and mpmath. Plays each plan through
``env.step`` and prints how many episodes each reward pays and microseconds of the processor a step;
beside them the same calls of the same classes in plain Python, with and without their set-up. Exits
with 1 where a gold plan is refused.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import statistics
import time
from collections import Counter
from typing import Any

import gymnasium as gym

import toolgym
from toolgym.envs.toolbfcl.data import CLASSES, gold_plan, open_tasks
from toolgym.envs.toolbfcl.environment import ID, plan_of
from toolgym.task import TaskSet

SOURCES = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"
PLANS = ("gold", "shuffled", "mixed", "empty")


def plain(tasks: TaskSet) -> tuple[float, float, int]:
    """The gold calls in plain Python: seconds of the calls, of their set-up, and how many."""
    called = begun = 0.0
    count = 0
    for task in tasks:
        began = time.thread_time()
        methods: dict[str, Any] = {}
        for name in task.metadata["classes"]:
            live = getattr(importlib.import_module(f"{SOURCES}.{CLASSES[name]}"), name)()
            if name != "MathAPI":
                config = copy.deepcopy(task.metadata["initial_config"].get(name, {}))
                live._load_scenario(config, long_context=task.metadata.get("long_context", False))
            methods |= {m: getattr(live, m) for m in dir(live) if not m.startswith("_")}
        begun += time.thread_time() - began
        for turn in gold_plan(task):
            for call in turn:
                arguments = copy.deepcopy(call["arguments"])
                began = time.thread_time()
                str(methods[call["name"]](**arguments))
                called += time.thread_time() - began
                count += 1
    return called, begun, count


def play(env: toolgym.ToolEnv, plan: str) -> tuple[Counter[str], list[float], list[float]]:
    """Play a plan of each task: sums of the rewards, seconds by step, and by reset."""
    paid, steps, resets = Counter[str](), list[float](), list[float]()
    for number, task in enumerate(env.tasks):
        began = time.thread_time()
        _, info = env.reset(options={"task": number})
        resets.append(time.thread_time() - began)
        for action in plan_of(task, plan):
            text = env.format.write(action, info["tools"])
            began = time.thread_time()
            _, _, terminated, truncated, info = env.step(text)
            steps.append(time.thread_time() - began)
            if terminated or truncated:
                break
        paid.update(env.trajectory.steps[-1].reward_parts)
    return paid, steps, resets


def main() -> int:
    """Measure, print, and say by the exit status whether each gold plan is paid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="multi_turn")
    parser.add_argument("--formats", default="hermes,llama3,react")
    parser.add_argument("--plans", default=",".join(PLANS))
    given = parser.parse_args()
    tasks = open_tasks(given.tasks)
    dialogues = all("classes" in task.metadata for task in tasks)
    if dialogues:
        plain(tasks)  # imports, and the first use of each class
        called, begun, count = plain(tasks)
        print(
            f"plain Python: {1e6 * called / count:.0f} us a call, with set-up "
            f"{1e6 * (called + begun) / count:.0f} ({count} calls)"
        )
    refused = 0
    for name in given.formats.split(","):
        for plan in given.plans.split(","):
            reward = {"bfcl": 1.0, "bfcl_state": 0.0}
            env = gym.make(ID, tasks=given.tasks, format=name, reward=reward).unwrapped
            paid, steps, resets = play(env, plan)
            print(
                f"{name:8} {plan:9} bfcl {paid['bfcl']:.0f}, bfcl_state {paid['bfcl_state']:.0f} "
                f"of {len(tasks)}; a step {1e6 * statistics.mean(steps):.0f} us, median "
                f"{1e6 * statistics.median(steps):.0f}; a reset "
                f"{1e6 * statistics.median(resets):.0f}"
            )
            if plan == "gold" and dialogues:
                refused += 2 * len(tasks) - int(sum(paid.values()))
                alone = gym.make(ID, tasks=given.tasks, format=name).unwrapped
                play(alone, plan)
                _, steps, _ = play(alone, plan)
                print(
                    f"{name:8} gold, bfcl alone, again: a step {1e6 * statistics.mean(steps):.0f} "
                    f"us, median {1e6 * statistics.median(steps):.0f}"
                )
    return int(refused > 0)


if __name__ == "__main__":
    raise SystemExit(main())
