"""Options that several commands share, and the texts behind them read into plain data."""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from toolgym.executors import Executor

__all__ = [
    "descriptions_of",
    "executing",
    "import_from_here",
    "key_values",
    "named_weights",
    "service_settings",
    "text_of",
    "tool_list",
    "with_fields",
]

Command = TypeVar("Command", bound=Callable[..., Any])

PolicyOption = Annotated[
    str,
    typer.Option(
        "--policy",
        help="lookup, scripted, replay:RUN, transformers:MODEL, endpoint, or module:function.",
    ),
]
PolicyArgOption = Annotated[
    list[str] | None,
    typer.Option("--policy-arg", metavar="KEY=VALUE", help="Argument of the policy (repeat)."),
]
EpisodesOption = Annotated[
    int | None, typer.Option("--episodes", help="How many in all; default: every task.")
]
SamplesOption = Annotated[
    int, typer.Option("--samples-per-task", help="Rollouts of each task (a group).")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Fixes task order and sampling.")]
EnvId = Annotated[str, typer.Argument(help="Environment id; `toolgym envs` lists them.")]
RunFolder = Annotated[
    Path,
    typer.Argument(help="Run folder that `toolgym rollout` wrote, or sample:lookup (bundled)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
TasksOption = Annotated[
    str | None,
    typer.Option(
        "--tasks", help="Task source: sample, a .jsonl or .csv path, or hub. [default: sample]"
    ),
]
CorpusOption = Annotated[
    str | None,
    typer.Option(
        "--corpus", help="What is searched: sample, a .jsonl path, an index folder, hf:OWNER/NAME."
    ),
]
SplitOption = Annotated[
    str | None, typer.Option("--split", help="train, validation or test; default: all tasks.")
]
ToolOption = Annotated[
    list[str] | None,
    typer.Option("--tool", help='Offer this tool (repeat); a name or {"name": ..., "k": 3}.'),
]
PromptOption = Annotated[
    str | None,
    typer.Option("--prompt", help="Prompting strategy. [default: tools_multi_step]"),
]
FormatOption = Annotated[
    str | None, typer.Option("--format", help="How the policy writes calls. [default: react]")
]
RewardOption = Annotated[
    list[str] | None,
    typer.Option("--reward", metavar="NAME=WEIGHT", help="Reward and weight (repeat)."),
]
MaxStepsOption = Annotated[
    int | None, typer.Option("--max-steps", help="Turns until truncation. [default: 8]")
]
EnvArgOption = Annotated[
    list[str] | None,
    typer.Option("--env-arg", metavar="KEY=VALUE", help="Any other environment argument (repeat)."),
]
CassetteOption = Annotated[
    str | None,
    typer.Option("--cassette", metavar="FILE", help="File of all tool input and output."),
]
RecordOption = Annotated[
    bool | None,
    typer.Option("--record/--replay", help="Write the cassette, or answer calls from it alone."),
]
FaultOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fault",
        metavar="KIND=RATE",
        help="Inject faults (repeat): timeout, tool_error, empty, garbled, slow; also seed=N.",
    ),
]
ExamplesOption = Annotated[
    str | None,
    typer.Option(
        "--examples",
        metavar="N|FILE",
        help="Worked examples before the question: so many bundled ones, or a .json(l) file.",
    ),
]
SystemOption = Annotated[
    str | None,
    typer.Option(
        "--system", help="System text, before the instructions or around {instructions}; @FILE."
    ),
]
DescriptionOption = Annotated[
    list[str] | None,
    typer.Option("--description", metavar="TOOL=TEXT", help="What is told of a tool (repeat)."),
]
MaxCallsOption = Annotated[
    int | None, typer.Option("--max-calls", help="Tool calls of an episode at most.")
]
MaxTokensOption = Annotated[
    int | None, typer.Option("--max-tokens", help="Tokens that a policy writes in an episode.")
]
LearnAsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--learn-as",
        metavar="KEY=VALUE",
        help="Learn under another prompt (repeat): examples=0, prompt=NAME.",
    ),
]
ConcurrencyOption = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        help="Episodes at once; default 16, 16 a model server, for local models 128, on a CPU 32.",
    ),
]
CompressOption = Annotated[
    bool | None,
    typer.Option(
        "--compress/--no-compress", help="Record with zstd; default: as the folder is, else not."
    ),
]
UntilOption = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="'FIGURE +- POINTS'",
        help="Stop when a figure is known so well, such as 'accuracy +- 2' percentage points; "
        "--episodes is then the most.",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Play only every N-th job, from the I-th on; see merge."
    ),
]
SameAsOption = Annotated[
    Path | None,
    typer.Option(
        "--same-as",
        metavar="RUN",
        help="Run folder or run.json of another machine: play nothing where settings or files "
        "differ.",
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="ADDRESS", help="Work on a Ray cluster: auto, local, or its address."
    ),
]
WorkersOption = Annotated[
    int, typer.Option("--workers", help="Processes, where rewards compute much; 1: this one.")
]
PlanOption = Annotated[
    bool, typer.Option("--plan-only", help="Write run.json, for --same-as, and play nothing.")
]
OutFile = Annotated[Path, typer.Option("--out", "-o", help="File to write.")]


def key_values(texts: Sequence[str] | None, option: str) -> dict[str, Any]:
    """``key=value`` texts as a dict; a value that is JSON (a number, true, a list) is read as JSON.

    Args:
        texts: what was given on the command line.
        option: its option, for the message.

    Raises:
        typer.BadParameter: a text without ``=``, or without a key before it.
    """
    read: dict[str, Any] = {}
    for text in texts or ():
        key, found, value = text.partition("=")
        if not found or not key.strip():
            raise typer.BadParameter(f"{option} needs KEY=VALUE, not {text!r}")
        read[key.strip()] = _value(value)
    return read


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        return text


def text_of(text: str | None) -> str | None:
    """A text, or with ``@`` before it the content of that file.

    Raises:
        typer.BadParameter: the file cannot be read.
    """
    if text is None or not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{text[1:]!r} cannot be read as text: {error}") from error


def descriptions_of(texts: Sequence[str] | None) -> dict[str, str] | None:
    """``TOOL=TEXT`` texts by tool; None when there are none.

    Raises:
        typer.BadParameter: a text without ``=``, or without a name before it.
    """
    read = {}
    for text in texts or ():
        name, found, told = text.partition("=")
        if not found or not name.strip():
            raise typer.BadParameter(f"--description needs TOOL=TEXT, not {text!r}")
        read[name.strip()] = told
    return read or None


def named_weights(texts: Sequence[str] | None) -> dict[str, float]:
    """``name=weight`` texts, or plain names with weight 1.

    Raises:
        typer.BadParameter: a weight that is not a finite number, or no name.
    """
    read: dict[str, float] = {}
    for text in texts or ():
        name, found, weight = text.partition("=")
        try:
            number = float(weight) if found else 1.0
        except ValueError:
            number = math.nan
        if not name.strip() or not math.isfinite(number):
            raise typer.BadParameter(f"--reward needs NAME=WEIGHT with a number, not {text!r}")
        read[name.strip()] = number
    return read


def tool_list(texts: Sequence[str]) -> list[str | dict[str, Any]]:
    """Tool names, or JSON objects of a name with options.

    Raises:
        typer.BadParameter: a text that begins like an object and is none with a name.
    """
    read: list[str | dict[str, Any]] = []
    for text in texts:
        if not text.lstrip().startswith("{"):
            read.append(text)
            continue
        value = _value(text)
        if not isinstance(value, dict) or "name" not in value:
            raise typer.BadParameter(f'--tool needs a name or {{"name": ...}}, not {text!r}')
        read.append(value)
    return read


def service_settings(
    cassette: str | None, record: bool | None, fault: Sequence[str] | None
) -> dict[str, Any] | None:
    """What the options say about the tool service; None when they say nothing.

    Args:
        cassette: the file.
        record: write it (True), answer from it (False), or not said.
        fault: ``kind=rate`` texts.
    """
    said: dict[str, Any] = {} if cassette is None else {"cassette": cassette}
    if record is not None:
        said["mode"] = "record" if record else "replay"
    if fault:
        said["faults"] = key_values(fault, "--fault")
    return said or None


@contextmanager
def executing(ray: str | None, workers: int = 1) -> Iterator[Executor | None]:
    """The executor that options ask for; None: this process works itself.

    Args:
        ray: address of a Ray cluster, or None.
        workers: processes of this machine, where there is no cluster.
    """
    from toolgym.executors import RayExecutor, WorkerExecutor

    if ray is None and workers == 1:
        yield None
        return
    with WorkerExecutor(workers) if ray is None else RayExecutor(ray) as executor:
        yield executor


def import_from_here() -> None:
    """Let ``module:function`` name a module in the folder where the command is typed."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)


def with_fields(model: type[BaseModel]) -> Callable[[Command], Command]:
    """Give a command an option for each field of a model, in place of its ``**fields``.

    Mappings have none: ``--set`` takes them as JSON. An option that was not given is None, so that
    the model's own default holds.

    Args:
        model: whose fields say their types and descriptions.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = list(signature.parameters.values())[:-1]
        made = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, field in model.model_fields.items()
            if (kind := _option(name, field)) is not None
        ]
        command.__signature__ = signature.replace(parameters=[*own, *made])  # type: ignore[attr-defined]
        return command

    return decorate


def _option(name: str, field: FieldInfo) -> Any:
    """The annotation that typer reads, or None for a mapping."""
    kinds = _kinds(field.annotation)
    if dict in kinds:
        return None
    # Where a field takes several kinds: a list is given by repeating, a rank of 0 is False.
    kind = next(k for k in (list[str], int, float, bool, str) if (get_origin(k) or k) in kinds)
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        flag += f"/--no-{name.replace('_', '-')}"
    shown = (
        "" if field.default is None or field.default is False else f" [default: {field.default}]"
    )
    return Annotated[kind | None, typer.Option(flag, help=f"{field.description}{shown}")]


def _kinds(annotation: Any) -> set[type]:
    """The plain types that a field takes."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return {kind for part in get_args(annotation) for kind in _kinds(part)}
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin is Literal:
        return {str}
    return {origin or annotation}
