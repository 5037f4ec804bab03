"""Reinforcement learning in our environments: groups of episodes, rewarded by our rewards.

GRPO is Shao et al. 2024 (arXiv 2402.03300); arXiv 2508.08791 trains with it on every prefix of
recorded episodes, one turn at a time, which is ``credit="turn"`` here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

from toolgym._util.jsonl import value_hash
from toolgym._util.optional import quiet
from toolgym.env import ToolEnv
from toolgym.errors import BadInputError, did_you_mean
from toolgym.rollouts.engine import make_env
from toolgym.rollouts.sources import Recording, read_recording
from toolgym.training import _trl
from toolgym.training.config import Common, Options, make_options, require_positive
from toolgym.training.encoding import require_end
from toolgym.training.loop import Result, StepProgress, load_for_training
from toolgym.training.output import Outcome, Trained
from toolgym.training.trl_episode import (
    CREDITS,
    Player,
    Start,
    starts_from_episodes,
    starts_from_tasks,
)

__all__ = ["LOSSES", "train_grpo", "worlds_of"]

LOSSES = ("dapo", "grpo", "dr_grpo", "bnpo")
EPISODES = "episodes"


def train_grpo(
    env: str | ToolEnv | Sequence[ToolEnv],
    model: str | Path,
    out: str | Path,
    *,
    env_args: Mapping[str, Any] | None = None,
    prefixes: Recording | None = None,
    credit: str | None = None,
    generations: int = 8,
    beta: float = 0.0,
    baseline: str = "grpo",
    loss: str = "dapo",
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 512,
    max_prompt_tokens: int = 8192,
    max_tokens: int = 8192,
    sampling_batch_size: int = 64,
    cache_gib: float = 1.0,
    template: Mapping[str, Any] | None = None,
    record_episodes: bool = False,
    resume: bool = True,
    progress: StepProgress | None = None,
    **common: Unpack[Common],
) -> Trained:
    """Fine-tune a model by playing, with TRL's ``GRPOTrainer`` and our own episodes.

    Each step plays ``batch_size`` episodes, ``generations`` of each task, with the environment's
    own tools, deadlines and rewards; the loss falls on the sampled tokens themselves. Rewards are
    the environment's: ``env_args={"reward": {"accuracy": 1.0, "execution_precision": 0.2}}``; each
    part is logged by name. An episode in which the model itself failed is left out, never scored 0.

    Args:
        env: an environment id, an environment, or several whose rewards are the same.
        model: a folder or a hub id.
        out: folder of the trained model; see `toolgym.training.sft.train_sft`.
        env_args: keyword arguments, for an id.
        prefixes: recorded episodes; every prefix of them is a starting point, instead of every
            task.
        credit: ``episode`` plays to the end and sums the rewards of the turns; ``turn`` plays one
            turn and takes its own reward. Default: ``turn`` with prefixes, else ``episode``.
        generations: episodes of a group, at least 2; ``batch_size`` is a multiple of it.
        beta: weight of the KL divergence from the first model; 0 saves its memory.
        baseline: ``grpo`` divides a group's advantages by its deviation, ``reinforce++`` by that
            of the batch, ``rloo`` not at all (leave-one-out up to the constant n / (n - 1)).
        loss: how tokens are averaged, one of `LOSSES` as TRL has them.
        temperature: of sampling, and of the probabilities in the loss.
        top_p: nucleus sampling.
        max_new_tokens: of one reply.
        max_prompt_tokens: longer prompts lose their beginning.
        max_tokens: an episode is cut after the turn that passes so many tokens.
        sampling_batch_size: replies sampled at once.
        cache_gib: GiB of keys and values kept between an episode's turns.
        template: further arguments of the chat template, such as ``{"enable_thinking": False}``.
        record_episodes: keep all that was played, one file a step, in ``<out>/episodes``.
        resume: go on from the last checkpoint of the same training.
        progress: called with steps done, steps planned and a note.
        common: see `toolgym.training.config.Common`; ``epochs`` are passes over the starting
            points, ``batch_size`` counts episodes. The learning rate is 1e-6 by default (arXiv
            2508.08791), with LoRA 1e-5.

    Returns:
        The trained model; its figures hold ``reward`` and each part over the last ten steps.

    Raises:
        MissingExtraError: torch, transformers or TRL is missing, or TRL is of an untested version.
        UnknownNameError: no such environment, tool, format or reward.
        MissingFileError: the model or a file is missing.
        PolicyError: the model failed in more than half of a step's episodes.
        BadInputError: a number or choice out of range, an unknown argument, an environment
            without a weighted reward, or prefixes of other tasks.
        RunMismatchError: ``out`` holds something else, or was begun with other settings.
    """
    _trl.check_version()
    options = make_options(rate=1e-6, lora_rate=1e-5, **common)
    worlds = worlds_of(env, env_args)
    group = _trl.GroupOptions(
        generations=generations,
        beta=float(beta),
        temperature=float(temperature),
        max_tokens=max_tokens,
        baseline=baseline,
        loss=loss,
        weights=dict(worlds[0].rubric.weights),
    )
    _check(group, options)
    played = None if prefixes is None else read_recording(prefixes)[0]
    plan = _Plan(
        worlds=worlds,
        starts=(
            starts_from_tasks(worlds) if played is None else starts_from_episodes(worlds, played)
        ),
        credit=_one_of("credit", credit or ("episode" if played is None else "turn"), CREDITS),
        sampling={
            "temperature": float(temperature),
            "top_p": float(top_p),
            "max_new_tokens": max_new_tokens,
            "max_prompt_tokens": max_prompt_tokens,
            "batch_size": sampling_batch_size,
            "cache_gib": cache_gib,
            **({"template": dict(template)} if template else {}),
        },
        record_episodes=record_episodes,
    )
    _require_step(plan, group.generations, options.batch_size)
    with quiet():
        return _train(str(model), Path(out), plan, options, group, resume, progress)


@dataclass(frozen=True)
class _Plan:
    """What is played, and how."""

    worlds: list[ToolEnv]
    starts: list[Start]
    credit: str
    sampling: dict[str, Any]
    record_episodes: bool

    def record(self) -> dict[str, Any]:
        """What of it decides the result."""
        tasks = [world.tasks.fingerprint() for world in self.worlds]
        return {
            "rows": value_hash([[start.key for start in self.starts], tasks]),
            "tasks": [world.tasks.source for world in self.worlds],
            "starts": len(self.starts),
            "credit": self.credit,
            # How many replies are sampled at once, and what is kept, changes none of them.
            "sampling": {
                k: v for k, v in self.sampling.items() if k not in ("batch_size", "cache_gib")
            },
        }


def _train(
    model: str,
    out: Path,
    plan: _Plan,
    options: Options,
    group: _trl.GroupOptions,
    resume: bool,
    progress: StepProgress | None,
) -> Trained:
    loaded, tokenizer, saved = load_for_training(model, half=options.bf16 and options.lora > 0)
    require_end(tokenizer)
    record = {"method": "grpo", "model": model, **plan.record()}
    outcome = Outcome(out, record | {"options": options.to_row() | {"group": asdict(group)}})
    finished = outcome.finished()
    if finished is not None:
        return finished
    with outcome.begin(resume):
        player = Player(
            envs=plan.worlds,
            tokenizer=tokenizer,
            starts={start.key: start for start in plan.starts},
            credit=plan.credit,
            sampling=plan.sampling,
            max_tokens=group.max_tokens,
            seed=options.seed,
            record=outcome.work / EPISODES if plan.record_episodes else None,
        )
        made = _trl.run_grpo(
            loaded,
            tokenizer,
            list(player.starts),
            player,
            outcome.work,
            options,
            group,
            resume=resume,
            progress=progress,
        )
        return _finish(outcome, made, saved, tokenizer, group, options.batch_size)


def _require_step(plan: _Plan, generations: int, batch_size: int) -> None:
    """TRL leaves out what does not fill a step; were that everything, nothing would be trained."""
    possible = len(plan.starts) * generations
    if possible < batch_size:
        what = "starting points" if any(start.actions for start in plan.starts) else "tasks"
        raise BadInputError(
            f"a step of batch_size {batch_size} plays {batch_size // generations} {what}, and "
            f"there are only {len(plan.starts)}: lower batch_size to at most {possible}, or raise "
            "generations"
        )


def worlds_of(
    env: str | ToolEnv | Sequence[ToolEnv], env_args: Mapping[str, Any] | None = None
) -> list[ToolEnv]:
    """The environments of a training, checked: they have one rubric, and it rewards something.

    Args:
        env: an environment id, an environment, or several.
        env_args: keyword arguments, for an id.

    Raises:
        UnknownNameError: no such environment, tool, format or reward.
        BadInputError: no environment, no weighted reward, or rewards that differ.
    """
    if isinstance(env, str):
        worlds = [make_env(env, env_args)]
    else:
        worlds = [env] if isinstance(env, ToolEnv) else list(env)
    if not worlds or not any(worlds[0].rubric.weights.values()):
        raise BadInputError("the environment has no reward with a weight: there is nothing to gain")
    for world in worlds[1:]:
        if world.rubric.weights != worlds[0].rubric.weights:
            raise BadInputError(
                f"environments that are trained in together need the same rewards: "
                f"{worlds[0].rubric.weights} and {world.rubric.weights} differ; give each the same "
                "`reward` (in the settings: grpo.reward)"
            )
    return worlds


def _finish(
    outcome: Outcome, made: Result, saved: Any, tokenizer: Any, group: _trl.GroupOptions, size: int
) -> Trained:
    """Facts from the trainer's log, which a resume does not forget."""
    names = {"reward": "reward"} | {f"rewards/{name}/mean": name for name in group.weights}
    excluded = round(sum(float(row.get("excluded", 0.0)) for row in made.log) * size)
    lengths = (float(row.get("completions/mean_length", 0.0)) for row in made.log)
    facts = {
        "steps": made.steps,
        "loss": made.loss,
        "trained_tokens": round(sum(lengths) * size),
        "counts": {"episodes": made.steps * size - excluded}
        | ({"excluded": excluded} if excluded else {}),
        "figures": made.means(names),
        "warnings": _warnings(made.log, made.steps * size, excluded),
    }
    folder = outcome.work / EPISODES
    kept = [folder] if folder.is_dir() else []
    return outcome.finish(made.model.to(saved), tokenizer, facts, made.log, kept)


def _warnings(log: Sequence[Mapping[str, Any]], episodes: int, excluded: int) -> list[str]:
    """What keeps a training from teaching anything, as far as the log shows it."""
    found = []
    if log and all(row.get("frac_reward_zero_std") == 1 for row in log):
        found.append(
            f"all rewards were equal in every group of all {len(log)} steps: there was nothing to "
            "learn from; take easier tasks or a better model, a reward with more steps between "
            "wrong and right, or more generations"
        )
    if log and all(row.get("completions/clipped_ratio") == 1 for row in log):
        found.append(
            "no episode ended with the model's end token: it does not know how to stop; train it "
            "with sft first, take its instruct version, or raise max_new_tokens"
        )
    if excluded:
        found.append(
            f"{excluded} of {episodes} episodes could not be used (a prompt that was cut, earlier "
            "turns that the template renders anew, or an error of the model); raise "
            "max_prompt_tokens, or use credit='turn'"
        )
    return found


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise BadInputError(
            f"{name} must be one of {', '.join(known)}, not {value!r}"
            f"{did_you_mean(str(value), known)}"
        )
    return value


def _check(group: _trl.GroupOptions, options: Options) -> None:
    _one_of("baseline", group.baseline, tuple(_trl.SCALES))
    _one_of("loss", group.loss, LOSSES)
    require_positive(temperature=group.temperature, max_tokens=group.max_tokens)
    if isinstance(group.generations, bool) or group.generations < 2:
        raise BadInputError(
            f"generations must be at least 2, not {group.generations!r}: an episode is judged "
            "beside the others of its group"
        )
    if options.batch_size % group.generations:
        raise BadInputError(
            f"batch_size {options.batch_size} is no multiple of generations {group.generations}: "
            "a step plays whole groups"
        )
