"""``toolgym train``: a model fine-tuned on recorded episodes, or in an environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from toolgym.cli import options
from toolgym.cli.rollout import environment_arguments
from toolgym.cli.shell import InterruptedRunError, print_json, progress_bar, table, warn
from toolgym.errors import did_you_mean
from toolgym.training.config import (
    DpoConfig,
    GrpoConfig,
    SftConfig,
    TrainConfig,
    configure,
    rank,
)

if TYPE_CHECKING:
    from toolgym.training.output import Trained

__all__ = ["app", "dpo", "grpo", "sft"]

C = TypeVar("C", bound=TrainConfig)

app = typer.Typer(help="Fine-tune a model with TRL (extra: train).")

Model = Annotated[str, typer.Option("--model", help="Model folder or hub id.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the trained model.")]
Resume = Annotated[
    bool, typer.Option("--resume/--anew", help="Go on from the last checkpoint, or begin anew.")
]
Others = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help='Any option by its name in Python (repeat), such as template={"a": 1}.',
    ),
]


@app.command("sft")
@options.with_fields(SftConfig)
def sft(
    source: Annotated[Path, typer.Argument(help="Run, selection, or rows of `export sft`.")],
    model: Model,
    out: Out,
    learn_as: options.LearnAsOption = None,
    resume: Resume = True,
    others: Others = None,
    as_json: options.Json = False,
    **fields: Any,
) -> None:
    """Supervised fine-tuning; the loss falls on the assistant's own tokens only."""
    from toolgym.training.sft import train_sft

    config = _config(SftConfig, fields, others)
    given = (source, model, out, config)
    others_given: Any = {"learn_as": options.key_values(learn_as, "--learn-as"), "resume": resume}
    _run("sft", out, as_json, lambda tell: train_sft(*given, **others_given, progress=tell))


@app.command("dpo")
@options.with_fields(DpoConfig)
def dpo(
    sources: Annotated[
        list[Path], typer.Argument(help="Runs to pair, or one file of `export dpo`.")
    ],
    model: Model,
    out: Out,
    learn_as: options.LearnAsOption = None,
    resume: Resume = True,
    others: Others = None,
    as_json: options.Json = False,
    **fields: Any,
) -> None:
    """Preference optimisation; tool results are masked on both sides."""
    from toolgym.training.dpo import train_dpo

    config = _config(DpoConfig, fields, others)
    source: Any = sources[0] if len(sources) == 1 else sources
    given = (source, model, out, config)
    others_given: Any = {"learn_as": options.key_values(learn_as, "--learn-as"), "resume": resume}
    _run("dpo", out, as_json, lambda tell: train_dpo(*given, **others_given, progress=tell))


@app.command("grpo")
@options.with_fields(GrpoConfig)
def grpo(
    env: options.EnvId,
    model: Model,
    out: Out,
    tasks: options.TasksOption = None,
    corpus: options.CorpusOption = None,
    split: options.SplitOption = None,
    tool: options.ToolOption = None,
    prompt: options.PromptOption = None,
    format: options.FormatOption = None,
    reward: options.RewardOption = None,
    max_steps: options.MaxStepsOption = None,
    examples: options.ExamplesOption = None,
    env_arg: options.EnvArgOption = None,
    prefixes: Annotated[
        Path | None, typer.Option("--prefixes", help="Run whose every prefix is a start.")
    ] = None,
    resume: Resume = True,
    others: Others = None,
    as_json: options.Json = False,
    **fields: Any,
) -> None:
    """Reinforcement learning by playing in an environment, with its tools and rewards."""
    from toolgym.training.grpo import train_grpo

    config = _config(GrpoConfig, fields, others)
    named = {"tasks": tasks, "corpus": corpus, "split": split, "prompt": prompt, "format": format}
    arguments = environment_arguments(
        named | {"max_steps": max_steps, "examples": examples},
        tool=tool,
        reward=reward,
        env_arg=env_arg,
    )
    given: Any = {"env_args": arguments, "prefixes": prefixes, "resume": resume}
    _run(
        "grpo",
        out,
        as_json,
        lambda tell: train_grpo(env, model, out, config, **given, progress=tell),
    )


def _config(kind: type[C], fields: dict[str, Any], others: list[str] | None) -> C:
    """What the options and --set say, as the model that the Python function takes.

    Raises:
        typer.BadParameter: --set names no option, or one that was given as such, too.
        BadInputError: a value that does not fit.
    """
    given = {name: value for name, value in fields.items() if value not in (None, [])}
    further = options.key_values(others, "--set")
    for name in further:
        if name not in kind.model_fields:
            known = ", ".join(kind.model_fields)
            raise typer.BadParameter(
                f"--set {name}: there is no such option{did_you_mean(name, kind.model_fields)}; "
                f"known: {known}"
            )
        if name in given:
            raise typer.BadParameter(f"--set {name}: its own option was given, too; leave one out")
    return configure(kind, given, further)


def _run(
    method: str, out: Path, as_json: bool, train: Callable[[Callable[..., None]], Trained]
) -> None:
    try:
        with progress_bar(f"train {method}", unit="updates") as advance:
            trained = train(lambda step, steps, note: advance(step, steps))
    except KeyboardInterrupt as error:
        kept = any(Path(f"{out}.partial").glob("checkpoint-*"))
        raise InterruptedRunError(
            f"stopped; checkpoints so far are kept in '{out}.partial', run the same command again "
            "to go on from the last one"
            if kept
            else "stopped before the first checkpoint (every save_every updates): run the same "
            "command again to begin anew"
        ) from error
    if rank():  # of several processes the first one has written, and speaks
        raise typer.Exit
    if as_json:
        print_json(asdict(trained) | {"path": str(trained.path)})
        return
    rows = [("model", str(trained.path)), ("steps", str(trained.steps))]
    unit = " nats a token" if method == "sft" else ""
    rows += [("loss", f"{trained.loss:.4f}{unit}")]
    rows += [(name, f"{value:.4f}") for name, value in trained.figures.items()]
    per = "" if method == "grpo" else " an epoch"
    rows += [("trained tokens", f"{trained.trained_tokens:,}{per}")]
    kind = {"sft": "rows", "dpo": "pairs", "grpo": "counted"}[method]
    rows += [(f"{kind} {name}", str(count)) for name, count in trained.counts.items()]
    print(table(rows))
    for warning in trained.warnings:
        warn(warning)
