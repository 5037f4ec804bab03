"""Servers that a run starts: started, found dead, started again, and never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from model_server import ModelServer as StandIn
from processes import alive, wait_for

from toolgym import Run, rollout
from toolgym.errors import BadInputError, EndpointError
from toolgym.policies import serving
from toolgym.policies.endpoint import EndpointPolicy
from toolgym.policies.local.served import ServedPolicy
from toolgym.policies.serving import ModelServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")

SCRIPT = Path(__file__).parent.parent / "helpers" / "serve_model.py"
COMMAND = (sys.executable, str(SCRIPT), "{model}", "{port}")


def served(folder: Path, *troubles: str, named: bool = True, **options: Any) -> ModelServer:
    """A server that is not started yet."""
    command = [*COMMAND, *(["{name}"] if named else []), *troubles]
    return ModelServer(command, {"model": folder}, log=folder / "server.log", **options)


def policy_of(server: ModelServer, **options: Any) -> ServedPolicy:
    """The server's policy, as a run makes it."""
    asked = EndpointPolicy(server.url, model=server.name, tokens=True, patience=60, **options)
    asked.expect()
    return ServedPolicy(asked, server, {"model": "mine"})


def is_open(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def test_it_serves_a_folder_and_is_gone_afterwards(tmp_path: Path) -> None:
    told: list[str] = []
    with served(tmp_path, f"child={tmp_path / 'pid'}", tell=told.append) as server:
        policy = policy_of(server)
        run = rollout("ToolQA-PopQA-v0", policy, episodes=3, concurrency=3)
        assert len(run) == 3
        assert all(trajectory.tokens is not None for trajectory in run)
        assert "base_url" not in run.settings["policy"], "the port is another one each time"
        assert run.settings["policy"]["model"] == "mine"
        child = int((tmp_path / "pid").read_text())
        assert alive(server.pid)
        assert alive(child)
    policy.close()
    assert not alive(server.pid)
    assert not alive(child), "what it started in a session of its own is ended, too"
    assert not is_open(server.port)
    assert told[-1].startswith("up after")
    assert server.log.read_text() == f"loading {tmp_path}\n"
    server.stop()  # twice is once


def test_a_command_without_a_name_serves_what_it_says(tmp_path: Path) -> None:
    with served(tmp_path, named=False) as server:
        assert server.name == str(tmp_path)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((), "needs the place {model}"),
        (("serve", "{model}"), "needs the place {port}"),
        (("serve", "{modle}", "{port}"), r"unknown place {modle} \(did you mean 'model'"),
    ],
)
def test_commands_that_cannot_serve(command: tuple[str, ...], words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        ModelServer(command, {"model": "m"})


class TestStarts:
    def test_a_failure_tells_the_servers_own_words(self, tmp_path: Path) -> None:
        server = served(tmp_path, "exit=3")
        with pytest.raises(EndpointError, match=r"exit code 3 before it was ready") as raised:
            server.start()
        assert raised.value.kind == "ended"
        assert f"loading {tmp_path} | no such architecture (all of them: " in str(raised.value)
        assert "\n" not in str(raised.value)
        assert not alive(server.pid)

    def test_a_program_that_is_not_there(self, tmp_path: Path) -> None:
        server = ModelServer(["no-such-server", "{model}", "{port}"], {"model": tmp_path})
        with pytest.raises(EndpointError, match="cannot be started: No such file"):
            server.start()
        server.log.unlink(missing_ok=True)

    def test_one_that_never_answers_is_ended(self, tmp_path: Path) -> None:
        told: list[str] = []
        server = served(tmp_path, "late=600", start_seconds=2.5, tell=told.append)
        with pytest.raises(EndpointError, match=r"not ready after 2.5 s \(nothing answers"):
            server.start()
        assert told
        assert all(word.startswith("starting, ") for word in told)
        assert not alive(server.pid)

    def test_a_port_that_another_program_takes_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The stranger answers like a server of ours, before ours has found its port taken."""
        stranger, find = StandIn(name="other"), serving._free_port
        ports = iter([stranger.port])
        monkeypatch.setattr(serving, "_free_port", lambda: next(ports, None) or find())
        with served(tmp_path, "late=0.5") as server:
            assert server.port != stranger.port
            assert server.deaths == 0
            assert is_open(server.port)
        assert is_open(stranger.port)
        stranger.end()


class TestDeaths:
    @pytest.mark.parametrize("who", ["server", "guard"])
    def test_one_that_is_killed_in_the_middle_is_started_again(
        self, tmp_path: Path, who: str
    ) -> None:
        told: list[str] = []
        with served(tmp_path, "latency=0.05", tell=told.append) as server:
            policy, pids, port = policy_of(server), [server.pid], server.port
            guard = server._guard
            assert guard is not None
            killed = server.pid if who == "server" else guard.process.pid

            def kill(done: int, _: int) -> None:
                if done == 2 and server.pid == pids[0] and alive(killed):
                    os.kill(killed, signal.SIGKILL)

            with warnings.catch_warnings():
                # Said only where the new server takes long.
                warnings.filterwarnings("ignore", ".*is away: waiting for it", RuntimeWarning)
                run = rollout(
                    "ToolQA-PopQA-v0", policy, episodes=8, concurrency=2, progress=kill,
                    out=tmp_path / "run",
                )  # fmt: skip
            policy.close()
            assert len(run) == 8
            assert not run.failures()
            assert (server.deaths, server.port) == (1, port)
            assert server.pid != pids[0]
            assert not alive(pids[0])
        assert any("by signal 9" in word and "1 of 3" in word for word in told)

    def test_one_that_dies_for_good_ends_the_run_which_goes_on_later(self, tmp_path: Path) -> None:
        args: dict[str, Any] = {"episodes": 8, "concurrency": 2, "out": tmp_path / "run"}
        with served(tmp_path, "die_after=9", restarts=0) as server:
            policy = policy_of(server)
            with pytest.raises(EndpointError, match=r"by signal 9.*out of memory") as raised:
                rollout("ToolQA-PopQA-v0", policy, **args)
            assert raised.value.kind == "ended"
            policy.close()
        with served(tmp_path) as server:
            policy = policy_of(server)
            run = rollout("ToolQA-PopQA-v0", policy, **args)
            policy.close()
        assert len(run) == 8

    def test_it_is_not_started_again_without_an_end(self, tmp_path: Path) -> None:
        with served(tmp_path, "die_after=0", restarts=1) as server:
            policy = policy_of(server)
            with pytest.raises(EndpointError, match="1 restarts are all that there may be"):
                rollout("ToolQA-PopQA-v0", policy, episodes=4, concurrency=2)
            policy.close()


@pytest.mark.filterwarnings("ignore:.* is away:RuntimeWarning")
@pytest.mark.parametrize("away", [False, True])
def test_ctrl_c_waits_for_no_reply_and_for_no_server(tmp_path: Path, away: bool) -> None:
    asked = tmp_path / "asked"

    def interrupt() -> None:
        wait_for(asked.exists)
        if away:
            os.kill(server.pid, signal.SIGKILL)
            wait_for(lambda: "waiting for" in policy.notice)
        os.kill(os.getpid(), signal.SIGINT)

    with served(tmp_path, f"hang={asked}", "late=1") as server:
        policy = policy_of(server)
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            rollout("ToolQA-PopQA-v0", policy, episodes=4, concurrency=4, out=tmp_path / "run")
        thread.join()
        policy.close()
    assert not Run.open(tmp_path / "run").failures()


PARENT = """
import signal, sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from toolgym.policies.serving import ModelServer
signal.signal(signal.SIGINT, signal.default_int_handler)
folder = Path({folder!r})
command = [*{command!r}, "{{name}}", "child=" + str(folder / "child")]
with ModelServer(command, {{"model": folder}}, log=folder / "server.log") as server:
    (folder / "server.new").write_text(str(server.pid))
    (folder / "server.new").rename(folder / "server")
    time.sleep(600)
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has started a server, which has a child in a session of its own."""
    code = PARENT.format(path=sys.path, folder=str(tmp_path), command=COMMAND)
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
        wait_for((tmp_path / "server").exists)
        yield process
        process.kill()


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_behind(
    parent: subprocess.Popen[bytes], tmp_path: Path, by: signal.Signals
) -> None:
    pids = [int((tmp_path / name).read_text()) for name in ("server", "child")]
    assert all(map(alive, pids))
    parent.send_signal(by)
    parent.wait(30)
    if by == signal.SIGINT:
        assert not any(map(alive, pids)), "Ctrl-C: before this process has ended"
    wait_for(lambda: not any(map(alive, pids)))
