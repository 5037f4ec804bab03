"""The episodes of `endpoint.py` through the loops of other frameworks, beside its server.

    build/bridges/verifiers/bin/python benchmarks/endpoint_frameworks.py verifiers
    build/agents/inspect/bin/python benchmarks/endpoint_frameworks.py inspect

Each runs in its own virtual environment (``make endpoint``). verifiers plays through the bridge,
one rollout an episode, with its evaluation client; Inspect has the environment in a solver, one
sample an episode, with its client for OpenAI-compatible servers, no cache, and no display. As many
episodes run at once as connections are allowed. Seconds and CPU are those of one run after a
shorter one, CPU that of this process and of what it started.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

TURNS = 4
ENV, ARGS = "ToolQA-PopQA-v0", {"max_steps": TURNS}
SERVER = Path(__file__).with_name("endpoint.py")

Play = Callable[[int, int], Coroutine[Any, Any, int]]
"""Plays so many episodes, so many at once; gives the turns that were played."""


def cpu() -> float:
    """Seconds of processor time so far, of this process and of those that it waited for."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


async def with_verifiers(url: str, measured: Callable[[Play], Coroutine[Any, Any, None]]) -> None:
    """Rollouts of verifiers, in this process."""
    import verifiers.v1 as vf

    module = "toolgym_endpoint"
    with tempfile.TemporaryDirectory() as place:
        lines = [f"from toolgym.bridges.verifiers import {name}\n" for name in ("*", "__all__")]
        (Path(place) / f"{module}.py").write_text("".join(lines))
        sys.path.insert(0, place)
        taskset = {"id": module, "env": ENV, "env_args": ARGS}
        env = vf.load_environment(vf.resolve_env_config({"taskset": taskset}))
        os.environ["TOOLGYM_NO_KEY"] = "none"
        client = vf.EvalClientConfig(base_url=url, api_key_var="TOOLGYM_NO_KEY")
        context = vf.ModelContext(model="m", client=client, sampling=vf.SamplingConfig())
        async with env.serving():
            tasks = list(env.taskset)

            async def play(episodes: int, at_once: int) -> int:
                gate = asyncio.Semaphore(at_once)

                async def one(number: int) -> int:
                    async with gate:
                        played = await env.run_episode(tasks[number % len(tasks)], context)
                    assert played.ok, played.errors
                    steps: list[Any] = played.traces[0].info["toolgym"]["trajectory"]["steps"]
                    return len(steps)

                return sum(await asyncio.gather(*map(one, range(episodes))))

            await measured(play)


async def with_inspect(url: str, measured: Callable[[Play], Coroutine[Any, Any, None]]) -> None:
    """Samples of Inspect, whose solver steps the environment."""
    import gymnasium as gym
    from inspect_ai import Task, eval_async
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ChatMessageSystem, ChatMessageUser, get_model
    from inspect_ai.solver import solver

    import toolgym  # noqa: F401 - registers the environments

    turned = [0]

    def said(chats: Any) -> list[Any]:
        kinds = {"system": ChatMessageSystem, "user": ChatMessageUser}
        return [kinds[chat["role"]](content=chat["content"]) for chat in chats]

    @solver
    def episode() -> Any:
        async def solve(state: Any, generate: Any) -> Any:
            env: Any = gym.make(ENV, **ARGS)
            _, info = env.reset(seed=0, options={"task": str(state.metadata["task"])})
            known, done = len(info["messages"]), False
            state.messages = said(info["messages"])
            while not done:
                state = await generate(state)
                turned[0] += 1
                _, _, terminated, truncated, info = env.step(state.output.completion)
                done = terminated or truncated
                state.messages += said(info["messages"][known + 1 :])
                known = len(info["messages"])
            env.close()
            return state

        return solve

    names = [task.id for task in gym.make(ENV, **ARGS).unwrapped.tasks]

    async def play(episodes: int, at_once: int) -> int:
        model = get_model("openai-api/local/m", base_url=url, api_key="none")
        chosen = [names[number % len(names)] for number in range(episodes)]
        data = [Sample(input=name, metadata={"task": name}) for name in chosen]
        turned[0] = 0
        with tempfile.TemporaryDirectory() as place:
            (log,) = await eval_async(
                Task(dataset=data, solver=episode()),
                model=model,
                log_dir=place,
                max_samples=at_once,
                max_connections=at_once,
            )
        assert log.status == "success", log.error
        return turned[0]

    await measured(play)


FRAMEWORKS = {"verifiers": with_verifiers, "inspect": with_inspect}
PACKAGES = {"verifiers": "verifiers", "inspect": "inspect-ai"}


def main() -> None:
    """Measure, and print a line for each number of episodes at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("framework", choices=FRAMEWORKS)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds of one request")
    parser.add_argument("--at-once", type=int, nargs="+", default=[64, 256])
    given = parser.parse_args()
    os.environ.setdefault("INSPECT_DISPLAY", "none")
    command = [sys.executable, str(SERVER), "--serve", "--latency", str(given.latency)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"

    async def measured(play: Play) -> None:
        for at_once in given.at_once:
            await play(at_once, at_once)  # opens connections
            spent, began = cpu(), time.perf_counter()
            turns = await play(4 * at_once, at_once)
            seconds, spent = time.perf_counter() - began, cpu() - spent
            assert turns == 4 * at_once * TURNS, f"{turns} turns of {4 * at_once * TURNS}"
            ratio = seconds / (4 * TURNS * given.latency)
            name = f"{given.framework} {importlib.metadata.version(PACKAGES[given.framework])}"
            print(
                f"{name:18}{at_once:4} at once {seconds:8.2f} s {ratio:8.3f} times the limit "
                f"{1000 * spent / turns:8.2f} ms CPU a request"
            )

    try:
        asyncio.run(FRAMEWORKS[given.framework](url, measured))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
