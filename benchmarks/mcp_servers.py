"""MCP servers as tools: a call and a session beside the SDK's own client, and servers of others.

    python benchmarks/mcp_servers.py [--npm FOLDER]

The same small server answers our session and the SDK's client. FOLDER is where npm has installed
``@modelcontextprotocol/server-everything`` and ``server-filesystem`` (``make mcp``): each of 16
concurrent episodes has a session of its own with both, and must find its own secret and the schemas
whole. Last, an MCP client plays a whole ``ToolScenario-v0`` episode of ``toolgym serve mcp``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters

import toolgym
from toolgym import MCP, Task, ToolCall, Toolset

CALLS = 1_000
SESSIONS = 20
EPISODES = 16
PLAIN = str(Path(__file__).parents[1] / "tests" / "helpers" / "mcp_plain.py")
TASK = Task("a", "What is it?", ("x",))


def milliseconds(work: Callable[[], Any]) -> float:
    """How long a piece of work takes."""
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1e3


def ours() -> tuple[float, float, float]:
    """Milliseconds of a call, of opening a session and of ending it."""
    source = Toolset([MCP(sys.executable, [PLAIN])])
    call = [ToolCall("1", "kept", {"key": "x"})]
    opening, ending, held = [], [], source
    for _ in range(SESSIONS):
        begun = time.perf_counter()
        held = source.open(TASK)
        opening.append((time.perf_counter() - begun) * 1e3)
        ending.append(milliseconds(held.end))
    held = source.open(TASK)
    held.execute(call)
    spent = milliseconds(lambda: [held.execute(call) for _ in range(CALLS)]) / CALLS
    held.end()
    return spent, statistics.median(opening), statistics.median(ending)


async def theirs() -> tuple[float, float, float]:
    """The same of the SDK's own client."""
    served = StdioServerParameters(command=sys.executable, args=[PLAIN])
    opening, ending = [], []
    for _ in range(SESSIONS):
        begun = time.perf_counter()
        async with Client(served, mode="legacy"):
            opened = time.perf_counter()
        opening.append((opened - begun) * 1e3)
        ending.append((time.perf_counter() - opened) * 1e3)
    async with Client(served, mode="legacy") as client:
        await client.call_tool("kept", {"key": "x"})
        begun = time.perf_counter()
        for _ in range(CALLS):
            await client.call_tool("kept", {"key": "x"})
        spent = (time.perf_counter() - begun) * 1e3 / CALLS
    return spent, statistics.median(opening), statistics.median(ending)


def compare() -> None:
    """Print both, and their ratios; they take turns, so that the machine is the same for both."""
    pairs = [(ours(), asyncio.run(theirs())) for _ in range(3)]
    for place, what in enumerate(("a call", "a session opened", "a session ended")):
        own, other = (statistics.median(pair[side][place] for pair in pairs) for side in (0, 1))
        print(f"{what:17} {own:9.3f} ms, SDK's client {other:9.3f} ms, ratio {own / other:.2f}")


async def declared(command: list[str]) -> dict[str, Any]:
    """The schemas of a server as the SDK's client lists them."""
    served = StdioServerParameters(command=command[0], args=command[1:])
    async with Client(served, mode="legacy") as client:
        found = (await client.list_tools()).tools
        return {tool.name: tool.input_schema for tool in found}


def servers_of_others(folder: Path) -> None:
    """Both servers as tools of an environment, in 16 episodes at once."""
    base = folder / "node_modules" / "@modelcontextprotocol"
    with tempfile.TemporaryDirectory() as kept:
        everything = ["node", str(base / "server-everything" / "dist" / "index.js")]
        files = ["node", str(base / "server-filesystem" / "dist" / "index.js"), kept]
        sources = [MCP(line[0], line[1:], deadline=30.0) for line in (everything, files)]
        env = toolgym.ToolEnv(
            toolgym.TaskSet([TASK], source="own"),
            Toolset(sources),
            toolgym.get_format("hermes"),
            toolgym.Rubric({"accuracy": 1.0}),
        )
        told = {each["function"]["name"]: each["function"] for each in env.toolset.schemas()}
        for line, source in zip((everything, files), sources, strict=True):
            schemas = asyncio.run(declared(line))
            same = sum(told[name]["parameters"] == schema for name, schema in schemas.items())
            text = json.dumps(list(schemas.values()))
            print(
                f"{Path(line[1]).parents[1].name}: {len(source.tools)} tools, {same} of "
                f"{len(schemas)} schemas as listed, {text.count(chr(34) + 'enum')} with choices"
            )
        play_together(env, kept)
        for name, arguments in CASES:
            tools = env.toolset.open(TASK)
            (result,) = tools.execute([ToolCall("1", name, arguments)])
            print(f"  {name}: {result.error or 'fine'}: {result.content[:90]!r}")
            tools.end()


CASES: list[tuple[str, dict[str, Any]]] = [
    ("get-sum", {"a": 2, "b": 3}),
    ("get-sum", {"a": "two", "b": 3}),
    ("get-structured-content", {"location": "Chicago"}),
    ("get-structured-content", {"location": "Rome"}),
    ("get-tiny-image", {}),
    ("get-annotated-message", {"messageType": "error", "includeImage": True}),
]


def play_together(env: toolgym.ToolEnv, folder: str) -> None:
    """Sixteen episodes, each with a secret of its own in its process and in a file."""

    def play(number: int) -> tuple[bool, float]:
        own = env.clone()
        begun = time.perf_counter()
        own.reset()
        opened = (time.perf_counter() - begun) * 1e3

        def call(name: str, **arguments: Any) -> str:
            made = json.dumps({"name": name, "arguments": arguments})
            own.step(f"<tool_call>{made}</tool_call>")
            (result,) = own.trajectory.steps[-1].results
            return result.content if result.error is None else f"({result.error})"

        secret, path = f"secret-{number}", os.path.join(folder, f"{number}.txt")
        right = secret in call("echo", message=secret)
        call("write_file", path=path, content=secret)
        right = right and call("read_text_file", path=path) == secret
        own.close()
        return right, opened

    begun = time.perf_counter()
    with ThreadPoolExecutor(EPISODES) as pool:
        played = list(pool.map(play, range(EPISODES)))
    spent = time.perf_counter() - begun
    opened = statistics.median(each for _, each in played)
    print(
        f"{EPISODES} episodes at once with two servers each: {sum(r for r, _ in played)} found "
        f"their own secrets, {opened:.0f} ms to open both (median), {spent:.1f} s in all"
    )


async def whole_episode() -> None:
    """A client plays the reference calls of an episode, and is told its reward."""
    with tempfile.TemporaryDirectory() as folder:
        run = toolgym.rollout(
            "ToolScenario-v0",
            "scenario-oracle",
            env_args={"prompt": "bare"},
            policy_args={"parallel": False},
            episodes=1,
            seed=3,
        )
        (expected,) = run
        command = ["-m", "toolgym.cli", "serve", "mcp", "ToolScenario-v0", "--tell-reward"]
        command += ["--task", expected.task.id, "--seed", "3", "--out", f"{folder}/run"]
        served = StdioServerParameters(
            command=sys.executable, args=command, env={"PYTHONPATH": os.pathsep.join(sys.path)}
        )
        begun = time.perf_counter()
        async with Client(served) as client:
            opened = time.perf_counter() - begun
            calls = list(expected.calls)
            begun = time.perf_counter()
            for call, _ in calls:
                await client.call_tool(call.name, call.arguments)
            told = await client.call_tool("answer", {"answer": expected.answer})
            spent = (time.perf_counter() - begun) * 1e3 / (len(calls) + 1)
        (played,) = toolgym.Run.open(f"{folder}/run")
    said = told.content[0].text.replace("\n", " ")  # type: ignore[union-attr]
    print(
        f"a whole episode of ToolScenario-v0: {len(calls)} calls, {said!r}, recorded reward "
        f"{played.reward:g}, reference {expected.reward:g}; {opened:.1f} s to open, {spent:.1f} ms "
        "a turn"
    )


def main() -> None:
    """Run all parts."""
    reader = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    reader.add_argument("--npm", type=Path, help="where npm has installed the servers")
    folder = reader.parse_args().npm
    compare()
    if folder is not None:
        servers_of_others(folder.resolve())
    asyncio.run(whole_episode())


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
