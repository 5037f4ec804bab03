"""Whether anything of one episode is ever seen in another one, on every way of playing several.

``python benchmarks/interleaved.py --episodes 100000`` plays as many episodes, a quarter each by a
gymnasium vector, threads, steps that are made together, and the adapter for TRL's own loop. Each
tells its session a secret of its own, other episodes play in between, and then the session has to
tell that secret and no other; the recorded state, too. A share of them (``--processes``) lives in
processes of their own, as sessions do that are not declared inline. Ends with 1 if one was seen
elsewhere.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym

from toolgym import Rubric, Task, TaskSet, ToolCall, ToolEnv, ToolSession, Toolset, get_format, tool
from toolgym.formats import Action
from toolgym.training.trl_environment import trl_environment
from toolgym.vector import step_together

CODEC = get_format("hermes")
TASKS = TaskSet([Task("t", "Keep a secret.", ("yes",))], source="secrets")
TOGETHER = 50


class Safe(ToolSession):
    """Keeps what it is told, and tells all of it."""

    def __init__(self, task: Task) -> None:
        self.kept: list[str] = []

    @tool
    def keep(self, secret: str) -> int:
        """Keep a secret."""
        self.kept.append(secret)
        return len(self.kept)

    @tool
    def tell(self) -> str:
        """Tell all that was kept."""
        return " ".join(self.kept)


class InlineSafe(Safe):
    """The same in the process of the environment."""

    inline = True


def make(inline: bool = True, **_: Any) -> ToolEnv:
    """An environment with the session."""
    session = InlineSafe if inline else Safe
    return ToolEnv(TASKS, Toolset([session]), CODEC, Rubric({"accuracy": 1.0}), max_steps=5)


def _call(name: str, **arguments: str) -> str:
    return CODEC.write(Action("", (ToolCall("c", name, arguments),)))


ANSWER = CODEC.write(Action("", (), "yes"))


class Secrets:
    """Makes secrets, and counts what came back wrong."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.episodes, self.wrong = 0, list[str]()

    def new(self, count: int) -> list[str]:
        """As many, none like another."""
        return [f"{self._random.getrandbits(64):016x}" for _ in range(count)]

    def check(self, secret: str, told: str, state: Any) -> None:
        """Compare what an episode said with what it was told."""
        self.episodes += 1
        if told != secret or state != {"kept": [secret]}:
            self.wrong.append(f"{secret} became {told!r}, {state!r}")


def by_vector(secrets: Secrets, inline: bool, count: int) -> None:
    """A gymnasium vector, whose episodes begin anew by themselves."""
    gym.register("Safe-v0", make, vector_entry_point=None, kwargs={"inline": inline})
    vector = gym.make_vec("Safe-v0", num_envs=TOGETHER, vectorization_mode="sync")
    envs: list[ToolEnv] = [env.unwrapped for env in vector.envs]  # type: ignore[attr-defined]
    while secrets.episodes < count:
        vector.reset(seed=secrets.episodes)
        own = secrets.new(TOGETHER)
        vector.step([_call("keep", secret=secret) for secret in own])
        vector.step([_call("tell")] * TOGETHER)
        for env, secret in zip(envs, own, strict=True):
            _look(secrets, env, secret)
        vector.step([ANSWER] * TOGETHER)
    vector.close()
    del gym.registry["Safe-v0"]


def _look(secrets: Secrets, env: ToolEnv, secret: str) -> None:
    record = env.trajectory
    secrets.check(secret, record.steps[-1].results[0].content, record.state)


def by_threads(secrets: Secrets, inline: bool, count: int) -> None:
    """Sixteen threads, each with an environment of its own."""

    def play(own: Sequence[str]) -> None:
        env = make(inline)
        for secret in own:
            env.reset()
            env.step(_call("keep", secret=secret))
            env.step(_call("tell"))
            _look(secrets, env, secret)
        env.close()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(play, [secrets.new(TOGETHER) for _ in range(count // TOGETHER)]))


def by_batch(secrets: Secrets, inline: bool, count: int) -> None:
    """Steps that are made together, in an order that is drawn anew each time."""
    envs = [make(inline) for _ in range(TOGETHER)]
    shuffled = random.Random(0)
    while secrets.episodes < count:
        own = dict(zip(map(id, envs), secrets.new(TOGETHER), strict=True))
        for env in envs:
            env.reset()
        for reply in ("keep", "tell"):
            shuffled.shuffle(envs)
            said = [
                _call(reply, **({"secret": own[id(e)]} if reply == "keep" else {})) for e in envs
            ]
            step_together(envs, said)
        for env in envs:
            _look(secrets, env, own[id(env)])
    for env in envs:
        env.close()


def by_trl(secrets: Secrets, inline: bool, count: int) -> None:
    """The instances that TRL's own loop calls, begun again and again."""
    world = trl_environment(make(inline))
    factory: Any = world.environment_factory
    places = [factory() for _ in range(TOGETHER)]
    reward = world.reward_funcs[0]
    while secrets.episodes < count:
        own = secrets.new(TOGETHER)
        for place in places:
            place.reset(task="t")
        for place, secret in zip(places, own, strict=True):
            place.keep(secret=secret)
        told = [place.tell() for place in places]
        chats = [_chats(secret, text) for secret, text in zip(own, told, strict=True)]
        prompts = [world.rows[0]["prompt"]] * TOGETHER
        reward(prompts=prompts, completions=chats, environments=places)
        for place, secret, text in zip(places, own, told, strict=True):
            secrets.check(secret, text, place.trajectory.state)


def _chats(secret: str, told: str) -> list[dict[str, Any]]:
    calls: list[tuple[str, dict[str, str], str]] = [
        ("keep", {"secret": secret}, "1"),
        ("tell", {}, told),
    ]
    chats: list[dict[str, Any]] = []
    for name, arguments, text in calls:
        function = {"name": name, "arguments": arguments}
        chats.append({"role": "assistant", "content": "", "tool_calls": [{"function": function}]})
        chats.append({"role": "tool", "name": name, "content": text})
    return [*chats, {"role": "assistant", "content": "Answer: yes"}]


WAYS: dict[str, Callable[[Secrets, bool, int], None]] = {
    "vector": by_vector,
    "threads": by_threads,
    "together": by_batch,
    "trl": by_trl,
}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument(
        "--processes", type=float, default=0.02, help="share in processes of their own"
    )
    given = parser.parse_args()
    seen = 0
    for where, share in (("inline", 1 - given.processes), ("process", given.processes)):
        for name, play in WAYS.items():
            count = round(given.episodes * share / len(WAYS) / TOGETHER) * TOGETHER
            secrets, began = Secrets(seen), time.perf_counter()
            play(secrets, where == "inline", count)
            seconds = time.perf_counter() - began
            print(
                json.dumps(
                    {
                        "way": name,
                        "session": where,
                        "episodes": secrets.episodes,
                        "seen elsewhere": len(secrets.wrong),
                        "microseconds an episode": round(1e6 * seconds / max(1, secrets.episodes)),
                    }
                ),
                flush=True,
            )
            for line in secrets.wrong[:3]:
                print(line, file=sys.stderr)
            seen += len(secrets.wrong)
    return min(seen, 1)


if __name__ == "__main__":
    sys.exit(main())
