"""``toolgym rollout``: play episodes into a run folder."""

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

__all__ = ["environment_arguments", "play"]

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
ConcurrencyOption = Annotated[
    int | None,
    typer.Option(
        "--concurrency", help="Episodes at once; default 16, for local models 128, on a CPU 32."
    ),
]
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
    env_arg: options.EnvArgOption = None,
    cassette: options.CassetteOption = None,
    record: options.RecordOption = None,
    fault: options.FaultOption = None,
    policy_arg: PolicyArgOption = None,
    episodes: EpisodesOption = None,
    samples_per_task: SamplesOption = 1,
    seed: SeedOption = 0,
    concurrency: ConcurrencyOption = None,
    as_json: options.Json = False,
) -> None:
    """Let a policy play episodes and record every one of them in a run folder."""
    from toolgym.policies import make_policy
    from toolgym.rollouts.engine import rollout

    named = {"tasks": tasks, "corpus": corpus, "split": split, "prompt": prompt, "format": format}
    arguments = environment_arguments(
        named | {"max_steps": max_steps, "examples": examples},
        tool=tool,
        reward=reward,
        env_arg=env_arg,
    )
    service = options.service_settings(cassette, record, fault)
    if service is not None:
        # Joined with what --env-arg says, such as {"cache": false}.
        given = arguments.get("service", {})
        arguments["service"] = given | service if isinstance(given, dict) else given
    options.import_from_here()
    player = make_policy(policy, **options.key_values(policy_arg, "--policy-arg"))
    try:
        with playing_bar(f"rollout {env}") as (advance, pulse):
            run = rollout(
                env,
                player,
                env_args=arguments,
                episodes=episodes,
                samples_per_task=samples_per_task,
                seed=seed,
                out=out,
                concurrency=concurrency,
                progress=advance,
                pulse=pulse,
            )
    except KeyboardInterrupt as error:
        raise InterruptedRunError(_what_is_kept(out)) from error
    finally:
        player.close()
    _tell(run, out, as_json)


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


def _what_is_kept(out: Path) -> str:
    from toolgym.rollouts.engine import Run

    finished = len(Run.open(out)) if (out / "run.json").is_file() else 0
    if not finished:
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
    trajectories = run.trajectories()
    finished = {trajectory.id for trajectory in trajectories}
    planned = max(run.settings["episodes"], len(finished))
    # The last failure of each episode that is still missing: others were retried with success.
    missing = {row["id"]: row for row in run.failures() if row["id"] not in finished}
    kinds = Counter(row["kind"] for row in missing.values())
    mean = sum(t.reward for t in trajectories) / len(trajectories) if trajectories else None
    if as_json:
        facts = {"run": str(out), "planned": planned, "finished": len(finished)}
        print_json(facts | {"failures": dict(kinds), "mean_reward": mean})
    else:
        rows = [("tasks", run.settings["task_source"]), ("episodes", f"{len(finished)}/{planned}")]
        rows += [("mean reward", f"{mean:.3f}")] if mean is not None else []
        rows += [("run", str(out))]
        rows += [("next", f"toolgym eval {out}")] if finished else []
        print(table(rows))
    if missing:
        listed = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        example = next(iter(missing.values()))["message"]
        warn(
            f"{len(missing)} of {planned} episodes failed ({listed}) and are not scored; for "
            f"example: {example}; run the same command again to retry them"
        )
        raise typer.Exit(PolicyError.exit_code)
