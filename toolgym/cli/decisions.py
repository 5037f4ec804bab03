"""What is decided, and how many tasks that takes: ``toolgym plan-eval``, two runs, gates."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import BaseModel, Field

from toolgym.cli import options
from toolgym.cli.shell import print_json, stage_bars, table

if TYPE_CHECKING:
    from toolgym.evaluation import Comparison, Report
    from toolgym.evaluation.deciding import Decision, Passed

__all__ = [
    *("Deciding", "GateOption", "against_several", "are_runs", "compare_runs", "corrected_table"),
    *("end_at_gates", "gates_of", "plan_eval", "play_off"),
]


GateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gate",
        metavar="FIGURE>=BOUND",
        help="The interval's lower end (<=: upper end) has to keep a bound, such as "
        "exact_match>=0.3 (repeat). Exit code 6 where one does not.",
    ),
]
Share = Annotated[float | None, typer.Option("--accuracy", help="Assumed, such as 0.6.")]
Within = Annotated[
    float | None, typer.Option("--within", help="Half the interval's width, in points: 2.")
]
Change = Annotated[
    float | None, typer.Option("--change", help="That is to be found, in points: 3.")
]
Tasks = Annotated[int | None, typer.Option("--tasks", help="How many there are.")]
Correlation = Annotated[
    float, typer.Option("--correlation", help="Of a task's results in both runs.")
]
Unpaired = Annotated[bool, typer.Option("--unpaired", help="The runs have different tasks.")]
Intraclass = Annotated[
    float, typer.Option("--intraclass", help="Correlation of two samples of a task.")
]
Pilot = Annotated[
    Path | None, typer.Option("--pilot", help="A run that shows accuracy and spread.")
]
Against = Annotated[Path | None, typer.Option("--against", help="Its opponent on the same tasks.")]
Metric = Annotated[str, typer.Option("--metric", help="A figure from 0 to 1.")]
Power = Annotated[float, typer.Option("--power", help="Share of cases in which it is found.")]


def plan_eval(
    accuracy: Share = None,
    within: Within = None,
    change: Change = None,
    tasks: Tasks = None,
    correlation: Correlation = 0.5,
    unpaired: Unpaired = False,
    samples_per_task: options.SamplesOption = 1,
    intraclass: Intraclass = 0.5,
    pilot: Pilot = None,
    against: Against = None,
    metric: Metric = "accuracy",
    power: Power = 0.8,
    seed: options.SeedOption = 0,
    as_json: options.Json = False,
) -> None:
    """Say before a run how many tasks it takes, or what so many tasks can show."""
    from toolgym.evaluation import power as planning

    if (accuracy is None) == (pilot is None):
        raise typer.BadParameter("say --accuracy 0.6 or --pilot RUN, one of both")
    if against is not None and (pilot is None or unpaired):
        raise typer.BadParameter("--against goes with --pilot, and not with --unpaired")
    asked: dict[str, Any] = {"samples": samples_per_task, "power": power, "seed": seed}
    asked |= {"tasks": tasks, "correlation": None if unpaired else correlation}
    asked |= {"within": None if within is None else within / 100}
    asked |= {"change": None if change is None else change / 100}
    if pilot is None:
        spread = planning.Spread.assumed(float(accuracy or 0), intraclass)
    elif against is None:
        spread, _, _ = planning.spread_of(pilot, metric)
    else:
        spread, known = planning.spread_of_pair(pilot, against, metric)
        asked["variance_of_change"] = known.variance(samples_per_task)
    planned = planning.plan_evaluation(spread, **asked)
    if as_json:
        print_json(planned.to_dict())
    else:
        print(planned)


def gates_of(texts: Sequence[str] | None, found: Report | Comparison | Decision) -> list[Passed]:
    """How figures fare at the gates that options name."""
    from toolgym.evaluation.deciding import check_gates

    return check_gates(texts or (), found)


def end_at_gates(checked: Sequence[Passed]) -> None:
    """End with code 6 where one failed.

    Raises:
        GateError: at least one failed.
    """
    from toolgym.evaluation.deciding import require_gates

    require_gates(checked)


def against_several(run: Path, others: Sequence[Path], **how: Any) -> list[Comparison]:
    """A run compared with others, task by task."""
    from toolgym.evaluation import compare

    return [compare(other, run, **how) for other in others]


def corrected_table(others: Sequence[Path], comparisons: Sequence[Comparison]) -> str:
    """p-values of several comparisons, corrected for their number."""
    from toolgym.evaluation.compare import holm_by_metric

    rows = [
        [str(other), name, f"{found[name].p_value:.2g}", f"{value:.2g}"]
        for other, found, by in zip(others, comparisons, holm_by_metric(comparisons), strict=True)
        for name, value in by.items()
    ]
    return table(rows, ("against", "metric", "p", f"p of {len(others)} (Holm)"))


class Deciding(BaseModel):
    """What ``toolgym compare`` is told of two runs, or of two policies that play until ..."""

    until: Literal["decided"] | None = Field(
        None,
        description="Of two runs: after how many tasks it was decided which is better. With --env "
        "BASE and TUNED are policies, such as transformers:MODEL, that play until it is.",
    )
    metric: str | None = Field(None, description="Figure that decides, from 0 to 1: accuracy.")
    margin: float | None = Field(
        None, description="Decide on which side of this change it is, such as -0.01; else of 0."
    )
    gate: list[str] | None = Field(
        None,
        description="The change's interval has to keep a bound, such as accuracy>=-0.01 (repeat). "
        "Exit code 6 where one does not.",
    )
    samples_per_task: int | None = Field(None, description="Rollouts of each task, with --until.")
    concurrency: int | None = Field(None, description="Episodes at once, with --until.")


def are_runs(*folders: str) -> bool:
    """Whether all are folders of recorded runs."""
    return all((Path(folder) / "run.json").is_file() for folder in folders)


def compare_runs(
    before: Path, after: Path, seed: int, as_json: bool, other: Any = None, **deciding: Any
) -> None:
    """Two recorded runs, and after how many tasks it was decided which is better.

    Args:
        before: folder of the first.
        after: of the second.
        seed: of the bootstrap.
        as_json: how it is printed.
        other: options that are for models alone, where any was given.
        **deciding: what was said of `Deciding`.

    Raises:
        GateError: at least one failed.
    """
    from toolgym.evaluation import compare
    from toolgym.evaluation.deciding import decide

    if other:
        raise typer.BadParameter(
            "two run folders are compared as they are: --before, --after, --env, --episodes, "
            "--lm-eval and --out are for models"
        )
    for name in ("samples_per_task", "concurrency"):
        if name in deciding:
            raise typer.BadParameter(
                f"--{name.replace('_', '-')} is for policies that play, not for recorded runs"
            )
    gate = deciding.pop("gate", None)
    decision = None
    if deciding.pop("until", None):
        decision = decide(before, after, **deciding)
    elif deciding:
        raise typer.BadParameter("--metric and --margin go with --until decided")
    found = compare(before, after, seed=seed)
    _show(found, decision, gates_of(gate, found), as_json)


def play_off(
    envs: Sequence[str] | None,
    before: str,
    after: str,
    out: Path | None,
    seed: int,
    as_json: bool,
    told: dict[str, Any],
    **deciding: Any,
) -> None:
    """Two policies play in step until it is decided which is better.

    Args:
        envs: one environment.
        before: the first policy.
        after: the second.
        out: folder of both runs.
        seed: of the task order, all sampling, and the bootstrap.
        as_json: how it is printed.
        told: what both are told: ``env_args``, ``policy_args``, ``episodes``.
        **deciding: what was said of `Deciding`.

    Raises:
        GateError: at least one failed.
    """
    from toolgym.evaluation import compare
    from toolgym.evaluation.deciding import play_decided
    from toolgym.policies.base import make_policy

    if not deciding.pop("until", None) or envs is None or len(envs) != 1:
        raise typer.BadParameter(
            "--until decided takes two run folders, or two policies and one --env; --metric, "
            "--margin, --gate, --samples-per-task and --concurrency go with it"
        )
    gate = deciding.pop("gate", None)
    options.import_from_here()
    policy_args = told.pop("policy_args")
    told = {name: value for name, value in told.items() if value is not None}
    with contextlib.ExitStack() as opened:
        first = make_policy(before, **policy_args)
        opened.callback(first.close)
        second = make_policy(after, **policy_args)
        opened.callback(second.close)
        advance = opened.enter_context(stage_bars())
        told["progress"] = lambda side, done, planned: advance(side, done, planned, "")
        told |= deciding | {"out": out, "seed": seed}
        decision, old, new = play_decided(envs[0], first, second, **told)
    _show(compare(old, new, seed=seed), decision, gates_of(gate, decision), as_json)


def _show(
    found: Comparison, decision: Decision | None, checked: Sequence[Passed], as_json: bool
) -> None:
    if as_json:
        facts: dict[str, Any] = found.to_dict()
        facts |= {"decision": decision.to_dict()} if decision is not None else {}
        print_json(facts | ({"gates": [each.to_dict() for each in checked]} if checked else {}))
    else:
        print(found)
        for line in ([f"Stopping rule: {decision}"] if decision is not None else []) + [*checked]:
            print(f"\n{line}")
    end_at_gates(checked)
