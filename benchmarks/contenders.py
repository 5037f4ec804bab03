"""GEM's and SkyRL-gym's tool environments, and the retrieval server that both are made to ask.

For `env_step.py`. Neither has to be installed; what is not there is left out.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any, ClassVar

from toolgym.tools.search.tool import open_corpus


@dataclass
class Contender:
    """One environment and what is played in it.

    Args:
        name: for the table.
        play: plays an episode of two replies: yields after the reset, the tool's step (its
            observation) and the answer's step.
        replies: of each episode.
        wanted: what the first observation must hold.
        width: environments that step together.
        best: microseconds of reset, tool step and answer step, in the best pass so far.
    """

    name: str
    play: Callable[[str, str], Iterator[Any]]
    replies: list[tuple[str, str]]
    wanted: str
    width: int = 1
    best: list[float] = field(default_factory=lambda: [float("inf")] * 3)

    def check(self) -> None:
        """See that the tool answers; also warms everything up."""
        observation = str(list(self.play(*self.replies[0]))[1])
        if self.wanted not in observation:
            raise SystemExit(f"{self.name}: no {self.wanted!r} in {observation!r:.300}")

    def measure(self) -> None:
        """One pass; of each part the median over the episodes."""
        spent: list[list[float]] = [[], [], []]
        clock = time.perf_counter
        for call, answer in self.replies:
            episode, began = self.play(call, answer), clock()
            for part in range(3):
                next(episode)
                now = clock()
                spent[part].append(now - began)
                began = now
        scale = 1e6 / self.width
        medians = [statistics.median(seconds) * scale for seconds in spent]
        self.best = [min(old, new) for old, new in zip(self.best, medians, strict=True)]


class Retrieval(BaseHTTPRequestHandler):
    """The search server that both peers are made for, each with its own encoding."""

    index: ClassVar[Any] = None
    protocol_version = "HTTP/1.1"
    # Without this, small answers wait for the client's delayed acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and answer in one packet

    def do_POST(self) -> None:
        """One query: JSON for SkyRL-gym, msgpack for GEM."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        packed = self.path == "/packed"
        if packed:
            import msgspec

            asked = msgspec.msgpack.decode(body)
        else:
            asked = json.loads(body)
        hits = self.index.search(asked["query"], asked["topk"])
        rows = [{"document": {"contents": str(hit.passage)}, "score": hit.score} for hit in hits]
        if packed:
            data = msgspec.msgpack.encode({"result": rows})
        else:
            data = json.dumps({"result": [rows]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def serve(corpus: str, pipe: Connection) -> None:
    """The server's process: sends its port and answers until it is ended."""
    Retrieval.index = open_corpus(corpus)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Retrieval)
    pipe.send(server.server_port)
    server.serve_forever()


@contextlib.contextmanager
def retrieval_server(corpus: str) -> Iterator[int]:
    """The port of a running server."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(corpus, there), daemon=True)
    process.start()
    there.close()
    try:
        yield here.recv()
    finally:
        process.kill()
        process.join()


def round_trip(port: int, queries: list[str], passes: int) -> float:
    """Microseconds of a query and its answer over a kept connection, nothing else."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def ask(query: str, _: str) -> Iterator[None]:
        yield
        connection.request("POST", "/json", json.dumps({"query": query, "topk": 1}))
        json.loads(connection.getresponse().read())
        yield
        yield

    bare = Contender("bare round trip over HTTP", ask, [(query, "") for query in queries], "")
    for _ in range(passes):
        bare.measure()
    return bare.best[1]


def gem(tool: Any, calls: list[str], golds: list[str], wanted: str) -> Contender:
    """GEM's question answering with one of its tools."""
    import datasets
    from gem.envs.qa_env import QaEnv
    from gem.tools.tool_env_wrapper import ToolEnvWrapper

    datasets.disable_progress_bars()
    # So many rows that its data set is not shuffled again in the middle of a measurement.
    rows = [{"question": "Question", "answer": golds[n % len(golds)]} for n in range(5_000)]
    inner = QaEnv(dataset=datasets.Dataset.from_list(rows), load_from_cache_file=False)
    env = ToolEnvWrapper(inner, tools=[tool])

    def play(call: str, answer: str) -> Iterator[Any]:
        inner.idx %= len(rows) - 1
        yield env.reset()
        yield env.step(call)[0]
        yield env.step(f"<answer>{inner.answer}</answer>")

    return Contender("GEM", play, [(call, "") for call in calls], wanted)


def skyrl(
    make: Callable[[dict[str, Any]], Any], calls: list[str], golds: list[str], wanted: str
) -> Contender:
    """One of SkyRL-gym's environments; a new object is its reset."""
    endings = itertools.cycle(golds)

    def play(call: str, answer: str) -> Iterator[Any]:
        truth = {"target": [next(endings)]}
        env = make({"reward_spec": {"ground_truth": truth}, "max_turns": 4})
        yield env.init([{"role": "user", "content": "Question"}])
        yield env.step(call)["observations"]
        yield env.step(answer)

    tags = "solution" if "<tool>" in calls[0] else "answer"
    replies = [(call, f"<{tags}>{gold}</{tags}>") for call, gold in zip(calls, golds, strict=True)]
    return Contender("SkyRL-gym", play, replies, wanted)


def peers(
    queries: list[str], golds: list[str], wanted: str, code: str | None, port: int
) -> Iterator[Contender]:
    """The peers that are installed, with search, or with Python when there is code to run."""
    with contextlib.suppress(ImportError):
        from gem.tools.python_code_tool import PythonCodeTool
        from gem.tools.search_tool import SearchTool

        url = f"http://127.0.0.1:{port}/packed"
        tool = PythonCodeTool() if code else SearchTool(search_url=url, topk=1)
        texts = [f"<python>{code}</python>" if code else f"<search>{q}</search>" for q in queries]
        yield gem(tool, texts, golds, wanted)
    with contextlib.suppress(ImportError):
        from skyrl_gym.envs.search.env import SearchEnv, SearchEnvConfig
        from skyrl_gym.envs.searchcode.env import SearchCodeEnv

        config = SearchEnvConfig(search_url=f"http://127.0.0.1:{port}/json", topk=1)
        texts = [
            f"<tool><python>{code}</python></tool>" if code else f"<search>{q}</search>"
            for q in queries
        ]
        yield skyrl(
            (lambda extras: SearchCodeEnv(None, extras))
            if code
            else (lambda extras: SearchEnv(config, extras)),
            texts,
            golds,
            wanted,
        )
