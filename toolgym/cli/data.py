"""Recorded episodes as training data, and back: ``toolgym filter``, ``export`` and ``lineage``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from toolgym.cli import options
from toolgym.cli.shell import print_json, table, warn

__all__ = ["dpo", "export_app", "inspect_log", "keep", "lineage", "lm_eval_log", "prefixes"]
__all__ += ["sft"]


def keep(
    run: options.RunFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder, or a .jsonl(.zst) file.")],
    where: Annotated[
        str, typer.Option("--where", help="Conditions such as 'accuracy>=1 and calls<=2'.")
    ] = "accuracy>=1",
    tools: Annotated[
        Literal["any", "only"], typer.Option("--tools", help="only: at least one tool call.")
    ] = "any",
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
        Literal["text", "tokens", "none"],
        typer.Option("--dedupe", help="Drop episodes of a task that are the same."),
    ] = "text",
    seed: Annotated[int, typer.Option("--seed", help="For --per-task.")] = 0,
    compress: Annotated[
        bool, typer.Option("--compress", help="Write the files of the folder with zstd.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Keep the episodes that are worth training on, and say why the others went."""
    from toolgym.data.filter import select

    chosen = select(
        run,
        where=where or None,
        tools=tools,
        best_of=best_of,
        by=by,
        per_task=per_task,
        dedupe=None if dedupe == "none" else dedupe,
        seed=seed,
    )
    written = chosen.write(out, compress)
    if as_json:
        print_json(chosen.summary() | {"file": str(written)})
        return
    rows = [("kept", f"{len(chosen)} of {chosen.total} episodes")]
    rows += [("dropped", f"{count}: {reason}") for reason, count in chosen.dropped.items()]
    print(table([*rows, ("file", str(written)), ("next", f"toolgym export sft {out}")]))


export_app = typer.Typer(
    help="Write recorded episodes as training rows in TRL's conversational format."
)


Source = Annotated[Path, typer.Argument(help="Run folder, selection, or .jsonl of trajectories.")]
RowsOut = Annotated[
    Path, typer.Option("--out", "-o", help="A .jsonl (.jsonl.zst) file, or a folder; with a card.")
]
WhereOption = Annotated[
    str | None,
    typer.Option("--where", help="Only episodes such as 'exact_match>=1 and copied_passage==0'."),
]
Pairing = Literal[
    "first_turn", "whole", "no_tool_request", "right_wrong", "first_divergence", "fewer_calls"
]
StyleOption = Annotated[
    Literal["auto", "as_played", "native"],
    typer.Option("--style", help="Calls as played, or as tool_calls."),
]
ReasoningOption = Annotated[
    bool, typer.Option("--reasoning/--no-reasoning", help="Keep what stands between <think> tags.")
]


@export_app.command("sft")
def sft(
    source: Source,
    out: RowsOut = Path("sft.jsonl"),
    where: WhereOption = None,
    style: StyleOption = "auto",
    reasoning: ReasoningOption = True,
    learn_as: options.LearnAsOption = None,
    as_json: options.Json = False,
) -> None:
    """Rows of messages for supervised fine-tuning; filter first."""
    shape = {"style": style, "reasoning": reasoning, "where": where}
    _export(source, "sft", learn_as, out, as_json, shape)


@export_app.command("dpo")
def dpo(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders; pairs need right and wrong episodes of the same questions: several "
            "samples per task, or one run with tools and one without."
        ),
    ],
    out: RowsOut = Path("dpo.jsonl"),
    style: StyleOption = "auto",
    reasoning: ReasoningOption = True,
    pairing: Annotated[Pairing, typer.Option("--pairing", help="What is compared.")] = "first_turn",
    where: Annotated[str, typer.Option("--where", help="Which are right.")] = "accuracy>=1",
    per_task: Annotated[
        int | None, typer.Option("--per-task", help="Most pairs of one question.")
    ] = None,
    learn_as: options.LearnAsOption = None,
    as_json: options.Json = False,
) -> None:
    """Pairs of a right and a wrong episode of one question; wants runs, not selections."""
    shape: dict[str, Any] = {"style": style, "reasoning": reasoning, "where": where}
    shape |= {"pairing": pairing, "per_task": per_task}
    _export(list(sources), "dpo", learn_as, out, as_json, shape)


@export_app.command("prefixes")
def prefixes(
    source: Source,
    out: RowsOut = Path("prefixes.jsonl"),
    where: WhereOption = None,
    style: StyleOption = "auto",
    reasoning: ReasoningOption = True,
    learn_as: options.LearnAsOption = None,
    as_json: options.Json = False,
) -> None:
    """A row for each turn: all before it, the turn, its reward, and what was still open."""
    shape = {"style": style, "reasoning": reasoning, "where": where}
    _export(source, "prefixes", learn_as, out, as_json, shape)


@export_app.command("inspect")
def inspect_log(
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .json file.")] = Path("log.json"),
    where: WhereOption = None,
) -> None:
    """A log that `inspect view` shows, an episode a sample."""
    from toolgym.data.logs import write_inspect_log

    file = write_inspect_log(source, out, where=where)
    print(table([("file", str(file)), ("next", f"inspect view start --log-dir {file.parent}")]))


@export_app.command("lm-eval")
def lm_eval_log(
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder.")] = Path("lm-eval"),
    where: WhereOption = None,
) -> None:
    """Results and samples as `lm_eval --output_path --log_samples` leaves them."""
    from toolgym.data.logs import write_lm_eval_log

    print(table([("results", str(write_lm_eval_log(source, out, where=where)))]))


def _export(
    source: Path | list[Path],
    kind: str,
    learn_as: list[str] | None,
    out: Path,
    as_json: bool,
    shape: dict[str, Any],
) -> None:
    from toolgym.data.export import export

    rows = export(source, kind, learn_as=options.key_values(learn_as, "--learn-as"), **shape)
    file = rows.write(out)
    if as_json:
        facts = {"rows": len(rows), "file": str(file), "dropped": rows.dropped}
        print_json(facts | {"about": rows.about})
        return
    lines = [("rows", str(len(rows))), ("file", str(file))]
    balance = dict(rows.about.get("balance", {}))
    if balance:
        sides = ((side, f"{balance[side + '_characters']:.0f}") for side in ("chosen", "rejected"))
        lines += [(f"{side} characters", count) for side, count in sides]
    lines += [("prompt", note) for note in rows.about.get("learn_as", ())]
    lines += [("no row from", f"{count}: {reason}") for reason, count in rows.dropped.items()]
    print(table(lines))
    if balance.get("warning"):
        warn(str(balance["warning"]))


def lineage(
    model: Annotated[
        Path, typer.Argument(help="Folder of a trained model, or of a self-training run.")
    ],
    without: Annotated[
        str | None,
        typer.Option("--without", help="Id of a task: what to train again to take it out."),
    ] = None,
    rows: Annotated[
        bool, typer.Option("--rows", help="A line for each row: its episodes and tasks.")
    ] = False,
    card: Annotated[
        Path | None, typer.Option("--card", help="Write a data card of it to this Markdown file.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Go from a trained model back to every row, episode and task, and check each hash on the way.

    A link that is broken, for a file is missing or has changed, is an error (exit code 3).
    """
    from toolgym.data.tracing import trace

    found = trace(model)
    if card is not None:
        from toolgym._util.jsonl import write_text

        write_text(card, found.card())
    if without is not None:
        again = found.without(without)
        if as_json:
            print_json({"task": without, "again": again})
        elif not again:
            print(f"no row of {len(found.models)} models holds task {without!r}")
        else:
            for each in again:
                lines = ", ".join(map(str, each["rows"]))
                rows_of = f"lines {lines} of {each['file']}" if each["file"] else f"rows {lines}"
                where = f": {rows_of}" if each["rows"] else ""
                print(f"train again  {each['model']}: {'; '.join(each['why'])}{where}")
        return
    if as_json:
        print_json(found.to_dict(rows=rows))
        return
    print(found)
    if rows:
        for node in found.models:
            for link in node.links():
                for each in link.episodes:
                    told = f"{each['run']} {each['id']} ({each['hash'][:12]})"
                    place = f"{node.rows or node.linked}:{link.row}"
                    print(f"{place} {link.hash[:12]} <- {told} <- {each['task']}")
