"""Calculator against its peers: microseconds an expression, and how many answers are right.

    python benchmarks/calculator.py

Expressions are the annotations of ``$TOOLGYM_DATA/gsm8k/train.jsonl`` when that is set, and made up
otherwise. Peers that are not installed are named and left out. Some peers execute what they are
given, so they see these expressions only, never a model's.
"""

from __future__ import annotations

import importlib
import io
import os
import random
import re
import statistics
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from toolgym._jsonl import read_rows
from toolgym.tools.calculator import calculate

COUNT = 1_000  # expressions
ROUNDS = 5
HARD = ["12,500*2", "53*06", "15% of 80", "2**70", "0.1+0.2", "$3.50 × 4", "x = 3*4", "7/2 ="]

Peer = Callable[[str], object]


def expressions() -> tuple[str, list[tuple[str, Fraction]]]:
    """Where they come from, and (expression, exact value)."""
    chosen = random.Random(0)
    folder = os.environ.get("TOOLGYM_DATA")
    if folder:
        answers = (row["answer"] for _, row in read_rows(Path(folder) / "gsm8k" / "train.jsonl"))
        found = [pair.rpartition("=") for a in answers for pair in re.findall(r"<<(.*?)>>", a)]
        pairs = [(left, Fraction(right)) for left, _, right in found]
        return "GSM8K annotations", chosen.sample(pairs, COUNT)
    made = [(chosen.randint(1, 999), chosen.randint(1, 999)) for _ in range(COUNT)]
    return "made-up sums of products", [(f"{a}*{b}+{a}/4", a * b + Fraction(a, 4)) for a, b in made]


def peers() -> tuple[dict[str, Peer], list[str]]:
    """Those that are installed, and the names of the others."""
    makers: dict[str, Callable[[], Peer]] = {
        "simpleeval": lambda: importlib.import_module("simpleeval").simple_eval,
        "asteval": lambda: importlib.import_module("asteval").Interpreter(
            minimal=True, err_writer=io.StringIO()
        ),
        "numexpr (the paper's)": lambda: importlib.import_module("numexpr").evaluate,
        "sympy.sympify": lambda: importlib.import_module("sympy").sympify,
    }
    found: dict[str, Peer] = {"toolgym": calculate}
    missing = []
    for name, make in makers.items():
        try:
            found[name] = make()
        except ModuleNotFoundError:
            missing.append(name)
    return found, missing


def is_right(peer: Peer, expression: str, value: Fraction) -> bool:
    """Whether the answer is the exact value up to a double's rounding."""
    try:
        return abs(float(str(peer(expression))) - float(value)) <= 1e-9 * max(1, abs(float(value)))
    except Exception:  # whatever a peer raises is its answer
        return False


def microseconds(peer: Peer, texts: list[str]) -> float:
    """The median over rounds of the mean of one call."""
    means = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for text in texts:
            peer(text)
        means.append((time.perf_counter() - begun) / len(texts) * 1e6)
    return statistics.median(means)


def main() -> None:
    """Run and print the table."""
    source, pairs = expressions()
    found, missing = peers()
    exact = [25_000, 318, 12, 2**70, Fraction(3, 10), 14, 12, Fraction(7, 2)]
    hard = list(zip(HARD, map(Fraction, exact), strict=True))
    print(f"{len(pairs)} {source}; {len(hard)} texts as models write them")
    print(f"{'':24}{'us':>8}{'ratio':>8}{'right':>8}{'as written':>12}")
    ours = 0.0
    for name, peer in found.items():
        texts = [text for text, value in pairs if is_right(peer, text, value)]
        cost = microseconds(peer, texts)
        ours = ours or cost
        understood = sum(is_right(peer, text, value) for text, value in hard)
        right = len(texts) / len(pairs)
        print(f"{name:24}{cost:8.1f}{cost / ours:8.2f}{right:8.1%}{understood:9}/{len(hard)}")
    if missing:
        print(f"not installed, so not measured: {', '.join(missing)}")


if __name__ == "__main__":
    main()
