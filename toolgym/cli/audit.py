"""Environments under test: ``toolgym audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from toolgym.cli import options
from toolgym.cli.episodes import environment_arguments
from toolgym.cli.shell import print_json, stage_bars

__all__ = ["FAILED", "audit_env"]

FAILED = 6
"""Exit code where a check fails."""

Env = Annotated[
    str,
    typer.Argument(
        help="An id of ours or of gymnasium, reasoning-gym:NAME, skyrl:NAME, openenv:module:Class, "
        "verifiers:MODULE, module:function that makes an environment, or a .jsonl file of tasks."
    ),
]


Reward = Annotated[
    str | None,
    typer.Option("--reward", help="Of a file of tasks: a reward's name, or module:function."),
]
HeldOut = Annotated[
    str | None, typer.Option("--held-out", help="File of the other split, for overlap.")
]
Question = Annotated[
    str | None, typer.Option("--question", help="Column of the prompt, in a file of tasks.")
]
Gold = Annotated[
    str | None,
    typer.Option(
        "--gold", help="Column of the gold answers; of an environment info:KEY or attr:NAME."
    ),
]
Form = Annotated[
    str | None,
    typer.Option("--form", help="How an answer is written, such as '#### {}'; default: tried."),
]
Range = Annotated[
    tuple[float, float] | None,
    typer.Option("--range", help="Least and greatest reward of an episode."),
]
Rows = Annotated[str | None, typer.Option("--rows", help="File of rows, for skyrl: environments.")]
Oracle = Annotated[
    str | None,
    typer.Option("--oracle", help="Policy that plays the reference solution, of ours."),
]
Tasks = Annotated[int, typer.Option("--tasks", help="Tasks that are played, at least 3.")]
Seed = Annotated[int, typer.Option("--seed", help="Chooses the tasks.")]
Turns = Annotated[int, typer.Option("--turns", help="Most turns of an episode.")]
Deadline = Annotated[float, typer.Option("--deadline", help="Seconds a step may take.")]
Seconds = Annotated[
    float, typer.Option("--seconds", help="After which no further episode is begun.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder of the report and the episodes that show it."),
]


def audit_env(
    env: Env,
    reward: Reward = None,
    held_out: HeldOut = None,
    question: Question = None,
    gold: Gold = None,
    form: Form = None,
    reward_range: Range = None,
    rows: Rows = None,
    oracle: Oracle = None,
    tasks: Tasks = 50,
    seed: Seed = 0,
    turns: Turns = 8,
    deadline: Deadline = 10.0,
    seconds: Seconds = 600.0,
    env_arg: options.EnvArgOption = None,
    out: Out = None,
    as_json: options.Json = False,
) -> None:
    """Check an environment, or tasks with a reward, for what makes training on it go wrong.

    Exit code 0 when no check fails, 6 when one does.
    """
    from toolgym.auditing import audit

    options.import_from_here()
    named: dict[str, Any] = {"reward": reward, "held_out": held_out, "question": question}
    named |= {"gold": gold, "form": form, "reward_range": reward_range, "rows": rows}
    with stage_bars() as advance:
        report = audit(
            env,
            env_args=environment_arguments({}, env_arg=env_arg),
            tasks=tasks,
            seed=seed,
            turns=turns,
            deadline=deadline,
            seconds=seconds,
            out=out,
            progress=advance,
            **named,
            oracle=oracle,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        print(report)
        if out is not None:
            print(f"\npage  {out / 'audit.html'} (and .md, .json)\nnext  toolgym view {out}")
    if not report.passed:
        raise typer.Exit(FAILED)
