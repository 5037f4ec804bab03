"""Sandboxed calls: latency, calls a second, and how long after its deadline a call is ended.

    python benchmarks/sandbox.py

The same function is called in this process (no isolation at all), in the sandbox, and in a fresh
``python -I -S`` for each call, which is what many projects do. Where a call may leave something to
the next one, it has a runner of its own: a pause between calls is what a model's own time gives;
without one, a call waits until that is forked.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from toolgym.sandbox import Sandbox
from toolgym.sandbox.sandbox import shared

SOURCE = '''
import datetime

RATES = {"LHR": 120.0, "JFK": 210.5}

def book(origin: str, passengers: list, day: str) -> dict:
    """Book seats and say what they cost."""
    if not passengers:
        return {"status": "error", "message": "no passengers"}
    total = 0.0
    for person in passengers:
        total += RATES.get(origin, 50.0) * (0.5 if person["age"] < 12 else 1.0)
    leaves = datetime.date.fromisoformat(day) + datetime.timedelta(days=1)
    return {"status": "ok", "total": round(total, 2), "arrives": leaves.isoformat()}
'''
ARGUMENTS = {
    "origin": "LHR",
    "passengers": [{"name": "Ann", "age": 33}, {"name": "Bob", "age": 7}],
    "day": "2024-02-28",
}
FRESH = "import sys, json\nprint(json.dumps(book(**json.load(sys.stdin))))"
CALLS = 500
PAUSE = 0.02  # seconds


def in_process() -> Callable[[], Any]:
    """Our own function above, as trusted code."""
    names: dict[str, Any] = {}
    exec(compile(SOURCE, "benchmark", "exec"), names)
    return lambda: json.dumps(names["book"](**ARGUMENTS))


def fresh() -> str:
    """One interpreter for one call."""
    command = [sys.executable, "-I", "-S", "-c", SOURCE + FRESH]
    text = json.dumps(ARGUMENTS)
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def measured(call: Callable[[], Any], count: int, pause: float = 0.0) -> list[float]:
    """Seconds of each call, sorted."""
    taken = []
    for _ in range(count):
        time.sleep(pause)
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return sorted(taken)


def line(name: str, taken: list[float]) -> None:
    """One row: milliseconds at the median and the 99th of a hundred."""
    high = taken[min(len(taken) - 1, int(len(taken) * 0.99))]
    print(f"{name:44}{statistics.median(taken) * 1e3:10.3f}{high * 1e3:10.3f}")


def cold(box: Sandbox) -> None:
    """A call for which the interpreter has to start as well."""
    shared.close()
    box.call("book", ARGUMENTS)


def throughput(box: Sandbox, workers: int) -> float:
    """Calls a second from so many threads."""

    def work() -> None:
        for _ in range(CALLS):
            box.call("book", ARGUMENTS)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return workers * CALLS / (time.perf_counter() - begun)


def overruns(body: str, timeout: float = 0.2, count: int = 30) -> list[float]:
    """Seconds by which calls that never end outlive their deadline."""
    box = Sandbox({"f": f"def f():\n    {body}"}, timeout=timeout)

    def call() -> None:
        result = box.call("f", {})
        assert result.error == "timeout", result

    return [seconds - timeout for seconds in measured(call, count)]


def main() -> None:
    """Run and print the tables."""
    box = Sandbox({"book": SOURCE})
    answer = box.call("book", ARGUMENTS)
    assert json.loads(answer.text) == json.loads(in_process()()), answer
    print(f"layers: {', '.join(box.layers())}")
    print(f"{'one call, milliseconds':44}{'median':>10}{'p99':>10}")
    line("in this process, no isolation", measured(in_process(), CALLS))
    line("sandbox, a shared runner", measured(lambda: box.call("book", ARGUMENTS), CALLS))
    box = Sandbox({"book": "import decimal" + SOURCE})  # whose settings a call may change
    line(
        f"sandbox, a runner each, {PAUSE * 1e3:g} ms between",
        measured(lambda: box.call("book", ARGUMENTS), CALLS, PAUSE),
    )
    line("sandbox, a runner each", measured(lambda: box.call("book", ARGUMENTS), CALLS))
    line("sandbox, cold (its interpreter starts)", measured(lambda: cold(box), 20))
    line("a fresh interpreter a call", measured(fresh, 40))
    print(f"\n{'calls a second':44}")
    for workers in (1, 2):
        shown = f"a runner each, {workers} at a time"
        print(f"{shown:44}{throughput(box, workers):10.0f}")
    print(f"\n{'ended after the deadline by, milliseconds':44}{'median':>10}{'p99':>10}")
    line("endless loop", overruns("while True: pass"))
    line("endless loop in C", overruns("return sum(iter(int, 1))"))
    line("power tower", overruns("return 9 ** 9 ** 9"))
    line("regular expression", overruns("import re; re.match('(a+)+$', 'a' * 60 + 'b')"))


if __name__ == "__main__":
    main()
