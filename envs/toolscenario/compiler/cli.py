"""``toolgym scenarios``: build, check and convert files of scenarios."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolgym.cli import options
from toolgym.cli.shell import print_json, progress_bar, table
from toolgym.envs.toolscenario.compiler.checking import check_file
from toolgym.envs.toolscenario.files import Read, read_scenarios
from toolgym.envs.toolscenario.records import to_own, to_public
from toolgym.envs.toolscenario.world import World
from toolgym.registry import AUTHORS
from toolgym.scenario import Scenario

__all__ = ["app", "build", "check", "convert"]

if TYPE_CHECKING:
    from toolgym.envs.toolscenario.compiler.pipeline import BuildReport
    from toolgym.scenario import Levels


app = typer.Typer(help="Scenarios for ToolScenario-v0: build, check, convert.")

ScenarioFile = Annotated[Path, typer.Argument(help="A .jsonl of scenarios, of either format.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds a call of a function may take.")]


class Layout(StrEnum):
    """How scenarios are written."""

    OURS = "ours"
    PUBLIC = "public"


AuthorName = Annotated[
    str, typer.Option("--author", help="Who writes: offline, endpoint, template (worlds).")
]
Kind = Annotated[
    str | None, typer.Option("--kind", help="template, endpoint: stateful, tools that remember.")
]
Count = Annotated[int, typer.Option("--count", "-n", help="Verified scenarios wanted.")]
Seed = Annotated[int, typer.Option("--seed", help="Decides draws and levels.")]
Level = Annotated[
    int | None, typer.Option("--level", help="0 to 3, for all four strategies of scaling.")
]
FourLevels = Annotated[
    str | None,
    typer.Option(
        "--levels",
        metavar="A,B,C,D",
        help="Of functional, parameter and type generalisation, and of distractors.",
    ),
]
KnowledgeSource = Annotated[
    str | None,
    typer.Option("--knowledge", help="offline: generated, bundled, or a .jsonl of triples."),
]
Questions = Annotated[
    Path | None, typer.Option("--questions", help="endpoint: a .jsonl of questions.")
]
BaseUrl = Annotated[
    str | None, typer.Option("--base-url", help="endpoint: such as http://127.0.0.1:8000/v1.")
]
Model = Annotated[str | None, typer.Option("--model", help="endpoint: the model's name.")]
AuthorOption = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="Any other option of the author."),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", help="Processes (default: cores), or threads for an endpoint."),
]
FromStage = Annotated[
    str | None, typer.Option("--from-stage", help="Run this stage and the later ones again.")
]


@app.command("build")
def build(
    author: AuthorName,
    out: options.OutFile = Path("scenarios.jsonl"),
    count: Count = 1000,
    seed: Seed = 0,
    level: Level = None,
    levels: FourLevels = None,
    kind: Kind = None,
    knowledge: KnowledgeSource = None,
    questions: Questions = None,
    base_url: BaseUrl = None,
    model: Model = None,
    option: AuthorOption = None,
    workers: Workers = None,
    ray: options.RayOption = None,
    from_stage: FromStage = None,
    timeout: Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Compile questions into verified tool environments; run it again to go on after a stop.

    Every stage's results and the rejections lie in OUT.build beside the file.
    """
    from toolgym.envs.toolscenario.compiler.making import default_workers
    from toolgym.envs.toolscenario.compiler.pipeline import compile_scenarios, make_author

    chosen = _levels(level, levels)
    if f"{author}-{kind}" in AUTHORS:  # who writes this kind has a name of its own
        author, kind = f"{author}-{kind}", None
    named = {
        "kind": kind,
        "knowledge": knowledge,
        "base_url": base_url,
        "model": model,
        "questions": questions,
    }
    given = {key: str(value) for key, value in named.items() if value is not None}
    writer = make_author(author, given | options.key_values(option, "--option"), out, seed)
    with (
        options.executing(ray) as executor,
        progress_bar(f"scenarios by {author}", unit="scenarios") as advance,
    ):
        report = compile_scenarios(
            writer,
            out,
            count,
            seed,
            levels=chosen,
            workers=default_workers(writer) if workers is None else workers,
            executor=executor,
            from_stage=from_stage,
            timeout=timeout,
            progress=advance,
        )
    if as_json:
        print_json(report.to_row())
    else:
        print(_told(report, count))


def _levels(level: int | None, levels: str | None) -> Levels | None:
    from toolgym.scenario import MAX_LEVEL, Levels

    if level is not None and levels is not None:
        raise typer.BadParameter("give --level or --levels, not both")
    if level is None and levels is None:
        return None
    names = list(Levels.model_fields)
    texts = [str(level)] * len(names) if levels is None else levels.split(",")
    known = {str(number): number for number in range(MAX_LEVEL + 1)}
    if len(texts) != len(names) or not all(text.strip() in known for text in texts):
        raise typer.BadParameter(
            f"levels are {len(names)} numbers from 0 to {MAX_LEVEL}, such as 1,0,2,3, "
            f"not {','.join(texts)!r}"
        )
    return Levels(**{n: known[text.strip()] for n, text in zip(names, texts, strict=True)})


def _told(report: BuildReport, count: int) -> str:
    rate = f"{60 * report.made / report.seconds:,.0f} a minute" if report.made else "none new"
    rows: list[tuple[str, object]] = [
        ("scenarios", f"{report.scenarios} of {count}, from {report.tried} questions"),
        ("time", f"{report.seconds:.1f} s, {rate}"),
        ("file", str(report.out)),
        ("stages", str(report.folder)),
    ]
    worlds = "level" in report.levels
    what = "domain" if worlds else "shape"
    rows += [(f"{what} {name}", str(number)) for name, number in report.shapes.items()]
    for name, numbers in report.levels.items():
        title = "level" if worlds else f"level of {name.replace('_', ' ')}"
        rows.append((title, f"{'1/2/3/4' if worlds else '0/1/2/3'}: {'/'.join(map(str, numbers))}"))
    rows += [(f"rejected {name}", str(number)) for name, number in report.rejected.items()]
    if not report.rejected:
        rows.append(("rejected", "none"))
    rows += [(f"author {name}", str(value)) for name, value in report.author.items()]
    if report.scenarios < count:
        rows.append(("note", "the author has no more questions"))
    if report.rejected:
        rows.append(("next", f"toolgym view {report.folder / 'rejected.jsonl'}"))
    return table(rows)


@app.command("check")
def check(
    file: ScenarioFile,
    timeout: Timeout = 10.0,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Scenarios checked at once; default: cores.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Verify every scenario of a file; exit code 3 when one fails, a line for each failure."""
    from toolgym.errors import CheckError

    width = (os.cpu_count() or 1) if workers is None else workers
    if width < 1:
        raise typer.BadParameter(f"--workers must be at least 1, not {width}")
    with progress_bar(f"checking {file.name}", unit="scenarios") as advance:
        found = list(check_file(file, timeout=timeout, workers=width, progress=advance))
    failures = [finding for finding in found if finding.reason]
    unexecuted = sum(not finding.executed for finding in found)
    if as_json:
        rows = [
            {"line": f.line, "id": f.id, "reason": f.reason, "message": f.message} for f in failures
        ]
        facts: dict[str, Any] = {"scenarios": len(found), "failed": len(failures)}
        print_json(facts | {"without_reference_calls": unexecuted, "failures": rows})
    else:
        for finding in failures:
            message = " ".join(finding.message.split())
            print(f"line {finding.line}, {finding.id}: {finding.reason}: {message}")
    note = (
        f" ({unexecuted} hold no reference calls: whether their sub-answers can be reached is "
        "unknown)"
        if unexecuted
        else ""
    )
    if failures:
        raise CheckError(f"{len(failures)} of {len(found)} scenarios in {str(file)!r} fail{note}")
    if not as_json:
        print(f"all {len(found)} scenarios hold{note}")


@app.command("convert")
def convert(
    file: ScenarioFile,
    out: options.OutFile,
    to: Annotated[Layout, typer.Option("--to", help="ours, or public: the published format.")],
    as_json: options.Json = False,
) -> None:
    """Write a file in the other format; ours in the published one can be converted back."""
    from toolgym.envs.toolscenario.files import write_scenarios
    from toolgym.errors import BadInputError

    def converted(number: int, scenario: Read) -> Read:
        try:
            if isinstance(scenario, World):
                if to is Layout.PUBLIC:
                    raise BadInputError("the published format has no worlds with a state")
                return scenario
            if isinstance(scenario, Scenario):
                return to_public(scenario) if to is Layout.PUBLIC else scenario
            return to_own(scenario) if to is Layout.OURS else scenario
        except BadInputError as error:
            raise BadInputError(f"scenario file {str(file)!r}, line {number}: {error}") from error

    if out.exists() and out.samefile(file):
        raise typer.BadParameter(f"--out is the file that is read, {str(file)!r}; name another")
    written = write_scenarios(out, (converted(*pair) for pair in read_scenarios(file)))
    if as_json:
        print_json({"out": str(out), "scenarios": written, "format": to.value})
    else:
        print(f"{written} scenarios written to {out}")
