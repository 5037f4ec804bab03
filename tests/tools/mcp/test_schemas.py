"""Tools of MCP servers that the SDK makes: schemas whole everywhere, every kind of result, HTTP."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from processes import wait_for

from toolgym import MCP, Task, ToolCall, Toolset
from toolgym.formats import Action, get_format
from toolgym.registry import FORMATS

SERVER = Path(__file__).parents[2] / "helpers" / "mcp_server.py"
TASK = Task("a", "What is it?", ("x",))
SHAPE = {
    "kind": "line",
    "points": [{"x": 1}, {"x": 2, "y": 3}],
    "inside": {"kind": "area", "points": [], "color": "blue"},
}


@pytest.fixture(scope="module")
def source() -> MCP:
    return MCP(sys.executable, [str(SERVER)], deadline=20.0, start=60.0)


@pytest.fixture(scope="module")
def tools(source: MCP) -> Iterator[Toolset]:
    opened = Toolset([source]).open(TASK)
    yield opened
    opened.end()


@pytest.fixture(scope="module")
def declared() -> dict[str, Any]:
    """The schemas as the server's own library has them, by name."""
    spec = importlib.util.spec_from_file_location("mcp_test_server", SERVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mcp_test_server"] = module
    spec.loader.exec_module(module)
    found = asyncio.run(module.server.list_tools())
    os.close(module.WIRE)
    return {tool.name: tool.input_schema for tool in found}


def ask(tools: Toolset, name: str, **arguments: Any) -> tuple[str | None, str]:
    (result,) = tools.execute([ToolCall("call_0", name, arguments)])
    return result.error, result.content


def test_schemas_are_kept_whole(tools: Toolset, declared: dict[str, Any]) -> None:
    documents = {schema["function"]["name"]: schema["function"] for schema in tools.schemas()}
    assert {name: each["parameters"] for name, each in documents.items()} == declared
    drawn = declared["draw"]
    assert {"Shape", "Point", "Color"} == drawn["$defs"].keys()
    assert "$ref" in json.dumps(drawn["$defs"]["Shape"]["properties"]["inside"])
    assert documents["draw"]["description"] == "Draw a shape.\n\nIn the color that is given."


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_tells_them_and_reads_calls_of_them(tools: Toolset, name: str) -> None:
    codec, schemas = get_format(name), tools.schemas()
    told = codec.instructions(schemas)
    if name == "native":  # whose tools travel beside the messages
        told = json.dumps(schemas)
    for part in ('"enum": ["red", "blue"]', "#/$defs/Point", '"anyOf"'):
        assert part in told
    if name == "react-paper":  # whose parser reads one text a call
        return
    arguments = {"shape": SHAPE, "color": "red", "size": "big"}
    written = codec.write(Action("", (ToolCall("call_0", "draw", arguments),)), schemas)
    (call,) = codec.parse(written, schemas).calls
    assert (call.name, call.arguments) == ("draw", arguments)
    assert tools["draw"].validate(call.arguments) == arguments


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"shape": SHAPE, "color": "green"}, "'color' is 'green', none of ['red', 'blue']"),
        ({"shape": {**SHAPE, "kind": "dot"}, "color": "red"}, "'shape.kind' is 'dot'"),
        ({"shape": {**SHAPE, "points": [{}]}, "color": "red"}, "'shape.points[0]' lacks 'x'"),
        ({"shape": {"kind": "line"}, "color": "red"}, "'shape' lacks 'points'"),
        ({"shape": SHAPE, "color": "red", "size": [1]}, "'size' is [1]"),
        ({"shape": SHAPE, "colour": "red"}, "did you mean 'color'?"),
        ({"shape": {**SHAPE, "inside": {"kind": 1}}, "color": "red"}, "'shape.inside' is "),
    ],
)
def test_arguments_are_checked_whole(tools: Toolset, arguments: dict[str, Any], told: str) -> None:
    kind, text = ask(tools, "draw", **arguments)
    assert kind == "invalid_arguments"
    assert told in text


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("add", {"a": 1, "b": 2}, (None, "3")),
        ("add", {"a": "4"}, (None, "5")),  # as text formats write numbers
        ("draw", {"shape": SHAPE, "color": "red"}, (None, "line of 2 in red, 1")),
        ("draw", {"shape": SHAPE, "color": "red", "size": "1"}, (None, "line of 2 in red, '1'")),
        ("bare", {}, (None, '{"only": "this"}')),
        ("chat", {}, (None, "printed")),
        ("ask", {}, ("tool_error", "Error: Elicitation not supported")),
        (
            "mixed",
            {},
            (
                None,
                "Here:\n[image of type image/png, 5 bytes]\n[audio of type audio/wav, 5 bytes]\n"
                "[resource file:///a.txt: a]",
            ),
        ),
    ],
)
def test_every_kind_of_result_is_told_in_text(
    tools: Toolset, name: str, arguments: dict[str, Any], expected: tuple[str | None, str]
) -> None:
    assert ask(tools, name, **arguments) == expected


def test_structured_content_and_failures_are_text(tools: Toolset) -> None:
    kind, text = ask(tools, "measured", place="here")
    assert (kind, json.loads(text)) == (None, {"place": "here", "degrees": [1.5, None]})
    kind, text = ask(tools, "fail", why="no paper")
    assert kind == "tool_error"
    assert text.startswith("Error")


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server over HTTP on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, str(SERVER), "--http", str(port)], stderr=subprocess.DEVNULL
    ) as process:
        for _ in range(600):
            if process.poll() is None and _listens(port):
                break
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        yield f"http://127.0.0.1:{port}/mcp", process
        process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_over_http_is_asked_and_its_end_is_an_error(
    address: tuple[str, subprocess.Popen[bytes]], declared: dict[str, Any]
) -> None:
    url, process = address
    source = MCP.read(f"mcp:{url}", deadline=2.0, tools=["add", "draw", "note", "hang", "ask"])
    assert source.tools["draw"].parameters == declared["draw"]

    def play(number: int) -> tuple[str | None, str]:
        tools = Toolset([source]).open(TASK)
        found = ask(tools, "add", a=number, b=1)
        tools.end()
        return found

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(play, range(8))) == [(None, str(n + 1)) for n in range(8)]
    tools = Toolset([source]).open(TASK)
    assert ask(tools, "ask") == ("tool_error", "Error: Elicitation not supported")
    kind, text = ask(tools, "hang", seconds=4)
    assert (kind, "hang was ended after 2 seconds" in text) == ("timeout", True)
    wait_for(lambda: ask(tools, "add", a=1) == (None, "2"))
    process.kill()
    process.wait()
    kind, text = ask(tools, "add", a=1)
    assert kind == "bug"
    assert "its server is gone" in text
    tools.end()
