"""Microseconds of an environment step: ours beside GEM's and SkyRL-gym's tool environments.

    python benchmarks/env_step.py [--episodes 200] [--passes 5] [--corpus sample]

An episode is a reset, a step with one tool call and a step with the answer, over the same queries,
gold answers and index everywhere. A step of ours is the whole of ``env.step`` behind the wrappers
of ``gym.make``: the reply is parsed, arguments are checked, the tool runs, the reward is computed,
the step is recorded. The result cache is off, since queries come again in each pass.

- Search: ours runs in the process. The peers' environments are made to ask a retrieval server over
  HTTP; here it answers from our index, in a process of its own. SkyRL-gym keeps its connection,
  GEM opens one a call, as they are made. The bare round trip with a kept connection stands beside
  them: what is above it is the peer's own.
- Calculator: the peers' tool for it is Python, a fresh interpreter a call.
- A function that a model wrote: ours stands in the sandbox and is called by its document, each
  call in a jailed process of its own; the peers' Python tool is sent its source in every call and
  runs it without isolation.

Passes of all contenders are interleaved; each figure is the median of a pass, the best one of all
passes. The peers are optional:
pip install gem-llm skyrl-gym omegaconf datasets
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
from contenders import Contender, peers, retrieval_server, round_trip

from toolgym import Rubric, Task, TaskSet, ToolEnv, Toolset, get_format
from toolgym.envs.toolscenario.tool import make_tools
from toolgym.formats import Action
from toolgym.messages import ToolCall
from toolgym.tools.search.tool import open_corpus

ENV = "ToolQA-PopQA-v0"
FORMATS = ("react", "tags", "hermes", "llama3")
VECTOR = 16
EXPRESSION, VALUE = "12*34+5", "413"
SOURCE = '''
import datetime

RATES = {"LHR": 120.0, "JFK": 210.5}

def book(origin, passengers, day):
    """Book seats and say what they cost."""
    total = 0.0
    for person in passengers:
        total += RATES.get(origin, 50.0) * (0.5 if person["age"] < 12 else 1.0)
    leaves = datetime.date.fromisoformat(day) + datetime.timedelta(days=1)
    return {"status": "ok", "total": round(total, 2), "arrives": leaves.isoformat()}
'''
PASSENGERS = [{"name": "Ann", "age": 33}, {"name": "Bob", "age": 7}]
BOOKING = {"origin": "LHR", "passengers": PASSENGERS, "day": "2024-02-28"}
BOOKED = "2024-02-29"
DOCUMENT = {
    "name": "book",
    "description": "Book seats on a flight.",
    "parameters": {
        "type": "object",
        "properties": {
            "origin": {"type": "string", "description": "Code of the airport."},
            "passengers": {"type": "array", "items": {"type": "object"}},
            "day": {"type": "string", "description": "Of departure, such as 2024-02-28."},
        },
        "required": ["origin", "passengers", "day"],
    },
}


def make_booking(format: str) -> ToolEnv:
    """An environment with one tool made of a document and a model's code, as scenarios are."""
    tools = Toolset(make_tools([DOCUMENT], {"book": SOURCE}), cache=False)
    tasks = TaskSet([Task("t", "When do Ann and Bob arrive?", (BOOKED,))], source="benchmark")
    return ToolEnv(tasks, tools, get_format(format), Rubric({"accuracy": 1.0}))


def ours(
    name: str, env: Any, format: str, calls: list[ToolCall], golds: list[str], wanted: str
) -> Contender:
    """One of our environments, alone or as a vector, playing these calls and answers."""
    codec = get_format(format)
    width = getattr(env, "num_envs", 1)
    first = env.envs[0] if width > 1 else env
    schemas = first.unwrapped.toolset.schemas()

    def written(action: Action) -> Any:
        text = codec.write(action, schemas)
        return (text,) * width if width > 1 else text

    def play(call: Any, answer: Any) -> Iterator[Any]:
        yield env.reset()
        yield env.step(call)[0]
        yield env.step(answer)

    replies = [
        (written(Action("", (call,))), written(Action("", (), gold)))
        for call, gold in zip(calls, golds, strict=True)
    ]
    return Contender(name, play, replies, wanted, width)


def table(title: str, contenders: list[Contender]) -> None:
    """Microseconds, and how much longer each takes than our default format."""
    print(f"\n{title:32}{'reset':>10}{'tool step':>12}{'answer step':>13}{'times ours':>12}")
    for contender in contenders:
        reset, tool, answer = contender.best
        ratio = tool / contenders[0].best[1]
        print(f"{contender.name:32}{reset:10.1f}{tool:12.1f}{answer:13.1f}{ratio:12.1f}")


def compare(title: str, contenders: list[Contender], passes: int) -> None:
    """Play all of them in turn and print their table."""
    for contender in contenders:
        contender.check()
    for _ in range(passes):
        for contender in contenders:
            contender.measure()
    table(title, contenders)


def made(format: str, width: int = 1, **arguments: Any) -> Any:
    """Our question answering, alone or as a vector."""
    arguments |= {"format": format, "service": {"cache": False}}
    if width > 1:
        return gym.make_vec(ENV, num_envs=width, **arguments)
    return gym.make(ENV, **arguments)


def search(episodes: list[tuple[str, str]], corpus: str, passes: int) -> None:
    """The first table."""
    index = open_corpus(corpus)
    found = [episode for episode in episodes if index.search(episode[0], 1)]
    queries, golds = map(list, zip(*found, strict=True))
    calls = [ToolCall("", "WikipediaSearch", {"query": query}) for query in queries]
    # A word that no peer writes differently.
    wanted = max(re.findall("[A-Za-z]+", str(index.search(queries[0], 1)[0].passage)), key=len)
    contenders = [
        ours(f"toolgym, {codec}", made(codec, corpus=corpus), codec, calls, golds, wanted)
        for codec in FORMATS
    ]
    vector = made("react", VECTOR, corpus=corpus)
    contenders.append(ours(f"toolgym, vector of {VECTOR}", vector, "react", calls, golds, wanted))
    with retrieval_server(corpus) as port:
        contenders += peers(queries, golds, wanted, None, port)
        compare("search, microseconds", contenders, passes)
        print(f"{'bare round trip over HTTP':42}{round_trip(port, queries, passes):12.1f}")


def calculator(golds: list[str], passes: int) -> None:
    """The second table."""
    calls = [ToolCall("", "Calculator", {"expression": EXPRESSION})] * len(golds)
    contenders = [
        ours(f"toolgym, {codec}", made(codec), codec, calls, golds, VALUE) for codec in FORMATS
    ]
    vector = made("react", VECTOR)
    contenders.append(ours(f"toolgym, vector of {VECTOR}", vector, "react", calls, golds, VALUE))
    few = golds[: max(5, len(golds) // 20)]  # a fresh interpreter a call takes its time
    contenders += peers(few, few, VALUE, f"print({EXPRESSION})", 0)
    compare("calculator, microseconds", contenders, passes)


def scenario(golds: list[str], passes: int) -> None:
    """The third table."""
    gym.register("Booking-v0", entry_point=make_booking)
    calls = [ToolCall("", "book", BOOKING)] * len(golds)
    contenders = []
    for codec in FORMATS:
        env = gym.make("Booking-v0", format=codec)
        contenders.append(ours(f"toolgym, {codec}, sandboxed", env, codec, calls, golds, BOOKED))
    few = golds[: max(5, len(golds) // 20)]
    contenders += peers(few, few, BOOKED, f"{SOURCE}\nprint(book(**{BOOKING!r}))", 0)
    compare("a model's function, microseconds", contenders, passes)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--corpus", default="sample")
    options = parser.parse_args()
    logging.disable(logging.INFO)  # GEM switches it on, then SkyRL-gym writes a line an episode
    tasks = gym.make(ENV).unwrapped.tasks  # type: ignore[attr-defined]
    episodes = [(t.metadata["subj"], t.target) for t in list(tasks)[: options.episodes]]
    golds = [gold for _, gold in episodes]
    search(episodes, options.corpus, options.passes)
    # The peers start the `python` that they find: this one, with no start script before it.
    os.environ["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # GEM writes here
        calculator(golds, options.passes)
        scenario(golds, options.passes)


if __name__ == "__main__":
    main()
