"""Comparisons that stop when they are decided: false alarms, power, and episodes saved.

    python benchmarks/sequential.py                     # 10 000 comparisons of 2 000 tasks
    python benchmarks/sequential.py --quick             # 2 000 of 500
    TOOLGYM_DATA=data python benchmarks/sequential.py   # and the recorded real runs

1. Without a difference: how often one is seen at *any* time until the last task. Beside our bets,
   what many do: a test at 5 % after each task from the 30th on.
2. With a difference that a test of fixed size (exact McNemar) finds so often: power, and the
   median of the episodes that are saved. Beside our bets, two other martingales that are valid at
   any time: a mixture of constant bets (Waudby-Smith and Ramdas 2024, appendix B: diversified
   Kelly), and the mixture of sign tests over a Beta(1/2, 1/2) (Robbins 1970; Krichevsky and
   Trofimov 1981).
3. Recorded real runs: answers of a 3B model that searches (shared scores of 250 + 250 questions),
   in many drawn orders: the episodes that would have been enough.

Each simulated task is right or wrong in both runs; differences are -1, 0 and 1, or means of four
samples of a task. All figures come from fixed seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolgym._util.text import text_table
from toolgym.evaluation.intervals import mcnemar
from toolgym.sequential.betting import Bets, ConfidenceSequence

Floats = NDArray[np.float64]
Stops = NDArray[np.int64]
ALPHA = 0.05


@dataclass(frozen=True)
class Tasks:
    """How differences of a task are drawn.

    Args:
        moved: share of tasks, or of samples, that are right in one run alone.
        change: mean difference.
        samples: of each task.
    """

    moved: float
    change: float
    samples: int = 1

    def columns(self, repeats: int, count: int, seed: int) -> Iterator[Floats]:
        """[repeats] differences, for each task in turn."""
        rng = np.random.default_rng(seed)
        up, down = (self.moved + self.change) / 2, (self.moved - self.change) / 2
        for _ in range(count):
            drawn = rng.random((self.samples, repeats))
            yield ((drawn < up).astype(float) - (drawn > 1 - down)).mean(axis=0)


def stopped(capitals: Iterator[Floats], goal: float, horizon: int, repeats: int) -> Stops:
    """[repeats] the task at which the capital reached its goal; horizon + 1: never."""
    stops = np.full(repeats, horizon + 1)
    for task, capital in enumerate(capitals, 1):
        stops[(capital >= goal) & (stops > horizon)] = task
    return stops


def ours(tasks: Tasks, repeats: int, horizon: int, seed: int) -> Stops:
    """The bets of the library."""
    bets = Bets(np.full(repeats, 0.5), horizon=horizon)

    def capitals() -> Iterator[Floats]:
        for column in tasks.columns(repeats, horizon, seed):
            bets.add((column + 1) / 2)
            yield bets.capital.max(axis=0)

    return stopped(capitals(), bets.goal, horizon, repeats)


def constant_bets(tasks: Tasks, repeats: int, horizon: int, seed: int) -> Stops:
    """A mixture of constant bets, scaled to the horizon and the spread so far."""
    pulls = np.array([2.0, 3.0, 4.5, 7.0, 12.0])[:, None]

    def capitals() -> Iterator[Floats]:
        logs, squares = np.zeros((2, len(pulls), repeats)), np.zeros(repeats)
        for count, column in enumerate(tasks.columns(repeats, horizon, seed)):
            spread = (1 + squares) / (4 + count)
            stakes = np.minimum(pulls / np.sqrt(spread * horizon), 0.75)
            logs[0] += np.log1p(stakes * column)
            logs[1] += np.log1p(-stakes * column)
            squares += column**2
            flat = logs.reshape(-1, repeats)
            yield np.logaddexp.reduce(flat, axis=0) - math.log(len(flat))

    return stopped(capitals(), math.log(1 / ALPHA), horizon, repeats)


def signs(tasks: Tasks, repeats: int, horizon: int, seed: int) -> Stops:
    """The mixture of sign tests over a Beta(1/2, 1/2); for differences of -1, 0 and 1."""
    gamma = np.array([math.lgamma(n + 0.5) for n in range(horizon + 1)])
    whole = np.array([math.lgamma(n + 1) for n in range(horizon + 1)])

    def capitals() -> Iterator[Floats]:
        up, down = np.zeros(repeats, int), np.zeros(repeats, int)
        for column in tasks.columns(repeats, horizon, seed):
            up, down = up + (column > 0), down + (column < 0)
            mixed = gamma[up] + gamma[down] - whole[up + down] - math.log(math.pi)
            yield mixed + (up + down) * math.log(2)

    return stopped(capitals(), math.log(1 / ALPHA), horizon, repeats)


def peeking(tasks: Tasks, repeats: int, horizon: int, seed: int) -> Stops:
    """What is not valid: a test of fixed size at 5 % after each task from the 30th on."""

    def capitals() -> Iterator[Floats]:
        sums, squares = np.zeros(repeats), np.zeros(repeats)
        for count, column in enumerate(tasks.columns(repeats, horizon, seed), 1):
            sums, squares = sums + column, squares + column**2
            error = np.sqrt(np.maximum(squares - sums**2 / count, 1e-12))
            yield np.where(count >= 30, np.abs(sums) / error, 0.0)

    return stopped(capitals(), 1.96, horizon, repeats)


def fixed_size(tasks: Tasks, repeats: int, horizon: int, seed: int) -> float:
    """Power of the exact McNemar test after the last task."""
    up, down = np.zeros(repeats, int), np.zeros(repeats, int)
    for column in tasks.columns(repeats, horizon, seed):
        up, down = up + (column > 0), down + (column < 0)
    known: dict[tuple[int, int], bool] = {}
    for pair in zip(down.tolist(), up.tolist(), strict=True):
        if pair not in known:
            known[pair] = mcnemar(*pair) <= ALPHA
    return float(np.mean([known[pair] for pair in zip(down.tolist(), up.tolist(), strict=True)]))


Method = Callable[[Tasks, int, int, int], Stops]
RIVALS: dict[str, Method] = {"constant bets": constant_bets, "sign mixture": signs}


def false_alarms(repeats: int, horizon: int) -> None:
    """Part 1."""
    rows = []
    for name, tasks in (
        ("a fifth of the tasks differs", Tasks(0.2, 0.0)),
        ("one task in fifty differs", Tasks(0.02, 0.0)),
        ("half of them, four samples a task", Tasks(0.5, 0.0, 4)),
    ):
        begin = time.process_time()
        rate = float((ours(tasks, repeats, horizon, 1) <= horizon).mean())
        seconds = time.process_time() - begin
        error = 1.96 * math.sqrt(rate * (1 - rate) / repeats)
        looked = float((peeking(tasks, repeats, horizon, 1) <= horizon).mean())
        cells = f"{rate:.2%} +- {error:.2%}", f"{looked:.1%}", f"{seconds:.0f} s"
        rows.append([name, *cells])
    head = ("no difference", "false alarms, ours", "a test after each task", "processor time")
    print(f"\n{repeats:,} comparisons of {horizon:,} tasks\n{text_table(head, rows)}", flush=True)


def power(repeats: int, horizon: int) -> None:
    """Part 2."""
    rows = []
    moved = 0.2
    for reach in (1.96, 2.8, 3.24, 4.3, 6.0):  # of the change, in its standard errors
        # d / sqrt((moved - d^2) / n) = reach
        change = reach * math.sqrt(moved / (horizon + reach**2))
        tasks = Tasks(moved, change)
        known = fixed_size(tasks, repeats, horizon, 2)
        cells = [f"{100 * change:.1f} points", f"{known:.1%}"]
        for method in (ours, *RIVALS.values()):
            stops = method(tasks, repeats, horizon, 2)
            share = float((stops <= horizon).mean())
            saved = 1 - float(np.median(np.minimum(stops, horizon))) / horizon
            cells.append(f"{share:.1%} ({share / known:.2f}), {saved:.0%}")
        rows.append(cells)
    head = ("difference", "fixed size", "ours", *RIVALS)
    print(f"\n{repeats:,} comparisons of at most {horizon:,} tasks, a fifth of which differs")
    print("power (beside that of the fixed size), median of the episodes saved")
    print(text_table(head, rows), flush=True)


def real_runs(folder: Path, orders: int) -> None:
    """Part 3."""
    scores = {}
    for name in ("popqa", "triviaqa"):
        lines = (folder / f"search-r1-{name}.jsonl").read_text("utf-8").splitlines()
        scores[name] = np.array([json.loads(line)["scores"]["em"] for line in lines])
    rng = np.random.default_rng(4)
    rows = []
    for name, values in scores.items():
        for within in (0.1, 0.08):
            counts, held = [], 0
            for order in range(orders):
                sequence = ConfidenceSequence(within=within)
                for value in values if order == 0 else rng.permutation(values):
                    sequence.add(float(value))
                    low, high = sequence.interval
                    if high - low <= 2 * within:
                        break
                counts.append(sequence.count if high - low <= 2 * within else len(values) + 1)
                held += low <= values.mean() <= high
            question = f"exact match of {name} ({values.mean():.1%}) within {100 * within:g} points"
            rows.append([question, *_enough(counts, len(values)), f"{held} of {orders} hold"])
    pairs = np.stack([scores["triviaqa"], scores["popqa"]])
    counts = []
    for order in range(orders):
        drawn = pairs if order == 0 else rng.permuted(pairs, axis=1)
        bets = Bets(0.5, horizon=pairs.shape[1])
        enough = pairs.shape[1] + 1
        for task, (one, other) in enumerate(drawn.T, 1):
            bets.add((one - other + 1) / 2)
            if bets.capital.max() >= bets.goal:
                enough = task
                break
        counts.append(enough)
    question = "exact match of triviaqa above that of popqa"
    rows.append(
        [
            question,
            *_enough(counts, pairs.shape[1]),
            f"{sum(c <= 250 for c in counts)} of {orders} decided",
        ]
    )
    head = ("question", "as recorded", "median", "90 %", f"{orders} orders")
    print(f"\nRecorded real runs of 250 episodes: those that were enough\n{text_table(head, rows)}")


def _enough(counts: list[int], most: int) -> list[str]:
    wanted = counts[0], int(np.median(counts)), int(np.quantile(counts, 0.9))
    return [str(count) if count <= most else f"over {most}" for count in wanted]


def main() -> None:
    """Read the options and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 000 comparisons of 500 tasks")
    quick = parser.parse_args().quick
    repeats, horizon = (2000, 500) if quick else (10_000, 2000)
    false_alarms(repeats, horizon)
    power(2000, horizon)
    data = os.environ.get("TOOLGYM_DATA")
    if data:
        real_runs(Path(data) / "recorded-runs", 10 if quick else 100)
    else:
        print("\nTOOLGYM_DATA is not set: no recorded runs")


if __name__ == "__main__":
    main()
