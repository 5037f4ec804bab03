"""Rewards on recordings: ``toolgym score`` and ``ablate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from toolgym.cli import options
from toolgym.cli.shell import print_json
from toolgym.errors import BadInputError, UnknownNameError

__all__ = ["ablate_rewards", "score_run"]

Rewards = Annotated[
    list[str] | None,
    typer.Option("--reward", help="A reward's name or module:function (repeat); a row each."),
]
Rubrics = Annotated[
    list[str] | None,
    typer.Option(
        "--rubric",
        help='NAME:reward=weight,reward=weight, or NAME:{"accuracy": {"preset": "paper"}} '
        "(repeat); a row each.",
    ),
]


def score_run(
    run: options.RunFolder,
    reward: Rewards = None,
    rubric: Rubrics = None,
    seed: Annotated[int, typer.Option("--seed", help="Fixes the bootstrap.")] = 0,
    workers: options.WorkersOption = 1,
    ray: options.RayOption = None,
    as_json: options.Json = False,
) -> None:
    """Try rewards on recorded episodes; nothing is played again."""
    from toolgym.evaluation.score import score

    rewards = _rewards(reward, rubric)
    with options.executing(ray, workers) as executor:
        scored = score(run, rewards, seed=seed, executor=executor)
    if as_json:
        print_json(scored.to_dict())
    else:
        print(scored)


def ablate_rewards(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Runs on the same tasks, as one; bundled: sample:lookup, :random, :spam."
        ),
    ],
    reward: Rewards = None,
    rubric: Rubrics = None,
    truth: Annotated[
        str, typer.Option("--truth", help="Which episodes are right, such as goal_reached>=1.")
    ] = "task_completion>=1",
    group: Annotated[
        Literal["auto", "task", "run"],
        typer.Option(
            "--group", help="What an episode is compared with: its task (GRPO), or the run."
        ),
    ] = "auto",
    examples: Annotated[int, typer.Option("--examples", help="Most episodes that are shown.")] = 9,
    probes: Annotated[
        bool, typer.Option("--probes/--no-probes", help="Try scripted adversaries on each reward.")
    ] = True,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write the page there; Markdown where it ends in .md."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Fixes the bootstrap.")] = 0,
    workers: options.WorkersOption = 1,
    ray: options.RayOption = None,
    as_json: options.Json = False,
) -> None:
    """Compare rewards on recorded episodes: ranks, advantage flips, biases, probes."""
    from toolgym.evaluation.ablation import ablate

    rewards = _rewards(reward, rubric)
    with options.executing(ray, workers) as executor:
        made = ablate(
            runs[0] if len(runs) == 1 else runs,
            rewards,
            truth=truth,
            group=group,
            probes=probes,
            examples=examples,
            seed=seed,
            executor=executor,
        )
    if html is not None:
        made.write(html)
    if as_json:
        print_json(made.to_dict())
    else:
        print(made)
        if html is not None:
            print(f"\npage  {html}")


def _rewards(reward: list[str] | None, rubric: list[str] | None) -> dict[str, Any]:
    """Rewards by name; a rubric is weights, or a JSON object with options."""
    rewards: dict[str, Any] = {name: _reward(name) for name in reward or ()}
    for text in rubric or ():
        name, found, spec = text.partition(":")
        if not found or not name.strip():
            raise typer.BadParameter(f"--rubric needs NAME:reward=weight,..., not {text!r}")
        if not spec.lstrip().startswith("{"):
            rewards[name.strip()] = options.named_weights(spec.split(","))
            continue
        try:
            rewards[name.strip()] = json.loads(spec)
        except ValueError as error:
            raise typer.BadParameter(f"--rubric {name!r} is not JSON: {error}") from error
    if not rewards:
        raise typer.BadParameter("name at least one --reward or --rubric")
    return rewards


def _reward(name: str) -> Any:
    """A reward's name as it is, ``module:function`` as the function."""
    module, found, attribute = name.partition(":")
    if not found:
        return name
    from toolgym.registry import REWARDS, load

    options.import_from_here()
    try:
        function = load(name)
    except (ImportError, AttributeError) as error:
        raise BadInputError(f"reward {name!r} cannot be loaded: {error}") from error
    if not callable(function):
        raise UnknownNameError("reward", f"{module}:{attribute}", REWARDS)
    return function
