"""A small MCP server without the SDK, which starts at once: python mcp_plain.py [WAY] [FILE]."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

WAY = sys.argv[1] if len(sys.argv) > 1 else ""
KEY = {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}
NAMES = ["keep", "kept", "who", "die", "sleep", "spawn", "odd/name", "refuse", "nonsense", "huge"]
memory: list[str] = []


def call(name: str, key: str) -> object:
    if name == "keep":
        memory.append(key)
    elif name == "die":
        sys.exit(key or 1)
    elif name == "sleep":
        time.sleep(float(key))
    elif name == "who":
        return text(f"{os.getpid()} {os.environ.get(key)}")
    elif name == "spawn":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        with open(key, "w") as stream:
            stream.write(f"{os.getpid()} {child.pid}")
    elif name == "refuse":
        return None
    elif name == "nonsense":
        return {"content": 5}
    elif name == "huge":
        os.write(1, b"x" * (17 << 20))
    return text(" ".join(memory) or "nothing")


def text(said: str) -> dict[str, object]:
    return {"content": [{"type": "text", "text": said}]}


def answer(method: str, asked: dict[str, object]) -> object:
    if method == "initialize":
        version = asked["protocolVersion"]
        about = {"name": "plain", "version": "1"}
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}
    if method == "tools/list":
        if WAY == "none":
            return {"tools": []}
        second = asked.get("cursor") == "5"  # in two pages
        names, more = (NAMES[5:], {}) if second else (NAMES[:5], {"nextCursor": "5"})
        return {"tools": [{"name": n, "description": n, "inputSchema": KEY} for n in names], **more}
    arguments = asked.get("arguments") or {}
    return call(str(asked["name"]), str(arguments["key"]))  # type: ignore[index]


if WAY == "broken":
    sys.exit("no configuration found")
if WAY == "silent":
    time.sleep(600)
if WAY == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if WAY == "shouting":
    print("starting ...", file=sys.stderr, flush=True)
if WAY == "noisy":
    print("starting ...", flush=True)
if len(sys.argv) > 2:  # who has been started
    with open(sys.argv[2], "a") as stream:
        stream.write(f"{os.getpid()}\n")
for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        found = answer(message["method"], message.get("params") or {})
        reply = {"jsonrpc": "2.0", "id": message["id"]}
        wrong = {"code": -32602, "message": "that key is not known"}
        print(json.dumps(reply | ({"error": wrong} if found is None else {"result": found})))
        sys.stdout.flush()
if WAY == "deaf":
    time.sleep(600)
