"""``toolgym tool``: call one tool by hand."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from toolgym.cli import options
from toolgym.cli.shell import print_json
from toolgym.errors import BadInputError

__all__ = ["call"]


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
    cassette: options.CassetteOption = None,
    record: options.RecordOption = None,
    fault: options.FaultOption = None,
    as_json: options.Json = False,
) -> None:
    """Call one tool as a policy would, and print what it would read."""
    from toolgym.formats.base import argument_name
    from toolgym.messages import ToolCall
    from toolgym.tools.service import serve_toolset
    from toolgym.tools.toolset import make_toolset

    given = options.key_values(option, "--option")
    given |= {key: value for key, value in (("corpus", corpus), ("k", k)) if value is not None}
    spec = {"name": name} | given
    toolset, service = make_toolset([spec]), options.service_settings(cassette, record, fault)
    if schema:
        if service is not None:
            raise typer.BadParameter(
                "--schema calls nothing; leave out --cassette, --record, --replay and --fault"
            )
        print_json(toolset.schemas()[0])
        return
    arguments: dict[str, Any] = options.key_values(arg, "--arg")
    if text is not None:
        arguments = {argument_name(name, toolset.schemas()): text} | arguments
    if not arguments:
        raise typer.BadParameter(f"what to call {name} with is missing; give a text or --arg")
    if service is not None:
        toolset = serve_toolset(toolset, service, [spec])
    (result,) = toolset.execute([ToolCall("call_0", name, arguments)])
    if as_json:
        facts = {"tool": name, "arguments": arguments, "content": result.content}
        fault_met = {} if service is None else {"fault": result.fault}
        print_json(facts | {"error": result.error} | fault_met)
    elif not result.error:
        print(result.content)
    if result.error:
        raise BadInputError(f"{name} failed ({result.error}): {result.content}")
