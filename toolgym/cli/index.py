"""``toolgym index``: build what WikipediaSearch searches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from toolgym.cli import options
from toolgym.cli.shell import print_json, progress_bar, table

__all__ = ["app", "build"]


app = typer.Typer(help="Indexes for WikipediaSearch.")


@app.command("build")
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
    as_json: options.Json = False,
) -> None:
    """Index a corpus, so that --corpus can name the folder."""
    from toolgym.tools.search.index import build_index, open_index

    stated: dict[str, Any] = {"title_weight": title_weight, "stemmer": stemmer, "k1": k1, "b": b}
    stated["stop_words"] = _stop_words(stop_words)
    given = {name: value for name, value in stated.items() if value is not None}
    with progress_bar(f"indexing {corpus.name}", unit="bytes") as advance:
        folder = build_index(
            corpus, out, progress=advance, memory_mb=memory_mb, processes=processes, **given
        )
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
