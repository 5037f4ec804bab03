"""Sessions with MCP servers: one an episode, deadlines that end servers, and nobody left behind."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from mcp import MCPError
from processes import alive, wait_for
from typer.testing import CliRunner

import toolgym
from toolgym import MCP, Task, TaskSet, ToolCall, ToolResult, Toolset
from toolgym.cli import app
from toolgym.errors import BadInputError, MissingFileError, ReplayMissError, RunMismatchError
from toolgym.tools.mcp import connection, server, wire
from toolgym.tools.service import serve_toolset
from toolgym.tools.toolset import make_toolset, tell_tools

PLAIN = str(Path(__file__).parents[2] / "helpers" / "mcp_plain.py")
TASK = Task("a", "What is it?", ("x",))


def plain(way: str = "", *more: str, **options: Any) -> MCP:
    """The small server, with short deadlines."""
    return MCP(sys.executable, [PLAIN, way, *more], **{"deadline": 5.0, "start": 20.0} | options)


def ask(tools: Toolset, name: str, key: str = "x") -> ToolResult:
    (result,) = tools.execute([ToolCall("call_0", name, {"key": key})])
    return result


def process(tools: Toolset) -> int:
    """The number of the server's process."""
    return int(ask(tools, "who").content.split()[0])


@pytest.fixture
def opened() -> Iterator[Callable[..., Toolset]]:
    """Opens the tools of an episode; all are ended."""
    held: list[Toolset] = []

    def open_tools(server: MCP) -> Toolset:
        held.append(Toolset([server]).open(TASK))
        return held[-1]

    yield open_tools
    for tools in held:
        tools.end()


def test_each_of_sixteen_concurrent_episodes_has_a_server_of_its_own(
    opened: Callable[..., Toolset],
) -> None:
    source = plain()

    def play(number: int) -> tuple[str, str, int]:
        tools = opened(source)
        ask(tools, "keep", f"secret-{number}")
        ask(tools, "keep", "more")
        return ask(tools, "kept").content, f"secret-{number} more", process(tools)

    with ThreadPoolExecutor(16) as pool:
        played = list(pool.map(play, range(16)))
    assert [found for found, _, _ in played] == [expected for _, expected, _ in played]
    assert len({number for _, _, number in played}) == 16


def test_a_session_ends_with_its_episode_and_the_next_one_remembers_nothing() -> None:
    env = toolgym.ToolEnv(
        TaskSet([TASK], source="mine"),
        Toolset([plain()]),
        toolgym.get_format("hermes"),
        toolgym.Rubric({"accuracy": 1.0}),
    )

    def call(name: str, key: str) -> str:
        made = json.dumps({"name": name, "arguments": {"key": key}})
        env.step(f"<tool_call>{made}</tool_call>")
        return env.trajectory.steps[-1].results[0].content

    env.reset()
    assert call("keep", "one") == "one"
    first = int(call("who", "x").split()[0])
    assert env.trajectory.state is None
    env.step("Answer: x")
    assert not alive(first)
    env.reset()
    assert call("kept", "x") == "nothing"
    second = int(call("who", "x").split()[0])
    env.reset()  # in the middle
    assert not alive(second)
    env.close()


def test_a_server_is_asked_for_its_tools_once(tmp_path: Path) -> None:
    started = tmp_path / "started"
    source = plain("listed", str(started))
    assert Toolset([source]).names == Toolset([copy.deepcopy(source)]).names
    again: MCP = pickle.loads(pickle.dumps(source))
    assert "odd_name" in again.tools
    assert again.methods["odd_name"] == "odd/name"
    assert len(started.read_text().split()) == 1
    wait_for(lambda: not alive(int(started.read_text())))


@pytest.mark.parametrize(
    ("name", "key", "kind", "told"),
    [
        ("die", "", "bug", "die gave no result, for its server is gone: ended (exit code 1)"),
        ("die", "no paper", "bug", "is gone: ended (exit code 1): no paper; what the server"),
        ("sleep", "60", "timeout", "sleep was ended after 1 seconds, and its server with it"),
        ("huge", "", "bug", "its server is gone: sent more than a call may bring"),
        ("refuse", "", "invalid_arguments", "Error: that key is not known"),
        ("nonsense", "", "bug", "nonsense gave what is not a result"),
    ],
)
def test_what_a_server_does_wrong_is_an_error_and_the_episode_goes_on(
    opened: Callable[..., Toolset], name: str, key: str, kind: str, told: str
) -> None:
    tools = opened(plain(deadline=1.0 if name == "sleep" else 20.0))
    ask(tools, "keep", "before")
    begun = time.monotonic()
    result = ask(tools, name, key)
    assert time.monotonic() - begun < 10  # no minute, which a sleeping server would take
    assert (result.error, told in result.content) == (kind, True), result.content
    kept = name in ("refuse", "nonsense")
    deadline = time.monotonic() + 20
    while (after := ask(tools, "kept")).error and time.monotonic() < deadline:
        assert after.error == "timeout"  # the next server still starts
    assert after.content == ("before" if kept else "nothing")


def test_a_server_that_always_ends_is_not_started_for_ever(opened: Callable[..., Toolset]) -> None:
    tools = opened(plain(deadline=20.0))
    told = [ask(tools, "die").content for _ in range(6)]
    assert ["gave no result" in text for text in told] == [True] * 4 + [False] * 2
    assert "was not called" in told[-1]


def test_a_server_that_ended_between_calls_is_told(opened: Callable[..., Toolset]) -> None:
    tools = opened(plain())
    number = process(tools)
    os.kill(number, signal.SIGKILL)
    wait_for(lambda: not alive(number))
    result = ask(tools, "kept")
    assert result.error == "bug"
    assert "ended (signal 9)" in result.content
    wait_for(lambda: ask(tools, "kept").error is None)


@pytest.mark.parametrize("way", ["noisy", "shouting"])
def test_a_flood_is_ended(
    opened: Callable[..., Toolset], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    budget = wire.Budget()
    budget.take(1000, 99_999)
    with pytest.raises(wire.FloodError):
        budget.take(1, 2)
    source = plain(way)
    assert "keep" in source.tools
    monkeypatch.setattr(wire, "_MOST_BYTES", 10)
    with pytest.raises(BadInputError, match="sent more than a call may bring"):
        opened(source)


class Server:
    """What a session of the SDK is to its server, which knows one kind of beginning."""

    def __init__(self, newest: bool, code: int = -32601) -> None:
        self.newest, self.code, self.adopted = newest, code, False

    async def initialize(self) -> None:
        if self.newest:
            raise MCPError(self.code, "initialize is not known")

    async def send_discover(self, version: str) -> dict[str, Any]:
        if self.code != -32601:
            raise MCPError(self.code, "nothing is known")
        return {
            "resultType": "complete",
            "supportedVersions": [version],
            "capabilities": {},
            "ttlMs": 0,
            "cacheScope": "public",
        }

    def adopt(self, found: Any) -> None:
        self.adopted = True


def test_servers_of_the_newest_protocol_alone_are_greeted_as_such() -> None:
    for known, adopted in ((Server(False), False), (Server(True), True)):
        asyncio.run(connection._greet(known))
        assert known.adopted == adopted
    with pytest.raises(MCPError, match="initialize is not known"):
        asyncio.run(connection._greet(Server(True, -32000)))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (plain("broken"), r"ended \(exit code 1\): no configuration found"),
        (plain("silent", start=1.0), "has not answered within 1 seconds"),
        (plain("none"), "gives no tool"),
        (MCP("no-such-program"), "No such file"),
        (MCP(sys.executable, [PLAIN], cwd="/no/such/folder"), "No such file"),
        (MCP("http://127.0.0.1:9/mcp", start=5.0), "cannot be used: "),
        (MCP(sys.executable, [PLAIN], env={"A": "${NO_SUCH_NAME}"}), "NO_SUCH_NAME, which is not"),
        (MCP(sys.executable, [PLAIN], tools=["kep"]), "no tool 'kep' .did you mean 'kept' or"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_line(source: MCP, told: str) -> None:
    with pytest.raises(BadInputError, match=told) as raised:
        Toolset([source])
    assert "\n" not in str(raised.value)
    assert "MCP server" in str(raised.value)


def test_a_server_that_prints_is_read_on(opened: Callable[..., Toolset]) -> None:
    assert ask(opened(plain("noisy")), "keep", "one").content == "one"


def test_a_server_that_ignores_its_end_is_ended(opened: Callable[..., Toolset]) -> None:
    tools = opened(plain("deaf"))
    number = process(tools)
    tools.end()
    assert not alive(number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_behind_however_we_end(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "processes"
    script = (
        "import sys, time\n"
        "from toolgym import MCP, Task, ToolCall, Toolset\n"
        f"tools = Toolset([MCP({sys.executable!r}, [{PLAIN!r}, 'deaf'])])\n"
        "tools = tools.open(Task('a', 'b', ('c',)))\n"
        f"tools.execute([ToolCall('1', 'spawn', {{'key': {str(file)!r}}})])\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"ready\n"
    left = [int(part) for part in file.read_text().split()]
    assert all(map(alive, left))
    run.send_signal(number)
    run.wait()
    run.stdout.close()
    wait_for(lambda: not any(map(alive, left)))


def test_tools_that_nobody_holds_end_their_server() -> None:
    tools = Toolset([plain()]).open(TASK)
    number = process(tools)
    del tools
    wait_for(lambda: not alive(number))
    assert not alive(number)


def test_a_fork_of_this_process_leaves_the_session_alone(opened: Callable[..., Toolset]) -> None:
    tools = opened(plain())
    ask(tools, "keep", "one")
    if (child := os.fork()) == 0:
        code = 1
        try:
            ask(tools, "keep", "two")
        except BadInputError:
            tools.end()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ask(tools, "kept").content == "one"


def test_an_episode_with_a_session_cannot_be_copied() -> None:
    env = toolgym.ToolEnv(
        TaskSet([TASK], source="mine"),
        Toolset([plain()]),
        toolgym.get_format("hermes"),
        toolgym.Rubric({"accuracy": 1.0}),
    )
    twin = copy.deepcopy(env)  # before an episode there is nothing to copy
    env.reset()
    for copied in (env.snapshot, lambda: copy.deepcopy(env)):
        with pytest.raises(BadInputError, match="cannot be saved, copied or branched"):
            copied()
    env.step("Answer: x")
    assert copy.deepcopy(env).trajectory.answer == "x"
    twin.reset()
    twin.close()
    env.close()


def test_two_servers_with_one_name_need_a_prefix(opened: Callable[..., Toolset]) -> None:
    with pytest.raises(BadInputError, match=r"two sessions are called .*prefix='a_'"):
        Toolset([plain(), plain()])
    with pytest.raises(BadInputError, match=r"two tools are called 'keep'.*prefix='a_'"):
        Toolset([plain(), plain("other")])
    tools = Toolset([plain(tools=["keep", "kept"]), plain(prefix="b.", tools=["kept"])])
    assert tools.names == ["keep", "kept", "b.kept"]
    both = tools.open(TASK)
    ask(both, "keep", "one")
    assert [ask(both, name).content for name in ("kept", "b.kept")] == ["one", "nothing"]
    both.end()


def test_variables_are_read_from_the_environment_and_others_are_not_seen(
    opened: Callable[..., Toolset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "hush")
    tools = opened(plain(env={"GIVEN": "${A_SECRET}!", "OWN": "own"}))
    seen = [ask(tools, "who", name).content.split()[1] for name in ("GIVEN", "OWN", "A_SECRET")]
    assert seen == ["hush!", "own", "None"]


def scripted(*calls: tuple[str, str]) -> Any:
    """A policy that makes calls, and then answers."""

    def policy(messages: list[dict[str, Any]], tools: Any) -> str:
        turn = sum(message["role"] == "assistant" for message in messages)
        if turn < len(calls):
            name, key = calls[turn]
            made = json.dumps({"name": name, "arguments": {"key": key}})
            return f"<tool_call>{made}</tool_call>"
        return "Answer: politician"

    return policy


def test_runs_record_no_secret_and_cassettes_replay_without_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.py"
    own.write_text(Path(PLAIN).read_text())
    monkeypatch.setenv("A_SECRET", "hush")
    spec = {"name": f"mcp:{sys.executable} {own}", "env": {"A": "${A_SECRET}", "B": "hidden"}}
    cassette = str(tmp_path / "cassette.jsonl")
    policy = scripted(("keep", "one"), ("keep", "two"), ("keep", "two"), ("refuse", "x"))

    def play(mode: str, out: str) -> list[dict[str, Any]]:
        run = toolgym.rollout(
            "ToolQA-PopQA-v0",
            policy,
            env_args={
                "tools": [spec, "Calculator"],
                "format": "hermes",
                "service": {"cassette": cassette, "mode": mode},
            },
            episodes=3,
            out=tmp_path / out,
            concurrency=2,
        )
        assert not run.failures()
        rows = [episode.to_row() for episode in run]
        for row in rows:
            for step in row["steps"]:
                step.pop("seconds", None)
        return rows

    recorded = play("record", "first")
    assert recorded[0]["steps"][2]["results"][0]["content"] == "one two two"
    own.unlink()
    server._listed.clear()
    assert play("replay", "second") == recorded
    written = (tmp_path / "first" / "run.json").read_text() + Path(cassette).read_text()
    assert "hush" not in written
    assert "hidden" not in written
    told = json.loads((tmp_path / "first" / "run.json").read_text())["env"]["args"]["tools"][0]
    assert told["env"] == {"A": "${A_SECRET}", "B": "(not recorded)"}
    with pytest.raises(BadInputError, match="'B' was not recorded; give it, or write '\\$\\{B\\}'"):
        make_toolset([told])
    names = [spec, "Calculator"]
    made = make_toolset(names, cassette=cassette)
    replayed = serve_toolset(made, {"cassette": cassette, "mode": "replay"}, names).open(TASK)
    with pytest.raises(ReplayMissError):
        replayed.execute([ToolCall("call_0", "keep", {"key": "never"})], ["other#0"])


def test_a_cassette_of_another_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="record one first"):
        plain().told_by(tmp_path / "none.jsonl")
    file = tmp_path / "cassette.jsonl"
    file.write_text('{"cassette": 1, "tools": {"options": [], "schemas": {}, "data": {}}}\n')
    with pytest.raises(BadInputError, match="was recorded without MCP server"):
        plain().told_by(file)


def test_a_run_with_another_server_is_not_gone_on_with(tmp_path: Path) -> None:
    def play(source: MCP) -> None:
        args = {"tools": [source], "format": "hermes"}
        toolgym.rollout(
            "ToolQA-PopQA-v0", scripted(), env_args=args, episodes=1, out=tmp_path / "run"
        )

    play(plain(tools=["keep"]))
    play(plain(tools=["keep"]))
    with pytest.raises(RunMismatchError):
        play(plain(tools=["kept"]))


def test_every_way_to_write_a_server_is_the_same() -> None:
    told = {"name": f"mcp:{sys.executable}", "args": [PLAIN, "a b"], "prefix": "x_"}
    line = f"mcp: {sys.executable} {PLAIN} 'a b'"
    for written in (
        told,
        {"name": line, "prefix": "x_"},
        {"name": "mcp", "command": sys.executable, "args": [PLAIN, "a b"], "prefix": "x_"},
        MCP(sys.executable, [PLAIN, "a b"], prefix="x_"),
        MCP(sys.executable, (PLAIN, "a b"), prefix="x_", env={}),
    ):
        assert tell_tools([written]) == [told]
    assert tell_tools([line]) == [{key: told[key] for key in ("name", "args")}]
    assert make_toolset([told]).names[0] == "x_keep"


def test_plain_data_makes_environments_alone_and_in_vectors() -> None:
    line = f"mcp:{sys.executable} '{PLAIN}' vector"
    call = '<tool_call>{"name": "keep", "arguments": {"key": "%s"}}</tool_call>'
    envs = gym.make_vec("ToolQA-PopQA-v0", num_envs=2, tools=[line], format="hermes")
    envs.reset(seed=3)
    envs.step([call % "one", call % "two"])
    seen, *_ = envs.step([call % "three", call % "four"])
    assert "one three" in seen[0]
    assert "two four" in seen[1]
    envs.close()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: MCP.read("mcp:"), "is a command or a URL"),
        (lambda: make_toolset(["mcp"]), "is a command or a URL"),
        (lambda: make_toolset([{"name": "mcp:a", "command": "b"}]), "names a server already"),
        (lambda: MCP.read("mcp:python 'open"), "cannot be read: No closing quotation"),
        (lambda: MCP.read("mcp:python", args="x"), "args of 'python' are strings"),
        (lambda: MCP("python", "x"), "args of 'python' are strings"),
        (lambda: MCP("python", env=["A"]), "env of 'python' is a mapping"),  # type: ignore[arg-type]
        (lambda: MCP("python", env={"A": 1}), "'A' is not a string"),  # type: ignore[dict-item]
        (lambda: MCP("python", deadline=0), "deadline of 'python' is seconds, not 0"),
        (lambda: MCP("python", start=float("inf")), "start of 'python' is seconds"),
        (lambda: MCP("python", headers={"A": "b"}), "is a command, which has no headers"),
        (lambda: MCP("https://a/mcp", env={"A": "b"}), "is a URL, which has no env"),
        (lambda: MCP("python", prefix=1), "prefix of 'python' is a string"),  # type: ignore[arg-type]
        (lambda: make_toolset(["mpc:python x.py"]), "unknown tool 'mpc:python x.py'"),
        (lambda: make_toolset([{"name": "mcp:python", "deadlin": 3}]), "no option 'deadlin'"),
    ],
)
def test_a_wrong_argument_is_one_line(make: Callable[[], Any], told: str) -> None:
    with pytest.raises((BadInputError, LookupError), match=told) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_records_take_the_secrets_out_of_urls() -> None:
    source = MCP.read("mcp:https://me:word@host:1/mcp?key=abc", headers={"X": "y", "Z": "${Z}"})
    assert source.describe() == {
        "name": "mcp:https://host:1/mcp",
        "headers": {"X": "(not recorded)", "Z": "${Z}"},
    }
    assert "word" not in source.label + repr(source)
    assert "abc" not in source.name
    kept = MCP.read("mcp:https://host/mcp?key=${KEY}")
    assert kept.describe() == {"name": "mcp:https://host/mcp?key=${KEY}"}


def test_the_sdk_is_loaded_when_a_server_is_started() -> None:
    code = "import sys, toolgym; toolgym.MCP('python', ['x.py']); sys.exit('mcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_tools_of_a_server_are_told_and_called(tmp_path: Path) -> None:
    line, cassette = f"mcp:{sys.executable} '{PLAIN}'", str(tmp_path / "cassette.jsonl")
    shown = CliRunner().invoke(app, ["tool", line, "--schema"])
    names = [document["function"]["name"] for document in json.loads(shown.stdout)]
    assert names[:2] == ["keep", "kept"]
    asked = ["tool", line, "--call", "keep", "lamp", "--cassette", cassette]
    for mode in ("--record", "--replay"):
        result = CliRunner().invoke(app, [*asked, mode])
        assert (result.exit_code, result.stdout) == (0, "lamp\n")
    assert CliRunner().invoke(app, ["tool", line, "lamp"]).exit_code == 2


def test_without_the_extra_one_line_names_it() -> None:
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('mcp', 'anyio', 'uvicorn', 'starlette'))\n"
        "import toolgym\n"
        "toolgym.MCP('python', ['x.py'])\n"
        "sys.argv = ['toolgym', *sys.argv[1:]]\n"
        "from toolgym.cli import main\n"
        "main()\n"
    )
    for line in (["tool", "mcp:python x.py", "--schema"], ["serve", "mcp", "A-v0", "--out", "x"]):
        run = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True)
        assert run.returncode == 4
        assert run.stderr.count("\n") == 1
        assert "pip install 'toolgym[mcp]'" in run.stderr
