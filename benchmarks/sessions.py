"""Live sessions: a call, its state, opening, snapshot and restore, and going on after a kill.

    python benchmarks/sessions.py [--openenv PYTHON]

The same shop is played by plain Python, by a session of a user's class, by a jailed one, by
`Sandbox.call` and by a fresh interpreter for each call, which get the state with the call and give
it back; and by OpenEnv's own server and client on loopback, where PYTHON is an interpreter that has
``openenv-core``. Ratios are to the jailed session.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

CALLS = 2_000
PAUSE = 0.02  # seconds before an open: the time in which the next process is forked ahead
GOODS = 10
SOURCE = """
def add(state, item, amount=1):
    cart = state["cart"]
    cart[item] = cart.get(item, 0) + amount
    return f"{cart[item]} {item} in the cart"

def look(state):
    return len(state["cart"])
"""
ALONE = f"""{SOURCE}
def call(state, name, arguments):
    value = {{"add": add, "look": look}}[name](state, **arguments)
    return {{"value": value, "state": state}}
"""
FRESH = "import sys, json\nprint(json.dumps(call(**json.load(sys.stdin))))"


def first_state(goods: int = GOODS) -> dict[str, Any]:
    """A cart; ten goods are 160 characters of JSON, a thousand 19 000."""
    return {"cart": {f"item {number}": number for number in range(goods)}}


class Shop:
    """The same as a user's class."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.cart = dict(state["cart"])

    def add(self, item: str, amount: int = 1) -> str:
        """Put goods into the cart."""
        self.cart[item] = self.cart.get(item, 0) + amount
        return f"{self.cart[item]} {item} in the cart"

    def state(self) -> dict[str, Any]:
        """What it holds."""
        return {"cart": self.cart}

    def close(self) -> None:
        """Nothing."""


def measured(call: Callable[[], Any], count: int, before: Callable[[], Any] = lambda: None) -> Any:
    """(median, 99th of a hundred) in microseconds."""
    taken = []
    for _ in range(count):
        before()
        begun = time.perf_counter()
        call()
        taken.append((time.perf_counter() - begun) * 1e6)
    return statistics.median(taken), sorted(taken)[int(count * 0.99)]


def openenv_server(port: int) -> None:
    """Serve the shop with OpenEnv's own server; runs in an interpreter that has it."""
    import uvicorn
    from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app

    class Add(Action):
        item: str
        amount: int = 1

    class Told(Observation):
        text: str = ""

    class Served(Environment):
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self) -> None:
            super().__init__()
            self.shop = Shop(first_state())

        def reset(self, seed: Any = None, episode_id: Any = None, **_: Any) -> Observation:
            self.shop = Shop(first_state())
            return Told()

        def step(self, action: Any, timeout_s: Any = None, **_: Any) -> Observation:
            return Told(text=self.shop.add(action.item, action.amount))

        @property
        def state(self) -> State:
            return State(**self.shop.state())

    app = create_fastapi_app(Served, Add, Told, max_concurrent_envs=8)
    uvicorn.run(app, port=port, log_level="error")


def openenv_client(port: int) -> None:
    """Print what OpenEnv's own client measures, as JSON."""
    from openenv.core import GenericEnvClient

    def opened() -> Any:
        client = GenericEnvClient(base_url=f"http://127.0.0.1:{port}").sync()
        client.connect()
        client.reset()
        return client

    for _ in range(200):
        try:
            client = opened()
            break
        except Exception:  # the server starts
            time.sleep(0.1)
    action = {"item": "tea"}
    found = {
        "call": measured(lambda: client.step(action), CALLS // 2),
        "call and state": measured(lambda: (client.step(action), client.state()), CALLS // 2),
    }
    client.close()
    clients: list[Any] = []
    found["open"] = measured(
        lambda: clients.append(opened()), 40, lambda: clients and clients.pop().close()
    )
    print(json.dumps(found))


def openenv(python: str) -> dict[str, Any]:
    """The figures of OpenEnv, from a server and a client in processes of their own."""
    here, port = os.path.abspath(__file__), "18765"
    # It tells of each client that has gone.
    server = subprocess.Popen([python, here, "--serve", port], stderr=subprocess.DEVNULL)
    try:
        command = [python, here, "--client", port]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        return dict(json.loads(done.stdout.splitlines()[-1]))
    finally:
        server.kill()
        server.wait()


def killed(session: Any) -> None:
    """End the process of a session, and wait until it has ended."""
    process = session._process
    os.kill(process.number, signal.SIGKILL)
    while process.quiet():
        time.sleep(0.001)


def live(opened: Callable[[], Any], add: Callable[[Any], Any]) -> dict[str, Any]:
    """The figures of one kind of our sessions."""
    session = opened()
    add(session)
    held: list[Any] = []
    snapshot = session.snapshot()

    def begin() -> None:
        held.append(opened())
        add(held[-1])

    def end() -> None:
        if held:
            held.pop().close()
        time.sleep(PAUSE)

    found = {
        "call": measured(lambda: add(session), CALLS),
        "call and state": measured(lambda: (add(session), session.state()), CALLS),
        "snapshot": measured(session.snapshot, CALLS),
        "restore and call": measured(lambda: (session.restore(snapshot), add(session)), CALLS),
        "open and call": measured(begin, 100, end),
        "call after kill -9": measured(
            lambda: add(session), 100, lambda: (time.sleep(PAUSE), killed(session))
        ),
    }
    end()
    session.close()
    return found


def ours() -> dict[str, dict[str, Any]]:
    """All that needs nothing but this library."""
    from toolgym._workers.sessions import ProcessSession
    from toolgym.sandbox import Sandbox

    shop, item = Shop(first_state()), {"item": "tea"}
    found = {"plain Python": {"call": measured(lambda: shop.add(**item), CALLS)}}
    box = Sandbox({"add": SOURCE, "look": SOURCE, "call": ALONE})
    found["jailed session"] = live(
        lambda: box.open(first_state()), lambda session: session.call("add", item)
    )
    session = box.open(first_state())
    many = [("add", item)] * 100
    median, high = measured(lambda: session.call_many(many), 40)
    found["jailed session, 100 in one message"] = {"call": (median / 100, high / 100)}
    found["session of a class"] = live(
        lambda: ProcessSession(Shop, (first_state(),), "Shop"),
        lambda session: session.call("add", item, 10.0),
    )
    asked = {"state": first_state(), "name": "add", "arguments": item}
    found["Sandbox.call, a shared runner"] = {
        "call": measured(lambda: box.call("call", asked), CALLS)
    }
    each = Sandbox({"call": f"import decimal{ALONE}"})  # whose settings a call may change
    found["Sandbox.call, a runner each"] = {
        "call": measured(lambda: each.call("call", asked), 200),
        "call, after a pause": measured(
            lambda: each.call("call", asked), 100, lambda: time.sleep(PAUSE)
        ),
    }
    command, text = [sys.executable, "-I", "-S", "-c", ALONE + FRESH], json.dumps(asked)
    found["fresh interpreter a call"] = {
        "call": measured(
            lambda: subprocess.run(command, input=text, capture_output=True, text=True, check=True),
            50,
        )
    }
    return found


def by_size() -> None:
    """Jailed calls that write and that read, by the size of the state."""
    from toolgym.sandbox import Sandbox

    box = Sandbox({"add": SOURCE, "look": SOURCE})
    print(f"\n{'characters of state':>20}{'a call that writes, us':>26}{'that reads, us':>18}")
    for goods in (1, 10, 100, 1_000, 10_000):
        with box.open(first_state(goods)) as session:
            writes, _ = measured(lambda: session.call("add", {"item": "tea"}), 300)
            reads, _ = measured(lambda: session.call("look", {}), 300)
            print(f"{len(json.dumps(session.state())):20,}{writes:26.0f}{reads:18.0f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--openenv", metavar="PYTHON")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--client", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        openenv_server(options.serve)
    elif options.client:
        openenv_client(options.client)
    else:
        found = ours()
        if options.openenv:
            found["OpenEnv on loopback"] = openenv(options.openenv)
        print(f"{'':36}{'':22}{'median us':>12}{'99 % us':>12}{'ratio':>10}")
        for who, figures in found.items():
            for what, (median, high) in figures.items():
                base = found["jailed session"].get(what.replace("call, after a pause", "call"))
                ratio = f"{median / base[0]:10.2f}" if base else ""
                print(f"{who:36}{what:22}{median:12.1f}{high:12.1f}{ratio}")
        by_size()


if __name__ == "__main__":
    main()
