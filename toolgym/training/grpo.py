"""Reinforcement learning in our environments: groups of episodes, rewarded by our rewards.

GRPO is Shao et al. 2024 (arXiv 2402.03300); arXiv 2508.08791 trains with it on every prefix of
recorded episodes, one turn at a time, which is ``credit="turn"`` here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gymnasium as gym

from toolgym._util.hashes import value_hash
from toolgym._util.optional import quiet, require_extra
from toolgym.env import ToolEnv
from toolgym.errors import BadInputError
from toolgym.policies.base import Policy
from toolgym.rollouts.playing import open_env
from toolgym.rollouts.recording import Recording, some_episodes
from toolgym.training.config import (
    GrpoConfig,
    Resolved,
    Sampling,
    TrainConfig,
    configure,
    processes,
)
from toolgym.training.encoding import require_end
from toolgym.training.fitting import rows_that_fit
from toolgym.training.loop import (
    Result,
    StepProgress,
    arguments,
    check_version,
    load_for_training,
    lora,
    train_loop,
)
from toolgym.training.output import Outcome, Trained, hand_over
from toolgym.training.trl_episode import (
    Live,
    Played,
    Player,
    Start,
    starts_from_episodes,
    starts_from_tasks,
)

__all__ = ["run_grpo", "train_grpo", "worlds_of"]

EPISODES = "episodes"
SCALES = {"grpo": "group", "rloo": "none", "reinforce++": "batch"}
"""What the advantage of a reply, its reward less its group's mean, is divided by."""

Play = Callable[[Any, Sequence[str], int], Played]
"""Takes the model, the keys of the starting points (each repeated for its group) and the step."""


def train_grpo(
    env: str | gym.Env[Any, Any] | Sequence[gym.Env[Any, Any]],
    model: str | Path,
    out: str | Path,
    config: GrpoConfig | Mapping[str, Any] | None = None,
    *,
    env_args: Mapping[str, Any] | None = None,
    prefixes: Recording | None = None,
    resume: bool = True,
    progress: StepProgress | None = None,
    served: Callable[[Path], Policy] | None = None,
    **options: Any,
) -> Trained:
    """Fine-tune a model by playing, with TRL's ``GRPOTrainer`` and our own episodes.

    Each update plays ``batch_size`` episodes, ``generations`` of each task, with the environment's
    own tools, deadlines and rewards; the loss falls on the sampled tokens themselves. Rewards are
    the environment's: ``env_args={"reward": {"accuracy": 1.0, "execution_precision": 0.2}}``; each
    part is logged by name. An episode in which the model itself failed is left out, never scored 0.

    Args:
        env: an environment id, an environment, or several whose rewards are the same.
        model: a folder or a hub id.
        out: folder of the trained model; see `toolgym.training.sft.train_sft`.
        config: see `GrpoConfig`; the learning rate is 1e-6 by default (arXiv 2508.08791), with
            LoRA 1e-5.
        env_args: keyword arguments, for an id.
        prefixes: recorded episodes; every prefix of them is a starting point, instead of every
            task.
        resume: go on from the last checkpoint of the same training.
        progress: called with updates done, updates planned and a note; see `train_sft`.
        served: makes the policy that plays an update, such as one that asks a server; called before
            each update with a folder that holds the weights of this moment.
        options: fields of `GrpoConfig` by name; they win over ``config``.

    Returns:
        The trained model; its figures hold ``reward`` and each part over the last ten updates.

    Raises:
        MissingExtraError: torch, transformers or TRL is missing, or TRL is of an untested version.
        UnknownNameError: no such environment, tool, format or reward.
        MissingFileError: the model or a file is missing.
        PolicyError: the model failed in more than half of an update's episodes.
        BadInputError: an unknown option, a value that does not fit, an environment without a
            weighted reward, or prefixes of other tasks.
        RunMismatchError: ``out`` holds something else, or was begun with other settings.
    """
    check_version()
    asked = configure(GrpoConfig, config, options)
    settings = asked.resolve()
    worlds = worlds_of(env, env_args)
    if prefixes is None:
        starts = starts_from_tasks(worlds)
    else:
        starts = starts_from_episodes(worlds, some_episodes(prefixes))
    credit = asked.credit or ("episode" if prefixes is None else "turn")
    _require_step(starts, asked)
    with quiet():
        loaded, tokenizer, saved = load_for_training(model, settings)
        settings = rows_that_fit("grpo", loaded, settings.max_length, asked, settings)
        require_end(tokenizer)
        weights = dict(worlds[0].rubric.weights)
        record = _record(str(model), worlds, starts, credit, asked, settings)
        outcome = Outcome(Path(out), record)
        finished = outcome.finished()
        if finished is not None:
            return finished
        with outcome.begin(resume):
            player = Player(
                envs=worlds,
                tokenizer=tokenizer,
                starts={start.key: start for start in starts},
                credit=credit,
                sampling=_sampling(asked),
                max_tokens=settings.max_length,
                seed=settings.seed,
                branch_after=asked.branch_after,
                generations=asked.generations,
                record=outcome.work / EPISODES if asked.record_episodes else None,
                served=_live(served, tokenizer, outcome.work / "served", saved),
            )
            made = run_grpo(
                loaded,
                tokenizer,
                list(player.starts),
                player,
                outcome.work,
                settings,
                asked,
                weights,
                resume=resume,
                progress=progress,
            )
            return _finish(outcome, made, saved, tokenizer, weights, settings.batch_size)


def _live(
    served: Callable[[Path], Policy] | None, tokenizer: Any, folder: Path, dtype: Any
) -> Live | None:
    """What plays with a model in training, by way of a folder of its weights.

    Raises:
        BadInputError: several processes train together.
    """
    if served is None:
        return None
    if processes() > 1:
        raise BadInputError(f"GRPO through a server trains in one process, not in {processes()}")

    first = iter((True,))

    def policy(model: Any) -> Policy:
        if next(first, False):  # what it keeps of these weights is seen in the first update
            hand_over(model, tokenizer, folder, dtype, scrambled=True)
            served(folder).close()
        hand_over(model, tokenizer, folder, dtype)
        return served(folder)

    return policy


def _sampling(config: GrpoConfig) -> dict[str, Any]:
    """How the player's policy samples."""
    chosen = config.model_dump(include=set(Sampling.model_fields))
    return chosen | {"batch_size": config.sampling_batch_size}


def _record(
    model: str,
    worlds: Sequence[ToolEnv],
    starts: Sequence[Start],
    credit: str,
    config: GrpoConfig,
    settings: Resolved,
) -> dict[str, Any]:
    """What decides the result; how many replies are sampled at once, and what is kept, does not."""
    free = {"credit", "record_episodes", "sampling_batch_size", "cache_gib"}
    own = config.model_dump(exclude={*TrainConfig.model_fields, *free})
    sampling = {key: own.pop(key) for key in Sampling.model_fields if key in own}
    own |= {"max_length": config.max_length, "weights": dict(worlds[0].rubric.weights)}
    tasks = [world.tasks.fingerprint() for world in worlds]
    return {
        "method": "grpo",
        "model": model,
        "rows": value_hash([[start.key for start in starts], tasks]),
        "tasks": [world.tasks.source for world in worlds],
        "starts": len(starts),
        "credit": credit,
        "sampling": sampling,
        "options": settings.record() | {"group": own},
    }


def _require_step(starts: Sequence[Start], config: GrpoConfig) -> None:
    """TRL leaves out what does not fill a step; were that everything, nothing would be trained."""
    possible = len(starts) * config.generations
    if possible < config.batch_size:
        what = "starting points" if any(start.actions for start in starts) else "tasks"
        raise BadInputError(
            f"an update of batch_size {config.batch_size} plays "
            f"{config.batch_size // config.generations} {what}, and there are only {len(starts)}: "
            f"lower batch_size to at most {possible}, or raise generations"
        )


def worlds_of(
    env: str | gym.Env[Any, Any] | Sequence[gym.Env[Any, Any]],
    env_args: Mapping[str, Any] | None = None,
) -> list[ToolEnv]:
    """The environments of a training, checked: they have one rubric, and it rewards something.

    Args:
        env: an environment id, an environment, or several.
        env_args: keyword arguments, for an id.

    Raises:
        UnknownNameError: no such environment, tool, format or reward.
        BadInputError: no environment, one whose wrappers would be dropped, no weighted reward, or
            rewards that differ.
    """
    many = [env] if isinstance(env, str | gym.Env) else list(env)
    worlds = [
        item if isinstance(item, ToolEnv) else open_env(item, env_args).bare("training")
        for item in many
    ]
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
    outcome: Outcome,
    made: Result,
    saved: Any,
    tokenizer: Any,
    weights: Mapping[str, float],
    size: int,
) -> Trained:
    """Facts from the trainer's log, which a resume does not forget."""
    names = {"reward": "reward"} | {f"rewards/{name}/mean": name for name in weights}
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


def run_grpo(
    model: Any,
    tokenizer: Any,
    keys: Sequence[str],
    play: Play,
    work: Path,
    settings: Resolved,
    config: GrpoConfig,
    weights: Mapping[str, float],
    *,
    resume: bool,
    progress: StepProgress | None,
) -> Result:
    """Train with TRL's ``GRPOTrainer`` on episodes that ``play`` plays.

    Args:
        model: changed in place.
        tokenizer: the model's.
        keys: of the starting points; `play` knows what each means.
        play: plays a batch of episodes with the current model.
        work: folder of the checkpoints.
        settings: what to do.
        config: size of groups, beta, advantages.
        weights: of the rewards, by name.
        resume: go on from the last complete checkpoint in ``work``.
        progress: called after each update.
    """
    # Its warning tells developers that the interface may change; this module pins the version.
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    trl, datasets = require_extra("trl", "train"), require_extra("datasets", "train")

    def make() -> Any:
        arguments_of_trl = trl.GRPOConfig(
            num_generations=config.generations,
            beta=config.beta,
            temperature=config.temperature,
            max_completion_length=config.max_length,
            scale_rewards=SCALES[config.baseline],
            # TRL's "bnpo" takes the mean over the tokens of a process, not of the whole batch.
            loss_type="dapo" if config.loss == "bnpo" and processes() > 1 else config.loss,
            reward_weights=list(weights.values()),
            **arguments(work, settings),
        )
        return trl.GRPOTrainer(
            model=model,
            reward_funcs=[_part(name, n == 0) for n, name in enumerate(weights)],
            args=arguments_of_trl,
            train_dataset=datasets.Dataset.from_dict({"prompt": list(keys)}),
            processing_class=tokenizer,
            rollout_func=_rollout(play, settings.bf16),
            peft_config=lora(settings.lora),
        )

    return train_loop(make, work, settings, resume, progress)


def _part(name: str, first: bool) -> Callable[..., list[float | None]]:
    def read(*, parts: list[Any], log_metric: Any = None, **_: Any) -> list[float | None]:
        if first and log_metric is not None:
            log_metric("excluded", sum(found is None for found in parts) / len(parts))
        return [None if found is None else found[name] for found in parts]

    read.__name__ = name
    return read


def _rollout(play: Play, bf16: bool) -> Callable[[list[str], Any], dict[str, Any]]:
    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        torch = require_extra("torch", "train")
        transformers = require_extra("transformers", "train")
        model = trainer.accelerator.unwrap_model(trainer.model)
        was_training, saved = model.training, model.generation_config
        model.eval()
        # Saved settings such as a repetition penalty would change the sampling.
        model.generation_config = transformers.GenerationConfig()
        half = torch.autocast(model.device.type, torch.bfloat16) if bf16 else nullcontext()
        try:
            with half:
                played = play(model, prompts, trainer.state.global_step)
        finally:
            model.generation_config = saved
            model.train(was_training)
        return {
            "prompt_ids": played.prompt_ids,
            "completion_ids": played.completion_ids,
            "env_mask": played.mask,
            "logprobs": played.logprobs,
            "parts": played.parts,
        }

    return rollout
