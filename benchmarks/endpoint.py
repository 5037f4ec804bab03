"""Episodes through a model server of known latency: how close a rollout comes to the limit.

The server answers each request after the same time, in a process of its own; four turns an episode,
the last one the answer. The limit is what episodes at once, turns and latency allow; the ratio is
the time taken over it. CPU is that of this process alone, environment, tools, threads and record
included: on a machine with other work it says more than the clock. `scripted` is the same episodes
without any request.

    python benchmarks/endpoint.py [--latency 0.2] [--rounds 2] [--at-once 64 256]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

from toolgym import rollout
from toolgym.policies import Policy, Reply, Request
from toolgym.policies.completions import body_of, reply_of
from toolgym.policies.endpoint import EndpointPolicy
from toolgym.policies.scripted import ScriptedPolicy

TURNS = 4
SEARCH = "Thought: I look it up.\nAction: WikipediaSearch[capital of Morocco]"
ANSWER = "Thought: I know it.\nAnswer: Rabat"


class Served(asyncio.Protocol):
    """A connection whose requests are answered `latency` seconds after their last byte has come.

    It counts turns in the bytes and has its two answers ready: what a server takes for itself would
    be added to the latency.
    """

    def __init__(self, latency: float, answers: list[bytes]) -> None:
        self._latency, self._answers, self._data = latency, answers, b""

    def connection_made(self, transport: Any) -> None:
        """Where to answer."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a request once it is whole."""
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
        if len(body) < length:
            return
        turn = body.count(b'"role": "assistant"') + body.count(b'"role":"assistant"')
        self._data = b""
        loop = asyncio.get_running_loop()
        loop.call_later(self._latency, self._transport.write, self._answers[turn >= TURNS - 1])


async def serve(latency: float) -> None:
    """Answer chat completions after `latency` seconds."""
    answers = []
    for text in (SEARCH, ANSWER):
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        data = json.dumps({**whole, "choices": [choice]}).encode()
        told = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d"
        answers.append(told % len(data) + b"\r\n\r\n" + data)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Served(latency, answers), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


class ClientPolicy(Policy):
    """A client library in a thread with an event loop, as `EndpointPolicy` has one."""

    def __init__(self, library: str, url: str) -> None:
        self._loop, self._library, self._url = asyncio.new_event_loop(), library, url
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._client = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    async def _open(self) -> Any:
        if self._library == "openai":
            import openai

            return openai.AsyncOpenAI(base_url=self._url, api_key="none")
        import httpx2

        limits = httpx2.Limits(max_connections=1024, max_keepalive_connections=1024)
        return httpx2.AsyncClient(limits=limits, timeout=60.0)

    def act(self, requests: list[Request]) -> list[Reply | Exception]:
        """Ask for each."""
        asked = [asyncio.run_coroutine_threadsafe(self._one(r), self._loop) for r in requests]
        return [future.result() for future in asked]

    async def _one(self, request: Request) -> Reply:
        body = body_of(request, "m", {"temperature": 1.0, "max_tokens": 512}, native_tools=False)
        if self._library == "openai":
            completion = await self._client.chat.completions.create(**body)
            return reply_of(completion.model_dump(), request)
        response = await self._client.post(f"{self._url}/chat/completions", json=body)
        return reply_of(response.json(), request)

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"policy": self._library}


def measured(policy: Policy, episodes: int, at_once: int) -> tuple[float, float]:
    """Seconds, and milliseconds of CPU a request, of so many episodes."""
    settings = {"env_args": {"max_steps": TURNS}, "samples_per_task": 100, "concurrency": at_once}
    rollout("ToolQA-PopQA-v0", policy, episodes=at_once, seed=1, **settings)  # opens connections
    cpu, began = time.process_time(), time.perf_counter()
    run = rollout("ToolQA-PopQA-v0", policy, episodes=episodes, **settings)
    spent, cpu = time.perf_counter() - began, time.process_time() - cpu
    turns = sum(len(trajectory.steps) for trajectory in run.trajectories())
    assert turns == episodes * TURNS, f"{turns} turns of {episodes * TURNS}: {run.failures()[:1]}"
    return spent, 1000 * cpu / turns


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds of one request")
    parser.add_argument("--rounds", type=int, default=2, help="of everything, in turn")
    parser.add_argument("--at-once", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--clients", nargs="+", default=["ours", "httpx2", "openai", "scripted"])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.latency))
        return
    command = [sys.executable, __file__, "--serve", "--latency", str(given.latency)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
    makers: dict[str, Any] = {
        "ours": lambda: EndpointPolicy(url, model="m"),
        "scripted": lambda: ScriptedPolicy([SEARCH] * (TURNS - 1) + [ANSWER]),
    }
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    try:
        for _ in range(given.rounds):
            for at_once in given.at_once:
                for name in given.clients:
                    policy = makers.get(name, lambda name=name: ClientPolicy(name, url))()
                    one = measured(policy, 4 * at_once, at_once)
                    policy.close()
                    found.setdefault((name, at_once), []).append(one)
    finally:
        server.terminate()
        server.wait()
    limit = 4 * TURNS * given.latency
    head = ("client", "at once", "seconds", "times the limit", "ms CPU a request")
    print("{:10}{:>8}{:>9}{:>24}{:>22}".format(*head))
    for (name, at_once), all_of in found.items():
        seconds, cpu = zip(*all_of, strict=True)
        ratios = sorted(spent / limit for spent in seconds)
        middle = statistics.median(ratios)
        shown = f"{middle:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        used = f"{statistics.median(cpu):.2f} ({min(cpu):.2f} to {max(cpu):.2f})"
        print(f"{name:10}{at_once:8}{statistics.median(seconds):9.2f}{shown:>24}{used:>22}")


if __name__ == "__main__":
    main()
