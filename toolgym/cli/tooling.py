"""``toolgym tool`` and ``toolgym index``: try a tool by hand, and build what it searches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from toolgym.cli import options
from toolgym.cli.output import print_json, progress_bar, table
from toolgym.errors import BadInputError

__all__ = ["build", "call", "index_app"]

index_app = typer.Typer(help="Indexes for WikipediaSearch.")


def call(
    name: Annotated[str, typer.Argument(help="Tool, such as Calculator.")],
    text: Annotated[str | None, typer.Argument(help="Its main argument; or use --arg.")] = None,
    arg: Annotated[
        list[str] | None, typer.Option("--arg", metavar="KEY=VALUE", help="An argument (repeat).")
    ] = None,
    corpus: options.CorpusOption = None,
    k: Annotated[int | None, typer.Option("--k", help="Passages of a search.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="Any other option of the tool."),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print what a model is told, and call nothing.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Call one tool as a policy would, and print what it would read."""
    from toolgym.formats.base import argument_name
    from toolgym.messages import ToolCall
    from toolgym.toolset import make_toolset

    given = options.key_values(option, "--option")
    given |= {key: value for key, value in (("corpus", corpus), ("k", k)) if value is not None}
    toolset = make_toolset([{"name": name} | given])
    if schema:
        print_json(toolset.schemas()[0])
        return
    arguments: dict[str, Any] = options.key_values(arg, "--arg")
    if text is not None:
        arguments = {argument_name(name, toolset.schemas()): text} | arguments
    if not arguments:
        raise typer.BadParameter(f"what to call {name} with is missing; give a text or --arg")
    (result,) = toolset.execute([ToolCall("call_0", name, arguments)])
    if as_json:
        print_json(
            {"tool": name, "arguments": arguments, "content": result.content, "error": result.error}
        )
    elif not result.error:
        print(result.content)
    if result.error:
        raise BadInputError(f"{name} failed ({result.error}): {result.content}")


@index_app.command("build")
def build(
    corpus: Annotated[
        Path,
        typer.Argument(help="A .jsonl of passages (id, title, text) or of KILT's, plain or .gz."),
    ],
    out: Annotated[Path, typer.Argument(help="Index folder to write.")],
    memory_mb: Annotated[
        int, typer.Option("--memory-mb", help="Memory to build in; more on disk above it.")
    ] = 1024,
    as_json: options.Json = False,
) -> None:
    """Index a file of passages, so that --corpus can name the folder."""
    from toolgym.tools.index import build_index, open_index

    with progress_bar(f"indexing {corpus.name}", unit="bytes") as advance:
        folder = build_index(corpus, out, progress=advance, memory_mb=memory_mb)
    index = open_index(folder)
    if as_json:
        facts = {"index": str(folder), "passages": len(index), "fingerprint": index.fingerprint}
        print_json(facts)
        return
    use = f"toolgym tool WikipediaSearch --corpus {folder} QUERY"
    print(table([("index", str(folder)), ("passages", str(len(index))), ("next", use)]))
