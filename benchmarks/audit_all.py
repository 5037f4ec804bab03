"""Audits of all own environments, reasoning-gym's data sets, skyrl-gym's environments, and GSM8K.

    python -m benchmarks.audit_all FOLDER [--only TEXT] [--tasks 16]

Writes a page for each into FOLDER and a line each to FOLDER/all.jsonl; what stands there already is
not played again. GSM8K's and TriviaQA's files are read from TOOLGYM_DATA; the database for
skyrl-gym's text2sql is made in FOLDER/sql, and its lcb has small programming tasks of our own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolgym import audit
from toolgym.errors import ToolgymError
from toolgym.registry import ENVIRONMENTS

Job = tuple[str, str, dict[str, Any]]
_CITIES = (
    ("Arle", "Nord", 120, 1.5), ("Brix", "Nord", 45, 0.8), ("Cern", "Sund", 310, 3.2),
    ("Dolm", "Sund", 45, 0.4), ("Esk", "West", 78, 2.5), ("Fyrn", "West", 12, 0.1),
    ("Gant", "West", 260, 1.1), ("Hild", "Ost", 5, 0.2), ("Ivel", "Ost", 150, 4.0),
)  # fmt: skip
"""Name, region, thousands of people, area in hundreds of square kilometres."""
_LINES = (
    (1, "Arle", "Brix", 34), (2, "Brix", "Cern", 120), (3, "Cern", "Dolm", 18),
    (4, "Dolm", "Esk", 77), (5, "Esk", "Fyrn", 9), (6, "Fyrn", "Gant", 41),
    (7, "Arle", "Cern", 140), (8, "Gant", "Hild", 203), (9, "Hild", "Ivel", 25),
)  # fmt: skip
"""Number, both ends and kilometres of railway lines."""
_QUERIES = (
    ("How many cities are there?", "SELECT count(*) FROM city"),
    ("Which cities have over 200 thousand people?", "SELECT name FROM city WHERE people > 200"),
    ("How many thousands live in each region?",
     "SELECT region, sum(people) FROM city GROUP BY region"),
    ("Name all cities of Sund.", "SELECT name FROM city WHERE region = 'Sund'"),
    ("Which city is the smallest by people?",
     "SELECT name FROM city WHERE people = (SELECT min(people) FROM city)"),
    ("List all cities, the largest by people first, then by name.",
     "SELECT name FROM city ORDER BY people DESC, name"),
    ("How long is the longest line?", "SELECT max(km) FROM line"),
    ("Which lines begin in Arle?", "SELECT number FROM line WHERE origin = 'Arle'"),
    ("How many lines end in Cern?", "SELECT count(*) FROM line WHERE target = 'Cern'"),
    ("Which regions have three cities?",
     "SELECT region FROM city GROUP BY region HAVING count(*) = 3"),
    ("How many km do all lines have?", "SELECT sum(km) FROM line"),
    ("Which cities does no line begin in?",
     "SELECT name FROM city WHERE name NOT IN (SELECT origin FROM line)"),
    ("Give each line's number and the people of the city where it begins.",
     "SELECT number, people FROM line JOIN city ON city.name = line.origin"),
    ("How many different numbers of people are there?",
     "SELECT count(DISTINCT people) FROM city"),
    ("Which city has the most people for its area?",
     "SELECT name FROM city ORDER BY people / area DESC LIMIT 1"),
    ("What is the mean area of a city in West?",
     "SELECT avg(area) FROM city WHERE region = 'West'"),
    ("Which lines are between 30 and 80 km long?",
     "SELECT number FROM line WHERE km BETWEEN 30 AND 80"),
    ("Which cities begin with a letter after F?", "SELECT name FROM city WHERE name >= 'G'"),
)  # fmt: skip
_PROGRAMS = (
    ("the sum of all integers", "print(sum(map(int, input().split())))",
     {"1 2 3": "6", "-4 4": "0", "10": "10"}),
    ("the text backwards", "print(input()[::-1])", {"abc": "cba", "level up": "pu level"}),
    ("the number of vowels (aeiou)", "print(sum(c in 'aeiou' for c in input()))",
     {"banana": "3", "rhythm": "0", "queue": "4"}),
    ("the largest integer", "print(max(map(int, input().split())))", {"3 9 2": "9", "-5 -7": "-5"}),
    ("the words in alphabetical order", "print(*sorted(input().split()))",
     {"pear fig apple": "apple fig pear", "b a": "a b"}),
    ("the n-th Fibonacci number, of which the first two are 1",
     "a, b = 0, 1\nfor _ in range(int(input())):\n    a, b = b, a + b\nprint(a)",
     {"1": "1", "10": "55", "30": "832040"}),
    ("yes where the text is a palindrome, no where not",
     "text = input()\nprint('yes' if text == text[::-1] else 'no')",
     {"noon": "yes", "moon": "no", "x": "yes"}),
    ("the greatest common divisor of two integers",
     "from math import gcd\nprint(gcd(*map(int, input().split())))", {"12 18": "6", "7 5": "1"}),
    ("the digits of n summed", "print(sum(map(int, input().strip())))", {"90210": "12", "7": "7"}),
    ("each line of two, exchanged", "first = input()\nprint(input())\nprint(first)",
     {"a\nb": "b\na", "left\nright": "right\nleft"}),
    ("how many integers are even", "print(sum(int(x) % 2 == 0 for x in input().split()))",
     {"1 2 4": "2", "3 5": "0", "8": "1"}),
    ("n in binary", "print(format(int(input()), 'b'))", {"5": "101", "64": "1000000"}),
    ("the longest word, the first of equals", "print(max(input().split(), key=len))",
     {"a quick fox": "quick", "an ox": "an"}),
)  # fmt: skip
"""What a program prints of its input, a program that does, and tests."""
_FUNCTIONS = (
    ("double", "the numbers, each times two", "return [2 * each for each in values]",
     {"[1, 2]": "[2, 4]", "[]": "[]"}),
    ("spread", "the largest less the smallest", "return max(values) - min(values)",
     {"[4, 9, 1]": "8", "[5]": "0"}),
    ("peaks", "how many are larger than both neighbours",
     "return sum(a < b > c for a, b, c in zip(values, values[1:], values[2:]))",
     {"[1, 3, 2, 5, 4]": "2", "[1, 2, 3]": "0"}),
    ("unique", "each number once, sorted", "return sorted(set(values))",
     {"[3, 1, 3]": "[1, 3]", "[2]": "[2]"}),
    ("running", "the running sums", "return list(accumulate(values))",
     {"[1, 2, 3]": "[1, 3, 6]", "[5]": "[5]"}),
)  # fmt: skip
"""Name, what it returns of a list of integers, its body, and tests."""


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _prompt(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def text2sql(folder: Path) -> Job:
    """skyrl-gym's text2sql over a small database, in the layout that Spider's files have there."""
    file = folder / "spider" / "database" / "land" / "land.sqlite"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        base = sqlite3.connect(file)
        base.execute("CREATE TABLE city (name TEXT, region TEXT, people INTEGER, area REAL)")
        base.execute("CREATE TABLE line (number INTEGER, origin TEXT, target TEXT, km INTEGER)")
        base.executemany("INSERT INTO city VALUES (?, ?, ?, ?)", _CITIES)
        base.executemany("INSERT INTO line VALUES (?, ?, ?, ?)", _LINES)
        base.commit()
        base.close()
    schema = "city(name, region, people, area), line(number, origin, target, km)"
    rows = []
    for number, (question, gold) in enumerate(_QUERIES):
        spec = {"reward_spec": {"ground_truth": gold}, "db_id": "land", "data": "spider"}
        asked = _prompt(f"Tables: {schema}. Write a query: {question}")
        rows.append({"id": f"sql-{number}", "prompt": asked, "max_turns": 3, **spec})
    form = "<think>The query is clear.</think><solution>{}</solution>"
    given: dict[str, Any] = {"env_args": {"db_path": str(folder)}, "reward_range": (-1.0, 1.0)}
    return "text2sql", "skyrl:text2sql", {"rows": rows, "form": form, "turns": 3, **given}


def lcb() -> Job:
    """skyrl-gym's lcb (LiveCodeBench) over small tasks: programs, and functions of a class."""
    rows: list[tuple[str, str, list[dict[str, Any]]]] = []
    for what, code, tests in _PROGRAMS:
        cases: list[dict[str, Any]] = [
            {"input": i, "output": o, "testtype": "stdin"} for i, o in tests.items()
        ]
        rows.append(
            (f"Write a Python program that reads its input and prints {what}.", code, cases)
        )
    for name, what, body, tests in _FUNCTIONS:
        kind: dict[str, Any] = {"testtype": "functional", "metadata": {"func_name": name}}
        cases = [{"input": i, "output": o, **kind} for i, o in tests.items()]
        code = f"class Solution:\n    def {name}(self, values: List[int]):\n        {body}"
        asked = f"Write a class Solution whose method {name} takes a list of integers and returns "
        rows.append((asked + what + ".", code, cases))
    told = [
        {"id": f"lcb-{number}", "prompt": _prompt(asked), "gold": code,
         "reward_spec": {"ground_truth": json.dumps(cases)}}
        for number, (asked, code, cases) in enumerate(rows)
    ]  # fmt: skip
    form = "```python\n{}\n```"
    return "lcb", "skyrl:lcb", {"rows": told, "form": form, "reward_range": (0.0, 1.0), "turns": 1}


def skyrl(data: Path) -> Iterator[Job]:
    """Environments of skyrl-gym over real questions."""
    sums = []
    for number, row in enumerate(_rows(data / "gsm8k" / "test-300.jsonl")):
        truth = row["answer"].rpartition("#### ")[2].strip().replace(",", "")
        spec = {"reward_spec": {"ground_truth": truth}, "reward_model": {"ground_truth": truth}}
        asked = _prompt(row["question"] + ' Write the final answer after "####".')
        extra: dict[str, Any] = {"extra_info": {"max_turns": 3}, "max_turns": 3}
        sums.append({"id": f"gsm8k-{number}", "prompt": asked, **spec, **extra})
    facts = []
    for number, row in enumerate(_rows(data / "triviaqa" / "dev.jsonl")[:300]):
        told = {"reward_spec": {"ground_truth": {"target": row["answers"]}}, "max_turns": 2}
        facts.append({"id": f"trivia-{number}", "prompt": _prompt(row["question"]), **told})
    whole = {"reward_range": (0.0, 1.0), "turns": 3}
    for name in ("gsm8k", "gsm8k_multi_turn"):
        yield name, f"skyrl:{name}", {"rows": sums, "form": "#### {}", **whole}
    form = "<solution>#### {}</solution>"
    yield "searchcode", "skyrl:searchcode", {"rows": sums, "form": form, **whole}
    aime = {"rows": sums, "form": "Answer: {}", "reward_range": (-1.0, 1.0)}
    yield "aime", "skyrl:aime", aime
    nowhere = {"log_requests": False, "search_url": "http://127.0.0.1:9/", "topk": 3, "timeout": 1}
    search = {"rows": facts, "form": "<answer>{}</answer>", "env_args": nowhere, **whole}
    yield "search", "skyrl:search", search


def jobs(folder: Path) -> Iterator[Job]:
    """All that can be audited with what is installed; databases are made in the folder."""
    for name in ENVIRONMENTS:
        yield name, name, {}
    if found := os.environ.get("TOOLGYM_DATA"):
        data = Path(found)
        train, test = (str(data / "gsm8k" / name) for name in ("train.jsonl", "test-300.jsonl"))
        yield "gsm8k-test", test, {"held_out": train}
        yield "gsm8k-train", train, {}
        if importlib.util.find_spec("skyrl_gym"):
            for name, env, given in skyrl(data):
                yield f"skyrl-{name}", env, given
    if importlib.util.find_spec("skyrl_gym"):
        for name, env, given in (text2sql(folder / "sql"), lcb()):
            yield f"skyrl-{name}", env, given
    if importlib.util.find_spec("reasoning_gym"):
        from reasoning_gym.factory import DATASETS

        for name in sorted(set(DATASETS) - {"composite"}):
            yield f"reasoning-gym-{name}", f"reasoning-gym:{name}", {}


def main() -> None:
    """Audit one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="names that hold this text")
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--deadline", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=120.0)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    file = asked.folder / "all.jsonl"
    done = {row["name"] for row in _rows(file)} if file.is_file() else set()
    limits = {name: getattr(asked, name) for name in ("tasks", "deadline", "seconds")}
    for name, env, given in jobs(asked.folder):
        if name in done or asked.only not in name:
            continue
        began = time.perf_counter()
        row: dict[str, Any] = {"name": name}
        try:
            report = audit(env, out=asked.folder / name, **limits, **given)
            row |= {"failed": report.failed, "report": report.to_dict()}
        except ToolgymError as error:
            row |= {"failed": [], "error": str(error)}
        row["seconds"] = round(time.perf_counter() - began, 1)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        print(
            f"{name}: {', '.join(row['failed']) or row.get('error', 'no check fails')}", flush=True
        )


if __name__ == "__main__":
    main()
