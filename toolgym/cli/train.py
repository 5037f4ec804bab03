"""``toolgym train``: a model fine-tuned on recorded episodes, or in an environment."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolgym.cli import options
from toolgym.cli.rollout import environment_arguments
from toolgym.cli.shell import InterruptedRunError, print_json, progress_bar, table, warn
from toolgym.errors import did_you_mean

if TYPE_CHECKING:
    from toolgym.training.output import Trained

__all__ = ["app", "dpo", "grpo", "sft"]

app = typer.Typer(help="Fine-tune a model with TRL (extra: train).")

Model = Annotated[str, typer.Option("--model", help="Model folder or hub id.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the trained model.")]
Epochs = Annotated[float, typer.Option("--epochs", help="Passes over the rows.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Rows a step.")]
LearningRate = Annotated[
    float | None, typer.Option("--learning-rate", help="Peak; default: see docs/training.md.")
]
MaxLength = Annotated[
    int, typer.Option("--max-length", help="Longer rows are left out, in tokens.")
]
Lora = Annotated[
    int | None, typer.Option("--lora", help="Rank of LoRA adapters; the paper's is 16.")
]
MaxSteps = Annotated[int | None, typer.Option("--max-train-steps", help="Stop after so many.")]
OldMaxSteps = Annotated[int | None, typer.Option("--max-steps", help="Stop after so many.")]
Seed = Annotated[int, typer.Option("--seed", help="Fixes order and sampling.")]
Others = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other argument of the Python function (repeat), such as bf16=true.",
    ),
]


@app.command("sft")
def sft(
    source: Annotated[Path, typer.Argument(help="Run, selection, or rows of `export sft`.")],
    model: Model,
    out: Out,
    epochs: Epochs = 3,
    batch_size: BatchSize = 16,
    learning_rate: LearningRate = None,
    max_length: MaxLength = 8192,
    lora: Lora = None,
    max_steps: OldMaxSteps = None,
    seed: Seed = 0,
    others: Others = None,
    as_json: options.Json = False,
) -> None:
    """Supervised fine-tuning; the loss falls on the assistant's own tokens only."""
    from toolgym.training.sft import train_sft

    common = _common(locals(), train_sft)
    _run(
        "sft",
        out,
        as_json,
        lambda tell: train_sft(source, model, out, max_length=max_length, progress=tell, **common),
    )


@app.command("dpo")
def dpo(
    sources: Annotated[
        list[Path], typer.Argument(help="Runs to pair, or one file of `export dpo`.")
    ],
    model: Model,
    out: Out,
    pairing: Annotated[
        str, typer.Option("--pairing", help="How runs are paired; see `export dpo`.")
    ] = "first_turn",
    where: Annotated[str, typer.Option("--where", help="Which are right.")] = "accuracy>=1",
    per_task: Annotated[
        int | None, typer.Option("--per-task", help="Most pairs of one question.")
    ] = None,
    beta: Annotated[float, typer.Option("--beta", help="How near the reference.")] = 0.5,
    sft_weight: Annotated[
        float, typer.Option("--sft-weight", help="Weight of the chosen side's likelihood.")
    ] = 0.0,
    epochs: Epochs = 3,
    batch_size: BatchSize = 16,
    learning_rate: LearningRate = None,
    max_length: MaxLength = 8192,
    lora: Lora = None,
    max_steps: OldMaxSteps = None,
    seed: Seed = 0,
    others: Others = None,
    as_json: options.Json = False,
) -> None:
    """Preference optimisation; tool results are masked on both sides."""
    from toolgym.training.dpo import train_dpo

    common = _common(locals(), train_dpo)
    source: Any = sources[0] if len(sources) == 1 else sources
    _run(
        "dpo",
        out,
        as_json,
        lambda tell: train_dpo(
            source,
            model,
            out,
            pairing=pairing,
            where=where,
            per_task=per_task,
            beta=beta,
            sft_weight=sft_weight,
            max_length=max_length,
            progress=tell,
            **common,
        ),
    )


@app.command("grpo")
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
    max_turns: Annotated[
        int | None, typer.Option("--max-steps", help="Turns until an episode is cut.")
    ] = None,
    env_arg: options.EnvArgOption = None,
    prefixes: Annotated[
        Path | None, typer.Option("--prefixes", help="Run whose every prefix is a start.")
    ] = None,
    generations: Annotated[int, typer.Option("--generations", help="Episodes a group.")] = 8,
    beta: Annotated[float, typer.Option("--beta", help="Weight of the KL divergence.")] = 0.0,
    temperature: Annotated[float, typer.Option("--temperature", help="Of sampling.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Of a reply.")] = 512,
    epochs: Epochs = 1,
    batch_size: BatchSize = 64,
    learning_rate: LearningRate = None,
    lora: Lora = None,
    max_steps: MaxSteps = None,
    seed: Seed = 0,
    others: Others = None,
    as_json: options.Json = False,
) -> None:
    """Reinforcement learning by playing in an environment, with its tools and rewards."""
    from toolgym.training.grpo import train_grpo

    common = _common(locals(), train_grpo)
    named = {"tasks": tasks, "corpus": corpus, "split": split, "prompt": prompt, "format": format}
    arguments = environment_arguments(
        named | {"max_steps": max_turns}, tool=tool, reward=reward, env_arg=env_arg
    )
    _run(
        "grpo",
        out,
        as_json,
        lambda tell: train_grpo(
            env,
            model,
            out,
            env_args=arguments,
            prefixes=prefixes,
            generations=generations,
            beta=beta,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            progress=tell,
            **common,
        ),
    )


def _common(given: dict[str, Any], train: Callable[..., Any]) -> dict[str, Any]:
    """What all trainings are told, out of a command's arguments, and what --set says.

    Args:
        given: the command's arguments.
        train: the function, whose keyword arguments --set may name.

    Raises:
        typer.BadParameter: it has no such argument, or the command has an option for it.
    """
    from toolgym.training.config import Common

    others = options.key_values(given["others"], "--set")
    known = {*inspect.signature(train).parameters, *Common.__annotations__} - {"common", "progress"}
    for name in others:
        if name not in known or name in given:
            why = "there is an option for it" if name in given else "no such argument"
            free = sorted(known - set(given))
            raise typer.BadParameter(
                f"--set {name}: {why}{did_you_mean(name, free)}; {', '.join(free)}"
            )
    names = ("epochs", "batch_size", "learning_rate", "max_steps", "seed")
    return {name: given[name] for name in names} | {"lora": given["lora"] or False} | others


def _run(
    method: str, out: Path, as_json: bool, train: Callable[[Callable[..., None]], Trained]
) -> None:
    from toolgym.training.config import rank

    try:
        with progress_bar(f"train {method}", unit="steps") as advance:
            trained = train(lambda step, steps, note: advance(step, steps))
    except KeyboardInterrupt as error:
        kept = any(Path(f"{out}.partial").glob("checkpoint-*"))
        raise InterruptedRunError(
            f"stopped; checkpoints so far are kept in '{out}.partial', run the same command again "
            "to go on from the last one"
            if kept
            else "stopped before the first checkpoint (every save_steps steps): run the same "
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
