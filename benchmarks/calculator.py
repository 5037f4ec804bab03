"""Calculator against its peers: microseconds an expression; right and wrong answers, and errors.

    python benchmarks/calculator.py

Expressions are the annotations of ``$TOOLGYM_DATA/gsm8k/train.jsonl`` when that is set, and made up
otherwise. Peers that are not installed are named and left out. Some peers execute what they are
given, so they see these expressions only, never a model's. Symbolic work is timed beside sympy in
this process, which has neither deadline nor limits, and beside a fresh interpreter a call.
"""

from __future__ import annotations

import importlib
import io
import os
import random
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

from toolgym._util.jsonl import read_rows
from toolgym.tools.calculator.tool import calculate

COUNT = 1_000  # expressions
ROUNDS = 5
HARD = {
    **{"12,500*2": 25_000, "53*06": 318, "15% of 80": 12, "2**70": 2**70, "2^10": 1_024},
    **{"0.1+0.2": Fraction(3, 10), "$3.50 × 4": 14, "x = 3*4": 12, "7/2 =": Fraction(7, 2)},
    **{"2(3+4)": 14, "5!": 120, "٣+٤": 7, "1½ + 5²": Fraction(53, 2), "√16 − 1": 3},
    **{
        "(1+2)(3+4)": 21,
        r"\frac{1}{2} \times 3": Fraction(3, 2),
        "1e3 ÷ 8": 125,
        "100/7": Fraction(100, 7),
    },
}
# Each as we read it, and as sympy does.
SYMBOLIC = {
    "diff(x^3*sin(x), x)": ("diff", "x**3*sin(x)"),
    "integrate(x^2, x, 0, 1)": ("integrate", "x**2", (0, 1)),
    "simplify((x^2-1)/(x-1))": ("simplify", "(x**2-1)/(x-1)"),
    "expand((x+1)^5)": ("expand", "(x+1)**5"),
    "factor(x^4-1)": ("factor", "x**4-1"),
    "solve(x^2-5x+6=0, x)": ("solve", "x**2-5*x+6"),
}

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


def verdict(peer: Peer, expression: str, value: Fraction) -> str:
    """``right`` up to a double's rounding, ``wrong``, or ``error``."""
    try:
        answer = float(str(peer(expression)).rpartition("≈")[2])
    except Exception:  # whatever a peer raises is its answer
        return "error"
    return "right" if abs(answer - float(value)) <= 1e-9 * max(1, abs(float(value))) else "wrong"


def counts(peer: Peer, pairs: Iterable[tuple[str, Fraction]]) -> str:
    """Right / wrong / errors."""
    found = Counter(verdict(peer, text, value) for text, value in pairs)
    return " / ".join(str(found[kind]) for kind in ("right", "wrong", "error"))


def microseconds(peer: Peer, texts: list[str]) -> float:
    """The median over rounds of the mean of one call."""
    means = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for text in texts:
            peer(text)
        means.append((time.perf_counter() - begun) / len(texts) * 1e6)
    return statistics.median(means)


def symbolic_table() -> None:
    """Milliseconds a request: ours warm and cold, sympy in this process and in a fresh one."""
    import sympy

    x = sympy.Symbol("x")

    def inside(name: str, text: str, bounds: tuple[int, int] | None = None) -> object:
        work = getattr(sympy, name)
        expression = sympy.sympify(text)
        if name in ("diff", "integrate", "solve"):
            return work(expression, (x, *bounds) if bounds else x)
        return work(expression)

    begun = time.perf_counter()
    calculate(next(iter(SYMBOLIC)))
    cold = (time.perf_counter() - begun) * 1e3
    print(f"\nwork with variables, ms: first call of a process {cold:.0f} (it imports sympy)")
    print(f"{'':28}{'ours':>8}{'sympy here':>12}{'ratio':>8}{'fresh process':>15}")
    for text, arguments in SYMBOLIC.items():
        ours = milliseconds(lambda text=text: calculate(text))
        here = milliseconds(lambda arguments=arguments: inside(*arguments))
        program = f"import sympy; x = sympy.Symbol('x'); sympy.{arguments[0]}(x)"
        command = [sys.executable, "-c", program]
        fresh = milliseconds(lambda command=command: subprocess.run(command, check=True), 2)
        print(f"{text:28}{ours:8.1f}{here:12.1f}{ours / here:8.1f}{fresh:15.0f}")


def milliseconds(call: Callable[[], object], rounds: int = 15) -> float:
    """The median of one call."""
    spent = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        spent.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(spent)


def main() -> None:
    """Run and print the tables."""
    warnings.simplefilter("ignore")  # of peers, about what they were given
    source, pairs = expressions()
    found, missing = peers()
    hard = [(text, Fraction(value)) for text, value in HARD.items()]
    print(f"{len(pairs)} {source}; {len(hard)} texts as models write them")
    heads = ("right / wrong / error", "as models write")
    print(f"{'':24}{'us':>8}{'ratio':>8}{heads[0]:>24}{heads[1]:>18}")
    ours = 0.0
    for name, peer in found.items():
        texts = [text for text, value in pairs if verdict(peer, text, value) == "right"]
        cost = microseconds(peer, texts)
        ours = ours or cost
        row = f"{name:24}{cost:8.1f}{cost / ours:8.2f}"
        print(f"{row}{counts(peer, pairs):>24}{counts(peer, hard):>18}")
    if missing:
        print(f"not installed, so not measured: {', '.join(missing)}")
    if "sympy.sympify" in found:
        symbolic_table()


if __name__ == "__main__":
    main()
