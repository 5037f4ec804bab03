"""A small stand-in for vLLM and SGLang: chat and completions, token ids, and outages at will."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

END = 3  # id of the token that ends a turn
SEARCH = "Thought: I look it up.\nAction: WikipediaSearch[Rabat]"
ANSWER = "Thought: I know it.\nAnswer: Rabat"


def rendered(messages: list[dict[str, Any]]) -> list[int]:
    """A conversation in ids, one a character; each turn's end is a token of its own."""
    ids: list[int] = []
    for chat in messages:
        ids += [*map(ord, f"{chat['role']}: {chat['content']}"), END]
    return [*ids, *map(ord, "assistant: ")]


def turn_of(body: dict[str, Any]) -> int:
    """How many replies a request's conversation holds."""
    if "messages" in body:
        return sum(chat["role"] == "assistant" for chat in body["messages"])
    return int("".join(map(chr, body["prompt"])).count("Thought: I look"))


class ModelServer:
    """Two searches and an answer, in the shape of one kind of server.

    Args:
        kind: ``vllm``, ``sglang`` (new), ``sglang-meta`` (0.5.13), or ``plain``, without ids.
        say: text of a turn; default: two searches and an answer.
        encode: text to ids; default: one a character, and the end.
        message: further fields of each message.
    """

    def __init__(
        self,
        kind: str = "plain",
        *,
        say: Callable[[int], str] = lambda turn: SEARCH if turn < 2 else ANSWER,
        encode: Callable[[str], list[int]] = lambda text: [*map(ord, text), END],
        message: dict[str, Any] | None = None,
        latency: float = 0.0,
        port: int = 0,
        name: str = "m",
    ) -> None:
        self.kind, self.say, self.encode, self.message = kind, say, encode, message or {}
        self.latency, self.name = latency, name
        self.status = 200
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.running = self.most = 0
        self.port = port
        self._lock = threading.Lock()
        self.start()

    def start(self) -> None:
        """Listen; at the same port as before."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                raw = json.dumps({"data": [{"id": owner.name}]}).encode()
                self.send_response(200 if self.path == "/v1/models" else 404)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with owner._lock:
                    owner.bodies.append(body)
                    owner.paths.append(self.path)
                    owner.running += 1
                    owner.most = max(owner.most, owner.running)
                time.sleep(owner.latency)
                raw = json.dumps(owner.answer(body)).encode()
                with owner._lock:
                    owner.running -= 1
                self.send_response(owner.status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def wrap(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """A completion for a body."""
        text = self.say(turn_of(body))
        ids = self.encode(text)
        chosen: dict[str, Any] = {"index": 0, "finish_reason": "stop", "stop_reason": None}
        whole: dict[str, Any] = {"id": "1", "created": 1, "model": "m", "choices": [chosen]}
        chat = "messages" in body
        if chat:
            chosen["message"] = {"role": "assistant", "content": text, **self.message}
        else:
            chosen["text"] = text
        if body.get("logprobs") and self.kind != "plain":
            each = [-0.5 - i / 100 for i in range(len(ids))]
            listed = {"content": [{"token": "x", "logprob": one} for one in each]}
            chosen["logprobs"] = listed if chat else {"token_logprobs": each}
        prompt = rendered(body["messages"]) if chat else body["prompt"]
        if self.kind == "vllm" and body.get("return_token_ids"):
            (whole if chat else chosen)["prompt_token_ids"] = prompt
            chosen["token_ids"] = ids
        if self.kind == "sglang" and body.get("return_token_ids"):
            chosen |= {"prompt_token_ids": prompt, "token_ids": ids}
        if self.kind == "sglang-meta":
            del chosen["logprobs"]
            measured = [[-0.5 - i / 100, one, None] for i, one in enumerate(ids)]
            chosen["meta_info"] = {"output_token_logprobs": measured}
            chosen["prompt_token_ids"] = prompt if body["return_prompt_token_ids"] else None
        return whole

    def end(self) -> None:
        """Listen no more."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
