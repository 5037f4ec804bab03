"""An MCP server of the tests: python mcp_server.py [--http PORT | --mode WHAT]."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import AudioContent, CallToolResult, ImageContent, ResourceLink, TextContent
from pydantic import BaseModel, Field

server = MCPServer("test")
notes: list[str] = []


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: int
    y: int = 0


class Shape(BaseModel):
    kind: Literal["line", "area"]
    points: list[Point]
    color: Color | None = None
    inside: Shape | None = None


@server.tool()
def add(a: int, b: Annotated[int, Field(description="the second", ge=0)] = 1) -> str:
    """Add two numbers."""
    return str(a + b)


@server.tool()
def draw(shape: Shape, color: Color, size: int | str = 1) -> str:
    """Draw a shape.

    In the color that is given.
    """
    return f"{shape.kind} of {len(shape.points)} in {color.value}, {size!r}"


@server.tool()
def note(text: str) -> str:
    """Remember a text."""
    notes.append(text)
    return " ".join(notes)


@server.tool()
def secret() -> str:
    """Tell what stands in the environment, and which process this is."""
    return f"{os.environ.get('SECRET')} {os.environ.get('OPENAI_API_KEY')} {os.getpid()}"


@server.tool()
def measured(place: str) -> dict[str, Any]:
    """Give structured content."""
    return {"place": place, "degrees": [1.5, None]}


@server.tool()
def bare() -> CallToolResult:
    """Give structured content alone."""
    return CallToolResult(content=[], structured_content={"only": "this"})


@server.tool()
def mixed() -> CallToolResult:
    """Give an image, sound and a link."""
    parts = [
        TextContent(type="text", text="Here:"),
        ImageContent(type="image", data="aGVsbG8=", mime_type="image/png"),
        AudioContent(type="audio", data="aGVsbG8=", mime_type="audio/wav"),
        ResourceLink(type="resource_link", uri="file:///a.txt", name="a"),
    ]
    return CallToolResult(content=parts)


@server.tool()
def fail(why: str) -> str:
    """Fail."""
    raise ValueError(why)


@server.tool()
def die() -> str:
    """End the server."""
    print("out of paper", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
def hang(seconds: float = 60) -> str:
    """Sleep, without letting anything else run."""
    time.sleep(seconds)
    return "awake"


@server.tool()
def spawn(file: str) -> str:
    """Start a process that outlives the call."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(file).write_text(f"{os.getpid()} {child.pid}")
    return str(child.pid)


@server.tool()
def flood(line: bool = True) -> str:
    """Write without end."""
    part = b'{"jsonrpc": "2.0", "method": "notifications/x"}\n' if line else b"x" * 65536
    while True:
        os.write(WIRE, part)


@server.tool()
def garbage() -> str:
    """Write what is not MCP in place of a result."""
    while True:
        os.write(WIRE, b"listening on port 80\n")
        time.sleep(0.01)


@server.tool()
async def ask(ctx: Context) -> str:
    """Ask the user something."""

    class Name(BaseModel):
        name: str

    answer = await ctx.elicit("Your name?", Name)
    return f"got {answer.action}"


@server.tool()
def chat() -> str:
    """Print as many a server does."""
    os.write(WIRE, b"log: working\n\n")
    return "printed"


WIRE = os.dup(1)

if __name__ == "__main__":
    if "--deaf" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "--silent" in sys.argv:
        time.sleep(600)
    if "--broken" in sys.argv:
        raise SystemExit("no configuration found")
    if "--http" in sys.argv:
        server.run("streamable-http", port=int(sys.argv[-1]))
    else:
        server.run("stdio")
    if "--deaf" in sys.argv:
        time.sleep(600)
