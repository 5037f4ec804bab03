"""The command line: ``toolgym COMMAND``. Each command imports its work when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from toolgym import __version__
from toolgym.cli import (
    compare,
    envs,
    export,
    index,
    report,
    rollout,
    score,
    selftrain,
    tool,
    train,
    view,
)
from toolgym.cli import eval as eval_command
from toolgym.cli import filter as filter_command
from toolgym.cli.shell import Commands
from toolgym.registry import COMMANDS

__all__ = ["app", "main"]

app = typer.Typer(
    name="toolgym",
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"toolgym {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Version.")
    ] = False,
) -> None:
    """Gymnasium environments for language models that use tools.

    Errors are one line. Exit codes: 0 fine, 1 other error, 2 usage or unknown name, 3 data or
    files, 4 missing extra, 5 policy or endpoint failures, 130 Ctrl-C.
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


app.command("envs")(envs.list_names)
app.command("tool")(tool.call)
app.add_typer(index.app, name="index")
app.command("rollout")(rollout.play)
app.command("view")(view.view)
app.command("eval")(eval_command.measure)
app.command("score")(score.rescore)
app.command("filter")(filter_command.keep)
app.add_typer(export.app, name="export")
app.add_typer(train.app, name="train")
app.command("selftrain")(selftrain.practise)
app.command("compare")(compare.compare)
app.command("report")(report.report)
for _name in COMMANDS:
    app.add_typer(COMMANDS.get(_name), name=_name)


def main() -> None:
    """The console script ``toolgym``."""
    app()
