"""Microseconds a step of a search episode: ours beside SkyRL-gym's search environment.

Usage: python benchmarks/env_step.py [--episodes 300] [--corpus sample]

Both play the same scripted episodes (one search, one answer) over the same index. SkyRL-gym's
environment asks a retrieval server over HTTP, as it is made to; here that server is a thread over
our index, so that the difference is the environments' own. The peer is optional:
pip install skyrl-gym omegaconf requests
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import gymnasium as gym

import toolgym  # noqa: F401 - registers the environments
from toolgym.tools.search import open_corpus


def measure(episodes: list[tuple[str, str]], play: Callable[[str, str], None]) -> float:
    """Microseconds a step, best of three passes; two steps an episode."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        for query, answer in episodes:
            play(query, answer)
        best = min(best, time.perf_counter() - began)
    return best / (2 * len(episodes)) * 1e6


def ours(episodes: list[tuple[str, str]], corpus: str, vector: int = 0) -> float:
    """Our environment, alone or as a vector; without the result cache, since queries come again."""
    arguments: dict[str, Any] = {"format": "tags", "corpus": corpus, "service": {"cache": False}}
    if vector:
        vectors = gym.make_vec("ToolQA-PopQA-v0", num_envs=vector, **arguments)
        vectors.reset(seed=0)
        began = time.perf_counter()
        for query, answer in episodes:
            vectors.step((f"<search>{query}</search>",) * vector)
            vectors.step((f"<answer>{answer}</answer>",) * vector)
            vectors.step(("",) * vector)  # the autoreset step
        return (time.perf_counter() - began) / (2 * vector * len(episodes)) * 1e6
    env = gym.make("ToolQA-PopQA-v0", **arguments)

    def play(query: str, answer: str) -> None:
        env.reset()
        env.step(f"<search>{query}</search>")
        env.step(f"<answer>{answer}</answer>")

    return measure(episodes, play)


class Retrieval(BaseHTTPRequestHandler):
    """Answers SkyRL-gym's search requests from our index."""

    index: ClassVar[Any] = None
    protocol_version = "HTTP/1.1"
    # Without this, small answers wait for the client's delayed acknowledgement.
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """One query."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        hits = self.index.search(body["query"], body["topk"])
        rows = [{"document": {"contents": str(hit.passage)}, "score": hit.score} for hit in hits]
        data = json.dumps({"result": [rows]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def skyrl(episodes: list[tuple[str, str]], corpus: str) -> float | None:
    """SkyRL-gym's environment, or None when it is not installed."""
    try:
        from skyrl_gym.envs.search.env import SearchEnv, SearchEnvConfig
    except ImportError:
        return None
    Retrieval.index = open_corpus(corpus)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Retrieval)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/retrieve"
    config = SearchEnvConfig(search_url=url, topk=1)

    def play(query: str, answer: str) -> None:
        extras = {"reward_spec": {"ground_truth": {"target": [answer]}}, "max_turns": 4}
        env = SearchEnv(config, extras)
        env.init([{"role": "user", "content": "Question"}])
        env.step(f"<search>{query}</search>")
        env.step(f"<answer>{answer}</answer>")

    try:
        return measure(episodes, play)
    finally:
        server.shutdown()


def main() -> None:
    """Run both and print a ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--corpus", default="sample")
    options = parser.parse_args()
    tasks = gym.make("ToolQA-PopQA-v0").unwrapped.tasks  # type: ignore[attr-defined]
    episodes = [(t.metadata["subj"], t.target) for t in list(tasks)[: options.episodes]]
    mine = ours(episodes, options.corpus)
    print(f"toolgym, one environment     {mine:8.1f} us a step")
    print(f"toolgym, vector of 16        {ours(episodes, options.corpus, 16):8.1f} us a step")
    peer = skyrl(episodes, options.corpus)
    if peer is None:
        print("skyrl-gym                    not installed")
    else:
        print(f"skyrl-gym over local HTTP    {peer:8.1f} us a step, {peer / mine:.1f} times ours")


if __name__ == "__main__":
    main()
