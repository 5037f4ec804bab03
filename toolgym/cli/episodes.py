"""Episodes, played and looked at: ``toolgym rollout`` and ``toolgym view``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolgym._util.text import shortened
from toolgym.cli import options
from toolgym.cli.shell import InterruptedRunError, playing_bar, print_json, table, warn
from toolgym.errors import BadInputError, PolicyError

if TYPE_CHECKING:
    from toolgym.rollouts.engine import Run
    from toolgym.rollouts.plan import Plan
    from toolgym.trajectory import Step, Trajectory

__all__ = ["describe", "environment_arguments", "join", "play", "view", "what_is_kept"]

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
RunOut = Annotated[Path, typer.Option("--out", "-o", help="Run folder; resumed if it exists.")]


def play(
    env: options.EnvId,
    policy: PolicyOption,
    out: RunOut,
    tasks: options.TasksOption = None,
    corpus: options.CorpusOption = None,
    split: options.SplitOption = None,
    tool: options.ToolOption = None,
    prompt: options.PromptOption = None,
    format: options.FormatOption = None,
    reward: options.RewardOption = None,
    max_steps: options.MaxStepsOption = None,
    examples: options.ExamplesOption = None,
    system: options.SystemOption = None,
    description: options.DescriptionOption = None,
    max_calls: options.MaxCallsOption = None,
    max_tokens: options.MaxTokensOption = None,
    env_arg: options.EnvArgOption = None,
    cassette: options.CassetteOption = None,
    record: options.RecordOption = None,
    fault: options.FaultOption = None,
    policy_arg: PolicyArgOption = None,
    episodes: EpisodesOption = None,
    samples_per_task: SamplesOption = 1,
    seed: SeedOption = 0,
    shard: options.ShardOption = None,
    same_as: options.SameAsOption = None,
    plan_only: options.PlanOption = False,
    ray: options.RayOption = None,
    concurrency: options.ConcurrencyOption = None,
    compress: options.CompressOption = None,
    as_json: options.Json = False,
) -> None:
    """Let a policy play episodes and record every one of them in a run folder."""
    from toolgym.rollouts.plan import plan

    named: dict[str, Any] = {"tasks": tasks, "corpus": corpus, "split": split, "prompt": prompt}
    named |= {"format": format, "max_steps": max_steps, "examples": examples}
    named["system"] = options.text_of(system)
    named |= {"descriptions": options.descriptions_of(description), "max_calls": max_calls}
    named["max_tokens"] = max_tokens
    arguments = environment_arguments(named, tool=tool, reward=reward, env_arg=env_arg)
    service = options.service_settings(cassette, record, fault)
    if service is not None:  # joined with what --env-arg says, such as {"cache": false}
        given = arguments.get("service", {})
        arguments["service"] = given | service if isinstance(given, dict) else given
    options.import_from_here()
    planned: dict[str, Any] = {
        "env_args": arguments,
        "policy_args": options.key_values(policy_arg, "--policy-arg"),
        "episodes": episodes,
        "samples_per_task": samples_per_task,
        "seed": seed,
    }
    if plan_only:
        _write_plan(plan(env, policy, **planned).shard(shard), same_as, out)
        return
    how = {"shard": shard, "same_as": same_as, "concurrency": concurrency, "compress": compress}
    _tell(_played(env, policy, planned | how, out, ray), out, as_json)


def _played(env: str, policy: str, asked: dict[str, Any], out: Path, ray: str | None) -> Run:
    """Play with a bar, on a Ray cluster where one is named.

    Raises:
        InterruptedRunError: Ctrl-C; it says what is kept.
    """
    from toolgym.policies.base import make_policy
    from toolgym.rollouts.engine import rollout

    player = make_policy(policy, **asked["policy_args"]) if ray is None else None
    asked |= {"policy_args": None} if player else {}
    try:
        with (
            options.executing(ray) as executor,
            playing_bar(f"rollout {env}", lambda: player.notice if player else "") as bars,
        ):
            asked |= {"executor": executor, "progress": bars[0], "pulse": bars[1]}
            return rollout(env, player or policy, **asked, out=out)
    except KeyboardInterrupt as error:
        raise InterruptedRunError(what_is_kept(out)) from error
    finally:
        if player is not None:
            player.close()


def _write_plan(planned: Plan, same_as: Path | None, out: Path) -> None:
    if same_as is not None:
        planned.check(same_as)
    planned.write(out)
    rows = ("planned", f"{len(planned.jobs)} episodes"), ("plan", str(out))
    print(table([*rows, ("next", f"the same command with --same-as {out} and --shard I/N")]))


def join(
    runs: Annotated[list[Path], typer.Argument(help="Folders of all shards of one plan.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run that they make.")],
    partial: Annotated[
        bool, typer.Option("--partial", help="Also where episodes are missing.")
    ] = False,
    compress: options.CompressOption = None,
    as_json: options.Json = False,
) -> None:
    """Make one run of the shards that `toolgym rollout --shard` played on several machines."""
    from toolgym.rollouts.merging import merge

    _tell(merge(runs, out, partial=partial, compress=compress), out, as_json)


def environment_arguments(
    named: dict[str, Any],
    *,
    tool: list[str] | None = None,
    reward: list[str] | None = None,
    env_arg: list[str] | None = None,
) -> dict[str, Any]:
    """The environment's keyword arguments: only what was said, so that its own defaults hold.

    Args:
        named: options with the environment's own argument names; None = not said.
        tool: ``--tool`` texts.
        reward: ``--reward`` texts.
        env_arg: ``--env-arg`` texts.
    """
    arguments = options.key_values(env_arg, "--env-arg")
    arguments |= {name: value for name, value in named.items() if value is not None}
    examples = arguments.get("examples")
    if isinstance(examples, str) and re.fullmatch(r"[-+]?\d{1,9}", examples):
        arguments["examples"] = int(examples)
    if tool:
        arguments["tools"] = options.tool_list(tool)
    if reward:
        arguments["reward"] = options.named_weights(reward)
    return arguments


def what_is_kept(out: Path) -> str:
    """What a run that was stopped has, and how to go on."""
    from toolgym.rollouts.runs import Run

    if not (finished := len(Run.open(out)) if (out / "run.json").is_file() else 0):
        return f"stopped before an episode was finished; {str(out)!r} can be used again"
    return (
        f"stopped: {finished} finished episodes are kept in {str(out)!r}; "
        "run the same command again to go on"
    )


def _tell(run: Run, out: Path, as_json: bool) -> None:
    """Print what was played.

    Raises:
        PolicyError: some episodes failed, so the run is not complete.
    """
    # The last failure of each episode that is still missing: others were retried with success.
    missing = {row["id"]: row for row in run.failures()}
    finished, total = 0, 0.0
    for trajectory in run:
        finished, total = finished + 1, total + trajectory.reward
        missing.pop(trajectory.id, None)
    planned = max(run.planned, finished)
    kinds = Counter(row["kind"] for row in missing.values())
    mean = total / finished if finished else None
    if as_json:
        facts = {"run": str(out), "planned": planned, "finished": finished}
        print_json(facts | {"failures": dict(kinds), "mean_reward": mean})
    else:
        rows = [("tasks", run.settings["task_source"]), ("episodes", f"{finished}/{planned}")]
        rows += [("mean reward", f"{mean:.3f}")] if mean is not None else []
        rows += [("run", str(out))]
        shard = run.settings.get("shard")
        then = f"toolgym merge, once all {shard[1]} shards are played" if shard else ""
        rows += [("next", then or f"toolgym eval {out}")] if finished else []
        print(table(rows))
    if missing:
        listed = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        example = next(iter(missing.values()))["message"]
        warn(
            f"{len(missing)} of {planned} episodes failed ({listed}) and are not scored; for "
            f"example: {example}; run the same command again to retry them"
        )
        raise typer.Exit(PolicyError.exit_code)


_REPLACED = "\N{REPLACEMENT CHARACTER}"


class Which(StrEnum):
    """Which episodes to show."""

    ALL = "all"
    REWARDED = "rewarded"
    UNREWARDED = "unrewarded"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    TOOL_ERRORS = "tool-errors"


def view(
    run: Annotated[
        Path, typer.Argument(help="Run folder, or a .jsonl file of trajectories or scenarios.")
    ],
    episode: Annotated[
        str | None,
        typer.Option("--episode", "--id", help="Only this one: task id, or task id#sample."),
    ] = None,
    which: Annotated[Which, typer.Option("--which", help="Which episodes.")] = Which.ALL,
    where: Annotated[
        str | None,
        typer.Option("--where", help="Only such as 'exact_match>=1 and calls<=2', see filter."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", help="At most so many.")] = 3,
    width: Annotated[int, typer.Option("--width", help="Characters of a text shown.")] = 600,
    as_json: options.Json = False,
) -> None:
    """Print episodes as a person reads them: what was asked, called, answered, and rewarded.

    Also what a plug-in knows to show, such as scenarios and those that a build rejected.
    """
    if run.is_file() and (show := _viewer(run)) is not None:
        if where is not None:
            raise BadInputError(f"--where is for episodes, which {str(run)!r} does not hold")
        _view_rows(run, show, episode, count, width, as_json)
        return
    from toolgym.data.conditions import condition

    holds = condition(where, _read(run)) if where is not None else lambda _: True
    chosen: list[Trajectory] = []
    for trajectory in _read(run):
        if _named(trajectory, episode) and _is(trajectory, which) and holds(trajectory):
            chosen.append(trajectory)
            if len(chosen) >= count:
                break
    if not chosen:
        raise BadInputError(_nothing(run, episode, which, where))
    if as_json:
        print_json([trajectory.to_row() for trajectory in chosen])
        return
    print("\n\n".join(describe(trajectory, width) for trajectory in chosen))


Viewer = Callable[[dict[str, Any], int], tuple[str, str] | None]


def _viewer(file: Path) -> Viewer | None:
    """Who shows the rows of a file; nobody where they are trajectories."""
    from toolgym._util.jsonl import read_rows
    from toolgym.registry import VIEWERS

    row = next((row for _, row in read_rows(file, torn=True)), None)
    if row is None or "steps" in row:
        return None
    viewers: list[Viewer] = [VIEWERS.get(name) for name in VIEWERS]
    return next((viewer for viewer in viewers if viewer(row, 10) is not None), None)


def _view_rows(
    file: Path, show: Viewer, name: str | None, count: int, width: int, as_json: bool
) -> None:
    from toolgym._util.jsonl import read_rows
    from toolgym.errors import did_you_mean

    shown: list[str] = []
    rows: list[dict[str, Any]] = []
    ids: list[str] = []
    for _, row in read_rows(file, torn=True):
        ids.append(str(row.get("id")))
        if name is not None and ids[-1] != name:
            continue
        rows.append(row)
        if not as_json:
            shown.append((show(row, width) or ("", ""))[1])
        if len(rows) >= count:
            break
    if not rows:
        raise BadInputError(f"{str(file)!r} holds no {name!r}{did_you_mean(name or '', ids)}")
    if as_json:
        print_json(rows)
    else:
        print(_printable("\n\n".join(shown)))


def describe(trajectory: Trajectory, width: int = 600) -> str:
    """An episode as text.

    Args:
        trajectory: the episode.
        width: characters of each text that are shown.
    """
    task = trajectory.task
    ended = "answered" if trajectory.terminated else "cut off" if trajectory.truncated else "open"
    lines = [
        f"=== {trajectory.id}  {trajectory.env_id}  {ended}  reward {trajectory.reward:g}",
        f"question: {task.question}",
        f"gold:     {' | '.join(task.answers[:5])}",
        f"answer:   {shortened(trajectory.answer or '(none)', width)}",
    ]
    if trajectory.examples:
        lines.append(f"examples: {trajectory.examples} worked ones before the question")
    for number, step in enumerate(trajectory.steps, 1):
        lines += [f"--- turn {number}", *_step_lines(step, width)]
    return _printable("\n".join(lines))


def _printable(text: str) -> str:
    """A model wrote some of it: control characters would drive the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else _REPLACED for c in text)


def _step_lines(step: Step, width: int) -> Iterator[str]:
    yield shortened(step.action, width)
    for call, result in zip(step.calls, step.results, strict=True):
        mark = f"[{result.error}] " if result.error else ""
        yield f"  -> {shortened(call.name, width)}({shortened(str(call.arguments), width)})"
        yield f"  <- {mark}{shortened(result.content, width)}"
    for problem in step.problems:
        yield f"  !! {problem.kind}: {problem.message}"
    parts = "  ".join(f"{name} {value:g}" for name, value in step.reward_parts.items())
    yield f"  == reward {step.reward:g}" + (f"  ({parts})" if parts else "")


def _read(path: Path) -> Iterator[Trajectory]:
    from toolgym.rollouts.runs import open_recording

    return iter(open_recording(path))


def _named(trajectory: Trajectory, episode: str | None) -> bool:
    return episode is None or episode in (trajectory.id, trajectory.task.id)


def _is(trajectory: Trajectory, which: Which) -> bool:
    tests: dict[Which, Any] = {
        Which.ALL: lambda: True,
        Which.REWARDED: lambda: trajectory.reward > 0,
        Which.UNREWARDED: lambda: trajectory.reward <= 0,
        Which.TRUNCATED: lambda: trajectory.truncated,
        Which.MALFORMED: lambda: any(step.problems for step in trajectory.steps),
        Which.TOOL_ERRORS: lambda: any(result.error for _, result in trajectory.calls),
    }
    return bool(tests[which]())


def _nothing(run: Path, episode: str | None, which: Which, where: str | None) -> str:
    from toolgym.errors import did_you_mean

    kind = "" if which is Which.ALL else f" that is {which.value!r}"
    kind += "" if where is None else f" with {where!r}"
    if episode is None:
        return f"{str(run)!r} holds no episode{kind}"
    ids = [trajectory.id for trajectory in _read(run)]
    return f"{str(run)!r} holds no episode {episode!r}{kind}{did_you_mean(episode, ids)}"
