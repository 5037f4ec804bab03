"""``toolgym selftrain``: practise, filter, train, evaluate, and again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolgym._util.text import text_table
from toolgym.cli import options
from toolgym.cli.shell import InterruptedRunError, print_json, stage_bars

__all__ = ["plan_text", "practise"]

if TYPE_CHECKING:
    from toolgym.selftrain.environments import Tasks
    from toolgym.selftrain.memory import Memory
    from toolgym.selftrain.preflight import Plan


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
        [place.name, place.id, _tasks(place.practise), _tasks(place.evaluate), place.corpus or "-"]
        for place in plan.places
    ]
    return text_table(["environment", "id", "practises on", "is evaluated on", "searches"], rows)


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
    from toolgym.selftrain.memory import PARTS, fitting

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
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{'fits' if total <= have else 'too much for'} {have / 1e9:.0f} GB"


if TYPE_CHECKING:
    from toolgym.selftrain.settings import SelfTrainSettings


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
