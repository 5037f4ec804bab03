"""``python -m benchmarks.study --seeds 0 1 2 --out runs/study``: run the study, or resume it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from benchmarks.study.arms import ARMS, run_study
from benchmarks.study.page import summary_table, write_page
from toolgym.errors import ToolgymError
from toolgym.evaluation.document import to_markdown


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of the study."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--arms", nargs="+", default=list(ARMS), metavar="ARM", help=str(list(ARMS))
    )
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--out", default="runs/study")
    parser.add_argument("--page", metavar="FOLDER", help="write miniature.md and its drawings here")
    given = parser.parse_args(arguments)
    tell = partial(print, file=sys.stderr, flush=True)
    sizes = {"train": given.train, "test": given.test}
    try:
        found = run_study(given.out, seeds=given.seeds, arms=given.arms, **sizes, tell=tell)
    except ToolgymError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted; the same command goes on from here\n")
    print(to_markdown([summary_table(found)]))
    if given.page:
        print(write_page(found, given.page))


if __name__ == "__main__":
    main()
