"""Episodes, played: ``toolgym rollout`` and ``toolgym merge``."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolgym.cli import options
from toolgym.cli.shell import InterruptedRunError, playing_bar, print_json, table, warn
from toolgym.errors import PolicyError

if TYPE_CHECKING:
    from toolgym.rollouts.engine import Run
    from toolgym.rollouts.plan import Plan

__all__ = ["environment_arguments", "join", "play", "what_is_kept"]

RunOut = Annotated[Path, typer.Option("--out", "-o", help="Run folder; resumed if it exists.")]


def play(
    env: options.EnvId,
    policy: options.PolicyOption,
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
    policy_arg: options.PolicyArgOption = None,
    episodes: options.EpisodesOption = None,
    samples_per_task: options.SamplesOption = 1,
    seed: options.SeedOption = 0,
    until: options.UntilOption = None,
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
    named |= {"system": options.text_of(system), "max_calls": max_calls, "max_tokens": max_tokens}
    named["descriptions"] = options.descriptions_of(description)
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
        if until is not None:
            raise typer.BadParameter("a plan is for shards, which --until cannot stop")
        _write_plan(plan(env, policy, **planned).shard(shard), same_as, out)
        return
    how = {"shard": shard, "same_as": same_as, "concurrency": concurrency, "compress": compress}
    _tell(_played(env, policy, planned | how | {"until": until}, out, ray), out, as_json)


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
    from toolgym.sequential.until import Decided

    # The last failure of each episode that is still missing: others were retried with success.
    missing = {row["id"]: row for row in run.failures()}
    finished, total = 0, 0.0
    for trajectory in run:
        finished, total = finished + 1, total + trajectory.reward
        missing.pop(trajectory.id, None)
    planned = max(run.planned, finished)
    kinds = Counter(row["kind"] for row in missing.values())
    mean = total / finished if finished else None
    decided = run.settings.get("decided")
    if as_json:
        facts = {"run": str(out), "planned": planned, "finished": finished}
        facts |= {"decided": decided} if decided else {}
        print_json(facts | {"failures": dict(kinds), "mean_reward": mean})
    else:
        rows = [("tasks", run.settings["task_source"]), ("episodes", f"{finished}/{planned}")]
        rows += [("mean reward", f"{mean:.3f}")] if mean is not None else []
        rows += [("until", str(Decided(**decided)))] if decided else []
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
