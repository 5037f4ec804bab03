"""A stand-in for OpenAI's and Anthropic's services: one call, then the answer, over real HTTP."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ARGUMENTS = {"expression": "6*7"}


class ChatService:
    """Speaks ``/v1/chat/completions`` and ``/v1/messages``.

    Args:
        refuse: names of fields that are refused with status 400.
    """

    def __init__(self, refuse: tuple[str, ...] = ()) -> None:
        self.refuse, self.bodies, self.status = refuse, list[dict[str, Any]](), 200
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.bodies.append(body)
                status, said = owner.answer(self.path, body)
                raw = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.root = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self) -> ChatService:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body for a request."""
        refused = [name for name in self.refuse if name in body]
        if self.status != 200:
            return self.status, {"error": {"message": "not now", "type": "error"}}
        if refused:
            return 400, {"error": {"message": f"Unsupported parameter: {refused[0]!r}"}}
        native = bool(body.get("tools"))
        turn = sum(chat["role"] == "assistant" for chat in body["messages"])
        call = turn == 0
        text = "" if call and native else "Action: Calculator[6*7]" if call else "Answer: 42"
        if path == "/v1/messages":
            return 200, self._message(text, call and native)
        message: dict[str, Any] = {"role": "assistant", "content": text or None}
        if call and native:
            function = {"name": "Calculator", "arguments": json.dumps(ARGUMENTS)}
            message["tool_calls"] = [{"id": "c1", "type": "function", "function": function}]
        finish = "tool_calls" if call and native else "stop"
        choice = {"index": 0, "message": message, "finish_reason": finish}
        usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
        whole = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        return 200, {**whole, "choices": [choice], "usage": usage}

    @staticmethod
    def _message(text: str, call: bool) -> dict[str, Any]:
        parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
        if call:
            parts += [{"type": "tool_use", "id": "c1", "name": "Calculator", "input": ARGUMENTS}]
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": parts,
            "stop_reason": "tool_use" if call else "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 9, "output_tokens": 5},
        }
