"""``toolgym filter``: the episodes that are worth training on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from toolgym.cli import options
from toolgym.cli.shell import print_json, table

__all__ = ["keep"]


class Tools(StrEnum):
    """Which episodes by their use of tools."""

    ANY = "any"
    ONLY = "only"


class Dedupe(StrEnum):
    """What makes two episodes of a task the same."""

    TEXT = "text"
    TOKENS = "tokens"
    NONE = "none"


def keep(
    run: options.RunFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder, or a .jsonl file.")],
    where: Annotated[
        str, typer.Option("--where", help="Conditions such as 'accuracy>=1 and calls<=2'.")
    ] = "accuracy>=1",
    tools: Annotated[
        Tools, typer.Option("--tools", help="only: at least one tool call.")
    ] = Tools.ANY,
    best_of: Annotated[
        int | None, typer.Option("--best-of", help="Keep the best n of each task.")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="What --best-of ranks by; default: first in --where.")
    ] = None,
    per_task: Annotated[
        int | None, typer.Option("--per-task", help="Most episodes of one task.")
    ] = None,
    dedupe: Annotated[
        Dedupe, typer.Option("--dedupe", help="Drop episodes of a task that are the same.")
    ] = Dedupe.TEXT,
    seed: Annotated[int, typer.Option("--seed", help="For --per-task.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Keep the episodes that are worth training on, and say why the others went."""
    from toolgym.data.filter import select

    chosen = select(
        run,
        where=where or None,
        tools=tools.value,
        best_of=best_of,
        by=by,
        per_task=per_task,
        dedupe=None if dedupe is Dedupe.NONE else dedupe.value,
        seed=seed,
    )
    written = chosen.write(out)
    if as_json:
        print_json(chosen.summary() | {"file": str(written)})
        return
    rows = [("kept", f"{len(chosen)} of {chosen.total} episodes")]
    rows += [("dropped", f"{count}: {reason}") for reason, count in chosen.dropped.items()]
    print(table([*rows, ("file", str(written)), ("next", f"toolgym export sft {out}")]))
