"""SFT or DPO on a CPU: rows whose common beginning is read once, beside TRL's trainer as it is.

    python benchmarks/training.py ROWS [--model smollm2] [--at-once 2 4] [--updates 4] [--rounds 2]

ROWS are rows or pairs of an export, or of a round of self-training
(``round-1/selection/rows.jsonl``).
CPU seconds an update of eight rows, without the first one, in turn; the loss after the last update
says that both have learned the same.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from toolgym._util.jsonl import read_rows
from toolgym.policies.local.models import locate
from toolgym.training import beginnings
from toolgym.training.dpo import train_dpo
from toolgym.training.sft import train_sft

BATCH = 8


def measured(
    rows: list[dict[str, Any]], model: str, at_once: int, updates: int
) -> tuple[list[float], str]:
    """CPU seconds of each update but the first, and what is said of the last."""
    ends: list[tuple[float, str]] = []

    def tell(_done: int, _total: int, note: str) -> None:
        ends.append((time.process_time(), note))

    with tempfile.TemporaryDirectory() as folder:
        pairs = not rows[0].keys().isdisjoint({"rejected", "rejected_ids"})
        options: dict[str, Any] = {"max_updates": updates, "batch_size": BATCH, "max_length": 1024}
        options |= {"device_batch_size": at_once, "bf16": "fast"}
        options |= {"learning_rate": 2e-5 if pairs else 1e-4}
        train: Any = train_dpo if pairs else train_sft
        train(rows, model, Path(folder) / "model", progress=tell, **options)
    spent = [after[0] - before[0] for before, after in itertools.pairwise(ends)]
    return spent, ends[-1][1]


def main() -> None:
    """Measure in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--at-once", type=int, nargs="+", default=[2, 4], help="rows in memory")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    rows = [row for _, row in read_rows(given.rows, "rows")][: BATCH * given.updates]
    ours, found = beginnings.read_once, dict[tuple[str, int], tuple[list[float], str]]()
    for _ in range(given.rounds):
        for at_once in given.at_once:
            for name, make in (("TRL", lambda base, *_: base), ("ours", ours)):
                with (
                    patch("toolgym.training.sft.read_once", make),
                    patch("toolgym.training.dpo.read_once", make),
                ):
                    spent, note = measured(rows, locate(given.model), at_once, given.updates)
                before = found.get((name, at_once), ([], ""))[0]
                found[name, at_once] = ([*before, *spent], note)
    print(f"{'trainer':8}{'rows at once':>14}{'CPU s an update':>24}{'after the last':>18}")
    for (name, at_once), (spent, note) in found.items():
        shown = f"{statistics.median(spent):.1f} ({min(spent):.1f} to {max(spent):.1f})"
        print(f"{name:8}{at_once:14}{shown:>24}{note:>18}")
    for at_once in given.at_once:
        one, other = (statistics.median(found[name, at_once][0]) for name in ("TRL", "ours"))
        print(f"{at_once} at once: {one / other:.2f} times as fast")


if __name__ == "__main__":
    main()
