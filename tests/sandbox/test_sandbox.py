"""The sandbox: what a function may do, and that no attack reads, writes, connects or stays."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from toolgym._workers.forks import Forks
from toolgym.errors import BadInputError, ToolError, UnknownNameError
from toolgym.sandbox import Sandbox, language
from toolgym.sandbox import sandbox as sandbox_module
from toolgym.sandbox.sandbox import JailedKeepers, shared
from toolgym.tools.calculator.tool import calculate

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the sandbox refuses to work without seccomp"
)

ATTACKS = Path(__file__).parent / "attacks"
MARK = "PWNED"  # what an attack returns when it got what it wanted
SECRET = "canary-5d1f0c"
LIMITS = {"timeout": 0.3, "memory_mb": 64}

LONG = {
    "NUL": "\0",
    "FF": "\f",
    "BRACKETS": "[" * 5_000 + "]" * 5_000,
    "ROUND": "(" * 50_000,
    "MINUSES": "-" * 50_000,
    "ATTRIBUTES": ".real" * 19_000,
    "SUM": "1+" * 40_000,
    "DIGITS": "9" * 100_000,
    "POWERS": "9**" * 3_000 + "9",
    "SQRTS": "sqrt(" * 3_000 + "2" + ")" * 3_000,
    "COMMAS": "1," * 100_000 + "1",
}

# Attacks whose wish the rules grant in a harmless form: the function gets an answer.
HARMLESS = {"regular expression with a large repeat", "dumps replaced"}

PROBE = """
import json, math, random, decimal, re
def probe(word):
    return {
        "word": word, "pi": math.pi, "kept": hasattr(math, "kept"), "sum": sum([1, 2]),
        "len": len("abc"), "random": random.random(), "match": bool(re.match("a+", "aa")),
        "third": str(decimal.Decimal(1) / 3), "text": json.dumps([1]), "root": math.sqrt(4),
    }
"""


def sandbox_cases() -> Iterator[tuple[str, str, str]]:
    """(kind, name, source); a case that defines no tool is the body of one."""
    for path in sorted(ATTACKS.glob("*.txt")):
        if path.stem == "calculator":
            continue
        for part in path.read_text().split("#: ")[1:]:
            name, _, source = part.partition("\n")
            if "def tool" not in source and "tool = " not in source:
                source = "def tool():\n" + "".join(f"    {line}\n" for line in source.splitlines())
            yield path.stem, name, source


CASES = list(sandbox_cases())
EXPRESSIONS = (ATTACKS / "calculator.txt").read_text().splitlines()


@dataclass
class World:
    """What an attack would have to touch."""

    secret: Path
    out: Path
    listener: socket.socket
    mode: int

    def fill(self, text: str) -> str:
        values = {"SECRET": str(self.secret), "OUT": str(self.out), "PID": str(os.getpid())}
        values |= {"PORT": str(self.listener.getsockname()[1]), **LONG}
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        return text

    def check(self) -> None:
        assert self.secret.read_text() == SECRET
        assert self.secret.stat().st_mode == self.mode
        assert sorted(path.name for path in self.out.iterdir()) == ["planted.py"]
        with pytest.raises(BlockingIOError):  # nobody has connected
            self.listener.accept()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    secret, out = folder / "secret.txt", folder / "out"
    secret.write_text(SECRET)
    out.mkdir()
    (out / "planted.py").write_text(f"found = open({str(secret)!r}).read()")
    os.environ["TOOLGYM_TEST_SECRET"] = SECRET
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield World(secret, out, listener, secret.stat().st_mode)
    del os.environ["TOOLGYM_TEST_SECRET"]


def parents() -> dict[int, int]:
    """Each process that is not a zombie, and its parent."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:  # it ended meanwhile
                continue
            if state != "Z":
                found[int(entry.name)] = int(parent)
    return found


def keepers() -> set[int]:
    return {keeper.process.pid for keeper in shared.idle.children}


def runners() -> set[int]:
    """Processes below the keepers."""
    return {pid for pid, parent in parents().items() if parent in keepers()}


def request(name: str, source: str, pool: JailedKeepers) -> bytes:
    """A call without arguments, as the keepers of a pool understand it."""
    asked = json.dumps({"name": name, "source": source}).encode()
    reply = pool.call(asked, 10, 64, 10_000, rules=True)
    assert reply is not None
    assert reply[:1] in (b"c", b"k")
    return json.dumps({"name": name, "arguments": {}}).encode() + b"\0" + reply[1:]


@pytest.fixture(scope="module")
def probe() -> str:
    """What the probe answers before any attack."""
    result = Sandbox({"probe": PROBE}).call("probe", {"word": "é"})
    assert result.error is None
    return result.text


@pytest.mark.parametrize("rules", [True, False], ids=["rules", "system"])
@pytest.mark.parametrize(
    ("kind", "name", "source"), CASES, ids=[f"{kind}-{name}" for kind, name, _ in CASES]
)
def test_attack(kind: str, name: str, source: str, rules: bool, world: World, probe: str) -> None:
    before = keepers()
    box = Sandbox({"tool": world.fill(source)}, rules=rules, **LIMITS)
    result = box.call("tool", {})
    assert SECRET not in result.text
    assert MARK not in result.text
    assert len(result.text) <= 21_000
    if rules and name not in HARMLESS:
        assert result.error is not None, result.text
    assert Sandbox({"probe": PROBE}).call("probe", {"word": "é"}).text == probe
    assert keepers() == before  # no attack ended, replaced or stopped a keeper
    assert len(runners()) <= len(before)  # each keeps the one of its next call
    world.check()


HELD = """
def probe(state, word):
    state["seen"].append(word)
    return state["seen"]
"""


@pytest.mark.parametrize("rules", [True, False], ids=["rules", "system"])
@pytest.mark.parametrize("kind", sorted({kind for kind, _, _ in CASES}))
def test_attacks_in_sessions(kind: str, rules: bool, world: World, probe: str) -> None:
    """All of one kind from within sessions; another one beside them never notices."""
    beside = Sandbox({"probe": HELD}, rules=rules).open({"seen": []})
    keeper = shared.sessions._keeper
    names = [name for of, name, _ in CASES if of == kind]
    for name, source in [(name, source) for of, name, source in CASES if of == kind]:
        source = f"{world.fill(source)}\n_it = tool\ndef tool(state, it=_it):\n    return it()\n"
        box = Sandbox({"tool": source, "probe": HELD}, rules=rules, **LIMITS)
        with box.open({"seen": []}) as session:
            result = session.call("tool", {})
            assert SECRET not in result.text, name
            assert MARK not in result.text, name
            assert len(result.text) <= 21_000, name
            box._timeout = 30.0  # an attack is cut short, an honest call has time
            if rules:
                if name not in HARMLESS:
                    assert result.error is not None, (name, result.text)
                assert session.state() == {"seen": []}, name
                assert session.call("probe", {"word": "é"}).text == '["é"]', name
        assert json.loads(beside.call("probe", {"word": name}).text)[-1] == name
        world.check()
    assert beside.state() == {"seen": names}
    assert shared.sessions._keeper is keeper  # no attack ended or stopped it
    assert keeper is not None
    assert keeper.process.poll() is None
    fresh = Sandbox({"probe": PROBE.replace("word):", "state, word):")}).open({})
    assert fresh.call("probe", {"word": "é"}).text == probe
    beside.close()
    fresh.close()


def without_layer(folder: Path) -> JailedKeepers:
    """Keepers whose runners try to stand behind the kernel's filter, and do not."""
    source = Path(sandbox_module.__file__).parent
    for name in ("runner.py", "language.py"):
        (folder / name).write_text((source / name).read_text())
    whole = (source / "seccomp.py").read_text()
    assert "return failed == 0" in whole
    (folder / "seccomp.py").write_text(
        whole.replace("return failed == 0", "return False").replace(
            "        failed: int = self._prctl", "        failed: int = 0 and self._prctl"
        )
    )
    pool = JailedKeepers()
    pool._work = str(folder / "runner.py")
    pool.sessions = Forks(folder / "runner.py", bare=True)
    return pool


@pytest.fixture(scope="module")
def unfiltered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JailedKeepers]:
    pool = without_layer(tmp_path_factory.mktemp("unfiltered"))
    assert pool.layers() == ("limits",)
    box = Sandbox({"f": "import os\ndef f():\n    return os.uname().sysname"}, rules=False)
    assert box.call("f", {}).error == "exception"  # the filter does not know this system call
    box._keepers = pool
    assert box.call("f", {}).text == '"Linux"'
    yield pool
    pool.sessions.close()
    pool.close()


@pytest.mark.parametrize(
    ("kind", "name", "source"), CASES, ids=[f"{kind}-{name}" for kind, name, _ in CASES]
)
def test_attack_without_seccomp(
    kind: str, name: str, source: str, world: World, unfiltered: JailedKeepers
) -> None:
    box = Sandbox({"tool": world.fill(source)}, require=(), **LIMITS)
    box._keepers = unfiltered
    result = box.call("tool", {})
    assert SECRET not in result.text
    assert MARK not in result.text
    if name not in HARMLESS:
        assert result.error is not None, result.text
    world.check()


ROOM = re.compile("descriptor|closed for room")
DESCRIPTORS = [(name, source) for _, name, source in CASES if ROOM.search(name)]


@pytest.mark.parametrize(("name", "source"), DESCRIPTORS, ids=[name for name, _ in DESCRIPTORS])
def test_no_descriptor_is_free_without_seccomp_and_rules(
    name: str, source: str, world: World, unfiltered: JailedKeepers
) -> None:
    box = Sandbox({"tool": world.fill(source)}, require=(), rules=False, **LIMITS)
    box._keepers = unfiltered
    result = box.call("tool", {})
    assert result.error is not None
    assert SECRET not in result.text
    world.check()


def test_the_attacks_are_many_and_none_is_there_twice() -> None:
    assert len({source for _, _, source in CASES}) == len(CASES) > 350
    assert len(set(EXPRESSIONS)) == len(EXPRESSIONS) > 80


@pytest.mark.sources
def test_the_table_of_the_docs_counts_these_cases() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()
    counts = Counter(kind for kind, _, _ in CASES) + Counter({"calculator": len(EXPRESSIONS)})
    for kind, count in counts.items():
        assert f"| `{kind}` | {count} |" in page
    assert f"{len(CASES)} functions" in page


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=range(len(EXPRESSIONS)))
def test_attack_on_the_calculator(expression: str, world: World) -> None:
    try:
        answer = calculate(world.fill(expression))
    except ToolError as error:
        answer = str(error)
    assert SECRET not in answer
    assert len(answer) < 6_000
    world.check()


def test_the_attacks_would_work_outside(world: World) -> None:
    """A canary that nothing can touch would prove nothing."""
    program = compile(world.fill("with open('@SECRET@') as f: found = f.read()"), "attack", "exec")
    names: dict[str, str] = {}
    exec(program, names)
    assert names["found"] == SECRET


def test_values_come_back_as_json() -> None:
    source = "import decimal, datetime\ndef give(kind):\n    return VALUES[kind]\n"
    source += "VALUES = {'d': decimal.Decimal('1.50'), 't': (1, None), 'u': 'é\\u2028',"
    source += "'day': datetime.date(2024, 2, 29), 'half': '\\ud800', 'int': 2 ** 70}"
    box = Sandbox({"give": source})
    expected = {"d": "1.50", "t": [1, None], "u": "é\u2028", "day": "2024-02-29"}
    expected |= {"half": "\ud800", "int": 2**70}
    assert {
        kind: json.loads(box.call("give", {"kind": kind}).text) for kind in expected
    } == expected


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        ("return 1 / 0", "exception", "f raised ZeroDivisionError: division by zero"),
        ("raise KeyError", "exception", "f raised KeyError"),
        ("return {1}", "result", "type set"),
        ("return float('inf')", "result", "not JSON compliant"),
        ("return 'x' * 60", "output", "returned 62 characters; at most 50 are allowed"),
        ("while True: pass", "timeout", "f was ended after 0.3 seconds"),
        ("return len('x' * 10 ** 9)", "memory", "at most 64 MB"),
        ("import os", "refused", "line 2: module 'os' is not available"),
        ("return f.__code__", "refused", "line 2: names such as '__code__' are not available"),
        ("return (", "refused", "was never closed"),
    ],
)
def test_a_failure_is_a_kind_and_a_text(body: str, kind: str, says: str) -> None:
    box = Sandbox({"f": f"def f():\n    {body}"}, output_chars=50, **LIMITS)
    result = box.call("f", {})
    assert (result.error, says in result.text) == (kind, True), result.text
    assert result.text.startswith("Error: ")


def test_wrong_arguments_are_the_callers_text() -> None:
    box = Sandbox({"f": "def f(a):\n    return a"})
    assert "unexpected keyword argument 'b'" in box.call("f", {"b": 1}).text
    assert box.call("f", {"a": {1}}).error == "arguments"
    assert box.call("f", {"a": "x" * 2_000_000}).error == "arguments"
    with pytest.raises(UnknownNameError, match="known: f"):
        box.call("g", {})


def test_ordinary_python_passes_the_rules() -> None:
    source = '''
from __future__ import annotations
import datetime
import decimal
import functools
import re
from collections import Counter, defaultdict, namedtuple
from collections.abc import Mapping
from typing import Any

Point = namedtuple("Point", "x y")

class Account:
    """A small class."""
    rate: float = 0.5

    def __init__(self, owner: str) -> None:
        super().__init__()
        self._owner = owner
        self.items = defaultdict(list)

    @property
    def owner(self) -> str:
        return self._owner.title()

    def __len__(self) -> int:
        return len(self.items)

def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

@logged
def tool(name: str, days: int = 1, **rest: Any) -> Mapping[str, Any]:
    account = Account(name)
    account.last, tool.calls = name, 1
    account.rate += 0.5
    decimal.getcontext().prec = 6
    account.items["a"] += [n ** 2 for n in range(days) if n % 2]
    day = datetime.datetime.strptime("2024-02-28", "%Y-%m-%d") + datetime.timedelta(days)
    try:
        {}["missing"]
    except KeyError as error:
        kind = type(error).__name__
    match rest:
        case {"mode": str() as mode}:
            pass
        case _:
            mode = "none"
    best = max(Counter(re.findall("[a-z]", name)).items(), key=lambda pair: (pair[1], pair[0]))
    return {
        "owner": account.owner, "n": len(account), "day": day.strftime("%d %B"), "kind": kind,
        "text": "{0:>5}|{name!r}|{d[a_b]}|{t._fields}".format(
            1.25, name=name, d={"a_b": 2}, t=Point(1, 2)
        ),
        "f": f"{days:03d}",
        "mode": mode, "best": best, "point": Point(1, 2)._asdict(), "name": tool.__name__,
    }
'''
    result = Sandbox({"tool": source}).call("tool", {"name": "anna", "days": 2, "mode": "fast"})
    assert result.error is None, result.text
    assert json.loads(result.text) == {
        **{"owner": "Anna", "n": 1, "day": "01 March", "kind": "KeyError", "f": "002"},
        **{"text": " 1.25|'anna'|2|('x', 'y')", "mode": "fast", "best": ["n", 2], "name": "tool"},
        "point": {"x": 1, "y": 2},
    }


def test_each_call_starts_from_the_same_state() -> None:
    source = "import random\nseen = []\ndef f():\n    seen.append(1)\n    return [len(seen), "
    source += "random.random(), list({'a', 'b', 'c', 'd'})]"
    box = Sandbox({"f": source})
    texts = {box.call("f", {}).text for _ in range(4)}
    other = JailedKeepers()
    try:
        reply = other.call(request("f", source, other), 10, 64, 1_000, rules=True)
    finally:
        other.close()
    assert reply is not None
    assert texts == {reply[1:].decode()}  # also in another interpreter


def test_check_names_the_functions_that_cannot_be_called() -> None:
    box = Sandbox({"a": "def a():\n    return 1", "b": "import socket", "c": "x = 1"}, **LIMITS)
    problems = box.check()
    assert sorted(problems) == ["b", "c"]
    assert "'socket'" in problems["b"]
    assert "defines no function" in problems["c"]


def test_neighbours_do_not_notice_a_runaway_call() -> None:
    quick = Sandbox({"f": "def f(n):\n    return n + 1"})
    slow = Sandbox({"g": "def g():\n    while True: pass"}, timeout=0.5)
    ended: list[str | None] = []
    thread = threading.Thread(target=lambda: ended.append(slow.call("g", {}).error))
    thread.start()
    while thread.is_alive():
        assert quick.call("f", {"n": 1}).text == "2"
    thread.join()
    assert ended == ["timeout"]


def test_a_killed_keeper_is_replaced() -> None:
    box = Sandbox({"f": "def f():\n    return 1"})
    for keeper in shared.idle.children:
        keeper.process.kill()
        keeper.process.wait()
    assert box.call("f", {}).text == "1"


def test_a_runner_dies_with_its_keeper() -> None:
    pool = JailedKeepers()
    endless = request("f", "def f():\n    while True: pass", pool)
    (keeper,) = pool.idle.children
    call = threading.Thread(target=pool.call, args=(endless, 20, 64, 100), kwargs={"rules": True})
    call.start()
    while not (below := {p for p, up in parents().items() if up == keeper.process.pid}):
        time.sleep(0.01)
    keeper.process.kill()
    call.join()
    deadline = time.monotonic() + 5
    while below & set(parents()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not below & set(parents())
    pool.close()


FORKING = """
import os
from toolgym.sandbox import Sandbox
from toolgym.sandbox.sandbox import shared
box = Sandbox({"f": "import decimal\\ndef f(n): return n + 1"})  # not clean: a fork a call
print(box.call("f", {"n": 1}).text, shared.idle.children[0].process.pid, flush=True)
pid = os.fork()
print(box.call("f", {"n": 2}).text, shared.idle.children[0].process.pid, flush=True)
if pid == 0:
    shared.close()
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_a_forked_process_gets_keepers_of_its_own_and_none_stays() -> None:
    command = [sys.executable, "-W", "error", "-c", FORKING]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    values = [line.split() for line in done.stdout.splitlines()]
    assert sorted(value for value, _ in values) == ["2", "3", "3"]
    used = {int(pid) for _, pid in values}
    assert len(used) == 2
    assert not used & set(parents())


def test_a_tiny_memory_limit_is_still_reported() -> None:
    box = Sandbox({"f": "def f(n):\n    return len('x' * n)"}, memory_mb=1)
    assert box.call("f", {"n": 10**8}).error == "memory"
    assert box.call("f", {"n": 10}).text == "10"


def test_a_missing_layer_is_refused_unless_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_layers", ("limits",))
    with pytest.raises(BadInputError, match=r"'seccomp' is not available here .*require=\(\)"):
        Sandbox({})
    assert Sandbox({}, require=()).layers() == ("language", "limits")
    assert Sandbox({}, require=("limits",), rules=False).layers() == ("limits",)
    with pytest.raises(UnknownNameError, match="did you mean 'seccomp'"):
        Sandbox({}, require=("secomp",))


def test_nothing_runs_when_a_layer_that_stood_is_gone(tmp_path: Path) -> None:
    pool = without_layer(tmp_path)
    try:
        assert pool.layers() == ("limits",)
        pool._layers = ("limits", "seccomp")
        source = json.dumps({"name": "f", "source": "def f():\n    return 1"}).encode()
        assert pool.call(source, 10, 64, 1_000, rules=True) == b"d"
        box = Sandbox({"f": "def f(state=None):\n    return 1"})
        assert box.call("f", {}).text == "1"  # compiles it, in whole runners
        box._keepers = pool
        sandbox_module._IDLE.clear()
        assert box.call("f", {}).error == "died"
        assert box.open({}).call("f", {}).error == "died"
    finally:
        pool.sessions.close()
        pool.close()


def test_all_layers_stand_here() -> None:
    assert Sandbox({}, require=("language", "limits", "seccomp")).layers()[1:] == (
        "limits",
        "seccomp",
    )


@pytest.mark.parametrize("limit", [{"timeout": 0}, {"memory_mb": -1}, {"output_chars": 0}])
def test_limits_are_positive(limit: dict[str, int]) -> None:
    with pytest.raises(BadInputError, match="must be a positive number"):
        Sandbox({}, **limit)  # type: ignore[arg-type]


def test_an_endless_source_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadInputError, match="at most 100000"):
        Sandbox({"f": "#" * 100_001})


MANY = """
seen = []
def f(n):
    seen.append(n)
    if n == 2:
        raise ValueError("two")
    if n == 3:
        return float("nan")
    return [n, len(seen)]
"""


def test_many_calls_in_one_process_come_back_in_order() -> None:
    box = Sandbox({"f": MANY})
    asked = [{"n": 1}, {"n": 2}, {"n": {1, 2}}, {"n": 3}, {"n": "\ud800"}, {}]
    results = box.call_many("f", asked)
    assert [result.error for result in results] == [
        *(None, "exception", "arguments", "result", None, "exception")
    ]
    assert results[0].text == "[1, 1]"
    assert results[1].text == "Error: f raised ValueError: two."
    assert json.loads(results[4].text) == ["\ud800", 4]
    assert box.call("f", {"n": 1}).text == "[1, 1]"
    assert box.call_many("f", []) == []
    with pytest.raises(UnknownNameError):
        box.call_many("g", [{}])


def test_one_of_many_calls_may_return_no_more_than_alone() -> None:
    box = Sandbox({"f": "def f(n):\n    return '\"' * n"}, output_chars=1_000)
    fine = box.call_many("f", [{"n": 400}] * 50)
    assert [len(result.text) for result in fine] == [802] * 50
    assert [r.error for r in box.call_many("f", [{"n": 400}, {"n": 2_000}])] == [None, "output"]


def test_what_ends_the_process_ends_all_of_many_calls() -> None:
    source = "def f(n):\n    while n: pass\n    return n"
    results = Sandbox({"f": source}, timeout=0.2).call_many("f", [{"n": 0}, {"n": 1}])
    assert [result.error for result in results] == ["timeout", "timeout"]


@pytest.mark.parametrize(
    "forged", ["v[1, 2]", 'v[["v", "1"]]', "v{}", 'v[["v", "1"], ["v", "1}"]]']
)
def test_a_forged_answer_to_many_calls_must_still_be_one(forged: str) -> None:
    source = f"import os\ndef f():\n    os.write(3, {forged.encode()!r})\n    os._exit(0)"
    results = Sandbox({"f": source}, rules=False).call_many("f", [{}, {}])
    assert len(results) == 2
    assert results[1].error == "died"


def test_another_hash_seed_walks_over_sets_in_another_order() -> None:
    box = Sandbox({"f": "def f():\n    return list(set('abcdefghijkl'))"})
    other = box.reseeded(1)
    assert box.call("f", {}).text == box.call("f", {}).text
    assert other.call("f", {}).text == other.call("f", {}).text
    assert box.call("f", {}).text != other.call("f", {}).text


# Calls that leave nothing share a process with others of their sandbox.


def is_clean(source: str) -> bool:
    try:
        language.check(source)
    except (language.RefusedError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return language.leaves_nothing(source)


LASTING = [
    "import decimal\ndef f():\n    decimal.getcontext().prec = 3",
    "from calendar import setfirstweekday\ndef f():\n    setfirstweekday(3)",
    "import textwrap\ndef f():\n    textwrap.TextWrapper.unicode_whitespace_trans[97] = 98",
    "import collections.abc as a\ndef f():\n    a.Sized.register(int)",
    "import typing\ndef f():\n    match typing.Iterable:\n"
    "        case object(register=r):\n            r(int)",
    "import typing\ndef f():\n    return getattr(typing.Iterable, 'reg' + 'ister')(int)",
    "import typing\ndef f():\n    return [*map(getattr, [typing.Iterable], ['register'])][0](int)",
    "import re\ndef f():\n    re.RegexFlag._member_map_.clear()",
    "import typing\ndef f():\n    @typing.overload\n    def g(x): ...",
    "from typing import get_overloads as g\ndef f():\n    return g(f)",
    "from re import RegexFlag as R\ndef f():\n    match R.A:\n"
    "        case object(_member_map_=m):\n            m.clear()",
    "import datetime\nclass S(str):\n    def __hash__(self): return hash('%Y')\n"
    "    def __eq__(self, other): return True\n"
    "def f():\n    datetime.datetime.strptime('1', S('%m'))",
    "def g():\n    try:\n        yield 1\n    finally:\n        while True: pass\n"
    "def f():\n    held = [g()]\n    next(held[0])\n    held.append(held)",
]
CLEAN = [
    "def f():\n    return 1",
    "from __future__ import annotations\nimport json, math, re, typing, unicodedata\n"
    "from datetime import date\nTABLE = {'a': [1]}\n"
    "def f(x: int = 1) -> typing.Any:\n    TABLE['a'].append(x)\n    return TABLE",
    "def g():\n    yield 1\ndef f():\n    return list(g())",
    "def f():\n    try:\n        return 1 / 0\n    except ZeroDivisionError:\n        return 0",
]


@pytest.mark.parametrize("source", LASTING)
def test_what_may_outlive_a_call_is_not_clean(source: str) -> None:
    language.check(source)  # within the rules: this is why it has a process of its own
    assert not language.leaves_nothing(source)


@pytest.mark.parametrize("source", CLEAN)
def test_what_only_reads_the_library_is_clean(source: str) -> None:
    assert language.leaves_nothing(source)


def test_nothing_that_can_be_filled_is_reached_in_the_library() -> None:
    """By public attributes alone, which is all that a clean source has."""
    modules = language.public_modules()
    seen, found = set(), set()
    waiting = [(name, module) for name, module in modules.items()]
    while waiting:
        path, value = waiting.pop()
        if id(value) in seen or path.count(".") > 6:
            continue
        seen.add(id(value))
        if isinstance(value, list | dict | set | bytearray):
            found.add(path.partition(".")[0])
        if type(value) not in (int, float, complex, str, bytes, bool, type(None)):
            for word in dir(value):
                if not word.startswith("_"):
                    with contextlib.suppress(AttributeError):
                        waiting.append((f"{path}.{word}", getattr(value, word)))
    assert len(seen) > 800
    assert found <= {*language._LASTING, "__future__"}  # of which only names are imported


def test_no_clean_attack_is_noticed_by_the_next_call(world: World, probe: str) -> None:
    cases = [(name, world.fill(source)) for _, name, source in CASES]
    clean = [(name, source) for name, source in cases if is_clean(source)]
    assert len(clean) > 60
    asked = json.dumps({"word": "é"})
    for name, source in clean:
        box = Sandbox({"tool": source, "probe": PROBE}, **LIMITS)
        box.call("probe", {"word": "é"})
        result = box.call("tool", {})
        assert "tool" in box._clean, name
        assert MARK not in result.text, name
        session = box._opened({}, stated=False)
        assert session.called("probe", asked).text == probe
        session.called("tool", "{}")
        assert session.called("probe", asked).text == probe, name
        session.close()
        world.check()


class Nothing(set[str]):
    def __contains__(self, _: object) -> bool:
        return False


def test_clean_calls_share_a_process_and_say_what_others_say() -> None:
    sources = {
        "add": "SEEN = []\ndef add(n):\n    SEEN.append(n)\n    return SEEN",
        "roll": "import random\nFIRST = random.random()\ndef roll():\n"
        "    return [FIRST, random.random()]",
        "fail": "def fail(n):\n    raise ValueError('no' + '\\0' * n)",
        "leave": "def leave():\n    raise SystemExit(3)",
        "fill": "def fill(n):\n    return len('x' * n)",
        "spin": "def spin():\n    while True: pass",
        "wide": "def wide(n):\n    return 'x' * n",
        "odd": "def odd():\n    return {1, 2}",
        "deep": "def deep(n):\n    return deep(n - 1) if n else 0",
        "a.b-c": "def a_b_c():\n    return ['\\ud800']",
        "none": "other = 1",
    }
    calls = [
        *(("add", {"n": 1}), ("add", {"n": 2}), ("roll", {}), ("roll", {}), ("fail", {"n": 2})),
        *(
            ("leave", {}),
            ("fill", {"n": 10**9}),
            ("fill", {"n": 3}),
            ("spin", {}),
            ("wide", {"n": 50}),
        ),
        *(("wide", {"n": 5_000}), ("odd", {}), ("deep", {"n": 3}), ("deep", {"n": 5_000})),
        *(("a.b-c", {}), ("none", {}), ("add", {"wrong": 1}), ("add", {"n": 3})),
    ]
    for published in (False, True):
        box = Sandbox(sources, output_chars=1_000, published=published, timeout=0.5)
        together = [box.call(name, arguments) for name, arguments in calls]
        assert box._clean == set(sources)
        forked = Sandbox(sources, output_chars=1_000, published=published, timeout=0.5)
        forked._clean = Nothing()
        assert together == [forked.call(name, arguments) for name, arguments in calls]


def test_memory_that_earlier_calls_hold_does_not_end_a_call() -> None:
    source = "def fill(n):\n    held = ['x' * n]\n    held.append(held)\n    return len(held[0])"
    box = Sandbox({"fill": source}, memory_mb=64)
    for _ in range(6):
        assert box.call("fill", {"n": 30 << 20}).text == str(30 << 20)


def test_waiting_processes_are_few() -> None:
    boxes = [Sandbox({"f": f"def f():\n    return {n}"}) for n in range(40)]
    for n, box in enumerate(boxes):
        assert box.call("f", {}).text == str(n)
    assert len(sandbox_module._IDLE) <= sandbox_module._MOST_IDLE
    for n, box in enumerate(boxes):
        assert box.call("f", {}).text == str(n)


def test_threads_share_a_sandbox_whose_runners_are_killed_meanwhile() -> None:
    box = Sandbox({"f": "def f(n):\n    return [n] * 3"}, timeout=30)
    wrong = []
    done = threading.Event()

    def play(number: int) -> None:
        for n in range(30):
            result = box.call("f", {"n": [number, n]})
            if result.text != json.dumps([[number, n]] * 3):
                wrong.append(result)

    def kill() -> None:
        while not done.wait(0.02):
            for session in list(sandbox_module._IDLE):
                if session._process is not None:
                    with contextlib.suppress(ProcessLookupError, AttributeError):
                        os.kill(session._process.number, 9)

    killer = threading.Thread(target=kill)
    threads = [threading.Thread(target=play, args=(number,)) for number in range(16)]
    for thread in (killer, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    killer.join()
    assert not wrong


SHARING = """
import os
from toolgym.sandbox import Sandbox
box = Sandbox({"f": "def f(n): return n + 1"})
box.call("f", {"n": 1})
pid = os.fork()
for n in range(30):
    assert box.call("f", {"n": [n, n + 100][pid > 0]}).text == str([n, n + 100][pid > 0] + 1)
print("well", flush=True)
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_a_forked_process_gets_shared_runners_of_its_own() -> None:
    command = [sys.executable, "-W", "error", "-c", SHARING]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("well\nwell\n", "")
