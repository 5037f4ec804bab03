"""``toolgym compare``: a model before and after training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from toolgym.cli import options
from toolgym.cli.rollout import environment_arguments
from toolgym.cli.shell import print_json, stage_bars

__all__ = ["compare"]


Base = Annotated[str, typer.Argument(help="Model before: folder, hub id, or LoRA folder.")]
Tuned = Annotated[str, typer.Argument(help="Model after; a LoRA folder stands on BASE.")]
Before = Annotated[
    list[Path] | None,
    typer.Option("--before", help="Run of BASE, or an evaluation of a selftrain run (repeat)."),
]
After = Annotated[list[Path] | None, typer.Option("--after", help="The same of TUNED (repeat).")]
Env = Annotated[list[str] | None, typer.Option("--env", help="Both models play it now (repeat).")]
Episodes = Annotated[
    int | None, typer.Option("--episodes", help="Of each --env; default: every task.")
]
PolicyArg = Annotated[
    list[str] | None,
    typer.Option("--policy-arg", metavar="KEY=VALUE", help="Of the policy; default: greedy."),
]
LmEval = Annotated[
    str | None, typer.Option("--lm-eval", help="Tasks of lm-eval, such as hellaswag,arc_easy.")
]
Limit = Annotated[int | None, typer.Option("--limit", help="Documents of each lm-eval task.")]
LmEvalArg = Annotated[
    list[str] | None,
    typer.Option("--lm-eval-arg", metavar="KEY=VALUE", help="Of simple_evaluate (repeat)."),
]
LmEvalInclude = Annotated[
    str | None, typer.Option("--lm-eval-include", help="Folder of task files of your own.")
]
Weights = Annotated[bool, typer.Option("--weights/--no-weights", help="Compare the weights.")]
Seed = Annotated[int, typer.Option("--seed", help="Of bootstrap and task order.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of compare.html, .md and .json.")
]


def compare(
    base: Base,
    tuned: Tuned,
    before: Before = None,
    after: After = None,
    env: Env = None,
    episodes: Episodes = None,
    tasks: options.TasksOption = None,
    corpus: options.CorpusOption = None,
    split: options.SplitOption = None,
    prompt: options.PromptOption = None,
    format: options.FormatOption = None,
    env_arg: options.EnvArgOption = None,
    policy_arg: PolicyArg = None,
    lm_eval: LmEval = None,
    limit: Limit = None,
    lm_eval_arg: LmEvalArg = None,
    lm_eval_include: LmEvalInclude = None,
    weights: Weights = True,
    seed: Seed = 0,
    out: Out = None,
    as_json: options.Json = False,
) -> None:
    """Show where training changed a model, and what it gained and lost by it."""
    from toolgym._util.optional import quiet
    from toolgym.modeldiff import compare_models

    named = {"tasks": tasks, "corpus": corpus, "split": split, "prompt": prompt, "format": format}
    env_args = environment_arguments(named, env_arg=env_arg)
    _check_options(env, lm_eval, episodes=episodes, limit=limit, env_args=env_args)
    with _progress() as advance, quiet():
        made = compare_models(
            base,
            tuned,
            weights=weights,
            before=before or (),
            after=after or (),
            envs=env or (),
            env_args=env_args,
            policy_args=options.key_values(policy_arg, "--policy-arg"),
            episodes=episodes,
            lm_eval=[name.strip() for name in (lm_eval or "").split(",") if name.strip()],
            limit=limit,
            lm_eval_args=options.key_values(lm_eval_arg, "--lm-eval-arg"),
            lm_eval_include=lm_eval_include,
            seed=seed,
            out=out,
            progress=advance,
        )
    if as_json:
        print_json(made.to_dict())
    else:
        print(made)
        if out is not None:
            print(f"\npage  {out / 'compare.html'} (and .md, .json)")


def _check_options(env: list[str] | None, lm_eval: str | None, **given: Any) -> None:
    """Options that would have no effect are an error."""
    if not env:
        for name in ("episodes", "env_args"):
            if given[name]:
                raise typer.BadParameter(
                    "--episodes and the environment's options go with --env: runs that were "
                    "played before have theirs"
                )
    if given["limit"] is not None and not lm_eval:
        raise typer.BadParameter("--limit goes with --lm-eval")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    with stage_bars() as advance:
        yield lambda what, done, planned: advance(what, done, planned, "")
