"""Environments as MCP servers: whole episodes of real clients, recorded and scored."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters
from processes import wait_for
from typer.testing import CliRunner

import toolgym
from toolgym import MCP, Run, Task, TaskSet, ToolCall, Toolset, tool
from toolgym.cli import app
from toolgym.errors import BadInputError, EpisodeEndedError
from toolgym.rollouts.playing import open_env
from toolgym.serving.desk import Desk, Seat, plan_for_clients
from toolgym.serving.mcp import _Sessions, listening

TASKS = TaskSet([Task(name, f"{name}?", (name,)) for name in ("one", "two", "three")], source="own")


@tool(inline=True)
def double(number: int) -> str:
    """Double a number.

    Args:
        number: which.
    """
    return str(2 * number)


class Memory(toolgym.ToolSession):
    """Keeps words."""

    inline = True

    def __init__(self, task: Task) -> None:
        self.words: list[str] = []

    @tool
    def keep(self, word: str) -> str:
        """Keep a word."""
        if word == "break":
            self.words.append(object())  # type: ignore[arg-type]
        else:
            self.words.append(word)
        return " ".join(map(str, self.words))


def environment(**options: Any) -> toolgym.ToolEnv:
    return toolgym.ToolEnv(
        TASKS,
        Toolset([double, Memory]),
        toolgym.get_format("react", "bare"),
        toolgym.Rubric({"accuracy": 1.0}),
        **options,
    )


@contextmanager
def desk_of(out: Path | None, env: Any = None, **options: Any) -> Iterator[Desk]:
    opened = open_env(environment() if env is None else env)
    plan = plan_for_clients(opened, "mcp", None, 1, 0, None)
    with closing(Desk(opened, plan, out, **options)) as desk:
        yield desk


def seated(desk: Desk) -> Seat:
    seat = desk.seat()
    assert seat is not None
    return seat


def test_a_client_plays_an_episode_that_is_recorded_like_any_other(tmp_path: Path) -> None:
    with desk_of(tmp_path / "run", tell_reward=True) as desk:
        seat = seated(desk)
        right = seat.question.removesuffix("?")
        assert seat.call("double", {"number": 4}).text == "8"
        assert seat.call("keep", {"word": "a"}).text == "a"
        failed = seat.call("double", {"number": "four"})
        assert (failed.failed, failed.ended) == (True, False)
        assert seat.call("dobule", {}).failed
        said = seat.answer(right)
        assert (said.text, said.ended) == ("The episode has ended.\nReward: 1.", True)
        with pytest.raises(EpisodeEndedError):
            seat.call("double", {"number": 1})
        assert seated(desk).answer("wrong").text == "The episode has ended.\nReward: 0."
        assert not desk.complete
    run = Run.open(tmp_path / "run")
    first = next(episode for episode in run if episode.reward == 1)
    assert [call.name for call, _ in first.calls] == ["double", "keep", "double", "dobule"]
    assert first.terminated
    assert first.state == {"words": ["a"]}
    assert first.messages[0].content == f"Question: {right}?"
    assert not run.failures()


def test_an_episode_ends_at_its_limit() -> None:
    with desk_of(None, environment(max_steps=2)) as desk:
        seat = seated(desk)
        seat.call("double", {"number": 1})
        said = seat.call("double", {"number": 2})
        assert said.ended
        assert said.text.startswith("4\n")
        (episode,) = desk.run.trajectories()
        assert (episode.truncated, episode.terminated) == (True, False)


def test_a_user_speaks_on_after_an_answer() -> None:
    env = environment(user=lambda task: toolgym.ScriptedUser(["And now?"]))
    with desk_of(None, env) as desk:
        seat = seated(desk)
        said = seat.answer("first")
        assert ("And now?" in said.text, said.ended) == (True, False)
        assert seat.answer("second").ended


@pytest.mark.parametrize("keep_left", [False, True])
def test_a_client_that_leaves_has_failed_or_is_cut(tmp_path: Path, keep_left: bool) -> None:
    with desk_of(tmp_path / "run", keep_left=keep_left) as desk:
        looked = seated(desk)
        looked.leave()  # without a turn nothing has happened
        seat = seated(desk)
        assert seat.job == looked.job
        seat.call("double", {"number": 1})
        seat.leave()
        seat.leave()
        seated(desk).call("double", {"number": 1})  # is there when the server ends
    run = Run.open(tmp_path / "run")
    if keep_left:
        assert [episode.truncated for episode in run] == [True, True]
        assert not run.failures()
        return
    assert not list(run)
    kinds = [(row["boundary"], row["kind"], row["turn"]) for row in run.failures()]
    assert kinds == [("policy", "ClientLeftError", 1)] * 2
    with desk_of(tmp_path / "run") as desk:  # another server goes on, with all that is missing
        for _ in range(3):
            seated(desk).answer("x")
        assert desk.seat() is None
        assert desk.complete
    assert len(Run.open(tmp_path / "run")) == 3


def test_an_environment_that_fails_is_no_failure_of_the_client(tmp_path: Path) -> None:
    with desk_of(tmp_path / "run") as desk:
        seat = seated(desk)
        with pytest.raises(BadInputError, match="not plain JSON"):
            seat.call("keep", {"word": "break"})
        with pytest.raises(EpisodeEndedError):
            seat.answer("x")
        seat.leave()
    assert [row["boundary"] for row in Run.open(tmp_path / "run").failures()] == ["environment"]


def test_one_task_alone_and_wrong_counts() -> None:
    opened = open_env(environment())
    plan = plan_for_clients(opened, "mcp", None, 2, 0, "two")
    assert [job.key for job in plan.jobs] == ["two#0", "two#1"]
    assert plan.settings["episodes"] == 2
    for given in ({"task": "tow"}, {"task": "two", "episodes": 3}):
        whole = {"kind": "mcp", "episodes": None, "samples": 1, "seed": 0, "task": None}
        with pytest.raises((BadInputError, LookupError)):
            plan_for_clients(opened, **{**whole, **given})  # type: ignore[arg-type]


SERVE = ("-m", "toolgym.cli", "serve", "mcp", "ToolScenario-v0")
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path), "TOOLGYM_CACHE": "/tmp/unused"}


def reference(out: Path) -> list[toolgym.Trajectory]:
    """Episodes as the policy with all reference calls plays them, one call a turn."""
    run = toolgym.rollout(
        "ToolScenario-v0",
        "scenario-oracle",
        env_args={"prompt": "bare"},
        policy_args={"parallel": False},
        episodes=4,
        seed=3,
        out=out,
    )
    return list(run)


async def play(client: Client, episode: toolgym.Trajectory) -> list[str]:
    """Let a client play what was played; what it reads."""
    told = []
    for call, _ in episode.calls:
        result = await client.call_tool(call.name, call.arguments)
        told.append(result.content[0].text)  # type: ignore[union-attr]
    result = await client.call_tool("answer", {"answer": episode.answer})
    return [*told, result.content[0].text]  # type: ignore[union-attr]


def test_a_client_plays_a_whole_scenario_over_standard_streams(tmp_path: Path) -> None:
    expected = next(e for e in reference(tmp_path / "reference") if list(e.calls))
    options = ("--task", expected.task.id, "--seed", "3", "--tell-reward")
    served = StdioServerParameters(
        command=sys.executable,
        args=[*SERVE, *options, "--out", str(tmp_path / "run")],
        env=ENVIRONMENT,
    )

    async def main() -> list[str]:
        async with Client(served) as client:
            assert expected.task.question in str(client.instructions)
            listed = (await client.list_tools()).tools
            schemas = {tool.name: tool.input_schema for tool in listed[2:]}
            declared = [document["function"] for document in expected.tools]
            assert schemas == {each["name"]: each["parameters"] for each in declared}
            task = (await client.call_tool("task", {})).content[0].text  # type: ignore[union-attr]
            prompt = (await client.get_prompt("task")).messages[0].content.text  # type: ignore[union-attr]
            (held,) = (await client.read_resource("toolgym://task")).contents
            assert task == prompt == held.text  # type: ignore[union-attr]
            with pytest.raises(MCPError, match="there is only toolgym://task"):
                await client.read_resource("toolgym://answer")
            empty = await client.call_tool("answer", {"answer": " "})
            assert empty.is_error
            return await play(client, expected)

    told = asyncio.run(main())
    assert told == [
        *(result.content for _, result in expected.calls),
        f"The episode has ended.\nReward: {expected.reward:g}.",
    ]
    (played,) = Run.open(tmp_path / "run")
    assert [call.arguments for call, _ in played.calls] == [c.arguments for c, _ in expected.calls]
    assert (played.answer, played.reward) == (expected.answer, expected.reward)
    assert played.terminated
    assert played.seed == expected.seed


@contextmanager
def server(out: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server over HTTP in a process of its own, and its address."""
    with subprocess.Popen(
        [sys.executable, *SERVE, "--http", "0", "--seed", "3", "--out", str(out), *more],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    ) as process:
        try:
            assert process.stderr is not None
            first = process.stderr.readline()
            address = re.search(r"http://\S+/mcp", first)
            assert address is not None, first
            yield process, address[0]
        finally:
            process.kill()


def test_clients_at_once_over_http_have_an_episode_each(tmp_path: Path) -> None:
    expected = {e.task.question: e for e in reference(tmp_path / "reference")}

    async def one(url: str) -> str:
        async with Client(url) as client:
            assert client.protocol_version < "2026"  # the newest one knows no sessions
            asked = str(client.instructions).partition("\n\n")[0]
            told = await play(client, expected[asked])
            assert told[-1] == "The episode has ended."
            return asked

    async def main(url: str) -> list[str]:
        async with Client(url) as leaving:  # takes an episode, and leaves it in the middle
            listed = (await leaving.list_tools()).tools
            await leaving.call_tool(listed[2].name, {})
        return await asyncio.gather(*(one(url) for _ in range(4)))

    with server(tmp_path / "run", "--episodes", "4") as (process, url):
        asked = asyncio.run(main(url))
        assert sorted(asked) == sorted(expected)
        assert process.wait(30) == 0  # all are played
    run = Run.open(tmp_path / "run")
    assert {e.task.question: e.reward for e in run} == {q: e.reward for q, e in expected.items()}
    assert [row["kind"] for row in run.failures()] == ["ClientLeftError"]


def test_a_server_that_is_killed_keeps_what_was_finished(tmp_path: Path) -> None:
    with server(tmp_path / "run", "--episodes", "3") as (process, url):
        source = MCP(url)

        def play_one(answer: bool) -> None:
            tools = Toolset([source]).open(TASKS[0])
            (result,) = tools.execute([ToolCall("1", "task", {})])
            assert "ends the episode" in result.content
            if answer:
                tools.execute([ToolCall("2", "answer", {"answer": "x"})])
                tools.end()

        play_one(True)
        play_one(False)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(Run.open(tmp_path / "run")) == 1
    with server(tmp_path / "run", "--episodes", "3") as (process, url):
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert "1 finished episodes are kept" in process.stderr.read()


VANISH = """
import asyncio, os, sys
from mcp import Client

async def main():
    async with Client(sys.argv[1]) as client:
        listed = (await client.list_tools()).tools
        await client.call_tool(listed[2].name, {})
        os._exit(0)  # without a word

asyncio.run(main())
"""


def test_a_silent_client_has_left(tmp_path: Path) -> None:
    with server(tmp_path / "run", "--episodes", "1", "--idle", "0.5", "--keep-left") as (_, url):
        subprocess.run([sys.executable, "-c", VANISH, url], check=True)
        wait_for(lambda: len(Run.open(tmp_path / "run")) == 1)
    (episode,) = Run.open(tmp_path / "run")
    assert episode.truncated


BEGIN = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "1"},
    },
}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
JSON = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("POST", "/mcp", {}, "no json", 400),
        ("POST", "/mcp", {}, json.dumps(LIST), 400),
        ("POST", "/mcp", {}, "[]", 400),
        ("POST", "/mcp", {"accept": "text/html"}, json.dumps(BEGIN), 406),
        ("POST", "/mcp", {"content-type": "text/plain"}, json.dumps(BEGIN), 400),
        ("POST", "/mcp", {"host": "evil.example"}, json.dumps(BEGIN), 421),
        ("POST", "/mcp", {"origin": "http://evil.example"}, json.dumps(BEGIN), 403),
        ("POST", "/mcp", {"mcp-session-id": "unknown"}, json.dumps(LIST), 404),
        ("POST", "/mcp", {"mcp-protocol-version": "2026-07-28"}, json.dumps(LIST), 400),
        ("POST", "/mcp", {}, "x" * (5 << 20), 413),
        ("POST", "/other", {}, json.dumps(BEGIN), 404),
        ("GET", "/mcp", {}, "", 400),
        ("DELETE", "/mcp", {}, "", 400),
        ("PUT", "/mcp", {}, "", 405),
    ],
)
def test_what_is_no_client_takes_no_episode(
    method: str, path: str, headers: dict[str, str], body: str, status: int
) -> None:
    async def asked(desk: Desk) -> int:
        limit = "mcp.server.transport_security"
        limited = importlib.import_module(limit).RequestBodyLimitMiddleware
        async with _Sessions(desk, "Test-v0", "127.0.0.1", 60.0).running() as sessions:
            app = httpx2.ASGITransport(limited(sessions, 4 << 20))
            async with httpx2.AsyncClient(transport=app, base_url="http://127.0.0.1:1") as client:
                answer = await client.request(method, path, headers=JSON | headers, content=body)
                good = await client.post("/mcp", headers=JSON, content=json.dumps(BEGIN))
                assert good.status_code == 200
                assert "one?" in good.text or "two?" in good.text or "three?" in good.text
                key = {"mcp-session-id": good.headers["mcp-session-id"]}
                assert (await client.delete("/mcp", headers=JSON | key)).status_code == 200
            return answer.status_code

    with desk_of(None) as desk:
        assert asyncio.run(asked(desk)) == status
        assert not desk.run.failures()
        assert desk.seat() is not None


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["ToolScenarios-v0"], 2, "unknown environment 'ToolScenarios-v0'"),
        (["ToolScenario-v0", "--task", "nobody"], 3, "nobody"),
        (["ToolScenario-v0", "--http", "70000"], 2, "a port from 0 to 65535, not 70000"),
        (["ToolScenario-v0", "--http", "0", "--idle", "0"], 2, "--idle is a number of seconds"),
        (["ToolScenario-v0", "--episodes", "0"], 3, "episodes must be from 1 to"),
        (["ToolScenario-v0", "--http", "0", "--host", "no.such.host.invalid"], 3, "cannot listen"),
        (["ToolScenario-v0", "--env-arg", "nothing=1"], 3, "no argument 'nothing'"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, options: list[str], code: int, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    result = CliRunner().invoke(app, ["serve", "mcp", *options, "--out", str(tmp_path / "run")])
    assert result.exit_code == code
    said = (result.stderr or "") + capfd.readouterr().err
    assert told in " ".join(said.split())
    assert said.strip().count("\n") == 0


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BadInputError, match="cannot listen at"):
            listening("127.0.0.1", taken.getsockname()[1])


def test_a_run_that_is_complete_says_so(tmp_path: Path) -> None:
    opened = open_env(environment())
    plan = plan_for_clients(opened, "mcp", 1, 1, 0, None)
    with closing(Desk(opened, plan, tmp_path / "run")) as desk:
        seated(desk).answer("x")
        assert (desk.complete, desk.counts) == (True, (1, 1))
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    assert settings["policy"] == {"policy": "client", "name": "mcp"}
