"""MCP both ways: a server's tools in an environment, and an environment that a client plays.

Run: python examples/mcp_both_ways.py (extra: mcp)
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from mcp import Client, StdioServerParameters

from toolgym import Run, rollout

SERVER = '''
from typing import Literal

from mcp.server.mcpserver import MCPServer

server = MCPServer("jobs")


@server.tool()
def occupation(person: str, language: Literal["en", "de"] = "en") -> str:
    """What a person did for a living."""
    return {"en": "politician", "de": "Politiker"}[language]


server.run("stdio")
'''


def ask_and_answer(messages: list[dict[str, str]], tools: list[dict[str, object]]) -> str:
    """A policy that asks the server once, and gives what it said."""
    if messages[-1]["role"] == "user" and len(messages) < 3:
        return '<tool_call>{"name": "occupation", "arguments": {"person": "she"}}</tool_call>'
    return "Answer: politician"


def tools_of_a_server() -> None:
    """Three episodes, each with a process of its own for the server."""
    Path("jobs_server.py").write_text(SERVER)
    run = rollout(
        "ToolQA-PopQA-v0",
        ask_and_answer,
        env_args={"tools": [f"mcp:{sys.executable} jobs_server.py"], "format": "hermes"},
        episodes=3,
    )
    for episode in run:
        call, result = next(episode.calls)
        print(f"{call.name}({call.arguments}) -> {result.content!r}")


async def episode_of_a_client() -> None:
    """A client plays an episode of an environment that is served, and is told its reward."""
    command = "-m toolgym.cli serve mcp ToolScenario-v0 --seed 3 --tell-reward --out runs/agent"
    served = StdioServerParameters(
        command=sys.executable,
        args=command.split(),
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    async with Client(served) as client:
        print("task:", (client.instructions or "").splitlines()[0])
        print("tools:", ", ".join(tool.name for tool in (await client.list_tools()).tools))
        result = await client.call_tool("answer", {"answer": "I do not know"})
        print("answer:", *(part.text for part in result.content if part.type == "text"))
    print("recorded:", [(episode.id, episode.answer) for episode in Run.open("runs/agent")])


if __name__ == "__main__":
    tools_of_a_server()
    asyncio.run(episode_of_a_client())
