"""Sessions in the sandbox: what a call changes, what it cannot, and what ends a process."""

from __future__ import annotations

import copy
import json
import math
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import alive, wait_for

from toolgym.errors import BadInputError, UnknownNameError
from toolgym.sandbox import Sandbox, SandboxSession
from toolgym.sandbox import sandbox as sandbox_module
from toolgym.sandbox.sandbox import JailedKeepers, shared
from toolgym.sandbox.session import STATE_CHARS

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the sandbox refuses to work without seccomp"
)

SOURCES = {
    "put": """
def put(state, key, value):
    state[key] = value
    return len(state)
""",
    "drop": """
def drop(state, key):
    return state.pop(key)
""",
    "push": """
def push(state, key, value):
    held = state.setdefault(key, [])
    held.append(value)
    return held
""",
    "move": """
def move(state, key):
    state[key] = state.pop(key)
""",
    "share": """
def share(state, key, other):
    state[other] = state[key]
""",
    "look": """
def look(state, key):
    return state.get(key)
""",
    "fail": """
def fail(state, key):
    state.clear()
    state[key] = "half"
    raise ValueError("no " + key)
""",
    "odd": """
def odd(state, key, kind):
    state[key] = {"set": {1}, "key": {1: 2}, "nan": float("nan"), "bytes": b"x"}[kind]
""",
    "pair": """
def pair(state, key):
    state[key] = (1, [2, (3,)])
    return state[key]
""",
    "spin": """
def spin(state, key):
    state[key] = "spun"
    while True:
        pass
""",
    "grow": """
def grow(state, key):
    state[key] = [0] * 10 ** 9
""",
    "count": """
import random
SEEN = []
def count(state):
    SEEN.append(1)
    return [len(SEEN), random.random(), str({"a", "b", "c"})]
""",
    "deep": """
def deep(state, key, depth):
    held = []
    for _ in range(depth):
        held = [held]
    state[key] = held
""",
    "down": """
def down(state):
    return down(state)
""",
    "large": """
def large(state, count):
    state["large"] = "x" * count
""",
    "own": """
def own(state):
    class Goods(dict):
        pass
    state["own"] = Goods(a=1)
    return isinstance(state.get("before"), Goods)
""",
    "bad": "import os\ndef bad(state): return os.getcwd()",
    "none": "other = 1",
    "sleepy.tool": "def sleepy_tool(state, seconds=0): return seconds",
}


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return Sandbox(SOURCES, timeout=1.0, memory_mb=64, output_chars=2_000)


def killed(session: SandboxSession) -> None:
    """End the process of a session, as somebody else would."""
    if (process := session._process) is not None:
        process.begun()
        os.kill(process.number, signal.SIGKILL)
        wait_for(lambda: not process.quiet())


def model(state: dict[str, Any], name: str, arguments: dict[str, Any]) -> Any:
    """The same functions in plain Python, where they end well; else None of a state."""
    key = arguments.get("key", "")
    if name == "put":
        state[key] = arguments["value"]
        return len(state)
    if name == "drop":
        return state.pop(key)
    if name == "push":
        held = state.setdefault(key, [])
        held.append(arguments["value"])
        return held
    if name == "move":
        state[key] = state.pop(key)
        return None
    if name == "share":
        state[arguments["other"]] = state[key]
        return None
    if name == "look":
        return state.get(key)
    if name == "pair":
        state[key] = [1, [2, [3]]]
        return state[key]
    raise ValueError(name)


KEYS = st.sampled_from(["a", "b", "ключ", "\ud800", "\0", ""])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from([0, 1, True, 1.0, 0.0, -0.0]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
CALLS = st.one_of(
    st.tuples(
        st.sampled_from(["put", "push"]), st.fixed_dictionaries({"key": KEYS, "value": VALUES})
    ),
    st.tuples(
        st.sampled_from(["drop", "move", "look", "fail", "pair"]),
        st.fixed_dictionaries({"key": KEYS}),
    ),
    st.tuples(st.just("share"), st.fixed_dictionaries({"key": KEYS, "other": KEYS})),
    st.tuples(
        st.just("odd"),
        st.fixed_dictionaries(
            {"key": KEYS, "kind": st.sampled_from(["set", "key", "nan", "bytes"])}
        ),
    ),
)
WHICH = st.integers(0, 2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), WHICH, CALLS),
        st.tuples(st.just("many"), WHICH, st.lists(CALLS, max_size=4)),
        st.tuples(st.just("keep"), WHICH, st.none()),
        st.tuples(st.just("back"), WHICH, st.integers(0, 9)),
        st.tuples(st.just("kill"), WHICH, st.none()),
    ),
    max_size=25,
)


def same(left: Any, right: Any) -> bool:
    """Equal as JSON text: the order of dicts and the kinds of numbers too."""
    return json.dumps(left) == json.dumps(right)


def played(
    state: dict[str, Any], call: tuple[str, dict[str, Any]]
) -> tuple[dict[str, Any], bool, Any]:
    """The state after a call, whether it went well, and what it returned."""
    trial = copy.deepcopy(state)
    try:
        value = copy.deepcopy(model(trial, *copy.deepcopy(call)))
    except Exception:
        return state, False, None
    return json.loads(json.dumps(trial)), True, value


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_sessions_are_as_a_plain_model(steps: list[tuple[str, int, Any]]) -> None:
    sandbox = Sandbox(SOURCES)
    sandbox._programs = PROGRAMS
    sessions = [sandbox.open({}) for _ in range(3)]
    states: list[dict[str, Any]] = [{}, {}, {}]
    kept: list[tuple[bytes, dict[str, Any]]] = []
    for kind, which, given_ in steps:
        session = sessions[which]
        if kind == "kill":
            killed(session)
        elif kind == "keep":
            kept.append((session.snapshot(), copy.deepcopy(states[which])))
        elif kind == "back" and kept:
            snapshot, state = kept[given_ % len(kept)]
            session.restore(snapshot if given_ % 2 else state)
            states[which] = copy.deepcopy(state)
        elif kind in ("call", "many"):
            calls = [given_] if kind == "call" else given_
            for call, result in zip(calls, session.call_many(calls), strict=True):
                states[which], well, value = played(states[which], call)
                assert (result.error is None) == well, result
                if well:
                    assert same(json.loads(result.text), value)
        for one, state in zip(sessions, states, strict=True):
            assert same(one.state(), state)
    for session in sessions:
        session.close()


PROGRAMS: dict[str, Any] = {}  # compiled once for all examples


@pytest.mark.parametrize(
    ("name", "arguments", "kind"),
    [
        ("fail", {"key": "k"}, "exception"),
        ("odd", {"key": "k", "kind": "set"}, "state"),
        ("odd", {"key": "k", "kind": "key"}, "state"),
        ("odd", {"key": "k", "kind": "nan"}, "state"),
        ("spin", {"key": "k"}, "timeout"),
        ("grow", {"key": "k"}, "memory"),
        ("down", {}, "exception"),
        ("large", {"count": STATE_CHARS + 1}, "state"),
        ("deep", {"key": "k", "depth": 3_000}, "state"),
        ("look", {"key": "much"}, "output"),
        ("look", {"wrong": 1}, "exception"),
        ("look", {"state": {}}, "exception"),
        ("look", {"key": math.inf}, "arguments"),
        ("bad", {}, "refused"),
        ("none", {}, "refused"),
    ],
)
def test_what_fails_changes_nothing(
    box: Sandbox, name: str, arguments: dict[str, Any], kind: str
) -> None:
    before = {"one": 1, "much": "x" * 3_000}
    with box.open(before) as session:
        result = session.call(name, arguments)
        assert result.error == kind, result
        assert session.state() == before
        assert session.call("put", {"key": "k", "value": 2}).text == "3"
        assert session.state() == {**before, "k": 2}


def test_a_call_leaves_nothing_but_the_state(box: Sandbox) -> None:
    with box.open({}) as session:
        first = session.call("count", {})
        assert json.loads(first.text)[0] == 1
        assert [session.call("count", {}) for _ in range(3)] == [first] * 3
        assert session.call_many([("count", {})] * 2) == [first] * 2
        assert session.call("own", {}).text == "false"
        assert session.state() == {"own": {"a": 1}}


def test_parts_that_two_places_share_are_two_after_the_call(box: Sandbox) -> None:
    with box.open({"a": [1], "b": [1]}) as session:
        session.call("share", {"key": "a", "other": "b"})  # the text of the state is the same
        session.call("push", {"key": "a", "value": 2})
        assert session.state() == {"a": [1, 2], "b": [1]}


def test_what_is_handed_out_is_a_copy(box: Sandbox) -> None:
    given_ = {"a": [1]}
    with box.open(given_) as session:
        given_["a"].append(2)
        session.state()["a"].append(3)
        assert session.state() == {"a": [1]}
        session.call("push", {"key": "a", "value": 4})
        session.state()["a"].append(5)
        assert session.state() == {"a": [1, 4]}


def test_a_killed_process_ends_its_call_and_the_session_goes_on(box: Sandbox) -> None:
    slow = Sandbox({"spin": SOURCES["spin"], "put": SOURCES["put"]}, timeout=20)
    session = slow.open({"n": 1})
    process = session._process
    assert process is not None
    found = []
    call = threading.Thread(target=lambda: found.append(session.call("spin", {"key": "k"})))
    call.start()
    time.sleep(0.1)
    os.kill(process.number, signal.SIGKILL)
    call.join()
    assert found[0].error == "died"
    assert session.state() == {"n": 1}
    assert session.call("put", {"key": "k", "value": 2}).text == "2"
    session.close()


def test_many_calls_go_on_behind_one_that_is_ended(box: Sandbox) -> None:
    with box.open({}) as session:
        results = session.call_many(
            [
                ("put", {"key": "a", "value": 1}),
                ("spin", {"key": "b"}),
                ("put", {"key": "c", "value": 2}),
                ("bad", {}),
                ("grow", {"key": "d"}),
                ("put", {"key": "e", "value": math.nan}),
                ("sleepy.tool", {}),
                ("put", {"key": "f", "value": 3}),
            ]
        )
        kinds = [result.error for result in results]
        assert kinds == [None, "timeout", None, "refused", "memory", "arguments", None, None]
        assert session.state() == {"a": 1, "c": 2, "f": 3}
        with pytest.raises(UnknownNameError):
            session.call_many([("put", {"key": "g", "value": 1}), ("putt", {})])
        assert session.state() == {"a": 1, "c": 2, "f": 3}
        assert session.call_many([]) == []


def test_a_closed_session_says_its_last_state_and_no_more(box: Sandbox) -> None:
    with box.open({"a": 1}) as session:
        number = session._process.number if session._process else 0
    assert session.state() == {"a": 1}
    with pytest.raises(BadInputError, match="closed"):
        session.call("look", {"key": "a"})
    wait_for(lambda: not Path(f"/proc/{number}").exists())
    session.close()


@pytest.mark.parametrize(
    "state",
    [{1: 2}, {"a": {1: 2}}, {"a": math.nan}, {"a": {1}}, {"a": "x" * STATE_CHARS}, [1], None],
)
def test_a_state_is_a_dict_of_json(box: Sandbox, state: Any) -> None:
    with pytest.raises(BadInputError, match="state of a sandboxed session"):
        box.open(state)
    with box.open({}) as session, pytest.raises(BadInputError, match="state of a sandboxed"):
        session.restore(state)


LYING = """
import os, struct, sys
def tell(state, token):
    state["k"] = 1
    held = b"v" + struct.pack("!I", 1) + b"1" + token.encode()
    own = b"" if token else b"x" * 7
    os.write(3, struct.pack("!Q", 8 + len(held)) + b"t" * 8 + held + own)
    return 1
"""


@pytest.mark.parametrize("token", ["", '{"forged": 1}'])
def test_an_answer_that_was_not_asked_for_ends_the_process(token: str) -> None:
    sandbox = Sandbox({"tell": LYING, "put": SOURCES["put"]}, rules=False, timeout=0.5)
    with sandbox.open({"n": 1}) as session:
        assert session.call("tell", {"token": token}).error == "died"
        assert session.state() == {"n": 1}
        assert session.call("put", {"key": "k", "value": 1}).text == "2"


FORGED = """
import os, struct, sys
def tell(state, rest):
    frame = sys._getframe()
    while "rest" not in frame.f_locals or frame.f_code.co_name != "answer":
        frame = frame.f_back
    held = frame.f_locals["rest"][:8] + b"v" + struct.pack("!I", 1) + b"1" + rest.encode()
    os.write(3, struct.pack("!Q", len(held)) + held)
    os._exit(0)
"""


@pytest.mark.parametrize(
    ("rest", "state"),
    [
        ('{"forged": 1}', {"forged": 1}),  # one that breaks out may say what it likes of its state
        ("[1]", {"n": 1}),
        ("{", {"n": 1}),
        ('{"a":' * 5_000 + "1" + "}" * 5_000, {"n": 1}),
    ],
    ids=["state", "list", "broken", "deep"],
)
def test_a_forged_state_must_still_be_one(rest: str, state: dict[str, int]) -> None:
    sandbox = Sandbox({"tell": FORGED}, rules=False, timeout=0.5)
    with sandbox.open({"n": 1}) as session, sandbox.open({"other": 1}) as other:
        session.call("tell", {"rest": rest})
        assert session.state() == state
        assert other.state() == {"other": 1}


READING = """
import os
def read(state, number):
    return os.read(number, 10).decode()
"""


def test_only_its_own_socket_can_be_read(tmp_path: Path) -> None:
    sandbox = Sandbox({"read": READING}, rules=False, timeout=0.5)
    with sandbox.open({}) as session:
        for number in (0, 1, 2):  # the null device
            result = session.call("read", {"number": number})
            assert "PermissionError" in result.text
        for number in (4, 5, 6, 7):
            assert session.call("read", {"number": number}).error == "exception"
        assert session.call("read", {"number": 3}).error == "timeout"


def test_threads_play_their_own_sessions(box: Sandbox) -> None:
    wrong = []

    def play(number: int) -> None:
        for round_ in range(10):
            with box.open({"mine": number}) as session:
                for step in range(10):
                    session.call("push", {"key": "seen", "value": [number, round_, step]})
                seen = [[number, round_, step] for step in range(10)]
                if session.state() != {"mine": number, "seen": seen}:
                    wrong.append(session.state())

    threads = [threading.Thread(target=play, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_calls_of_several_threads_take_effect_one_after_another(box: Sandbox) -> None:
    with box.open({"seen": []}) as session:

        def play(number: int) -> None:
            for _ in range(20):
                session.call("push", {"key": "seen", "value": number})

        threads = [threading.Thread(target=play, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(session.state()["seen"]) == sorted(list(range(8)) * 20)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def below(keeper: int) -> Iterator[int]:
    """Processes that a keeper forked, zombies too."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(stat[1]) == keeper:
                yield int(entry.name)


@pytest.mark.slow
def test_two_thousand_sessions_leave_no_descriptor_and_no_zombie(box: Sandbox) -> None:
    forks = shared.sessions
    box.open({}).close()
    assert forks._keeper is not None
    keeper, before = forks._keeper.process.pid, open_descriptors()
    for number in range(2_000):
        session = box.open({})
        if number % 10 == 0:
            killed(session)
        if number % 3:  # the others are dropped without a word
            session.close()
    del session
    wait_for(lambda: open_descriptors() <= before)
    kept = 1 + len(sandbox_module._IDLE)  # the one that was forked ahead, and those for calls
    wait_for(lambda: len(list(below(keeper))) <= kept)
    assert len(os.listdir(f"/proc/{keeper}/fd")) < 12


def test_a_killed_keeper_takes_its_sessions_along_and_all_go_on() -> None:
    pool = JailedKeepers()
    sandbox = Sandbox({"put": SOURCES["put"]})
    sandbox._keepers = pool
    session = sandbox.open({"n": 1})
    assert pool.sessions._keeper is not None
    keeper = pool.sessions._keeper.process
    number = session._process.number if session._process else 0
    os.kill(keeper.pid, signal.SIGKILL)
    wait_for(lambda: not alive(number))
    assert session.call("put", {"key": "k", "value": 1}).text == "2"
    assert session.state() == {"n": 1, "k": 1}
    session.close()
    pool.sessions.close()
    pool.close()


FORKING = """
import os
from toolgym.sandbox import Sandbox
box = Sandbox({"put": "def put(state, n):\\n    state['n'] = n"})
session = box.open({"n": 0})
pid = os.fork()
for n in range(20):
    session.call("put", {"n": [pid > 0, n]})
print(session.state()["n"], flush=True)
other = box.open({})
if pid:
    os.waitpid(pid, 0)
"""


def test_a_forked_process_goes_on_by_itself_and_nothing_stays() -> None:
    command = [sys.executable, "-W", "error", "-c", FORKING]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == ["[False, 19]", "[True, 19]"]


LEFT = """
import os, signal
from toolgym.sandbox import Sandbox
box = Sandbox({"spin": "def spin(state):\\n    while True: pass"}, timeout=60)
session = box.open({})
print(session._process.number, box._keepers.sessions._keeper.process.pid, flush=True)
session.call("spin", {})
"""


def test_a_killed_parent_leaves_nobody() -> None:
    parent = subprocess.Popen([sys.executable, "-c", LEFT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    numbers = [int(word) for word in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for number in numbers:
        wait_for(lambda number=number: not alive(number))


PATCHING = """
import builtins, json, marshal, random, sys
def patch(state, what):
    state["patched"] = what
    lie = lambda *args, **kwargs: '{"forged": 1}'
    if what == "dumps":
        json.dumps = json.JSONEncoder.encode = lie
    elif what == "loads":
        json.loads = lambda *args, **kwargs: {"forged": 1}
    elif what == "marshal":
        marshal.dumps = lambda *args: b"0"
    elif what == "len":
        builtins.len = lambda _: 0
    elif what == "main":
        sys.modules["__main__"].plain = lambda value: ("[1]", [1])
        frame = sys._getframe()
        while frame is not None:
            if hasattr(frame.f_locals.get("self"), "_plain"):
                frame.f_locals["self"]._plain = lambda value: ("[1]", [1])
            frame = frame.f_back
    return 1
"""


@pytest.mark.parametrize("what", ["dumps", "loads", "marshal", "len", "main"])
def test_who_patches_the_library_lies_about_its_own_session_alone(what: str) -> None:
    """Only without the rules: what comes is a dict of JSON still, and nobody else's."""
    sandbox = Sandbox({"patch": PATCHING, "put": SOURCES["put"]}, rules=False, timeout=0.5)
    with sandbox.open({"n": 1}) as session, sandbox.open({"other": 1}) as other:
        other.call("put", {"key": "k", "value": 1})
        for _ in range(3):
            session.call("patch", {"what": what})
            session.call("put", {"key": "k", "value": 1})
        assert isinstance(session.state(), dict)
        assert other.call("put", {"key": "m", "value": 2}).text == "3"
        assert other.state() == {"other": 1, "k": 1, "m": 2}
    with sandbox.open({"n": 1}) as fresh:
        assert fresh.call("put", {"key": "k", "value": 1}).text == "2"
        assert fresh.state() == {"n": 1, "k": 1}


@pytest.mark.parametrize(
    "body",
    [
        "json.dumps = lambda *a, **k: '1'",
        "json.JSONEncoder.encode = lambda *a: '1'",
        "del json.dumps",
        "random.seed = None",
        "setattr(json, 'dumps', None)",
        "globals()['json'] = None",
        "__builtins__['len'] = None",
        "len.__self__.len = None",
    ],
)
def test_within_the_rules_nothing_is_patched(body: str) -> None:
    source = f"import json, random\ndef patch(state):\n    state['n'] = 2\n    {body}\n"
    sandbox = Sandbox({"patch": source, "put": SOURCES["put"]})
    with sandbox.open({"n": 1}) as session:
        assert session.call("patch", {}).error in ("exception", "refused")
        assert session.state() == {"n": 1}
        assert session.call("put", {"key": "k", "value": [1]}).text == "2"
        assert session.state() == {"n": 1, "k": [1]}
