"""The endpoint policy against servers that misbehave, and against `transformers serve`."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from toolgym import evaluate, rollout, select
from toolgym.env import ToolEnv
from toolgym.errors import BadInputError, EndpointError, PolicyError
from toolgym.formats import get_format
from toolgym.messages import Message, to_chats
from toolgym.policies import Reply, Request, make_policy
from toolgym.policies.endpoint import EndpointPolicy
from toolgym.trajectory import Trajectory

pytest.importorskip("aiohttp")

SEARCH: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "WikipediaSearch",
        "description": "Search.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}},
            "required": ["query"],
        },
    },
}


def asked(question: str = "Q?", format: str = "react", **fields: Any) -> Request:
    codec = get_format(format, "tools_multi_step")
    messages = codec.render([SEARCH], [Message("user", question)])
    return Request(to_chats(messages), [SEARCH], codec, **fields)


def completion(text: str | None = "Answer: yes", **message: Any) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": message.pop("finish_reason", "stop"),
        "message": {"role": "assistant", "content": text, **message},
    }
    if "stop_reason" in message:
        choice["stop_reason"] = choice["message"].pop("stop_reason")
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }


Answer = Callable[[BaseHTTPRequestHandler], None]


def says(body: Any, status: int = 200, **headers: str) -> Answer:
    """A server's answer with this JSON (or text) as body."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        raw = (body if isinstance(body, str) else json.dumps(body)).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    return answer


def hangs(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1.5)
    handler.close_connection = True


def drips(handler: BaseHTTPRequestHandler) -> None:
    """Sends a byte now and then: no single read is slow, the whole never ends."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    try:
        for _ in range(12):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)
    except OSError:
        pass  # the client has gone, as it should
    handler.close_connection = True


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


class Server:
    """Gives its answers in order, the last one for ever; keeps the bodies that came and when."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [says(completion())]
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.times: list[float] = []
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with owner._lock:
                    number = len(owner.bodies)
                    owner.bodies.append(body)
                    owner.paths.append(self.path)
                    owner.times.append(time.monotonic())
                owner.answers[min(number, len(owner.answers) - 1)](self)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def end(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.end()


@pytest.fixture
def policy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[EndpointPolicy]:
    monkeypatch.setattr("toolgym.policies.client._FIRST_DELAY", 0.01)
    made = EndpointPolicy(server.url, model="m", timeout=0.5, retries=3)
    yield made
    made.close()


def failed(policy: EndpointPolicy, kind: str) -> str:
    reply = policy.act([asked()])[0]
    assert isinstance(reply, EndpointError), reply
    assert reply.kind == kind
    assert "\n" not in str(reply)
    return str(reply)


def text(policy: EndpointPolicy, request: Request) -> str:
    reply = policy.act([request])[0]
    assert not isinstance(reply, Exception), reply
    return reply.text


def test_sends_what_the_interface_knows_and_reads_the_reply(
    server: Server, policy: EndpointPolicy
) -> None:
    assert text(policy, asked("Who?", seed=2**40 + 7)) == "Answer: yes"
    body = server.bodies[0]
    assert body["model"] == "m"
    assert body["seed"] == 7
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (1.0, 1.0, 512)
    assert body["stop"] == list(asked().format.stop)
    assert "tools" not in body
    assert body["messages"][-1] == {"role": "user", "content": "Question: Who?"}
    assert server.paths == ["/v1/chat/completions"]


def test_from_the_command_line(server: Server) -> None:
    policy = make_policy(f"endpoint:{server.url}#my/model", temperature=None)
    assert isinstance(policy, EndpointPolicy)
    assert text(policy, asked()) == "Answer: yes"
    assert server.bodies[0]["model"] == "my/model"
    assert "temperature" not in server.bodies[0]
    assert policy.describe()["base_url"] == server.url
    assert not any("key" in name for name in policy.describe())
    policy.close()


def test_429_waits_as_long_as_the_server_asks(server: Server, policy: EndpointPolicy) -> None:
    server.answers = [says({"error": "slow down"}, 429, Retry_After="0.3"), says(completion())]
    assert text(policy, asked()) == "Answer: yes"
    assert server.times[1] - server.times[0] >= 0.3


def test_500_twice_and_then_a_reply(server: Server, policy: EndpointPolicy) -> None:
    server.answers = [says("oops", 500), says("oops", 503), says(completion())]
    assert text(policy, asked()) == "Answer: yes"
    assert len(server.bodies) == 3


def test_gives_up_after_its_retries(server: Server, policy: EndpointPolicy) -> None:
    server.answers = [says({"error": {"message": "out of\nmemory"}}, 500)]
    assert "out of memory (4 tries)" in failed(policy, "server")
    assert len(server.bodies) == 4


@pytest.mark.parametrize(("answer", "kind"), [(hangs, "timeout"), (drips, "timeout")])
def test_a_server_that_never_ends_is_given_up_in_time(
    server: Server, answer: Answer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolgym.policies.client._FIRST_DELAY", 0.01)
    server.answers = [answer]
    policy = EndpointPolicy(server.url, model="m", timeout=0.3, retries=1)
    assert "2 tries" in failed(policy, kind)
    assert len(server.bodies) == 2
    policy.close()


def test_a_closed_connection_is_tried_again(server: Server, policy: EndpointPolicy) -> None:
    server.answers = [hangs_up, says(completion())]
    assert text(policy, asked()) == "Answer: yes"
    server.answers = [hangs_up]
    failed(policy, "connection")


@pytest.mark.parametrize(
    "body", ["{broken", "[]", "{}", '"text"', '{"choices": []}', '{"choices": [{}]}', "null"]
)
def test_garbage_is_a_bad_reply_and_final(
    server: Server, policy: EndpointPolicy, body: str
) -> None:
    server.answers = [says(body)]
    failed(policy, "bad_reply")
    assert len(server.bodies) == 1


def test_a_page_that_is_no_json(server: Server, policy: EndpointPolicy) -> None:
    server.answers = [says("<html>hello</html>", Content_Type="text/html")]
    failed(policy, "bad_reply")


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refused_request_is_final(server: Server, policy: EndpointPolicy, status: int) -> None:
    server.answers = [says({"error": {"message": "no such model"}}, status)]
    assert f"HTTP {status} no such model" in failed(policy, "refused")
    assert len(server.bodies) == 1


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolgym.policies.client._FIRST_DELAY", 0.01)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        policy = EndpointPolicy(f"http://127.0.0.1:{port}/v1", model="m", retries=1)
        assert "is it running?" in failed(policy, "connection")
        policy.close()


def test_many_threads_share_the_client_within_the_limit(server: Server) -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.03)
        with lock:
            running[0] -= 1
        says(completion())(handler)

    server.answers = [slow]
    policy = EndpointPolicy(server.url, model="m", concurrency=4)
    replies: list[str] = []

    def ask() -> None:
        replies.append(text(policy, asked()))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    policy.close()
    assert replies == ["Answer: yes"] * 12
    assert 2 <= most[0] <= 4


def test_native_calls_become_the_formats_text(server: Server) -> None:
    calls = [
        {"id": "a", "type": "function", "function": {"name": "WikipediaSearch", "arguments": given}}
        for given in ('{"query": "Emma"}', '"{\\"query\\": \\"Emma\\""', "{broken", "")
    ]
    server.answers = [says(completion(None, tool_calls=calls, finish_reason="tool_calls"))]
    policy = EndpointPolicy(server.url, model="m", native_tools=True)
    request = asked(format="hermes")
    (reply,) = policy.act([request])
    policy.close()
    assert server.bodies[0]["tools"] == [SEARCH]
    assert isinstance(reply, Reply)
    assert reply.said is not None
    parsed = request.format.parse(reply.text, request.tools)
    # What is broken is repaired or refused as in a reply that is text.
    for action in (parsed, reply.said):
        assert [c.arguments for c in action.calls] == [{"query": "Emma"}, {"query": "Emma"}, {}]
        kinds = [problem.kind for problem in action.problems]
        assert kinds == ["repaired_json", "repaired_json", "bad_json"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({}, "<search>Emma</search>"),  # which stop text it was is not said: the format decides
        ({"stop_reason": "</search>"}, "<search>Emma</search>"),
        ({"stop_reason": None}, "<search>Emma"),  # the model itself ended there
        ({"finish_reason": "length"}, "<search>Emma"),
    ],
)
def test_a_stop_text_that_the_server_left_out(
    server: Server, policy: EndpointPolicy, message: dict[str, Any], expected: str
) -> None:
    server.answers = [says(completion("<search>Emma", **message))]
    assert text(policy, asked(format="tags")) == expected


def test_a_server_that_ignores_stop_texts_is_cut(server: Server, policy: EndpointPolicy) -> None:
    server.answers = [says(completion("<search>Emma</search><information>I imagine"))]
    assert text(policy, asked(format="tags")) == "<search>Emma</search>"


def test_a_cut_reply_is_no_answer(server: Server) -> None:
    for name, said in (
        ("hermes", "Answer: 1"),
        ("react", "Thought: so\nAnswer: 1"),
        ("tags", "So <answer>1"),
        ("llama3", '{"name": "Calculator", "parameters": {"expression": {"a": 1}'),
    ):
        server.answers = [says(completion(said, finish_reason="length"))]
        policy = EndpointPolicy(server.url, model="m", temperature=None)
        run = rollout(
            "ToolQA-GSM8K-v0", policy, episodes=1, env_args={"format": name, "max_steps": 1}
        )
        policy.close()
        (episode,) = run
        step = episode.steps[0]
        assert (step.cut, step.answer, step.calls) == (True, None, ())
        assert "cut_reply" in [problem.kind for problem in step.problems]
        assert step.action == said
        assert "cut at the limit" in step.observation
        assert evaluate(run)["cut"].value == 1.0
        with pytest.raises(BadInputError, match="cut==0"):
            select(run, where="cut==0")
        assert len(list(select(run, where="cut>0"))) == 1
        assert Trajectory.from_row(json.loads(episode.to_line())) == episode


def test_native_results_go_to_the_server_as_such(server: Server) -> None:
    call = {
        "id": "x7",
        "type": "function",
        "function": {"name": "Calculator", "arguments": "{'expression': '6*7'}"},
    }
    server.answers = [
        says(completion(None, tool_calls=[call], finish_reason="tool_calls")),
        says(completion("Answer: 42")),
    ]
    policy = EndpointPolicy(server.url, model="m", native_tools=True)
    (episode,) = rollout("ToolQA-GSM8K-v0", policy, episodes=1, env_args={"format": "hermes"})
    policy.close()
    said, told = server.bodies[1]["messages"][-2:]
    function = {"name": "Calculator", "arguments": '{"expression": "6*7"}'}
    # The id is ours: a server's random one would make two runs of one seed differ.
    assert said["tool_calls"] == [{"id": "call_0", "type": "function", "function": function}]
    assert told["tool_call_id"] == "call_0"
    assert told["content"].startswith("42\nNote: tool call 1 was repaired: single quotes")
    assert episode.answer == "42"


def test_bad_arguments_and_use_after_close(server: Server) -> None:
    with pytest.raises(BadInputError, match="needs a model"):
        EndpointPolicy(server.url)
    with pytest.raises(BadInputError, match="begins with http"):
        EndpointPolicy("127.0.0.1:8000#m")
    with pytest.raises(BadInputError, match="retries at least 0"):
        EndpointPolicy(server.url, model="m", retries=-1)
    policy = EndpointPolicy(server.url, model="m")
    policy.close()
    policy.close()
    with pytest.raises(PolicyError, match="was closed"):
        policy.act([asked()])


@pytest.mark.parametrize("status", [408, 409, 500, 502, 529])
def test_a_status_that_means_later_is_tried_again(
    server: Server, policy: EndpointPolicy, status: int
) -> None:
    server.answers = [says("later", status), says(completion())]
    assert text(policy, asked()) == "Answer: yes"
    server.answers = [says("later", status)]
    assert "(4 tries)" in failed(policy, "server")


@pytest.mark.parametrize("asked_for", ["inf", "nan", "-5", "soon", "1e400000x"])
def test_a_time_that_is_none_is_no_time_to_wait(
    server: Server, policy: EndpointPolicy, asked_for: str
) -> None:
    server.answers = [says("slow down", 429, Retry_After=asked_for), says(completion())]
    assert text(policy, asked()) == "Answer: yes"
    assert server.times[1] - server.times[0] < 60


def test_a_server_that_asks_for_hours_is_given_up(server: Server, policy: EndpointPolicy) -> None:
    server.answers = [says("come tomorrow", 429, Retry_After="86400")]
    failed(policy, "rate_limit")
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_no_other_request(
    server: Server, policy: EndpointPolicy, status: int
) -> None:
    server.answers = [says("moved", status, Location="http://127.0.0.1:9/v1/elsewhere")]
    assert "redirects to 'http://127.0.0.1:9/v1/elsewhere'" in failed(policy, "refused")
    assert len(server.bodies) == 1


def floods(handler: BaseHTTPRequestHandler) -> None:
    """Sends text as fast as it is read, far beyond any bound."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(60_000_000))
    handler.end_headers()
    try:
        for _ in range(600):
            handler.wfile.write(b"x" * 100_000)
            handler.server.sent += 100_000  # type: ignore[attr-defined]
    except OSError:
        pass  # the client has gone, as it should
    handler.close_connection = True


def test_a_flood_is_not_read_to_its_end(server: Server) -> None:
    server.answers = [floods]
    server._server.sent = 0  # type: ignore[attr-defined]
    policy = EndpointPolicy(server.url, model="m", timeout=30.0)
    assert "more than 2,097,152 bytes" in failed(policy, "bad_reply")
    assert len(server.bodies) == 1
    assert server._server.sent < 30_000_000  # type: ignore[attr-defined]
    policy.close()


def test_a_compressed_reply_is_not_asked_for_but_read(
    server: Server, policy: EndpointPolicy
) -> None:
    def packed(handler: BaseHTTPRequestHandler) -> None:
        assert handler.headers["Accept-Encoding"] == "identity"
        raw = gzip.compress(json.dumps(completion()).encode())
        handler.send_response(200)
        for name, value in {"Content-Type": "application/json", "Content-Encoding": "gzip"}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    server.answers = [packed]
    assert text(policy, asked()) == "Answer: yes"


def test_nothing_said_is_asked_for_again(
    server: Server, policy: EndpointPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolgym.policies.endpoint._PAUSE", 0.01)
    server.answers = [says(completion(None)), says(completion())]
    assert text(policy, asked()) == "Answer: yes"
    server.answers = [says(completion(None, finish_reason="length"))]
    assert "neither text nor calls" in failed(policy, "bad_reply")
    assert len(server.bodies) == 2 + 4
    server.answers = [says(completion(None, refusal="I cannot help with that."))]
    assert text(policy, asked()) == "I cannot help with that."
    server.answers = [says(completion(""))]  # the model's own choice
    assert text(policy, asked()) == ""


def test_any_field_is_added_or_left_out(server: Server) -> None:
    more = {"max_completion_tokens": 9, "max_tokens": None, "seed": None, "stop": None}
    more |= {"chat_template_kwargs": {"enable_thinking": False}}
    policy = EndpointPolicy(server.url, model="m", extra_body=more)
    text(policy, asked())
    body = server.bodies[0]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["max_completion_tokens"] == 9
    assert not {"max_tokens", "seed", "stop"} & body.keys()
    assert policy.describe()["extra_body"] == more
    policy.close()
    policy = EndpointPolicy(server.url, model="m", max_tokens=None)
    text(policy, asked())
    assert "max_tokens" not in server.bodies[1]
    policy.close()
    with pytest.raises(BadInputError, match="extra_body is a mapping"):
        EndpointPolicy(server.url, model="m", extra_body=["seed"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("refusal", "status", "field"),
    [
        ({"error": {"message": "Unsupported parameter: 'seed' is not supported."}}, 400, "seed"),
        ({"error": {"message": "Unrecognized request argument supplied: top_p"}}, 400, "top_p"),
        (
            {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
            422,
            "seed",
        ),
        ({"error": {"message": "'temperature' does not support 1.0"}}, 400, "temperature"),
    ],
)
def test_what_a_server_does_not_know_is_left_out_with_a_warning(
    server: Server, policy: EndpointPolicy, refusal: Any, status: int, field: str
) -> None:
    server.answers = [says(refusal, status), says(completion())]
    with pytest.warns(RuntimeWarning, match=f"takes no {field} .*left out"):
        assert text(policy, asked()) == "Answer: yes"
    assert text(policy, asked()) == "Answer: yes"
    assert [field in body for body in server.bodies] == [True, False, False]


def test_the_newer_name_of_a_limit_is_learned(server: Server, policy: EndpointPolicy) -> None:
    words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    server.answers = [says({"error": {"message": words}}, 400), says(completion())]
    assert text(policy, asked()) == "Answer: yes"
    assert server.bodies[1]["max_completion_tokens"] == 512


def test_a_wrong_value_is_no_unknown_field(server: Server, policy: EndpointPolicy) -> None:
    words = "temperature must be at most 0.5; max_tokens is too large"
    server.answers = [says({"error": {"message": words}}, 400)]
    assert words in failed(policy, "refused")
    assert len(server.bodies) == 1


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A real server with a tiny model of random weights: its address, and the model's name."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    tokenizers, transformers = (
        pytest.importorskip(name) for name in ("tokenizers", "transformers")
    )
    folder = tmp_path_factory.mktemp("served")
    alphabet = ["\u0120", "\u010a", *map(chr, range(33, 127))]
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE({c: n for n, c in enumerate(alphabet)}, []))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_special_tokens(["<|pad|>", "<|end|>"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|end|>"
    )
    tokenizer.chat_template = (
        "{%- for m in messages %}{{- m.role + ': ' + m.content + '<|end|>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}"
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=48,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder)]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = (folder / "server.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=offline)
    try:
        _wait_for(port, process, folder / "server.log")
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")


@pytest.mark.slow
def test_an_episode_with_a_real_server(served: tuple[str, str]) -> None:
    url, model = served
    policy = EndpointPolicy(url, model=model, max_tokens=8, timeout=60.0, retries=1)
    env = gym.make("ToolQA-PopQA-v0", tools=["Calculator"], max_steps=2).unwrapped
    assert isinstance(env, ToolEnv)
    _, info = env.reset(seed=1)
    while not env.ended:
        request = Request(info["messages"], info["tools"], env.format, seed=5)
        _, _, _, _, info = env.step(text(policy, request))
    said = [step.action for step in env.trajectory.steps]
    unknown = EndpointPolicy(f"{url}#{model}-that-is-not-there", timeout=60.0, retries=0)
    refused = unknown.act([asked()])[0]
    unknown.close()
    policy.close()
    assert said
    assert any(said)
    assert isinstance(refused, EndpointError)
