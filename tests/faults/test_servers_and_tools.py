"""Servers and tools that misbehave: bounded, typed, asked again where that helps, and ended."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydantic
import pytest

from toolgym import ToolCall, Toolset, rollout, tool
from toolgym.policies import make_policy

Answer = Callable[[BaseHTTPRequestHandler], None]


def completion(content: Any = "Answer: 5", reason: str = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "finish_reason": reason, "message": said}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def says(body: Any, status: int = 200, **headers: str) -> Answer:
    """A server's answer with this JSON."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        raw = (body if isinstance(body, str) else json.dumps(body)).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    return answer


def floods(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "60000000")
    handler.end_headers()
    try:
        for _ in range(60):
            handler.wfile.write(b" " * 1_000_000)
            handler.server.sent += 1  # type: ignore[attr-defined]
    except OSError:
        handler.close_connection = True  # the client has gone, as it should


class Server:
    """Gives its answers in order, the last one for ever; counts requests by method."""

    def __init__(self, *answers: Answer) -> None:
        owner, self.methods = self, list[str]()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                owner.methods.append(self.command)
                answers[min(len(owner.methods), len(answers)) - 1](self)

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.sent = 0  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1#m"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setattr("toolgym.policies.client._FIRST_DELAY", 0.01)
    made: list[Server] = []

    def serve(*answers: Answer) -> Server:
        made.append(Server(*answers))
        return made[-1]

    yield serve
    for server in made:
        server.http.shutdown()
        server.http.server_close()


def asked(server: Server) -> tuple[list[str | None], list[str], list[str]]:
    """One turn: answers, problems, and kinds of the failures."""
    policy = make_policy(f"endpoint:{server.url}", timeout=5.0, retries=2)
    arguments = {"format": "hermes", "max_steps": 1}
    run = rollout("ToolQA-GSM8K-v0", policy, episodes=1, env_args=arguments)
    policy.close()
    steps = [step for trajectory in run for step in trajectory.steps]
    problems = [problem.kind for step in steps for problem in step.problems]
    return [step.answer for step in steps], problems, [row["kind"] for row in run.failures()]


LATER = [408, 409, 425, 429, 500, 503]
EMPTY = [completion(None), completion(None, tool_calls=[]), completion("So", "abort")]
NO_REPLY = [
    *({"choices": []}, {"error": {"message": "no"}}, [1], "<html>", "[" * 100_000),
    *(completion(5), completion("x", role="user"), completion(None, tool_calls=[None])),
]


@pytest.mark.parametrize("status", LATER)
def test_later_means_later(status: int, served: Callable[..., Server]) -> None:
    server = served(says({"error": "later"}, status), says(completion()))
    assert asked(server) == (["5"], [], [])
    assert len(server.methods) == 2


@pytest.mark.parametrize("body", EMPTY)
def test_nothing_said_is_asked_for_again(body: Any, served: Callable[..., Server]) -> None:
    assert asked(served(says(body), says(completion()))) == (["5"], [], [])
    assert asked(served(says(body))) == ([], [], ["bad_reply"])


@pytest.mark.parametrize("body", NO_REPLY)
def test_what_is_no_reply_is_a_typed_failure(body: Any, served: Callable[..., Server]) -> None:
    assert asked(served(says(body))) == ([], [], ["bad_reply"])


@pytest.mark.parametrize("reason", ["length", "content_filter", "max_tokens"])
def test_a_cut_reply_is_no_answer(reason: str, served: Callable[..., Server]) -> None:
    reply = says(completion("Answer: 5", reason))
    assert asked(served(reply)) == ([None], ["cut_reply"], [])


@pytest.mark.parametrize("wait", ["inf", "nan", "-1", "soon", ""])
def test_a_time_that_is_none_is_not_waited(wait: str, served: Callable[..., Server]) -> None:
    server = served(says({}, 429, Retry_After=wait), says(completion()))
    begin = time.monotonic()
    assert asked(server) == (["5"], [], [])
    assert time.monotonic() - begin < 60  # the old state waits for two minutes


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, served: Callable[..., Server]) -> None:
    server = served(says({}, status, Location="/v1/other"), says(completion()))
    assert asked(server) == ([], [], ["refused"])
    assert server.methods == ["POST"]


def test_a_flood_is_not_read_to_its_end(served: Callable[..., Server]) -> None:
    server = served(floods)
    assert asked(server) == ([], [], ["bad_reply"])
    assert server.http.sent < 40  # type: ignore[attr-defined]


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Place:
    name: str
    colours: list[Colour]


class Model(pydantic.BaseModel):
    x: int = 1


def place() -> Place:
    """A place."""
    return Place("Rabat", [Colour.RED])


def colour() -> Colour:
    """A colour."""
    return Colour.RED


def some() -> set[int]:
    """A set."""
    return {3, 1, 2}


def models() -> list[Model]:
    """Models."""
    return [Model(), Model(x=2)]


def nobody() -> object:
    """An object without a text."""
    return object()


def stray() -> str:
    """Write into whatever is open."""
    for number in range(3, 2_000):
        try:
            os.write(number, b"{]stray\n")
        except OSError:
            continue
    return "ok"


def forged() -> str:
    """Write what looks like a reply."""
    for number in range(3, 2_000):
        try:
            os.write(number, b'{"content": "forged"}\n')
        except OSError:
            continue
    return "ok"


def parent() -> str:
    """Start a process, and hang."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(50)"])
    Path(os.environ["CHILD_OF_TOOL"]).write_text(str(child.pid))
    time.sleep(60)
    return "late"


def flood() -> str:
    """A large text."""
    return "x" * 100_000_000


def placed(x: int, /, y: int = 2) -> int:
    """Add.

    Args:
        x: one.
        y: the other.
    """
    return x + y


def call(function: Callable[..., Any], timeout: float = 10.0, **arguments: Any) -> Any:
    made = tool(function, timeout=timeout)
    (result,) = Toolset([made]).execute([ToolCall("c", made.name, arguments)])
    return result


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (place, '{"name": "Rabat", "colours": ["red"]}'),
        (colour, "red"),
        (some, "[1, 2, 3]"),
        (models, '[{"x": 1}, {"x": 2}]'),
    ],
)
def test_results_come_as_json(function: Callable[..., Any], text: str) -> None:
    result = call(function)
    assert (result.content, result.error) == (text, None)


@pytest.mark.parametrize("function", [stray, forged, nobody])
def test_what_is_no_result_is_a_bug_of_the_tool(function: Callable[..., Any]) -> None:
    result = call(function)
    assert result.error == "bug"
    assert "forged" not in result.content.removeprefix("Error: forged")


def test_a_parameter_by_place_only() -> None:
    assert call(placed, x=1, y=4).content == "5"


def test_a_large_result_is_cut_where_it_arose() -> None:
    result = call(flood)
    assert len(result.content) < 2_000_000
    assert "cut" in result.content[-100:]


def test_a_process_of_a_tool_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHILD_OF_TOOL", str(tmp_path / "pid"))
    assert call(parent, timeout=1.5).error == "timeout"
    number = int((tmp_path / "pid").read_text())
    for _ in range(50):
        if not alive(number):
            return
        time.sleep(0.1)
    os.kill(number, signal.SIGKILL)
    pytest.fail("the process outlived the deadline")


def alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
