"""Sessions of a user's class: as the class itself, whatever ends the process between."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from processes import alive, wait_for

from toolgym._workers import sessions as module
from toolgym._workers.sessions import ProcessSession
from toolgym.errors import BadInputError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


def make_class() -> type:
    """A class without a module that a process could import, as in a notebook."""

    class Box:
        made = 0

        def __init__(self, values: dict[str, Any]) -> None:
            type(self).made += 1
            self.values, self.number, self.held = dict(values), self.made, None

        def put(self, key: str, value: Any) -> int:
            self.values[key] = value
            return len(self.values)

        def drop(self, key: str) -> Any:
            return self.values.pop(key)

        def push(self, key: str, value: Any) -> list[Any]:
            self.values.setdefault(key, []).append(value)
            return self.values[key]

        def fail(self, key: str) -> None:
            from toolgym.errors import ToolError

            self.values[key] = "half"
            raise ToolError(f"no {key}")

        def hold(self) -> str:
            self.held = iter([lambda: None, threading.Lock()])  # cannot be pickled
            return "held"

        def loose(self) -> str:
            self.held = None
            return "loose"

        def roll(self) -> int:
            import random

            self.values["rolled"] = random.randrange(10**9)
            return self.values["rolled"]

        async def later(self, key: str) -> dict[str, Any]:
            self.values[key] = "later"
            return {"key": key}

        def walk(self) -> Iterator[int]:
            yield 1
            yield 2

        def spin(self, key: str) -> None:
            self.values[key] = "spun"
            while True:
                time.sleep(1)

        def die(self, key: str) -> None:
            self.values[key] = "dead"
            os._exit(3)

        def leave(self) -> None:
            sys.exit(3)

        def speak(self) -> str:
            print("spoken")
            os.write(1, b"written\n")
            return "said"

        def start(self) -> int:
            return subprocess.Popen(["sleep", "100"]).pid

        def odd(self) -> None:
            self.values["odd"] = {1, 2}

        def clock(self) -> str:
            self.values["clock"] = time.monotonic()
            return str(self.values["clock"])

        def order(self) -> str:
            return str({"a", "b", "c", "d"})

        def state(self) -> dict[str, Any]:
            return {"values": self.values, "made": self.made, "number": self.number}

        def close(self) -> None:
            if path := self.values.get("closing"):
                Path(path).write_text("closed")
            if self.values.get("stubborn"):
                time.sleep(100)

    return Box


BOX = make_class()


def opened(values: dict[str, Any] | None = None, timeout: float = 10.0) -> ProcessSession:
    return ProcessSession(BOX, (values or {},), "Box", timeout=timeout)


def stated(values: dict[str, Any]) -> dict[str, Any]:
    return {"values": values, "made": 1, "number": 1}


def killed(session: ProcessSession) -> None:
    """End the process of a session, as somebody else would."""
    if (process := session._process) is not None:
        os.kill(process.number, signal.SIGKILL)
        wait_for(lambda: not process.quiet())  # its socket is closed by its last thread


KEYS = st.sampled_from(["a", "b", "é"])
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers())
CALLS = st.one_of(
    st.tuples(
        st.sampled_from(["put", "push"]), st.fixed_dictionaries({"key": KEYS, "value": VALUES})
    ),
    st.tuples(
        st.sampled_from(["drop", "fail", "later", "die"]), st.fixed_dictionaries({"key": KEYS})
    ),
    st.tuples(st.sampled_from(["hold", "loose", "roll", "walk"]), st.just({})),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(0, 2), CALLS),
        st.tuples(st.just("call"), st.integers(0, 2), CALLS),
        st.tuples(st.just("keep"), st.integers(0, 2), st.none()),
        st.tuples(st.just("back"), st.integers(0, 2), st.integers(0, 9)),
        st.tuples(st.just("kill"), st.integers(0, 2), st.none()),
        st.tuples(st.just("state"), st.integers(0, 2), st.none()),
    ),
    max_size=20,
)


class Model:
    """What a session should be: the values, and how often a die was rolled."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.rolls = 0

    def call(self, name: str, arguments: dict[str, Any]) -> str | None:
        """The text of a call that goes well."""
        key = arguments.get("key", "")
        if name == "put":
            self.values[key] = copy.deepcopy(arguments["value"])
            return str(len(self.values))
        if name == "push":
            if not isinstance(self.values.get(key, []), list):
                return None
            self.values.setdefault(key, []).append(copy.deepcopy(arguments["value"]))
            return json.dumps(self.values[key], ensure_ascii=False)
        if name == "drop" and key in self.values:
            value = self.values.pop(key)
            return (
                {True: "true", False: "false", None: ""}.get(value)
                if (value is None or isinstance(value, bool))
                else value
                if isinstance(value, str)
                else json.dumps(value, ensure_ascii=False)
            )
        if name == "fail":
            self.values[key] = "half"
        if name == "later":
            self.values[key] = "later"
            return json.dumps({"key": key}, ensure_ascii=False)
        if name == "roll":
            self.values["rolled"] = ROLLS[self.rolls]
            self.rolls += 1
            return str(self.values["rolled"])
        return {"hold": "held", "loose": "loose", "walk": "[1, 2]"}.get(name)


def rolls() -> list[int]:
    import random

    own = random.Random(0)
    return [own.randrange(10**9) for _ in range(200)]


ROLLS = rolls()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
@example(
    [("call", 0, ("push", {"key": "a", "value": "\x7f"})), ("call", 0, ("drop", {"key": "a"}))]
)
def test_sessions_are_as_a_plain_model(steps: list[tuple[str, int, Any]]) -> None:
    sessions, models = [opened() for _ in range(3)], [Model() for _ in range(3)]
    kept: list[tuple[bytes, Model]] = []
    for kind, which, given_ in steps:
        session = sessions[which]
        if kind == "kill":
            killed(session)
        elif kind == "keep":
            kept.append((session.snapshot(), copy.deepcopy(models[which])))
        elif kind == "back" and kept:
            snapshot, model = kept[given_ % len(kept)]
            session.restore(snapshot)
            models[which] = copy.deepcopy(model)
        elif kind == "state":
            assert session.state() == stated(models[which].values)
        elif kind == "call":
            reply = session.call(*given_, timeout=30)
            text = models[which].call(*given_)
            assert ("error" in reply) == (text is None), reply
            assert text is None or reply["text"] == text
    for session, model in zip(sessions, models, strict=True):
        assert session.state() == stated(model.values)
        session.close()


@pytest.mark.parametrize(
    ("name", "kind", "says", "left"),
    [
        ("fail", "tool_error", "Error: no k", {"n": 1, "k": "half"}),
        ("spin", "timeout", "Error: spin was ended after 0.3 seconds.", {"n": 1}),
        ("die", "bug", "Error: die ended its process.", {"n": 1}),
        ("drop", "bug", "Error: KeyError: 'k'", {"n": 1}),
        ("absent", "bug", "Error: AttributeError: ", {"n": 1}),
    ],
)
@pytest.mark.parametrize("asked", [True, False])
def test_a_failure_is_a_reply(
    name: str, kind: str, says: str, left: dict[str, Any], asked: bool
) -> None:
    session = opened()
    session.call("put", {"key": "n", "value": 1}, 30)
    if asked:  # what the state was is known, or the calls are made again without
        session.state()
    reply = session.call(name, {"key": "k"}, 0.3 if name == "spin" else 30)
    assert reply["error"] == kind
    assert reply["text"].startswith(says)
    assert session.state() == stated(left)
    assert session.call("put", {"key": "m", "value": 2}, 30) == {"text": str(len(left) + 1)}
    session.close()


def test_leaving_the_interpreter_ends_a_call_alone() -> None:
    session = opened()
    number = session._process.number if session._process else 0
    assert session.call("leave", {}, 30)["text"] == "Error: SystemExit: 3"
    assert session._process is not None
    assert session._process.number == number
    session.close()


def test_a_kill_in_the_middle_of_a_call_brings_back_the_state_before() -> None:
    session = opened({"n": 1})
    session.call("roll", {}, 30)
    before = session.state()
    process = session._process
    assert process is not None
    found = []
    call = threading.Thread(target=lambda: found.append(session.call("spin", {"key": "k"}, 60)))
    call.start()
    time.sleep(0.1)
    os.kill(process.number, signal.SIGKILL)
    call.join()
    assert found == [{"error": "bug", "text": "Error: spin ended its process."}]
    assert session.state() == before
    assert session.call("roll", {}, 30) == {"text": str(ROLLS[1])}  # also of random
    session.close()


def test_what_cannot_be_made_again_is_told() -> None:
    session = opened()
    session.call("hold", {}, 30)
    session.call("clock", {}, 30)
    session.state()
    reply = session.call("die", {"key": "k"}, 30)
    why = "and the state before it could not be made the same again"
    assert reply == {"error": "bug", "text": f"Error: die ended its process, {why}."}
    session.call("clock", {}, 30)
    session.state()
    killed(session)
    reply = session.call("put", {"key": "k", "value": 1}, 30)
    assert reply["error"] == "bug"
    assert "was not called" in reply["text"]
    assert "k" not in session.state()["values"]
    assert session.call("put", {"key": "k", "value": 1}, 30) == {"text": "2"}
    session.close()


def test_long_journals_end_in_a_pickle() -> None:
    session = opened()
    for n in range(1_000):
        session.call("push", {"key": "k", "value": n}, 30)
    assert len(session._journal) < 100
    killed(session)
    assert session.state()["values"]["k"] == list(range(1_000))
    session.call("hold", {}, 30)
    for n in range(200):  # it cannot be pickled: all calls are made again
        session.call("push", {"key": "k", "value": n}, 30)
    assert len(session._journal) > 200
    killed(session)
    assert session.state()["values"]["k"] == [*range(1_000), *range(200)]
    session.close()


def test_snapshots_are_of_any_session_of_the_class() -> None:
    one, other = opened({"a": 1}), opened({"b": 2})
    for unpicklable in (False, True):
        if unpicklable:
            one.call("hold", {}, 30)
        snapshot = one.snapshot()
        one.call("put", {"key": "a", "value": 5}, 30)
        for session in (one, other, one):
            session.restore(snapshot)
            assert session.state() == stated({"a": 1})
        one.restore(snapshot)
    one.close()
    other.close()


def test_sessions_share_nothing() -> None:
    sessions = [opened({"mine": n}) for n in range(20)]
    for _ in range(3):
        for n, session in enumerate(sessions):
            session.call("push", {"key": "seen", "value": n}, 30)
    for n, session in enumerate(sessions):
        assert session.state() == stated({"mine": n, "seen": [n] * 3})  # also the class is its own
        session.close()


def test_each_episode_rolls_the_same_and_walks_sets_alike() -> None:
    texts = set()
    for _ in range(3):
        session = opened()
        found = [session.call("roll", {}, 30)["text"] for _ in range(3)]
        texts.add((*found, session.call("order", {}, 30)["text"]))
        session.close()
    assert len(texts) == 1
    assert next(iter(texts))[:3] == tuple(map(str, ROLLS[:3]))


def test_what_a_session_prints_is_not_ours(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "from toolgym._workers.sessions import ProcessSession\n"
        "class Loud:\n"
        "    def __init__(self): print('made')\n"
        "    def speak(self): print('spoken')\n"
        "    def state(self): print('asked'); return {}\n"
        "    def close(self): print('closed')\n"
        "session = ProcessSession(Loud, (), 'Loud')\n"
        "session.call('speak', {}, 30); session.state(); session.snapshot(); session.close()\n"
        "print('ours')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ours\n"
    for word in ("made", "spoken", "asked", "closed"):
        assert word in done.stderr


def test_what_a_session_starts_ends_with_it() -> None:
    session = opened()
    started = int(session.call("start", {}, 30)["text"])
    session.close()
    wait_for(lambda: not alive(started))
    session = opened()
    started = int(session.call("start", {}, 30)["text"])
    session.call("spin", {"key": "k"}, 0.2)
    wait_for(lambda: not alive(started))
    assert not alive(started)
    session.close()


def test_close_is_called_once_and_then_all_is_refused(tmp_path: Path) -> None:
    session = opened({"closing": str(tmp_path / "mark")})
    session.close()
    assert (tmp_path / "mark").read_text() == "closed"
    (tmp_path / "mark").unlink()
    session.close()
    assert not (tmp_path / "mark").exists()
    for use in (
        lambda: session.call("put", {"key": "a", "value": 1}, 30),
        session.snapshot,
        lambda: session.restore(opened().snapshot()),
    ):
        with pytest.raises(BadInputError, match="closed"):
            use()
    stubborn = opened({"stubborn": True}, timeout=0.3)
    with pytest.raises(BadInputError, match=r"Box.close\(\): did not end within 0.3 seconds"):
        stubborn.close()


def test_what_cannot_begin_says_why() -> None:
    with pytest.raises(BadInputError, match="cannot be sent to a process of its own"):
        ProcessSession(BOX, (threading.Lock(),), "Box")
    with pytest.raises(BadInputError, match=r"cannot begin .* TypeError"):
        ProcessSession(BOX, (5,), "Box")
    with pytest.raises(BadInputError, match=r"its state is not plain JSON: .* set"):
        ProcessSession(BOX, ({"a": {1}},), "Box")
    with pytest.raises(BadInputError, match="its state is not plain JSON: the key 1 of a dict"):
        ProcessSession(BOX, ({1: 2},), "Box")

    class Slow(BOX):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            time.sleep(100)

    with pytest.raises(BadInputError, match="it took too long"):
        ProcessSession(Slow, (), "Slow", timeout=0.2)

    class Absent:
        def __reduce__(self) -> tuple[Any, ...]:
            return __import__, ("no_such_module_here",)

        def __call__(self) -> None:
            raise AssertionError

    with pytest.raises(BadInputError, match="ModuleNotFoundError"):
        ProcessSession(Absent(), (), "Absent")


def test_a_state_that_is_not_json_is_told_and_the_session_goes_on() -> None:
    session = opened()
    session.call("odd", {}, 30)
    with pytest.raises(BadInputError, match=r"Box.state\(\): .*not plain JSON"):
        session.state()
    assert session.call("drop", {"key": "odd"}, 30)["text"] == "[1, 2]"
    assert session.state() == stated({})
    with pytest.raises(BadInputError, match="arguments of put cannot be sent"):
        session.call("put", {"key": "a", "value": threading.Lock()}, 30)
    session.close()


def test_threads_play_their_own_sessions() -> None:
    wrong = []

    def play(number: int) -> None:
        for round_ in range(8):
            session = opened({"mine": number})
            for step in range(8):
                session.call("push", {"key": "seen", "value": [number, round_, step]}, 20)
            seen = [[number, round_, step] for step in range(8)]
            if session.state() != stated({"mine": number, "seen": seen}):
                wrong.append(session.state())
            session.close()

    threads = [threading.Thread(target=play, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def keeper() -> int:
    forks = module._forks_of(BOX)
    assert forks._keeper is not None
    return forks._keeper.process.pid


def children(keeper_: int) -> list[int]:
    """Processes that a keeper forked, zombies too."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(stat[1]) == keeper_:
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_two_thousand_sessions_leave_no_descriptor_and_no_zombie() -> None:
    opened().close()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(2_000):
        session = opened()
        if number % 10 == 0:
            killed(session)
        if number % 3:  # the others are dropped without a word
            session.close()
    del session
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before)
    wait_for(lambda: len(children(keeper())) <= 1)  # the one that was forked ahead
    assert len(os.listdir(f"/proc/{keeper()}/fd")) < 12


def test_keepers_of_classes_without_sessions_end() -> None:
    started = []
    for _ in range(module._KEPT + 4):
        session = ProcessSession(make_class(), ({},), "Box")
        forks = next(reversed(module._FORKS.values()))
        assert forks._keeper is not None
        started.append(forks._keeper.process.pid)
        session.close()
    assert len(module._FORKS) <= module._KEPT + 2
    assert sum(alive(number) for number in started) <= module._KEPT + 1


def test_a_killed_keeper_takes_its_sessions_along_and_all_go_on() -> None:
    session = opened({"n": 1})
    session.call("put", {"key": "k", "value": 1}, 30)
    number = session._process.number if session._process else 0
    os.kill(keeper(), signal.SIGKILL)
    wait_for(lambda: not alive(number))
    assert session.call("put", {"key": "m", "value": 2}, 30) == {"text": "3"}
    assert session.state() == stated({"n": 1, "k": 1, "m": 2})
    session.close()


FORKING = """
import os
from toolgym._workers.sessions import ProcessSession
class Shop:
    def __init__(self): self.cart = {}
    def add(self, item): self.cart[item] = self.cart.get(item, 0) + 1
    def state(self): return self.cart
    def close(self): pass
session = ProcessSession(Shop, (), "Shop")
session.call("add", {"item": "a"}, 30)
session.state()
pid = os.fork()
for _ in range(20):
    session.call("add", {"item": "parent" if pid else "child"}, 30)
print(session.state(), flush=True)
other = ProcessSession(Shop, (), "Shop")
if pid:
    os.waitpid(pid, 0)
session.close()
"""


def test_a_forked_process_goes_on_by_itself_and_nothing_stays() -> None:
    command = [sys.executable, "-W", "error", "-c", FORKING]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    lines = ["{'a': 1, 'child': 20}", "{'a': 1, 'parent': 20}"]
    assert sorted(done.stdout.splitlines()) == lines


LEFT = """
import os, subprocess, time
from toolgym._workers import sessions
class Shop:
    def start(self): return subprocess.Popen(["sleep", "100"]).pid
    def spin(self): time.sleep(100)
    def state(self): return None
    def close(self): pass
session = sessions.ProcessSession(Shop, (), "Shop")
keeper = next(iter(sessions._FORKS.values()))._keeper.process.pid
print(session._process.number, keeper, session.call("start", {}, 30)["text"], flush=True)
session.call("spin", {}, 60)
"""


def test_a_killed_parent_leaves_nobody() -> None:
    parent = subprocess.Popen([sys.executable, "-c", LEFT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    numbers = [int(word) for word in parent.stdout.readline().split()]
    assert len(numbers) == 3
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for number in numbers:
        wait_for(lambda number=number: not alive(number))
