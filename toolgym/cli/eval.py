"""``toolgym eval``: the figures of a run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from toolgym.cli import options
from toolgym.cli.shell import print_json

__all__ = ["measure"]


class Normalisation(StrEnum):
    """How texts are compared."""

    PAPER = "paper"
    SQUAD = "squad"
    UNICODE = "unicode"


def measure(
    run: options.RunFolder,
    against: Annotated[
        Path | None, typer.Option("--against", help="An earlier run, compared task by task.")
    ] = None,
    normalisation: Annotated[
        Normalisation, typer.Option("--normalisation", help="How texts are compared.")
    ] = Normalisation.PAPER,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            help="Figures by a column of the tasks (repeat), such as shape, complexity or s_pop. "
            "[default: shape and complexity, for scenarios]",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Fixes the bootstrap.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Print a run's figures with 95 % intervals."""
    from toolgym.evaluation import compare, evaluate

    report = evaluate(run, normalisation=normalisation.value, seed=seed, by=by or None)
    change = None
    if against is not None:
        change = compare(against, run, normalisation=normalisation.value, seed=seed)
    if as_json:
        print_json(report.to_dict() | ({"change": change.to_dict()} if change else {}))
        return
    print(report)
    if change is not None:
        print(f"\nAgainst {against}\n{change}")
