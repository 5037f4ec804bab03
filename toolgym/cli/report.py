"""``toolgym report``: one page on a run or on a self-training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from toolgym.cli import options
from toolgym.cli.shell import print_json
from toolgym.cli.view import describe
from toolgym.errors import MissingFileError

__all__ = ["report"]

FILE = "report.md"


def report(
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
        text = run_page(folder, examples)
    if out is None:
        print(text.rstrip())
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")


def run_page(folder: Path, examples: int) -> str:
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
    shown = sorted(run.trajectories(), key=lambda trajectory: -trajectory.reward)[:examples]
    episodes = "\n\n".join(describe(trajectory) for trajectory in shown)
    return (
        f"# {run.settings['env']['id']}\n\n{figures.to_markdown()}\n"
        f"## What was run\n\n````json\n{settings}\n````\n\n"
        f"## Episodes\n\n````text\n{episodes}\n````\n"
    )
