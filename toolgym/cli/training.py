"""Models that learn: ``toolgym train`` and ``toolgym selftrain``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from toolgym._util.text import text_table
from toolgym.cli import options
from toolgym.cli.episodes import environment_arguments
from toolgym.cli.shell import InterruptedRunError, print_json, progress_bar, stage_bars, table, warn
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
    from toolgym.selftrain.environments import Places, Tasks
    from toolgym.selftrain.preflight import Plan
    from toolgym.selftrain.settings import SelfTrainSettings
    from toolgym.training.memory import Memory
    from toolgym.training.output import Trained

__all__ = ["dpo", "grpo", "plan_text", "practise", "sft", "train_app"]

C = TypeVar("C", bound=TrainConfig)

train_app = typer.Typer(help="Fine-tune a model with TRL (extra: train).")

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


@train_app.command("sft")
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


@train_app.command("dpo")
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


@train_app.command("grpo")
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


def plan_text(plan: Plan) -> str:
    """A plan as tables for readers."""
    shape = plan.shape
    lines = [f"model  {plan.model}"]
    if shape is not None:
        lines[0] += f": {shape.name}, {shape.parameters:,} parameters ({shape.source})"
    lines += ["", _environments(plan), "", _rounds(plan)]
    lines.append(
        f"held-out questions are played {plan.evaluations} times; all of these are upper bounds"
    )
    if plan.memory:
        lines += ["", _memory(plan)]
    if plan.needs:
        lines += ["", "not on this machine:", *(f"- {need}" for need in plan.needs)]
    return "\n".join(lines)


def _environments(plan: Plan) -> str:
    rows = [
        [place.name, place.id, _practised(place), _tasks(place.evaluate), place.corpus or "-"]
        for place in plan.places
    ]
    return text_table(["environment", "id", "practises on", "is evaluated on", "searches"], rows)


def _practised(place: Places) -> str:
    """By round, where the tasks change."""
    told = [_tasks(tasks) for tasks in (place.practise, *place.later)]
    return "; then ".join(new for new, last in zip(told, ["", *told], strict=False) if new != last)


def _tasks(tasks: Tasks | None) -> str:
    return "-" if tasks is None else f"{_count(tasks.tasks)} of {tasks.source}"


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _rounds(plan: Plan) -> str:
    head = ["round", "practice", "rows", "steps", "tokens sampled", "tokens trained", "method"]
    rows = [
        [
            str(each.number),
            *map(_count, (each.practice, each.rows, each.steps, each.sampled, each.trained)),
            each.method,
        ]
        for each in plan.rounds
    ]
    return text_table(head, rows)


def _memory(plan: Plan) -> str:
    from toolgym.training.memory import PARTS, fitting

    def cells(peak: Memory) -> list[str]:
        parts = [f"{getattr(peak, part) / 1e9:.2f}" for part in PARTS]
        gpu = fitting(peak.total)
        fits = f"{gpu} GiB" if gpu is not None else "none"
        return [*parts, f"{peak.total / 1e9:.2f}", fits if plan.gpu else _ram(peak.total)]

    last = "smallest GPU" if plan.gpu else "this machine"
    rows = [[name, *cells(peak)] for name, peak in plan.memory.items()]
    text = text_table(["GB at most", *PARTS, "total", last], rows)
    if plan.gpu and any(fitting(peak.total) is None for peak in plan.memory.values()):
        text += (
            "\nno single GPU has room: use lora, shorter max_length or max_prompt_tokens, "
            "smaller sampling.batch_size or device_batch_size, or `toolgym train` on several GPUs"
        )
    return text


def _ram(total: float) -> str:
    from toolgym.training.fitting import installed_memory

    have = installed_memory()
    return f"{'fits' if total <= have else 'too much for'} {have / 1e9:.0f} GB"


def practise(
    settings: Annotated[
        Path | None, typer.Argument(help="YAML or JSON file of settings; default: see --preset.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Folder or hub id; default: one that the job builds itself."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path(
        "runs/selftrain"
    ),
    job: Annotated[
        str | None,
        typer.Option("--preset", help="Job; `toolgym envs` lists them. [default: by --model]"),
    ] = None,
    corpus: Annotated[
        str | None, typer.Option("--corpus", help="What --model searches: a .jsonl or an index.")
    ] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", help="Rounds of practice.")] = None,
    samples_per_task: Annotated[
        int | None, typer.Option("--samples-per-task", help="Episodes of each question a round.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Fixes everything drawn.")] = None,
    show_settings: Annotated[
        bool, typer.Option("--show-settings", help="Print the settings as JSON and stop.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run and what it needs, and stop.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Let a model practise, learn from its right episodes, and measure it again.

    Without arguments a small Llama is built and trained on this machine. Ctrl-C or a kill loses
    nothing: the same command goes on where it was.
    """
    from toolgym.selftrain.loop import selftrain

    said = {"model": model, "rounds": rounds, "samples_per_task": samples_per_task, "seed": seed}
    given = {key: value for key, value in said.items() if value is not None}
    chosen = _settings(settings, given, corpus, job)
    if show_settings:
        print_json(chosen.model_dump(mode="json"))
        return
    if dry_run:
        _foretell(chosen, as_json)
        return
    try:
        with stage_bars() as advance:
            report = selftrain(chosen, out=out, progress=advance)
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            f"stopped; what was done is kept in {str(out)!r}, run the same command again to go on"
        ) from error
    if as_json:
        print_json(json.loads(report.with_suffix(".json").read_text(encoding="utf-8")))
        return
    print(_first_section(report.read_text(encoding="utf-8")))
    print(f"\nreport  {report} (and .html)")


def _settings(
    file: Path | None, said: dict[str, Any], corpus: str | None, job: str | None
) -> SelfTrainSettings:
    from toolgym.registry import PRESETS
    from toolgym.selftrain.settings import load_settings, own_model, preset

    if file is not None:
        if corpus is not None or job is not None:
            given = "--corpus" if corpus is not None else "--preset"
            raise typer.BadParameter(f"{given} goes without a settings file, which says it itself")
        return load_settings(load_settings(file).model_dump() | said)
    model = said.get("model")
    if model is not None and own_model(model) is not None:
        job, model = job or model, None
    if job is None:  # without a model: the first that builds one; with a model: one that does not
        job = next(name for name in PRESETS.names() if (own_model(name) is None) is bool(model))
    made = preset(job).settings(model, corpus=corpus, seed=said.get("seed", 0))
    return load_settings(made.model_dump() | said)


def _foretell(chosen: SelfTrainSettings, as_json: bool) -> None:
    from toolgym.selftrain.preflight import plan

    found = plan(chosen)
    if as_json:
        print_json(found.to_row())
    else:
        print(plan_text(found))


def _first_section(markdown: str) -> str:
    """Title, result and the table of before and after: the report up to its second heading."""
    parts = markdown.split("\n## ")
    return "\n## ".join(parts[:2]).strip()
