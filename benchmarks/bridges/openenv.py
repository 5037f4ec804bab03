"""Conformance of the bridge to OpenEnv: recorded episodes through its server and its client.

Run it with `make bridge-openenv`: OpenEnv has its own virtual environment.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn

from benchmarks.bridges.recorded import Recorded, Seen, conform, recorded
from toolgym.bridges.openenv import OpenEnvClient, TextAction, app

AT_ONCE = 32


@contextlib.contextmanager
def served(env: str, args: dict[str, Any]) -> Iterator[str]:
    """The address of OpenEnv's server for an environment, on loopback."""
    config = uvicorn.Config(app(env, args), host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def play(client: Any, episode: Recorded) -> Seen:
    """Play an episode through a client; its record on the server must be ours."""
    result = client.reset(task=episode.task, sample=episode.record.sample)
    opening, new, rewards, done = result.observation.messages, [], [], []
    for reply in episode.replies:
        result = client.step(TextAction(text=reply))
        new.append(result.observation.messages[1:])
        rewards.append(result.reward)
        done.append(result.done)
    assert clockless(client.state().trajectory) == clockless(episode.record.to_row()), episode.task
    return Seen(opening, new, rewards, done, sum(rewards))


def clockless(row: dict[str, Any] | None) -> dict[str, Any]:
    """A record without what differs between two plays of one episode: clocks and seed."""
    assert row is not None, "the server has no record of the episode"
    steps = [{**step, "seconds": 0} for step in row["steps"]]
    return {**row, "steps": steps, "seed": None}


def main() -> int:
    """Print what is equal and what is not; 1 where anything differs."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        episodes = recorded(Path(folder))
        worlds = {world(episode): episode for episode in episodes}
        addresses = {
            name: stack.enter_context(served(first.env, dict(first.args)))
            for name, first in worlds.items()
        }
        clients = {
            name: stack.enter_context(OpenEnvClient(base_url=address).sync())
            for name, address in addresses.items()
        }
        wrong = conform(
            "OpenEnv",
            "toolgym/bridges/openenv.py",
            lambda episode: play(clients[world(episode)], episode),
            episodes,
        )
        return wrong or at_once(addresses, episodes)


def world(episode: Recorded) -> str:
    """Which server plays an episode."""
    return f"{episode.env} {episode.args}"


def at_once(addresses: dict[str, str], episodes: list[Recorded]) -> int:
    """The same, many sessions at once, each with an episode of its own."""

    def session(episode: Recorded) -> bool:
        with OpenEnvClient(base_url=addresses[world(episode)]).sync() as client:
            return play(client, episode).reward == episode.record.reward

    with ThreadPoolExecutor(AT_ONCE) as pool:
        equal = sum(pool.map(session, episodes))
    print(f"  {AT_ONCE} sessions at once: {equal} of {len(episodes)} records and rewards equal")
    return int(equal < len(episodes))


if __name__ == "__main__":
    sys.exit(main())
