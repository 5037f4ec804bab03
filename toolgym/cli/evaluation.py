"""The figures of runs: ``toolgym eval``, ``compare`` and ``report``."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from toolgym.cli import decisions, options
from toolgym.cli.episodes import environment_arguments
from toolgym.cli.shell import print_json, stage_bars
from toolgym.cli.viewing import describe
from toolgym.errors import MissingFileError

if TYPE_CHECKING:
    from toolgym.evaluation import Comparison
    from toolgym.evaluation.deciding import Passed
    from toolgym.modeldiff.models import ModelComparison

__all__ = ["compare_tuned", "evaluate_run", "report_run"]


def evaluate_run(
    run: options.RunFolder,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            "--against",
            help="An earlier run, compared task by task (repeat: p-values are corrected by Holm).",
        ),
    ] = None,
    normalisation: Annotated[
        Literal["paper", "squad", "unicode"],
        typer.Option("--normalisation", help="How texts are compared."),
    ] = "paper",
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            help="Figures by a column of the tasks (repeat), such as shape, complexity or s_pop. "
            "[default: shape and complexity, for scenarios]",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="'FIGURE +- POINTS'",
            help="After how many tasks a figure would have been known so well.",
        ),
    ] = None,
    gate: decisions.GateOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Fixes the bootstrap.")] = 0,
    workers: options.WorkersOption = 1,
    ray: options.RayOption = None,
    as_json: options.Json = False,
) -> None:
    """Print a run's figures with 95 % intervals."""
    from toolgym.evaluation import evaluate

    how: dict[str, Any] = {"normalisation": normalisation, "seed": seed}
    with options.executing(ray, workers) as executor:
        report = evaluate(run, **how, by=by or None, until=until, executor=executor)
    others = against or []
    changes = decisions.against_several(run, others, **how)
    checked = decisions.gates_of(gate, report)
    if as_json:
        print_json(report.to_dict() | _changes(others, changes) | _gates(checked))
    else:
        print(report)
        for other, change in zip(others, changes, strict=True):
            print(f"\nAgainst {other}\n{change}")
        if len(changes) > 1:
            print(f"\n{decisions.corrected_table(others, changes)}")
        for each in checked:
            print(f"\n{each}")
    decisions.end_at_gates(checked)


def _changes(others: Sequence[Path], changes: Sequence[Comparison]) -> dict[str, Any]:
    """One comparison as it is; several with the runs' names and the corrected p-values."""
    from toolgym.evaluation.compare import holm_by_metric

    if len(changes) < 2:
        return {"change": changes[0].to_dict()} if changes else {}
    rows = zip(others, changes, holm_by_metric(changes), strict=True)
    return {"changes": [{"against": str(o), **c.to_dict(), "p_holm": p} for o, c, p in rows]}


def _gates(checked: Sequence[Passed]) -> dict[str, Any]:
    return {"gates": [each.to_dict() for each in checked]} if checked else {}


Base = Annotated[
    str, typer.Argument(help="Model before: folder, hub id, LoRA folder; or a run folder.")
]
Tuned = Annotated[
    str, typer.Argument(help="Model after; a LoRA folder stands on BASE; or a run folder.")
]
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


@options.with_fields(decisions.Deciding)
def compare_tuned(
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
    **deciding: Any,
) -> None:
    """Show where training changed a model, and what it gained and lost by it.

    Of two run folders: the paired comparison. With --until decided: as few tasks as that takes.
    """
    deciding = {name: value for name, value in deciding.items() if value is not None}
    if decisions.are_runs(base, tuned):
        other = before or after or env or episodes or lm_eval or out
        decisions.compare_runs(Path(base), Path(tuned), seed, as_json, other, **deciding)
        return
    named = {"tasks": tasks, "corpus": corpus, "split": split, "prompt": prompt, "format": format}
    env_args = environment_arguments(named, env_arg=env_arg)
    policy_args = options.key_values(policy_arg, "--policy-arg")
    if deciding:
        told = {"env_args": env_args, "policy_args": policy_args, "episodes": episodes}
        decisions.play_off(env, base, tuned, out, seed, as_json, told, **deciding)
        return
    _check_options(env, lm_eval, episodes=episodes, limit=limit, env_args=env_args)
    from toolgym._util.optional import quiet
    from toolgym.modeldiff import compare_models

    with _progress() as advance, quiet():
        made = compare_models(
            base,
            tuned,
            weights=weights,
            before=before or (),
            after=after or (),
            envs=env or (),
            env_args=env_args,
            policy_args=policy_args,
            episodes=episodes,
            lm_eval=[name.strip() for name in (lm_eval or "").split(",") if name.strip()],
            limit=limit,
            lm_eval_args=options.key_values(lm_eval_arg, "--lm-eval-arg"),
            lm_eval_include=lm_eval_include,
            seed=seed,
            out=out,
            progress=advance,
        )
    _print_models(made, out, as_json)


def _print_models(made: ModelComparison, out: Path | None, as_json: bool) -> None:
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


FILE = "report.md"


def report_run(
    folder: Annotated[Path, typer.Argument(help="Run folder, or folder of a self-training run.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write it here instead of printing it.")
    ] = None,
    examples: Annotated[
        int, typer.Option("--examples", help="Episodes shown, for a run folder.")
    ] = 3,
    as_json: options.Json = False,
) -> None:
    """Print one page in Markdown: what was run, the figures, example episodes."""
    data = folder / "report.json"
    if as_json and data.is_file():
        print_json(json.loads(data.read_text(encoding="utf-8")))
        return
    if (folder / FILE).is_file():
        text = (folder / FILE).read_text(encoding="utf-8")
    elif (folder / "settings.json").is_file() and not (folder / "run.json").is_file():
        raise MissingFileError(
            f"{str(folder)!r} is a self-training run that has not finished: run the same "
            "`toolgym selftrain` again"
        )
    elif as_json:
        from toolgym.evaluation import evaluate
        from toolgym.rollouts.runs import Run

        run = Run.open(folder)
        print_json({"run": run.settings, "figures": evaluate(run).to_dict()})
        return
    else:
        text = _run_page(folder, examples)
    if out is None:
        print(text.rstrip())
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")


def _run_page(folder: Path, examples: int) -> str:
    """A run folder as a Markdown page.

    Args:
        folder: of the run.
        examples: how many episodes are shown, rewarded ones first.
    """
    from toolgym.evaluation import evaluate
    from toolgym.rollouts.runs import Run

    run = Run.open(folder)
    figures = evaluate(run)
    settings = json.dumps(run.settings, indent=2, ensure_ascii=False)
    shown = heapq.nlargest(examples, run, key=lambda trajectory: trajectory.reward)
    episodes = "\n\n".join(describe(trajectory) for trajectory in shown)
    return (
        f"# {run.settings['env']['id']}\n\n{figures.to_markdown()}\n"
        f"## What was run\n\n````json\n{settings}\n````\n\n"
        f"## Episodes\n\n````text\n{episodes}\n````\n"
    )
