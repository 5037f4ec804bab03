"""The command line: ``toolgym COMMAND``. Each command imports its work when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from toolgym import __version__
from toolgym.cli import compare as comparing
from toolgym.cli import eval as judging
from toolgym.cli import export as sharing
from toolgym.cli import report as reporting
from toolgym.cli import rollout as playing
from toolgym.cli import selftrain as practising
from toolgym.cli import tool as tooling
from toolgym.cli import train as learning
from toolgym.cli import view as viewing
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


app.command("envs")(viewing.list_names)
app.command("tool")(tooling.call)
app.add_typer(tooling.index_app, name="index")
app.command("rollout")(playing.play)
app.command("view")(viewing.view)
app.command("eval")(judging.measure)
app.command("score")(judging.rescore)
app.command("filter")(judging.keep)
app.add_typer(sharing.app, name="export")
app.add_typer(learning.app, name="train")
app.command("selftrain")(practising.practise)
app.command("compare")(comparing.compare)
app.command("report")(reporting.report)
for _name in COMMANDS:
    app.add_typer(COMMANDS.get(_name), name=_name)


def main() -> None:
    """The console script ``toolgym``."""
    app()
